//! What a run that never ends must forget, so that it does not grow for ever.

use super::{DropCount, Pipeline};
use crate::model::{flows::FlowTable, identity::Pod};

/// How long a peer must be quiet before its line goes, nanoseconds.
pub const QUIET_NS: u64 = 300_000_000_000;
/// How long a fault must not have struck before its finding goes, likewise.
const OLD_NS: u64 = 3_600_000_000_000;
/// Findings at most.
const FINDINGS_MAX: usize = 2_000;
/// How long after a loss nothing is stated: no journey that is still open then began before it.
const LOSS_NS: u64 = 60_000_000_000;

impl Pipeline {
    /// Forgets what is over: what was counted for a pod `keep_ns` after it is gone. Gives the drop
    /// counts that are to be taken out of the kernel's table, and how many pods' traffic was forgotten.
    pub fn forget(&mut self, now_ns: u64, keep_ns: u64) -> (Vec<DropCount>, usize) {
        let before = |ns: u64| now_ns.saturating_sub(ns);
        let pods = self.flows.forget((before(keep_ns), before(QUIET_NS), now_ns), &self.names);
        self.findings.forget_before(before(OLD_NS), FINDINGS_MAX);
        let known: std::collections::BTreeSet<String> = self.findings.all().into_iter().map(|f| f.id.clone()).collect();
        self.told.retain(|id, _| known.contains(id));
        if self.lost_ns < before(LOSS_NS) {
            self.findings.forget_loss();
        }
        (self.drops.forget(&self.names, &self.facts, before(keep_ns)), pods)
    }

    /// Packets and bytes by pod and device, without connections.
    #[must_use]
    pub fn device_table(&self, now_ns: u64) -> FlowTable {
        self.flows.device_table(now_ns, self.known_for_flows())
    }

    /// Lets go of the counted rows, which are about to be read anew.
    pub fn clear_rows(&mut self) {
        self.flows.clear_rows();
    }

    /// Rows that were counted at the last reading.
    #[must_use]
    pub fn counted_rows(&self) -> usize {
        self.flows.rows()
    }

    /// The pods that are known now, of this node and of others; some more than once.
    pub fn known_pods(&self) -> impl Iterator<Item = &Pod> {
        let by_address = self.names.addresses().map(|(_, pod)| &**pod);
        let sharing = self.names.sharing().map(|(_, pod)| &**pod);
        by_address.chain(self.names.pods().map(|(_, pod)| &**pod)).chain(sharing)
    }
}
