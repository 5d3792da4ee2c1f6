//! The kernel: what it can show, the programs that show it, and their ring and tables.

pub mod attach;
pub mod btf;
pub mod captured;
pub mod catalog;
pub mod cgroups;
pub mod classifiers;
pub mod counted;
pub mod functions;
pub mod host;
mod kfunc;
pub(crate) mod netlink;
pub mod offsets;
pub mod query;
mod raw;
pub mod tables;
