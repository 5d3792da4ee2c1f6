//! Counters of the calling thread's namespace, from /proc.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use crate::model::counters::Counters;

/// /proc/net is a link to the process's: a thread that went elsewhere must ask for its own.
const PROC_NET: &str = "/proc/thread-self/net";

/// Reads them all. Files that this kernel does not have are left out.
pub(super) fn read() -> Result<Counters> {
    let snmp = fs::read_to_string(format!("{PROC_NET}/snmp")).context("read the namespace's counters")?;
    let mut all = BTreeMap::new();
    grouped(&snmp, &mut all);
    let other = |name: &str| fs::read_to_string(format!("{PROC_NET}/{name}")).unwrap_or_default();
    grouped(&other("netstat"), &mut all);
    ip6(&other("snmp6"), &mut all);
    table("conntrack", &other("stat/nf_conntrack"), &mut all);
    pairs("xfrm", &other("xfrm_stat"), &mut all);
    softnet(&other("softnet_stat"), &mut all);
    for name in ["count", "max"] {
        let value = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
        if let Some(value) = value.ok().and_then(|text| text.trim().parse().ok()) {
            all.insert(format!("conntrack.{name}"), value);
        }
    }
    all.retain(|_, value| *value != 0);
    Ok(Counters(all))
}

/// Pairs of lines, names and values, both begun by the group's name (`/proc/net/snmp`, `/proc/net/netstat`).
fn grouped(text: &str, into: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let Some((group, names)) = names.split_once(':') else { continue };
        let Some((_, values)) = values.split_once(':') else { continue };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            // A few are signed settings (`MaxConn -1`), no counters.
            if let Ok(value) = value.parse() {
                into.insert(format!("{group}.{name}"), value);
            }
        }
    }
}

/// A name and a value a line; the group is the name's beginning (`Ip6InNoRoutes`).
fn ip6(text: &str, into: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let group = ["Ip6", "Icmp6", "UdpLite6", "Udp6"].into_iter().find(|group| name.starts_with(group));
        if let (Some(group), Ok(value)) = (group, value.parse()) {
            into.insert(format!("{group}.{}", &name[group.len()..]), value);
        }
    }
}

/// A name and a value a line.
fn pairs(group: &str, text: &str, into: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            into.insert(format!("{group}.{name}"), value);
        }
    }
}

/// A line of names and a line of hexadecimal values for each CPU; the first column is no counter of a CPU but the
/// number of entries, repeated.
fn table(group: &str, text: &str, into: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    for line in lines {
        for (name, value) in names.iter().zip(line.split_whitespace()).skip(1) {
            let value = u64::from_str_radix(value, 16).unwrap_or(0);
            *into.entry(format!("{group}.{name}")).or_default() += value;
        }
    }
}

/// A line of hexadecimal values for each CPU: processed, dropped, squeezed (`softnet_seq_show`). The host has one set.
fn softnet(text: &str, into: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        let names = ["softnet.processed", "softnet.dropped", "softnet.squeezed"];
        for (name, value) in names.iter().zip(line.split_whitespace()) {
            *into.entry((*name).to_owned()).or_default() += u64::from_str_radix(value, 16).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_name_their_counters() {
        let mut all = BTreeMap::new();
        grouped("Tcp: MaxConn ActiveOpens\nTcp: -1 7\nTcpExt: ListenDrops\nTcpExt: 3\n", &mut all);
        ip6("Ip6InNoRoutes   \t5\nIcmp6InMsgs 1\n", &mut all);
        pairs("xfrm", "XfrmInPolBlock          \t4\n", &mut all);
        assert_eq!(all.remove("xfrm.XfrmInPolBlock"), Some(4));
        let expected = [("Icmp6.InMsgs", 1), ("Ip6.InNoRoutes", 5), ("Tcp.ActiveOpens", 7), ("TcpExt.ListenDrops", 3)];
        assert_eq!(all, expected.map(|(n, v)| (n.to_owned(), v)).into());
    }

    #[test]
    fn cpus_are_summed() {
        let mut all = BTreeMap::new();
        table("conntrack", "entries drop\n000000ff 0000000a\n000000ff 00000001\n", &mut all);
        softnet("00000010 00000002 00000000\n00000001 00000001 00000000\n", &mut all);
        assert_eq!(all["conntrack.drop"], 11);
        assert!(!all.contains_key("conntrack.entries"), "the same on every line");
        assert_eq!(all["softnet.dropped"], 3);
    }

    #[test]
    fn this_namespace_has_counters() {
        assert!(read().expect("they can be read").get("softnet.processed") > 0);
    }
}
