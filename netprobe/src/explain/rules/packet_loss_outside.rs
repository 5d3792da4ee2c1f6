//! Segments that left had to be sent again, others got through: packets are lost outside.

use crate::{
    explain::{
        Case, Draft, Rule,
        tcp::{Hole, Point, Repeat, TIMEOUT_NS, Talk, after, duration},
    },
    model::{finding::Confidence, packet::What, sighting::Side},
};

pub(super) const RULE: Rule = Rule {
    id: "packet-loss-outside",
    means: "segments that left had to be sent again while others got through: packets are lost outside this node",
    check,
};

/// One loss happens on any network; more of one connection are worth a word.
const LOSSES: usize = 2;

/// Segments that were lost on the way, by what tells of each.
struct Losses<'a> {
    /// Left and sent again after a time-out: when first and when again, and whether it was heard of since.
    sent: Vec<((u64, u64), bool)>,
    /// Left and sent again because the peer had what comes after.
    asked: Vec<Repeat<'a>>,
    /// Of the peer, missing or repeated until a time-out of its: since when, and when it came.
    come: Vec<(u64, u64)>,
    /// Of the peer, missing though what comes after was there, and asked for again.
    holes: Vec<Hole>,
}

impl<'a> Losses<'a> {
    fn of(case: &Case<'a>, talk: &Talk<'a>, point: Point, out: bool) -> Self {
        let mut sent = sent_again(talk, point, out);
        let told = timed_out(case, talk, point, out);
        // Of a busy connection not every packet is seen; the time-outs of a pod's own sockets are.
        if told.len() > sent.len() {
            sent = told;
        }
        let (asked, holes) = (talk.asked_again(point, out), talk.holes(point, !out));
        Self { sent, asked, come: came_late(talk, point, !out), holes }
    }

    /// How many left and were lost, and how many of the peer.
    fn counts(&self) -> (usize, usize) {
        (self.sent.len() + self.asked.len(), self.come.len().max(self.holes.len()))
    }

    /// Something that was waited for in vain got through later: neither a dead peer nor an MTU does that.
    fn recovered(&self) -> bool {
        let heard = self.sent.iter().any(|(_, heard)| *heard);
        let filled = self.holes.iter().any(|hole| hole.filled_ns.is_some());
        heard || filled || !self.come.is_empty() || !self.asked.is_empty()
    }

    /// When the last one was noticed.
    fn last_ns(&self) -> Option<u64> {
        let times = self.sent.iter().map(|(times, _)| times.1).chain(self.come.iter().map(|times| times.1));
        times.chain(self.asked.iter().map(|r| r.copy.ns)).chain(self.holes.iter().map(|h| h.since_ns)).max()
    }

    /// Three of each, as evidence.
    fn proofs(&self, device: &str) -> Vec<(u64, String)> {
        let sent = self.sent.iter().take(3).map(|((first_ns, again_ns), _)| {
            let waited = duration(again_ns - first_ns);
            (*again_ns, format!("sent again by {device} after {waited} or more, no drop on this node"))
        });
        let come = self.come.iter().take(3).map(|(missed_ns, came_ns)| {
            (*came_ns, format!("a segment of the peer came {} late by {device}", duration(came_ns - missed_ns)))
        });
        let asked = self.asked.iter().take(3);
        let asked = asked.map(|r| (r.copy.ns, format!("sent again by {device}: the peer had what comes after it")));
        let holes = self.holes.iter().take(3);
        let holes =
            holes.map(|h| (h.since_ns, format!("what came in by {device} had a hole, which was asked for again")));
        sent.chain(come).chain(asked).chain(holes).collect()
    }
}

fn check(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let (point, out) = talk.uplink?;
    if !talk.established() {
        return None;
    }
    let losses = Losses::of(case, talk, point, out);
    let (away, home) = losses.counts();
    if !losses.recovered() || away + home < LOSSES {
        return None;
    }
    // What this node dropped was lost here; what it drops of a connection that is over was not what was missing.
    let last_ns = losses.last_ns()?;
    if case.drops().any(|drop| drop.sighting().packet.mono_ns <= last_ns) {
        return None;
    }
    let device = talk.at(point, out).next().or_else(|| talk.at(point, !out).next())?.step.sighting.device.to_string();
    let flow = case.journey.flow;
    let peer = if out { flow.destination() } else { flow.source() };
    let mut told = Vec::new();
    if away > 0 {
        told.push(format!("{} that left by {device} had to be sent again", segments(away)));
    }
    if home > 0 {
        told.push(format!("{} of the peer came only when it sent them again", segments(home)));
    }
    let claim = format!(
        "packets between {} and {peer} are lost outside this node: {}, while others got through",
        case.who(),
        told.join(" and ")
    );
    // Before any time-out, what was missing may only have come by another way, and late.
    let timed_out = !losses.sent.is_empty() || !losses.come.is_empty();
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(if timed_out { Confidence::Likely } else { Confidence::Possible })
        .detail(if out { flow.dst.ip() } else { flow.src.ip() }.to_string());
    for (ns, text) in losses.proofs(&device) {
        draft = draft.proof(ns, text);
    }
    draft.count = (away + home) as u64;
    Some(
        draft
            .fix(format!("network team: errors, overloaded links or rate limits between {device} and {peer}"))
            .fix(format!("ethtool -S {device} | grep -Ei 'drop|err'; mtr -T {peer}")),
    )
}

/// `1 segment`, `2 segments`
fn segments(count: usize) -> String {
    if count == 1 { "1 segment".to_owned() } else { format!("{count} segments") }
}

