//! netprobe: why a pod's traffic leaves by the wrong NIC, or vanishes.
//!
//! Data flows one way, in this order; `cargo xtask layers` holds it to that.

/// The nouns: Packet, Sighting, Journey, Finding, and the facts beside them.
pub mod model;

/// The kernel: loads and attaches the programs, reads their ring and tables.
pub mod probe;

/// The node: links, addresses, rules, routes, neighbours, settings, and their changes.
pub mod facts;

/// `Record` → `Packet`: bytes to host types, numbers to this kernel's names.
pub mod decode;

/// `Packet` → `Sighting`: whose packet, in whose namespace.
pub mod enrich;

/// `Sighting` → `Journey`: one connection over namespaces, NAT and the reply.
pub mod correlate;

/// `Journey` → `Finding`: the cause, with its evidence.
pub mod explain;

/// Anything above → bytes.
pub mod render;

/// Recorded runs.
pub mod record;

/// Joins the stages.
pub mod pipeline;

/// The commands.
pub mod cli;
