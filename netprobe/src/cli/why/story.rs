//! What worked on the way, told from the connection's journey. Pure.

use crate::model::{
    facts::table_name,
    flow::Proto,
    journey::{Journey, Step},
    packet::{Conntrack, Head, LookupRole, Place, What},
    sighting::Side,
    verdict::Passed,
};

/// The parts of the way that packets of the journey have gone.
pub(super) fn of(journey: &Journey) -> Vec<Passed> {
    let way = Way::of(journey);
    let mut parts = Vec::new();
    let mut tell = |part: &'static str, text: String| parts.push(Passed { ok: true, part: part.into(), text });
    let what = what(journey);
    if let Some((step, _)) = way.left_pod {
        tell("pod", format!("{what} left the pod by {}", step.sighting.device));
    }
    if let Some(ct) = way.translation {
        tell("nat", translation(ct));
    }
    if let Some((table, gateway)) = way.route {
        tell("route", format!("table {}{gateway}", table_name(table)));
    }
    if let Some((step, head)) = way.left_node {
        let to_pod = step.sighting.destination.yes().filter(|_| way.arrived.is_some());
        let source = head.flow.map_or_else(String::new, |flow| format!(" with source {}", flow.src.ip()));
        let text = match to_pod {
            Some(pod) => format!("{what} went to {pod} by {}", step.sighting.device),
            None => format!("{what} left this node by {}{source}", step.sighting.device),
        };
        tell("node", text);
    }
    if let (Some(answer), Some(sent_ns)) = (way.answer, way.sent_ns) {
        let took = answer.0.sighting.packet.mono_ns.saturating_sub(sent_ns);
        let by = if answer.0.sighting.device.is_empty() { "" } else { " by " };
        let name = answer_name(answer.1);
        tell("answer", format!("{name} came{by}{} after {}", answer.0.sighting.device, millis(took)));
    }
    parts
}

/// The sightings that tell the way.
#[derive(Default)]
struct Way<'a> {
    sent_ns: Option<u64>,
    left_pod: Option<(&'a Step, &'a Head)>,
    left_node: Option<(&'a Step, &'a Head)>,
    /// It was received in a pod of this node.
    arrived: Option<&'a Step>,
    route: Option<(u32, String)>,
    translation: Option<&'a Conntrack>,
    answer: Option<(&'a Step, &'a Head)>,
}

impl<'a> Way<'a> {
    fn of(journey: &'a Journey) -> Self {
        let mut way = Self::default();
        for step in &journey.steps {
            let side = step.sighting.side;
            match &step.sighting.packet.what {
                What::Hop { place, head, ct, inner: None, .. } => {
                    let slot = match (place, side, step.forward) {
                        (Place::Transmit, Side::Pod, true) => &mut way.left_pod,
                        (Place::Transmit, Side::Node, true) => &mut way.left_node,
                        (Place::Receive, _, false) => &mut way.answer,
                        _ => &mut None,
                    };
                    slot.get_or_insert((step, head));
                    if step.forward {
                        way.sent_ns.get_or_insert(step.sighting.packet.mono_ns);
                        let translated = ct.as_ref().filter(|ct| ct.dnat() || ct.snat());
                        way.translation = way.translation.or(translated);
                        if *place == Place::Receive && side == Side::Pod {
                            way.arrived.get_or_insert(step);
                        }
                    }
                }
                What::Lookup { table, err: 0, gateway, role, .. }
                    if step.forward && side == Side::Node && *role != LookupRole::ReversePath =>
                {
                    let via = gateway.map_or_else(String::new, |g| format!(" via {g}"));
                    let dev = &step.sighting.device;
                    let dev = if dev.is_empty() { String::new() } else { format!(" dev {dev}") };
                    // The local table's own routes say only that the address is the node's.
                    way.route = Some((*table, format!(": {}", format!("{via}{dev}").trim())));
                }
                _ => {}
            }
        }
        way
    }
}

fn translation(ct: &Conntrack) -> String {
    let mut words = Vec::new();
    if ct.dnat() {
        words.push(format!("{} became {}", ct.original.destination(), ct.reply.source()));
    }
    if ct.snat() {
        words.push(format!("source {} became {}", ct.original.source(), ct.reply.destination()));
    }
    words.join(", ")
}

fn what(journey: &Journey) -> &'static str {
    match journey.flow.proto {
        Proto::Tcp => "SYN",
        Proto::Udp => "the datagram",
        Proto::Icmp | Proto::Icmpv6 => "the echo request",
        Proto::Other(_) => "the packet",
    }
}

fn answer_name(head: &Head) -> String {
    match head.flow.map(|flow| flow.proto) {
        Some(Proto::Tcp) => match head.flags.to_string().as_str() {
            "SYN,ACK" => "SYN-ACK".to_owned(),
            "" => "a segment".to_owned(),
            flags => flags.to_owned(),
        },
        Some(Proto::Icmp | Proto::Icmpv6) => "the echo reply".to_owned(),
        _ => "an answer".to_owned(),
    }
}

fn millis(ns: u64) -> String {
    super::resolve::millis(std::time::Duration::from_nanos(ns))
}
