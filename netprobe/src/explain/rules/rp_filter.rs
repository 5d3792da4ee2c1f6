//! The reverse-path filter: an answer to the packet's source would leave by another device.

use super::{super::intent, wrong_egress::is_global};
use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{facts::NamespaceFacts, packet::LookupRole},
};

pub(super) const RULE: Rule = Rule {
    id: "rp-filter",
    means: "the reverse-path filter dropped it: an answer to its source would leave by another device",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "IP_RPFILTER")?;
    let (device, flow) = (drop.device()?, drop.head.flow?);
    let facts = case.namespace(drop.sighting().packet.netns)?;
    let expected = way_back(case, &drop, facts);
    let (setting, value) = setting(facts, &device)?;
    let (all, own) = ("net.ipv4.conf.all.rp_filter", format!("net.ipv4.conf.{device}.rp_filter"));
    let claim = format!(
        "{} dropped the packet {flow} that came in by {device}: reverse-path filter ({setting}={value}){}",
        case.place(drop.sighting()),
        expected.as_ref().map_or_else(
            || ", and there is no way back to its source".to_owned(),
            |dev| format!(", because the way back to {} is {dev}", flow.src.ip()),
        )
    );
    let mut draft = case.about_drop(&drop, claim).detail(setting.clone());
    draft = draft.proof(drop.mono_ns(), format!("{setting} is {value}; the larger of {all} and {own} counts"));
    if let Some(dev) = &expected {
        let text = format!("the look-up for {} (an answer's way) gives {dev}, not {device}", flow.src.ip());
        draft = draft.proof(drop.mono_ns(), text);
    }
    draft.expected_device = expected;
    if let Some(Foreign { words, own }) = foreign(case, &drop) {
        draft.claim += &words;
        return Some(
            draft
                .fix(format!(
                    "send from the pod's own address ({own}): see what binds another, or forwards for others, in it"
                ))
                .fix(format!("if {} is meant (a VIP), route it to {device}", flow.src.ip())),
        );
    }
    Some(
        draft
            .fix("make the path symmetric: let the network send this traffic to the device that the route back names")
            .fix(format!("or loosen the filter: sysctl -w {own}=2 {all}=2")),
    )
}

/// A source that the pod behind the device does not have.
pub(super) struct Foreign {
    /// That it does not, as the end of a sentence.
    pub(super) words: String,
    /// Its own addresses.
    pub(super) own: String,
}

/// Whether the packet comes from a pod, by whose device it came in, with a source that is none of the pod's addresses.
pub(super) fn foreign(case: &Case<'_>, drop: &Drop<'_>) -> Option<Foreign> {
    let (packet, source) = (&drop.sighting().packet, drop.head.flow?.src.ip());
    let (inum, _) = case.facts.behind(packet.ifindex).filter(|_| packet.netns == case.facts.node)?;
    let behind = case.namespace(inum).filter(|pod| !pod.owns(source))?;
    let pod = case.journey.pod.as_ref().map_or_else(|| "the pod behind it".to_owned(), ToString::to_string);
    let own =
        behind.addresses.iter().map(|a| a.net.addr()).filter(|ip| ip.is_ipv6() == source.is_ipv6() && is_global(*ip));
    let own: Vec<String> = own.map(|ip| ip.to_string()).take(3).collect();
    let words = format!("; {source} is no address of {pod}, which sends it");
    (!own.is_empty()).then(|| Foreign { words, own: own.join(", ") })
}

/// The device of the way back: as the kernel's own reverse look-up said, else as the node's
/// tables say.
fn way_back(case: &Case<'_>, drop: &Drop<'_>, facts: &NamespaceFacts) -> Option<String> {
    let seen = case.lookups().rev().find(|l| {
        l.role == LookupRole::ReversePath
            && l.err == 0
            && l.step.sighting.packet.netns == facts.inum
            && l.step.sighting.packet.mono_ns <= drop.mono_ns()
    });
    if let Some(lookup) = seen {
        return Some(facts.device(lookup.out_ifindex));
    }
    let flow = drop.head.flow?.reversed();
    intent::device_of(facts, &flow, None, drop.head.mark)
}

/// The setting in force for `device`: the larger of `all` and the device's own.
fn setting(facts: &NamespaceFacts, device: &str) -> Option<(String, i64)> {
    let read = |name: String| facts.sysctl(&name).map(|value| (name, value));
    let own = read(format!("net.ipv4.conf.{device}.rp_filter"));
    let all = read("net.ipv4.conf.all.rp_filter".to_owned());
    own.into_iter().chain(all).max_by_key(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, lookup, syn, syn_ack};
    use super::*;
    use crate::model::{flow::Flow, packet::Head};

    #[test]
    fn names_the_setting_in_force_and_the_way_back() {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv4.conf.eth0.rp_filter".to_owned(), "0".to_owned());
        scene.node().sysctls.insert("net.ipv4.conf.all.rp_filter".to_owned(), "1".to_owned());
        scene.back(1, lookup(254, 0, Scene::ETH1, LookupRole::ReversePath), "");
        scene.back(2, drop_of(syn_ack(), "IP_RPFILTER", "ip_rcv_finish_core", &[]), "eth0");
        let draft = check(&scene.case()).expect("the filter dropped it");
        assert_eq!(
            draft.claim,
            "the node dropped the packet 10.20.0.4:3306 -> 10.9.0.29:41000 tcp that came in by eth0: reverse-path filter \
             (net.ipv4.conf.all.rp_filter=1), because the way back to 10.20.0.4 is eth1"
        );
        assert_eq!(draft.expected_device.as_deref(), Some("eth1"));
    }

    #[test]
    fn a_pod_that_sends_from_an_address_it_does_not_have_is_told() {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv4.conf.all.rp_filter".to_owned(), "1".to_owned());
        let spoofed = Flow { src: "10.9.0.77:41000".parse().expect("an address"), ..flow() };
        let head = Head { flow: Some(spoofed), ..syn() };
        scene.step(2, drop_of(head, "IP_RPFILTER", "ip_rcv_finish_core", &[]), "vpod1");
        let draft = check(&scene.case()).expect("the filter dropped it");
        assert!(draft.claim.ends_with("; 10.9.0.77 is no address of shop/web-0, which sends it"), "{}", draft.claim);
        assert!(draft.fix[0].starts_with("send from the pod's own address (10.9.0.29)"), "{}", draft.fix[0]);
    }

    #[test]
    fn stays_silent_on_another_reason() {
        let mut scene = Scene::pod_to_db();
        scene.back(2, drop_of(syn_ack(), "IP_LOCAL_SOURCE", "ip_rcv_finish_core", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
