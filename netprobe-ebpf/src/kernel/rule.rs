//! `struct fib_rule`.

use super::{offset, probe};

/// `FR_ACT_TO_TBL` (`include/uapi/linux/fib_rules.h`): look a table up.
const TO_TABLE: u8 = 1;

/// The address of a `struct fib_rule`, or 0. Not an `Option`: the compiler leaves the address of `None` unset, and the
/// verifier does not let that be kept.
#[derive(Clone, Copy)]
pub(crate) struct PolicyRule(u64);

impl PolicyRule {
    /// None.
    pub(crate) const NONE: Self = Self(0);

    /// Wraps an address that need not be one any more: reads of it are checked.
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(address)
    }

    /// It leads to that table. The rule of VRFs (`l3mdev`) names none, and leads to any.
    #[inline(always)]
    pub(crate) fn looks_up(self, table: u32) -> bool {
        let named: u32 = probe(self.0, offset!(fib_rule_table));
        probe::<u8>(self.0, offset!(fib_rule_action)) == TO_TABLE && (named == table || named == 0)
    }

    /// There is one.
    #[inline(always)]
    pub(crate) const fn is_known(self) -> bool {
        self.0 != 0
    }

    /// Its preference; 0 where there is none.
    #[inline(always)]
    pub(crate) fn preference(self) -> u32 {
        if self.0 == 0 { 0 } else { probe(self.0, offset!(fib_rule_pref)) }
    }

    /// Inode number of its namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        let net: u64 = probe(self.0, offset!(fib_rule_net));
        if net == 0 { 0 } else { probe(net, offset!(net_inum)) }
    }
}
