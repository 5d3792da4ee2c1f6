//! DNS exchanges: who asked whom for what, how often, and what was answered.

use std::net::{IpAddr, SocketAddr};

use super::Case;
use crate::model::{
    dns::{Answer, Code, Message},
    journey::Journey,
    packet::{Place, What},
    sighting::Side,
};

/// Queries this close together belong to one search for a name, nanoseconds.
const TOGETHER_NS: u64 = 2_000_000_000;

/// Queries further away than this are not looked at, nanoseconds: a busy pod asks hundreds a second.
const NEAR_NS: u64 = 5_000_000_000;

/// A question and its answer, where the client is; of a client outside, where the server is.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// Number of its journey.
    pub journey: u64,
    /// Who asked.
    pub client: IpAddr,
    /// Who was asked, as the client addressed it.
    pub server: SocketAddr,
    /// The question.
    pub question: &'a Message,
    /// When it was asked, `CLOCK_MONOTONIC` nanoseconds: every try.
    pub asked_ns: Vec<u64>,
    /// The answer, and when it came.
    pub answer: Option<(u64, &'a Answer)>,
    /// When it came again: a server answers each try.
    pub again_ns: Vec<u64>,
    /// So many messages passed that some were left out: that an answer was not seen means nothing.
    pub sampled: bool,
}

impl Query<'_> {
    /// When it was asked first.
    #[must_use]
    pub fn first_ns(&self) -> u64 {
        self.asked_ns.first().copied().unwrap_or(0)
    }

    /// When it was asked last.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.asked_ns.last().copied().unwrap_or(0)
    }

    /// Outcome, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.answer.map(|(_, answer)| answer.code)
    }

    /// It asks for addresses.
    #[must_use]
    pub fn is_for_address(&self) -> bool {
        matches!(&*self.question.kind, "A" | "AAAA")
    }

    /// They are steps of one search for a name: one after the other, and one name is the other with more or less of
    /// the search list behind it.
    #[must_use]
    pub fn is_of_same_search(&self, other: &Self) -> bool {
        self.client == other.client
            && self.first_ns().abs_diff(other.first_ns()) <= TOGETHER_NS
            && is_same_base(&self.question.name, &other.question.name)
    }
}

/// The queries of a journey, in order.
#[must_use]
pub fn queries(journey: &Journey) -> Vec<Query<'_>> {
    let mut queries: Vec<Query<'_>> = Vec::new();
    // A pod that asks and a pod that answers both see the message: one of them counts.
    let sees = |place| {
        journey.steps.iter().find_map(|s| match s.sighting.packet.what {
            What::Dns { place: at, .. } if s.forward && at == place => Some(s.sighting.packet.netns),
            _ => None,
        })
    };
    let Some(netns) = sees(Place::Transmit).or_else(|| sees(Place::Receive)) else { return queries };
    for step in journey.steps.iter().filter(|s| s.sighting.packet.netns == netns) {
        let What::Dns { flow, message: Some(message), seen, .. } = &step.sighting.packet.what else { continue };
        let ns = step.sighting.packet.mono_ns;
        let same = |q: &&mut Query<'_>| {
            q.question.id == message.id && q.question.name == message.name && q.question.kind == message.kind
        };
        let known = queries.iter_mut().rev().find(same);
        let sampled = *seen > u64::from(netprobe_common::limits::BURST);
        match (step.forward, known, &message.answer) {
            (true, Some(query), None) if query.answer.is_none() => query.asked_ns.push(ns),
            (true, _, None) => queries.push(Query {
                journey: journey.id,
                client: flow.src.ip(),
                server: flow.dst,
                question: message,
                asked_ns: vec![ns],
                answer: None,
                again_ns: Vec::new(),
                sampled,
            }),
            (false, Some(query), Some(answer)) if query.answer.is_none() => query.answer = Some((ns, answer)),
            (false, Some(query), Some(_)) => query.again_ns.push(ns),
            _ => {}
        }
    }
    let sampled = journey.omitted > 0 || queries.iter().any(|q| q.sampled);
    queries.iter_mut().for_each(|q| q.sampled = sampled);
    queries
}

