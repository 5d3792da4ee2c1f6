//! Conntrack itself dropped the packet: no rule did. Its table is full, no source port is free, or another packet of the
//! same flow was faster.

use super::netfilter::{Met, met};
use crate::{
    explain::{Case, Draft, Rule},
    model::{
        finding::Confidence,
        flow::Proto,
        journey::Step,
        packet::{Conntrack, Judge, Place, What},
        sighting::Side,
        stack::base,
    },
};

/// The table is full.
pub(super) const FULL: Rule =
    Rule { id: "conntrack-full", means: "the conntrack table is full: new connections are dropped", check: full };

/// No port is left for SNAT.
pub(super) const PORTS: Rule =
    Rule { id: "snat-ports-exhausted", means: "no source port is free for SNAT to that destination", check: ports };

/// Two packets of one new flow at once.
pub(super) const RACE: Rule = Rule {
    id: "conntrack-insert-race",
    means: "two packets of one new flow raced for their conntrack entry, and one was dropped",
    check: race,
};

/// How long a lack of ports waits to be told, nanoseconds: TCP sends its SYN again after a second, and if that one leaves a
/// port was free.
const AGAIN_NS: u64 = 1_200_000_000;
/// The port of DNS.
const DNS: u16 = 53;

/// A packet that netfilter dropped and none of its rules can have.
fn by_itself<'a>(case: &Case<'a>) -> Option<Met<'a>> {
    let slow = |d: &crate::explain::Drop<'_>| &**d.reason == "NETFILTER_DROP" && d.site == "nf_hook_slow";
    case.drops().find(slow)?;
    met(case).filter(|met| {
        let by_rule = met.told.is_some_and(|told| matches!(told.judge, Judge::Nftables { .. } | Judge::Xtables { .. }));
        met.drop.site == "nf_hook_slow" && met.answer.is_none() && !by_rule
    })
}

/// The kernel told that the packet's entry found no place.
fn is_told(met: &Met<'_>) -> bool {
    met.told.is_some_and(|told| matches!(told.judge, Judge::Conntrack))
}

fn full(case: &Case<'_>) -> Option<Draft> {
    let met = by_itself(case)?;
    // Where entries are made; behind that every packet has one.
    if !matches!(met.netfilter.hook.as_str(), "prerouting" | "output")
        || is_told(&met)
        || met.drop.ct.is_some()
        || met.guilty().is_some()
    {
        return None;
    }
    let netns = met.drop.sighting().packet.netns;
    let window = case.counters(netns, met.drop.mono_ns())?;
    let (count, max) = (window.after.get("conntrack.count"), window.after.get("conntrack.max"));
    let (refused, evicted) = (window.rise("conntrack.drop"), window.rise("conntrack.early_drop"));
    if refused == 0 && (max == 0 || count < max) {
        return None;
    }
    let claim = format!(
        "{} {}: the conntrack table is full (nf_conntrack_max), so a new connection finds no room",
        met.what(case),
        met.by_conntrack()
    );
    let confidence = if refused > 0 { Confidence::Stated } else { Confidence::Likely };
    let mut draft = met.draft(case, claim).confidence(confidence).detail("full");
    draft = draft.proof(
        window.to_ns,
        format!("conntrack counters: drop rose by {refused}, early_drop by {evicted}; {count} entries of nf_conntrack_max {max}"),
    );
    Some(
        draft
            .fix("raise net.netfilter.nf_conntrack_max (and nf_conntrack_buckets with it)")
            .fix("find who fills it: conntrack -L | awk '{print $1}' | sort | uniq -c; shorten its timeouts"),
    )
}

fn ports(case: &Case<'_>) -> Option<Draft> {
    let (met, lost) = unconfirmed(case)?;
    let ct = met.drop.ct.filter(|ct| ct.snat())?;
    let later = left_later(case, &met);
    if later && !others_get_none(case, ct) {
        return None;
    }
    let to = ct.original.dst;
    let source = ct.reply.dst.ip();
    let claim =
        format!("{} {}: no source port of {source} is free for SNAT to {to}", met.what(case), met.by_conntrack());
    let mut draft = met.draft(case, claim).confidence(Confidence::Likely).detail(format!("ports {source} {to}"));
    draft.ready_ns = met.drop.mono_ns() + AGAIN_NS;
    let unconfirmed = format!("its entry was translated to {source} and not confirmed; insert_failed rose by {lost}");
    draft = draft.proof(met.drop.mono_ns(), unconfirmed);
    if later {
        draft = draft.proof(met.drop.mono_ns(), "it left when it was tried again, others to that destination did not");
    }
    Some(
        draft
            .fix(format!(
                "conntrack -L -d {} | wc -l  # connections to that destination share 65,000 ports of {source}",
                to.ip()
            ))
            .fix("reuse connections, add source addresses to the SNAT rule, or widen its port range"),
    )
}

