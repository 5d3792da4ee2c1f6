//! Pods that share the node's network namespace, told apart by the cgroups of their processes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The pods that were found, and why others were not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// cgroups by the UID in their name (of a static pod, the hash that stands for it).
    pub pods: BTreeMap<String, PodCgroups>,
    /// Why sockets cannot be told apart at all, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<String>,
}

impl Shared {
    /// Nothing is known, and nothing was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The cgroups of one pod (version 2), by the inode numbers of their directories. The kernel does not give one again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCgroups {
    /// The pod's own.
    pub own: u64,
    /// It and all below it.
    pub all: BTreeSet<u64>,
}
