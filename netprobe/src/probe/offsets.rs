//! Offsets and flags from BTF into the programs' configuration.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use netprobe_common::{
    config::{ABSENT, Config, Offsets},
    wire,
};

use super::btf::KernelBtf;

/// Fields that exist only where conntrack does, or only in some kernels: without them detail is
/// missing, not the run.
const OPTIONAL: &[&str] = &[
    "skb_nfct",
    "ct_",
    "tuple_",
    "net_fib6_null",
    "sk_daddr6",
    "sk_saddr6",
    "inet_sport",
    "icsk_retransmits",
    "skb_inner_transport",
    "skb_end",
    "shinfo_",
    "sk_listener",
    "sk_cgroup",
    "cgroup_kn",
    "kernfs_id",
];

/// Fields that only programs on kernel functions read: not looked for where there can be none.
const OF_FUNCTIONS: &[&str] =
    &["fib_rule_", "hook_", "nft_", "xt_", "tcf_", "nat_", "tcp_seen_", "skb_cb", "nlmsg_", "netlink_"];

/// Enum names start with this; users never type it.
const REASON_PREFIX: &str = "SKB_DROP_REASON_";
const RESET_PREFIX: &str = "SK_RST_REASON_";

/// A configuration with this kernel's offsets and flags; mode and filter are the caller's. Without `functions` no
/// program will be attached to a kernel function.
///
/// # Errors
///
/// When the kernel lacks a field that nothing works without: names them.
pub fn config(btf: &KernelBtf, functions: bool) -> Result<Config> {
    let mut config: Config = wire::zeroed();
    let mut missing = Vec::new();
    for (index, (name, path)) in Offsets::PATHS.iter().enumerate() {
        let of_function = OF_FUNCTIONS.iter().any(|prefix| name.starts_with(prefix));
        let found = if of_function && !functions { None } else { btf.offset(path) };
        if found.is_none() && !of_function && !OPTIONAL.iter().any(|optional| name.starts_with(optional)) {
            missing.push(*path);
        }
        config.offsets.set(index, found.unwrap_or(ABSENT));
    }
    if !missing.is_empty() {
        bail!(
            "this kernel's BTF lacks {}: netprobe does not know this kernel; `netprobe check` lists all it needs",
            missing.join(", ")
        );
    }
    let passes = |tracepoint: &str, argument: usize, kind: &str| {
        u32::from(
            btf.tracepoint(tracepoint).and_then(|args| args.get(argument).map(|a| a.contains(kind))) == Some(true),
        )
    };
    config.has_drop_reason = passes("kfree_skb", 2, "skb_drop_reason");
    config.has_reset_reason = passes("tcp_send_reset", 2, "sk_rst_reason");
    config.has_consume_location = passes("consume_skb", 1, "void*");
    let has_cgroups = [config.offsets.sk_cgroup, config.offsets.cgroup_kn, config.offsets.kernfs_id];
    config.has_cgroups = u32::from(!has_cgroups.contains(&ABSENT));
    config.first_drop_reason = first_drop_reason(&btf.enum_members("skb_drop_reason"));
    Ok(config)
}

/// Lowest number that means a drop: above "not dropped yet" and, from 6.10 on, "consumed".
fn first_drop_reason(members: &[(u32, String)]) -> u32 {
    let no_drop = ["SKB_NOT_DROPPED_YET", "SKB_CONSUMED"];
    members.iter().filter(|(_, name)| no_drop.contains(&name.as_str())).map(|(n, _)| n + 1).max().unwrap_or(0)
}

/// Drop reasons of this kernel by number, without their common prefix.
#[must_use]
pub fn drop_reasons(btf: &KernelBtf) -> BTreeMap<u32, String> {
    names(btf, "skb_drop_reason", REASON_PREFIX)
}

/// Reset reasons of this kernel; empty before 6.9.
#[must_use]
pub fn reset_reasons(btf: &KernelBtf) -> BTreeMap<u32, String> {
    names(btf, "sk_rst_reason", RESET_PREFIX)
}

fn names(btf: &KernelBtf, name: &str, prefix: &str) -> BTreeMap<u32, String> {
    let members = btf.enum_members(name).into_iter();
    members.map(|(number, name)| (number, name.strip_prefix(prefix).unwrap_or(&name).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumed_packets_are_no_drops() {
        let old = [(0, "SKB_NOT_DROPPED_YET".to_owned()), (1, "SKB_DROP_REASON_NOT_SPECIFIED".to_owned())];
        assert_eq!(first_drop_reason(&old), 1);
        let new = [(0, "SKB_NOT_DROPPED_YET".to_owned()), (1, "SKB_CONSUMED".to_owned())];
        assert_eq!(first_drop_reason(&new), 2);
    }
}
