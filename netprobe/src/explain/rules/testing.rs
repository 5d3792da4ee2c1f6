//! A pod on a node with two NICs, to test rules on: `shop/web-0` (10.9.0.29) talks to 10.20.0.4:3306.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use crate::{
    correlate::Journeys,
    explain::{Asked, Case, Expectations},
    model::{
        asked::{self, Question, Reading, Subject},
        counters::Counters,
        dns::{Answer, Code, Message},
        facts::{
            Address, HostFacts, Link, NamespaceFacts, NamespaceKind, NextHop, NodeFacts, Route, RouteKind, Rule,
            RuleAction,
        },
        flow::{Flow, Proto},
        identity::{Pod, Source},
        inventory::Inventory,
        journey::{Journey, Step},
        known::{Known, Why},
        packet::{Conntrack, Head, Judge, LookupRole, Packet, Place, TcpFlags, What},
        ruleset::Ruleset,
        sighting::{Side, Sighting},
    },
};

const NODE: u32 = 100;
const POD: u32 = 101;
const POD2: u32 = 102;

pub(crate) struct Scene {
    pub(crate) journey: Journey,
    pub(crate) journeys: Journeys,
    pub(crate) facts: NodeFacts,
    pub(crate) inventory: Inventory,
    pub(crate) host: HostFacts,
    pub(crate) expect: Expectations,
}

pub(crate) fn flow() -> Flow {
    Flow {
        proto: Proto::Tcp,
        src: "10.9.0.29:41000".parse().expect("an address"),
        dst: "10.20.0.4:3306".parse().expect("an address"),
    }
}

fn head(flow: Flow, flags: u8) -> Head {
    Head {
        flow: Some(flow),
        ether_type: 0x800,
        skb: 0,
        in_ifindex: 0,
        mark: 0,
        hash: 0,
        len: 60,
        seq: 1,
        ack: 0,
        window: 0,
        flags: TcpFlags(flags),
        ttl: 64,
        icmp: None,
        payload: 0,
        ip_len: 60,
    }
}

pub(crate) fn syn() -> Head {
    head(flow(), 2)
}

pub(crate) fn syn_ack() -> Head {
    Head { ack: 2, ..head(flow().reversed(), 18) }
}

/// A segment with ACK of the flow or its answer.
pub(crate) fn segment(forward: bool, seq: u32, payload: u32, ack: u32) -> Head {
    let flow = if forward { flow() } else { flow().reversed() };
    Head { seq, payload, ack, window: 500, ip_len: 52 + payload, ..head(flow, 16) }
}

/// The same with other flags.
pub(crate) fn flagged(flags: u8, head: Head) -> Head {
    Head { flags: TcpFlags(flags), ..head }
}

pub(crate) fn hop(place: Place, head: Head) -> What {
    What::Hop { place, head, ct: None, inner: None, seen: 1 }
}

pub(crate) fn drop_of(head: Head, reason: &str, site: &str, stack: &[&str]) -> What {
    let stack = stack.iter().map(|f| Arc::from(*f)).collect();
    What::Dropped {
        head,
        ct: None,
        reason: Arc::from(reason),
        site: Arc::from(site),
        stack,
        filter: None,
        seen: 1,
        carried: None,
    }
}

/// A conntrack entry of that flow without translation, as its first packet has it.
pub(crate) fn new_entry(flow: Flow) -> Conntrack {
    Conntrack { original: flow, reply: flow.reversed(), entry: 1, status: 0, info: 2, zone: 0 }
}

/// The same packet with a conntrack entry.
pub(crate) fn tracked(what: What, entry: Conntrack) -> What {
    match what {
        What::Hop { place, head, inner, seen, .. } => What::Hop { place, head, ct: Some(entry), inner, seen },
        What::Dropped { head, reason, site, stack, filter, seen, carried, .. } => {
            What::Dropped { head, ct: Some(entry), reason, site, stack, filter, seen, carried }
        }
        other => other,
    }
}

