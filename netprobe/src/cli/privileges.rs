//! Capabilities: what each is for, and how an agent gives the others up.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};
use nix::sys::prctl;

/// A capability that netprobe uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) capability: Capability,
    /// What it lets netprobe do, as `check` says.
    pub(super) purpose: &'static str,
}

const fn used(capability: Capability, purpose: &'static str) -> Used {
    Used { capability, purpose }
}

/// All of them (docs/privileges.md says what is lost without each).
pub(super) const USED: [Used; 9] = [
    used(Capability::CAP_BPF, "load BPF programs and maps"),
    used(Capability::CAP_PERFMON, "attach them to tracepoints, read kernel memory"),
    used(Capability::CAP_NET_ADMIN, "attach TC filters (before Linux 6.6), hear of many changes at once"),
    used(Capability::CAP_NET_BROADCAST, "hear of changes in pods' namespaces"),
    used(Capability::CAP_SYS_ADMIN, "enter pods' namespaces to read their links, routes and settings"),
    used(Capability::CAP_SYS_PTRACE, "find namespaces by processes of others"),
    used(Capability::CAP_SYSLOG, "name kernel functions (/proc/kallsyms)"),
    used(Capability::CAP_SYS_CHROOT, "run the host's nft and iptables from a container"),
    used(Capability::CAP_NET_RAW, "list the rules of iptables-legacy"),
];

/// Nothing of netprobe's needs it; a kubeconfig that is another user's cannot be read without.
const OF_USE: Capability = Capability::CAP_DAC_READ_SEARCH;

/// Gives up, for good, every capability that netprobe has no use for, and those that a program with a set-user-ID bit would
/// give back. To be called while there is one thread: each has its own.
///
/// # Errors
///
/// The kernel refuses, which it does to nobody who gives up what is theirs.
pub(super) fn give_up_others() -> Result<()> {
    let kept: HashSet<Capability> = USED.iter().map(|used| used.capability).chain([OF_USE]).collect();
    let of = |set: CapSet| caps::read(None, set).with_context(|| format!("read the capabilities ({set:?})"));
    let permitted = of(CapSet::Permitted)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in of(CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).context("give up capabilities")?;
        }
    }
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let left = of(set)?.intersection(&kept).copied().collect();
        caps::set(None, set, &left).context("give up capabilities")?;
    }
    prctl::set_no_new_privs().context("give up new privileges")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_listed_twice() {
        let all: HashSet<Capability> = USED.iter().map(|used| used.capability).collect();
        assert_eq!(all.len(), USED.len());
    }
}
