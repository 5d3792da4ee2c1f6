//! `Packet` → `Sighting`: given a namespace and addresses, whose are they, or why is it unknown.

pub mod cgroup;
pub mod inventory;
pub mod names;
pub mod select;
