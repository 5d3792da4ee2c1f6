//! A connection was reset: by the application, by a peer that no longer knows it, or by something outside.

use crate::{
    explain::{
        Case, Draft, Rule,
        tcp::{Segment, Talk, duration},
    },
    model::{
        finding::Confidence,
        journey::Step,
        packet::{Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "connection-reset",
    means: "a connection was reset by the application, by a peer that no longer knows it, or by something outside",
    check,
};

/// A connection that said nothing for so long was idle, nanoseconds.
const IDLE_NS: u64 = 2_000_000_000;
/// How long a refused SYN waits to be told, nanoseconds: what else comes from the peer tells whether it was the peer.
const WAIT_NS: u64 = 800_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let rst = talk.all(false).find(|s| s.head.flags.rst())?;
    // Who has said all it wanted, or was told the end, loses nothing.
    let gave_up = talk.all(true).any(|s| s.head.flags.rst() && s.ns < rst.ns);
    if gave_up || talk.finished(true, rst.ns) || talk.finished(false, rst.ns) {
        return None;
    }
    if !talk.all(false).any(|s| s.ns < rst.ns && s.head.flags.syn()) && !talk.established() {
        return forged_refusal(case, rst);
    }
    let waits = talk.last_words(true, rst.ns).map_or(0, |s| s.ns) >= talk.last_words(false, rst.ns).map_or(0, |s| s.ns);
    let of_pod = waits.then(|| here(case, talk)).flatten();
    of_pod.or_else(|| outside(case, talk, waits))
}

/// A pod of this node reset it: its application, or its kernel, that has no such socket.
fn here(case: &Case<'_>, talk: &Talk<'_>) -> Option<Draft> {
    let (step, socket, reason) = case.steps().find_map(|step| match &step.sighting.packet.what {
        What::Reset { sent: true, socket, reason, .. } if !step.forward && is_abort(*socket, reason) => {
            Some((step, *socket, reason))
        }
        _ => None,
    })?;
    let (at_ns, place, whom) = (step.sighting.packet.mono_ns, case.place(&step.sighting), case.client());
    let target = case.journey.flow.destination();
    let claim = if socket {
        let how = if reason.ends_with("LINGER") { "with SO_LINGER 0" } else { "while received data was still unread" };
        format!("the application in {place} reset the connection of {whom} to {target}: it closed the socket {how}")
    } else {
        let pause = idle(talk, at_ns);
        format!(
            "{place} reset the connection of {whom} to {target}: its kernel knows no such connection any more{pause}"
        )
    };
    let proof =
        format!("tcp_send_reset in {place}, {} a socket ({})", if socket { "with" } else { "without" }, named(reason));
    let draft = Draft::new(case, Side::Pod, device_of(talk, step), claim)
        .confidence(if reason.is_empty() && socket { Confidence::Likely } else { Confidence::Stated })
        .detail(format!("{target} {socket}"))
        .proof(at_ns, proof);
    Some(if socket {
        draft.fix("the network is innocent: see in the application's log why it closes early (time-out, limit, crash)")
    } else {
        draft
            .fix("the process or the pod was restarted, or the packet went to another one than the connection's")
            .fix("connections that may outlive their peer need TCP keepalive, and clients must open them anew")
    })
}

/// The application's own doing, or the kernel's for lack of a socket; not a time-out.
fn is_abort(socket: bool, reason: &str) -> bool {
    if socket { reason.is_empty() || reason.starts_with("TCP_ABORT") || reason == "TCP_STATE" } else { true }
}

fn named(reason: &str) -> &str {
    if reason.is_empty() { "this kernel gives no reason" } else { reason }
}

fn device_of(talk: &Talk<'_>, step: &Step) -> Option<String> {
    let netns = step.sighting.packet.netns;
    let mut there = talk.all(false).filter(|s| s.step.sighting.packet.netns == netns);
    there.next().map(|s| s.step.sighting.device.to_string())
}

/// An RST came in from outside in the middle of a connection.
fn outside(case: &Case<'_>, talk: &Talk<'_>, waits: bool) -> Option<Draft> {
    let (point, _) = talk.uplink.filter(|(_, out)| *out)?;
    let rst = talk.at(point, false).find(|s| s.head.flags.rst())?;
    let (target, device) = (case.journey.flow.destination(), rst.step.sighting.device.to_string());
    let ttl = talk.at(point, false).find(|s| !s.head.flags.rst()).map(|s| s.head.ttl);
    let pause = idle(talk, rst.ns);
    // Who got the answer and was reset then has lost nothing, unless it was somebody else, or much later.
    if !waits && talk.pause(point, rst.ns) < IDLE_NS && ttl.is_none_or(|ttl| ttl == rst.head.ttl) {
        return None;
    }
    let by = match ttl {
        Some(ttl) if ttl != rst.head.ttl => format!(
            "something between them and not the peer sent the RST: its TTL is {}, that of the peer's packets {ttl}",
            rst.head.ttl
        ),
        _ if pause.is_empty() => "the peer, or a device in its name, ended it".to_owned(),
        _ => "the peer, or a load balancer or firewall in its name, no longer knows it".to_owned(),
    };
    let claim = format!(
        "the connection of {} to {target} was reset by an RST that came in by {device} from outside{pause}: {by}",
        case.who()
    );
    let seen = ttl.map_or_else(String::new, |ttl| format!("; the peer's packets have {ttl}"));
    let draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(format!("outside {target}"))
        .proof(
            rst.ns,
            format!("RST received on {device} with TTL {}{seen}; no reset was sent on this node", rst.head.ttl),
        )
        .fix(format!("see at {target} why it closes connections: its log, its limits, its idle time-out"));
    Some(if pause.is_empty() {
        draft.fix("look at the load balancers and firewalls on the way")
    } else {
        draft.fix("keep idle connections alive: TCP keepalive below the idle time-out of what is on the way")
    })
}

/// The SYN was answered by an RST which the peer cannot have sent.
fn forged_refusal(case: &Case<'_>, rst: &Segment<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let (point, _) = talk.uplink.filter(|(_, out)| *out)?;
    let rst = talk.at(point, false).find(|s| s.head.flags.rst()).filter(|s| s.ns <= rst.ns)?;
    let peer = case.journey.flow.dst.ip();
    let ttl = rst.head.ttl;
    let other = ttl_of(case, peer);
    let device = rst.step.sighting.device.to_string();
    let routed = case.decision(case.facts.node, true, u64::MAX).is_some_and(|l| l.err == 0 && l.gateway.is_some());
    let why = match other {
        Some(other) if other != ttl => format!("other packets of {peer} have TTL {other}"),
        None if is_fresh(ttl) && routed => format!("one hop away, but the way to {peer} leads over a gateway"),
        _ => return None,
    };
    let target = case.journey.flow.destination();
    let claim = format!(
        "the connection of {} to {target} was refused by an RST that came in by {device}, and not from {peer} itself: its TTL is {ttl}, {why}",
        case.who()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(format!("outside {target}"))
        .proof(rst.ns, format!("RST received on {device} with TTL {ttl}: {why}; no reset was sent on this node"))
        .fix(format!(
            "look for a firewall, proxy or load balancer behind {device} that refuses {target} (REJECT with tcp-reset)"
        ));
    draft.ready_ns = rst.ns + WAIT_NS;
    Some(draft)
}

/// TTL of what came in from that address and is no RST.
fn ttl_of(case: &Case<'_>, peer: std::net::IpAddr) -> Option<u8> {
    case.journeys.iter().flat_map(|j| &j.steps).find_map(|step| match &step.sighting.packet.what {
        What::Hop { place: Place::Receive, head, inner: None, .. }
            if step.sighting.side == Side::Node
                && !head.flags.rst()
                && head.flow.is_some_and(|f| f.src.ip() == peer)
                && case.is_uplink(step.sighting.packet.ifindex) =>
        {
            Some(head.ttl)
        }
        _ => None,
    })
}

/// The TTL is what a sender starts with.
const fn is_fresh(ttl: u8) -> bool {
    matches!(ttl, 64 | 128 | 255)
}

/// `, after it was idle for 5.0 s`, where the client's last request ended a pause.
fn idle(talk: &Talk<'_>, until_ns: u64) -> String {
    let mut times: Vec<u64> =
        talk.all(true).chain(talk.all(false)).map(|s| s.ns).filter(|ns| *ns <= until_ns).collect();
    times.sort_unstable();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    if longest >= IDLE_NS { format!(", after it was idle for {}", duration(longest)) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, flagged, flow, hop, in_pod, lookup_via, segment, syn, syn_ack},
        *,
    };
    use crate::model::packet::{Head, LookupRole};

    const RST: u8 = 4;

    fn connected() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, Head { ttl: 63, ..syn_ack() }), "eth1");
        scene.step(3, hop(Place::Transmit, segment(true, 2, 100, 2)), "eth1");
        scene
    }

    fn rst(ttl: u8) -> What {
        hop(Place::Receive, Head { ttl, ..flagged(RST, segment(false, 2, 0, 102)) })
    }

    #[test]
    fn tells_what_stands_in_between_by_its_ttl() {
        let mut scene = connected();
        scene.back(4, rst(255), "eth1");
        let draft = check(&scene.case()).expect("it was reset");
        assert_eq!(
            draft.claim,
            "the connection of shop/web-0 to 10.20.0.4:3306 was reset by an RST that came in by eth1 from outside: something \
             between them and not the peer sent the RST: its TTL is 255, that of the peer's packets 63"
        );
    }

    #[test]
    fn tells_a_connection_that_was_forgotten_while_idle() {
        let mut scene = connected();
        scene.back(4, hop(Place::Receive, segment(false, 2, 10, 102)), "eth1");
        scene.step(9_000, hop(Place::Transmit, segment(true, 102, 10, 12)), "eth1");
        scene.back(9_001, rst(63), "eth1");
        let draft = check(&scene.case()).expect("it was reset");
        assert!(draft.claim.contains("after it was idle for 8.9 s: the peer, or a load balancer"), "{}", draft.claim);
    }

    #[test]
    fn tells_the_application_that_did_not_read() {
        let mut scene = connected();
        let reset = What::Reset {
            flow: flow().reversed(),
            sent: true,
            socket: true,
            reason: "TCP_ABORT_ON_CLOSE".into(),
            state: "CLOSE",
        };
        scene.back(500, rst(64), "eth1");
        scene.back(501, in_pod(reset), "");
        let draft = check(&scene.case()).expect("it was reset");
        assert!(draft.claim.contains("it closed the socket while received data was still unread"), "{}", draft.claim);
    }

    #[test]
    fn tells_a_refusal_that_comes_from_the_first_hop() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, lookup_via(2, Scene::ETH1, "10.96.0.1", LookupRole::Input), "eth1");
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, Head { ttl: 64, ..flagged(RST + 16, segment(false, 0, 0, 2)) }), "eth1");
        let draft = check(&scene.case()).expect("it is forged");
        assert!(draft.claim.contains("not from 10.20.0.4 itself: its TTL is 64, one hop away"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_where_nobody_waits_and_on_a_closed_port() {
        let mut scene = connected();
        scene.back(4, hop(Place::Receive, segment(false, 2, 10, 102)), "eth1");
        scene.back(5, rst(63), "eth1");
        assert_eq!(check(&scene.case()), None, "the answer was there");
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, rst(62), "eth1");
        assert_eq!(check(&scene.case()), None, "it is the peer that refuses");
        let mut scene = connected();
        scene.step(5, hop(Place::Transmit, flagged(RST, segment(true, 102, 0, 2))), "eth1");
        assert_eq!(check(&scene.case()), None, "the client gave up");
    }
}
