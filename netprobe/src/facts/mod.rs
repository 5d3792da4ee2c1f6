//! The node: what is true of its network, and what would follow from it.

pub mod event;
pub mod policy;

mod apply;
mod links;
mod namespaces;
mod neighbours;
mod netlink;
mod netns;
mod outside;
mod read;
mod routes;
mod rules;
mod stopgap;
mod sysctls;
pub use event::FactsEvent;
pub use stopgap::*;