pub(crate) fn icmp_sent(head: Head, kind: u8, code: u8) -> What {
    What::IcmpSent { head, ct: None, icmp: (kind, code), stack: Vec::new() }
}

pub(crate) fn lookup(table: u32, err: i32, out_ifindex: u32, role: LookupRole) -> What {
    What::Lookup {
        flow: flow(),
        skb: 0,
        table,
        err,
        in_ifindex: 1,
        out_ifindex,
        gateway: None,
        mark: 0,
        role,
        inferred: false,
        rule: None,
    }
}

pub(crate) fn lookup_via(table: u32, out_ifindex: u32, via: &str, role: LookupRole) -> What {
    let gateway: Option<IpAddr> = Some(via.parse().expect("an address"));
    What::Lookup {
        flow: flow(),
        skb: 0,
        table,
        err: 0,
        in_ifindex: 1,
        out_ifindex,
        gateway,
        mark: 0,
        role,
        inferred: false,
        rule: None,
    }
}

/// The same look-up, of which the kernel told the policy rule.
pub(crate) fn by_rule(what: What, preference: u32) -> What {
    match what {
        What::Lookup { flow, skb, table, err, in_ifindex, out_ifindex, gateway, mark, role, inferred, .. } => {
            let rule = Some(preference);
            What::Lookup { flow, skb, table, err, in_ifindex, out_ifindex, gateway, mark, role, inferred, rule }
        }
        other => other,
    }
}

/// The same look-up for another flow.
pub(crate) fn asked_for(other: Flow, what: What) -> What {
    match what {
        What::Lookup { skb, table, err, in_ifindex, out_ifindex, gateway, mark, role, inferred, rule, .. } => {
            What::Lookup { flow: other, skb, table, err, in_ifindex, out_ifindex, gateway, mark, role, inferred, rule }
        }
        other => other,
    }
}

/// What the forward hook said of the packet just dropped, which was to leave by `eth1`.
pub(crate) fn verdict(judge: Judge) -> What {
    What::Verdict { flow: flow(), skb: 0, hook: "forward", out_ifindex: Scene::ETH1, judge, invalid: None }
}

pub(crate) fn retransmit(state: &'static str) -> What {
    What::Retransmit { flow: flow(), state, timeouts: 1 }
}

fn dns_flow() -> Flow {
    Flow { proto: Proto::Udp, dst: "10.20.0.4:53".parse().expect("an address"), ..flow() }
}

fn message(name: &str, answer: Option<Answer>) -> Option<Message> {
    Some(Message { id: 7, name: Arc::from(name), kind: Arc::from("A"), answer })
}

/// A query for a name's IPv4 address.
pub(crate) fn asks(name: &str) -> What {
    What::Dns { flow: dns_flow(), place: Place::Transmit, message: message(name, None), seen: 1 }
}

/// Its answer.
pub(crate) fn says(name: &str, code: Code, addresses: &[&str]) -> What {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
    let records = u16::try_from(addresses.len()).expect("a few");
    let answer = Some(Answer { code, addresses, records, truncated: false });
    What::Dns { flow: dns_flow().reversed(), place: Place::Receive, message: message(name, answer), seen: 1 }
}

/// The same, seen in the pod's own namespace.
pub(crate) struct InPod(What);

pub(crate) fn in_pod(what: What) -> InPod {
    InPod(what)
}

/// Where a step is seen.
pub(crate) trait Seen {
    fn split(self) -> (What, u32);
}

impl Seen for What {
    fn split(self) -> (What, u32) {
        (self, NODE)
    }
}

impl Seen for InPod {
    fn split(self) -> (What, u32) {
        (self.0, POD)
    }
}

impl Scene {
    pub(crate) const ETH0: u32 = 2;
    pub(crate) const ETH1: u32 = 3;
    pub(crate) const VPOD1: u32 = 4;

