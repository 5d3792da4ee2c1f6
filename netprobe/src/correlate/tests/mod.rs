use super::*;
use crate::model::{
    flow::Proto,
    identity::Source,
    known::{Known, Why},
    packet::TcpFlags,
    sighting::Side,
};

mod joins;

const NODE: u32 = 100;
const POD: u32 = 101;
const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const FIN_ACK: u8 = 17;
const RST: u8 = 4;
const ACK: u8 = 16;
/// No route in this table.
const NO_MATCH: i32 = -11;

fn flow(proto: Proto, src: &str, dst: &str) -> Flow {
    Flow { proto, src: src.parse().expect("an address"), dst: dst.parse().expect("an address") }
}

fn tcp(src: &str, dst: &str) -> Flow {
    flow(Proto::Tcp, src, dst)
}

/// As the pod sends it.
fn out() -> Flow {
    tcp("10.9.0.29:41000", "10.20.0.4:3306")
}

/// A segment of the flow.
fn segment(flow: Flow, flags: u8, seq: u32) -> Head {
    Head {
        flow: Some(flow),
        ether_type: 0x800,
        skb: 0,
        in_ifindex: 0,
        mark: 0,
        hash: 0,
        len: 60,
        seq,
        ack: 0,
        window: 0,
        flags: TcpFlags(flags),
        ttl: 64,
        icmp: None,
        payload: 0,
        ip_len: 60,
    }
}

fn at_place(place: Place, head: Head, ct: Option<Conntrack>) -> What {
    What::Hop { place, head, ct, inner: None, seen: 1 }
}

fn sent(flow: Flow, flags: u8, seq: u32) -> What {
    at_place(Place::Queue, segment(flow, flags, seq), None)
}

fn received(flow: Flow, flags: u8, seq: u32, skb: u64) -> What {
    at_place(Place::Receive, Head { skb, ..segment(flow, flags, seq) }, None)
}

/// An entry that turns `original` into `after`.
fn entry(original: Flow, after: Flow) -> Conntrack {
    Conntrack { original, reply: after.reversed(), entry: 0xbeef, status: 0x1b8, info: 0, zone: 0 }
}

fn lookup(flow: Flow, table: u32, err: i32, role: LookupRole, skb: u64) -> What {
    What::Lookup {
        flow,
        skb,
        table,
        err,
        in_ifindex: if role == LookupRole::Output { 1 } else { 7 },
        out_ifindex: u32::from(err == 0) * 2,
        gateway: None,
        mark: 0,
        role,
        inferred: false,
        rule: None,
    }
}

fn state(flow: Flow, old: &'static str, new: &'static str) -> What {
    What::State { flow, old, new, err: 0, comm: Arc::from("curl") }
}

/// Journeys, and a clock that each sighting moves.
#[derive(Default)]
struct Bench {
    journeys: Journeys,
    now_ns: u64,
    cpu: u32,
    /// An answer about this journey is still to come.
    awaited: Option<u64>,
}

impl Bench {
    fn see(&mut self, netns: u32, what: What) -> Option<u64> {
        self.see_of(netns, what, None)
    }

    /// The same, where an address at the destination is a pod's.
    fn see_of(&mut self, netns: u32, what: What, destination: Option<&Arc<Pod>>) -> Option<u64> {
        self.now_ns += 1_000;
        let packet = Packet { mono_ns: self.now_ns, cpu: self.cpu, pid: 0, netns, ifindex: 2, what };
        self.journeys.take(Arc::new(Sighting {
            packet,
            side: if netns == NODE { Side::Node } else { Side::Pod },
            device: Arc::from("eth0"),
            namespace_of: Known::No(Why::Node),
            source: Known::No(Why::Outside),
            destination: destination.map_or(Known::No(Why::Outside), |pod| Known::Yes(Arc::clone(pod))),
            asker: None,
        }))
    }

    fn wait(&mut self, ns: u64) -> (Vec<Journey>, Vec<u64>) {
        self.now_ns += ns;
        self.journeys.expire(self.now_ns, |id| self.awaited == Some(id))
    }

