//! Does a packet pass the user's filter? Run by the programs, and by tests on the host.

use crate::{
    config::{Filter, FilterTest},
    flow::{FlowKey, words},
    limits::{FILTER_CLAUSES, FILTER_TESTS},
};

/// Which side of a flow a test looks at.
const SOURCE: u8 = 1;
/// See [`SOURCE`].
const DESTINATION: u8 = 2;

/// Whether `test` holds for a packet of `flow` (turned round where `reversed`) with these TCP flags and this ICMP type.
#[inline(always)]
#[must_use]
pub fn holds(test: &FilterTest, flow: &FlowKey, reversed: bool, flags: u8, icmp_type: u8) -> bool {
    if test.family != 0 && test.family != flow.family {
        return false;
    }
    if test.proto != 0 && test.proto != flow.proto {
        return false;
    }
    if test.has_icmp_type != 0 && test.icmp_type != icmp_type {
        return false;
    }
    let masked = flags & test.flags_mask;
    if test.flags_any != 0 {
        if masked == 0 {
            return false;
        }
    } else if masked != test.flags_value {
        return false;
    }
    let (source, destination) = if reversed { (DESTINATION, SOURCE) } else { (SOURCE, DESTINATION) };
    // ICMP carries its echo identifier where the others have ports; `port 7` does not mean it.
    let any_port = test.port_low == 0 && test.port_high == u16::MAX;
    if !any_port && !matches!(flow.proto, 6 | 17 | 132) {
        return false;
    }
    (test.sides & source != 0 && side(test, &flow.src, flow.sport))
        || (test.sides & destination != 0 && side(test, &flow.dst, flow.dport))
}

#[inline(always)]
fn side(test: &FilterTest, address: &[u8; 16], port: u16) -> bool {
    if port < test.port_low || port > test.port_high {
        return false;
    }
    let (address, mask, want) = (words(address), words(&test.mask), words(&test.address));
    address.0 & mask.0 == want.0 && address.1 & mask.1 == want.1
}

/// Whether a packet passes `filter`, of which the first `tests` and `clauses` are in use.
///
/// Every test is made and kept as one bit, then the clauses are compared with the bits: no branch
/// depends on another, so the verifier's work grows with the length, not with its power.
#[inline(always)]
#[must_use]
pub fn passes(
    filter: &Filter,
    tests: u32,
    clauses: u32,
    flow: &FlowKey,
    reversed: bool,
    flags: u8,
    icmp_type: u8,
) -> bool {
    let mut bits = 0u32;
    for index in 0..FILTER_TESTS {
        if index as u32 >= tests {
            break;
        }
        bits |= u32::from(holds(&filter.tests[index], flow, reversed, flags, icmp_type)) << index;
    }
    for index in 0..FILTER_CLAUSES {
        if index as u32 >= clauses {
            break;
        }
        let clause = filter.clauses[index];
        if bits & clause.need == clause.need && bits & clause.deny == 0 {
            return true;
        }
    }
    tests == 0
}
