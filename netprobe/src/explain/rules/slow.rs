//! Everything arrives, but late: the server takes its time, or the network does.

use crate::{
    explain::{
        Case, Draft, Rule,
        tcp::{Point, Talk, after, duration},
    },
    model::{finding::Confidence, sighting::Side},
};

/// The server.
pub(super) const SERVER: Rule = Rule {
    id: "slow-server",
    means: "the server acknowledges requests at once and answers late: the application is slow, not the network",
    check: server,
};

/// The network.
pub(super) const NETWORK: Rule = Rule {
    id: "slow-network",
    means: "handshake and acknowledgements take long outside this node: the path is slow, not the server",
    check: network,
};

/// An answer later than this keeps people waiting, nanoseconds.
const SLOW_NS: u64 = 900_000_000;
/// One later than this is asked for: long polling holds a request for 20 s and more.
const POLL_NS: u64 = 15_000_000_000;
/// One slow answer may be a heavy question, and two may be what the server wanted to say anyway.
const SLOW_ANSWERS: usize = 3;
/// A round trip longer than this is no distance on land or under sea, nanoseconds: half the globe and back in fibre
/// takes 200 ms.
const FAR_NS: u64 = 220_000_000;
/// How far apart two delayed acknowledgements may lie, nanoseconds (`TCP_DELACK_MAX`).
const DELAYED_ACK_NS: u64 = 200_000_000;

/// A request, when it was acknowledged, and when its answer began.
struct Exchange {
    asked_ns: u64,
    acked_ns: Option<u64>,
    answered_ns: u64,
}

fn server(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let point = talk.server?;
    let all = exchanges(talk, point)?;
    let wait = |e: &Exchange| e.answered_ns - e.asked_ns;
    let slow: Vec<&Exchange> = all.iter().filter(|e| wait(e) >= SLOW_NS).collect();
    let prompt = |e: &&Exchange| e.acked_ns.is_some_and(|ns| ns - e.asked_ns <= DELAYED_ACK_NS);
    // Of a server that answers some requests at once, the slow ones are another kind of question.
    let most = slow.len() >= SLOW_ANSWERS && slow.len() * 2 > all.len() && slow.iter().all(prompt);
    if !most || slow.iter().any(|e| wait(e) >= POLL_NS) || case.drops().next().is_some() {
        return None;
    }
    let mean = slow.iter().map(|e| wait(e)).sum::<u64>() / slow.len() as u64;
    let ack = slow.iter().filter_map(|e| e.acked_ns.map(|ns| ns - e.asked_ns)).max().unwrap_or(0);
    let server = case.whither();
    let claim = format!(
        "{server} acknowledges the requests of {} within {} but answers only after about {} ({} requests): the server is slow, \
         not the network",
        case.client(),
        duration(ack),
        duration(mean),
        slow.len()
    );
    let (side, device) = where_is(case, talk, point);
    let mut draft =
        Draft::new(case, side, device, claim).confidence(Confidence::Likely).detail(case.journey.flow.destination());
    for e in slow.iter().take(3) {
        let acked =
            e.acked_ns.map_or_else(String::new, |ns| format!("acknowledged after {}, ", duration(ns - e.asked_ns)));
        draft = draft.proof(e.answered_ns, format!("request {acked}answered after {}", duration(wait(e))));
    }
    draft.count = slow.len() as u64;
    Some(draft.fix(format!("look at the server {server}: slow-query log, CPU, memory, what it waits for itself")))
}

/// Requests and their answers where the two alternate; other protocols have no requests.
fn exchanges(talk: &Talk<'_>, point: Point) -> Option<Vec<Exchange>> {
    let mut exchanges = Vec::new();
    let mut words: Vec<_> = talk.at(point, true).chain(talk.at(point, false)).filter(|s| s.head.payload > 0).collect();
    words.sort_by_key(|s| s.ns);
    let mut asked: Option<(u64, u32, u64)> = None;
    let mut said_ns = None;
    for word in words {
        match (word.forward, asked) {
            // A request in several segments is written at once; who writes again after a while does not wait.
            (true, Some((first_ns, _, last_ns))) if word.ns - last_ns < DELAYED_ACK_NS => {
                asked = Some((first_ns, word.end(), word.ns));
            }
            (true, Some(_)) => return None,
            (true, None) => asked = Some((word.ns, word.end(), word.ns)),
            (false, Some((_, end, last_ns))) => {
                let ack =
                    talk.at(point, false).find(|s| s.ns >= last_ns && s.head.flags.ack() && !after(end, s.head.ack));
                exchanges.push(Exchange { asked_ns: last_ns, acked_ns: ack.map(|s| s.ns), answered_ns: word.ns });
                asked = None;
                said_ns = Some(word.ns);
            }
            // More of the answer, or a greeting; what comes later and unasked is no answer to anything.
            (false, None) => {
                if said_ns.is_some_and(|ns| word.ns - ns >= DELAYED_ACK_NS) {
                    return None;
                }
                said_ns = said_ns.map(|_| word.ns);
            }
        }
    }
    Some(exchanges)
}

