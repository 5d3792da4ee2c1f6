//! Netfilter rules of one namespace, as their tools print them, with their counters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All rules that were there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// Tables, in the order in which their tool lists them.
    pub tables: Vec<Table>,
    /// What could not be read, and why: a tool that is missing, a listing that was cut.
    pub unread: Vec<String>,
}

/// `NFPROTO_*` (`include/uapi/linux/netfilter.h`) as nft names families; none for a number that has no tables.
#[must_use]
pub const fn family(number: u8) -> Option<&'static str> {
    match number {
        1 => Some("inet"),
        2 => Some("ip"),
        3 => Some("arp"),
        5 => Some("netdev"),
        7 => Some("bridge"),
        10 => Some("ip6"),
        _ => None,
    }
}

/// Who made the rules, and in whose language their text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// nftables; the text is nft's.
    Nft,
    /// iptables on nftables (iptables-nft); the text is iptables-save's.
    IptablesNft,
    /// x_tables (iptables-legacy); the text is iptables-save's.
    IptablesLegacy,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `ip`, `ip6`, `inet`, `netdev`, `bridge`, `arp`.
    pub family: String,
    /// Name: `filter`, `nat`, `kube-proxy`.
    pub name: String,
    /// Whose.
    pub engine: Engine,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// nft sets and maps by name, their elements as text (`10.0.0.1 . tcp . 80`, `KEY : VERDICT`).
    pub sets: BTreeMap<String, Vec<String>>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Where the kernel enters it; `None` for those that are only jumped to.
    pub base: Option<Base>,
    /// What becomes of a packet that no rule decided.
    pub policy_drops: bool,
    /// How often the policy decided, where that is counted (iptables).
    pub policy_counter: Option<Counter>,
    /// Rules, in order.
    pub rules: Vec<RuleLine>,
}

/// A base chain's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: String,
    /// Lower is asked first. For iptables that of its table (raw -300, mangle -150, dstnat -100, filter 0, security 50,
    /// srcnat 100).
    pub priority: i32,
    /// Devices of netdev chains.
    pub devices: Vec<String>,
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Packets that matched.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleLine {
    /// Its text, without counter and handle: `-s 10.0.0.1/32 -p tcp -j DROP`, `ip saddr 10.0.0.1 drop`.
    pub text: String,
    /// Its place in the chain, from 1.
    pub position: u32,
    /// nft handle.
    pub handle: Option<u64>,
    /// Its counter, where it has one.
    pub counter: Option<Counter>,
    /// Its comment, without quotes.
    pub comment: Option<String>,
}

impl RuleLine {
    /// It translates sources: MASQUERADE or SNAT, in iptables' words or in nft's.
    #[must_use]
    pub fn translates_sources(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        ["masquerade", "-j snat", "snat to", "snat ip to", "snat ip6 to"].iter().any(|word| text.contains(word))
    }
}