/// Queries of that client at about the time of the journey, in the order of their first try.
#[must_use]
pub fn of_client<'a>(case: &Case<'a>, client: IpAddr) -> Vec<Query<'a>> {
    let (from_ns, to_ns) =
        (case.journey.first_ns.saturating_sub(NEAR_NS), case.journey.last_ns.saturating_add(NEAR_NS));
    let near = |j: &Journey| j.last_ns >= from_ns && j.first_ns <= to_ns;
    let mine =
        |j: &&'a Journey| j.id != case.journey.id && near(j) && j.flow.src.ip() == client && j.flow.dst.port() == 53;
    let mut all: Vec<Query<'a>> = case.journeys.iter().filter(mine).flat_map(queries).collect();
    all.extend(queries(case.journey));
    all.sort_by_key(Query::first_ns);
    all
}

/// The server in words: with its service or pod where it is one of ours.
#[must_use]
pub fn server_name(case: &Case<'_>, server: SocketAddr) -> String {
    let ip = server.ip();
    let service = case.inventory.services.iter().find(|s| s.cluster_ips.contains(&ip));
    let name = service.map(|s| format!("{}/{}", s.namespace, s.name));
    let pod = || case.inventory.holder(ip).map(|p| format!("{}/{}", p.namespace, p.name));
    name.or_else(pod).map_or_else(|| ip.to_string(), |name| format!("{ip} ({name})"))
}

/// Where the journey's queries went at last: the side, the device, and in words, which say of those that were not answered
/// what became of them.
#[must_use]
pub fn whereto(case: &Case<'_>, answered: bool) -> (Side, Option<String>, String) {
    let reached = case.hops().find(|(step, place, _)| {
        step.forward && *place == Place::Receive && step.sighting.side == Side::Pod && &*step.sighting.device != "lo"
    });
    if let Some((step, ..)) = reached {
        let pod = case.place(&step.sighting);
        let text =
            if answered { format!("it reached {pod}") } else { format!("it reached {pod}, which did not answer") };
        return (Side::Pod, Some(step.sighting.device.to_string()), text);
    }
    // Where nobody looks inside the pods, the node's end of the link tells.
    let given = case.hops().find(|(step, place, _)| {
        let packet = &step.sighting.packet;
        step.forward
            && *place == Place::Transmit
            && packet.netns == case.facts.node
            && case.facts.behind(packet.ifindex).is_some()
    });
    if let Some((step, ..)) = given {
        let device = step.sighting.device.to_string();
        let pod = step.sighting.destination.yes().map_or_else(|| "a pod".to_owned(), ToString::to_string);
        let end = if answered { "" } else { ", and no answer was seen" };
        return (Side::Node, Some(device.clone()), format!("it went to {pod} by {device}{end}"));
    }
    match case.exits() {
        Some((_, exit)) => {
            let device = exit.sighting.device.to_string();
            let end = if answered { "" } else { ", and nothing came back" };
            let text = format!("it left this node by {device}{end}");
            (Side::Node, Some(device), text)
        }
        None => (Side::Node, None, "it was not seen to leave this node".to_owned()),
    }
}

/// Whether two names share their beginning, and the rest of one ends with the rest of the other.
#[must_use]
pub fn is_same_base(a: &str, b: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split('.').collect(), b.split('.').collect());
    let base = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a[base..], &b[base..]);
    base > 0 && (rest_a.ends_with(rest_b) || rest_b.ends_with(rest_a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_search_are_recognised() {
        assert!(is_same_base("api.com.default.svc.cluster.local", "api.com"));
        assert!(is_same_base("web.prod.default.svc.cluster.local", "web.prod.svc.cluster.local"));
        assert!(is_same_base("api.com", "api.com"));
        assert!(!is_same_base("api.com.default.svc.cluster.local", "apo.com"));
        assert!(!is_same_base("web.default.svc.cluster.local", "web.prod.svc.cluster.local"), "another namespace");
    }
}
