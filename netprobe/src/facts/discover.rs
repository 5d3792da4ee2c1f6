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
        for (inum, (_, holders)) in &mut self.outside {
            *holders = all.remove(inum).unwrap_or_default();
        }
    }

    /// Once a second, without looking through /proc: is anything abandoned?
    pub(super) fn check_holds(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let node = self.mirror.node;
        let watched = self.watched.iter().map(|(inum, w)| (inum, &w.holders));
        let outside = self.outside.iter().map(|(inum, (_, holders))| (inum, holders));
        if watched.chain(outside).any(|(inum, holders)| *inum != node && !holders.hold(*inum)) {
            self.scan(now_ns, events);
        }
    }

    fn drop_abandoned(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let node = self.mirror.node;
        self.outside.retain(|_, (_, holders)| holders.path().is_some());
        let abandoned = self.watched.iter().filter(|(inum, w)| **inum != node && w.holders.path().is_none());
        let abandoned: Vec<u32> = abandoned.map(|(inum, _)| *inum).collect();
        for netns in abandoned {
            self.forget(netns, now_ns, events);
        }
    }

    /// Stops following a namespace. Its last notifications are read first.
    fn forget(&mut self, netns: u32, now_ns: u64, events: &mut Vec<FactsEvent>) -> Option<Watched> {
        self.drain(netns, now_ns, events);
        let watched = self.watched.remove(&netns)?;
        if let Err(error) = self.epoll.delete(&watched.socket) {
            log::debug!("epoll: {error}");
        }
        if let Some(node) = self.watched.get_mut(&self.mirror.node) {
            node.nsids.retain(|_, inum| *inum != netns);
        }
        self.tell(FactsEvent::NamespaceGone { netns, mono_ns: now_ns }, events);
        Some(watched)
    }

    /// Asks the node by which numbers it knows the candidates.
    fn number(&mut self, candidates: &mut [Candidate]) -> io::Result<()> {
        let Some(node) = self.watched.get(&self.mirror.node) else { return Ok(()) };
        // The calling thread may be in any namespace by now.
        let opened = visit(&[&node.netns], |_| Requests::open());
        for mut requests in opened.into_iter().collect::<io::Result<Vec<_>>>()? {
            for candidate in &mut *candidates {
                candidate.nsid = namespaces::nsid(&mut requests, &candidate.netns)?;
            }
        }
        Ok(())
    }

    fn look_into(&self, candidates: &[Candidate]) -> Vec<io::Result<Option<Look>>> {
        let Some(node) = self.watched.get(&self.mirror.node) else { return vec![] };
        let namespaces: Vec<&Netns> = candidates.iter().map(|c| &c.netns).collect();
        let many = self.watched.len() + namespaces.len() > FILES;
        let depth = if many { Depth::Netlink } else { Depth::Files };
        visit(&namespaces, |netns| look(netns, &node.netns, depth))
    }

    /// Decides what a linked namespace is.
    fn take(&mut self, candidate: Candidate, found: Look, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let Candidate { netns, holders, nsid, was_outside } = candidate;
        let Look { socket, nsids, facts, unread } = found;
        let inum = netns.inum;
        self.mirror.join(inum, facts.links.values());
        let listed = self.pod_addresses.iter().any(|ip| facts.owns(*ip));
        let outside = self.mirror.node().is_some_and(|node| is_outside(node, &facts, &self.pod_addresses));
        if !listed && (was_outside || outside) {
            self.outside.insert(inum, (netns, holders));
            return;
        }
        if let (Some(nsid), Some(node)) = (nsid, self.watched.get_mut(&self.mirror.node)) {
            node.nsids.insert(nsid, inum);
        }
        match self.watch(Watched { netns, socket, nsids, holders }, facts, now_ns) {
            Ok(event) => events.push(event),
            Err(error) => log::warn!("cannot follow network namespace {inum}: {error:#}; a pod in it goes unseen"),
        }
        if unread > 0 {
            self.tell(FactsEvent::Lost { netns: inum, mono_ns: now_ns, unread }, events);
        }
    }

    /// A namespace that was linked before the node got its routes may turn out to be the world outside.
    fn reconsider(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let Some(node) = self.mirror.node() else { return };
        let pods = self.mirror.namespaces.values().filter(|facts| facts.kind == NamespaceKind::Pod);
        let wrong = pods.filter(|facts| is_outside(node, facts, &self.pod_addresses));
        for netns in wrong.map(|facts| facts.inum).collect::<Vec<_>>() {
            if let Some(Watched { netns: handle, holders, .. }) = self.forget(netns, now_ns, events) {
                self.outside.insert(netns, (handle, holders));
            }
        }
    }

    /// What was outside by the last inventory may be a pod by this one.
    fn outside_again(&mut self) -> Vec<Candidate> {
        let outside = std::mem::take(&mut self.outside);
        let again = |(netns, holders)| Candidate { netns, holders, nsid: None, was_outside: true };
        outside.into_values().map(again).collect()
    }
}

/// Opens what is still there.
fn open(all: BTreeMap<u32, Holders>) -> Vec<Candidate> {
    let open = |(inum, holders): (u32, Holders)| {
        let netns = Netns::open(&holders.path()?).ok().filter(|netns| netns.inum == inum)?;
        Some(Candidate { netns, holders, nsid: None, was_outside: false })
    };
    all.into_iter().filter_map(open).collect()
}