/// When what left was first sent and sent again after a time-out, and whether it was acknowledged then.
fn sent_again(talk: &Talk<'_>, point: Point, out: bool) -> Vec<((u64, u64), bool)> {
    let acked = talk.acked(point, out);
    let repeats = talk.repeats(point, out).into_iter().filter(|r| r.timed_out());
    repeats.map(|r| ((r.first_ns, r.copy.ns), acked.is_some_and(|acked| !after(r.copy.end(), acked)))).collect()
}

/// The same from the time-outs of the sender's socket: when it timed out, and whether the peer said something since.
fn timed_out(case: &Case<'_>, talk: &Talk<'_>, point: Point, out: bool) -> Vec<((u64, u64), bool)> {
    let mut times: Vec<u64> = Vec::new();
    for step in case.steps().filter(|s| s.forward == out) {
        let ns = step.sighting.packet.mono_ns;
        let anew = times.last().is_none_or(|last| ns.saturating_sub(*last) >= TIMEOUT_NS);
        if anew && matches!(step.sighting.packet.what, What::Retransmit { timeouts: 1.., .. }) {
            times.push(ns);
        }
    }
    let heard = talk.at(point, !out).next_back().map_or(0, |s| s.ns);
    times.into_iter().map(|ns| ((ns.saturating_sub(TIMEOUT_NS), ns), heard > ns)).collect()
}

/// When a segment of the peer was missing (the one after it had come), or came though it had come before, and when
/// it came then.
fn came_late(talk: &Talk<'_>, point: Point, back: bool) -> Vec<(u64, u64)> {
    let mut late = Vec::new();
    let mut latest: Option<(u32, u64)> = None;
    for segment in talk.at(point, back).filter(|s| s.counts()) {
        match latest {
            Some((end, since_ns)) if !after(segment.end(), end) => {
                if segment.ns - since_ns >= TIMEOUT_NS {
                    late.push((since_ns, segment.ns));
                }
            }
            _ => latest = Some((segment.end(), segment.ns)),
        }
    }
    late
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, hop, segment, syn, syn_ack},
        *,
    };
    use crate::model::packet::Place;

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.step(1_001, hop(Place::Transmit, syn()), "eth1");
        scene.back(1_002, hop(Place::Receive, syn_ack()), "eth1");
        scene.step(1_003, hop(Place::Transmit, segment(true, 2, 100, 2)), "eth1");
        scene.step(1_250, hop(Place::Transmit, segment(true, 2, 100, 2)), "eth1");
        scene
    }

    #[test]
    fn tells_how_many_were_lost() {
        let mut scene = scene();
        scene.back(1_251, hop(Place::Receive, segment(false, 2, 0, 102)), "eth1");
        let draft = check(&scene.case()).expect("two were lost");
        assert_eq!(
            draft.claim,
            "packets between shop/web-0 and 10.20.0.4:3306 are lost outside this node: 2 segments that left by eth1 had to be \
             sent again, while others got through"
        );
    }

    /// The `nth` packet of its direction at its device.
    fn nth(nth: u64, what: What) -> What {
        match what {
            What::Hop { place, head, ct, inner, .. } => What::Hop { place, head, ct, inner, seen: nth },
            other => other,
        }
    }

    #[test]
    fn tells_holes_that_were_asked_for_again() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, nth(1, hop(Place::Transmit, syn())), "eth1");
        scene.back(2, nth(1, hop(Place::Receive, syn_ack())), "eth1");
        for (ms, n, seq) in [(10, 2, 1002), (20, 4, 3002)] {
            scene.back(ms, nth(n, hop(Place::Receive, segment(false, seq, 1000, 2))), "eth1");
            scene.step(ms + 1, nth(n, hop(Place::Transmit, segment(true, 2, 0, seq - 1000))), "eth1");
            scene.back(ms + 2, nth(n + 1, hop(Place::Receive, segment(false, seq - 1000, 1000, 2))), "eth1");
        }
        let draft = check(&scene.case()).expect("two were lost");
        assert_eq!((draft.confidence, draft.count), (Confidence::Possible, 2));
        assert!(draft.claim.contains("2 segments of the peer came only"), "{}", draft.claim);
    }

    #[test]
    fn says_nothing_of_holes_among_samples() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, nth(1, hop(Place::Transmit, syn())), "eth1");
        scene.back(2, nth(1, hop(Place::Receive, syn_ack())), "eth1");
        for (ms, n, seq) in [(10, 40, 1002), (20, 50, 3002)] {
            scene.back(ms, nth(n, hop(Place::Receive, segment(false, seq, 1000, 2))), "eth1");
            scene.step(ms + 1, nth(n, hop(Place::Transmit, segment(true, 2, 0, seq - 1000))), "eth1");
            scene.back(ms + 2, nth(n + 9, hop(Place::Receive, segment(false, seq - 1000, 1000, 2))), "eth1");
        }
        assert_eq!(check(&scene.case()), None, "others passed in between");
    }

    #[test]
    fn stays_silent_on_an_early_guess_and_a_single_loss() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, syn_ack()), "eth1");
        for ms in [3, 5, 8] {
            scene.step(ms, hop(Place::Transmit, segment(true, 2, 100, 2)), "eth1");
        }
        scene.back(43, hop(Place::Receive, segment(false, 2, 0, 102)), "eth1");
        assert_eq!(check(&scene.case()), None, "the answer was slow, nothing was lost");
        scene.step(50, hop(Place::Transmit, segment(true, 102, 100, 2)), "eth1");
        scene.step(260, hop(Place::Transmit, segment(true, 102, 100, 2)), "eth1");
        scene.back(261, hop(Place::Receive, segment(false, 2, 0, 202)), "eth1");
        assert_eq!(check(&scene.case()), None, "one is none");
    }
}
