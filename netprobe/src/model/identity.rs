//! Whose: pods and where their names come from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The network namespace the packet was in, tied to the pod by its addresses or name.
    Netns,
    /// The cgroup of a process in the namespace.
    Cgroup,
    /// Only the address says so.
    Ip,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    /// Kubernetes namespace; empty where Kubernetes did not name it.
    pub namespace: String,
    /// Name: the pod's, a container id, a name of /run/netns, or `netns:[4026532211]`.
    pub name: String,
    /// UID, where known.
    pub uid: Option<String>,
    /// How we know.
    pub identity: Source,
    /// Kubernetes says that it is no more; its name is kept for what comes late.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_ended: bool,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        f.write_str(if self.is_ended { " (ended)" } else { "" })
    }
}
