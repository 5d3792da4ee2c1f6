//! A route that refuses: blackhole, unreachable, prohibit.
//!
//! The drop looks the same for all three and for others besides (`ip_error`, NOT_SPECIFIED): the
//! look-up before it tells them apart.

use crate::{
    explain::{Case, Draft, Drop, Lookup, Rule, case::MISS, intent},
    model::{
        facts::{RuleAction, table_name},
        finding::RouteTaken,
        sighting::{Side, Sighting},
    },
};

pub(super) const BLACKHOLE: Rule = Rule {
    id: "route-blackhole",
    means: "a blackhole route covers the destination",
    check: |case| check(case, "blackhole", -22),
};
pub(super) const UNREACHABLE: Rule = Rule {
    id: "route-unreachable",
    means: "an unreachable route covers the destination",
    check: |case| check(case, "unreachable", -113),
};
pub(super) const PROHIBIT: Rule = Rule {
    id: "route-prohibit",
    means: "a prohibit route covers the destination",
    check: |case| check(case, "prohibit", -13),
};

fn check(case: &Case<'_>, kind: &str, err: i32) -> Option<Draft> {
    by_route(case, kind, err).or_else(|| by_rule(case, kind))
}

fn by_route(case: &Case<'_>, kind: &str, err: i32) -> Option<Draft> {
    let lookup = case.lookups().find(|l| l.err == err && is_decision(l))?;
    let sighting = &lookup.step.sighting;
    // What was asked for: of an answer that is the way back.
    let asked = if lookup.step.forward { case.routed_flow() } else { sighting.packet.what.flow()? };
    let (table, v6) = (table_name(lookup.table), asked.is_v6());
    let drop = case.drops().find(|d| d.sighting().packet.netns == sighting.packet.netns);
    let route = case.namespace(sighting.packet.netns).and_then(|ns| intent::refusing_route(ns, &asked, lookup.table));
    let prefix = route.map_or_else(|| asked.dst.ip().to_string(), |r| r.dst.to_string());
    let because = format!("table {table} has {} {kind} route for {prefix}", article(kind));
    let family = if v6 { "ip -6" } else { "ip" };
    let mut draft = refused(case, sighting, drop.as_ref(), &because)
        .proof(sighting.packet.mono_ns, format!("route look-up in table {table}: {kind} (errno {})", -err))
        .fix(format!("{family} route del {kind} {prefix} table {table}"))
        .fix(format!("find who installed it: {family} route show table {table} | grep {kind}"))
        .detail(format!("{} {prefix}", lookup.table));
    draft.route = Some(RouteTaken { table: lookup.table, rule: None, gateway: None });
    Some(draft)
}

/// A policy rule refuses by itself, and no table is asked: what was dropped is held against the rules.
fn by_rule(case: &Case<'_>, kind: &str) -> Option<Draft> {
    let refuses =
        |d: &Drop<'_>| matches!(d.site, "ip_error" | "ip6_pkt_discard" | "ip6_pkt_prohibit" | "dst_discard_out");
    let drop = case.drops().find(refuses)?;
    let (sighting, flow) = (drop.sighting(), drop.head.flow?);
    let decided = |l: &Lookup<'_>| {
        let packet = &l.step.sighting.packet;
        is_decision(l) && packet.netns == sighting.packet.netns && l.step.forward == drop.step.forward
    };
    if case.lookups().any(|l| decided(&l) && !MISS.contains(&l.err)) {
        return None;
    }
    let namespace = case.namespace(sighting.packet.netns)?;
    let rule = intent::refusing_rule(namespace, &flow, drop.device().as_deref(), drop.head.mark)?;
    let by = match rule.action {
        RuleAction::Blackhole => "blackhole",
        RuleAction::Unreachable => "unreachable",
        RuleAction::Prohibit => "prohibit",
        _ => return None,
    };
    if by != kind {
        return None;
    }
    let because = format!("policy rule {} ({}) refuses it", rule.preference, rule.text());
    let family = if flow.is_v6() { "ip -6" } else { "ip" };
    Some(
        refused(case, sighting, Some(&drop), &because)
            .fix(format!("{family} rule del pref {}", rule.preference))
            .fix(format!("find who installed it: {family} rule show | grep {kind}"))
            .detail(format!("rule {}", rule.preference)),
    )
}

