//! An xfrm (IPsec) policy forbids the packet, or asks for a protection it does not have.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{asked::Window, counters::Counters},
};

pub(super) const RULE: Rule = Rule {
    id: "ipsec-policy-drop",
    means: "an xfrm (IPsec) policy forbids the packet, or it came without the protection a policy asks for",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_suspect)?;
    let packet = &drop.sighting().packet;
    let risen = case.counters(packet.netns, packet.mono_ns).and_then(|window| risen(&window));
    if &**drop.reason != "XFRM_POLICY" && risen.is_none() {
        return None;
    }
    let why = risen.as_ref().map_or(UNKNOWN, |(name, _)| meaning(name));
    let mut draft = case.dropped_because(&drop, why).detail("xfrm");
    if let Some((name, by)) = &risen {
        draft = draft.proof(packet.mono_ns, format!("{name} of /proc/net/xfrm_stat rose by {by}"));
    }
    Some(
        draft
            .fix("ip xfrm policy; ip xfrm state  # the policy that covers the addresses, and whether its SA exists")
            .fix("restart the IPsec daemon (strongSwan, Libreswan, the CNI's encryption) so that it restores the SAs")
            .fix("/proc/net/xfrm_stat says which: XfrmInNoPols, XfrmInTmplMismatch, XfrmOutPolBlock, XfrmOutNoStates"),
    )
}

/// What is true of every such drop.
const UNKNOWN: &str = "an IPsec (xfrm) policy forbids it, or asks for a protection it does not have";

/// IPv6 forwarding has no reason for it: the counters tell.
fn is_suspect(drop: &Drop<'_>) -> bool {
    &**drop.reason == "XFRM_POLICY" || (&**drop.reason == "NOT_SPECIFIED" && drop.site == "ip6_forward")
}

/// The counter of xfrm that rose most, and by how much.
fn risen(window: &Window<'_, Counters>) -> Option<(&'static str, u64)> {
    let by = |(name, _): &(&'static str, &str)| (*name, window.rise(&format!("xfrm.{name}")));
    MEANINGS.iter().map(by).filter(|(_, by)| *by > 0).max_by_key(|(_, by)| *by)
}

fn meaning(name: &str) -> &'static str {
    MEANINGS.iter().find(|(counter, _)| *counter == name).map_or(UNKNOWN, |(_, text)| *text)
}

/// Counters of `/proc/net/xfrm_stat` (`Documentation/networking/xfrm_proc.rst`) that go with a drop by policy.
const MEANINGS: &[(&str, &str)] = &[
    ("XfrmInPolBlock", "an IPsec (xfrm) policy discards such packets as they come in"),
    ("XfrmInNoPols", "it came without the IPsec protection that a policy asks for (no inbound policy fits)"),
    ("XfrmInTmplMismatch", "it came without the IPsec protection that an inbound policy asks for"),
    ("XfrmOutPolBlock", "an IPsec (xfrm) policy discards such packets as they go out"),
    (
        "XfrmOutNoStates",
        "an IPsec (xfrm) policy asks for protection and there is no SA for it: the key daemon has set up none",
    ),
    ("XfrmOutStateExpired", "the IPsec SA for it has expired and was not renewed"),
];

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;
    use crate::model::asked::Reading;

    #[test]
    fn says_that_a_policy_forbids_it() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "XFRM_POLICY", "ip_forward", &[]), "vpod1");
        let draft = check(&scene.case()).expect("a policy forbids it");
        assert!(draft.claim.contains("on vpod1: an IPsec (xfrm) policy forbids it"), "{}", draft.claim);
    }

    #[test]
    fn the_counter_that_rose_tells_which() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NOT_SPECIFIED", "ip6_forward", &[]), "vpod1");
        let counted = |n| Reading::Counters(Counters([("xfrm.XfrmOutNoStates".to_owned(), n)].into()));
        scene.answer_before(counted(2));
        scene.answer(counted(2));
        assert_eq!(check(&scene.case()), None, "no counter of xfrm rose");
        scene.answer(counted(3));
        let draft = check(&scene.case()).expect("there is no SA");
        assert!(draft.claim.contains("asks for protection and there is no SA for it"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_netfilter_rule() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "ip_forward"]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
