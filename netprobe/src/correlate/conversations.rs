//! Counted rows to conversations: what belongs to one connection, before and after NAT, at all devices.
//!
//! Packets that come in are counted before conntrack knows them, so that the answer to a translated packet lies under the
//! translated addresses. The rows of packets that leave have both tuples, and join them.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use hashbrown::HashTable;

use crate::model::{
    counted::{Counted, Tracked},
    flow::Flow,
};

/// `IPS_SRC_NAT`, `IPS_DST_NAT` (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
const SRC_NAT: u32 = 1 << 4;
const DST_NAT: u32 = 1 << 5;
/// TCP flags.
const FIN: u32 = 0x01;
const SYN: u32 = 0x02;
const RST: u32 = 0x04;
/// Ports from here on are given to clients (`net.ipv4.ip_local_port_range` begins at 32768).
const EPHEMERAL: u16 = 32_768;
/// How long nothing came of a connection before it counts as over, nanoseconds.
const IDLE_NS: u64 = 60_000_000_000;
/// The same after both sides have ended it.
const ENDED_NS: u64 = 5_000_000_000;

/// One connection.
#[derive(Clone, Debug)]
pub struct Conversation<'a> {
    /// As its opener sends it. `None`: frames that are no IP.
    pub original: Option<Flow>,
    /// Its conntrack entry, as a packet of it carried it.
    pub tracked: Option<Tracked>,
    /// Its rows, and whether they go in the direction of the reply.
    pub rows: Vec<(&'a Counted, bool)>,
}

/// A connection as it was known before, and how one of its forms belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// As its opener sends it.
    pub original: Flow,
    /// Its conntrack entry, where it had one.
    pub tracked: Option<Tracked>,
    /// Packets of this form go in the direction of the reply.
    pub is_reply: bool,
}

impl Conversation<'_> {
    /// Without rows yet. At the device by which it leaves it has two as a rule.
    fn new(original: Option<Flow>, tracked: Option<Tracked>) -> Self {
        Self { original, tracked, rows: Vec::with_capacity(2) }
    }

    /// All forms that its packets have on their way, and whether they go in the direction of the reply.
    fn flows(&self) -> Option<[(Flow, bool); 4]> {
        let (original, reply) = (self.original?, self.reply()?);
        Some([(original, false), (reply, true), (original.reversed(), true), (reply.reversed(), false)])
    }

    /// The same, with the conversation they belong to.
    pub fn forms(&self) -> impl Iterator<Item = (Flow, Form)> {
        let (original, tracked) = (self.original, self.tracked);
        let form = move |is_reply| original.map(|original| Form { original, tracked, is_reply });
        self.flows().into_iter().flatten().filter_map(move |(flow, is_reply)| Some((flow, form(is_reply)?)))
    }

    /// The answer's flow, as the server sends it.
    #[must_use]
    pub fn reply(&self) -> Option<Flow> {
        self.tracked.map(|t| t.reply).or_else(|| self.original.map(|o| o.reversed()))
    }

    /// Its source was translated.
    #[must_use]
    pub fn is_snat(&self) -> bool {
        self.status() & SRC_NAT != 0
    }

    /// Its destination was translated.
    #[must_use]
    pub fn is_dnat(&self) -> bool {
        self.status() & DST_NAT != 0
    }

    fn status(&self) -> u32 {
        self.tracked.map_or(0, |t| t.status)
    }

    /// Its first packet, `CLOCK_MONOTONIC` nanoseconds.
    #[must_use]
    pub fn first_ns(&self) -> u64 {
        self.rows.iter().map(|(row, _)| row.first_ns).min().unwrap_or(0)
    }

    /// Its last packet, likewise.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.rows.iter().map(|(row, _)| row.last_ns).max().unwrap_or(0)
    }

    /// TCP flags seen in a direction.
    fn flags(&self, reply: bool) -> u32 {
        self.rows.iter().filter(|(_, is_reply)| *is_reply == reply).fold(0, |all, (row, _)| all | row.flags)
    }

    /// Its opener's first packet is among those seen.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.flags(false) & SYN != 0
    }

    /// Packets were seen in both directions.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.rows.iter().any(|(_, reply)| *reply) && self.rows.iter().any(|(_, reply)| !*reply)
    }

    /// A reset was seen.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        (self.flags(false) | self.flags(true)) & RST != 0
    }

    /// How many of the two sides have ended it.
    #[must_use]
    pub fn ended_by(&self) -> usize {
        [false, true].into_iter().filter(|reply| self.flags(*reply) & FIN != 0).count()
    }

    /// Nothing more will come: its rows may make room.
    #[must_use]
    pub fn is_over(&self, now_ns: u64) -> bool {
        let quiet_ns = now_ns.saturating_sub(self.last_ns());
        quiet_ns > IDLE_NS || (quiet_ns > ENDED_NS && (self.is_reset() || self.ended_by() == 2))
    }

    /// From SYN to SYN-ACK at the device where the SYN was seen first, nanoseconds.
    #[must_use]
    pub fn handshake_ns(&self) -> Option<u64> {
        let syn = |reply: bool| self.rows.iter().filter(move |(row, r)| *r == reply && row.syn_ns.is_some());
        let (first, _) = syn(false).min_by_key(|(row, _)| row.syn_ns)?;
        let same = |row: &Counted| (row.netns, row.ifindex) == (first.netns, first.ifindex);
        let (back, _) = syn(true).find(|(row, _)| same(row))?;
        back.syn_ns?.checked_sub(first.syn_ns?)
    }
}

