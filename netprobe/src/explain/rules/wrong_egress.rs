//! The packet left by another device than the rules meant for it.
//!
//! There is no drop to see: the proof is the kernel's own look-ups, the device that transmitted
//! the packet, and what the node's rules, tables, neighbours or journal say it should have been.

use super::{astray, unruled};
use crate::{
    explain::{
        Case, Draft, Rule,
        case::{Lookup, MISS},
        expected::{self, Expected},
        intent,
    },
    facts::policy::{self, Decision, Outcome},
    model::{
        facts::{NamespaceFacts, Rule as IpRule, table_name},
        finding::{Confidence, RouteTaken},
        flow::Flow,
        journey::Step,
        packet::{LookupRole, Place},
        sighting::Side,
    },
};

pub(super) const RULE: Rule =
    Rule { id: "wrong-egress", means: "the packet left the node by another device than the rules meant for it", check };

/// How the packet left.
pub(super) struct Exit<'a> {
    pub(super) node: &'a NamespaceFacts,
    pub(super) step: &'a Step,
    pub(super) device: &'a str,
    pub(super) flow: Flow,
    pub(super) route: RouteTaken,
    /// Preference of the rule that led to that route, where the kernel told it.
    pub(super) told: Option<u32>,
    pub(super) mark: u32,
    /// Device it came in by; `None` for what the node itself sends.
    pub(super) iif: Option<String>,
    /// Look-ups for it.
    lookups: Vec<Lookup<'a>>,
    /// Who leaves, in words.
    who: String,
}

/// A rule that sends the packet to a table which has nothing for it.
struct Missed<'a> {
    rule: &'a IpRule,
    table: u32,
    /// It has nothing for anybody.
    empty: bool,
}

fn check(case: &Case<'_>) -> Option<Draft> {
    let of_packet = exit(case).and_then(|exit| {
        asserted(case, &exit)
            .or_else(|| astray::check(case, &exit))
            .or_else(|| empty_table(case, &exit))
            .or_else(|| unruled::check(case, &exit))
    });
    of_packet.or_else(|| empty_table(case, &around(case)?))
}

/// How a tunnel's packet around it left.
fn around<'a>(case: &Case<'a>) -> Option<Exit<'a>> {
    let (step, flow) = case.around()?;
    let node = case.facts.node()?;
    let lookups: Vec<Lookup<'a>> =
        case.lookups_around(flow).filter(|l| l.step.sighting.packet.netns == node.inum).collect();
    let found = lookups.iter().rev().find(|l| l.err == 0 && l.out_ifindex == step.sighting.packet.ifindex)?;
    let route = RouteTaken { table: found.table, rule: found.rule, gateway: found.gateway };
    let (told, mark) = (found.rule, found.mark);
    let tunnel = &case.exits()?.0.sighting.device;
    let who = format!("what {tunnel} carries for {} ({flow})", case.who());
    Some(Exit { node, step, device: &step.sighting.device, flow, route, told, mark, iif: None, lookups, who })
}

/// How the journey's packets left.
pub(super) fn exit<'a>(case: &Case<'a>) -> Option<Exit<'a>> {
    let (first, last) = case.exits()?;
    let node = case.facts.node()?;
    let flow = case.routed_flow();
    // The first packet's look-up may be lost; a later packet that left is as good.
    let (step, decision) = [first, last].into_iter().find_map(|step| {
        let decision = case.decision(node.inum, true, step.sighting.packet.mono_ns).filter(|l| l.err == 0)?;
        Some((step, decision))
    })?;
    let (told, mark) = (decision.rule, decision.mark);
    let (iif, lookups) = (came_in_by(case, node.inum), case.lookups().collect());
    let concluded = || intent::rule_for(node, &flow, iif.as_deref(), decision.table, mark).map(|rule| rule.preference);
    let route = RouteTaken { table: decision.table, rule: told.or_else(concluded), gateway: decision.gateway };
    let who = case
        .journey
        .pod
        .as_ref()
        .map_or_else(|| format!("the traffic of {} to {}", case.who(), case.whither()), ToString::to_string);
    Some(Exit { node, step, device: &step.sighting.device, flow, route, told, mark, iif, lookups, who })
}

/// The user said which device it should be.
fn asserted(case: &Case<'_>, exit: &Exit<'_>) -> Option<Draft> {
    let pod = case.journey.pod.as_deref();
    let (device, origin) = case.expect.device(pod, case.journey.flow.dst.ip()).filter(|(d, _)| *d != exit.device)?;
    let claim = format!("{} leaves this node by {}, not by {device} as asked ({origin})", case.who(), exit.device);
    let expected = Expected {
        device: device.to_owned(),
        gateway: None,
        why: format!("expected by {origin}"),
        confidence: Confidence::Stated,
    };
    let fix = format!(
        "see which rule and table decided: ip route get {} from {} iif DEV",
        exit.flow.dst.ip(),
        exit.flow.src.ip()
    );
    Some(draft(case, exit, &expected, claim).fix(fix).detail("asserted"))
}

