//! The peer answers a SYN with a bare ACK: it still remembers an old connection of the same port,
//! and drops the SYN (PAWS, TIME_WAIT behind one NAT address). Part of `no-reply`.

use crate::{
    explain::{Case, Draft},
    model::{finding::Confidence, packet::Place, sighting::Side},
};

/// How long the peer may take to accept the SYN after all, nanoseconds: a client answers the bare ACK
/// with RST, which makes the peer forget, and its SYN is sent again after 1 s (RFC 6298).
const WAIT_NS: u64 = 1_500_000_000;

pub(super) fn check(case: &Case<'_>) -> Option<Draft> {
    let (syn, ..) = case.hops().rev().find(|(s, place, head)| {
        s.forward
            && *place == Place::Transmit
            && head.flags.opens()
            && s.sighting.side == Side::Node
            && case.is_uplink(s.sighting.packet.ifindex)
    })?;
    let sent_ns = syn.sighting.packet.mono_ns;
    let answers = || {
        let after = |ns: u64| ns >= sent_ns;
        case.hops()
            .filter(move |(s, place, _)| !s.forward && *place == Place::Receive && after(s.sighting.packet.mono_ns))
    };
    let is_bare = |flags: crate::model::packet::TcpFlags| flags.0 & 0x17 == 0x10;
    if !answers().all(|(.., head)| is_bare(head.flags)) {
        return None;
    }
    let (ack, ..) = answers().find(|(s, ..)| case.is_uplink(s.sighting.packet.ifindex))?;
    let (device, target) = (syn.sighting.device.to_string(), case.whither());
    let claim = format!(
        "the SYN of {} to {target} left this node by {device} and was not accepted: the peer answers with a bare ACK, so it \
         still remembers an old connection of port {} (TIME_WAIT) and drops the SYN",
        case.sender(),
        case.journey.flow.src.port()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(format!("remembered {}", case.journey.flow.destination()))
        .proof(sent_ns, format!("net_dev_start_xmit on {device}: SYN"))
        .proof(ack.sighting.packet.mono_ns, format!("received on {}: ACK without SYN", ack.sighting.device))
        .fix("several clients behind one NAT address reuse its ports: give the translation more addresses or ports")
        .fix("on the server: nstat -az TcpExtPAWSTimewait TcpExtPAWSPassive; net.ipv4.tcp_tw_recycle=0 (before Linux 4.12)");
    draft.proven_ns = sent_ns + WAIT_NS;
    Some(draft)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, hop, syn, syn_ack};
    use super::*;
    use crate::model::packet::{Head, TcpFlags};

    fn answered_with(flags: u8) -> Option<Draft> {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, Head { flags: TcpFlags(flags), ..syn_ack() }), "eth1");
        check(&scene.case())
    }

    #[test]
    fn tells_a_bare_ack() {
        let draft = answered_with(0x10).expect("the SYN was not accepted");
        assert!(
            draft.claim.contains("it still remembers an old connection of port 41000 (TIME_WAIT)"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn stays_silent_on_an_accepted_and_on_a_refused_connection() {
        assert_eq!(answered_with(0x12), None);
        assert_eq!(answered_with(0x14), None);
    }
}
