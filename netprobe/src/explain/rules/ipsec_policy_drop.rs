//! An xfrm (IPsec) policy forbids the packet, or asks for a protection it does not have.

use crate::explain::{Case, Draft, Rule};

pub(super) const RULE: Rule = Rule {
    id: "ipsec-policy-drop",
    means: "an xfrm (IPsec) policy forbids the packet, or it came without the protection a policy asks for",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "XFRM_POLICY")?;
    Some(
        case.dropped_because(&drop, "an IPsec (xfrm) policy forbids it, or asks for a protection it does not have")
            .fix("ip xfrm policy; ip xfrm state  # the policy that covers the addresses, and whether its SA exists")
            .fix("restart the IPsec daemon (strongSwan, Libreswan, the CNI's encryption) so that it restores the SAs")
            .fix("/proc/net/xfrm_stat says which: XfrmInNoPols, XfrmInTmplMismatch, XfrmOutPolBlock, XfrmOutNoStates"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    #[test]
    fn says_that_a_policy_forbids_it() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "XFRM_POLICY", "ip_forward", &[]), "vpod1");
        let draft = check(&scene.case()).expect("a policy forbids it");
        assert!(draft.claim.contains("on vpod1: an IPsec (xfrm) policy forbids it"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_netfilter_rule() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "ip_forward"]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
