//! The node's facts, read at start and followed: namespaces come and go, tables change.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::{
    ask::Asker,
    author::Authors,
    discover::Outside,
    event::FactsEvent,
    listen::Listener,
    namespaces,
    netns::{Netns, visit},
    scan::{Depth, Look, Watched, look},
    tracing::Tracer,
};
use crate::model::{
    asked::Question,
    facts::{NamespaceFacts, NodeFacts},
};

/// The calling thread's namespace is the node's. Never that of process 1, which is another's in a container.
const OWN: &str = "/proc/thread-self/ns/net";

/// When namespaces are looked for again after a link appeared, nanoseconds. CNI plugins create a link, move it, name
/// it and give it addresses, in steps that take from a millisecond to half a second.
const RESCAN_NS: [u64; 4] = [0, 20_000_000, 100_000_000, 500_000_000];

/// How often all namespaces are looked through without a sign, nanoseconds. A macvlan can be made right inside the pod's
/// namespace; if that has no name either, the node hears nothing.
const SCAN_NS: u64 = 10_000_000_000;

/// A namespace to do something in, and who is there.
#[derive(Debug)]
pub struct Place {
    netns: Netns,
    /// A few of its processes, lowest first.
    pub pids: Vec<u32>,
    /// Name of its file in /run/netns, where it has one.
    pub name: Option<String>,
}

impl Place {
    /// Inode number.
    #[must_use]
    pub const fn inum(&self) -> u32 {
        self.netns.inum
    }

    /// Takes the calling thread into it, for good: it must be one of our own that ends.
    ///
    /// # Errors
    ///
    /// Without `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> io::Result<()> {
        self.netns.enter()
    }
}

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
    /// Readable when the listener is.
    epoll: Epoll,
    pub(super) listener: Listener,
    /// The node's own namespace.
    pub(super) node: Netns,
    /// The node's and the pods' namespaces.
    pub(super) watched: BTreeMap<u32, Watched>,
    /// Linked, and none of ours.
    pub(super) outside: BTreeMap<u32, Outside>,
    /// What we told so far; its journal stays empty.
    pub(super) mirror: NodeFacts,
    pub(super) authors: Authors,
    /// Rescans to come, soonest first.
    pub(super) rescans: Vec<u64>,
    next_scan_ns: u64,
    /// When names of namespaces last came or went.
    names: Vec<Option<SystemTime>>,
    pub(super) pod_addresses: Vec<IpAddr>,
    /// What is outside must be asked again.
    pub(super) inventory_changed: bool,
    /// Tells which netfilter rule drops a packet, where the user lets us add a table for that.
    tracer: Option<Tracer>,
}