/// A rule picks this traffic out for a table, and the table has no route for it: the packet fell
/// through to another.
fn empty_table(case: &Case<'_>, exit: &Exit<'_>) -> Option<Draft> {
    let Missed { rule, table: number, empty } = fallen_through(exit)?;
    let expected = expected::of_table(case, &exit.flow, number, exit.device)?;
    // A table that serves other destinations may well have no route for this one.
    if !empty && expected.confidence != Confidence::Stated {
        return None;
    }
    let table = table_name(number);
    let lack = if empty { "is empty" } else { "has no route to it" };
    let state = device_state(exit.node, &expected.device, exit.flow.is_v6());
    let state = state.map_or_else(String::new, |state| format!(": {state}"));
    let claim = format!(
        "{} leaves this node by {}; policy rule {} ({}) sends it to table {table} ({}), which {lack}{state}",
        exit.who,
        exit.device,
        rule.preference,
        rule.text(),
        expected.device,
    );
    let lost = intent::lost_route(case, exit.node.inum, &exit.flow, Some(number));
    let mut draft = draft(case, exit, &expected, claim).detail(format!("table {number}"));
    if let Some(miss) = misses(exit).find(|l| l.table == number) {
        let by = miss.rule.map_or_else(String::new, |preference| format!(" by policy rule {preference}"));
        draft = draft.proof(miss.step.sighting.packet.mono_ns, format!("route look-up in table {table}{by}: no route"));
    }
    draft.evidence.sort_by_key(|e| e.mono_ns);
    draft.since = expected::device_lost(case, exit.node, &expected.device)
        .or_else(|| lost.as_ref().map(|(text, _)| text.clone()));
    let ip = if exit.flow.is_v6() { "ip -6" } else { "ip" };
    if state.contains("disable_ipv6") {
        draft = draft.fix(format!(
            "sysctl -w net.ipv6.conf.{}.disable_ipv6=0, then restore its addresses and table {table}",
            expected.device
        ));
    } else if !state.is_empty() {
        draft = draft.fix(format!(
            "bring {} back (ip link set {} up; re-attach the NIC), then restore table {table}",
            expected.device, expected.device
        ));
    }
    let gateway = expected.gateway.map_or_else(|| "GATEWAY".to_owned(), |g| g.to_string());
    let command = lost.map_or_else(
        || format!("{ip} route add default via {gateway} dev {} table {table}", expected.device),
        |(_, command)| command,
    );
    Some(draft.fix(command).fix(format!("restart the daemon that owns table {table} (CNI, ipamd), so that it stays")))
}

/// The rule whose table was asked and had nothing, before the table that decided; and whether that table is empty.
fn fallen_through<'a>(exit: &Exit<'a>) -> Option<Missed<'a>> {
    let decision = intent::decide(exit.node, &exit.flow, exit.iif.as_deref(), exit.mark);
    let asked_elsewhere = |table: u32| {
        // The kernel's word stands above the tables as we know them now.
        table == exit.route.table
            || exit
                .lookups
                .iter()
                .any(|l| l.table == table && l.err == 0 && l.step.forward && l.role != LookupRole::ReversePath)
    };
    let chosen = |(rule, table): &(&IpRule, u32)| (rule.is_selective() || rule.opaque) && !asked_elsewhere(*table);
    if let Some((rule, table)) = told(exit, &decision).into_iter().find(chosen) {
        return Some(Missed { rule, table, empty: policy::is_empty(exit.node, table, rule.v6) });
    }
    decision.steps.iter().find_map(|step| match step.outcome {
        Outcome::NoRoute { empty } if step.rule.is_selective() && !asked_elsewhere(step.table) => {
            Some(Missed { rule: step.rule, table: step.table, empty })
        }
        _ => None,
    })
}

