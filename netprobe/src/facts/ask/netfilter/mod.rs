//! Netfilter rules of the calling thread's namespace, as their own tools list them.
//!
//! Nothing is asked that would change the node: iptables-legacy creates a table it is asked about, so it is asked only
//! where the kernel has one.

use std::fs;

use anyhow::{Result, bail};

use crate::model::ruleset::{Engine, Ruleset, Table};

mod nft;
mod save;
mod tool;

use tool::Tool;

/// Tables that iptables-nft makes; one of another name is nftables' own.
const IPTABLES_TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// One family of iptables: its name in nftables, its listings by preference, where the kernel names legacy tables.
struct Family {
    name: &'static str,
    nft: [&'static str; 2],
    legacy: [&'static str; 2],
    legacy_tables: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "ip",
        nft: ["iptables-nft-save", "iptables-save"],
        legacy: ["iptables-legacy-save", "iptables-save"],
        legacy_tables: "/proc/thread-self/net/ip_tables_names",
    },
    Family {
        name: "ip6",
        nft: ["ip6tables-nft-save", "ip6tables-save"],
        legacy: ["ip6tables-legacy-save", "ip6tables-save"],
        legacy_tables: "/proc/thread-self/net/ip6_tables_names",
    },
];

/// The tools that list netfilter rules, where they are, and what is not known without them.
#[must_use]
pub fn tools() -> Vec<(&'static str, Result<Tool>, &'static str)> {
    [
        ("nft", "names the nftables rule that dropped a packet"),
        ("iptables-save", "names the iptables rule that dropped a packet"),
        ("ip6tables-save", "names the ip6tables rule that dropped a packet"),
    ]
    .into_iter()
    .map(|(name, what)| (name, Tool::find(name), what))
    .collect()
}

/// Reads them all. What cannot be read is named, not fatal: half a ruleset still names a rule.
pub(super) fn read() -> Result<Ruleset> {
    let mut found = Ruleset::default();
    let names = match run("nft", &["list", "tables"]) {
        Ok(text) => nft::table_names(&text),
        Err(error) => {
            found.unread.push(format!("nftables: {error:#}"));
            Vec::new()
        }
    };
    for family in &FAMILIES {
        let is_iptables = |(of, name): &&(String, String)| of == family.name && IPTABLES_TABLES.contains(&&**name);
        if names.iter().any(|table| is_iptables(&table)) {
            listed(&mut found, family, &family.nft, Engine::IptablesNft);
        }
        let legacy = fs::read_to_string(family.legacy_tables).unwrap_or_default();
        if !legacy.trim().is_empty() {
            listed(&mut found, family, &family.legacy, Engine::IptablesLegacy);
        }
    }
    for (family, name) in &names {
        let same =
            |table: &Table| table.family == *family && table.name == *name && table.engine != Engine::IptablesLegacy;
        if !found.tables.iter().any(same) {
            match run("nft", &["-y", "-a", "list", "table", family, name]) {
                Ok(text) => nft::parse(&text, &mut found),
                Err(error) => found.unread.push(format!("table {family} {name}: {error:#}")),
            }
        }
    }
    if found.tables.is_empty() && !found.unread.is_empty() {
        bail!("{}", found.unread.join("; "));
    }
    Ok(found)
}

/// Takes the listing of the first of these tools that is there and speaks of that engine.
fn listed(found: &mut Ruleset, family: &Family, tools: &[&str], engine: Engine) {
    let mut why = String::new();
    for name in tools {
        match run(name, &["-c"]) {
            Ok(text) if save::engine(&text) == Some(engine) => return save::parse(&text, family.name, engine, found),
            Ok(_) => why = format!("{name} lists the other iptables"),
            Err(error) => why = format!("{error:#}"),
        }
    }
    found.unread.push(format!("{}: {why}", tools[0]));
}

/// Runs a tool in the calling thread's namespace and takes what it prints.
fn run(name: &str, arguments: &[&str]) -> Result<String> {
    Tool::find(name)?.run(arguments)
}

/// What `iptables-save` prints, for tests of those that explain it.
#[cfg(test)]
pub(crate) fn parse_iptables_save(text: &str, into: &mut Ruleset) {
    save::parse(text, "ip", save::engine(text).unwrap_or(Engine::IptablesNft), into);
}
