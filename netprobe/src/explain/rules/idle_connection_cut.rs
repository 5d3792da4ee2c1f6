//! An established connection was idle, and afterwards nobody answers on it.

use crate::{
    explain::{
        Case, Draft, Rule,
        tcp::{Stuck, duration},
    },
    model::{finding::Confidence, packet::What, sighting::Side},
};

pub(super) const RULE: Rule = Rule {
    id: "idle-connection-cut",
    means: "an established connection that was idle is no longer answered: something outside forgot it",
    check,
};

/// A pause shorter than this no load balancer takes for idleness, nanoseconds.
const IDLE_NS: u64 = 2_000_000_000;
/// How long the first segment after the pause goes unanswered before it is told, nanoseconds: two retransmissions.
const WAIT_NS: u64 = 600_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let (point, forward) = talk.uplink?;
    if !talk.established() || case.drops().next().is_some() {
        return None;
    }
    let Stuck { first, copies } = talk.stuck(point, forward)?;
    let pause = talk.pause(point, first.ns);
    let silent = !talk.at(point, !forward).any(|s| s.ns > first.ns);
    if pause < IDLE_NS || !silent || first.head.flags.syn() {
        return None;
    }
    let peer = if forward { case.journey.flow.destination() } else { case.journey.flow.source() };
    let device = first.step.sighting.device.to_string();
    let anew = other_connection(case, first.ns);
    let news = if anew.is_some() { ", while a new connection works" } else { "" };
    let claim = format!(
        "the established connection of {} with {peer} is no longer answered after {} of idleness, although its segments \
         leave this node by {device}{news}: something outside forgot it",
        case.who(),
        duration(pause)
    );
    let last = copies.last().unwrap_or(&first);
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(if anew.is_some() { Confidence::Likely } else { Confidence::Possible })
        .detail(peer)
        .proof(first.ns.saturating_sub(pause), "last segment before the pause: the connection worked")
        .proof(first.ns, format!("first segment after {}, by {device}", duration(pause)))
        .proof(last.ns, format!("sent again {} times, no answer, no drop on this node", copies.len()));
    if let Some(ns) = anew {
        draft = draft.proof(ns, "a new connection to the same address and port was answered");
    }
    draft = draft
        .fix("keep it alive: TCP keepalive below the idle time-out of what is on the way (net.ipv4.tcp_keepalive_time=300)")
        .fix("or raise that idle time-out (load balancer, firewall, NAT gateway)");
    draft.proven_ns = first.ns + WAIT_NS;
    Some(draft)
}

/// When another connection of the pod to the same place was answered since.
fn other_connection(case: &Case<'_>, since_ns: u64) -> Option<u64> {
    let flow = case.journey.flow;
    let other = |j: &&crate::model::journey::Journey| {
        j.id != case.journey.id && j.last_ns > since_ns && j.flow.dst == flow.dst && j.flow.src.ip() == flow.src.ip()
    };
    case.journeys.iter().filter(other).flat_map(|j| &j.steps).find_map(|step| match &step.sighting.packet.what {
        What::Hop { head, .. } if !step.forward && head.flags.syn() && step.sighting.packet.mono_ns > since_ns => {
            Some(step.sighting.packet.mono_ns)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, hop, segment, syn, syn_ack},
        *,
    };
    use crate::model::packet::Place;

    fn cut(idle_ms: u64) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, syn_ack()), "eth1");
        scene.step(3, hop(Place::Transmit, segment(true, 2, 0, 2)), "eth1");
        for again in [0, 250, 750] {
            scene.step(idle_ms + again, hop(Place::Transmit, segment(true, 2, 50, 2)), "eth1");
        }
        scene
    }

    #[test]
    fn tells_how_long_it_was_idle() {
        let draft = check(&cut(4_003).case()).expect("it was cut");
        assert_eq!(
            draft.claim,
            "the established connection of shop/web-0 with 10.20.0.4:3306 is no longer answered after 4.0 s of idleness, \
             although its segments leave this node by eth1: something outside forgot it"
        );
        assert_eq!((draft.confidence, draft.device.as_deref()), (Confidence::Possible, Some("eth1")));
    }

    #[test]
    fn stays_silent_without_a_pause_and_after_an_answer() {
        assert_eq!(check(&cut(100).case()), None, "it was not idle");
        let mut scene = cut(4_003);
        scene.back(5_000, hop(Place::Receive, segment(false, 2, 0, 52)), "eth1");
        assert_eq!(check(&scene.case()), None, "it was answered");
    }
}
