//! What is said of a packet: whose it is, what NAT makes of it, why it was dropped.

use std::sync::Arc;

use hashbrown::HashMap;
use netprobe_common::{
    event::{CAPTURED_AFTER_NAT, CAPTURED_EGRESS, Captured},
    flow::FlowKey,
    wire,
};

use super::window::Blame;
use crate::{
    decode::{self, Decoder},
    enrich::names::Names,
    model::{flow::address, identity::Pod, known::Known, stack::base},
    render::escape,
};

/// Comments that are kept: as many flows as a busy pod has at a time. Then all are made anew.
const KEPT: usize = 8_192;

/// A place, as far as comments are about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Where {
    /// The pod whose device it is, or whose link's other end; none for the node's ways out.
    pub pod: Option<Arc<Pod>>,
    /// It is in the pod's own namespace.
    pub inside: bool,
}

impl Where {
    /// Whether a packet that crosses here in this direction comes from the pod: out of its own device, into the other
    /// end of its link, out of the node.
    const fn is_from_pod(&self, egress: bool) -> bool {
        if self.inside || self.pod.is_none() { egress } else { !egress }
    }
}

/// What tells one comment from another: interface, direction and NAT, both forms of the flow, the drop.
type Key = [u64; 13];

/// The comments made so far.
#[derive(Default)]
pub(super) struct Words {
    known: HashMap<Key, Box<str>>,
}

/// What names need.
pub(super) struct Knows<'a> {
    pub names: &'a Names,
    pub decoder: &'a mut Decoder,
}

impl Words {
    /// The comment on a packet at the `interface`-th place.
    pub(super) fn of(
        &mut self,
        (interface, place): (u32, &Where),
        captured: &Captured,
        dropped: Option<Blame>,
        knows: Knows<'_>,
    ) -> &str {
        let key = key(interface, captured, dropped);
        if self.known.len() >= KEPT && !self.known.contains_key(&key) {
            self.known.clear();
        }
        self.known.entry(key).or_insert_with(|| comment(place, captured, dropped, knows).into())
    }

    /// Forgets all: names have changed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}

fn key(interface: u32, captured: &Captured, dropped: Option<Blame>) -> Key {
    let flow: &[u64; 5] = wire::words_of(&captured.flow);
    let other: &[u64; 5] = wire::words_of(&captured.other);
    let (location, reason) = dropped.map_or((0, 0), |blame| (blame.location, blame.reason));
    let mut key = [0; 13];
    key[..5].copy_from_slice(flow);
    key[5..10].copy_from_slice(other);
    key[10] = u64::from(interface) << 32 | u64::from(captured.how);
    key[11] = location;
    key[12] = u64::from(reason);
    key
}

fn comment(place: &Where, captured: &Captured, dropped: Option<Blame>, knows: Knows<'_>) -> String {
    let from = place.is_from_pod(captured.how & CAPTURED_EGRESS != 0);
    let pod = place.pod.clone().or_else(|| owner(captured, from, knows.names));
    let mut text = match (pod, from) {
        (Some(pod), true) => format!("from {pod}"),
        (Some(pod), false) => format!("to {pod}"),
        (None, true) => "from the pod".to_owned(),
        (None, false) => "to the pod".to_owned(),
    };
    let (before, after) = if captured.how & CAPTURED_AFTER_NAT != 0 {
        (captured.other, captured.flow)
    } else {
        (captured.flow, captured.other)
    };
    if let (Some(before), Some(after)) = (decode::flow(&before), decode::flow(&after)) {
        let ends = |flow: &crate::model::flow::Flow| format!("{} -> {}", flow.source(), flow.destination());
        text += &format!("; {}, after NAT {}", ends(&before), ends(&after));
    }
    if let Some(Blame { location, reason }) = dropped {
        let site = knows.decoder.symbols().name(location);
        text += &format!("; dropped: {} in {}", knows.decoder.reason(reason), base(&site));
    }
    escape(&text).into_owned()
}

/// The pod whose address the packet has on the pod's side, in one of its forms.
fn owner(captured: &Captured, from: bool, names: &Names) -> Option<Arc<Pod>> {
    let of = |flow: &FlowKey| match names.address(address(if from { flow.src } else { flow.dst })) {
        Known::Yes(pod) if flow.family != 0 => Some(pod),
        _ => None,
    };
    of(&captured.flow).or_else(|| of(&captured.other))
}

#[cfg(test)]
mod tests {
    use netprobe_common::{event::CAPTURED_BEFORE_NAT, flow::mapped};

    use super::*;
    use crate::model::{
        facts::{HostFacts, NodeFacts},
        identity::Source,
        inventory::{Inventory, PodEntry},
        symbols::Symbols,
    };

