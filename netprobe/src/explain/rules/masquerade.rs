//! The source address with which a pod's packets leave, where nobody said what it should be: the node's own rules and its
//! other traffic tell.

use std::net::IpAddr;

use ipnet::IpNet;

use super::translation;
use crate::{
    explain::{Case, Draft, nf::Words},
    model::{
        finding::Confidence,
        flow::Proto,
        journey::{Journey, Step},
        packet::{Place, What},
        ruleset::{RuleLine, Ruleset},
        sighting::Side,
    },
};

/// A connection of a pod that left this node and got no answer.
struct Lost<'a> {
    exit: &'a Step,
    /// With which source it left.
    source: IpAddr,
    /// The pod's own address.
    own: IpAddr,
}

fn lost<'a>(case: &Case<'a>) -> Option<Lost<'a>> {
    let again = case.steps().any(|s| matches!(s.sighting.packet.what, What::Retransmit { state: "SYN_SENT", .. }));
    let unanswered = case.journey.flow.proto == Proto::Tcp && again && !case.answered();
    if unanswered { left(case) } else { None }
}

/// A pod's connection that left this node.
fn left<'a>(case: &Case<'a>) -> Option<Lost<'a>> {
    let (exit, _) = case.exits()?;
    if case.journey.pod.is_none() || case.drops().next().is_some() {
        return None;
    }
    let What::Hop { head, .. } = &exit.sighting.packet.what else { return None };
    let own = case.journey.flow.src.ip();
    let from_pod = case.facts.node().is_some_and(|node| !node.owns(own));
    from_pod.then_some(Lost { exit, source: head.flow?.src.ip(), own })
}

/// It left with the pod's own address, and the node's rules say that such packets leave with the node's.
pub(super) fn missing(case: &Case<'_>) -> Option<Draft> {
    let lost = lost(case).filter(|lost| lost.source == lost.own)?;
    let (node, packet) = (case.facts.node()?, &lost.exit.sighting.packet);
    let on_link = |a: &crate::model::facts::Address| a.ifindex == packet.ifindex && a.net.contains(&lost.own);
    let own_rule = |r: &crate::model::facts::Rule| r.src.is_some_and(|n| n.prefix_len() > 0 && n.contains(&lost.own));
    // Who is routed by its own address is meant to keep it; and the network outside knows its own.
    if node.addresses.iter().any(on_link) || node.rules.iter().any(own_rule) || as_itself_elsewhere(case, &lost) {
        return None;
    }
    let window = case.netfilter(node.inum, packet.mono_ns)?;
    let (why, confidence) = told(window.after, lost.own, case.journey.flow.dst.ip())?;
    let device = lost.exit.sighting.device.to_string();
    let claim = format!(
        "{} left this node by {device} with its own address {} (no SNAT), and nothing came back: {why}",
        case.who(),
        lost.own
    );
    Some(
        Draft::new(case, Side::Node, Some(device.clone()), claim)
            .confidence(confidence)
            .detail(format!("own address by {device}"))
            .proof(packet.mono_ns, format!("net_dev_start_xmit on {device} with source {}", lost.source))
            .proof(packet.mono_ns, "its SYN was sent again, and neither an answer nor an ICMP error came")
            .fix("restore the masquerade rule for the pods' addresses (ip-masq-agent, the CNI's ipMasq or natOutgoing)")
            .fix(format!("or give the network behind {device} a route to {}", lost.own)),
    )
}

/// It left with the node's address, although this pod is routed by its own.
pub(super) fn unexpected(case: &Case<'_>) -> Option<Draft> {
    let (lost, end) = lost(case)
        .map(|lost| (lost, "nothing came back"))
        .or_else(|| Some((turned_away(case)?, "the peer said one thing and closed, before it was asked anything")))
        .filter(|(lost, _)| lost.source != lost.own)?;
    let (node, packet) = (case.facts.node()?, &lost.exit.sighting.packet);
    let own_rule = node.rules.iter().find(|rule| {
        let single = rule.src.is_some_and(|net| net.prefix_len() == net.max_prefix_len() && net.addr() == lost.own);
        single && !matches!(rule.table, 253..=255)
    });
    let others = as_itself_elsewhere(case, &lost);
    let borrowed = translation::borrowed(case, lost.exit, lost.source);
    let device = lost.exit.sighting.device.to_string();
    let why = match (&borrowed, own_rule) {
        (Some(other), _) => format!("{device} has no address, and answers to {} come by {other}", lost.source),
        (None, Some(rule)) => format!("policy rule {} ({}) routes it by its own address", rule.preference, rule.text()),
        (None, None) if others => "others reach the same address with their own".to_owned(),
        (None, None) => return None,
    };
    let instead = borrowed.as_ref().map_or_else(
        || format!(" and not with its own address {}", lost.own),
        |other| format!(", an address of {other}"),
    );
    let claim =
        format!("{} left this node by {device} as {} (SNAT){instead}, and {end}: {why}", case.who(), lost.source);
    let chosen = translation::chosen(case, lost.exit, lost.source);
    let draft = Draft::new(case, Side::Node, Some(device.clone()), chosen.behind(&claim))
        .confidence(if others { Confidence::Likely } else { Confidence::Possible })
        .detail(format!("as {} by {device}", lost.source))
        .proof(packet.mono_ns, format!("net_dev_start_xmit on {device} with source {}", lost.source));
    let draft = if borrowed.is_some() {
        draft.fix(format!("give {device} its address (ip addr add ADDRESS/LENGTH dev {device}), or ask its DHCP or CNI why it has none"))
    } else {
        draft
    };
    Some(
        chosen
            .prove(draft, packet.mono_ns)
            .fix("exclude this destination from masquerading (ip-masq-agent nonMasqueradeCIDRs, the CNI's ipMasq)"),
    )
}

