//! What is said of a packet: whose it is, what NAT makes of it, why it was dropped.

use std::sync::Arc;

use hashbrown::HashMap;
use netprobe_common::{
    event::{CAPTURED_AFTER_NAT, CAPTURED_EGRESS, Forms},
    flow::FlowKey,
    wire,
};

use super::window::Blame;
use crate::{
    decode::{self, Decoder},
    enrich::names::Names,
    model::{
        flow::{Flow, address},
        identity::Pod,
        known::Known,
        stack::base,
    },
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

/// A packet, as far as comments are about it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said<'a> {
    /// `CAPTURED_*` bits.
    pub how: u32,
    /// Its flow and what NAT makes of it, where that matters.
    pub forms: Option<&'a Forms>,
    /// It was dropped right after.
    pub dropped: Option<Blame>,
}

/// The comments made so far.
#[derive(Default)]
pub(super) struct Words {
    /// Those of packets of which only place and direction matter, by these.
    plain: Vec<Option<Box<str>>>,
    known: HashMap<Key, Box<str>>,
}

/// What names need.
pub(super) struct Knows<'a> {
    pub names: &'a Names,
    pub decoder: &'a mut Decoder,
}

impl Words {
    /// The comment on a packet at the `interface`-th place.
    pub(super) fn of(&mut self, (interface, place): (u32, &Where), said: Said<'_>, knows: Knows<'_>) -> &str {
        if said.forms.is_none() && said.dropped.is_none() {
            let at = interface as usize * 2 + usize::from(said.how & CAPTURED_EGRESS != 0);
            if self.plain.len() <= at {
                self.plain.resize(at + 1, None);
            }
            return self.plain[at].get_or_insert_with(|| comment(place, said, knows).into());
        }
        let key = key(interface, said);
        if self.known.len() >= KEPT && !self.known.contains_key(&key) {
            self.known.clear();
        }
        self.known.entry(key).or_insert_with(|| comment(place, said, knows).into())
    }

    /// Forgets all: names have changed.
    pub(super) fn forget(&mut self) {
        self.plain.clear();
        self.known.clear();
    }
}

fn key(interface: u32, said: Said<'_>) -> Key {
    let mut key = [0; 13];
    if let Some(forms) = said.forms {
        key[..10].copy_from_slice(wire::words_of::<Forms, 10>(forms));
    }
    key[10] = u64::from(interface) << 32 | u64::from(said.how);
    let (location, reason) = said.dropped.map_or((0, 0), |blame| (blame.location, blame.reason));
    (key[11], key[12]) = (location, u64::from(reason));
    key
}

fn comment(place: &Where, said: Said<'_>, knows: Knows<'_>) -> String {
    let from = place.is_from_pod(said.how & CAPTURED_EGRESS != 0);
    let pod = place.pod.clone().or_else(|| owner(said.forms?, from, knows.names));
    let mut text = match (pod, from) {
        (Some(pod), true) => format!("from {pod}"),
        (Some(pod), false) => format!("to {pod}"),
        (None, true) => "from the pod".to_owned(),
        (None, false) => "to the pod".to_owned(),
    };
    if let Some(Forms { flow, other }) = said.forms {
        let (before, after) = if said.how & CAPTURED_AFTER_NAT != 0 { (other, flow) } else { (flow, other) };
        if let (Some(before), Some(after)) = (decode::flow(before), decode::flow(after)) {
            let ends = |flow: &Flow| format!("{} -> {}", flow.source(), flow.destination());
            text += &format!("; {}, after NAT {}", ends(&before), ends(&after));
        }
    }
    if let Some(Blame { location, reason }) = said.dropped {
        let site = knows.decoder.symbols().name(location);
        text += &format!("; dropped: {} in {}", knows.decoder.reason(reason), base(&site));
    }
    escape(&text).into_owned()
}

