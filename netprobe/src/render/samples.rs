//! Journeys and findings by hand, for the tests of all outputs.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    model::{
        dns::{Answer, Code, Message},
        drops::{DropRow, DropTable},
        exchange::{DnsRow, DnsTable, Exchange, Outcome, Search, Server, Status, Translated},
        facts::HostFacts,
        finding::{Confidence, Evidence, Finding, Netfilter, RouteTaken},
        flow::{Flow, Proto},
        flows::{
            Amount, Amounts, DeviceRow, FlowLine, FlowTable, NameSource, NatLine, NatTable, PeerName, State,
            Translation,
        },
        identity::{Pod, Source},
        invalid::{self, Invalid},
        journey::{Journey, Step},
        known::{Known, Why},
        nat::{NatBy, NatChoice},
        packet::{Carried, Conntrack, Head, Judge, LookupRole, Packet, Place, TcpFlags, What},
        sighting::{Side, Sighting},
    },
    render::Clock,
};

/// Second at which every sample begins, on the monotonic clock.
pub(super) const START_NS: u64 = 5_000_000_000;

pub(super) fn clock() -> Clock {
    Clock::new(&HostFacts { node: "n1".to_owned(), wall_offset_ns: 1_700_000_000_000_000_000, ..HostFacts::default() })
}

pub(super) fn flow(proto: Proto, src: &str, dst: &str) -> Flow {
    let end = |text: &str| text.parse::<SocketAddr>().expect("an address with a port");
    Flow { proto, src: end(src), dst: end(dst) }
}

pub(super) fn pod(name: &str) -> Arc<Pod> {
    Arc::new(Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: Some("6b1f".to_owned()),
        identity: Source::Netns,
        is_ended: false,
    })
}

pub(super) fn syn() -> Flow {
    flow(Proto::Tcp, "10.176.98.29:41234", "10.176.46.4:3306")
}

pub(super) fn head(flow: Flow, flags: u8) -> Head {
    Head {
        flow: Some(flow),
        ether_type: 0x0800,
        skb: 0xffff_8880_0123_4500,
        in_ifindex: 0,
        mark: 0,
        hash: 7,
        len: 60,
        seq: 1,
        ack: 0,
        window: 64240,
        flags: TcpFlags(flags),
        ttl: 64,
        icmp: None,
        payload: 0,
        ip_len: 60,
    }
}

pub(super) fn hop(place: Place, head: Head) -> What {
    What::Hop { place, head, ct: None, inner: None, seen: 1 }
}

pub(super) fn lookup(table: u32, err: i32, gateway: Option<&str>, role: LookupRole) -> What {
    What::Lookup {
        flow: syn(),
        skb: 0,
        table,
        err,
        in_ifindex: 3,
        out_ifindex: if err == 0 { 2 } else { 0 },
        gateway: gateway.map(|ip| ip.parse().expect("an address")),
        mark: 0,
        role,
        inferred: false,
        rule: None,
    }
}

pub(super) fn step(after_us: u64, side: Side, device: &str, forward: bool, what: What) -> Step {
    let namespace_of = match side {
        Side::Pod => Known::Yes(pod("web-0")),
        Side::Node | Side::Unknown => Known::No(Why::Node),
    };
    let mono_ns = START_NS + after_us * 1_000;
    let packet = Packet { mono_ns, cpu: 1, pid: 812, netns: 4_026_532_211, ifindex: 2, what };
    let (source, destination) = (Known::Yes(pod("web-0")), Known::No(Why::Outside));
    Step {
        sighting: Arc::new(Sighting {
            packet,
            side,
            device: device.into(),
            namespace_of,
            source,
            destination,
            asker: None,
        }),
        forward,
    }
}

pub(super) fn journey(id: u64, flow: Flow, translated: Vec<Flow>, steps: Vec<Step>) -> Journey {
    Journey {
        id,
        pod: Some(pod("web-0")),
        flow,
        translated,
        first_ns: START_NS,
        last_ns: steps.last().map_or(START_NS, |step| step.sighting.packet.mono_ns),
        steps: steps.into(),
        omitted: 0,
        packets: 1,
        closed: false,
    }
}

