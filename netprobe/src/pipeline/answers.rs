//! Names that pods got from DNS for addresses: what `flows` calls a peer outside the cluster.
//!
//! A name holds for the pod that asked, for as long as its namespace is there, until a newer answer gives the same address
//! for another name.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::model::{
    flow::Flow,
    packet::{Place, What},
    sighting::{Side, Sighting},
};

/// Queries that wait for their answer at most; what is above is not named.
const ASKED_MAX: usize = 8_192;
/// How long a query waits, nanoseconds: resolvers give up after 5 s (`resolv.conf(5)`, timeout).
const WAIT_NS: u64 = 10_000_000_000;
/// Names at most: 64 for each of 250 pods. The older half goes.
const NAMES_MAX: usize = 16_384;

/// A query: namespace, flow from the pod, number, name.
type Query = (u32, Flow, u16, Arc<str>);

/// What pods asked, and what they were told.
#[derive(Default)]
pub(super) struct Answers {
    /// When each was asked, `CLOCK_MONOTONIC` nanoseconds.
    asked: BTreeMap<Query, u64>,
    /// By namespace and address: the name, and when it was told.
    names: HashMap<(u32, IpAddr), (Arc<str>, u64)>,
}

impl Answers {
    /// Takes a message that a pod sent or received. An answer that nobody asked for names nothing.
    pub(super) fn take(&mut self, sighting: &Sighting) {
        let packet = &sighting.packet;
        let What::Dns { flow, place, message: Some(message), .. } = &packet.what else { return };
        if sighting.side != Side::Pod {
            return;
        }
        let query = |flow| (packet.netns, flow, message.id, Arc::clone(&message.name));
        match (place, &message.answer) {
            (Place::Transmit, None) => self.ask(query(*flow), packet.mono_ns),
            (Place::Receive, Some(answer)) if self.asked.remove(&query(flow.reversed())).is_some() => {
                for address in &answer.addresses {
                    self.name((packet.netns, *address), &message.name, packet.mono_ns);
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, query: Query, now_ns: u64) {
        if self.asked.len() >= ASKED_MAX {
            self.asked.retain(|_, asked_ns| now_ns.saturating_sub(*asked_ns) < WAIT_NS);
        }
        if self.asked.len() < ASKED_MAX {
            self.asked.insert(query, now_ns);
        }
    }

    fn name(&mut self, key: (u32, IpAddr), name: &Arc<str>, now_ns: u64) {
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(&key) {
            let mut told: Vec<u64> = self.names.values().map(|(_, told_ns)| *told_ns).collect();
            let (_, middle, _) = told.select_nth_unstable(NAMES_MAX / 2);
            let middle = *middle;
            self.names.retain(|_, (_, told_ns)| *told_ns > middle);
        }
        self.names.insert(key, (Arc::clone(name), now_ns));
    }

    /// The name that the pod in that namespace got the address for last.
    pub(super) fn name_of(&self, netns: u32, ip: IpAddr) -> Option<&Arc<str>> {
        self.names.get(&(netns, ip)).map(|(name, _)| name)
    }

    /// The namespace is gone: its number will be another's.
    pub(super) fn forget(&mut self, netns: u32) {
        self.names.retain(|(of, _), _| *of != netns);
        self.asked.retain(|(of, ..), _| *of != netns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        dns::{Answer, Code, Message},
        flow::Proto,
        known::{Known, Why},
        packet::Packet,
    };

    const WEB: u32 = 101;
    const OTHER: u32 = 102;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn flow() -> Flow {
        let end = |text: &str| text.parse().expect("an address with a port");
        Flow { proto: Proto::Udp, src: end("10.9.0.29:40000"), dst: end("10.96.0.10:53") }
    }

    fn message(at_ns: u64, netns: u32, name: &str, addresses: Option<&[&str]>) -> Sighting {
        let answer = addresses.map(|all| Answer {
            code: Code::NoError,
            addresses: all.iter().map(|a| ip(a)).collect(),
            records: all.len() as u16,
            truncated: false,
        });
        let (flow, place) = match answer {
            None => (flow(), Place::Transmit),
            Some(_) => (flow().reversed(), Place::Receive),
        };
        let message = Some(Message { id: 7, name: name.into(), kind: "A".into(), answer });
        Sighting {
            packet: Packet {
                mono_ns: at_ns,
                cpu: 0,
                pid: 1,
                netns,
                ifindex: 2,
                what: What::Dns { flow, place, message, seen: 0 },
            },
            side: Side::Pod,
            device: "eth0".into(),
            namespace_of: Known::No(Why::Unnamed),
            source: Known::No(Why::Outside),
            destination: Known::No(Why::Outside),
            asker: None,
        }
    }

    fn told(answers: &mut Answers, at_ns: u64, netns: u32, name: &str, address: &str) {
        answers.take(&message(at_ns, netns, name, None));
        answers.take(&message(at_ns + 1, netns, name, Some(&[address])));
    }

    fn name(answers: &Answers, netns: u32, address: &str) -> Option<String> {
        answers.name_of(netns, ip(address)).map(ToString::to_string)
    }

    #[test]
    fn the_newest_answer_names_an_address_for_the_pod_that_asked() {
        let mut answers = Answers::default();
        told(&mut answers, 1, WEB, "s3.example.com", "203.0.113.9");
        assert_eq!(name(&answers, WEB, "203.0.113.9").as_deref(), Some("s3.example.com"));
        assert_eq!(name(&answers, OTHER, "203.0.113.9"), None, "another pod did not ask");
        told(&mut answers, 5, WEB, "cdn.example.com", "203.0.113.9");
        assert_eq!(name(&answers, WEB, "203.0.113.9").as_deref(), Some("cdn.example.com"));
        answers.forget(WEB);
        assert_eq!(name(&answers, WEB, "203.0.113.9"), None, "its number is another pod's now");
    }

    #[test]
    fn an_answer_that_nobody_asked_for_names_nothing() {
        let mut answers = Answers::default();
        answers.take(&message(1, WEB, "bank.example.com", Some(&["203.0.113.9"])));
        assert_eq!(name(&answers, WEB, "203.0.113.9"), None);
        answers.take(&message(2, WEB, "s3.example.com", None));
        answers.take(&message(3, WEB, "bank.example.com", Some(&["203.0.113.9"])));
        assert_eq!(name(&answers, WEB, "203.0.113.9"), None, "it asked for another name");
        answers.take(&message(4, WEB, "s3.example.com", Some(&["203.0.113.7"])));
        answers.take(&message(5, WEB, "s3.example.com", Some(&["203.0.113.8"])));
        assert_eq!(name(&answers, WEB, "203.0.113.8"), None, "the query was answered before");
    }

    #[test]
    fn names_have_a_bound_and_the_newest_stay() {
        let mut answers = Answers::default();
        for n in 0..=NAMES_MAX as u64 {
            let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + n as u32).to_string();
            told(&mut answers, 10 * n, WEB, "many.example.com", &address);
        }
        assert!(answers.names.len() <= NAMES_MAX && answers.asked.is_empty());
        assert_eq!(name(&answers, WEB, "11.0.0.0"), None);
        assert!(name(&answers, WEB, "11.0.64.0").is_some(), "the last one");
    }

    #[test]
    fn queries_have_a_bound_and_those_given_up_make_room() {
        let mut answers = Answers::default();
        for n in 0..=ASKED_MAX {
            answers.take(&message(1, WEB, &format!("n{n}.example.com"), None));
        }
        assert_eq!(answers.asked.len(), ASKED_MAX);
        told(&mut answers, WAIT_NS + 1, WEB, "late.example.com", "203.0.113.9");
        assert!(name(&answers, WEB, "203.0.113.9").is_some() && answers.asked.is_empty());
    }
}