/// Longest farewell of a server that turns a client away, bytes: an error message, no document.
const FAREWELL_BYTES: u64 = 512;

/// The peer took the connection, said one short thing and closed it before it had heard anything: so do servers that admit
/// clients by their address (MySQL's "Host is not allowed to connect").
fn turned_away<'a>(case: &Case<'a>) -> Option<Lost<'a>> {
    let talk = case.talk()?;
    let (point, out) = talk.uplink.filter(|_| talk.established())?;
    let end = talk.at(point, !out).find(|s| s.head.flags.fin() || s.head.flags.rst())?;
    let said = |forward: bool| {
        let before = talk.at(point, forward).filter(|s| s.ns <= end.ns);
        before.map(|s| u64::from(s.head.payload)).sum::<u64>()
    };
    let first = !talk.at(point, out).any(|s| s.ns < end.ns && s.head.flags.fin());
    let is_farewell = first && said(out) == 0 && (1..=FAREWELL_BYTES).contains(&said(!out));
    if is_farewell && out { left(case) } else { None }
}

/// Another connection left by the same device with a pod's own address, and was answered.
fn as_itself_elsewhere(case: &Case<'_>, lost: &Lost<'_>) -> bool {
    let serves = |journey: &Journey| {
        let out = journey.steps.iter().any(|step| match &step.sighting.packet.what {
            What::Hop { place: Place::Transmit, head, inner: None, .. } => {
                step.forward
                    && step.sighting.side == Side::Node
                    && step.sighting.packet.ifindex == lost.exit.sighting.packet.ifindex
                    && head.flow.is_some_and(|flow| flow.src == journey.flow.src)
            }
            _ => false,
        });
        let back = journey.steps.iter().any(|step| {
            !step.forward
                && matches!(&step.sighting.packet.what,
                    What::Hop { place: Place::Receive, head, inner: None, .. } if !head.flags.rst())
        });
        let from_pod = case.facts.node().is_some_and(|node| !node.owns(journey.flow.src.ip()));
        let same_family = journey.flow.is_v6() == case.journey.flow.is_v6();
        journey.id != case.journey.id && from_pod && same_family && out && back
    };
    case.journeys.iter().any(serves)
}

/// What the node's rules say of a pod's packets that leave.
fn told(ruleset: &Ruleset, own: IpAddr, to: IpAddr) -> Option<(String, Confidence)> {
    let rules = || ruleset.tables.iter().flat_map(|table| table.chains.values()).flat_map(|chain| &chain.rules);
    let nets = |rule: &RuleLine| Nets::of(&rule.text);
    let is_for_it = |rule: &&RuleLine| {
        let nets = nets(rule);
        nets.from.is_some_and(|net| net.contains(&own)) && nets.not_to.is_none_or(|net| !net.contains(&to))
    };
    if let Some(rule) = rules().filter(|rule| rule.translates_sources()).find(is_for_it) {
        return Some((
            format!("a rule masquerades its network, but not this packet ({})", rule.text),
            Confidence::Likely,
        ));
    }
    let range = rules().find_map(|rule| nets(rule).not_from.filter(|net| net.contains(&own) && !net.contains(&to)))?;
    let text = format!("{range} is the cluster's own range for kube-proxy, and no rule masquerades what leaves it");
    Some((text, Confidence::Possible))
}

/// Networks that a rule names.
#[derive(Default)]
struct Nets {
    from: Option<IpNet>,
    not_from: Option<IpNet>,
    not_to: Option<IpNet>,
}

