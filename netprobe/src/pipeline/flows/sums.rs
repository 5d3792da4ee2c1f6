//! Sums of conversations: by device, by peer, and of what NAT makes alike.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    party::{Party, Whose},
    view::{View, name_of, named},
};
use crate::{
    correlate::conversations::Conversation,
    model::{
        counted::Counted,
        flow::Proto,
        flows::{Amounts, DeviceRow, FlowLine, NameSource, NatLine, PeerName, State, Translation},
        identity::Pod,
        sighting::Side,
    },
};

/// Peers kept by name: a port scan must not fill the memory.
const LINES_MAX: usize = 10_000;
/// Handshake times kept of a line, for their median.
const HANDSHAKES_MAX: usize = 64;

/// A device of a party: namespace and index.
type DeviceKey = (Party, u32, u32);
/// Whose, protocol, opener's address, address asked for, and both after NAT.
type NatKey = (Party, Proto, IpAddr, SocketAddr, IpAddr, SocketAddr);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LineKey {
    party: Party,
    proto: Proto,
    peer: IpAddr,
    /// The peer was this pod, which ended: another one may have its address now.
    ended_peer: Option<Party>,
    /// The port that was addressed.
    port: u16,
    /// The party opened it.
    initiated: bool,
}

/// Sums by device and by peer.
#[derive(Clone, Default)]
pub(super) struct Sums {
    devices: HashMap<DeviceKey, (Amounts, String, bool)>,
    lines: HashMap<LineKey, Line>,
    nat: HashMap<NatKey, NatLine>,
    pods: HashMap<Party, Arc<Pod>>,
    /// Connections that found no room in `lines`, and in `nat`.
    pub(super) more: u64,
    pub(super) more_nat: u64,
}

#[derive(Clone, Default)]
struct Line {
    name: Option<PeerName>,
    devices: BTreeSet<String>,
    connections: u64,
    amounts: Amounts,
    handshakes: Vec<u64>,
    retransmits: u64,
    states: BTreeMap<State, u64>,
    nat: Option<Arc<Translation>>,
    first_ns: u64,
    last_ns: u64,
}

impl Sums {
    pub(super) fn add(&mut self, rows: &[Counted], whose: &Whose<'_>) {
        for conversation in whose.join(rows) {
            let view = View::of(&conversation, whose);
            self.add_places(&view, whose);
            self.add_lines(&conversation, &view, whose);
            self.add_nat(&view);
        }
    }

    /// The same by device alone.
    pub(super) fn add_devices(&mut self, rows: &[Counted], whose: &Whose<'_>) {
        for conversation in whose.join(rows) {
            self.add_places(&View::of(&conversation, whose), whose);
        }
    }

    fn add_places(&mut self, view: &View, whose: &Whose<'_>) {
        for place in &view.places {
            let key = (place.party, place.netns, place.ifindex);
            let new = || (Amounts::default(), place.device.clone(), place.is_uplink);
            self.devices.entry(key).or_insert_with(new).0 += place.amounts;
            self.name(place.party, whose);
        }
    }

    /// Whose sums there are.
    pub(super) fn parties(&self) -> BTreeSet<Party> {
        self.devices.keys().map(|(party, ..)| *party).collect()
    }

    /// The sums by device alone.
    pub(super) fn devices_only(&self) -> Self {
        Self { devices: self.devices.clone(), pods: self.pods.clone(), ..Self::default() }
    }

    /// Forgets the sums of these pods, and those of peers that were quiet since `quiet_ns`.
    pub(super) fn forget(&mut self, dead: &BTreeSet<Party>, quiet_ns: u64) {
        self.devices.retain(|(party, ..), _| !dead.contains(party));
        self.pods.retain(|party, _| !dead.contains(party));
        let is_dead = |party: Option<Party>| party.is_some_and(|party| dead.contains(&party));
        self.lines
            .retain(|key, line| !dead.contains(&key.party) && !is_dead(key.ended_peer) && line.last_ns >= quiet_ns);
        self.nat.retain(|(party, ..), line| !dead.contains(party) && line.last.first_ns >= quiet_ns);
        (self.more, self.more_nat) = (0, 0);
    }

    /// Notes the party's name; the best there was: it can lose its address before its namespace goes.
    fn name(&mut self, party: Party, whose: &Whose<'_>) {
        let Some(pod) = whose.pod(party) else { return };
        match self.pods.get(&party) {
            Some(known) if pod.namespace.is_empty() && !known.namespace.is_empty() => {}
            _ => drop(self.pods.insert(party, pod)),
        }
    }