impl FactsReader {
    /// Reads the node and the pods there are.
    ///
    /// # Errors
    ///
    /// Fails where the node's own tables cannot be read. Pods that cannot be entered are left out, with a warning.
    pub fn start(options: Options) -> Result<(Self, NodeFacts)> {
        let node = Netns::open(Path::new(OWN)).with_context(|| format!("open the node's namespace {OWN}"))?;
        // Listening is older than reading, so nothing is missed in between.
        let listener = Listener::open().context("listen to the kernel's notifications by netlink")?;
        let found = look(&node, &node, Depth::Files).context("read the node's links, rules and routes by netlink")?;
        let Look { nsids, facts, .. } = found.context("the node's namespace is not linked to itself")?;
        let inum = node.inum;
        let mut reader = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("create an epoll")?,
            listener,
            node,
            watched: BTreeMap::new(),
            outside: BTreeMap::new(),
            mirror: NodeFacts { node: inum, ..NodeFacts::default() },
            authors: Authors::default(),
            rescans: vec![],
            next_scan_ns: options.now_ns + SCAN_NS,
            names: namespaces::names_changed_at(),
            pod_addresses: options.pod_addresses,
            inventory_changed: false,
            tracer: None,
        };
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        reader.epoll.add(&reader.listener, readable).context("watch the kernel's notifications")?;
        let all = namespaces::all();
        let holders = all.get(&inum).cloned().unwrap_or_default();
        reader.watch(inum, Watched { nsids, holders }, facts, 0);
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
        self.rescans.iter().copied().fold(self.next_scan_ns, u64::min)
    }

    /// The addresses of this node's pods, after the inventory has changed.
    pub fn set_pod_addresses(&mut self, addresses: Vec<IpAddr>, now_ns: u64) {
        self.pod_addresses = addresses;
        self.inventory_changed = true;
        self.rescan_soon(now_ns);
    }

    /// Has nftables tell which of the node's rules drop packets of these addresses, or of everybody where it is `None`.
    /// For that a table of ours is added to the node, which goes with this process, however it ends.
    ///
    /// # Errors
    ///
    /// Where the kernel has no nftables, or takes no such table.
    pub fn trace_rules(&mut self, addresses: Option<&BTreeSet<IpAddr>>) -> Result<()> {
        if let Some(tracer) = &mut self.tracer {
            // The run goes on with those it had.
            if let Err(error) = tracer.mark(addresses) {
                log::warn!("cannot mark other packets for nftables' trace: {error}");
            }
            return Ok(());
        }
        let inum = self.node.inum;
        let tracer = self
            .inside(inum, || Tracer::start(inum, addresses))
            .context("add a table to nftables that marks packets for its trace")?;
        self.epoll.add(&tracer, EpollEvent::new(EpollFlags::EPOLLIN, 0)).context("watch nftables' trace")?;
        self.tracer = Some(tracer);
        Ok(())
    }

    fn take_traced(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) -> Result<()> {
        let Some(tracer) = &mut self.tracer else { return Ok(()) };
        tracer.take(now_ns, |traced| events.push(FactsEvent::Traced(Box::new(traced)))).context("read nftables' trace")
    }

    /// Takes what has happened and what is due. Never blocks.
    ///
    /// # Errors
    ///
    /// Only if waiting itself fails; trouble with one namespace is an event or a warning.
    pub fn read_ready(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) -> Result<()> {
        self.take_traced(now_ns, events)?;
        self.drain(now_ns, events)?;
        if self.names_changed() {
            self.rescan_soon(now_ns);
        }
        let rescan = self.rescans.iter().any(|due| *due <= now_ns);
        self.rescans.retain(|due| *due > now_ns);
        let due = self.next_scan_ns <= now_ns;
        if due {
            self.next_scan_ns = now_ns + SCAN_NS;
        }
        if rescan || due {
            self.scan(now_ns, events);
            // A scan takes its time on a busy node: a device that came meanwhile may already have packets waiting.
            self.drain(now_ns, events)?;
        }
        Ok(())
    }

    /// Whether a namespace was given a name, or lost it. Which, is not worth a look: a new name is mounted after it is made.
    fn names_changed(&mut self) -> bool {
        let now = namespaces::names_changed_at();
        let changed = now != self.names;
        self.names = now;
        changed
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
    pub(super) fn watch(&mut self, inum: u32, watched: Watched, mut facts: NamespaceFacts, now_ns: u64) -> FactsEvent {
        facts.name = watched.holders.name();
        facts.pids.clone_from(&watched.holders.pids);
        facts.cgroup = watched.holders.cgroup();
        facts.since_ns = now_ns;
        self.watched.insert(inum, watched);
        let event = FactsEvent::Namespace(Box::new(facts));
        self.mirror.fold(&event);
        event
    }

    /// Has something read in a namespace that we follow; the answer comes from `asker`. False if it was read a moment
    /// ago: ask again later.
    pub fn ask(&self, question: Question, asker: &mut Asker) -> bool {
        asker.ask(question, || self.open(question.netns))
    }

    /// A namespace that we follow, opened.
    ///
    /// # Errors
    ///
    /// If nobody refers to it any more.
    pub fn place(&self, netns: u32) -> io::Result<Place> {
        let holders = self.watched.get(&netns).map(|watched| &watched.holders);
        let pids = holders.map(|holders| holders.pids.clone()).unwrap_or_default();
        let name = holders.and_then(|holders| holders.file.as_ref()?.file_name()?.to_str().map(str::to_owned));
        Ok(Place { netns: self.open(netns)?, pids, name })
    }

    fn open(&self, netns: u32) -> io::Result<Netns> {
        if netns == self.node.inum {
            return Netns::open(Path::new(OWN));
        }
        let watched = self.watched.get(&netns).ok_or_else(|| io::Error::other("it is not followed"))?;
        watched.holders.open(netns)
    }

    /// Does `work` inside a namespace that we follow.
    pub(super) fn inside<T: Send>(&self, netns: u32, work: impl Fn() -> io::Result<T> + Send + Sync) -> io::Result<T> {
        let opened;
        let entered = if netns == self.node.inum {
            &self.node
        } else {
            let watched = self.watched.get(&netns).ok_or_else(|| io::Error::other("it is not followed"))?;
            opened = watched.holders.open(netns)?;
            &opened
        };
        let mut results = visit(&[entered], |_| work());
        results.pop().unwrap_or_else(|| Err(io::Error::other("the thread for namespaces gave no answer")))
    }
}
