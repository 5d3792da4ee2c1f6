//! `Sighting` → `Journey`: one connection over namespaces, NAT, retransmits and the reply.
//!
//! The five-tuple in all its dresses is the identity: an `sk_buff` address alone never is, and
//! neither a process id nor a socket is asked for.

pub mod conversations;
mod ghosts;
mod index;
mod neighbours;
mod receiving;

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{
    flow::Flow,
    identity::Pod,
    journey::{Journey, SIGHTINGS_MAX, Step},
    known::{Known, Why},
    packet::{Conntrack, Head, LookupRole, Packet, Place, What},
    sighting::Sighting,
};
use ghosts::Ghosts;
use index::Index;
pub use neighbours::{NeighbourState, Neighbours};
use receiving::Receiving;

/// How long a silent conversation stays open, nanoseconds.
///
/// The kernel's default for a UDP entry that has seen replies (`nf_conntrack_udp_timeout_stream`,
/// 120 s): a journey lives as long as the NAT entry its replies need.
pub const IDLE_NS: u64 = 120_000_000_000;
/// How long a closed connection stays open for stragglers, nanoseconds: a FIN that is sent again
/// comes within one retransmission time-out, which starts at 1 s (RFC 6298) or 200 ms (Linux).
pub const CLOSED_NS: u64 = 3_000_000_000;
/// How long a closed one is kept at most while rules that it is to be judged by are still being read, nanoseconds: a node
/// with many services has tens of thousands of them.
const HELD_NS: u64 = 30_000_000_000;
/// How long a SYN is on its way through this node at most, nanoseconds: queues hold a packet for a few milliseconds.
const SAME_SYN_NS: u64 = 100_000_000;
/// Other dresses kept of one journey, the oldest goes: a socket that sends for months gets a new
/// translation each time its conntrack entry has timed out.
const FORMS_MAX: usize = 32;
/// Journeys kept; the one longest silent goes first. 4,096 of 160 sightings bound the memory of a
/// run; a busy pod has a few hundred connections at a time.
pub const JOURNEYS_MAX: usize = 4_096;

/// The open journeys.
#[derive(Default)]
pub struct Journeys {
    /// By number, in order, so that a replay walks them as the run did.
    open: BTreeMap<u64, Journey>,
    index: Index,
    ghosts: Ghosts,
    /// Who did not answer, and who answers with which link-layer address.
    pub neighbours: Neighbours,
    /// The packet each CPU is receiving.
    receiving: Receiving,
    /// The tunnel's packet that was dropped last, and the journey of what it carries: what netfilter says of it follows.
    carrier: Option<(u64, u64)>,
    last_id: u64,
}