    fn add_lines(&mut self, conversation: &Conversation<'_>, view: &View, whose: &Whose<'_>) {
        let (Some(original), Some(reply)) = (conversation.original, conversation.reply()) else { return };
        for party in view.parties() {
            let initiated = view.opener == Some(party);
            let (peer, port, other) = if initiated {
                (original.dst.ip(), original.dst.port(), view.ends.server.filter(|_| original.dst == reply.src))
            } else {
                (original.src.ip(), reply.src.port(), view.ends.client)
            };
            let key = LineKey {
                party,
                proto: original.proto,
                peer,
                ended_peer: other.filter(|other| matches!(other, Party::Ended(_))),
                port: if original.has_ports() { port } else { 0 },
                initiated,
            };
            if self.lines.len() >= LINES_MAX && !self.lines.contains_key(&key) {
                self.more += u64::from(!view.is_late);
                continue;
            }
            let line = self.lines.entry(key).or_default();
            line.name =
                name_of(peer, party, whose.known).filter(|_| key.ended_peer.is_none()).or_else(|| line.name.take());
            line.add(conversation, view, party);
        }
    }

    fn add_nat(&mut self, view: &View) {
        let Some(translation) = &view.translation else { return };
        let party = view.ends.client.or(view.ends.server).unwrap_or(Party::Node);
        let Translation { before, after, .. } = translation;
        let key = (party, before.proto, before.src.ip(), before.dst, after.src.ip(), after.dst);
        if self.nat.len() >= LINES_MAX && !self.nat.contains_key(&key) {
            self.more_nat += u64::from(!view.is_late);
            return;
        }
        let new = || NatLine { last: Arc::new(translation.clone()), connections: 0 };
        let line = self.nat.entry(key).or_insert_with(new);
        line.connections += u64::from(!view.is_late);
        if line.last.first_ns <= translation.first_ns && !view.is_late {
            line.last = Arc::new(translation.clone());
        }
    }

    /// The best name that a party was known by.
    pub(super) fn pod(&self, party: Party) -> Option<Arc<Pod>> {
        self.pods.get(&party).cloned()
    }

    /// What was `from`'s is `to`'s now, also where others have it as their peer.
    pub(super) fn hand_over(&mut self, from: Party, to: Party, addresses: &BTreeSet<IpAddr>, pod: &Arc<Pod>) {
        let change = |party: Party| if party == from { to } else { party };
        let devices = std::mem::take(&mut self.devices).into_iter();
        self.devices = devices.map(|((party, netns, at), sum)| ((change(party), netns, at), sum)).collect();
        let nat = std::mem::take(&mut self.nat).into_iter();
        self.nat = nat.map(|((party, a, b, c, d, e), line)| ((change(party), a, b, c, d, e), line)).collect();
        for (mut key, mut line) in std::mem::take(&mut self.lines) {
            key.party = change(key.party);
            if key.ended_peer.is_none() && addresses.contains(&key.peer) {
                key.ended_peer = Some(to);
                line.name = Some(named(pod, NameSource::Pod));
            }
            self.lines.insert(key, line);
        }
        self.pods.remove(&from);
        self.pods.insert(to, Arc::clone(pod));
    }

    /// Somebody is told to have this address as their peer.
    pub(super) fn has_peer(&self, ip: IpAddr) -> bool {
        self.lines.keys().any(|key| key.peer == ip && key.ended_peer.is_none())
    }

    /// The peer that had this address was `pod`, whoever has it now.
    pub(super) fn end_peer(&mut self, ip: IpAddr, to: Party, pod: &Arc<Pod>) {
        for (mut key, mut line) in std::mem::take(&mut self.lines) {
            if key.peer == ip && key.ended_peer.is_none() {
                key.ended_peer = Some(to);
                line.name = Some(named(pod, NameSource::Pod));
            }
            self.lines.insert(key, line);
        }
    }

    pub(super) fn device_rows(&self, is_wanted: impl Fn(Party) -> bool, node: u32) -> Vec<DeviceRow> {
        let wanted = self.devices.iter().filter(|((party, ..), _)| is_wanted(*party));
        let mut rows: Vec<(Party, DeviceRow)> = wanted
            .map(|((party, netns, _), (amounts, device, is_uplink))| {
                let row = DeviceRow {
                    pod: self.pod(*party),
                    is_ended: matches!(party, Party::Ended(_)),
                    side: if *netns == node { Side::Node } else { Side::Pod },
                    device: device.clone(),
                    is_uplink: *is_uplink,
                    amounts: *amounts,
                };
                (*party, row)
            })
            .collect();
        rows.sort_by(|(one, a), (other, b)| {
            (a.pod.is_none(), &a.pod, one, a.is_uplink, &a.device).cmp(&(
                b.pod.is_none(),
                &b.pod,
                other,
                b.is_uplink,
                &b.device,
            ))
        });
        rows.into_iter().map(|(_, row)| row).collect()
    }

