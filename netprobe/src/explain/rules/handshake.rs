//! The answer to a SYN from outside left this node, and the handshake went no further: `no-reply` of the way back.

use crate::{
    explain::{Case, Draft, tcp::FIRST_TIMEOUT_NS},
    model::{finding::Confidence, packet::Place, sighting::Side},
};

/// Says by which device the SYN came in, by which its answer left, and that nothing followed.
pub(super) fn check(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let answers = || case.hops().filter(|(s, place, head)| !s.forward && *place == Place::Transmit && head.flags.syn());
    let leaves =
        |s: &crate::model::journey::Step| s.sighting.side == Side::Node && case.is_uplink(s.sighting.packet.ifindex);
    let (answer, _, head) = answers().find(|(s, ..)| leaves(s))?;
    let same = |s: &crate::model::journey::Step| s.sighting.packet.ifindex == answer.sighting.packet.ifindex;
    let tries = answers().filter(|(s, ..)| leaves(s) && same(s)).count();
    // Any other word of the client, or of ours, and the handshake went on.
    let went_on = talk.all(true).any(|s| !s.head.flags.opens()) || talk.all(false).any(|s| !s.head.flags.syn());
    if went_on || case.drops().next().is_some() {
        return None;
    }
    let asked = talk.all(true).find(|s| leaves(s.step))?;
    let (came, left) = (asked.step.sighting.device.to_string(), answer.sighting.device.to_string());
    let (client, source) = (case.journey.flow.src.ip(), head.flow?.src);
    let apart = if came == left {
        String::new()
    } else {
        format!(" (a firewall that saw the SYN by {came} may not let its answer pass by {left})")
    };
    let first_ns = answer.sighting.packet.mono_ns;
    let claim = format!(
        "the SYN of {client} to {} came in by {came}, its answer left this node by {left} from {source}, and nothing came \
         back: it is lost outside this node{apart}",
        case.whither()
    );
    let mut draft = Draft::new(case, Side::Node, Some(left.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(format!("{} {left}", case.journey.flow.destination()))
        .proof(asked.ns, format!("SYN received on {came}"))
        .proof(first_ns, format!("net_dev_start_xmit on {left}: SYN-ACK to {client}, {tries} times"))
        .fix(format!("look outside: security group, firewall, or routing from {left} to {client}"));
    if came != left {
        draft = draft.fix(format!("let the answer leave by {came}: ip route get {client} from {}", source.ip()));
    }
    draft.proven_ns = first_ns + FIRST_TIMEOUT_NS;
    Some(draft)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, hop, segment, syn, syn_ack};
    use super::*;

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Receive, syn()), "eth0");
        scene.back(2, hop(Place::Transmit, syn_ack()), "eth1");
        scene
    }

    #[test]
    fn an_answer_that_nobody_takes_is_told_with_both_devices() {
        let draft = check(&scene().case()).expect("nothing came back");
        assert!(draft.claim.contains("came in by eth0, its answer left this node by eth1"), "{}", draft.claim);
        assert_eq!((draft.device.as_deref(), draft.proven_ns), (Some("eth1"), 1_002_000_000));
    }

    #[test]
    fn a_handshake_that_goes_on_is_silent() {
        let mut scene = scene();
        scene.step(3, hop(Place::Receive, segment(true, 2, 0, 2)), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
