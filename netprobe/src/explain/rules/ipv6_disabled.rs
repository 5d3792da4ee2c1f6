//! IPv6 is switched off on a device that should speak it.

use super::neighbour_unresolved;
use crate::{
    explain::{Case, Draft, Drop, Rule, case::MISS},
    model::{
        facts::{NamespaceFacts, What as Changed},
        packet::LookupRole,
        sighting::Side,
    },
};

pub(super) const RULE: Rule =
    Rule { id: "ipv6-disabled", means: "IPv6 is switched off (disable_ipv6) on a device the packet needs", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    dropped(case).or_else(|| unanswered(case)).or_else(|| never_sent(case))
}

/// The device does not take or send IPv6.
fn dropped(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "IPV6DISABLED")?;
    let device = drop.device()?;
    let facts = case.namespace(drop.sighting().packet.netns);
    let setting = facts.and_then(|n| setting(n, &device)).unwrap_or_else(|| of_device(&device));
    let draft = case.dropped_because(&drop, &format!("IPv6 is switched off there ({setting}=1)"));
    Some(advised(case, draft, drop.sighting().packet.netns, drop.sighting().side, &setting))
}

/// Nobody answers neighbour solicitations, because the other end of the pod's link has no IPv6.
fn unanswered(case: &Case<'_>) -> Option<Draft> {
    let is_v6 = |d: &Drop<'_>| d.head.flow.is_some_and(|f| f.is_v6()) && neighbour_unresolved::is_given_up(d);
    let drop = case.drops().find(is_v6)?;
    let packet = &drop.sighting().packet;
    let link = case.namespace(packet.netns)?.links.get(&packet.ifindex)?;
    let far = link.peer_netns?;
    let device = &case.namespace(far)?.links.get(&link.peer)?.name;
    let setting = setting(case.namespace(far)?, device)?;
    let because =
        format!("its next hop does not answer, IPv6 is switched off on {device} at the other end ({setting}=1)");
    let draft = case.dropped_because(&drop, &because);
    let side = if far == case.facts.node { Side::Node } else { Side::Pod };
    Some(advised(case, draft, far, side, &setting))
}

/// The pod was given an IPv6 address and cannot use it: no packet is sent.
fn never_sent(case: &Case<'_>) -> Option<Draft> {
    if !case.journey.flow.is_v6() || case.hops().next().is_some() {
        return None;
    }
    let miss = case.lookups().next_back().filter(|l| MISS.contains(&l.err) && l.role == LookupRole::Output)?;
    let sighting = &miss.step.sighting;
    let netns = sighting.packet.netns;
    let facts = case.namespace(netns)?;
    let device = facts.links.values().find(|l| l.name != "lo" && setting(facts, &l.name).is_some())?;
    let setting = setting(facts, &device.name)?;
    // A pod without IPv6 is no fault: programs try IPv6 everywhere, to find out.
    let meant = was_given_address(case) || was_switched_off(case, netns, &setting).is_some();
    if !meant {
        return None;
    }
    let place = case.place(sighting);
    let claim = format!(
        "{place} cannot reach {}: IPv6 is switched off on its {} ({setting}=1), and no packet was sent",
        case.journey.flow.dst.ip(),
        device.name
    );
    let draft = Draft::new(case, sighting.side, Some(device.name.clone()), claim)
        .proof(sighting.packet.mono_ns, format!("route look-up in table {}: no route", miss.table));
    Some(advised(case, draft, netns, sighting.side, &setting))
}

fn advised(case: &Case<'_>, draft: Draft, netns: u32, side: Side, setting: &str) -> Draft {
    let inside = if side == Side::Pod { "in the pod: " } else { "" };
    let mut draft = draft
        .proof(case.journey.last_ns, format!("{setting} is 1"))
        .detail(setting.to_owned())
        .fix(format!("{inside}sysctl -w {setting}=0; then add the addresses and routes again (recreate the pod)"))
        .fix(format!(
            "find what sets it: the CNI, the container runtime, /etc/sysctl.d (grep -r {setting} /etc/sysctl*)"
        ));
    draft.since = was_switched_off(case, netns, setting);
    draft
}

/// The setting that switches IPv6 off on the device. (`all` writes it to every device.)
fn setting(facts: &NamespaceFacts, device: &str) -> Option<String> {
    let own = of_device(device);
    (facts.sysctl(&own) == Some(1)).then_some(own)
}

fn of_device(device: &str) -> String {
    format!("net.ipv6.conf.{device}.disable_ipv6")
}

fn was_given_address(case: &Case<'_>) -> bool {
    let Some(pod) = &case.journey.pod else { return false };
    let entry = case.inventory.pod(&pod.namespace, &pod.name);
    entry.is_some_and(|p| p.ips.iter().any(std::net::IpAddr::is_ipv6))
}

fn was_switched_off(case: &Case<'_>, netns: u32, setting: &str) -> Option<String> {
    let change = case.last_change(netns, |c| matches!(&c.what, Changed::Sysctl(name, ..) if name == setting))?;
    match &change.what {
        Changed::Sysctl(_, _, after) if after == "1" => {
            Some(format!("{} {setting} was set to 1", case.clock(change.mono_ns)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, in_pod, lookup, syn};
    use super::*;
    use crate::model::{flow::Flow, inventory::PodEntry};

    fn v6() -> Flow {
        Flow { src: "[fd00::1]:4000".parse().expect("an address"), dst: "[fd00::2]:80".parse().expect("one"), ..flow() }
    }

    #[test]
    fn names_the_setting() {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv6.conf.vpod1.disable_ipv6".to_owned(), "1".to_owned());
        scene.step(1, drop_of(syn(), "IPV6DISABLED", "ip6_rcv_core", &[]), "vpod1");
        let draft = check(&scene.case()).expect("IPv6 is off");
        assert!(
            draft.claim.ends_with("on vpod1: IPv6 is switched off there (net.ipv6.conf.vpod1.disable_ipv6=1)"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn tells_a_pod_that_should_have_ipv6_from_one_that_should_not() {
        let mut scene = Scene::pod_to_db();
        scene.journey.flow = v6();
        scene.pod().sysctls.insert("net.ipv6.conf.eth0.disable_ipv6".to_owned(), "1".to_owned());
        scene.step(1, in_pod(lookup(254, -101, 0, LookupRole::Output)), "");
        assert_eq!(check(&scene.case()), None, "nobody says that the pod should have IPv6");
        scene.inventory.pods.push(PodEntry {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            ips: vec!["fd00::1".parse().expect("an address")],
            ..PodEntry::default()
        });
        let draft = check(&scene.case()).expect("it was given an IPv6 address");
        assert!(draft.claim.contains("cannot reach fd00::2: IPv6 is switched off on its eth0"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_missing_route() {
        let mut scene = Scene::pod_to_db();
        scene.journey.flow = v6();
        scene.step(1, in_pod(lookup(254, -101, 0, LookupRole::Output)), "");
        assert_eq!(check(&scene.case()), None);
    }
}