    /// All is well, and nothing was seen yet.
    pub(crate) fn pod_to_db() -> Self {
        let mut namespaces = std::collections::BTreeMap::new();
        namespaces.insert(NODE, node());
        namespaces.insert(POD, pod(POD, "10.9.0.29/32"));
        namespaces.insert(POD2, pod(POD2, "10.9.0.30/32"));
        let journey = Journey {
            id: 1,
            pod: Some(web_0()),
            flow: flow(),
            translated: Vec::new(),
            first_ns: 0,
            last_ns: 0,
            steps: VecDeque::new(),
            omitted: 0,
            packets: 0,
            closed: false,
        };
        Self {
            journey,
            journeys: Journeys::default(),
            facts: NodeFacts { node: NODE, namespaces, journal: Vec::new(), ..NodeFacts::default() },
            inventory: Inventory::default(),
            host: HostFacts::default(),
            expect: Expectations::default(),
        }
    }

    /// The same pod asks a DNS server.
    pub(crate) fn pod_to_dns() -> Self {
        let mut scene = Self::pod_to_db();
        scene.journey.flow = dns_flow();
        scene
    }

    pub(crate) fn node(&mut self) -> &mut NamespaceFacts {
        self.facts.namespaces.get_mut(&NODE).expect("the node")
    }

    pub(crate) fn pod(&mut self) -> &mut NamespaceFacts {
        self.facts.namespaces.get_mut(&POD).expect("the pod")
    }

    /// Something seen of the flow, `ms` after the start, on `device`.
    pub(crate) fn step(&mut self, ms: u64, what: impl Seen, device: &str) {
        self.add(ms, what, device, true);
    }

    /// Something seen of the answer.
    pub(crate) fn back(&mut self, ms: u64, what: impl Seen, device: &str) {
        self.add(ms, what, device, false);
    }

    /// What was read of the node on demand, after everything.
    pub(crate) fn answer(&mut self, reading: Reading) {
        self.keep(NODE, u64::MAX, reading);
    }

    /// What was read of the node before anything happened.
    pub(crate) fn answer_before(&mut self, reading: Reading) {
        self.journey.first_ns = 1;
        self.keep(NODE, 0, reading);
    }

    /// What was read of the pod.
    pub(crate) fn answer_in_pod(&mut self, reading: Reading) {
        self.keep(POD, u64::MAX, reading);
    }

    fn keep(&mut self, netns: u32, mono_ns: u64, reading: Reading) {
        let subject = match &reading {
            Reading::Devices(_) => Subject::Devices,
            Reading::Sockets(_) => Subject::Sockets,
            Reading::Netfilter(_) => Subject::Netfilter,
            _ => Subject::Counters,
        };
        self.facts.readings.keep(&asked::Answer {
            question: Question { netns, subject },
            mono_ns,
            done_ns: mono_ns,
            reading,
        });
    }

    fn add(&mut self, ms: u64, what: impl Seen, device: &str, forward: bool) {
        let (what, netns) = what.split();
        let ifindex = match what {
            What::Lookup { out_ifindex, .. } => out_ifindex,
            _ => self.facts.namespaces[&netns].link(device).map_or(0, |l| l.index),
        };
        let (side, namespace_of) =
            if netns == NODE { (Side::Node, Known::No(Why::Node)) } else { (Side::Pod, Known::Yes(web_0())) };
        let packet = Packet { mono_ns: ms * 1_000_000, cpu: 0, pid: 0, netns, ifindex, what };
        let sighting = Sighting {
            packet,
            side,
            device: Arc::from(device),
            namespace_of,
            source: Known::Yes(web_0()),
            destination: Known::No(Why::Outside),
            asker: None,
        };
        self.journey.last_ns = ms * 1_000_000;
        self.journey.steps.push_back(Step { sighting: Arc::new(sighting), forward });
    }