    fn journey(&self, id: Option<u64>) -> &Journey {
        self.journeys.get(id.expect("it belongs to a journey")).expect("the journey is open")
    }

    /// Whether the last step of the journey goes with the flow.
    fn last_is_forward(&self, id: Option<u64>) -> bool {
        self.journey(id).steps.back().expect("it has steps").forward
    }

    fn open(&self) -> usize {
        self.journeys.iter().count()
    }
}

#[test]
fn one_packet_on_all_its_devices_is_one_journey() {
    let mut bench = Bench::default();
    let first = bench.see(POD, sent(out(), SYN, 1));
    let then = bench.see(NODE, received(out(), SYN, 1, 0xa0));
    let last = bench.see(NODE, at_place(Place::Transmit, segment(out(), SYN, 1), None));
    assert_eq!((then, last), (first, first));
    assert_eq!(bench.journey(first).steps.len(), 3);
    assert_eq!(bench.journey(first).flow, out());
}

#[test]
fn the_reply_joins_and_goes_the_other_way() {
    let mut bench = Bench::default();
    let there = bench.see(POD, sent(out(), SYN, 1));
    let back = bench.see(NODE, received(out().reversed(), SYN_ACK, 9, 0xa0));
    assert_eq!(there, back);
    assert!(!bench.last_is_forward(back));
}

#[test]
fn a_journey_first_seen_by_its_answer_still_has_the_callers_direction() {
    let mut bench = Bench::default();
    let id = bench.see(NODE, sent(out().reversed(), SYN_ACK, 9));
    assert_eq!(bench.journey(id).flow, out());
    assert!(!bench.last_is_forward(id));
}

#[test]
fn an_established_connection_to_a_pods_port_has_the_strangers_direction() {
    let mut bench = Bench::default();
    let pod = Pod { namespace: "shop".into(), name: "db-0".into(), uid: None, identity: Source::Ip, is_ended: false };
    let pod = Arc::new(pod);
    // The answer of a client's server came first: from the low port to the pod's high one.
    let answer = tcp("10.20.0.4:443", "10.9.0.29:52000");
    let id = bench.see_of(NODE, sent(answer, ACK, 7), Some(&pod));
    assert_eq!(bench.journey(id).flow, answer.reversed());
    assert_eq!(bench.journey(id).pod.as_ref(), Some(&pod));
}

#[test]
fn source_nat_is_followed_and_so_is_its_reply() {
    let mut bench = Bench::default();
    let after = tcp("172.20.0.2:61000", "10.20.0.4:3306");
    let inside = bench.see(NODE, received(out(), SYN, 1, 0xa0));
    let outside = bench.see(NODE, at_place(Place::Queue, segment(after, SYN, 1), Some(entry(out(), after))));
    assert_eq!(inside, outside);
    assert!(bench.last_is_forward(outside));
    assert_eq!(bench.journey(inside).translated, [after]);
    // At receive there is no entry yet: the tuple alone must do.
    let answer = bench.see(NODE, received(after.reversed(), SYN_ACK, 9, 0xb0));
    assert_eq!(answer, inside);
    assert!(!bench.last_is_forward(answer));
    let home = bench.see(POD, received(out().reversed(), SYN_ACK, 9, 0xb0));
    assert_eq!(home, inside);
    assert_eq!(bench.open(), 1);
}

#[test]
fn a_service_address_and_the_pod_behind_it_are_one_journey() {
    let mut bench = Bench::default();
    let service = tcp("10.9.0.29:41000", "10.96.0.10:80");
    let backend = tcp("10.9.0.29:41000", "10.9.3.4:8080");
    let asked = bench.see(POD, sent(service, SYN, 1));
    let chosen = bench.see(NODE, at_place(Place::Queue, segment(backend, SYN, 1), Some(entry(service, backend))));
    let answered = bench.see(NODE, received(backend.reversed(), SYN_ACK, 9, 0xb0));
    let home = bench.see(POD, received(service.reversed(), SYN_ACK, 9, 0xb0));
    assert_eq!([chosen, answered, home], [asked; 3]);
    assert_eq!(bench.journey(asked).flow, service);
}