impl Journeys {
    /// The journey of that number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Journey> {
        self.open.get(&id)
    }

    /// Puts one there as it is.
    #[cfg(test)]
    pub(crate) fn put(&mut self, journey: Journey) {
        self.open.insert(journey.id, journey);
    }

    /// All open journeys, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Journey> {
        self.open.values()
    }

    /// How many journeys there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.last_id
    }

    /// Takes a sighting. Gives the number of the journey it belongs to, if it has one.
    pub fn take(&mut self, sighting: Arc<Sighting>) -> Option<u64> {
        self.neighbours.note(&sighting);
        let packet = &sighting.packet;
        match &packet.what {
            What::Hop { head, ct, inner, place, .. } => {
                let id = match (inner, head.flow) {
                    (Some(inner), _) => self.error_about(&sighting, inner)?,
                    (None, Some(flow)) => self.of_packet(&sighting, flow, head, ct.as_ref()),
                    (None, None) => return None,
                };
                if *place == Place::Receive {
                    self.receiving.note(packet, head, id);
                } else {
                    self.receiving.still(packet, head.skb, id);
                }
                Some(id)
            }
            What::Dropped { head, reason, .. } if head.flow.is_none() => {
                // The others die with a packet that has a flow: an ARP request, a neighbour's.
                (&**reason == "UNHANDLED_PROTO").then(|| self.of_frame(&sighting, head.ether_type))
            }
            What::Dropped { head, carried: Some(carried), .. } => Some(self.of_carried(&sighting, carried.flow, head)),
            What::Dropped { head, ct, .. } | What::IcmpSent { head, ct, .. } => {
                let flow = head.flow?;
                Some(self.of_packet(&sighting, flow, head, ct.as_ref()))
            }
            What::Lookup { flow, skb, role, .. } => self.of_lookup(&sighting, flow, *skb, *role),
            What::SendError { flow, .. } => self.of_failed_send(&sighting, *flow),
            What::Retransmit { flow, .. } | What::Reset { flow, .. } | What::State { flow, .. } => {
                if flow.dst.ip().is_unspecified() || (flow.src.port() == 0 && !failed_to_bind(&packet.what)) {
                    return None;
                }
                self.of_socket(&sighting, *flow)
            }
            // The packet itself was seen just before.
            What::Verdict { skb, .. } if self.carrier.is_some_and(|(carrier, _)| carrier == *skb) => {
                let (_, id) = self.carrier.take()?;
                self.add(id, Arc::clone(&sighting), self.last_forward(id));
                Some(id)
            }
            What::Dns { flow, .. } | What::Verdict { flow, .. } => self.beside(&sighting, flow),
            What::Nat(choice) => self.beside(&sighting, &choice.original),
            What::Neighbour { .. } | What::Request { .. } | What::Owned { .. } => None,
        }
    }

    /// Closes what is over. Gives the journeys that ended; and those that only now are known to
    /// have had no packet at all are opened. `is_awaited`: an answer about that journey is still to come.
    pub fn expire(&mut self, now_ns: u64, is_awaited: impl Fn(u64) -> bool) -> (Vec<Journey>, Vec<u64>) {
        let mut opened = Vec::new();
        for ghost in self.ghosts.ripe(now_ns) {
            let Some(flow) = ghost.first().and_then(|s| lookup_flow(s)) else { continue };
            let id = self.open(flow, &ghost[0]);
            if let Some(journey) = self.open.get_mut(&id)
                && journey.pod.is_none()
            {
                journey.pod = ghost.iter().find_map(|sighting| sighting.asker.clone());
            }
            for sighting in ghost {
                self.add(id, sighting, true);
            }
            opened.push(id);
        }
        let over = |j: &Journey| {
            let silent = now_ns.saturating_sub(j.last_ns);
            let is_held = || silent <= HELD_NS && is_awaited(j.id);
            silent > IDLE_NS || (j.closed && silent > CLOSED_NS && !is_held())
        };
        let ended: Vec<u64> = self.open.values().filter(|j| over(j)).map(|j| j.id).collect();
        let mut journeys: Vec<Journey> = ended.into_iter().filter_map(|id| self.close(id)).collect();
        let excess = self.open.len().saturating_sub(JOURNEYS_MAX);
        if excess > 0 {
            // All at once: a port scan opens thousands between two ticks.
            let mut silent: Vec<(u64, u64)> = self.open.values().map(|j| (j.last_ns, j.id)).collect();
            silent.sort_unstable();
            journeys.extend(silent.into_iter().take(excess).filter_map(|(_, id)| self.close(id)));
        }
        journeys.sort_unstable_by_key(|j| j.id);
        (journeys, opened)
    }

    fn close(&mut self, id: u64) -> Option<Journey> {
        let journey = self.open.remove(&id)?;
        self.index.forget(&journey);
        Some(journey)
    }

    fn of_packet(&mut self, sighting: &Arc<Sighting>, flow: Flow, head: &Head, ct: Option<&Conntrack>) -> u64 {
        let strays = ct.map_or_else(Vec::new, |ct| self.strays(&flow, ct));
        let known = self.known(&flow, head, ct, &sighting.packet);
        let reopened = known.filter(|id| self.is_new_connection(*id, head, &flow, sighting.packet.mono_ns));
        let id = match (known, reopened) {
            (Some(id), None) => id,
            (known, _) => {
                if let Some(old) = known {
                    self.index.detach(old);
                }
                self.open(self.orientation(flow, head, ct, sighting), sighting)
            }
        };
        if let Some(ct) = ct {
            self.join(id, ct);
        }
        for step in strays {
            let forward = step.sighting.packet.what.flow().is_none_or(|flow| self.is_forward(id, &flow));
            self.add(id, step.sighting, forward);
        }
        let forward = self.is_forward(id, &flow);
        self.add(id, Arc::clone(sighting), forward);
        self.settle(id, head, forward);
        if self.index.find(&flow).is_none() {
            // A tunnel's packet: the look-ups for it were held as those of a packet yet to come.
            for held in self.ghosts.claim(&flow, sighting.packet.netns, sighting.packet.mono_ns) {
                self.add(id, held, forward);
            }
        }
        id
    }

    /// What sockets and look-ups told of a translated form of the connection, before a packet showed that it is one: the
    /// reset that answers a redirected SYN comes before the SYN is freed.
    fn strays(&mut self, flow: &Flow, ct: &Conntrack) -> Vec<Step> {
        let whole = self.index.find(&ct.original).or_else(|| self.index.find(&ct.reply));
        let (Some(stray), Some(whole)) = (self.index.find(flow), whole) else { return Vec::new() };
        let is_packet = |step: &Step| matches!(step.sighting.packet.what, What::Hop { .. } | What::Dropped { .. });
        let of_packets = |id: u64| self.open.get(&id).is_some_and(|j| j.steps.iter().any(is_packet));
        if stray == whole || of_packets(stray) || !of_packets(whole) {
            return Vec::new();
        }
        // A look-up whose namespace is only concluded may be somebody else's.
        let sure = |step: &Step| !matches!(step.sighting.packet.what, What::Lookup { inferred: true, .. });
        self.close(stray).map_or_else(Vec::new, |journey| journey.steps.into_iter().filter(sure).collect())
    }

    /// A tunnel's packet that was dropped is of the packet's journey that it carries.
    fn of_carried(&mut self, sighting: &Arc<Sighting>, flow: Flow, head: &Head) -> u64 {
        let known = self.index.find(&flow);
        let id = known.unwrap_or_else(|| self.open(self.orientation(flow, head, None, sighting), sighting));
        let forward = self.is_forward(id, &flow);
        self.add(id, Arc::clone(sighting), forward);
        self.carrier = Some((head.skb, id));
        id
    }

    /// Whether the last that was seen of a journey goes with its flow.
    fn last_forward(&self, id: u64) -> bool {
        self.open.get(&id).and_then(|journey| journey.steps.back()).is_none_or(|step| step.forward)
    }

    /// A frame without addresses belongs to those like it at the same device.
    fn of_frame(&mut self, sighting: &Arc<Sighting>, ether_type: u16) -> u64 {
        let flow = Flow::of_frames(ether_type, sighting.packet.netns, sighting.packet.ifindex);
        let id = self.index.find(&flow).unwrap_or_else(|| self.open(flow, sighting));
        self.add(id, Arc::clone(sighting), true);
        id
    }

    /// The journey of a packet: by its tuple, by its conntrack entry's tuples, or because it is
    /// the packet this CPU is receiving, in another dress (encapsulated).
    fn known(&self, flow: &Flow, head: &Head, ct: Option<&Conntrack>, packet: &Packet) -> Option<u64> {
        let by_entry = |ct: &Conntrack| self.index.find(&ct.original).or_else(|| self.index.find(&ct.reply));
        let inside = || self.receiving.inside(packet, head, flow);
        self.index.find(flow).or_else(|| ct.and_then(by_entry)).or_else(inside)
    }

    /// A SYN with another sequence number after the old connection ended or fell silent.
    fn is_new_connection(&self, id: u64, head: &Head, flow: &Flow, now_ns: u64) -> bool {
        let Some(journey) = self.open.get(&id) else { return true };
        if !head.flags.opens() {
            return false;
        }
        // On its way from device to device it is the same SYN; later, and after the end, it is another of that number.
        let same_syn = journey.steps.iter().any(|step| match &step.sighting.packet.what {
            What::Hop { head: old, .. } | What::Dropped { head: old, .. } => {
                let on_its_way = now_ns.saturating_sub(step.sighting.packet.mono_ns) < SAME_SYN_NS;
                on_its_way
                    && old.flags.opens()
                    && old.seq == head.seq
                    && old.flow.is_some_and(|f| f.canonical() == flow.canonical())
            }
            _ => false,
        });
        !same_syn && journey.closed && now_ns >= journey.last_ns
    }

    /// The flow in its first sender's direction: what conntrack calls original, or a SYN's, or
    /// that of the end that is ours.
    fn orientation(&self, flow: Flow, head: &Head, ct: Option<&Conntrack>, sighting: &Sighting) -> Flow {
        if let Some(ct) = ct {
            if ct.original == flow || ct.reply.reversed() == flow {
                return flow;
            }
            if ct.reply == flow || ct.original.reversed() == flow {
                return flow.reversed();
            }
        }
        let answers = (head.flags.syn() && head.flags.ack()) || matches!(head.icmp, Some((0 | 129, _)));
        let ours_is_destination = sighting.source.yes().is_none() && sighting.destination.yes().is_some();
        let opens = head.flags.opens() || matches!(head.icmp, Some((8 | 128, _)));
        if answers || (ours_is_destination && !opens && flow.has_ports() && flow.src.port() < flow.dst.port()) {
            flow.reversed()
        } else {
            flow
        }
    }

    fn of_lookup(&mut self, sighting: &Arc<Sighting>, flow: &Flow, skb: u64, role: LookupRole) -> Option<u64> {
        // A miss tells no namespace; the one concluded may be none of ours.
        let elsewhere = matches!(sighting.packet.what, What::Lookup { inferred: true, .. })
            && matches!(sighting.namespace_of, Known::No(Why::NamespaceGone));
        if matches!(role, LookupRole::Other) || elsewhere {
            return None;
        }
        // An output look-up is for a packet yet to come, whatever this CPU received before it.
        let received = matches!(role, LookupRole::Input | LookupRole::ReversePath);
        if received && let Some(id) = self.receiving.journey(&sighting.packet, skb) {
            // The reverse-path look-up asks with the addresses swapped.
            let asked = if role == LookupRole::ReversePath { flow.reversed() } else { *flow };
            let forward = self.open.get(&id).is_some_and(|j| same_way(j, &asked));
            self.add(id, Arc::clone(sighting), forward);
            return Some(id);
        }
        if flow.has_ports()
            && flow.src.port() != 0
            && let Some(id) = self.index.find(flow)
        {
            let forward = self.is_forward(id, flow);
            self.add(id, Arc::clone(sighting), forward);
            return Some(id);
        }
        if role == LookupRole::Output {
            self.ghosts.hold(Arc::clone(sighting), flow);
        }
        None
    }

    fn of_socket(&mut self, sighting: &Arc<Sighting>, flow: Flow) -> Option<u64> {
        let ends = matches!(sighting.packet.what, What::State { new: "CLOSE" | "TIME_WAIT", .. });
        let known = self.index.find(&flow);
        let opens = matches!(sighting.packet.what, What::State { new: "SYN_SENT", .. });
        let id = match known {
            Some(id) if !(opens && self.open.get(&id).is_some_and(|j| j.closed)) => id,
            // The last word of a connection that is forgotten.
            None if ends && !failed_to_bind(&sighting.packet.what) => return None,
            _ => {
                known.inspect(|old| self.index.detach(*old));
                let forward = !matches!(sighting.packet.what, What::State { new: "SYN_RECV" | "ESTABLISHED", .. })
                    || sighting.source.yes().is_some();
                self.open(if forward { flow } else { flow.reversed() }, sighting)
            }
        };
        let forward = self.is_forward(id, &flow);
        self.add(id, Arc::clone(sighting), forward);
        if ends && let Some(journey) = self.open.get_mut(&id) {
            journey.closed = true;
        }
        Some(id)
    }

    /// What is said beside a packet joins its journey.
    fn beside(&mut self, sighting: &Arc<Sighting>, flow: &Flow) -> Option<u64> {
        let id = self.index.find(flow)?;
        let forward = self.is_forward(id, flow);
        self.add(id, Arc::clone(sighting), forward);
        Some(id)
    }

    /// A send that failed: the look-up just before it, by the same process, knows whither.
    fn of_failed_send(&mut self, sighting: &Arc<Sighting>, flow: Flow) -> Option<u64> {
        let flow = if flow.dst.ip().is_unspecified() { self.ghosts.asked_by(sighting)? } else { flow };
        let id = self.index.find(&flow).unwrap_or_else(|| self.open(flow, sighting));
        let forward = self.is_forward(id, &flow);
        self.add(id, Arc::clone(sighting), forward);
        Some(id)
    }

    /// An ICMP error belongs to the journey of the packet it quotes, and goes against it.
    fn error_about(&mut self, sighting: &Arc<Sighting>, inner: &Flow) -> Option<u64> {
        let id = self.index.find(inner)?;
        let forward = !self.is_forward(id, inner);
        self.add(id, Arc::clone(sighting), forward);
        Some(id)
    }

    fn open(&mut self, flow: Flow, sighting: &Arc<Sighting>) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        let first_ns = sighting.packet.mono_ns;
        let journey = Journey {
            id,
            pod: pod_of(sighting),
            flow,
            translated: Vec::new(),
            first_ns,
            last_ns: first_ns,
            steps: std::collections::VecDeque::new(),
            omitted: 0,
            packets: 0,
            closed: false,
        };
        self.index.add(&flow, id);
        self.open.insert(id, journey);
        for held in self.ghosts.claim(&flow, sighting.packet.netns, first_ns) {
            self.add(id, held, true);
        }
        id
    }

    /// Takes over what the packet's conntrack entry says of the connection's other dress.
    fn join(&mut self, id: u64, ct: &Conntrack) {
        if !ct.snat() && !ct.dnat() {
            return;
        }
        let Some(journey) = self.open.get_mut(&id) else { return };
        for form in [ct.original, ct.reply.reversed()] {
            let known = journey.flow == form || journey.translated.contains(&form);
            let backwards = journey.flow == form.reversed() || journey.translated.contains(&form.reversed());
            if !known && !backwards {
                if journey.translated.len() >= FORMS_MAX {
                    self.index.drop(&journey.translated.remove(0), id);
                }
                journey.translated.push(form);
                self.index.add(&form, id);
            }
        }
    }

    fn is_forward(&self, id: u64, flow: &Flow) -> bool {
        let Some(journey) = self.open.get(&id) else { return true };
        if journey.flow == *flow || journey.translated.contains(flow) {
            return true;
        }
        let back = flow.reversed();
        !(journey.flow == back || journey.translated.contains(&back))
    }

    fn add(&mut self, id: u64, sighting: Arc<Sighting>, forward: bool) {
        let Some(journey) = self.open.get_mut(&id) else { return };
        journey.first_ns = journey.first_ns.min(sighting.packet.mono_ns);
        journey.last_ns = journey.last_ns.max(sighting.packet.mono_ns);
        if journey.pod.is_none() {
            journey.pod = pod_of(&sighting);
        }
        if let What::Hop { seen, .. } = sighting.packet.what {
            journey.packets = journey.packets.max(seen);
        }
        if journey.steps.len() >= SIGHTINGS_MAX {
            // The beginning tells how it should go and the end how it goes: the middle goes.
            let middle =
                journey.steps.iter().skip(SIGHTINGS_MAX / 4).position(|s| !is_telling(&s.sighting.packet.what));
            let at = middle.map_or(SIGHTINGS_MAX / 4, |at| at + SIGHTINGS_MAX / 4);
            journey.steps.remove(at);
            journey.omitted += 1;
        }
        journey.steps.push_back(Step { sighting, forward });
    }

    /// Notes the end of a connection.
    fn settle(&mut self, id: u64, head: &Head, forward: bool) {
        let Some(journey) = self.open.get_mut(&id) else { return };
        if head.flags.rst() {
            journey.closed = true;
        }
        if head.flags.fin() {
            let other = |step: &Step| {
                step.forward != forward
                    && matches!(&step.sighting.packet.what, What::Hop { head, .. } if head.flags.fin())
            };
            journey.closed |= journey.steps.iter().any(other);
        }
    }
}