/// Joins rows. Linear in their number, but for the sort. `earlier` knows connections of which rows were taken away:
/// those that are left may not tell all forms.
#[must_use]
pub fn join<'a>(rows: &'a [Counted], earlier: impl Fn(&Flow) -> Option<Form>) -> Vec<Conversation<'a>> {
    let mut sorted: Vec<&Counted> = rows.iter().collect();
    // Entries first: they know all forms. Of the others the first packet shows who began.
    sorted.sort_by_key(|row| (row.tracked.is_none(), row.first_ns));
    let mut joined: Vec<Conversation<'_>> = Vec::new();
    let mut index = Index::default();
    let mut frames: HashMap<(u32, u32, u16), usize> = HashMap::new();
    for row in sorted {
        let Some(flow) = row.flow else {
            let at = *frames.entry((row.netns, row.ifindex, row.ether_type)).or_insert_with(|| {
                joined.push(Conversation::new(None, None));
                joined.len() - 1
            });
            joined[at].rows.push((row, !row.egress));
            continue;
        };
        let (at, reply) = match (row.tracked, index.find(&joined, &flow)) {
            (Some(tracked), Some((at, _))) => (at, tracked.is_reply),
            (Some(tracked), None) => {
                joined.push(Conversation::new(Some(flow), Some(tracked)));
                (index.learn_last(&joined), tracked.is_reply)
            }
            (None, Some(known)) => known,
            (None, None) => {
                let Form { original, tracked, is_reply } = earlier(&flow).unwrap_or_else(|| guessed(row, flow));
                joined.push(Conversation::new(Some(original), tracked));
                (index.learn_last(&joined), is_reply)
            }
        };
        joined[at].rows.push((row, reply));
    }
    joined
}

/// Finds conversations by the forms of their packets. It holds positions alone, and asks the conversations for the forms: a
/// form is 68 bytes, a masqueraded connection has four, and a node has tens of thousands of connections.
#[derive(Default)]
struct Index {
    /// A conversation's position, and which of its forms.
    at: HashTable<(u32, u8)>,
    hasher: RandomState,
}

