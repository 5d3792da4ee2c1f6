//! `struct fib_rule`.

use super::{offset, probe};

/// `FR_ACT_TO_TBL` (`include/uapi/linux/fib_rules.h`): look a table up.
const TO_TABLE: u8 = 1;

/// The address of a `struct fib_rule`.
#[derive(Clone, Copy)]
pub(crate) struct PolicyRule(u64);

impl PolicyRule {
    /// Wraps an address that need not be one any more: reads of it are checked.
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(address)
    }

    /// It leads to that table. Rules of a VRF name none: they are not recognised.
    #[inline(always)]
    pub(crate) fn looks_up(self, table: u32) -> bool {
        probe::<u8>(self.0, offset!(fib_rule_action)) == TO_TABLE
            && probe::<u32>(self.0, offset!(fib_rule_table)) == table
    }

    /// Its preference.
    #[inline(always)]
    pub(crate) fn preference(self) -> u32 {
        probe(self.0, offset!(fib_rule_pref))
    }

    /// Inode number of its namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        let net: u64 = probe(self.0, offset!(fib_rule_net));
        if net == 0 { 0 } else { probe(net, offset!(net_inum)) }
    }
}
