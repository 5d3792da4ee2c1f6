//! What happened to the facts, one at a time: what a recording stores after the first [`NodeFacts`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    asked::Answer,
    facts::{Author, Change, NamespaceFacts, Neigh, NodeFacts, What},
    shared::Shared,
    traced::Traced,
};

/// Lines the journal keeps; the oldest go first.
pub const JOURNAL_LINES: usize = 4096;

/// One step from some facts to the next; [`NodeFacts::apply`] takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "events live for a moment, in one reused list")]
pub enum FactsEvent {
    /// Something changed; it belongs in the journal.
    Change(Change),
    /// A neighbour entry is new, has changed, or is gone.
    Neighbour {
        /// Inode number of the namespace.
        netns: u32,
        /// The entry.
        entry: Neigh,
        /// It was removed.
        gone: bool,
    },
    /// A namespace was found, or read again as a whole.
    Namespace(Box<NamespaceFacts>),
    /// A namespace is gone, or turned out to be none of ours.
    NamespaceGone {
        /// Inode number.
        netns: u32,
        /// When we noticed, `CLOCK_MONOTONIC` nanoseconds.
        mono_ns: u64,
        /// It goes on, and is none of ours.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_outside: bool,
    },
    /// Settings that were read and are no news: those of a new device, counters.
    Sysctls {
        /// Inode number of the namespace.
        netns: u32,
        /// By name.
        settings: BTreeMap<String, String>,
    },
    /// Something was read because a finding needs it.
    Answer(Box<Answer>),
    /// Pods without a namespace of their own have other cgroups than before.
    Shared(Box<Shared>),
    /// nftables told which of its rules dropped a packet.
    Traced(Box<Traced>),
    /// The kernel dropped notifications, or sent what we cannot read. The namespace is read again after a drop;
    /// what changed and changed back meanwhile, and who did it, is not known.
    Lost {
        /// Inode number of the namespace.
        netns: u32,
        /// When we noticed, `CLOCK_MONOTONIC` nanoseconds.
        mono_ns: u64,
        /// Messages that could not be read; 0 for notifications that were dropped, in a number nobody knows.
        unread: u64,
    },
}

impl FactsEvent {
    /// Whether names of namespaces or addresses must be looked up again.
    #[must_use]
    pub const fn changes_names(&self) -> bool {
        match self {
            Self::Namespace(_) | Self::NamespaceGone { .. } | Self::Shared(_) => true,
            Self::Change(change) => matches!(change.what, What::AddressAdded(_) | What::AddressDeleted(_)),
            Self::Neighbour { .. } | Self::Sysctls { .. } | Self::Answer(_) | Self::Traced(_) | Self::Lost { .. } => {
                false
            }
        }
    }
}

impl NodeFacts {
    /// Takes one step, and notes it in the journal if it belongs there.
    pub fn apply(&mut self, event: &FactsEvent) {
        let line = match event {
            FactsEvent::Change(change) => Some(change.clone()),
            FactsEvent::Namespace(facts) if !self.namespaces.contains_key(&facts.inum) => {
                Some(line(facts.inum, facts.since_ns, What::NamespaceAdded))
            }
            FactsEvent::NamespaceGone { netns, mono_ns, .. } if self.namespaces.contains_key(netns) => {
                Some(line(*netns, *mono_ns, What::NamespaceDeleted))
            }
            _ => None,
        };
        self.fold(event);
        if let Some(line) = line {
            let surplus = (self.journal.len() + 1).saturating_sub(JOURNAL_LINES);
            self.journal.drain(..surplus);
            self.journal.push(line);
        }
    }
}

fn line(netns: u32, mono_ns: u64, what: What) -> Change {
    Change { mono_ns, netns, what, by: Author::default() }
}