#[test]
fn a_translated_packet_seen_first_opens_with_the_original_flow() {
    let mut bench = Bench::default();
    let after = tcp("172.20.0.2:61000", "10.20.0.4:3306");
    let id = bench.see(NODE, at_place(Place::Transmit, segment(after, ACK, 5), Some(entry(out(), after))));
    let inside = bench.see(POD, sent(out(), ACK, 6));
    assert_eq!(inside, id);
    assert!(bench.last_is_forward(inside));
    assert_eq!(bench.open(), 1);
}

#[test]
fn a_socket_that_outlives_many_translations_keeps_the_last_ones() {
    let mut bench = Bench::default();
    let outside = |n: usize| tcp(&format!("172.20.0.2:{}", 1_000 + n), "10.20.0.4:3306");
    let id = bench.see(NODE, received(out(), ACK, 1, 0xa0));
    for n in 0..100 {
        let after = outside(n);
        bench.see(NODE, at_place(Place::Queue, segment(after, ACK, 1), Some(entry(out(), after))));
    }
    assert_eq!(bench.journey(id).translated.len(), FORMS_MAX);
    assert_eq!(bench.see(NODE, received(outside(99).reversed(), ACK, 2, 0xb0)), id);
    assert_ne!(bench.see(NODE, received(outside(0).reversed(), ACK, 2, 0xb0)), id, "it is long over");
}

#[test]
fn a_retransmission_belongs_to_the_connection_it_repeats() {
    let mut bench = Bench::default();
    let id = bench.see(POD, sent(out(), SYN, 1));
    bench.wait(S);
    let again = bench.see(POD, What::Retransmit { flow: out(), state: "SYN_SENT", timeouts: 1 });
    let packet = bench.see(POD, sent(out(), SYN, 1));
    assert_eq!((again, packet), (id, id));
    assert_eq!(bench.journey(id).steps.len(), 3);
}

#[test]
fn an_icmp_error_joins_the_connection_it_quotes_and_goes_against_it() {
    let mut bench = Bench::default();
    let id = bench.see(POD, sent(out(), SYN, 1));
    let error = flow(Proto::Icmp, "172.20.0.1:0", "10.9.0.29:0");
    let head = Head { icmp: Some((3, 1)), ..segment(error, 0, 0) };
    let quoting = |inner| What::Hop { place: Place::Receive, head: head.clone(), ct: None, inner, seen: 1 };
    assert_eq!(bench.see(POD, quoting(Some(out()))), id);
    assert!(!bench.last_is_forward(id));
    let stranger = tcp("10.9.0.29:1", "10.20.0.4:2");
    assert_eq!(bench.see(POD, quoting(Some(stranger))), None, "an error about nothing we saw is nobody's");
}

#[test]
fn a_port_used_again_after_the_close_is_another_journey() {
    let mut bench = Bench::default();
    let first = bench.see(POD, sent(out(), SYN, 1));
    bench.see(POD, sent(out(), FIN_ACK, 50));
    assert!(!bench.journey(first).closed, "one side may still send");
    bench.see(NODE, received(out().reversed(), FIN_ACK, 90, 0xa0));
    assert!(bench.journey(first).closed);
    assert_eq!(bench.see(POD, sent(out(), SYN, 1)), first, "the same SYN is a straggler");
    let second = bench.see(POD, sent(out(), SYN, 7_000));
    assert_ne!(second, first);
    assert_eq!(bench.see(NODE, received(out().reversed(), SYN_ACK, 8, 0xb0)), second, "its answer is the new one's");
}

#[test]
fn a_socket_that_connects_again_after_a_reset_opens_another_journey() {
    let mut bench = Bench::default();
    let first = bench.see(POD, state(out(), "CLOSE", "SYN_SENT"));
    bench.see(POD, sent(out(), SYN, 1));
    bench.see(POD, received(out().reversed(), RST | ACK, 0, 0xa0));
    assert!(bench.journey(first).closed);
    let second = bench.see(POD, state(out(), "CLOSE", "SYN_SENT"));
    assert_ne!(second, first);
    assert_eq!(bench.see(POD, sent(out(), SYN, 2)), second);
}

