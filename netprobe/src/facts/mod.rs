//! The node: what is true of its network, and what would follow from it.

pub mod policy;
