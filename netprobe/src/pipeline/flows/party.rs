//! Whose traffic: the node's, a pod's, or that of a pod that ended.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    correlate::conversations::{Conversation, Form, join},
    enrich::names::Names,
    facts::FactsEvent,
    model::{
        counted::Counted,
        facts::{NamespaceFacts, NodeFacts, What},
        flow::Flow,
        identity::Pod,
        inventory::Inventory,
    },
    pipeline::answers::Answers,
};

/// Forms of connections remembered that lost their pod, its address or its device: a connection has two to four.
const FORMS_MAX: usize = 65_536;
/// Ended pods whose devices and addresses are remembered. Their sums stay.
const ENDED_MAX: usize = 4_096;

/// Whose traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Party {
    /// The node's own, or somebody's whom we do not know.
    Node,
    /// That of the namespace with this inode number.
    Pod(u32),
    /// That of the pod with this cgroup, which shares the node's namespace.
    Sharing(u64),
    /// That of a pod whose namespace is gone, in the order of their ends. Numbers of namespaces are given again.
    Ended(u32),
}

/// What names need.
#[derive(Clone, Copy)]
pub(in crate::pipeline) struct Known<'a> {
    pub(in crate::pipeline) names: &'a Names,
    pub(in crate::pipeline) facts: &'a NodeFacts,
    pub(in crate::pipeline) inventory: &'a Inventory,
    /// What pods were told by DNS.
    pub(in crate::pipeline) answers: &'a Answers,
}

/// What a change takes away, by which rows were told to be somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// A namespace.
    Namespace(u32),
    /// A device: namespace and index.
    Device(u32, u32),
    /// Addresses: nobody has them any more, or somebody else has.
    Addresses(BTreeSet<IpAddr>),
}

/// A pod whose namespace is gone.
#[derive(Debug)]
pub(super) struct Ended {
    /// Who it was.
    pub(super) pod: Arc<Pod>,
    /// Its flows are to be shown.
    pub(super) is_wanted: bool,
    /// When it was noticed, `CLOCK_MONOTONIC` nanoseconds.
    ended_ns: u64,
    inum: u32,
    addresses: BTreeSet<IpAddr>,
    /// The node's ends of its links: they go after it.
    ends: BTreeSet<u32>,
}

/// Who opened a connection, and who answers: those of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) client: Option<Party>,
    pub(super) server: Option<Party>,
}

/// Pods that ended, and connections that lost their pod, its address or its device while they went on: what comes late
/// is still theirs.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// By number, in the order of their ends.
    ended: BTreeMap<u32, Ended>,
    /// The next one's number.
    next: u32,
    forms: HashMap<Flow, (Ends, Form)>,
}

impl Past {
    pub(super) fn get(&self, id: u32) -> Option<&Ended> {
        self.ended.get(&id)
    }

    /// A namespace ends. Gives what it is from now on, and the addresses it had.
    pub(super) fn end(
        &mut self,
        (inum, ended_ns): (u32, u64),
        pod: Arc<Pod>,
        is_wanted: bool,
        facts: &NodeFacts,
    ) -> (Party, BTreeSet<IpAddr>) {
        let of_pod = |index: &u32| facts.behind(*index).is_some_and(|(pod, _)| pod == inum);
        let ends = facts.node().into_iter().flat_map(|node| node.links.keys().copied()).filter(of_pod).collect();
        let held = facts.namespaces.get(&inum).into_iter().flat_map(addresses);
        let held: BTreeSet<IpAddr> = held.collect();
        let id = self.keep(Ended { pod, is_wanted, ended_ns, inum, addresses: held.clone(), ends });
        for (ends, _) in self.forms.values_mut() {
            for party in [&mut ends.client, &mut ends.server].into_iter().flatten() {
                if *party == Party::Pod(inum) {
                    *party = Party::Ended(id);
                }
            }
        }
        (Party::Ended(id), held)
    }

    /// A pod of another node had an address that is no more its own: what its peers were told by that name stays its own.
    pub(super) fn end_elsewhere(&mut self, pod: Arc<Pod>, ended_ns: u64) -> Party {
        let (addresses, ends) = (BTreeSet::new(), BTreeSet::new());
        Party::Ended(self.keep(Ended { pod, is_wanted: false, ended_ns, inum: 0, addresses, ends }))
    }

