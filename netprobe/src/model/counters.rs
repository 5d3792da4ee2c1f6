//! Counters of the kernel's stack, as it keeps them per namespace.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counters by name: the group of `/proc/net/snmp` and `/proc/net/netstat` with the kernel's name
/// (`TcpExt.ListenOverflows`, `Ip.ReasmTimeout`, `Ip6.InNoRoutes`), `conntrack.insert_failed` summed over CPUs,
/// `softnet.dropped`. Those that are zero are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters(pub BTreeMap<String, u64>);

impl Counters {
    /// A counter's value, 0 where the kernel does not have it.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

impl super::asked::Window<'_, Counters> {
    /// By how much a counter rose in the window; 0 without a reading before.
    #[must_use]
    pub fn rise(&self, name: &str) -> u64 {
        self.before.map_or(0, |before| self.after.get(name).saturating_sub(before.get(name)))
    }
}
