//! The CPU's queue of received packets is full.

use crate::{
    explain::{Case, Draft, Rule},
    model::sighting::Side,
};

pub(super) const RULE: Rule =
    Rule { id: "cpu-backlog-full", means: "a CPU's queue of received packets is full (netdev_max_backlog)", check };

const LIMIT: &str = "net.core.netdev_max_backlog";

fn check(case: &Case<'_>) -> Option<Draft> {
    let full = || case.drops().filter(|d| &**d.reason == "CPU_BACKLOG");
    // The queue is the host's: a device of the node tells more than a pod's.
    let drop = full().find(|d| d.sighting().side == Side::Node).or_else(|| full().next())?;
    let cpu = drop.sighting().packet.cpu;
    let limit = case.facts.node().and_then(|n| n.sysctl(LIMIT)).map_or_else(String::new, |v| format!("={v}"));
    let because =
        format!("the receive queue of a CPU is full ({LIMIT}{limit}), so the packet was dropped before the IP layer");
    let mut draft = case
        .dropped_because(&drop, &because)
        .proof(
            drop.mono_ns(),
            format!("dropped while CPU {cpu} passed it on; column 2 of /proc/net/softnet_stat rises"),
        )
        .fix(format!("sysctl -w {LIMIT}=10000  # on the host; the kernel's default is 1000"))
        .fix("spread the load over the CPUs: RPS (/sys/class/net/DEV/queues/rx-0/rps_cpus), interrupt affinity");
    draft.side = Side::Node;
    Some(draft)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;

    #[test]
    fn names_the_limit_and_blames_the_node() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "CPU_BACKLOG", "enqueue_to_backlog", &[])), "eth0");
        let draft = check(&scene.case()).expect("the queue is full");
        assert!(draft.claim.contains("(net.core.netdev_max_backlog)"), "{}", draft.claim);
        assert_eq!(draft.side, Side::Node);
    }

    #[test]
    fn stays_silent_on_a_full_ring() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "FULL_RING", "tun_net_xmit", &[]), "tap0");
        assert_eq!(check(&scene.case()), None);
    }
}