    /// The node's counters `ms` after the start.
    pub(crate) fn counters(&mut self, ms: u64, counters: &[(&str, u64)]) {
        let all = counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        self.keep(NODE, ms * 1_000_000, Reading::Counters(Counters(all)));
    }

    /// What `iptables-save -c` printed `ms` after the start.
    pub(crate) fn iptables(&mut self, ms: u64, text: &str) {
        let mut found = Ruleset::default();
        crate::facts::parse_iptables_save(text, &mut found);
        self.keep(NODE, ms * 1_000_000, Reading::Netfilter(found));
    }

    pub(crate) fn case(&self) -> Case<'_> {
        Case {
            journey: &self.journey,
            journeys: &self.journeys,
            facts: &self.facts,
            inventory: &self.inventory,
            host: &self.host,
            expect: &self.expect,
            now_ns: u64::MAX,
            asked: Asked::default(),
            talk: std::cell::OnceCell::new(),
        }
    }
}

fn web_0() -> Arc<Pod> {
    Arc::new(Pod {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: None,
        identity: Source::Netns,
        is_ended: false,
    })
}

fn link(index: u32, name: &str, kind: &str, peer_netns: Option<u32>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: kind.to_owned(),
        up: true,
        carrier: true,
        mtu: 1500,
        peer_netns,
        ..Link::default()
    }
}

fn address(ifindex: u32, net: &str) -> Address {
    Address { ifindex, net: net.parse().expect("a prefix") }
}

fn route(table: u32, dst: &str, via: Option<&str>, ifindex: u32) -> Route {
    Route {
        table,
        dst: dst.parse().expect("a prefix"),
        kind: RouteKind::Unicast,
        next_hops: vec![NextHop { gateway: via.map(|g| g.parse().expect("an address")), ifindex }],
        priority: 0,
        prefsrc: None,
        protocol: "static".to_owned(),
    }
}

fn rule(preference: u32, src: Option<&str>, table: u32) -> Rule {
    Rule {
        v6: false,
        preference,
        src: src.map(|s| s.parse().expect("a prefix")),
        dst: None,
        iif: String::new(),
        iif_detached: false,
        oif: String::new(),
        oif_detached: false,
        mark: None,
        proto: None,
        sport: None,
        dport: None,
        invert: false,
        action: RuleAction::Lookup,
        table,
        suppress_prefix: None,
        by_vrf: false,
        opaque: false,
    }
}

fn node() -> NamespaceFacts {
    let links = [
        link(1, "lo", "", None),
        link(Scene::ETH0, "eth0", "", None),
        link(Scene::ETH1, "eth1", "", None),
        link(Scene::VPOD1, "vpod1", "veth", Some(POD)),
    ];
    NamespaceFacts {
        inum: NODE,
        links: links.into_iter().map(|l| (l.index, l)).collect(),
        addresses: vec![address(Scene::ETH0, "10.32.0.10/24"), address(Scene::ETH1, "10.8.0.10/24")],
        rules: vec![
            rule(0, None, 255),
            rule(1536, Some("10.9.0.29/32"), 2),
            rule(1536, Some("10.9.0.30/32"), 2),
            rule(32766, None, 254),
        ],
        routes: vec![
            route(254, "0.0.0.0/0", Some("10.32.0.1"), Scene::ETH0),
            route(2, "0.0.0.0/0", Some("10.96.0.1"), Scene::ETH1),
        ],
        ..NamespaceFacts::default()
    }
}

fn pod(inum: u32, net: &str) -> NamespaceFacts {
    let links = [link(1, "lo", "", None), link(2, "eth0", "veth", Some(NODE))];
    NamespaceFacts {
        inum,
        kind: NamespaceKind::Pod,
        links: links.into_iter().map(|l| (l.index, l)).collect(),
        addresses: vec![address(2, net)],
        rules: vec![rule(0, None, 255), rule(32766, None, 254)],
        routes: vec![route(254, "0.0.0.0/0", Some("169.254.1.1"), 2)],
        ..NamespaceFacts::default()
    }
}