/// The pod whose address the packet has on the pod's side, in one of its forms.
fn owner(forms: &Forms, from: bool, names: &Names) -> Option<Arc<Pod>> {
    let of = |flow: &FlowKey| match names.address(address(if from { flow.src } else { flow.dst })) {
        Known::Yes(pod) if flow.family != 0 => Some(pod),
        _ => None,
    };
    of(&forms.flow).or_else(|| of(&forms.other))
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
        Arc::new(Pod {
            namespace: "shop".into(),
            name: "web-0".into(),
            uid: None,
            identity: Source::Netns,
            is_ended: false,
        })
    }

    fn text(place: &Where, said: Said<'_>) -> String {
        let inventory = Inventory {
            pods: vec![PodEntry {
                namespace: "shop".into(),
                name: "web-0".into(),
                ips: vec!["10.1.2.3".parse().expect("an address")],
                ..PodEntry::default()
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
        words.of((0, place), said, knows).to_owned()
    }

    #[test]
    fn a_packet_comes_from_the_pod_or_goes_to_it() {
        let egress = Said { how: CAPTURED_EGRESS, ..Said::default() };
        let inside = Where { pod: Some(pod()), inside: true };
        let link = Where { pod: Some(pod()), inside: false };
        assert_eq!([text(&inside, egress), text(&inside, Said::default())], ["from shop/web-0", "to shop/web-0"]);
        assert_eq!([text(&link, egress), text(&link, Said::default())], ["to shop/web-0", "from shop/web-0"]);
    }

    #[test]
    fn the_pod_at_a_way_out_is_known_by_its_address_also_behind_nat() {
        let way_out = Where { pod: None, inside: false };
        let before = flow([10, 1, 2, 3], 5555, [10, 96, 0, 1], 80);
        let after = flow([192, 0, 2, 1], 5555, [10, 1, 4, 5], 8080);
        let of = |how, flow, other| text(&way_out, Said { how, forms: Some(&Forms { flow, other }), dropped: None });
        assert_eq!(
            of(CAPTURED_EGRESS | CAPTURED_AFTER_NAT, after, before),
            "from shop/web-0; 10.1.2.3:5555 -> 10.96.0.1:80, after NAT 192.0.2.1:5555 -> 10.1.4.5:8080"
        );
        assert_eq!(
            of(CAPTURED_BEFORE_NAT, after.reversed(), before.reversed()),
            "to shop/web-0; 10.1.4.5:8080 -> 192.0.2.1:5555, after NAT 10.96.0.1:80 -> 10.1.2.3:5555"
        );
        assert_eq!(of(CAPTURED_EGRESS, before, FlowKey::EMPTY), "from shop/web-0");
        assert_eq!(of(CAPTURED_EGRESS, after, FlowKey::EMPTY), "from the pod");
    }

    #[test]
    fn a_drop_says_its_reason_and_where() {
        let place = Where { pod: Some(pod()), inside: false };
        let dropped = Some(Blame { location: 0xff, reason: 8 });
        let said = Said { dropped, ..Said::default() };
        assert_eq!(text(&place, said), "from shop/web-0; dropped: NETFILTER_DROP in nft_do_chain");
    }

    #[test]
    fn a_name_from_outside_steers_no_terminal() {
        let pod = Pod { name: "a\u{1b}[2J".into(), ..Pod::clone(&pod()) };
        let place = Where { pod: Some(Arc::new(pod)), inside: true };
        assert_eq!(text(&place, Said::default()), "to shop/a\\u{1b}[2J");
    }

    #[test]
    fn comments_are_kept_apart_and_not_for_ever() {
        let mut words = Words::default();
        let place = Where { pod: Some(pod()), inside: true };
        let names = Names::default();
        let mut decoder = Decoder::new(HostFacts::default(), Symbols::default());
        for port in 0..KEPT as u16 + 10 {
            let forms = Forms { flow: flow([10, 1, 2, 3], port, [10, 0, 0, 1], 2), other: FlowKey::EMPTY };
            let said = Said { forms: Some(&forms), ..Said::default() };
            let knows = Knows { names: &names, decoder: &mut decoder };
            assert_eq!(words.of((0, &place), said, knows), "to shop/web-0");
        }
        assert_eq!(words.known.len(), 10);
        let knows = Knows { names: &names, decoder: &mut decoder };
        assert_eq!(words.of((3, &place), Said { how: CAPTURED_EGRESS, ..Said::default() }, knows), "from shop/web-0");
        words.forget();
        assert!(words.known.is_empty() && words.plain.is_empty());
    }
}
