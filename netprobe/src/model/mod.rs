//! The nouns. Imports nothing from this crate.
//!
//! `Record` (bytes) → [`Packet`](packet::Packet) → [`Sighting`](sighting::Sighting) →
//! [`Journey`](journey::Journey) → [`Finding`](finding::Finding); and the three inputs that are
//! not packets: [`HostFacts`](facts::HostFacts), [`NodeFacts`](facts::NodeFacts),
//! [`Inventory`](inventory::Inventory).

pub mod asked;
pub mod counted;
pub mod counters;
pub mod devices;
pub mod dns;
pub mod drops;
pub mod exchange;
pub mod facts;
pub mod finding;
pub mod flow;
pub mod flows;
pub mod identity;
pub mod invalid;
pub mod inventory;
pub mod journey;
pub mod known;
pub mod nat;
pub mod packet;
pub mod ruleset;
pub mod shared;
pub mod sighting;
pub mod sockets;
pub mod stack;
pub mod symbols;
pub mod traced;
pub mod verdict;
