//! A BPF program on the pod's cgroup refused the packet.

use crate::{
    explain::{Case, Draft, Rule},
    model::packet::What,
};

pub(super) const RULE: Rule =
    Rule { id: "cgroup-bpf-drop", means: "a BPF program on the pod's cgroup refused the packet", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "BPF_CGROUP_EGRESS")?;
    let place = case.place(drop.sighting());
    let because = format!("a BPF program on the cgroup of its process refuses egress on {place}");
    let mut draft = case.dropped_because(&drop, &because).detail("egress");
    if case.steps().any(|s| matches!(s.sighting.packet.what, What::Retransmit { .. })) {
        draft = draft.proof(drop.mono_ns(), "TCP is not told: the application sees a time-out, not EPERM");
    }
    Some(
        draft
            .fix("bpftool cgroup tree  # names the program and its cgroup")
            .fix("ask its owner: systemd (IPAddressDeny=, IPEgressFilterPath=), the CNI, a security agent"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;
    use crate::model::sighting::Side;

    #[test]
    fn says_that_a_program_refuses_egress() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "BPF_CGROUP_EGRESS", "ip_finish_output", &[])), "eth0");
        let draft = check(&scene.case()).expect("a program refused it");
        assert!(draft.claim.contains("a BPF program on the cgroup of its process refuses egress"), "{}", draft.claim);
        assert_eq!(draft.side, Side::Pod);
    }

    #[test]
    fn stays_silent_on_a_netfilter_rule_at_output() {
        let mut scene = Scene::pod_to_db();
        scene.step(
            1,
            in_pod(drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "__ip_local_out"])),
            "",
        );
        assert_eq!(check(&scene.case()), None);
    }
}
