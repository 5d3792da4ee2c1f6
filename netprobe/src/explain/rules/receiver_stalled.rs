//! The receiving application does not read: its window is closed and the sender must wait.

use crate::{
    explain::{
        Case, Draft, Rule,
        tcp::{Segment, Talk, duration},
    },
    model::{finding::Confidence, sighting::Side},
};

pub(super) const RULE: Rule = Rule {
    id: "receiver-stalled",
    means: "the receiver advertises window 0: its application does not read, the network is fine",
    check,
};

/// How long a closed window is no more than a busy reader, nanoseconds.
const WAIT_NS: u64 = 1_000_000_000;

/// Bytes of payload of a window probe: none on Linux, one elsewhere.
const PROBE: u32 = 1;
/// How long data may have been on its way when the window closed, nanoseconds.
const IN_FLIGHT_NS: u64 = 50_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    [true, false].into_iter().find_map(|forward| stalled(case, talk, forward))
}

/// The sender of that direction waits.
fn stalled(case: &Case<'_>, talk: &Talk<'_>, forward: bool) -> Option<Draft> {
    let closed: Vec<&Segment<'_>> = talk.all(!forward).rev().take_while(|s| is_closed(s)).collect();
    let (last, first) = (closed.first()?, closed.last()?);
    // It still has something to say: it asks again and again whether the window is open.
    let later = || talk.all(forward).rev().filter(|s| s.ns > first.ns && !s.head.flags.rst());
    let asks = later().find(|s| s.head.payload <= PROBE)?;
    // Of a busy connection the segment that opened the window may not have been seen; what was sent then, was.
    if later().any(|s| s.head.payload > PROBE && s.ns > first.ns + IN_FLIGHT_NS) {
        return None;
    }
    let flow = case.journey.flow;
    let (receiver, sender) = if forward { (case.whither(), case.who()) } else { (case.who(), flow.destination()) };
    let side = if talk.all(!forward).any(|s| s.step.sighting.side == Side::Pod) { Side::Pod } else { Side::Node };
    let at = talk.all(!forward).find(|s| s.step.sighting.side == side).map(|s| s.step.sighting.device.to_string());
    let lasts = duration(case.now_ns.min(case.journey.last_ns.max(first.ns + WAIT_NS)).saturating_sub(first.ns));
    let claim = format!(
        "{receiver} does not read what {sender} sends: it advertises window 0, and the sender has waited for {lasts}; the network is fine"
    );
    let mut draft = Draft::new(case, side, at, claim)
        .confidence(Confidence::Likely)
        .detail(format!("{} {forward}", flow.destination()))
        .proof(first.ns, format!("ACK {} with window 0 from the receiver", first.head.ack))
        .proof(asks.ns, format!("the sender asks whether it is open; {} answers with window 0, no reset", closed.len()))
        .proof(last.ns, "the last of them; no segment with an open window came after it")
        .fix("look at the receiving application: CPU, locks, garbage collection, a full disk or queue behind it")
        .fix("ss -tinm in its pod: Recv-Q says how much it has not read");
    draft.proven_ns = first.ns + WAIT_NS;
    Some(draft)
}

const fn is_closed(segment: &Segment<'_>) -> bool {
    let flags = segment.head.flags;
    segment.head.window == 0 && flags.ack() && !flags.rst() && !flags.syn()
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, hop, segment, syn, syn_ack},
        *,
    };
    use crate::model::packet::{Head, Place};

    fn closed() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, syn_ack()), "eth1");
        scene.step(3, hop(Place::Transmit, segment(true, 2, 1000, 2)), "eth1");
        scene.back(4, hop(Place::Receive, Head { window: 0, ..segment(false, 2, 0, 1002) }), "eth1");
        scene.step(300, hop(Place::Transmit, segment(true, 1001, 0, 2)), "eth1");
        scene.back(301, hop(Place::Receive, Head { window: 0, ..segment(false, 2, 0, 1002) }), "eth1");
        scene
    }

    #[test]
    fn tells_who_does_not_read() {
        let draft = check(&closed().case()).expect("the window is closed");
        assert_eq!(
            draft.claim,
            "10.20.0.4:3306 does not read what shop/web-0 sends: it advertises window 0, and the sender has waited for \
             1.0 s; the network is fine"
        );
        assert_eq!(draft.proven_ns, 1_004_000_000);
    }

    #[test]
    fn stays_silent_once_the_window_is_open_again() {
        let mut scene = closed();
        scene.back(400, hop(Place::Receive, segment(false, 2, 0, 1002)), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
