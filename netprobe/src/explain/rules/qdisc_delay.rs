//! Packets wait long in a device's queueing discipline before they leave.

use crate::{
    explain::{Case, Draft, Rule},
    model::{
        journey::Step,
        packet::{Head, Place, What},
    },
};

pub(super) const RULE: Rule =
    Rule { id: "qdisc-delay", means: "packets wait long in a device's queueing discipline before they leave", check };

/// A wait that people notice, nanoseconds: well above the 5 ms that `fq_codel` aims at, and above
/// what a full queue of 1,000 packets takes at 1 Gbit/s (12 ms).
const LONG_NS: u64 = 50_000_000;

struct Wait<'a> {
    step: &'a Step,
    ns: u64,
}

fn check(case: &Case<'_>) -> Option<Draft> {
    let waits = waits(case);
    let longest = waits.iter().max_by_key(|w| w.ns)?;
    let sighting = &longest.step.sighting;
    let (device, packet) = (sighting.device.to_string(), &sighting.packet);
    let kind = case.namespace(packet.netns)?.links.get(&packet.ifindex)?.qdisc.clone();
    let what = if longest.step.forward { "packets" } else { "answers" };
    let claim = format!(
        "{what} between {} and {} wait up to {} in the queue of {device} (qdisc {kind}) on {} before they leave",
        case.sender(),
        case.whither(),
        milliseconds(longest.ns),
        case.place(sighting)
    );
    let mut draft = Draft::new(case, sighting.side, Some(device.clone()), claim)
        .detail(kind.clone())
        .proof(packet.mono_ns, format!("net_dev_queue on {device}"))
        .proof(
            packet.mono_ns + longest.ns,
            format!("net_dev_start_xmit on {device} {} later", milliseconds(longest.ns)),
        )
        .fix(match kind.as_str() {
            "netem" => format!("remove the test impairment: tc qdisc del dev {device} root"),
            _ => "raise the bandwidth (kubernetes.io/egress-bandwidth, ingress-bandwidth) or send less".to_owned(),
        })
        .fix(format!("tc -s qdisc show dev {device}  # backlog, overlimits"));
    draft.count = waits.len() as u64;
    Some(draft)
}

/// Packets that were queued and left long after, in queues that may hold them.
fn waits<'a>(case: &Case<'a>) -> Vec<Wait<'a>> {
    let mut queued: Vec<(&'a Step, &'a Head)> = Vec::new();
    let mut waits = Vec::new();
    for step in case.steps() {
        let What::Hop { place, head, inner: None, .. } = &step.sighting.packet.what else {
            if matches!(step.sighting.packet.what, What::Retransmit { .. }) {
                // What is sent again looks like what was sent before; SYN and FIN are all seen, one by one.
                queued.retain(|(_, was)| was.flags.syn() || was.flags.fin());
            }
            continue;
        };
        match place {
            Place::Queue => queued.push((step, head)),
            Place::Transmit => {
                let whole = queued.iter().rposition(|(before, was)| is_same(before, was, step, head));
                let part = queued.iter().rposition(|(before, was)| is_part(before, was, step, head));
                let before = match (whole, part) {
                    (Some(at), _) => queued.swap_remove(at).0,
                    (None, Some(at)) => queued[at].0,
                    (None, None) => continue,
                };
                let ns = step.sighting.packet.mono_ns.saturating_sub(before.sighting.packet.mono_ns);
                if ns >= LONG_NS && holds_packets(case, before) {
                    waits.push(Wait { step: before, ns });
                }
            }
            _ => {}
        }
    }
    waits
}

/// The same packet at the same device. An `sk_buff` is not reused while it waits in a queue.
fn is_same(before: &Step, was: &Head, step: &Step, head: &Head) -> bool {
    let (a, b) = (&before.sighting.packet, &step.sighting.packet);
    (a.netns, a.ifindex) == (b.netns, b.ifindex)
        && (was.skb, was.flow, was.seq, was.ip_len) == (head.skb, head.flow, head.seq, head.ip_len)
}

/// A segment of the large packet that was queued: a shaper cuts what does not fit its bucket.
fn is_part(before: &Step, was: &Head, step: &Step, head: &Head) -> bool {
    let (a, b) = (&before.sighting.packet, &step.sighting.packet);
    (a.netns, a.ifindex, was.flow) == (b.netns, b.ifindex, head.flow)
        && head.payload > 0
        && head.payload < was.payload
        && head.seq.wrapping_sub(was.seq) < was.payload
}

/// `noqueue` holds nothing: a gap there is our own CPU's.
fn holds_packets(case: &Case<'_>, step: &Step) -> bool {
    let packet = &step.sighting.packet;
    let link = case.namespace(packet.netns).and_then(|n| n.links.get(&packet.ifindex));
    link.is_some_and(|l| !l.qdisc.is_empty() && l.qdisc != "noqueue")
}

fn milliseconds(ns: u64) -> String {
    format!("{} ms", ns / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, hop, syn};
    use super::*;
    use crate::model::packet::TcpFlags;

    fn scene(qdisc: &str, wait_ms: u64) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.node().links.get_mut(&Scene::ETH1).expect("eth1").qdisc = qdisc.to_owned();
        scene.step(1, hop(Place::Queue, syn()), "eth1");
        scene.step(1 + wait_ms, hop(Place::Transmit, syn()), "eth1");
        scene
    }

    #[test]
    fn names_the_queue_and_the_wait() {
        let draft = check(&scene("tbf", 400).case()).expect("it waited");
        assert_eq!(
            draft.claim,
            "packets between shop/web-0 and 10.20.0.4:3306 wait up to 400 ms in the queue of eth1 (qdisc tbf) on the node \
             before they leave"
        );
    }

    #[test]
    fn knows_a_segment_of_a_packet_that_was_cut() {
        let mut scene = scene("tbf", 1);
        let segment = |seq, payload| Head { seq, payload, ip_len: payload + 40, flags: TcpFlags(0x10), ..syn() };
        scene.step(10, hop(Place::Queue, segment(100, 9_000)), "eth1");
        scene.step(310, hop(Place::Transmit, segment(5_000, 1_448)), "eth1");
        let draft = check(&scene.case()).expect("its part waited");
        assert!(draft.claim.contains("wait up to 300 ms"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_short_wait_and_where_no_queue_is() {
        assert_eq!(check(&scene("fq_codel", 6).case()), None);
        assert_eq!(check(&scene("noqueue", 400).case()), None);
    }
}