/// Rules of which the kernel told that they matched, and whose table had nothing; the first asked comes first.
fn told<'a>(exit: &Exit<'a>, decision: &Decision<'a>) -> Vec<(&'a IpRule, u32)> {
    let v6 = exit.flow.is_v6();
    let one = |l: &Lookup<'_>| {
        let leads = |r: &IpRule| r.by_vrf || r.table == l.table;
        let same = |r: &&IpRule| Some(r.preference) == l.rule && leads(r) && r.v6 == v6;
        // Of several with one preference it is the one that selects this packet.
        let selecting: Vec<&IpRule> = decision.steps.iter().map(|step| step.rule).filter(same).collect();
        let fitting = if selecting.is_empty() { exit.node.rules.iter().filter(same).collect() } else { selecting };
        match fitting[..] {
            [rule] => Some((rule, l.table)),
            _ => None,
        }
    };
    let mut rules: Vec<(&IpRule, u32)> = misses(exit).filter_map(one).collect();
    rules.sort_by_key(|(rule, _)| rule.preference);
    rules
}

/// Device by which the journey's packets came into the node.
pub(super) fn came_in_by(case: &Case<'_>, node: u32) -> Option<String> {
    let received =
        case.hops().find(|(s, place, _)| s.forward && *place == Place::Receive && s.sighting.packet.netns == node);
    received.map(|(s, ..)| s.sighting.device.to_string())
}

/// Look-ups on the packet's way through the node that found nothing, last ones first.
fn misses<'e, 'a>(exit: &'e Exit<'a>) -> impl Iterator<Item = &'e Lookup<'a>> {
    let until = exit.step.sighting.packet.mono_ns;
    exit.lookups.iter().rev().filter(move |l| {
        MISS.contains(&l.err)
            && l.step.forward
            && l.role != LookupRole::ReversePath
            && l.step.sighting.packet.mono_ns <= until
    })
}

/// What keeps a device from being used.
pub(super) fn device_state(node: &NamespaceFacts, device: &str, v6: bool) -> Option<String> {
    let switched_off = || node.sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6")) == Some(1);
    match node.link(device) {
        None => Some(format!("{device} does not exist on this node")),
        Some(link) if !link.up => Some(format!("{device} is down")),
        Some(link) if !link.carrier => Some(format!("{device} has no carrier")),
        Some(_) if v6 && switched_off() => Some(format!("IPv6 is switched off on {device} (disable_ipv6)")),
        Some(_) => None,
    }
}

