//! Look-ups before, for and without their packet; packets in another dress.

use super::*;
use crate::model::packet::{Carried, Judge};

#[test]
fn a_lookup_before_its_packet_is_claimed_by_it() {
    let mut bench = Bench::default();
    let mut question = out();
    question.src = "0.0.0.0:0".parse().expect("an address");
    assert_eq!(bench.see(POD, lookup(question, 254, 0, LookupRole::Output, 0)), None);
    let id = bench.see(POD, sent(out(), SYN, 1));
    let steps = &bench.journey(id).steps;
    assert!(steps.iter().any(|s| matches!(s.sighting.packet.what, What::Lookup { .. })), "{steps:?}");
    let (_, opened) = bench.wait(S);
    assert!(opened.is_empty(), "it is no ghost any more");
}

#[test]
fn a_lookup_of_another_namespace_or_destination_is_not_claimed() {
    let mut bench = Bench::default();
    bench.see(NODE, lookup(out(), 254, 0, LookupRole::Output, 0));
    bench.see(POD, lookup(tcp("10.9.0.29:41000", "10.20.0.5:3306"), 254, 0, LookupRole::Output, 0));
    let id = bench.see(POD, sent(out(), SYN, 1));
    assert_eq!(bench.journey(id).steps.len(), 1);
}

#[test]
fn a_lookup_that_found_nothing_and_had_no_packet_is_a_journey_of_its_own() {
    let mut bench = Bench::default();
    bench.see(POD, lookup(out(), 254, NO_MATCH, LookupRole::Output, 0));
    bench.see(POD, lookup(out(), 253, NO_MATCH, LookupRole::Output, 0));
    let (_, early) = bench.wait(MS);
    assert!(early.is_empty(), "its packet may still come");
    let (_, opened) = bench.wait(200 * MS);
    assert_eq!(opened.len(), 1);
    assert_eq!(bench.journey(Some(opened[0])).steps.len(), 2);
}

#[test]
fn a_lookup_that_found_a_route_and_had_no_packet_is_forgotten() {
    let mut bench = Bench::default();
    bench.see(POD, lookup(out(), 254, 0, LookupRole::Output, 0));
    let (_, opened) = bench.wait(200 * MS);
    assert_eq!((opened.len(), bench.open()), (0, 0));
}

#[test]
fn a_lookup_for_the_packet_being_received_joins_it_and_the_reverse_path_too() {
    let mut bench = Bench::default();
    let id = bench.see(NODE, received(out(), SYN, 1, 0xa0));
    let portless = |f: Flow| Flow {
        src: std::net::SocketAddr::new(f.src.ip(), 0),
        dst: std::net::SocketAddr::new(f.dst.ip(), 0),
        ..f
    };
    let forward = bench.see(NODE, lookup(portless(out()), 2, NO_MATCH, LookupRole::Input, 0xa0));
    assert!(bench.last_is_forward(forward));
    let reverse = bench.see(NODE, lookup(portless(out().reversed()), 254, 0, LookupRole::ReversePath, 0xa0));
    assert!(bench.last_is_forward(reverse), "it is asked about the packet that goes forward");
    assert_eq!((forward, reverse), (id, id));
}

/// What the node sends over its tunnel for the packet at this address.
fn tunnelled(skb: u64) -> What {
    let outer = flow(Proto::Udp, "172.20.0.2:50000", "172.20.0.3:8472");
    at_place(Place::Transmit, Head { skb, ip_len: 110, ..segment(outer, 0, 0) }, None)
}

/// A bench whose first CPU has just received a SYN at that address, and the SYN's journey.
fn receiving(skb: u64) -> (Bench, Option<u64>) {
    let mut bench = Bench::default();
    let id = bench.see(NODE, received(out(), SYN, 1, skb));
    (bench, id)
}

#[test]
fn an_encapsulated_packet_is_the_one_its_cpu_is_receiving() {
    let (mut bench, id) = receiving(0xa0);
    assert_eq!(bench.see(NODE, tunnelled(0xa0)), id);
    assert!(bench.last_is_forward(id));
}