/// A packet that was dropped, or one that never was made.
fn refused(case: &Case<'_>, sighting: &Sighting, drop: Option<&Drop<'_>>, because: &str) -> Draft {
    let place = case.place(sighting);
    match drop {
        Some(drop) => case.about_drop(drop, format!("{place} dropped {}: {because}", case.packet(drop))),
        None => {
            let claim = format!("{place} refused {} to {}: {because}", case.sender(), case.whither());
            Draft::new(case, sighting.side, None, claim)
        }
    }
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with('u') { "an" } else { "a" }
}

/// It is about a packet's way, not its way back, and we know where it happened.
fn is_decision(lookup: &Lookup<'_>) -> bool {
    use crate::model::packet::LookupRole::{Input, Output};
    matches!(lookup.role, Input | Output) && lookup.step.sighting.side != Side::Unknown
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, asked_for, drop_of, flow, lookup, syn, syn_ack};
    use super::*;
    use crate::model::packet::LookupRole;

    fn scene(err: i32) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, lookup(2, err, 0, LookupRole::Input), "");
        scene.step(2, drop_of(syn(), "NOT_SPECIFIED", "ip_error", &[]), "vpod1");
        scene
    }

    #[test]
    fn tells_the_three_kinds_apart() {
        for (rule, err, kind) in
            [(&BLACKHOLE, -22, "a blackhole"), (&UNREACHABLE, -113, "an unreachable"), (&PROHIBIT, -13, "a prohibit")]
        {
            let scene = scene(err);
            let draft = (rule.check)(&scene.case()).expect("the look-up says so");
            assert!(draft.claim.contains(&format!("table 2 has {kind} route for 10.20.0.4")), "{}", draft.claim);
        }
    }

    #[test]
    fn names_a_policy_rule_that_refuses_by_itself() {
        let mut scene = Scene::pod_to_db();
        let mut rule = scene.node().rules.iter().find(|r| r.table == 2).expect("a pod's rule").clone();
        (rule.preference, rule.action) = (900, RuleAction::Prohibit);
        scene.node().rules.push(rule);
        scene.step(2, drop_of(syn(), "NOT_SPECIFIED", "ip_error", &[]), "vpod1");
        let draft = (PROHIBIT.check)(&scene.case()).expect("the rule refuses");
        assert!(draft.claim.contains("policy rule 900 ("), "{}", draft.claim);
        assert_eq!(draft.fix[0], "ip rule del pref 900");
        assert_eq!((BLACKHOLE.check)(&scene.case()), None);
    }

    #[test]
    fn names_the_route_of_the_way_back() {
        let mut scene = Scene::pod_to_db();
        let back = flow().reversed();
        scene.back(1, asked_for(back, lookup(254, -22, 0, LookupRole::Input)), "");
        scene.back(2, drop_of(syn_ack(), "NOT_SPECIFIED", "ip_error", &[]), "eth1");
        let draft = (BLACKHOLE.check)(&scene.case()).expect("the look-up says so");
        assert!(draft.claim.contains("dropped the answer of"), "{}", draft.claim);
        assert!(draft.claim.ends_with("a blackhole route for 10.9.0.29"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_table_without_a_match_and_on_a_reverse_look_up() {
        assert_eq!((BLACKHOLE.check)(&scene(-11).case()), None);
        let mut scene = Scene::pod_to_db();
        scene.step(1, lookup(2, -22, 0, LookupRole::ReversePath), "");
        assert_eq!((BLACKHOLE.check)(&scene.case()), None);
    }
}