/// A socket was to connect, and found no local port: it never was more than an intention.
fn failed_to_bind(what: &What) -> bool {
    matches!(what, What::State { flow, old: "SYN_SENT", new: "CLOSE", .. } if flow.src.port() == 0)
}

/// What must not be left out of a journey.
const fn is_telling(what: &What) -> bool {
    match what {
        What::Hop { head, .. } => head.flags.0 & 7 != 0,
        What::Dropped { .. } | What::Retransmit { .. } | What::Reset { .. } => true,
        What::SendError { .. } | What::IcmpSent { .. } | What::Verdict { .. } | What::Nat(_) => true,
        What::Lookup { err, .. } => *err != 0,
        What::State { .. } | What::Dns { .. } => true,
        What::Neighbour { .. } | What::Request { .. } | What::Owned { .. } => false,
    }
}

/// The pod a journey is told about: the one at its source, else the one at its destination.
fn pod_of(sighting: &Sighting) -> Option<Arc<Pod>> {
    let ends = sighting.source.yes().or_else(|| sighting.destination.yes());
    ends.or_else(|| sighting.namespace_of.yes()).cloned()
}

fn lookup_flow(sighting: &Sighting) -> Option<Flow> {
    match &sighting.packet.what {
        What::Lookup { flow, .. } => Some(*flow),
        _ => None,
    }
}

/// Whether a look-up's addresses go the journey's way; its ports may be missing.
fn same_way(journey: &Journey, asked: &Flow) -> bool {
    let ends = |f: &Flow| (f.src.ip(), f.dst.ip());
    let forms = std::iter::once(&journey.flow).chain(&journey.translated);
    let back = (asked.dst.ip(), asked.src.ip());
    !forms.into_iter().any(|form| ends(form) == back) || ends(&journey.flow) == ends(asked)
}

#[cfg(test)]
mod tests;