/// The transcript of the README: out by the wrong NIC, and no answer.
pub(super) fn wrong_nic() -> Journey {
    let (pod, node) = (Side::Pod, Side::Node);
    let way = |after, side, device, place| step(after, side, device, true, hop(place, head(syn(), 2)));
    let steps = vec![
        way(0, pod, "eth0", Place::Queue),
        way(1, pod, "eth0", Place::Transmit),
        way(12, node, "veth3f2", Place::Receive),
        step(13, node, "", true, lookup(255, -11, None, LookupRole::Input)),
        step(14, node, "veth3f2", true, lookup(254, 0, None, LookupRole::ReversePath)),
        step(15, node, "", true, lookup(2, -11, None, LookupRole::Input)),
        step(16, node, "eth0", true, lookup(254, 0, Some("10.176.32.1"), LookupRole::Input)),
        step(17, node, "eth0", true, lookup(254, 0, None, LookupRole::Other)),
        way(18, node, "eth0", Place::Queue),
        way(19, node, "eth0", Place::Transmit),
        step(1_030_000, pod, "", true, What::Retransmit { flow: syn(), state: "SYN_SENT", timeouts: 1 }),
    ];
    journey(1, syn(), vec![], steps)
}

pub(super) fn wrong_egress() -> Finding {
    Finding {
        id: "f1".to_owned(),
        rule: "wrong-egress",
        confidence: Confidence::Stated,
        pod: Some(pod("web-0")),
        flow: Some(syn()),
        side: Side::Node,
        device: Some("eth0".to_owned()),
        expected_device: Some("eth1".to_owned()),
        route: Some(RouteTaken {
            table: 254,
            rule: Some(32766),
            gateway: Some("10.176.32.1".parse().expect("an address")),
        }),
        reason: None,
        netfilter: None,
        count: 3,
        first_ns: START_NS,
        last_ns: START_NS + 3_000_000_000,
        claim: "shop/web-0 leaves this node by eth0; policy rule 1536 sends it to table 2 (eth1), which is empty"
            .to_owned(),
        since: Some("14:03:22 default via 10.176.96.1 dev eth1 table 2 was deleted by ipamd (pid 812)".to_owned()),
        fix: vec![
            "ip route add default via 10.176.96.1 dev eth1 table 2".to_owned(),
            "restart the daemon that owns table 2".to_owned(),
        ],
        evidence: vec![Evidence { mono_ns: START_NS + 15_000, text: "fib_table_lookup table 2: no route".to_owned() }],
        key: "wrong-egress shop/web-0".to_owned(),
    }
}

pub(super) fn netfilter_drop() -> Finding {
    Finding {
        id: "f2".to_owned(),
        rule: "netfilter-drop",
        confidence: Confidence::Likely,
        device: None,
        side: Side::Unknown,
        expected_device: None,
        route: None,
        reason: Some("NETFILTER_DROP".into()),
        netfilter: Some(Netfilter { hook: "forward".to_owned(), handle: Some(7), ..Netfilter::default() }),
        since: None,
        ..wrong_egress()
    }
}

fn dns(answer: Option<Answer>) -> What {
    let message = Message { id: 7, name: "api.example.com".into(), kind: "A".into(), answer };
    let flow = flow(Proto::Udp, "10.176.98.29:40000", "10.96.0.10:53");
    What::Dns { flow, place: Place::Transmit, message: Some(message), seen: 1 }
}

fn verdict(judge: Judge) -> What {
    let side = |end| invalid::Side { end, max_end: end + 64_000, max_window: 64_000 };
    let held = Invalid { entry: true, state: "ESTABLISHED", reply: false, sides: [side(1_000), side(5_000)] };
    let invalid = matches!(judge, Judge::Nftables { .. }).then_some(held);
    What::Verdict { flow: syn(), skb: 0xffff_8880_0000_1000, hook: "forward", out_ifindex: 3, judge, invalid }
}