impl Index {
    /// Position of the conversation that has this form, and whether it goes in the direction of the reply.
    fn find(&self, joined: &[Conversation<'_>], form: &Flow) -> Option<(usize, bool)> {
        let is = |known: &(u32, u8)| form_of(joined, *known).is_some_and(|(flow, _)| flow == *form);
        let known = *self.at.find(self.hasher.hash_one(Some(form)), is)?;
        Some((known.0 as usize, form_of(joined, known)?.1))
    }

    /// Takes in the forms of the conversation that came last, but for those that an earlier one has. Gives its position.
    fn learn_last(&mut self, joined: &[Conversation<'_>]) -> usize {
        let last = joined.len() - 1;
        let forms = joined[last].flows().into_iter().flatten();
        for (nth, (flow, _)) in (0..).zip(forms) {
            if self.find(joined, &flow).is_none() {
                let Self { at, hasher } = self;
                let hash = |known: &(u32, u8)| hasher.hash_one(form_of(joined, *known).map(|(flow, _)| flow));
                at.insert_unique(hasher.hash_one(Some(flow)), (last as u32, nth), hash);
            }
        }
        last
    }
}

fn form_of(joined: &[Conversation<'_>], (at, nth): (u32, u8)) -> Option<(Flow, bool)> {
    joined[at as usize].flows().map(|flows| flows[usize::from(nth)])
}

/// What a flow without an entry is taken for.
fn guessed(row: &Counted, flow: Flow) -> Form {
    let is_reply = is_midway_reply(row, flow);
    Form { original: if is_reply { flow.reversed() } else { flow }, tracked: None, is_reply }
}

/// Where counting began in the middle of a connection, the ports tell who is the server.
fn is_midway_reply(row: &Counted, flow: Flow) -> bool {
    let began = row.flags & SYN != 0;
    !began && flow.has_ports() && flow.src.port() < EPHEMERAL && flow.src.port() < flow.dst.port()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::flow::Proto;

    fn joined(rows: &[Counted]) -> Vec<Conversation<'_>> {
        join(rows, |_| None)
    }

    const STATUS: u32 = SRC_NAT | DST_NAT;

    fn flow(src: &str, dst: &str) -> Flow {
        let end = |text: &str| text.parse().expect("an address with a port");
        Flow { proto: Proto::Tcp, src: end(src), dst: end(dst) }
    }

    fn row(ifindex: u32, egress: bool, flow: Flow, tracked: Option<Tracked>, ms: u64) -> Counted {
        Counted {
            netns: 1,
            ifindex,
            device: u64::from(ifindex),
            egress,
            flow: Some(flow),
            ether_type: 0x800,
            tracked,
            packets: 1,
            bytes: 60,
            first_ns: ms * 1_000_000,
            last_ns: ms * 1_000_000,
            syn_ns: None,
            retransmits: 0,
            flags: 0,
            cgroup: 0,
        }
    }

    /// A pod behind device 2 asks a service; its packets leave by device 3, translated at both ends.
    fn translated() -> Vec<Counted> {
        let original = flow("10.1.0.5:41234", "10.96.0.1:80");
        let reply = flow("10.20.0.4:8080", "192.0.2.10:41234");
        let tracked = |is_reply| Some(Tracked { is_reply, reply, status: STATUS });
        vec![
            row(3, false, reply, None, 3),
            row(2, true, original, tracked(true), 4),
            row(2, false, original, None, 1),
            row(3, true, original, tracked(false), 2),
        ]
    }

    #[test]
    fn both_forms_and_both_directions_are_one() {
        let rows = translated();
        let joined = joined(&rows);
        assert_eq!(joined.len(), 1, "{joined:#?}");
        let one = &joined[0];
        assert_eq!(one.original, Some(flow("10.1.0.5:41234", "10.96.0.1:80")));
        assert!(one.is_snat() && one.is_dnat() && one.is_answered());
        let replies: Vec<u32> = one.rows.iter().filter(|(_, reply)| *reply).map(|(row, _)| row.ifindex).collect();
        assert_eq!(replies.len(), 2, "one answer at each device");
    }

    #[test]
    fn many_translated_connections_each_stay_one() {
        let mut rows = Vec::new();
        for port in 20_000..25_000 {
            let original = flow(&format!("10.1.0.5:{port}"), "10.96.0.1:80");
            let reply = flow("10.20.0.4:8080", &format!("192.0.2.10:{port}"));
            let tracked = |is_reply| Some(Tracked { is_reply, reply, status: STATUS });
            rows.push(row(3, false, reply, None, 3));
            rows.push(row(2, true, original, tracked(true), 4));
            rows.push(row(2, false, original, None, 1));
            rows.push(row(3, true, original, tracked(false), 2));
        }
        let joined = joined(&rows);
        assert_eq!(joined.len(), 5_000);
        for one in joined {
            let port = one.original.expect("IP").src.port();
            let of_it = |(row, is_reply): &(&Counted, bool)| {
                let ends = row.flow.map(|flow| [flow.src.port(), flow.dst.port()]).expect("IP");
                ends.contains(&port) && *is_reply == matches!((row.ifindex, row.egress), (3, false) | (2, true))
            };
            assert!(one.rows.len() == 4 && one.rows.iter().all(of_it), "{one:#?}");
        }
    }

    #[test]
    fn another_port_is_another_connection() {
        let mut rows = translated();
        rows.push(row(2, false, flow("10.1.0.5:41235", "10.96.0.1:80"), None, 9));
        rows.push(row(3, false, flow("10.20.0.4:8080", "192.0.2.10:41235"), None, 9));
        assert_eq!(joined(&rows).len(), 3, "nothing says that those two are one");
    }

    #[test]
    fn who_came_first_began_unless_the_ports_tell_of_a_middle() {
        let (ask, answer) = (flow("10.1.0.5:41234", "10.20.0.4:80"), flow("10.20.0.4:80", "10.1.0.5:41234"));
        let mut begun = row(2, false, ask, None, 1);
        begun.flags = SYN;
        for rows in [
            vec![begun, row(2, true, answer, None, 2)],
            vec![row(2, true, answer, None, 1), row(2, false, ask, None, 2)],
        ] {
            let joined = joined(&rows);
            assert_eq!((joined.len(), joined[0].original), (1, Some(ask)));
        }
    }

    #[test]
    fn a_connection_is_over_when_both_ends_said_so_or_nobody_speaks() {
        let (ask, answer) = (flow("10.1.0.5:41234", "10.20.0.4:80"), flow("10.20.0.4:80", "10.1.0.5:41234"));
        let mut rows = vec![row(2, false, ask, None, 1), row(2, true, answer, None, 2)];
        assert!(!joined(&rows)[0].is_over(30_000_000_000));
        assert!(joined(&rows)[0].is_over(70_000_000_000));
        rows[0].flags = FIN;
        assert!(!joined(&rows)[0].is_over(30_000_000_000), "half closed");
        rows[1].flags = FIN;
        assert!(joined(&rows)[0].is_over(30_000_000_000));
        assert!(!joined(&rows)[0].is_over(1_000_000_000), "its last packets may be on their way");
    }

    #[test]
    fn the_handshake_is_measured_where_the_syn_was_seen_first() {
        let (ask, answer) = (flow("10.1.0.5:41234", "10.20.0.4:80"), flow("10.20.0.4:80", "10.1.0.5:41234"));
        let mut rows = vec![
            row(2, false, ask, None, 1),
            row(3, true, ask, None, 2),
            row(3, false, answer, None, 5),
            row(2, true, answer, None, 6),
        ];
        for row in &mut rows {
            (row.flags, row.syn_ns) = (SYN, Some(row.first_ns));
        }
        assert_eq!(joined(&rows)[0].handshake_ns(), Some(5_000_000));
    }

    #[test]
    fn what_is_left_of_a_connection_is_joined_by_what_was_known_of_it() {
        let rows = translated();
        let known: HashMap<Flow, Form> = joined(&rows)[0].forms().collect();
        let late = vec![row(3, false, flow("10.20.0.4:8080", "192.0.2.10:41234"), None, 9)];
        let told = join(&late, |flow| known.get(flow).copied());
        assert_eq!((told[0].original, told[0].rows[0].1), (Some(flow("10.1.0.5:41234", "10.96.0.1:80")), true));
        assert!(told[0].is_snat() && told[0].is_dnat());
    }
}