impl Nets {
    fn of(text: &str) -> Self {
        let words: Vec<&str> = Words::of(text).collect();
        let mut nets = Self::default();
        for at in 0..words.len() {
            let net = |n: usize| words.get(at + n).and_then(|word| word.parse().ok());
            match (words[at], words.get(at + 1)) {
                ("!", Some(&"-s")) => nets.not_from = net(2),
                ("!", Some(&"-d")) => nets.not_to = net(2),
                ("-s", _) if at == 0 || words[at - 1] != "!" => nets.from = net(1),
                ("saddr", Some(&"!=")) => nets.not_from = net(2),
                ("daddr", Some(&"!=")) => nets.not_to = net(2),
                ("saddr", _) => nets.from = net(1),
                _ => {}
            }
        }
        nets
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, flagged, flow, hop, retransmit, segment, syn, syn_ack};
    use super::*;
    use crate::model::{flow::Flow, packet::Head};

    const KUBE_PROXY: &str =
        "*nat\n:KUBE-SVC-1 - [0:0]\n-A KUBE-SVC-1 ! -s 10.9.0.0/24 -d 10.96.0.10/32 -j KUBE-MARK-MASQ\nCOMMIT\n";

    fn scene(rules: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.node().rules.retain(|rule| rule.src.is_none());
        scene.step(1, hop(Place::Transmit, syn()), "eth0");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene.iptables(1_001, rules);
        scene
    }

    #[test]
    fn names_the_range_that_nobody_masquerades() {
        let draft = missing(&scene(KUBE_PROXY).case()).expect("kube-proxy names the range");
        assert_eq!(
            draft.claim,
            "shop/web-0 left this node by eth0 with its own address 10.9.0.29 (no SNAT), and nothing came back: 10.9.0.0/24 \
             is the cluster's own range for kube-proxy, and no rule masquerades what leaves it"
        );
    }

    /// A pod that is routed by its own address leaves as the node, and the server says 35 bytes and closes.
    fn translated(asked: u32) -> Scene {
        let mut scene = Scene::pod_to_db();
        let out = Flow { src: "10.96.0.10:41000".parse().expect("an address"), ..flow() };
        let as_node = |head: Head| Head { flow: Some(out), ..head };
        scene.journey.translated.push(out);
        scene.step(1, hop(Place::Transmit, as_node(syn())), "eth1");
        scene.back(2, hop(Place::Receive, Head { flow: Some(out.reversed()), ..syn_ack() }), "eth1");
        scene.step(3, hop(Place::Transmit, as_node(segment(true, 2, asked, 2))), "eth1");
        let farewell = flagged(17, segment(false, 2, 35, 2));
        scene.back(4, hop(Place::Receive, Head { flow: Some(out.reversed()), ..farewell }), "eth1");
        scene
    }

    #[test]
    fn a_server_that_turns_the_node_away_is_told() {
        let draft = unexpected(&translated(0).case()).expect("it closed unasked");
        assert!(
            draft
                .claim
                .contains("as 10.96.0.10 (SNAT) and not with its own address 10.9.0.29, and the peer said one thing"),
            "{}",
            draft.claim
        );
        assert_eq!(draft.confidence, Confidence::Possible);
        assert_eq!(unexpected(&translated(20).case()), None, "it was asked something");
    }

    #[test]
    fn a_device_that_borrows_another_ones_address_is_told() {
        let borrowing = |lacks: bool| {
            let mut scene = Scene::pod_to_db();
            scene.node().rules.retain(|rule| rule.src.is_none());
            scene.node().addresses.retain(|address| !lacks || address.ifindex != Scene::ETH1);
            let out = Flow { src: "10.32.0.10:41000".parse().expect("an address"), ..flow() };
            scene.journey.translated.push(out);
            scene.step(1, hop(Place::Transmit, Head { flow: Some(out), ..syn() }), "eth1");
            scene.step(1_000, retransmit("SYN_SENT"), "");
            unexpected(&scene.case())
        };
        let draft = borrowing(true).expect("eth1 has no address");
        let why = "by eth1 as 10.32.0.10 (SNAT), an address of eth0, and nothing came back: eth1 has no address, and answers \
                   to 10.32.0.10 come by eth0";
        assert!(draft.claim.contains(why), "{}", draft.claim);
        assert_eq!(borrowing(false), None, "a rule may name that address on purpose");
    }

    #[test]
    fn stays_silent_where_nothing_says_so() {
        assert_eq!(missing(&scene("").case()), None);
        let excluded =
            "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 10.9.0.0/24 ! -d 10.0.0.0/8 -j MASQUERADE\nCOMMIT\n";
        assert_eq!(missing(&scene(excluded).case()), None, "the destination is left out on purpose");
        let mut routed = Scene::pod_to_db();
        routed.step(1, hop(Place::Transmit, syn()), "eth1");
        routed.step(1_000, retransmit("SYN_SENT"), "");
        routed.iptables(1_001, KUBE_PROXY);
        assert_eq!(missing(&routed.case()), None, "it is routed by its own address");
    }
}