/// A packet of the same flow left the node after that: so a port was free.
fn left_later(case: &Case<'_>, met: &Met<'_>) -> bool {
    case.exits().is_some_and(|(_, last)| last.sighting.packet.mono_ns > met.drop.mono_ns())
}

/// Another connection to that destination was dropped likewise and never left: ports are short, and this one was lucky.
fn others_get_none(case: &Case<'_>, ct: &Conntrack) -> bool {
    let others = case.journeys.iter().filter(|j| j.id != case.journey.id && j.flow.dst == case.journey.flow.dst);
    let mut drops = others.filter_map(|journey| {
        let is_same = |step: &&Step| match &step.sighting.packet.what {
            What::Dropped { ct: Some(other), reason, site, .. } => {
                let translated = (other.original.dst, other.reply.dst.ip()) == (ct.original.dst, ct.reply.dst.ip());
                &**reason == "NETFILTER_DROP" && base(site) == "nf_hook_slow" && translated && other.snat()
            }
            _ => false,
        };
        Some((journey, journey.steps.iter().rfind(is_same)?.sighting.packet.mono_ns))
    });
    drops.any(|(journey, dropped_ns)| {
        !journey.steps.iter().any(|step| {
            let packet = &step.sighting.packet;
            let leaves = matches!(packet.what, What::Hop { place: Place::Transmit, .. }) && step.forward;
            leaves && step.sighting.side == Side::Node && packet.mono_ns > dropped_ns
        })
    })
}

/// SNAT chose one source port for two connections at once: the second found it taken, and another one when it tried again.
fn one_port_for_two(case: &Case<'_>, met: &Met<'_>, lost: u64, ct: &Conntrack) -> Option<Draft> {
    if !left_later(case, met) || others_get_none(case, ct) {
        return None;
    }
    let port = ct.reply.dst.port();
    let claim = format!(
        "{} {}: SNAT had chosen source port {port} for two new connections at once, and the other one was confirmed first \
         (insert_failed)",
        met.what(case),
        met.by_conntrack()
    );
    let mut draft = met.draft(case, claim).confidence(Confidence::Likely).detail("race");
    draft.ready_ns = met.drop.mono_ns() + AGAIN_NS;
    let counted = format!("conntrack counters: insert_failed rose by {lost}");
    Some(
        draft
            .proof(met.drop.mono_ns(), counted)
            .proof(met.drop.mono_ns(), "the same flow left the node when it was tried again: a port was free")
            .fix("choose ports at random: --random-fully of iptables' MASQUERADE and SNAT, fully-random of nftables"),
    )
}

fn race(case: &Case<'_>) -> Option<Draft> {
    let (met, lost) = unconfirmed(case)?;
    if let Some(ct) = met.drop.ct.filter(|ct| ct.snat()) {
        return one_port_for_two(case, &met, lost, ct);
    }
    // TCP opens with one packet: two at once are rare enough to want the kernel's word.
    let may_race = case.journey.flow.proto == Proto::Udp || is_told(&met);
    if !may_race {
        return None;
    }
    let other = if met.drop.ct.is_some_and(|ct| ct.dnat()) {
        "this flow, or of one that is translated to the same addresses and ports,"
    } else {
        "the same new flow"
    };
    let claim = format!(
        "{} {}: another packet of {other} was confirmed first, and this one was lost (insert_failed)",
        met.what(case),
        met.by_conntrack()
    );
    let confidence = if is_told(&met) { Confidence::Stated } else { Confidence::Likely };
    let draft = met.draft(case, claim).confidence(confidence).detail("race");
    let fix = if case.journey.flow.dst.port() == DNS {
        "use a node-local DNS cache, or in the pod's resolv.conf: options single-request-reopen, use-vc"
    } else {
        "have the client send from a socket of its own to each service, or the second packet after the first answer"
    };
    let counted = format!("conntrack counters: insert_failed rose by {lost}");
    Some(draft.proof(met.drop.mono_ns(), counted).fix(fix))
}

