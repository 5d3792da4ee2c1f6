//! The packet's TTL (hop limit) ran out, by itself or in a loop.

use std::collections::BTreeMap;

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{
        packet::{Head, Place},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "ttl-exceeded",
    means: "the packet's TTL or hop limit reached 0, by itself or in a routing loop",
    check,
};

/// How often one packet must come back with a lower TTL to be in a loop: once is what a load
/// balancer or a hairpin outside does.
const RETURNS: usize = 2;

fn check(case: &Case<'_>) -> Option<Draft> {
    let turns = turns(case);
    let drop = case.drops().find(is_expired);
    if turns.len() <= RETURNS {
        return drop.map(|drop| expired(case, &drop));
    }
    let device = turns[0].2.clone();
    let ttls: Vec<String> = turns.iter().take(5).map(|(_, ttl, _)| ttl.to_string()).collect();
    let claim = format!(
        "the packets of {} to {} run in a circle: the same one left this node by {device} {} times with falling TTL ({})",
        case.sender(),
        case.whither(),
        turns.len(),
        ttls.join(", ")
    );
    let target = case.journey.flow.dst.ip();
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .detail(format!("loop {target}"))
        .proof(turns[0].0, format!("left by {device} with TTL {}", turns[0].1))
        .proof(turns[1].0, format!("left by {device} again with TTL {}: it had come back", turns[1].1))
        .fix(format!("ip route get {target}  # on this node and on the router: each sends it to the other"))
        .fix(format!(
            "break the loop: the route that is missing, or for addresses nobody has: ip route add unreachable {target}"
        ));
    if let Some(drop) = drop {
        draft.reason = Some(std::sync::Arc::clone(drop.reason));
    }
    Some(draft)
}

fn expired(case: &Case<'_>, drop: &Drop<'_>) -> Draft {
    let name = if drop.head.flow.is_some_and(|f| f.is_v6()) { "hop limit" } else { "TTL" };
    case.dropped_because(drop, &format!("its {name} was {} when it had to be forwarded", drop.head.ttl))
        .detail("expired")
        .fix("if it is no traceroute: find who sends it with so small a value, or the loop it went through before")
        .fix(format!("watch its way: tcpdump -vni any host {} and 'ip[8] < 5'", case.journey.flow.dst.ip()))
}

/// A forwarded packet of which the last hop was used up. (`ip_rcv_core` uses the same reason for a
/// broken header.)
fn is_expired(drop: &Drop<'_>) -> bool {
    matches!(drop.site, "ip_forward" | "ip6_forward" | "ip_mr_forward" | "mpls_forward")
        && matches!(&**drop.reason, "IP_INHDR" | "NOT_SPECIFIED")
        && drop.head.ttl <= 1
}

/// A packet that leaves: when, with which TTL, by which device.
type Turn = (u64, u8, String);

/// The times one packet left by one uplink with a lower and lower TTL.
fn turns(case: &Case<'_>) -> Vec<Turn> {
    // One packet: a retransmission has the same sequence number, but begins with a full TTL again.
    let mut runs: BTreeMap<(u32, u32, u32), Vec<Turn>> = BTreeMap::new();
    let mut best: Vec<Turn> = Vec::new();
    let leaves = case.hops().filter(|(step, place, head)| {
        step.forward
            && *place == Place::Transmit
            && step.sighting.side == Side::Node
            && case.is_uplink(step.sighting.packet.ifindex)
            && is_own(case, head)
    });
    for (step, _, head) in leaves {
        let packet = &step.sighting.packet;
        let run = runs.entry((packet.ifindex, head.seq, head.payload)).or_default();
        if run.last().is_some_and(|(_, ttl, _)| head.ttl >= *ttl) {
            run.clear();
        }
        run.push((packet.mono_ns, head.ttl, step.sighting.device.to_string()));
        if run.len() > best.len() {
            best.clone_from(run);
        }
    }
    best
}

fn is_own(case: &Case<'_>, head: &Head) -> bool {
    head.flow.is_some_and(|flow| case.is_form(&flow))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, hop, syn};
    use super::*;

    fn with_ttl(ttl: u8) -> Head {
        Head { ttl, ..syn() }
    }

    #[test]
    fn names_the_ttl() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(with_ttl(1), "IP_INHDR", "ip_forward", &[]), "vpod1");
        let draft = check(&scene.case()).expect("it ran out");
        assert!(draft.claim.ends_with("on vpod1: its TTL was 1 when it had to be forwarded"), "{}", draft.claim);
    }

    #[test]
    fn tells_a_loop() {
        let mut scene = Scene::pod_to_db();
        for (ms, ttl) in [(1, 63), (2, 61), (3, 59), (4, 57)] {
            scene.step(ms, hop(Place::Transmit, with_ttl(ttl)), "eth1");
        }
        let draft = check(&scene.case()).expect("it is a loop");
        assert!(
            draft.claim.contains(
                "run in a circle: the same one left this node by eth1 4 times with falling TTL (63, 61, 59, 57)"
            ),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn stays_silent_on_retransmissions_and_on_a_broken_header() {
        let mut scene = Scene::pod_to_db();
        for ms in [1, 1_000, 3_000, 7_000] {
            scene.step(ms, hop(Place::Transmit, with_ttl(63)), "eth1");
        }
        scene.step(7_001, drop_of(with_ttl(64), "IP_INHDR", "ip_rcv_core", &[]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
