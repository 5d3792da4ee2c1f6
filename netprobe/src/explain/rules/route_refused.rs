//! A route that refuses: blackhole, unreachable, prohibit.
//!
//! The drop looks the same for all three and for others besides (`ip_error`, NOT_SPECIFIED): the
//! look-up before it tells them apart.

use crate::{
    explain::{Case, Draft, Lookup, Rule, intent},
    model::{facts::table_name, sighting::Side},
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
    let lookup = case.lookups().find(|l| l.err == err && is_decision(l))?;
    let sighting = &lookup.step.sighting;
    let flow = case.routed_flow();
    let (table, v6) = (table_name(lookup.table), flow.is_v6());
    let drop = case.drops().find(|d| d.sighting().packet.netns == sighting.packet.netns);
    let route = case.namespace(sighting.packet.netns).and_then(|ns| intent::refusing_route(ns, &flow, lookup.table));
    let prefix = route.map_or_else(|| flow.dst.ip().to_string(), |r| r.dst.to_string());
    let place = case.place(sighting);
    let what = if drop.is_some() { "dropped the packet of" } else { "refused" };
    let claim = format!(
        "{place} {what} {} to {}: table {table} has {} {kind} route for {prefix}",
        case.who(),
        case.whither(),
        article(kind)
    );
    let mut draft = match &drop {
        Some(drop) => case.about_drop(drop, claim),
        None => Draft::new(case, sighting.side, None, claim),
    };
    let family = if v6 { "ip -6" } else { "ip" };
    draft = draft
        .proof(sighting.packet.mono_ns, format!("route look-up in table {table}: {kind} (errno {})", -err))
        .fix(format!("{family} route del {kind} {prefix} table {table}"))
        .fix(format!("find who installed it: {family} route show table {table} | grep {kind}"))
        .detail(format!("{} {prefix}", lookup.table));
    draft.route = Some(crate::model::finding::RouteTaken { table: lookup.table, rule: None, gateway: None });
    Some(draft)
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
    use super::super::testing::{Scene, drop_of, lookup, syn};
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
    fn stays_silent_on_a_table_without_a_match_and_on_a_reverse_look_up() {
        assert_eq!((BLACKHOLE.check)(&scene(-11).case()), None);
        let mut scene = Scene::pod_to_db();
        scene.step(1, lookup(2, -22, 0, LookupRole::ReversePath), "");
        assert_eq!((BLACKHOLE.check)(&scene.case()), None);
    }
}