    pub(super) fn flow_lines(&self, is_wanted: impl Fn(Party) -> bool) -> Vec<FlowLine> {
        let wanted = self.lines.iter().filter(|(key, _)| is_wanted(key.party));
        let mut lines: Vec<(Party, FlowLine)> =
            wanted.map(|(key, line)| (key.party, line.shown(key, self.pod(key.party)))).collect();
        let volume = |line: &FlowLine| line.amounts.out.bytes + line.amounts.into.bytes;
        lines.sort_by(|(one, a), (other, b)| {
            (a.pod.is_none(), &a.pod, one)
                .cmp(&(b.pod.is_none(), &b.pod, other))
                .then(volume(b).cmp(&volume(a)))
                .then_with(|| (a.peer, a.served_port, a.first_ns).cmp(&(b.peer, b.served_port, b.first_ns)))
        });
        lines.into_iter().map(|(_, line)| line).collect()
    }

    pub(super) fn nat_lines(&self, is_wanted: impl Fn(Party) -> bool) -> Vec<NatLine> {
        let wanted = self.nat.iter().filter(|((party, ..), _)| is_wanted(*party));
        let mut lines: Vec<NatLine> = wanted
            .map(|((party, ..), line)| {
                let is_ended = matches!(party, Party::Ended(_));
                let last = Translation { pod: self.pod(*party), is_ended, ..Translation::clone(&line.last) };
                NatLine { last: Arc::new(last), ..line.clone() }
            })
            .collect();
        lines.sort_by(|a, b| {
            (a.last.pod.is_none(), &a.last.pod, a.last.is_ended)
                .cmp(&(b.last.pod.is_none(), &b.last.pod, b.last.is_ended))
                .then(b.connections.cmp(&a.connections))
                .then_with(|| (a.last.before, a.last.after).cmp(&(b.last.before, b.last.after)))
        });
        lines
    }
}

impl Line {
    fn add(&mut self, conversation: &Conversation<'_>, view: &View, party: Party) {
        self.amounts += view.amounts(party);
        self.devices.extend(view.exits(party));
        if self.handshakes.len() < HANDSHAKES_MAX {
            self.handshakes.extend(conversation.handshake_ns());
        }
        // Each direction where it was seen first: the same segment passes several devices.
        let resent = |reply: bool| {
            let rows = conversation.rows.iter().filter(move |(_, r)| *r == reply);
            rows.map(|(row, _)| row.retransmits).max().unwrap_or(0)
        };
        self.retransmits += u64::from(resent(false) + resent(true));
        self.nat = view.translation.clone().map(Arc::new).or_else(|| self.nat.take());
        let first_ns = conversation.first_ns();
        self.first_ns = if self.first_ns == 0 { first_ns } else { self.first_ns.min(first_ns) };
        self.last_ns = self.last_ns.max(conversation.last_ns());
        // A connection of which the first part was summed up counts once.
        if !view.is_late {
            self.connections += 1;
            *self.states.entry(state(conversation)).or_default() += 1;
        }
    }

    fn shown(&self, key: &LineKey, pod: Option<Arc<Pod>>) -> FlowLine {
        let LineKey { party, proto, peer, port, initiated, ended_peer } = *key;
        let mut handshakes = self.handshakes.clone();
        handshakes.sort_unstable();
        // A pod of which Kubernetes says so has the word already.
        let is_told = self.name.as_ref().is_some_and(|name| name.text.ends_with(" (ended)"));
        let ended = if ended_peer.is_some() && !is_told { " (ended)" } else { "" };
        FlowLine {
            pod,
            is_ended: matches!(party, Party::Ended(_)),
            proto,
            peer: SocketAddr::new(peer, if initiated { port } else { 0 }),
            served_port: if initiated { 0 } else { port },
            initiated,
            name: self.name.as_ref().map(|name| named(format!("{}{ended}", name.text), name.source)),
            devices: self.devices.iter().cloned().collect(),
            connections: self.connections,
            amounts: self.amounts,
            handshake_ns: handshakes.get(handshakes.len() / 2).copied(),
            retransmits: self.retransmits,
            states: self.states.iter().map(|(state, count)| (*state, *count)).collect(),
            nat: self.nat.clone(),
            first_ns: self.first_ns,
            last_ns: self.last_ns,
        }
    }
}

fn state(conversation: &Conversation<'_>) -> State {
    match (conversation.is_reset(), conversation.ended_by(), conversation.is_answered()) {
        (true, ..) => State::Reset,
        (_, _, false) => State::Unanswered,
        (_, 2, _) => State::Closed,
        (_, 1, _) => State::Closing,
        _ => State::Open,
    }
}