/// One step of every kind that the other samples do not have.
pub(super) fn every_event() -> Vec<Step> {
    let node = Side::Node;
    let reply = flow(Proto::Tcp, "10.176.46.4:3306", "192.0.2.1:41234");
    let ct = Some(Conntrack { original: syn(), reply, entry: 1, status: 0x1b8, info: 0, zone: 0 });
    let stack: Vec<Arc<str>> = ["nft_do_chain_ipv4", "nf_hook_slow.isra.0", "ip_forward"].map(Into::into).into();
    let ip = "10.176.32.1".parse().expect("an address");
    let neighbour = |failed, waiting, new_mac: Option<&str>| What::Neighbour {
        ip,
        mac: String::new(),
        new_mac: new_mac.map(str::to_owned),
        failed,
        waiting,
    };
    let whats = [
        What::Dropped {
            head: head(syn(), 2),
            ct: ct.clone(),
            reason: "NETFILTER_DROP".into(),
            site: "nft_do_chain".into(),
            stack: stack.clone(),
            filter: Some(49_152),
            seen: 1,
            carried: Some(Carried { flow: syn(), vni: 1 }),
        },
        What::Retransmit { flow: syn(), state: "ESTABLISHED", timeouts: 1 },
        What::Reset { flow: syn(), sent: true, socket: false, reason: "NO_SOCKET".into(), state: "CLOSE" },
        What::Reset { flow: syn(), sent: false, socket: true, reason: "".into(), state: "ESTABLISHED" },
        What::State { flow: syn(), old: "CLOSE", new: "SYN_SENT", err: 0, comm: "mysql".into() },
        What::State { flow: syn(), old: "SYN_SENT", new: "CLOSE", err: 111, comm: "swapper".into() },
        What::SendError { flow: syn(), err: 90, comm: "app".into() },
        neighbour(false, true, None),
        neighbour(false, false, Some("02:00:00:00:00:01")),
        neighbour(true, false, None),
        What::IcmpSent { head: head(syn(), 2), ct, icmp: (3, 1), stack },
        dns(None),
        dns(Some(Answer { code: Code::NxDomain, addresses: Vec::new(), records: 0, truncated: false })),
        lookup(254, -101, None, LookupRole::Output),
        lookup(2, -22, None, LookupRole::Output),
        What::Hop {
            place: Place::Receive,
            head: Head { icmp: Some((3, 4)), ..head(flow(Proto::Icmp, "192.0.2.9:0", "10.176.98.29:0"), 0) },
            ct: None,
            inner: Some(syn()),
            seen: 1,
        },
        verdict(Judge::Nftables { family: "ip", table: "filter".into(), chain: "FORWARD".into() }),
        verdict(Judge::Xtables { family: "ip", table: "filter".into() }),
        verdict(Judge::Conntrack),
        verdict(Judge::Unknown),
        What::Request { port_id: 4711, comm: "ipamd".into() },
        What::Nat(NatChoice {
            original: syn(),
            translated: syn(),
            by: NatBy::Source,
            addresses: Some((ip, ip)),
            ports: Some((1_024, 65_535)),
            out_ifindex: 0,
        }),
        What::Owned { flow: syn(), cgroup: 4711, by_task: false },
    ];
    whats.into_iter().zip(1..).map(|(what, index)| step(index * 10, node, "eth1", true, what)).collect()
}

pub(super) fn drop_row(pod_name: Option<&str>, reason: &str, packets: u64) -> DropRow {
    DropRow {
        node: None,
        pod: pod_name.map(pod),
        side: Side::Node,
        device: "eth1".into(),
        reason: reason.into(),
        site: "nft_do_chain".into(),
        packets,
        bytes: packets * 60,
        fresh: packets / 2,
        last_ns: START_NS,
        noise: None,
        example: Some(syn()),
    }
}

pub(super) fn drop_table() -> DropTable {
    let noise = |what, packets| DropRow { noise: Some(what), ..drop_row(None, "UNHANDLED_PROTO", packets) };
    DropTable {
        mono_ns: START_NS,
        interval_ns: 2_000_000_000,
        rows: vec![
            drop_row(Some("web-0"), "NETFILTER_DROP", 1200),
            DropRow { device: "".into(), side: Side::Unknown, ..drop_row(None, "IP_INNOROUTES", 7) },
            noise("unknown protocol", 40),
            noise("multicast nobody listens to", 2),
        ],
    }
}

pub(super) fn translation() -> Translation {
    Translation {
        first_ns: START_NS,
        pod: Some(pod("web-0")),
        is_ended: false,
        before: flow(Proto::Tcp, "10.1.0.5:41234", "10.96.0.1:80"),
        after: flow(Proto::Tcp, "192.0.2.10:41234", "10.20.0.4:8080"),
        dnat: Some("PREROUTING"),
        snat: Some("POSTROUTING"),
        snat_device: Some("eth0".to_owned()),
        service: Some("shop/db".to_owned()),
        devices: vec!["eth1".to_owned()],
    }
}

