//! cgroups of pods that share the node's network namespace, and where their sockets wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::ask::{cgroup_mount, listening};
use crate::model::{
    flow::Proto,
    shared::{PodCgroups, Shared},
};

/// Directories looked at in one walk: a node of 250 pods has about 1,500 cgroups.
const LOOKED_AT: usize = 20_000;
/// How often the whole tree is walked for pods that were not found yet, nanoseconds.
const WALK_NS: u64 = 5_000_000_000;

/// Which pod's the directory of that path is, by its last part.
type Named = fn(&Path) -> Option<String>;

/// Looks after the cgroups of some pods.
pub struct SharedReader {
    named: Named,
    wanted: BTreeSet<String>,
    /// Directories of pods, as found last.
    found: BTreeMap<String, PathBuf>,
    walked_ns: u64,
    told: Shared,
}

impl SharedReader {
    /// Of nobody yet; `named` tells a pod's cgroup from others.
    #[must_use]
    pub fn new(named: Named) -> Self {
        Self { named, wanted: BTreeSet::new(), found: BTreeMap::new(), walked_ns: 0, told: Shared::default() }
    }

    /// These pods are to be looked after, by the names in their cgroups. Says whether they are others than before.
    pub fn want(&mut self, wanted: BTreeSet<String>) -> bool {
        let changed = wanted != self.wanted;
        if changed {
            self.wanted = wanted;
            self.walked_ns = 0;
        }
        changed
    }

    /// Looks again; gives what is known where it is something else than was told before.
    pub fn look(&mut self, now_ns: u64) -> Option<Shared> {
        let shared = if self.wanted.is_empty() { Shared::default() } else { self.read(now_ns) };
        if shared == self.told {
            return None;
        }
        self.told = shared.clone();
        Some(shared)
    }

    fn read(&mut self, now_ns: u64) -> Shared {
        let Some(root) = cgroup_mount() else {
            let lack = "this node has no cgroups of version 2 mounted, by which sockets are told apart".to_owned();
            return Shared { lack: Some(lack), ..Shared::default() };
        };
        self.found.retain(|name, path| self.wanted.contains(name) && path.is_dir());
        let lacks = self.wanted.iter().any(|name| !self.found.contains_key(name));
        if lacks && (self.walked_ns == 0 || now_ns.saturating_sub(self.walked_ns) >= WALK_NS) {
            self.walked_ns = now_ns;
            self.walk(&root);
        }
        let pods = self.found.iter().filter_map(|(name, path)| {
            let own = fs::metadata(path).ok()?.st_ino();
            let mut all = BTreeSet::new();
            each_below(path, |_, metadata| {
                all.insert(metadata.st_ino());
            });
            Some((name.clone(), PodCgroups { own, all }))
        });
        let pods: BTreeMap<String, PodCgroups> = pods.collect();
        // The root of all cgroups has no such file.
        let is_part = pods.len() < self.wanted.len() && root.join("cgroup.events").exists();
        let lack = is_part.then(|| {
            let root = root.display();
            format!("of the cgroups netprobe sees those of its own container alone: mount the host's {root} into it")
        });
        Shared { pods, lack }
    }

    fn walk(&mut self, root: &Path) {
        let Self { named, wanted, found, .. } = self;
        each_below(root, |path, _| {
            if let Some(name) = named(path).filter(|name| wanted.contains(name)) {
                // The outermost of that name is the pod's own; what has its name below is part of it.
                found.entry(name).or_insert_with(|| path.to_owned());
            }
        });
    }
}

/// The directory and all below it, those above first.
fn each_below(root: &Path, mut each: impl FnMut(&Path, &fs::Metadata)) {
    let mut directories = std::collections::VecDeque::from([root.to_owned()]);
    let mut looked_at = 0;
    while let Some(directory) = directories.pop_front() {
        looked_at += 1;
        if looked_at > LOOKED_AT {
            return;
        }
        // It may be gone by now.
        let Ok(metadata) = fs::metadata(&directory) else { continue };
        each(&directory, &metadata);
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
}

/// By protocol and local address: the cgroup, and whether an IPv6 socket takes IPv4 too.
pub type WaitingSockets = BTreeMap<(Proto, SocketAddr), (Option<u64>, bool)>;

/// Sockets of the calling thread's namespace that wait for packets, each with its cgroup. One address and port at which
/// sockets of several cgroups wait tells nobody: the kernel chooses among them.
///
/// # Errors
///
/// The kernel does not list them.
pub fn waiting_sockets() -> Result<WaitingSockets> {
    let mut waiting: WaitingSockets = BTreeMap::new();
    for listener in listening()?.listeners {
        let cgroup = (listener.cgroup != 0).then_some(listener.cgroup);
        let both = listener.local.is_ipv6() && listener.local.ip().is_unspecified() && !listener.v6_only;
        waiting
            .entry((listener.proto, listener.local))
            .and_modify(|(known, takes_v4)| {
                *known = known.filter(|known| Some(*known) == cgroup);
                *takes_v4 |= both;
            })
            .or_insert((cgroup, both));
    }
    Ok(waiting)
}