fn network(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let (point, out) = talk.uplink?;
    if case.drops().next().is_some() {
        return None;
    }
    let syn = talk.at(point, out).find(|s| s.head.flags.syn())?;
    let answer = talk.at(point, !out).find(|s| s.ns > syn.ns && s.head.flags.ack() && !s.head.flags.rst())?;
    let handshake = answer.ns - syn.ns;
    let again = talk.repeats(point, out).iter().any(|r| r.copy.head.flags.syn() && r.copy.ns < answer.ns);
    // From 1 s on TCP would have asked again.
    if handshake < FAR_NS || again {
        return None;
    }
    let acked = |s: &&crate::explain::tcp::Segment<'_>| {
        let end = s.end();
        talk.at(point, !out).find(|a| a.ns > s.ns && a.head.flags.ack() && !after(end, a.head.ack)).map(|a| a.ns - s.ns)
    };
    let words = talk.at(point, out).filter(|s| s.head.payload > 0);
    let (at_ns, fastest) = words.filter_map(|s| acked(&s).map(|wait| (s.ns, wait))).min_by_key(|(_, wait)| *wait)?;
    if fastest < FAR_NS {
        return None;
    }
    let device = syn.step.sighting.device.to_string();
    let flow = case.journey.flow;
    let peer = if out { flow.destination() } else { flow.source() };
    let claim = format!(
        "the network between this node and {peer} is slow: a packet of {} that leaves by {device} is acknowledged after {} at \
         best, and the handshake took {}",
        case.who(),
        duration(fastest),
        duration(handshake)
    );
    let draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(if out { flow.dst.ip() } else { flow.src.ip() }.to_string())
        .proof(answer.ns, format!("SYN to its answer on {device}: {}", duration(handshake)))
        .proof(at_ns, format!("segment to its acknowledgement on {device}: {}", duration(fastest)));
    Some(
        draft
            .fix(format!("look at the path from {device} to {peer}: mtr -T {peer}; a detour, a full queue, a tunnel"))
            .fix("or move the two closer together: a round trip is paid for every request"),
    )
}

fn where_is(case: &Case<'_>, talk: &Talk<'_>, point: Point) -> (Side, Option<String>) {
    let side = if point.netns == case.facts.node { Side::Node } else { Side::Pod };
    (side, talk.at(point, true).next().map(|s| s.step.sighting.device.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, hop, segment, syn, syn_ack},
        *,
    };
    use crate::model::packet::{Head, Place};

    fn scene(ack_ms: u64, answer_ms: u64, times: u32) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(1 + ack_ms, hop(Place::Receive, Head { ack: 2, ..syn_ack() }), "eth1");
        let mut ms = 1 + ack_ms;
        for n in 0..times {
            let (seq, back) = (2 + n * 100, 2 + n * 200);
            scene.step(ms + 1, hop(Place::Transmit, segment(true, seq, 100, back)), "eth1");
            scene.back(ms + 1 + ack_ms, hop(Place::Receive, segment(false, back, 0, seq + 100)), "eth1");
            ms += 1 + answer_ms;
            scene.back(ms, hop(Place::Receive, segment(false, back, 200, seq + 100)), "eth1");
        }
        scene
    }

    #[test]
    fn tells_a_server_that_takes_its_time() {
        let draft = server(&scene(1, 1_000, 3).case()).expect("it is slow");
        assert_eq!(
            draft.claim,
            "10.20.0.4:3306 acknowledges the requests of shop/web-0 within 1.0 ms but answers only after about 1.0 s (3 \
             requests): the server is slow, not the network"
        );
        assert_eq!(network(&scene(1, 1_000, 3).case()), None);
    }

    #[test]
    fn tells_a_network_that_takes_its_time() {
        let draft = network(&scene(300, 310, 2).case()).expect("it is far");
        assert!(
            draft.claim.contains("is acknowledged after 300 ms at best, and the handshake took 300 ms"),
            "{}",
            draft.claim
        );
        assert_eq!(server(&scene(300, 310, 2).case()), None);
    }

    #[test]
    fn stays_silent_on_long_polling_and_a_single_heavy_question() {
        assert_eq!(server(&scene(1, 25_000, 3).case()), None, "it polls");
        assert_eq!(server(&scene(1, 3_000, 1).case()), None, "one is none");
        assert_eq!(server(&scene(1, 50, 5).case()), None);
        let mut pushes = scene(1, 1_000, 3);
        pushes.back(9_000, hop(Place::Receive, segment(false, 602, 10, 302)), "eth1");
        assert_eq!(server(&pushes.case()), None, "it speaks unasked");
    }
}