/// A packet whose entry conntrack could not take into its table, and by how much the counter of those rose.
fn unconfirmed<'a>(case: &Case<'a>) -> Option<(Met<'a>, u64)> {
    let met = by_itself(case)?;
    if !matches!(met.netfilter.hook.as_str(), "postrouting" | "input") || met.guilty().is_some() {
        return None;
    }
    let window = case.counters(met.drop.sighting().packet.netns, met.drop.mono_ns())?;
    let lost = window.rise("conntrack.insert_failed");
    (lost > 0 || is_told(&met)).then_some((met, lost))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, hop, new_entry, syn, tracked};
    use super::*;
    use crate::model::packet::Place;

    fn scene(hook: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.journey.first_ns = 1_000_000;
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nf_hook_slow", &[hook]), "vpod1");
        scene
    }

    #[test]
    fn names_the_full_table() {
        let mut scene = scene("ip_rcv");
        scene.counters(0, &[("conntrack.drop", 1), ("conntrack.max", 4)]);
        scene.counters(2, &[("conntrack.drop", 3), ("conntrack.max", 4), ("conntrack.count", 4)]);
        scene.iptables(2, "");
        let draft = full(&scene.case()).expect("the counter rose");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on vpod1 in the prerouting hook, by conntrack \
             itself: the conntrack table is full (nf_conntrack_max), so a new connection finds no room"
        );
        assert_eq!(ports(&scene.case()), None);
    }

    #[test]
    fn stays_silent_where_the_counters_stand_still() {
        let mut scene = scene("ip_rcv");
        scene.counters(0, &[("conntrack.drop", 3), ("conntrack.max", 400)]);
        scene.counters(2, &[("conntrack.drop", 3), ("conntrack.max", 400), ("conntrack.count", 4)]);
        assert_eq!(full(&scene.case()), None);
    }

    #[test]
    fn tells_a_lost_race_from_a_lack_of_ports() {
        let mut scene = Scene::pod_to_db();
        scene.journey.first_ns = 1_000_000;
        let mut entry = new_entry(flow());
        entry.reply.src = "10.20.0.9:3306".parse().expect("an address");
        scene.step(1, tracked(drop_of(syn(), "NETFILTER_DROP", "nf_hook_slow", &["ip_output"]), entry), "eth1");
        scene.counters(0, &[("conntrack.insert_failed", 1)]);
        scene.counters(2, &[("conntrack.insert_failed", 2)]);
        assert_eq!(race(&scene.case()), None, "two SYNs at once: only the kernel can say so");
        scene.journey.flow.proto = Proto::Udp;
        let draft = race(&scene.case()).expect("it was not confirmed");
        assert!(
            draft.claim.ends_with(
                "another packet of this flow, or of one that is translated to the same addresses and ports, was \
                 confirmed first, and this one was lost (insert_failed)"
            ),
            "{}",
            draft.claim
        );
        assert_eq!(ports(&scene.case()), None);
    }

    #[test]
    fn names_the_destination_that_has_no_port_left() {
        let mut scene = Scene::pod_to_db();
        scene.journey.first_ns = 1_000_000;
        let mut entry = new_entry(flow());
        entry.reply.dst = "10.8.0.10:1024".parse().expect("an address");
        let dropped = drop_of(syn(), "NETFILTER_DROP", "nf_hook_slow", &["ip_output"]);
        scene.step(1, tracked(dropped, entry), "eth1");
        scene.counters(0, &[("conntrack.insert_failed", 1)]);
        scene.counters(2, &[("conntrack.insert_failed", 2)]);
        let draft = ports(&scene.case()).expect("it was not confirmed");
        assert!(
            draft.claim.ends_with("no source port of 10.8.0.10 is free for SNAT to 10.20.0.4:3306"),
            "{}",
            draft.claim
        );
        assert_eq!(full(&scene.case()), None);
        assert_eq!(race(&scene.case()), None);
        scene.step(1_001, hop(Place::Transmit, syn()), "eth1");
        assert_eq!(ports(&scene.case()), None, "a port was free a second later");
        let draft = race(&scene.case()).expect("it was taken at that moment only");
        assert!(draft.claim.contains("SNAT had chosen source port 1024 for two new connections"), "{}", draft.claim);

        let mut other = scene.journey.clone();
        other.id += 1;
        other.steps.truncate(1);
        scene.journeys.put(other.clone());
        assert_eq!(race(&scene.case()), None, "another one never left");
        let draft = ports(&scene.case()).expect("ports are short");
        assert!(draft.claim.ends_with("is free for SNAT to 10.20.0.4:3306"), "{}", draft.claim);
        other.steps.clone_from(&scene.journey.steps);
        scene.journeys.put(other);
        assert_eq!(ports(&scene.case()), None, "the other one left, too");
    }
}
