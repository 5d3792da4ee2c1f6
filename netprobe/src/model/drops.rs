//! Who loses packets, why and where: rows of exact counts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{identity::Pod, sighting::Side};

/// One row of `drops`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRow {
    /// Name of the node, where rows of several are in one table.
    pub node: Option<Arc<str>>,
    /// Whose packets, where an address or the namespace tells.
    pub pod: Option<Arc<Pod>>,
    /// Where: the node's namespace or a pod's.
    pub side: Side,
    /// Device, empty where there was none.
    pub device: Arc<str>,
    /// The kernel's drop reason.
    pub reason: Arc<str>,
    /// Function that freed the packet.
    pub site: Arc<str>,
    /// Drops since start: exact.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Drops since the last table.
    pub fresh: u64,
    /// Last one, `CLOCK_MONOTONIC` nanoseconds.
    pub last_ns: u64,
    /// Why it is noise of a healthy node, where it is.
    pub noise: Option<&'static str>,
    /// A flow it happened to, from the last sample.
    pub example: Option<super::flow::Flow>,
}

/// Rows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropTable {
    /// `CLOCK_MONOTONIC` nanoseconds when it was read.
    pub mono_ns: u64,
    /// Nanoseconds since the table before it (or since start): what `DropRow::fresh` is about.
    pub interval_ns: u64,
    /// The rows, in the order in which they are to be shown.
    pub rows: Vec<DropRow>,
}

/// A time in which packets at a device were not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// Name of the device.
    pub device: String,
    /// Inode number of its namespace.
    pub netns: u32,
    /// When all was last seen to be well, `CLOCK_MONOTONIC` nanoseconds.
    pub from_ns: u64,
    /// When it was well again, likewise; none where it is not.
    pub to_ns: Option<u64>,
    /// Why.
    pub why: String,
}

/// What was lost of the recording itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// `CLOCK_MONOTONIC` nanoseconds when it was noticed.
    pub mono_ns: u64,
    /// How many since the last such word.
    pub lost: u64,
    /// Of what.
    pub what: &'static str,
    /// The hole that it left in the counts of a device.
    pub hole: Option<Hole>,
}

/// The end of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// `CLOCK_MONOTONIC` nanoseconds at start and end.
    pub from_ns: u64,
    /// End.
    pub to_ns: u64,
    /// Records read.
    pub records: u64,
    /// Records lost, of all kinds.
    pub lost: u64,
    /// Journeys seen.
    pub journeys: u64,
    /// Packets dropped in followed namespaces, noise left out.
    pub dropped: u64,
    /// Findings, by rule id.
    pub findings: Vec<(&'static str, u64)>,
    /// Since when names are old, `CLOCK_MONOTONIC` nanoseconds: the API was away at the end.
    pub stale_since_ns: Option<u64>,
}
