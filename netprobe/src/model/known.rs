//! A value, or why it is missing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value, or the reason it is missing. There is no silent `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known<T> {
    /// We have it.
    Yes(T),
    /// We looked and do not have it.
    No(Why),
}

impl<T> Known<T> {
    /// The value, where there is one.
    pub const fn yes(&self) -> Option<&T> {
        match self {
            Self::Yes(value) => Some(value),
            Self::No(_) => None,
        }
    }
}

/// Why an identity is missing. Rules match on it; people read its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The packet was seen in the node's own network namespace.
    Node,
    /// The namespace was gone before we could look it up.
    NamespaceGone,
    /// The address is no pod, service or node that we know of.
    Outside,
    /// Nothing names this namespace: no inventory, no cgroup, no name in /run/netns.
    Unnamed,
    /// Neither the packet's device nor its socket tells the namespace.
    NoNamespace,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "it is the node itself",
            Self::NamespaceGone => "its namespace is gone",
            Self::Outside => "outside this node",
            Self::Unnamed => "nothing names its namespace",
            Self::NoNamespace => "the packet has neither device nor socket",
        })
    }
}

impl<T: fmt::Display> fmt::Display for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes(value) => value.fmt(f),
            Self::No(why) => write!(f, "unknown ({why})"),
        }
    }
}