    fn keep(&mut self, ended: Ended) -> u32 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.ended.insert(id, ended);
        if let Some(surplus) = self.ended.len().checked_sub(ENDED_MAX + 1)
            && let Some(oldest) = self.ended.values_mut().nth(surplus)
        {
            (oldest.addresses, oldest.ends) = (BTreeSet::new(), BTreeSet::new());
        }
        id
    }

    /// Notes a connection of which the rows are taken away though it may go on.
    pub(super) fn remember(&mut self, conversation: &Conversation<'_>, ends: Ends) {
        if self.forms.len() >= FORMS_MAX {
            self.forms.clear();
        }
        self.forms.extend(conversation.forms().map(|(flow, form)| (flow, (ends, form))));
    }

    /// The connection that a flow belongs to.
    pub(super) fn form(&self, flow: &Flow) -> Option<Form> {
        self.forms.get(flow).map(|(_, form)| *form)
    }

    /// Whose a connection was.
    pub(super) fn ends(&self, original: Flow) -> Option<Ends> {
        self.forms.get(&original).filter(|(_, form)| form.original == original).map(|(ends, _)| *ends)
    }

    /// A device of the node is gone; its index may be given again.
    pub(super) fn end_of_device(&mut self, ifindex: u32) {
        for ended in self.ended.values_mut() {
            ended.ends.remove(&ifindex);
        }
    }

    /// Somebody else has these addresses now.
    pub(super) fn hand_over(&mut self, addresses: &BTreeSet<IpAddr>) {
        let has = |ip: IpAddr| addresses.contains(&ip);
        self.forms.retain(|_, (_, form)| {
            let reply = form.tracked.map_or_else(|| form.original.reversed(), |t| t.reply);
            !has(form.original.src.ip()) && !has(reply.src.ip())
        });
        self.ended.values_mut().for_each(|ended| ended.addresses.retain(|ip| !has(*ip)));
    }

    /// Forgets pods that ended before then. Gives which.
    pub(super) fn forget(&mut self, before_ns: u64) -> BTreeSet<Party> {
        let gone: BTreeSet<Party> =
            self.ended.extract_if(.., |_, ended| ended.ended_ns < before_ns).map(|(id, _)| Party::Ended(id)).collect();
        if !gone.is_empty() {
            let is_gone = |party: Option<Party>| party.is_some_and(|party| gone.contains(&party));
            self.forms.retain(|_, (ends, _)| !is_gone(ends.client) && !is_gone(ends.server));
        }
        gone
    }

    fn by_inum(&self, inum: u32) -> Option<Party> {
        self.find(|ended| ended.inum == inum)
    }

    fn by_end(&self, ifindex: u32) -> Option<Party> {
        self.find(|ended| ended.ends.contains(&ifindex))
    }

    fn by_address(&self, ip: IpAddr) -> Option<Party> {
        self.find(|ended| ended.addresses.contains(&ip))
    }

    fn find(&self, is: impl Fn(&Ended) -> bool) -> Option<Party> {
        self.ended.iter().rfind(|(_, ended)| is(ended)).map(|(id, _)| Party::Ended(*id))
    }

    /// What the event takes away, by the facts before it.
    pub(super) fn leaving(&self, event: &FactsEvent, facts: &NodeFacts) -> Option<Leaving> {
        let none_is_none =
            |addresses: BTreeSet<IpAddr>| (!addresses.is_empty()).then_some(Leaving::Addresses(addresses));
        match event {
            FactsEvent::NamespaceGone { netns, is_outside: false, .. } if facts.namespaces.contains_key(netns) => {
                Some(Leaving::Namespace(*netns))
            }
            FactsEvent::Namespace(new) if new.inum != facts.node => {
                let is: BTreeSet<IpAddr> = addresses(new).collect();
                let lost =
                    facts.namespaces.get(&new.inum).into_iter().flat_map(addresses).filter(|ip| !is.contains(ip));
                none_is_none(lost.chain(self.taken(event, facts)).collect())
            }
            FactsEvent::Change(change) => match &change.what {
                What::LinkDeleted(link) => Some(Leaving::Device(change.netns, link.index)),
                What::AddressDeleted(address) if change.netns != facts.node => {
                    Some(Leaving::Addresses([address.net.addr()].into()))
                }
                What::AddressAdded(_) => none_is_none(self.taken(event, facts)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Addresses that somebody gets who did not have them, and that a connection remembered or an ended pod had.
    pub(super) fn taken(&self, event: &FactsEvent, facts: &NodeFacts) -> BTreeSet<IpAddr> {
        let fresh: BTreeSet<IpAddr> = match event {
            FactsEvent::Namespace(new) if new.inum != facts.node => {
                let old = facts.namespaces.get(&new.inum);
                addresses(new).filter(|ip| old.is_none_or(|old| !old.owns(*ip))).collect()
            }
            FactsEvent::Change(change) if change.netns != facts.node => match &change.what {
                What::AddressAdded(address) => [address.net.addr()].into(),
                _ => return BTreeSet::new(),
            },
            _ => return BTreeSet::new(),
        };
        let remembered: BTreeSet<IpAddr> = self.forms.keys().map(|flow| flow.src.ip()).collect();
        let had =
            |ip: &IpAddr| remembered.contains(ip) || self.ended.values().any(|ended| ended.addresses.contains(ip));
        fresh.into_iter().filter(had).collect()
    }
}

/// Addresses that can tell one namespace from another.
fn addresses(namespace: &NamespaceFacts) -> impl Iterator<Item = IpAddr> {
    namespace.addresses.iter().map(|a| a.net.addr()).filter(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    })
}

/// Whose links and addresses are, at one moment.
pub(super) struct Whose<'a> {
    pub(super) known: Known<'a>,
    pub(super) past: &'a Past,
    /// The node's ends of pods' links.
    links: HashMap<u32, Party>,
    holders: HashMap<IpAddr, Vec<Party>>,
}

impl<'a> Whose<'a> {
    pub(super) fn now(known: Known<'a>, past: &'a Past) -> Self {
        let facts = known.facts;
        let behind = |index: &u32| {
            let live = facts.behind(*index).map(|(inum, _)| Party::Pod(inum));
            live.or_else(|| past.by_end(*index)).map(|party| (*index, party))
        };
        let links = facts.node().into_iter().flat_map(|node| node.links.keys().filter_map(behind)).collect();
        let mut holders: HashMap<IpAddr, Vec<Party>> = HashMap::new();
        for pod in facts.namespaces.values().filter(|ns| ns.inum != facts.node) {
            for ip in pod.addresses.iter().map(|a| a.net.addr()).filter(|ip| !ip.is_loopback()) {
                holders.entry(ip).or_default().push(Party::Pod(pod.inum));
            }
        }
        Self { known, past, links, holders }
    }

    /// Whose the link is by which a row's packets passed, and whether they went out from there. None: no pod's.
    pub(super) fn link(&self, row: &Counted) -> Option<(Party, bool)> {
        let facts = self.known.facts;
        if row.netns == facts.node {
            return self.links.get(&row.ifindex).map(|party| (*party, !row.egress));
        }
        let is_known = facts.namespaces.contains_key(&row.netns);
        let ended = if is_known { None } else { self.past.by_inum(row.netns) };
        Some((ended.unwrap_or(Party::Pod(row.netns)), row.egress))
    }

    /// Whose a conversation is, by its addresses; where several have one, by the links it passes.
    pub(super) fn ends(&self, conversation: &Conversation<'_>) -> Ends {
        let passed: BTreeSet<Party> =
            conversation.rows.iter().filter_map(|(row, _)| self.link(row)).map(|(party, _)| party).collect();
        let holder = |ip: IpAddr| {
            let holders = self.holders.get(&ip)?;
            holders.iter().find(|party| passed.contains(party)).or(holders.first()).copied()
        };
        let late = |ip: IpAddr| self.past.by_address(ip).filter(|party| passed.contains(party));
        let before = conversation.original.and_then(|original| self.past.ends(original)).unwrap_or_default();
        // Who sent packets from a socket of the node's.
        let sharing = |reply: bool| {
            let rows = conversation.rows.iter().filter(|(row, is_reply)| *is_reply == reply && row.cgroup != 0);
            let mut owners = rows.filter_map(|(row, _)| self.known.names.cgroup(row.cgroup));
            owners.next().map(|(own, _)| Party::Sharing(own))
        };
        let client = conversation.original.map(|o| o.src.ip());
        let server = conversation.reply().map(|r| r.src.ip());
        Ends {
            client: client.and_then(|ip| holder(ip).or(before.client).or_else(|| late(ip))).or_else(|| sharing(false)),
            server: server.and_then(|ip| holder(ip).or(before.server).or_else(|| late(ip))).or_else(|| sharing(true)),
        }
    }

    /// Conversations of these rows.
    pub(super) fn join<'r>(&self, rows: &'r [Counted]) -> Vec<Conversation<'r>> {
        join(rows, |flow| self.past.form(flow))
    }

    /// The pod that a party is now, or was last.
    pub(super) fn pod(&self, party: Party) -> Option<Arc<Pod>> {
        match party {
            Party::Node => None,
            Party::Pod(inum) => self.known.names.namespace(inum).yes().cloned(),
            Party::Sharing(own) => self.known.names.cgroup(own).map(|(_, pod)| Arc::clone(pod)),
            Party::Ended(id) => self.past.get(id).map(|ended| Arc::clone(&ended.pod)),
        }
    }
}