    fn flow(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> FlowKey {
        FlowKey { src: mapped(src), dst: mapped(dst), sport, dport, proto: 6, family: 4, ether_type: 0x800 }
    }

    fn pod() -> Arc<Pod> {
        Arc::new(Pod { namespace: "shop".into(), name: "web-0".into(), uid: None, identity: Source::Netns })
    }

    fn said(place: &Where, captured: &Captured, dropped: Option<Blame>) -> String {
        let inventory = Inventory {
            pods: vec![PodEntry {
                namespace: "shop".into(),
                name: "web-0".into(),
                uid: String::new(),
                ips: vec!["10.1.2.3".parse().expect("an address")],
                node: String::new(),
                host_network: false,
                labels: Vec::new(),
            }],
            ..Inventory::default()
        };
        let names = Names::build(&inventory, &NodeFacts::default());
        let mut host = HostFacts::default();
        host.drop_reasons.insert(8, "NETFILTER_DROP".into());
        let mut symbols = Symbols::default();
        symbols.learn(0xff, "nft_do_chain.isra.0");
        let mut decoder = Decoder::new(host, symbols);
        let mut words = Words::default();
        let knows = Knows { names: &names, decoder: &mut decoder };
        words.of((0, place), captured, dropped, knows).to_owned()
    }

    #[test]
    fn a_packet_comes_from_the_pod_or_goes_to_it() {
        let egress = Captured { how: CAPTURED_EGRESS, ..wire::zeroed() };
        let ingress: Captured = wire::zeroed();
        let inside = Where { pod: Some(pod()), inside: true };
        let link = Where { pod: Some(pod()), inside: false };
        assert_eq!([said(&inside, &egress, None), said(&inside, &ingress, None)], ["from shop/web-0", "to shop/web-0"]);
        assert_eq!([said(&link, &egress, None), said(&link, &ingress, None)], ["to shop/web-0", "from shop/web-0"]);
    }

    #[test]
    fn the_pod_at_a_way_out_is_known_by_its_address_also_behind_nat() {
        let way_out = Where { pod: None, inside: false };
        let before = flow([10, 1, 2, 3], 5555, [10, 96, 0, 1], 80);
        let after = flow([192, 0, 2, 1], 5555, [10, 1, 4, 5], 8080);
        let how = CAPTURED_EGRESS | CAPTURED_AFTER_NAT;
        let text = said(&way_out, &Captured { flow: after, other: before, how, ..wire::zeroed() }, None);
        assert_eq!(text, "from shop/web-0; 10.1.2.3:5555 -> 10.96.0.1:80, after NAT 192.0.2.1:5555 -> 10.1.4.5:8080");
        let reply =
            Captured { flow: after.reversed(), other: before.reversed(), how: CAPTURED_BEFORE_NAT, ..wire::zeroed() };
        assert_eq!(
            said(&way_out, &reply, None),
            "to shop/web-0; 10.1.4.5:8080 -> 192.0.2.1:5555, after NAT 10.96.0.1:80 -> 10.1.2.3:5555"
        );
        let stranger = Captured { flow: after, how: CAPTURED_EGRESS, ..wire::zeroed() };
        assert_eq!(said(&way_out, &stranger, None), "from the pod");
    }

    #[test]
    fn a_drop_says_its_reason_and_where() {
        let place = Where { pod: Some(pod()), inside: false };
        let captured = Captured { flow: flow([10, 1, 2, 3], 1, [10, 0, 0, 1], 2), ..wire::zeroed() };
        let blame = Blame { location: 0xff, reason: 8 };
        assert_eq!(said(&place, &captured, Some(blame)), "from shop/web-0; dropped: NETFILTER_DROP in nft_do_chain");
    }

    #[test]
    fn a_name_from_outside_steers_no_terminal() {
        let pod = Pod { name: "a\u{1b}[2J".into(), ..Pod::clone(&pod()) };
        let place = Where { pod: Some(Arc::new(pod)), inside: true };
        assert_eq!(said(&place, &wire::zeroed(), None), "to shop/a\\u{1b}[2J");
    }

    #[test]
    fn comments_are_kept_apart_and_not_for_ever() {
        let mut words = Words::default();
        let place = Where { pod: Some(pod()), inside: true };
        let names = Names::default();
        let mut decoder = Decoder::new(HostFacts::default(), Symbols::default());
        for port in 0..KEPT as u16 + 10 {
            let captured = Captured { flow: flow([10, 1, 2, 3], port, [10, 0, 0, 1], 2), ..wire::zeroed() };
            let knows = Knows { names: &names, decoder: &mut decoder };
            assert_eq!(words.of((0, &place), &captured, None, knows), "to shop/web-0");
        }
        assert_eq!(words.known.len(), 10);
        words.forget();
        assert!(words.known.is_empty());
    }
}
