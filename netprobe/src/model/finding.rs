//! What is wrong, where, and how we know.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{flow::Flow, identity::Pod, sighting::Side};

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The evidence permits it, and other causes too.
    Possible,
    /// The evidence points to it.
    Likely,
    /// The kernel said so.
    Stated,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Stated => "stated",
        })
    }
}

/// A route decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTaken {
    /// Table that decided.
    pub table: u32,
    /// Preference of the rule that named the table, where known.
    pub rule: Option<u32>,
    /// Gateway.
    pub gateway: Option<IpAddr>,
}

/// Which netfilter rule, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Netfilter {
    /// `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: String,
    /// `ip`, `ip6`, `inet`, `bridge`, `netdev`.
    pub family: Option<String>,
    /// Table.
    pub table: Option<String>,
    /// Chain.
    pub chain: Option<String>,
    /// nft handle.
    pub handle: Option<u64>,
    /// Position in the chain (iptables-legacy).
    pub position: Option<u32>,
    /// The rule's text.
    pub rule: Option<String>,
    /// Who owns it: kube-proxy, Calico, ...
    pub owner: Option<String>,
}

/// One proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub mono_ns: u64,
    /// What was seen, in words.
    pub text: String,
}

/// A cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `f1`, `f2`, ...: stays when the finding changes.
    pub id: String,
    /// Rule id.
    pub rule: &'static str,
    /// How sure.
    pub confidence: Confidence,
    /// Whose traffic.
    pub pod: Option<Arc<Pod>>,
    /// The flow it was seen on, as the pod sent it.
    pub flow: Option<Flow>,
    /// Node or pod side.
    pub side: Side,
    /// Device.
    pub device: Option<String>,
    /// Device it should have been.
    pub expected_device: Option<String>,
    /// The route taken.
    pub route: Option<RouteTaken>,
    /// Drop reason.
    pub reason: Option<Arc<str>>,
    /// Netfilter rule.
    pub netfilter: Option<Netfilter>,
    /// How often.
    pub count: u64,
    /// First time, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// Last time.
    pub last_ns: u64,
    /// One sentence.
    pub claim: String,
    /// Since when and by whom, in words, where the journal knows.
    pub since: Option<String>,
    /// Commands or steps.
    pub fix: Vec<String>,
    /// Proofs.
    pub evidence: Vec<Evidence>,
    /// Two findings with the same key are the same fault.
    pub key: String,
}
