//! The packet's IP, TCP, UDP or ICMP checksum is wrong.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::sighting::Side,
};

pub(super) const RULE: Rule =
    Rule { id: "bad-checksum", means: "the packet's IP, TCP, UDP or ICMP checksum is wrong", check };

/// How long it waits, nanoseconds: the sender's next packets may get further, to a receiver that checks more.
const WAIT_NS: u64 = 300_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let wrong = || case.drops().filter_map(|drop| checksum(&drop).map(|which| (drop, which)));
    // The receiver checks more than those on the way: where both found something, it is the one to be told of.
    let (drop, which) = wrong().find(|(drop, _)| drop.sighting().side == Side::Pod).or_else(|| wrong().next())?;
    let device = drop.device().unwrap_or_else(|| "DEV".to_owned());
    let mut draft = case.dropped_because(&drop, &format!("its {which} checksum is wrong")).detail(which);
    draft.ready_ns = drop.mono_ns() + WAIT_NS;
    Some(
        draft
            .fix(format!("turn checksum offload off where the packet is made, and see if it helps: ethtool -K {device} tx off"))
            .fix("look for what changes packets without correcting the sum: an overlay, a middlebox, a BPF program, bad memory"),
    )
}

fn checksum(drop: &Drop<'_>) -> Option<&'static str> {
    match &**drop.reason {
        "IP_CSUM" => Some("IP"),
        "TCP_CSUM" => Some("TCP"),
        "UDP_CSUM" => Some("UDP"),
        "ICMP_CSUM" => Some("ICMP"),
        "SKB_CSUM" => Some("transport"),
        // No reason of its own for ICMPv6 and SCTP before Linux 6.3.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;

    #[test]
    fn names_the_checksum() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "TCP_CSUM", "tcp_v4_rcv", &[])), "eth0");
        let draft = check(&scene.case()).expect("the checksum is wrong");
        assert!(draft.claim.ends_with("to 10.20.0.4:3306 on eth0: its TCP checksum is wrong"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_bad_header() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "IP_INHDR", "ip_rcv_core", &[]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
