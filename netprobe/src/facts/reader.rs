//! The node's facts, read at start and followed: namespaces come and go, tables change.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    inotify::Inotify,
};

use super::{
    author::Authors,
    event::FactsEvent,
    namespaces::{self, Holders},
    netns::Netns,
    scan::{Depth, Look, Watched, look},
};
use crate::model::facts::{NamespaceFacts, NodeFacts};

/// The calling thread's namespace is the node's. Never that of process 1, which is another's in a container.
const OWN: &str = "/proc/thread-self/ns/net";

/// When namespaces are looked for again after a link appeared, nanoseconds. CNI plugins create a link, move it, name
/// it and give it addresses, in steps that take from a millisecond to half a second.
const RESCAN_NS: [u64; 4] = [0, 20_000_000, 100_000_000, 500_000_000];

/// How often we ask whether anybody but us still refers to the namespaces we hold, nanoseconds.
/// The kernel keeps a namespace, and a pod's veth with it, until we let go.
const HOLD_CHECK_NS: u64 = 1_000_000_000;

/// How often all namespaces are looked through without a sign, nanoseconds. A macvlan can be made right inside the pod's
/// namespace; if that has no name either, the node hears nothing.
const SCAN_NS: u64 = 10_000_000_000;

/// Stands for [`FactsReader::names`] among the namespaces' numbers, none of which is 0.
const NAMES: u64 = 0;

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Addresses of this node's pods, where an inventory says so: a linked namespace that holds one is a
    /// pod, whatever it looks like.
    pub pod_addresses: Vec<IpAddr>,
    /// Now, `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
}

/// Follows the node's namespaces.
pub struct FactsReader {
    pub(super) epoll: Epoll,
    /// The node's and the pods' namespaces.
    pub(super) watched: BTreeMap<u32, Watched>,
    /// Linked, and none of ours. Held so that their numbers stay theirs.
    pub(super) outside: BTreeMap<u32, (Netns, Holders)>,
    /// What we told so far; its journal stays empty.
    pub(super) mirror: NodeFacts,
    pub(super) authors: Authors,
    /// Rescans to come, soonest first.
    pub(super) rescans: Vec<u64>,
    pub(super) next_hold_check_ns: u64,
    next_scan_ns: u64,
    /// Hears of names given to namespaces, where the kernel and the file system can tell.
    names: Option<Inotify>,
    pub(super) pod_addresses: Vec<IpAddr>,
    /// What is outside must be asked again.
    pub(super) inventory_changed: bool,
}

impl FactsReader {
    /// Reads the node and the pods there are.
    ///
    /// # Errors
    ///
    /// Fails where the node's own tables cannot be read. Pods that cannot be entered are left out, with a warning.
    pub fn start(options: Options) -> Result<(Self, NodeFacts)> {
        let node = Netns::open(Path::new(OWN)).with_context(|| format!("open the node's namespace {OWN}"))?;
        let found = look(&node, &node, Depth::Files).context("read the node's links, rules and routes by netlink")?;
        let Look { socket, nsids, facts, .. } = found.context("the node's namespace is not linked to itself")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("create an epoll")?;
        let inum = node.inum;
        let mut reader = Self {
            epoll,
            watched: BTreeMap::new(),
            outside: BTreeMap::new(),
            mirror: NodeFacts { node: inum, ..NodeFacts::default() },
            authors: Authors::default(),
            rescans: vec![],
            next_hold_check_ns: options.now_ns + HOLD_CHECK_NS,
            next_scan_ns: options.now_ns + SCAN_NS,
            names: namespaces::watch_names(),
            pod_addresses: options.pod_addresses,
            inventory_changed: false,
        };
        if let Some(names) = &reader.names {
            reader.epoll.add(names, EpollEvent::new(EpollFlags::EPOLLIN, NAMES)).context("watch /run/netns")?;
        }
        let all = namespaces::all();
        let holders = all.get(&inum).cloned().unwrap_or_default();
        let watched = Watched { netns: node, socket, nsids, holders };
        reader.watch(watched, facts, 0).context("watch the node's namespace")?;
        let mut events = vec![];
        reader.scan_among(all, 0, &mut events);
        // What is there at start is no news.
        let facts = reader.mirror.clone();
        Ok((reader, facts))
    }

    /// Becomes readable when there is something for [`read_ready`](Self::read_ready).
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// When [`read_ready`](Self::read_ready) wants to be called next though nothing is readable.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        self.rescans.iter().copied().fold(self.next_hold_check_ns.min(self.next_scan_ns), u64::min)
    }

    /// The addresses of this node's pods, after the inventory has changed.
    pub fn set_pod_addresses(&mut self, addresses: Vec<IpAddr>, now_ns: u64) {
        self.pod_addresses = addresses;
        self.inventory_changed = true;
        self.rescan_soon(now_ns);
    }

    /// Takes what has happened and what is due. Never blocks.
    ///
    /// # Errors
    ///
    /// Only if waiting itself fails; trouble with one namespace is an event or a warning.
    pub fn read_ready(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) -> Result<()> {
        let mut ready = [EpollEvent::empty(); 64];
        loop {
            let count = match self.epoll.wait(&mut ready, EpollTimeout::ZERO) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.context("wait for netlink notifications")?,
            };
            for event in &ready[..count] {
                match u32::try_from(event.data()) {
                    Ok(netns) if event.data() != NAMES => self.drain(netns, now_ns, events),
                    _ => self.names_changed(now_ns),
                }
            }
            if count == 0 {
                break;
            }
        }
        if self.rescans.iter().any(|due| *due <= now_ns) {
            self.rescans.retain(|due| *due > now_ns);
            self.scan(now_ns, events);
        }
        if self.next_scan_ns <= now_ns {
            self.next_scan_ns = now_ns + SCAN_NS;
            self.scan(now_ns, events);
        }
        if self.next_hold_check_ns <= now_ns {
            self.next_hold_check_ns = now_ns + HOLD_CHECK_NS;
            self.check_holds(now_ns, events);
        }
        Ok(())
    }

    fn names_changed(&mut self, now_ns: u64) {
        // What changed is not worth a look: a new name is mounted after it is made.
        if let Some(names) = &self.names
            && let Err(error) = names.read_events()
        {
            log::debug!("inotify: {error}");
        }
        self.rescan_soon(now_ns);
    }

    pub(super) fn rescan_soon(&mut self, now_ns: u64) {
        self.rescans = RESCAN_NS.iter().map(|after| now_ns + after).collect();
    }

    /// Folds the event into the mirror and hands it on.
    pub(super) fn tell(&mut self, event: FactsEvent, events: &mut Vec<FactsEvent>) {
        self.mirror.fold(&event);
        events.push(event);
    }

    /// Begins to follow a namespace; the event tells of it.
    pub(super) fn watch(&mut self, watched: Watched, mut facts: NamespaceFacts, now_ns: u64) -> Result<FactsEvent> {
        facts.name = watched.holders.name();
        facts.pids.clone_from(&watched.holders.pids);
        facts.cgroup = watched.holders.cgroup();
        facts.since_ns = now_ns;
        let inum = watched.netns.inum;
        let interest = EpollEvent::new(EpollFlags::EPOLLIN, inum.into());
        self.epoll.add(&watched.socket, interest)?;
        self.watched.insert(inum, watched);
        let event = FactsEvent::Namespace(Box::new(facts));
        self.mirror.fold(&event);
        Ok(event)
    }
}
