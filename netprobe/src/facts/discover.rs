//! Namespaces that come and go.

use std::{collections::BTreeMap, io};

use super::{
    event::FactsEvent,
    namespaces::{self, Holders},
    netlink::Requests,
    netns::{Netns, visit},
    outside::is_outside,
    reader::FactsReader,
    scan::{Depth, Look, Watched, look},
};
use crate::model::facts::NamespaceKind;

/// On a machine with more namespaces, a pod's settings that only /proc has are read when they are asked for
/// ([`FactsReader::refresh_sysctls`]).
const FILES: usize = 64;

/// A namespace that may be linked into the node.
struct Candidate {
    netns: Netns,
    holders: Holders,
    /// The number by which the node knows it.
    nsid: Option<i32>,
    was_outside: bool,
}

/// A namespace that is linked into the node and is the world outside.
#[derive(Debug)]
pub(super) struct Outside {
    holders: Holders,
    nsid: Option<i32>,
}

impl FactsReader {
    /// Looks for namespaces that are new, and lets go of those that only we still refer to.
    pub(super) fn scan(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) {
        self.scan_among(namespaces::all(), now_ns, events);
    }

    /// The same among those that were found already.
    pub(super) fn scan_among(&mut self, mut all: BTreeMap<u32, Holders>, now_ns: u64, events: &mut Vec<FactsEvent>) {
        self.update_holders(&mut all);
        self.drop_abandoned(now_ns, events);
        let mut candidates = open(all);
        if std::mem::take(&mut self.inventory_changed) {
            candidates.extend(self.outside_again());
        }
        if let Err(error) = self.number(&mut candidates) {
            log::warn!("cannot ask how namespaces are linked into the node: {error}");
        }
        let looks = self.look_into(&candidates);
        for (candidate, found) in candidates.into_iter().zip(looks) {
            match found {
                Ok(Some(found)) => self.take(candidate, found, now_ns, events),
                Ok(None) => {}
                Err(error) => log::warn!(
                    "cannot read network namespace {}: {error}; a pod in it goes unseen",
                    candidate.netns.inum
                ),
            }
        }
        self.reconsider(now_ns, events);
    }

    /// Takes what is known already out of `all`.
    fn update_holders(&mut self, all: &mut BTreeMap<u32, Holders>) {
        for (inum, watched) in &mut self.watched {
            watched.holders = all.remove(inum).unwrap_or_default();
        }
        for (inum, outside) in &mut self.outside {
            outside.holders = all.remove(inum).unwrap_or_default();
        }
    }

    /// The namespace that the node knew by this number has ended.
    pub(super) fn ended(&mut self, nsid: i32, now_ns: u64, events: &mut Vec<FactsEvent>) {
        self.outside.retain(|_, outside| outside.nsid != Some(nsid));
        let node = self.watched.get(&self.node.inum);
        if let Some(netns) = node.and_then(|node| node.nsids.get(&nsid)).copied() {
            self.forget(netns, false, now_ns, events);
        }
    }

    fn drop_abandoned(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let node = self.mirror.node;
        self.outside.retain(|_, outside| outside.holders.path().is_some());
        let abandoned = self.watched.iter().filter(|(inum, w)| **inum != node && w.holders.path().is_none());
        let abandoned: Vec<u32> = abandoned.map(|(inum, _)| *inum).collect();
        for netns in abandoned {
            self.forget(netns, false, now_ns, events);
        }
    }

    /// Stops following a namespace: it has ended, or it is none of ours.
    fn forget(&mut self, netns: u32, is_outside: bool, now_ns: u64, events: &mut Vec<FactsEvent>) -> Option<Outside> {
        let watched = self.watched.remove(&netns)?;
        let mut nsid = None;
        if let Some(node) = self.watched.get_mut(&self.node.inum) {
            nsid = node.nsids.iter().find(|(_, inum)| **inum == netns).map(|(id, _)| *id);
            node.nsids.retain(|_, inum| *inum != netns);
        }
        self.tell(FactsEvent::NamespaceGone { netns, mono_ns: now_ns, is_outside }, events);
        Some(Outside { holders: watched.holders, nsid })
    }