#[test]
fn a_packet_at_an_address_used_again_is_not_taken_for_the_old_one() {
    let (mut bench, id) = receiving(0xa0);
    bench.cpu = 1;
    assert_ne!(bench.see(NODE, tunnelled(0xa0)), id, "another CPU has another packet there");
    let (mut bench, id) = receiving(0xa0);
    bench.now_ns += 5 * MS;
    assert_ne!(bench.see(NODE, tunnelled(0xa0)), id, "it cannot be in hand that long");
    let (mut bench, id) = receiving(0xa0);
    bench.see(NODE, received(tcp("10.9.0.30:1000", "10.20.0.4:80"), SYN, 1, 0xb0));
    assert_ne!(bench.see(NODE, tunnelled(0xa0)), id, "the CPU has gone on to the next packet");
    let (mut bench, id) = receiving(0xa0);
    assert_ne!(bench.see(POD, tunnelled(0xa0)), id, "a tunnel does not lead into another namespace");
}

#[test]
fn a_packet_that_cannot_hold_the_old_one_is_another() {
    let of = |flow: Flow, ip_len: u32| Head { skb: 0xa0, ip_len, ..segment(flow, SYN, 1) };
    let query = flow(Proto::Udp, "10.9.0.29:41000", "10.20.0.9:53");
    for (head, why) in [
        (of(query, 62), "an outer header takes 20 bytes"),
        (of(tcp("172.20.0.2:50000", "172.20.0.3:443"), 500), "TCP is no tunnel"),
    ] {
        let (mut bench, id) = receiving(0xa0);
        assert_ne!(bench.see(NODE, at_place(Place::Queue, head, None)), id, "{why}");
    }
}

#[test]
fn a_reset_that_is_told_before_the_redirected_packet_belongs_to_its_connection() {
    let redirected = tcp("10.9.0.29:41000", "10.20.0.4:15006");
    let mut bench = Bench::default();
    let id = bench.see(POD, received(out(), SYN, 1, 0xa0));
    let reset = What::Reset {
        flow: redirected.reversed(),
        sent: true,
        socket: false,
        reason: Arc::from("NO_SOCKET"),
        state: "",
    };
    assert_ne!(bench.see(POD, reset), id, "nothing says yet that it is of the same connection");
    let refused = What::Dropped {
        head: segment(redirected, SYN, 1),
        ct: Some(entry(out(), redirected)),
        reason: Arc::from("NO_SOCKET"),
        site: Arc::from("tcp_v4_rcv"),
        stack: Vec::new(),
        filter: None,
        seen: 1,
        carried: None,
    };
    assert_eq!(bench.see(POD, refused), id);
    assert!(bench.last_is_forward(id));
    let journey = bench.journey(id);
    assert!(journey.steps.iter().any(|s| !s.forward && matches!(s.sighting.packet.what, What::Reset { .. })));
    assert_eq!(bench.journeys.iter().count(), 1);
}

/// A datagram of an overlay from another node, dropped with a packet of that flow in it.
fn dropped_around(flow: Flow) -> What {
    let outer = Flow { proto: Proto::Udp, ..tcp("10.33.0.10:40000", "10.32.0.10:8472") };
    What::Dropped {
        head: Head { skb: 0xb0, ..segment(outer, 0, 0) },
        ct: None,
        reason: Arc::from("NETFILTER_DROP"),
        site: Arc::from("nft_do_chain"),
        stack: Vec::new(),
        filter: None,
        seen: 1,
        carried: Some(Carried { flow, vni: 1 }),
    }
}

#[test]
fn a_dropped_tunnel_packet_belongs_to_the_connection_that_it_carries() {
    let mut bench = Bench::default();
    let id = bench.see(POD, sent(out(), SYN, 1));
    assert_eq!(bench.see(NODE, dropped_around(out().reversed())), id);
    assert!(!bench.last_is_forward(id), "it carries the answer");
    let verdict = What::Verdict {
        flow: tcp("10.33.0.10:40000", "10.32.0.10:8472"),
        skb: 0xb0,
        hook: "input",
        out_ifindex: 0,
        judge: Judge::Unknown,
        invalid: None,
    };
    assert_eq!(bench.see(NODE, verdict), id, "netfilter speaks of the same packet");
}

#[test]
fn a_dropped_tunnel_packet_opens_the_connection_that_it_carries() {
    let mut bench = Bench::default();
    let id = bench.see(NODE, dropped_around(tcp("10.42.2.2:40000", "10.9.0.29:8080")));
    assert_eq!(bench.journey(id).flow, tcp("10.42.2.2:40000", "10.9.0.29:8080"));
}
