//! The node: what is true of its network, and what would follow from it.

pub mod policy;

mod links;
mod neighbours;
mod netlink;
mod netns;
mod read;
mod routes;
mod rules;
mod sysctls;
mod stopgap;
pub use stopgap::*;
