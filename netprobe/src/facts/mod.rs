//! The node: what is true of its network, and what would follow from it.

pub mod ask;
pub mod event;
pub mod policy;
pub mod reader;

mod apply;
mod author;
mod discover;
mod links;
mod listen;
mod namespaces;
mod neighbours;
mod netns;
mod notify;
mod outside;
mod read;
mod routes;
mod rules;
mod scan;
mod shared;
mod sysctls;
mod tracing;
mod watch;

#[cfg(test)]
pub(crate) use ask::parse_iptables_save;
pub use ask::{Asker, cgroup_programs_of_others, tools as netfilter_tools};
pub use event::FactsEvent;
pub use reader::{FactsReader, Options, Place};
pub use shared::{SharedReader, WaitingSockets, waiting_sockets};

use crate::probe::netlink;

#[cfg(test)]
mod tests;
