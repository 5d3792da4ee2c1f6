//! Small packets pass, those of full size vanish outside, and nobody says why.

use crate::{
    explain::{
        Case, Draft, Rule,
        tcp::{Point, Talk},
    },
    model::{
        finding::Confidence,
        packet::{Head, Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "mtu-blackhole",
    means: "handshake and small segments pass, full-size ones vanish outside, and no ICMP says why",
    check,
};

/// Every IPv4 link takes this (RFC 791): what is not larger does not die of its size. Bytes of IP.
const SMALL: u32 = 576;
/// How long a segment goes unacknowledged before it is told, nanoseconds: at least two time-outs.
const WAIT_NS: u64 = 600_000_000;
/// How long an echo waits for its answer, nanoseconds.
const ECHO_WAIT_NS: u64 = 1_000_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    if case.drops().next().is_some() || was_told(case) {
        return None;
    }
    match case.talk() {
        Some(talk) => outbound(case, talk).or_else(|| inbound(case, talk)),
        None => echo(case),
    }
}

/// Full-size segments leave again and again, and only they.
fn outbound(case: &Case<'_>, talk: &Talk<'_>) -> Option<Draft> {
    let (point, out) = talk.uplink?;
    let stuck = talk.stuck(point, out)?;
    let copy = stuck.copies.iter().min_by_key(|s| s.head.ip_len)?;
    let size = copy.head.ip_len;
    let acked = talk.acked(point, out)?;
    let passed = talk.at(point, out).filter(|s| s.counts() && !crate::explain::tcp::after(s.end(), acked));
    // A segment that GRO or TSO put together went over the wire in pieces, all but the last of full size.
    let largest = passed.map(|s| s.head.ip_len).max()?;
    if size <= SMALL || largest >= size || !talk.established() {
        return None;
    }
    let device = stuck.first.step.sighting.device.to_string();
    let (from, to) = ends(case, out);
    let claim = format!(
        "packets of {size} bytes from {from} to {to} leave this node by {device} and are lost outside, while those of up to \
         {largest} bytes pass and no ICMP says why: an MTU smaller than {size} on the way, with ICMP filtered"
    );
    let last = stuck.copies.last().unwrap_or(&stuck.first);
    let mut draft = draft(case, &device, claim, to)
        .proof(stuck.first.ns, format!("{size} bytes left by {device}, never acknowledged"))
        .proof(last.ns, format!("sent again {} times; {largest} bytes were acknowledged", stuck.copies.len()));
    draft.proven_ns = stuck.first.ns + WAIT_NS;
    Some(draft)
}

/// The peer's last, small segment came, and the full-size ones before it never.
fn inbound(case: &Case<'_>, talk: &Talk<'_>) -> Option<Draft> {
    let (point, out) = talk.uplink?;
    let (gap, size) = hole(talk, point, !out)?;
    let device = gap.step.sighting.device.to_string();
    let (to, from) = ends(case, out);
    let claim = format!(
        "full-size packets from {from} to {to} are lost outside this node, while smaller ones ({size} bytes) come in by {device}: \
         an MTU on the way back is smaller than theirs, with ICMP filtered"
    );
    let mut draft = draft(case, &device, claim, from)
        .proof(gap.ns, format!("a segment of {size} bytes came in by {device}; those before it never did"));
    draft.confidence = Confidence::Possible;
    draft.proven_ns = gap.ns + 2 * WAIT_NS;
    Some(draft)
}

/// A small segment that came, though what belongs before it is still missing.
fn hole<'t, 'a>(
    talk: &'t Talk<'a>,
    point: Point,
    forward: bool,
) -> Option<(&'t crate::explain::tcp::Segment<'a>, u32)> {
    // Of a busy connection some acknowledgements are not seen: they seem to be missing.
    if talk.is_sampled(point) {
        return None;
    }
    let acked = talk.acked(point, forward)?;
    let beyond: Vec<_> = talk
        .at(point, forward)
        .filter(|s| s.head.payload > 0 && crate::explain::tcp::after(s.head.seq, acked))
        .collect();
    let filled = talk.at(point, forward).any(|s| {
        s.counts() && !crate::explain::tcp::after(s.head.seq, acked) && crate::explain::tcp::after(s.end(), acked)
    });
    let largest = beyond.iter().map(|s| s.head.ip_len).max()?;
    // What is larger came at another time: it is not the size. GRO makes one packet of several, each but the last full.
    let passed = talk.at(point, forward).any(|s| s.head.ip_len > largest && s.head.payload > 0);
    if passed {
        return None;
    }
    let asked_again = talk.at(point, !forward).filter(|s| s.head.ack == acked && s.ns > beyond[0].ns).count() > 0;
    (!filled && asked_again && largest < 1_280).then(|| (beyond[0], largest))
}

/// A large echo request is not answered, though its destination answers small packets.
fn echo(case: &Case<'_>) -> Option<Draft> {
    let (_, exit) = case.exits()?;
    let What::Hop { head, .. } = &exit.sighting.packet.what else { return None };
    let request = case.hops().any(|(s, _, h)| s.forward && matches!(h.icmp, Some((8 | 128, _))));
    if !request || head.ip_len <= SMALL || case.answered() {
        return None;
    }
    let to = case.journey.flow.dst.ip();
    let smaller = case.journeys.iter().filter(|j| j.flow.dst.ip() == to && j.id != case.journey.id).find_map(|j| {
        let sent = j.steps.iter().find_map(|s| leaving(s.forward, &s.sighting.packet.what))?;
        let heard =
            j.steps.iter().find(|s| !s.forward && matches!(&s.sighting.packet.what, What::Hop { inner: None, .. }))?;
        (sent < head.ip_len).then_some((sent, heard.sighting.packet.mono_ns))
    })?;
    let (device, at_ns) = (exit.sighting.device.to_string(), exit.sighting.packet.mono_ns);
    let size = head.ip_len;
    let claim = format!(
        "an echo request of {size} bytes from {} to {to} left this node by {device} and is lost outside, while {to} answers small \
         packets and no ICMP says why: an MTU smaller than {size} on the way, with ICMP filtered",
        case.who()
    );
    let mut draft = draft(case, &device, claim, case.journey.flow.destination())
        .proof(at_ns, format!("{size} bytes left by {device}, no answer, no ICMP error"))
        .proof(smaller.1, format!("{to} answered a packet of {} bytes", smaller.0));
    draft.proven_ns = at_ns + ECHO_WAIT_NS;
    Some(draft)
}

fn leaving(forward: bool, what: &What) -> Option<u32> {
    match what {
        What::Hop { place: Place::Transmit, head, .. } if forward => Some(head.ip_len),
        _ => None,
    }
}

fn draft(case: &Case<'_>, device: &str, claim: String, peer: String) -> Draft {
    Draft::new(case, Side::Node, Some(device.to_owned()), claim)
        .confidence(Confidence::Likely)
        .detail(peer.rsplit_once(':').map_or(peer.clone(), |(ip, _)| ip.to_owned()))
        .fix("let ICMP type 3 code 4 (IPv6: packet too big) through on the way")
        .fix("lower the MTU of the pods, or clamp the MSS: iptables -t mangle -A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu")
}

/// Who sends what leaves, and to whom.
fn ends(case: &Case<'_>, out: bool) -> (String, String) {
    let flow = case.journey.flow;
    (case.who(), if out { flow.destination() } else { flow.source() })
}

/// "Fragmentation needed" or "packet too big" came, or was sent here: then it is no black hole.
fn was_told(case: &Case<'_>) -> bool {
    let too_big = |v6: bool, icmp: (u8, u8)| if v6 { icmp.0 == 2 } else { icmp == (3, 4) };
    let told = |head: &Head| head.flow.is_some_and(|f| head.icmp.is_some_and(|icmp| too_big(f.is_v6(), icmp)));
    case.steps().any(|s| match &s.sighting.packet.what {
        What::Hop { head, inner: Some(_), .. } => told(head),
        What::IcmpSent { head, icmp, .. } => too_big(head.flow.is_some_and(|f| f.is_v6()), *icmp),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, hop, segment, syn, syn_ack},
        *,
    };

    fn scene(size: u32) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, syn_ack()), "eth1");
        scene.step(3, hop(Place::Transmit, segment(true, 2, size, 2)), "eth1");
        scene.step(4, hop(Place::Transmit, segment(true, 2 + size, 100, 2)), "eth1");
        scene.back(5, hop(Place::Receive, segment(false, 2, 0, 2)), "eth1");
        scene.step(300, hop(Place::Transmit, segment(true, 2, size, 2)), "eth1");
        scene.step(700, hop(Place::Transmit, segment(true, 2, size, 2)), "eth1");
        scene
    }

    #[test]
    fn tells_which_size_is_lost_and_which_passes() {
        let draft = check(&scene(1448).case()).expect("large ones vanish");
        assert_eq!(
            draft.claim,
            "packets of 1500 bytes from shop/web-0 to 10.20.0.4:3306 leave this node by eth1 and are lost outside, while those \
             of up to 60 bytes pass and no ICMP says why: an MTU smaller than 1500 on the way, with ICMP filtered"
        );
    }

    #[test]
    fn stays_silent_on_small_ones_and_on_a_loss_that_was_made_good() {
        assert_eq!(check(&scene(100).case()), None, "it is not the size");
        let mut scene = scene(1448);
        scene.back(701, hop(Place::Receive, segment(false, 2, 0, 1450)), "eth1");
        assert_eq!(check(&scene.case()), None, "it got through");
    }
}
