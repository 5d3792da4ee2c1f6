//! No table has a route: on the node the packet is dropped, in the pod there is no packet at all.

use crate::{
    explain::{Case, Draft, Rule, case::MISS, intent},
    model::{
        facts::NamespaceFacts,
        finding::Confidence,
        journey::Step,
        packet::{LookupRole, Place},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule { id: "no-route", means: "no routing table has a route to the destination", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    dropped(case).or_else(|| no_peer(case)).or_else(|| never_sent(case)).or_else(|| unanswerable(case))
}

/// WireGuard has routes of its own: the peer whose `allowed-ips` hold the destination.
fn no_peer(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|drop| drop.site == "wg_xmit")?;
    let (device, dst) = (drop.device()?, drop.head.flow?.dst.ip());
    let because = format!("no peer of {device} has {dst} in its allowed-ips, or that peer has no endpoint");
    let draft = case.dropped_because(&drop, &because).confidence(Confidence::Likely).detail(format!("peer {device}"));
    let allow = format!("wg set {device} peer PUBLIC-KEY allowed-ips +{dst}/{}", if dst.is_ipv6() { 128 } else { 32 });
    Some(
        draft
            .fix(format!("wg show {device} allowed-ips; wg show {device} endpoints"))
            .fix(format!("{allow}  # or restart the CNI's agent, which should have done it")),
    )
}

/// The node (or a pod that forwards) had the packet in its hands and no way for it.
fn dropped(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| matches!(&**d.reason, "IP_INNOROUTES" | "IP_OUTNOROUTES"))?;
    let sighting = drop.sighting();
    let dst = drop.head.flow?.dst.ip();
    let what = if drop.step.forward { "the packet" } else { "the answer" };
    let place = case.place(sighting);
    let claim =
        format!("{place} dropped {what} of {} to {}: no route to {dst} in any table", case.who(), case.whither());
    let mut draft = case.about_drop(&drop, claim);
    for miss in case.lookups().filter(|l| MISS.contains(&l.err) && l.role == LookupRole::Input) {
        let text = format!("route look-up in table {}: no route", crate::model::facts::table_name(miss.table));
        draft = draft.proof(miss.step.sighting.packet.mono_ns, text);
    }
    draft = journal(case, draft, sighting.packet.netns);
    Some(advise(draft, case.namespace(sighting.packet.netns), sighting.side, dst))
}

/// A process in a namespace asked for a way and got ENETUNREACH: no packet exists.
fn never_sent(case: &Case<'_>) -> Option<Draft> {
    if case.hops().next().is_some() {
        return None;
    }
    let miss = case.lookups().next_back().filter(|l| MISS.contains(&l.err) && l.role == LookupRole::Output)?;
    let sighting = &miss.step.sighting;
    let facts = case.namespace(sighting.packet.netns)?;
    let flow = case.journey.flow;
    let dst = flow.dst.ip();
    // Programs try IPv6 addresses where there is no IPv6, to find out: that is no fault where the cluster gave none.
    let speaks = facts.addresses.iter().any(|a| a.net.addr().is_ipv6() == dst.is_ipv6() && !is_local(a.net.addr()));
    let was_given = || {
        let pod = case.journey.pod.as_ref().and_then(|pod| case.inventory.pod(&pod.namespace, &pod.name));
        pod.is_some_and(|pod| pod.ips.iter().any(|ip| ip.is_ipv6() == dst.is_ipv6()))
    };
    if !(speaks || was_given()) || is_local(dst) || dst.is_multicast() || intent::has_route(facts, &flow) {
        return None;
    }
    let place = case.place(sighting);
    let claim =
        format!("{place} has no route to {dst}: connect() or send() failed with ENETUNREACH, and no packet was sent");
    let mut draft = Draft::new(case, sighting.side, None, claim)
        .detail(if dst.is_ipv6() { "output 6" } else { "output 4" })
        .confidence(Confidence::Stated);
    draft = draft.proof(
        sighting.packet.mono_ns,
        format!("route look-up in table {}: no route", crate::model::facts::table_name(miss.table)),
    );
    draft = draft.proof(sighting.packet.mono_ns, format!("no rule of {place} leads to a table with a route to {dst}"));
    draft = journal(case, draft, sighting.packet.netns);
    Some(advise(draft, Some(facts), sighting.side, dst))
}