    /// Asks the node by which numbers it knows the candidates.
    fn number(&mut self, candidates: &mut [Candidate]) -> io::Result<()> {
        // The calling thread may be in any namespace by now.
        let mut requests = self.inside(self.node.inum, Requests::open)?;
        for candidate in candidates {
            candidate.nsid = namespaces::nsid(&mut requests, &candidate.netns)?;
        }
        Ok(())
    }

    fn look_into(&self, candidates: &[Candidate]) -> Vec<io::Result<Option<Look>>> {
        let namespaces: Vec<&Netns> = candidates.iter().map(|c| &c.netns).collect();
        let many = self.watched.len() + namespaces.len() > FILES;
        let depth = if many { Depth::Netlink } else { Depth::Files };
        visit(&namespaces, |netns| look(netns, &self.node, depth))
    }

    /// Decides what a linked namespace is.
    fn take(&mut self, candidate: Candidate, found: Look, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let Candidate { netns, holders, nsid, was_outside } = candidate;
        let Look { nsids, facts, unread } = found;
        let inum = netns.inum;
        self.mirror.join(inum, facts.links.values());
        let listed = self.pod_addresses.iter().any(|ip| facts.owns(*ip));
        let outside = self.mirror.node().is_some_and(|node| is_outside(node, &facts, &self.pod_addresses));
        if !listed && (was_outside || outside) {
            self.outside.insert(inum, Outside { holders, nsid });
            return;
        }
        let was_heard = nsid.is_some();
        if let (Some(nsid), Some(node)) =
            (nsid.or_else(|| self.number_it(&netns)), self.watched.get_mut(&self.node.inum))
        {
            node.nsids.insert(nsid, inum);
        }
        let event = self.watch(inum, Watched { nsids, holders }, facts, now_ns);
        events.push(event);
        if !was_heard {
            // What happened between the look and the number was told to nobody.
            self.read_again(inum, now_ns, events);
        }
        if unread > 0 {
            self.tell(FactsEvent::Lost { netns: inum, mono_ns: now_ns, unread }, events);
        }
    }

    /// A number for a namespace that the node has none for; without one its changes stay unheard.
    fn number_it(&self, netns: &Netns) -> Option<i32> {
        let numbered = self.inside(self.node.inum, || namespaces::number_it(&mut Requests::open()?, netns));
        numbered.unwrap_or_else(|error| {
            log::warn!("cannot follow network namespace {}: {error}; its changes go unseen", netns.inum);
            None
        })
    }

    /// A namespace that was linked before the node got its routes may turn out to be the world outside.
    fn reconsider(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let Some(node) = self.mirror.node() else { return };
        let pods = self.mirror.namespaces.values().filter(|facts| facts.kind == NamespaceKind::Pod);
        let wrong = pods.filter(|facts| is_outside(node, facts, &self.pod_addresses));
        for netns in wrong.map(|facts| facts.inum).collect::<Vec<_>>() {
            if let Some(outside) = self.forget(netns, true, now_ns, events) {
                self.outside.insert(netns, outside);
            }
        }
    }

    /// What was outside by the last inventory may be a pod by this one.
    fn outside_again(&mut self) -> Vec<Candidate> {
        let outside = std::mem::take(&mut self.outside);
        let again = |(inum, Outside { holders, nsid }): (u32, Outside)| {
            let netns = holders.open(inum).ok()?;
            Some(Candidate { netns, holders, nsid, was_outside: true })
        };
        outside.into_iter().filter_map(again).collect()
    }
}

/// Opens what is still there.
fn open(all: BTreeMap<u32, Holders>) -> Vec<Candidate> {
    let open = |(inum, holders): (u32, Holders)| {
        let netns = holders.open(inum).ok()?;
        Some(Candidate { netns, holders, nsid: None, was_outside: false })
    };
    all.into_iter().filter_map(open).collect()
}