pub(super) fn is_global(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        std::net::IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// What every form of this fault shares.
pub(super) fn draft(case: &Case<'_>, exit: &Exit<'_>, expected: &Expected, claim: String) -> Draft {
    let packet = &exit.step.sighting.packet;
    let via = exit.route.gateway.map_or_else(String::new, |g| format!("via {g} "));
    let by = exit.told.map_or_else(String::new, |preference| format!(" by policy rule {preference}"));
    let mut draft = Draft::new(case, Side::Node, Some(exit.device.to_owned()), claim)
        .confidence(expected.confidence)
        .proof(
            packet.mono_ns,
            format!("route look-up in table {}{by}: {via}dev {}", table_name(exit.route.table), exit.device),
        )
        .proof(packet.mono_ns, format!("net_dev_start_xmit on {}, expected {}", exit.device, expected.device))
        .proof(packet.mono_ns, expected.why.clone());
    let here = |s: &Step| s.sighting.side == Side::Node && &*s.sighting.device == exit.device;
    // The pod's own device may have the same name.
    let sent = case.hops().filter(|(s, place, _)| s.forward && *place == Place::Transmit && here(s));
    draft.count = sent.count() as u64;
    draft.expected_device = Some(expected.device.clone());
    draft.route = Some(exit.route.clone());
    draft
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, asked_for, by_rule, hop, in_pod, lookup, lookup_via, syn};
    use super::*;
    use crate::model::{facts::Link, flow::Proto, packet::Head};

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Receive, syn()), "vpod1");
        scene.step(2, lookup(2, -11, 0, LookupRole::Input), "");
        scene.step(3, lookup_via(254, Scene::ETH0, "10.32.0.1", LookupRole::Input), "");
        scene.step(4, hop(Place::Transmit, syn()), "eth0");
        scene
    }

    #[test]
    fn names_the_rule_whose_table_is_empty_and_the_nic_it_was_for() {
        let mut scene = scene();
        scene.node().routes.retain(|r| r.table != 2);
        let draft = check(&scene.case()).expect("table 2 is empty");
        assert_eq!(
            draft.claim,
            "shop/web-0 leaves this node by eth0; policy rule 1536 (from 10.9.0.29 lookup 2) sends it to table 2 (eth1), \
             which is empty"
        );
        assert_eq!((draft.device.as_deref(), draft.expected_device.as_deref()), (Some("eth0"), Some("eth1")));
    }

    #[test]
    fn names_the_rule_that_the_kernel_told_where_its_selector_cannot_be_evaluated() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Receive, syn()), "vpod1");
        scene.step(2, by_rule(lookup(2, -11, 0, LookupRole::Input), 1536), "");
        scene.step(3, by_rule(lookup_via(254, Scene::ETH0, "10.32.0.1", LookupRole::Input), 32766), "");
        scene.step(4, hop(Place::Transmit, syn()), "eth0");
        scene.node().routes.retain(|r| r.table != 2);
        for rule in scene.node().rules.iter_mut().filter(|r| r.table == 2) {
            rule.opaque = true;
        }
        let draft = check(&scene.case()).expect("the kernel asked table 2");
        assert!(
            draft.claim.contains("policy rule 1536 (from 10.9.0.29 lookup 2) sends it to table 2"),
            "{}",
            draft.claim
        );
        assert_eq!(draft.route.as_ref().and_then(|route| route.rule), Some(32766));
        let says = |text: &str| draft.evidence.iter().any(|e| e.text == text);
        assert!(says("route look-up in table 2 by policy rule 1536: no route"), "{:?}", draft.evidence);
        assert!(
            says("route look-up in table main by policy rule 32766: via 10.32.0.1 dev eth0"),
            "{:?}",
            draft.evidence
        );
    }

    #[test]
    fn names_the_rule_whose_table_lacks_the_way_of_a_tunnels_packets() {
        let outer = Flow {
            proto: Proto::Other(4),
            src: "10.96.0.10:0".parse().expect("an address"),
            dst: "192.0.2.1:0".parse().expect("an address"),
        };
        let around = Head { flow: Some(outer), ip_len: 80, ..syn() };
        let mut scene = Scene::pod_to_db();
        let tunnel = Link { index: 9, name: "tun0".to_owned(), up: true, carrier: true, ..Link::default() };
        scene.node().links.insert(9, tunnel);
        let mut rule = scene.node().rules.iter().find(|r| r.table == 2).expect("a pod's rule").clone();
        (rule.src, rule.dst) = (None, Some("192.0.2.1/32".parse().expect("a prefix")));
        (rule.preference, rule.table) = (700, 3);
        scene.node().routes.retain(|r| r.table != 2);
        scene.node().rules.push(rule);
        scene.step(1, hop(Place::Receive, syn()), "vpod1");
        scene.step(2, lookup(2, 0, 9, LookupRole::Input), "");
        scene.step(3, hop(Place::Transmit, syn()), "tun0");
        scene.step(4, asked_for(outer, lookup(3, -11, 0, LookupRole::Output)), "");
        scene.step(5, asked_for(outer, lookup_via(254, Scene::ETH0, "10.32.0.1", LookupRole::Output)), "");
        scene.step(6, hop(Place::Transmit, around), "eth0");
        let draft = check(&scene.case()).expect("table 3 is empty");
        assert_eq!(
            draft.claim,
            format!(
                "what tun0 carries for shop/web-0 ({outer}) leaves this node by eth0; policy rule 700 (from all to 192.0.2.1 \
                 lookup 3) sends it to table 3 (eth1), which is empty"
            )
        );
        assert_eq!((draft.device.as_deref(), draft.expected_device.as_deref()), (Some("eth0"), Some("eth1")));
    }

    #[test]
    fn counts_packets_where_they_left_the_node_and_not_the_pod() {
        let mut scene = scene();
        scene.node().routes.retain(|r| r.table != 2);
        scene.step(0, in_pod(hop(Place::Transmit, syn())), "eth0");
        assert_eq!(check(&scene.case()).expect("table 2 is empty").count, 1);
    }

    #[test]
    fn names_a_nic_that_is_gone() {
        let mut scene = scene();
        scene.node().routes.retain(|r| r.table != 2);
        scene.node().links.remove(&Scene::ETH1);
        scene.node().addresses.retain(|a| a.ifindex != Scene::ETH1);
        let draft = check(&scene.case()).expect("table 2 is empty");
        assert!(draft.claim.ends_with("which is empty: eth1 does not exist on this node"), "{}", draft.claim);
        assert_eq!(draft.confidence, Confidence::Possible);
    }

    #[test]
    fn stays_silent_when_the_table_decided() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Receive, syn()), "vpod1");
        scene.step(2, lookup_via(2, Scene::ETH1, "10.96.0.1", LookupRole::Input), "");
        scene.step(3, hop(Place::Transmit, syn()), "eth1");
        assert_eq!(check(&scene.case()), None);
    }

    #[test]
    fn says_what_the_user_asked_for() {
        let mut scene = scene();
        scene.expect.all.device = Some("eth1".to_owned());
        let draft = check(&scene.case()).expect("it left by eth0");
        assert_eq!(draft.claim, "shop/web-0 leaves this node by eth0, not by eth1 as asked (--expect-dev eth1)");
    }
}
