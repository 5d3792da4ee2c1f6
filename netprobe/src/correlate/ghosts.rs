//! Look-ups that came before their packet, and those whose packet never came.
//!
//! On output the kernel looks a route up before the packet exists; where it finds none, there is
//! no packet at all, and the look-up is all that is ever seen.

use std::sync::Arc;

use crate::model::{
    flow::{Flow, Proto},
    packet::What,
    sighting::Sighting,
};

/// How long a look-up waits for its packet, nanoseconds. `connect()` sends its SYN within
/// microseconds; 100 ms leaves room for a task that was preempted in between.
const WAIT_NS: u64 = 100_000_000;
/// How long a system call takes at most between its look-up and its end, nanoseconds.
const SAME_CALL_NS: u64 = 2_000_000;
/// Look-ups that wait at most; the oldest goes.
const HELD_MAX: usize = 512;

struct Held {
    sighting: Arc<Sighting>,
    flow: Flow,
}

/// Look-ups without a packet so far.
#[derive(Default)]
pub(super) struct Ghosts(Vec<Held>);

impl Ghosts {
    pub(super) fn hold(&mut self, sighting: Arc<Sighting>, flow: &Flow) {
        if self.0.len() >= HELD_MAX {
            self.0.remove(0);
        }
        self.0.push(Held { sighting, flow: *flow });
    }

    /// Look-ups of this namespace that asked for this flow's packet, which is here now.
    pub(super) fn claim(&mut self, flow: &Flow, netns: u32, now_ns: u64) -> Vec<Arc<Sighting>> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let (mine, others) = std::mem::take(&mut self.0).into_iter().partition(|held| {
            held.sighting.packet.netns == netns
                && now_ns.saturating_sub(held.sighting.packet.mono_ns) <= WAIT_NS
                && asks_for(&held.flow, flow)
        });
        self.0 = others;
        let mine: Vec<Held> = mine;
        mine.into_iter().map(|held| held.sighting).collect()
    }

    /// What the sender of `sighting` asked for a moment ago.
    pub(super) fn asked_by(&self, sighting: &Sighting) -> Option<Flow> {
        let packet = &sighting.packet;
        let same = |held: &&Held| {
            let asked = &held.sighting.packet;
            (asked.netns, asked.pid) == (packet.netns, packet.pid)
                && packet.mono_ns.saturating_sub(asked.mono_ns) <= SAME_CALL_NS
        };
        self.0.iter().rev().find(same).map(|held| held.flow)
    }

    /// Look-ups whose packet did not come, one group per question; those that found a route are
    /// forgotten.
    pub(super) fn ripe(&mut self, now_ns: u64) -> Vec<Vec<Arc<Sighting>>> {
        let old = |held: &Held| now_ns.saturating_sub(held.sighting.packet.mono_ns) > WAIT_NS;
        let (ripe, young): (Vec<Held>, Vec<Held>) = std::mem::take(&mut self.0).into_iter().partition(old);
        self.0 = young;
        let mut groups: Vec<(u32, Flow, Vec<Arc<Sighting>>)> = Vec::new();
        for held in ripe {
            let netns = held.sighting.packet.netns;
            let same = |g: &&mut (u32, Flow, Vec<_>)| g.0 == netns && g.1.dst.ip() == held.flow.dst.ip();
            match groups.iter_mut().find(same) {
                Some(group) => {
                    // The later question knows more: source and ports are filled in.
                    if group.1.src.ip().is_unspecified() {
                        group.1 = held.flow;
                    }
                    group.2.push(held.sighting);
                }
                None => groups.push((netns, held.flow, vec![held.sighting])),
            }
        }
        groups.into_iter().map(|(.., group)| group).filter(|group| group.last().is_some_and(|s| failed(s))).collect()
    }
}

/// A question without ports, source or protocol asks for any packet that fits the rest.
fn asks_for(question: &Flow, flow: &Flow) -> bool {
    let port = |asked: u16, has: u16| asked == 0 || asked == has;
    question.dst.ip() == flow.dst.ip()
        && (question.src.ip().is_unspecified() || question.src.ip() == flow.src.ip())
        && (question.proto == Proto::Other(0) || question.proto == flow.proto)
        && (!question.has_ports()
            || (port(question.dst.port(), flow.dst.port()) && port(question.src.port(), flow.src.port())))
}

fn failed(sighting: &Sighting) -> bool {
    matches!(sighting.packet.what, What::Lookup { err, .. } if err != 0)
}