/// A packet reached a pod, and its answer found no way: there is none, and nothing says so.
fn unanswerable(case: &Case<'_>) -> Option<Draft> {
    let miss = case.lookups().rev().find(|l| l.role == LookupRole::Output).filter(|l| MISS.contains(&l.err))?;
    let netns = miss.step.sighting.packet.netns;
    let there = |s: &Step| s.sighting.packet.netns == netns;
    let arrived = case.hops().find(|(s, place, _)| s.forward && *place == Place::Receive && there(s))?.0;
    let back = case.journey.flow.reversed();
    let facts = case.namespace(netns)?;
    if case.hops().any(|(s, ..)| !s.forward) || intent::has_route(facts, &back) {
        return None;
    }
    let (place, dst) = (case.place(&arrived.sighting), back.dst.ip());
    let claim = format!("{place} received the packet of {} and cannot answer: it has no route to {dst}", case.client());
    let device = Some(arrived.sighting.device.to_string());
    let mut draft = Draft::new(case, arrived.sighting.side, device, claim)
        .detail(if dst.is_ipv6() { "answer 6" } else { "answer 4" })
        .confidence(Confidence::Stated)
        .proof(arrived.sighting.packet.mono_ns, format!("packet received on {} of {place}", arrived.sighting.device));
    let text =
        format!("route look-up for the answer in table {}: no route", crate::model::facts::table_name(miss.table));
    draft = draft.proof(miss.step.sighting.packet.mono_ns, text);
    if let Some((text, fix)) = intent::lost_route(case, netns, &back, None) {
        draft.since = Some(text);
        draft = draft.fix(fix);
    }
    Some(advise(draft, Some(facts), arrived.sighting.side, dst))
}

fn journal(case: &Case<'_>, mut draft: Draft, netns: u32) -> Draft {
    let flow = case.routed_flow();
    if let Some((text, fix)) = intent::lost_route(case, netns, &flow, None) {
        draft.since = Some(text);
        draft = draft.fix(fix);
    }
    draft
}

fn advise(mut draft: Draft, facts: Option<&NamespaceFacts>, side: Side, dst: std::net::IpAddr) -> Draft {
    let family = if dst.is_ipv6() { "ip -6" } else { "ip" };
    let device = facts.and_then(|f| f.links.values().find(|l| l.name != "lo")).map_or("DEV", |l| l.name.as_str());
    if draft.fix.is_empty() {
        draft = draft.fix(match side {
            Side::Pod => format!("in the pod: {family} route add default via GATEWAY dev {device} (recreate the pod, so that its CNI sets it up again)"),
            _ => format!("{family} route add {dst} via GATEWAY dev DEV (or the default route that is missing)"),
        });
    }
    draft.fix(format!("{family} rule show; {family} route show table all"))
}

/// Loopback and link-local: not meant to lead anywhere.
fn is_local(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        std::net::IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, hop, in_pod, lookup, syn};
    use super::*;

    #[test]
    fn tells_the_node_that_has_no_way() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, lookup(254, -11, 0, LookupRole::Input), "");
        scene.step(2, drop_of(syn(), "IP_INNOROUTES", "ip_error", &[]), "vpod1");
        let draft = check(&scene.case()).expect("the kernel says so");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306: no route to 10.20.0.4 in any table"
        );
    }

    #[test]
    fn tells_the_pod_that_could_not_even_send() {
        let mut scene = Scene::pod_to_db();
        scene.pod().routes.clear();
        scene.step(1, in_pod(lookup(254, -11, 0, LookupRole::Output)), "");
        let draft = check(&scene.case()).expect("there is no route");
        assert_eq!(draft.side, Side::Pod);
        assert!(draft.claim.starts_with("shop/web-0 has no route to 10.20.0.4"), "{}", draft.claim);
    }

    #[test]
    fn tells_a_pod_that_cannot_answer() {
        let mut scene = Scene::pod_to_db();
        scene.journey.flow = scene.journey.flow.reversed();
        scene.pod().routes.clear();
        scene.step(1, in_pod(hop(Place::Receive, syn())), "eth0");
        scene.back(2, in_pod(lookup(254, -11, 0, LookupRole::Output)), "");
        let draft = check(&scene.case()).expect("there is no way back");
        assert!(draft.claim.ends_with("and cannot answer: it has no route to 10.20.0.4"), "{}", draft.claim);
        scene.back(3, in_pod(hop(Place::Transmit, syn())), "eth0");
        assert_eq!(check(&scene.case()), None, "it answered");
    }

    #[test]
    fn stays_silent_when_a_later_table_has_the_route() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(lookup(255, -11, 0, LookupRole::Output)), "");
        scene.step(2, in_pod(lookup(254, 0, 2, LookupRole::Output)), "");
        assert_eq!(check(&scene.case()), None);
    }
}