pub(super) fn flow_table() -> FlowTable {
    let amount = |packets, bytes| Amount { packets, bytes };
    let amounts = Amounts { out: amount(6, 504), into: amount(5, 15_000_000) };
    let device = |name: Option<&str>, device: &str, is_uplink| DeviceRow {
        pod: name.map(pod),
        is_ended: false,
        side: Side::Node,
        device: device.to_owned(),
        is_uplink,
        amounts,
    };
    let line = FlowLine {
        pod: Some(pod("web-0")),
        is_ended: false,
        proto: Proto::Tcp,
        peer: "10.96.0.1:80".parse().expect("an address with a port"),
        served_port: 0,
        initiated: true,
        name: Some(PeerName { text: "shop/db (service)".to_owned(), source: NameSource::Service }),
        devices: vec!["eth1".to_owned()],
        connections: 3,
        amounts,
        handshake_ns: Some(257_000),
        retransmits: 2,
        states: vec![(State::Closed, 2), (State::Unanswered, 1)],
        nat: Some(Arc::new(translation())),
        first_ns: START_NS,
        last_ns: START_NS + 1,
    };
    let served = FlowLine {
        peer: "10.9.0.7:0".parse().expect("an address with a port"),
        served_port: 8080,
        initiated: false,
        name: None,
        devices: Vec::new(),
        states: vec![(State::Open, 1)],
        nat: None,
        ..line.clone()
    };
    let asked_for = FlowLine {
        peer: "203.0.113.9:443".parse().expect("an address with a port"),
        name: Some(PeerName { text: "s3.example.com".to_owned(), source: NameSource::Dns }),
        states: vec![(State::Open, 1)],
        nat: None,
        retransmits: 0,
        ..line.clone()
    };
    let devices =
        vec![device(Some("web-0"), "veth3f2", false), device(Some("web-0"), "eth1", true), device(None, "eth0", true)];
    FlowTable {
        mono_ns: START_NS,
        since_ns: START_NS - 1_500_000_000,
        devices,
        lines: vec![line, served, asked_for],
        more: 7,
    }
}

pub(super) fn nat_table() -> NatTable {
    let line = NatLine { last: Arc::new(translation()), connections: 3 };
    let ended = Translation { is_ended: true, service: None, dnat: None, devices: Vec::new(), ..translation() };
    let ended = NatLine { last: Arc::new(ended), connections: 1 };
    NatTable { mono_ns: START_NS, since_ns: START_NS - 1_500_000_000, lines: vec![line, ended], more: 2 }
}

fn server(addr: &str, name: Option<&str>) -> Server {
    Server { addr: addr.parse().expect("an address with a port"), name: name.map(Into::into) }
}

/// One exchange of every kind.
pub(super) fn exchanges() -> Vec<Exchange> {
    let answered = |code, addresses: &[&str]| Outcome::Answered {
        at_ns: START_NS + 1_204_000,
        answer: Answer {
            code,
            addresses: addresses.iter().map(|ip| ip.parse().expect("an address")).collect(),
            records: addresses.len() as u16,
            truncated: false,
        },
    };
    let first = Exchange {
        asked_ns: START_NS,
        pod: Some(pod("web-0")),
        client: "10.176.98.29:40000".parse().expect("an address with a port"),
        transport: Proto::Udp,
        name: "api.com".into(),
        kind: "A".into(),
        server: server("10.96.0.10:53", Some("kube-system/kube-dns")),
        translated: Translated::To(server("10.176.98.31:5353", Some("kube-system/coredns-0"))),
        tries: 1,
        outcome: answered(Code::NoError, &["192.0.2.1", "192.0.2.2"]),
    };
    let direct = Exchange { server: server("[fd00::53]:53", None), translated: Translated::No, ..first.clone() };
    vec![
        first.clone(),
        Exchange { outcome: answered(Code::NxDomain, &[]), name: "api.com.cluster.local".into(), ..direct.clone() },
        Exchange { outcome: answered(Code::NoError, &[]), kind: "AAAA".into(), ..direct.clone() },
        Exchange { outcome: Outcome::Timeout { waited_ns: 10_500_000_000 }, tries: 2, pod: None, ..first.clone() },
        Exchange {
            outcome: Outcome::Open { waited_ns: 800_000_000 },
            translated: Translated::Unknown,
            ..first.clone()
        },
        Exchange {
            outcome: Outcome::Unreachable { at_ns: START_NS + 300_000, from: "fd00::53".parse().expect("an address") },
            ..direct.clone()
        },
        Exchange { outcome: Outcome::Unknown, transport: Proto::Tcp, tries: 0, ..direct },
    ]
}

pub(super) fn dns_table() -> DnsTable {
    let row = |client: &str, status, name: &str, ms: u64| DnsRow {
        client: client.into(),
        pod: client.strip_prefix("shop/").map(pod),
        name: name.into(),
        kind: "A".into(),
        status,
        queries: 3,
        tries: 4,
        median_ns: (ms > 0).then_some(ms * 1_000_000),
        max_ns: (ms > 0).then_some(ms * 9_000_000),
    };
    DnsTable {
        mono_ns: START_NS,
        rows: vec![
            row("shop/db-client", Status::Timeout, "db.example.com", 0),
            row("shop/web-0", Status::Code(Code::NxDomain), "api.com.default.svc.cluster.local", 1),
            row("shop/web-0", Status::Code(Code::NoError), "api.com", 12),
        ],
        searches: vec![Search { client: "shop/web-0".into(), name: "api.com".into(), queries: 6, misses: 3 }],
        open: 2,
        unlisted: 0,
        sampled: false,
        findings: vec![Arc::new(wrong_egress())],
    }
}
