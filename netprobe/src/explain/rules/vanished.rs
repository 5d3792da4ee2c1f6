//! The peer of an open connection says nothing any more: `no-reply` in the middle of a talk.

use crate::{
    explain::{
        Case, Draft,
        tcp::{Talk, duration},
    },
    model::{finding::Confidence, packet::What, sighting::Side},
};

/// How long segments go unacknowledged before the peer is given up, nanoseconds: four time-outs of TCP (200 ms, twice
/// as long each time).
const WAIT_NS: u64 = 3_000_000_000;
/// Errors of a connection that the kernel gave up for lack of an answer.
const GIVEN_UP: [i32; 2] = [libc::ETIMEDOUT, libc::EHOSTUNREACH];

/// Says that the peer vanished, and how TCP noticed.
pub(super) fn check(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let (point, out) = talk.uplink?;
    if !talk.established() || case.drops().next().is_some() {
        return None;
    }
    let heard = talk.at(point, !out).next_back()?;
    let (first_ns, end_ns, how) = given_up(case, talk).or_else(|| {
        let stuck = talk.stuck(point, out)?;
        let last = stuck.copies.last().filter(|s| s.ns - stuck.first.ns >= WAIT_NS && heard.ns < stuck.first.ns)?;
        let text =
            format!("segments were sent {} times in {}", stuck.copies.len() + 1, duration(last.ns - stuck.first.ns));
        Some((stuck.first.ns, last.ns, text))
    })?;
    let device = heard.step.sighting.device.to_string();
    let peer = if out { case.whither() } else { case.journey.flow.source() };
    let claim = format!(
        "{peer} stopped answering on an open connection of {}: {how}, they left this node by {device}, and nothing came back: \
         the peer is gone, or lost outside this node",
        case.who()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(format!("vanished {peer}"))
        .proof(heard.ns, format!("last word of the peer, by {device}"))
        .proof(first_ns, "first segment after it that was not answered")
        .proof(end_ns, how);
    if let Some((ns, from)) = unreachable(case) {
        draft = draft.proof(ns, format!("{from} says that it cannot reach the peer (ICMP)"));
    }
    Some(
        draft
            .fix(format!("see whether {peer} still runs and has its address; the path to it from {device}"))
            .fix("TCP keepalive noticed it: keep it on, so that dead connections do not hang"),
    )
}

/// The kernel closed the connection because nobody answered.
fn given_up(case: &Case<'_>, talk: &Talk<'_>) -> Option<(u64, u64, String)> {
    let (point, out) = talk.uplink?;
    let heard = talk.at(point, !out).next_back()?.ns;
    let last = |s: &&crate::explain::tcp::Segment<'_>| s.ns > heard && !s.head.flags.rst();
    let end_ns = case.steps().find_map(|step| {
        let gave_up = match &step.sighting.packet.what {
            What::Reset { sent: true, reason, .. } => &**reason == "TCP_KEEPALIVE_TIMEOUT",
            What::State { old, new: "CLOSE", err, .. } => {
                *old != "SYN_SENT" && i32::try_from(*err).is_ok_and(|err| GIVEN_UP.contains(&err))
            }
            _ => false,
        };
        (gave_up && step.forward == out).then_some(step.sighting.packet.mono_ns)
    })?;
    let unanswered: Vec<_> = talk.at(point, out).filter(last).collect();
    let probes = unanswered.iter().all(|s| s.head.payload == 0);
    let what = if probes { "keepalive probes got no answer" } else { "segments got no answer" };
    Some((
        unanswered.first()?.ns,
        end_ns,
        format!("{} {what} and the connection was given up (ETIMEDOUT)", unanswered.len()),
    ))
}

/// Who says, from outside, that the peer cannot be reached.
fn unreachable(case: &Case<'_>) -> Option<(u64, std::net::IpAddr)> {
    case.steps().find_map(|step| match &step.sighting.packet.what {
        What::Hop { head, inner: Some(_), .. } if matches!(head.icmp, Some((3, 0 | 1) | (1, 0 | 3))) => {
            Some((step.sighting.packet.mono_ns, head.flow?.src.ip()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, flow, hop, in_pod, segment, syn, syn_ack},
        *,
    };
    use crate::model::packet::Place;

    fn open() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, syn_ack()), "eth1");
        scene.step(3, hop(Place::Transmit, segment(true, 2, 0, 2)), "eth1");
        scene
    }

    #[test]
    fn tells_probes_that_nobody_answered() {
        let mut scene = open();
        for ms in [1_000, 2_000] {
            scene.step(ms, hop(Place::Transmit, segment(true, 1, 0, 2)), "eth1");
        }
        let closed = What::State { flow: flow(), old: "ESTABLISHED", new: "CLOSE", err: 110, comm: "swapper".into() };
        scene.step(3_000, in_pod(closed), "");
        let draft = check(&scene.case()).expect("it vanished");
        assert!(
            draft.claim.contains("keepalive probes got no answer and the connection was given up"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn stays_silent_on_a_short_outage() {
        let mut scene = open();
        for ms in [10, 220, 640] {
            scene.step(ms, hop(Place::Transmit, segment(true, 2, 50, 2)), "eth1");
        }
        assert_eq!(check(&scene.case()), None);
    }
}