#[test]
fn a_listening_socket_is_no_journey() {
    let mut bench = Bench::default();
    let listening = tcp("0.0.0.0:3306", "0.0.0.0:0");
    assert_eq!(bench.see(POD, state(listening, "CLOSE", "LISTEN")), None);
}

#[test]
fn a_silent_journey_ends_after_two_minutes_and_a_closed_one_after_seconds() {
    let mut bench = Bench::default();
    let closed = tcp("10.9.0.29:41001", "10.20.0.4:3306");
    let left = bench.see(POD, sent(out(), SYN, 1));
    let done = bench.see(POD, sent(closed, RST, 1));
    assert_eq!(bench.wait(CLOSED_NS - S).0.len(), 0);
    let ended: Vec<u64> = bench.wait(2 * S).0.iter().map(|j| j.id).collect();
    assert_eq!(Some(ended[0]), done);
    assert_eq!(ended.len(), 1);
    let ended: Vec<u64> = bench.wait(IDLE_NS).0.iter().map(|j| j.id).collect();
    assert_eq!(Some(ended[0]), left);
    assert_eq!(bench.open(), 0);
    assert_ne!(bench.see(POD, sent(out(), ACK, 2)), left, "its number is never used again");
}

#[test]
fn a_closed_journey_is_kept_while_an_answer_about_it_is_awaited_and_no_longer() {
    let mut bench = Bench::default();
    bench.awaited = bench.see(POD, sent(out(), RST, 1));
    assert_eq!(bench.wait(CLOSED_NS + S).0.len(), 0);
    assert_eq!(bench.wait(HELD_NS).0.len(), 1, "it will not come any more");
    bench.awaited = bench.see(POD, sent(out(), RST, 9));
    assert_eq!(bench.wait(CLOSED_NS + S).0.len(), 0);
    bench.awaited = None;
    assert_eq!(bench.wait(S).0.len(), 1);
}

#[test]
fn a_long_journey_loses_its_middle_and_keeps_what_tells() {
    let mut bench = Bench::default();
    let id = bench.see(POD, sent(out(), SYN, 1));
    for seq in 0..50 {
        bench.see(POD, sent(out(), ACK, seq));
    }
    bench.see(POD, What::Retransmit { flow: out(), state: "ESTABLISHED", timeouts: 1 });
    let more = u32::try_from(3 * SIGHTINGS_MAX).expect("small");
    for seq in 0..more {
        bench.see(POD, sent(out(), ACK, 1_000 + seq));
    }
    let journey = bench.journey(id);
    assert_eq!(journey.steps.len(), SIGHTINGS_MAX);
    assert_eq!(journey.omitted, 1 + 50 + 1 + u64::from(more) - SIGHTINGS_MAX as u64);
    let first = &journey.steps[0].sighting.packet.what;
    assert!(matches!(first, What::Hop { head, .. } if head.flags.opens()));
    assert!(journey.steps.iter().any(|s| matches!(s.sighting.packet.what, What::Retransmit { .. })));
    let last = &journey.steps.back().expect("it has steps").sighting.packet.what;
    assert!(matches!(last, What::Hop { head, .. } if head.seq == 1_000 + more - 1));
}

#[test]
fn of_too_many_journeys_the_longest_silent_go() {
    let mut bench = Bench::default();
    let port = |n: usize| format!("10.9.0.29:{}", 1_000 + n);
    let ids: Vec<_> =
        (0..JOURNEYS_MAX + 10).map(|n| bench.see(POD, sent(tcp(&port(n), "10.20.0.4:80"), SYN, 1))).collect();
    // The first one speaks again, so it is not the longest silent.
    bench.see(POD, sent(tcp(&port(0), "10.20.0.4:80"), ACK, 2));
    let (ended, _) = bench.wait(MS);
    let ended: Vec<_> = ended.iter().map(|j| Some(j.id)).collect();
    assert_eq!(ended, ids[1..=10]);
    assert_eq!(bench.open(), JOURNEYS_MAX);
    assert_ne!(bench.see(POD, sent(tcp(&port(5), "10.20.0.4:80"), ACK, 2)), ids[5]);
}
