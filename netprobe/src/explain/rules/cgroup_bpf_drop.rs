//! A BPF program on the pod's cgroup refused the packet.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{devices::CgroupProgram, finding::Confidence, packet::What},
};

pub(super) const RULE: Rule =
    Rule { id: "cgroup-bpf-drop", means: "a BPF program on the pod's cgroup refused the packet", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    egress(case).or_else(|| ingress(case)).or_else(|| refused(case))
}

/// The process got EPERM from send(), nothing was dropped and nothing was sent: a program on sendmsg refused it.
fn refused(case: &Case<'_>) -> Option<Draft> {
    let (step, comm) = case.steps().find_map(|step| match &step.sighting.packet.what {
        What::SendError { err, comm, .. } if *err == libc::EPERM as u32 => Some((step, comm)),
        _ => None,
    })?;
    if case.hops().any(|(s, ..)| s.forward) || case.all_drops().next().is_some() {
        return None;
    }
    let at_ns = step.sighting.packet.mono_ns;
    let claim = format!(
        "{} cannot send to {}: {comm} gets EPERM and no packet exists, so a BPF program on the cgroup of its process refuses \
         sendmsg",
        case.place(&step.sighting),
        case.whither()
    );
    Some(
        Draft::new(case, step.sighting.side, None, claim)
            .detail("sendmsg")
            .confidence(Confidence::Likely)
            .proof(at_ns, format!("sock_send_length: {comm} got EPERM, and no packet was dropped"))
            .fix("bpftool cgroup tree  # names the program and its cgroup")
            .fix("ask its owner: systemd, the CNI, a security agent"),
    )
}

fn egress(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "BPF_CGROUP_EGRESS")?;
    let draft = told(case, &drop, "egress", programs(case, &drop, "egress").as_slice());
    let is_tcp = case.steps().any(|s| matches!(s.sighting.packet.what, What::Retransmit { .. }));
    Some(if is_tcp {
        draft.proof(drop.mono_ns(), "TCP is not told: the application sees a time-out, not EPERM")
    } else {
        draft
    })
}

/// The kernel gives a socket's filter and the cgroup's program one reason: what is attached tells.
fn ingress(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "SOCKET_FILTER")?;
    let programs = programs(case, &drop, "ingress");
    (!programs.is_empty()).then(|| told(case, &drop, "ingress", programs.as_slice()))
}

fn told(case: &Case<'_>, drop: &Drop<'_>, direction: &'static str, programs: &[&CgroupProgram]) -> Draft {
    let place = case.place(drop.sighting());
    let who = match programs {
        [] => "a BPF program on the cgroup of its process".to_owned(),
        [one] => format!("{} on the cgroup {}", one.program, one.path),
        several => {
            let each: Vec<String> = several.iter().map(|p| format!("{} on the cgroup {}", p.program, p.path)).collect();
            format!("one of {}", each.join(", "))
        }
    };
    let mut draft = case.dropped_because(drop, &format!("{who} refuses {direction} on {place}")).detail(direction);
    for program in programs {
        draft = draft.proof(drop.mono_ns(), format!("attached to {} {direction}: {}", program.path, program.program));
    }
    draft
        .fix("bpftool cgroup tree  # names the program and its cgroup")
        .fix("ask its owner: systemd (IPAddressDeny=, IPEgressFilterPath=), the CNI, a security agent")
}

/// Programs on the way from the root to the pod's cgroup.
fn programs<'a>(case: &Case<'a>, drop: &Drop<'_>, hook: &str) -> Vec<&'a CgroupProgram> {
    let packet = &drop.sighting().packet;
    let Some(devices) = case.devices(packet.netns, packet.mono_ns) else { return Vec::new() };
    let pods = case.namespace(packet.netns).and_then(|n| n.cgroup.as_deref());
    let holds = |p: &&CgroupProgram| p.here || pods.is_some_and(|path| path.starts_with(p.path.as_str()));
    devices.cgroups.iter().filter(|p| p.hook == hook).filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;
    use crate::model::{
        asked::Reading,
        devices::{Devices, Program},
        sighting::Side,
    };

    #[test]
    fn says_that_a_program_refuses_egress() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "BPF_CGROUP_EGRESS", "ip_finish_output", &[])), "eth0");
        let draft = check(&scene.case()).expect("a program refused it");
        assert!(draft.claim.contains("a BPF program on the cgroup of its process refuses egress"), "{}", draft.claim);
        assert_eq!(draft.side, Side::Pod);
    }

    #[test]
    fn tells_an_ingress_program_from_a_sockets_filter() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "SOCKET_FILTER", "tcp_v4_rcv", &[])), "eth0");
        let program = |path: &str, here| CgroupProgram {
            path: path.to_owned(),
            hook: "ingress".to_owned(),
            program: Program { id: 9, name: "sd_fw_ingress".to_owned() },
            here,
        };
        scene.answer_in_pod(Reading::Devices(Devices { cgroups: vec![program("/a", false)], ..Devices::default() }));
        assert_eq!(check(&scene.case()), None, "it is another pod's");
        scene.answer_in_pod(Reading::Devices(Devices { cgroups: vec![program("/b", true)], ..Devices::default() }));
        let draft = check(&scene.case()).expect("it is on the pod's own");
        assert!(
            draft.claim.ends_with("program sd_fw_ingress (id 9) on the cgroup /b refuses ingress on shop/web-0"),
            "{}",
            draft.claim
        );
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
