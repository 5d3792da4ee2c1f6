//! Whose netfilter rules these are: each of these programs names its chains in its own way.

use crate::model::ruleset::{RuleLine, Table};

/// Who made a chain, in words, by how its name begins.
const CHAINS: &[(&str, &str)] = &[
    ("KUBE-ROUTER", "kube-router"),
    ("KUBE-POD-FW", "kube-router (NetworkPolicy)"),
    ("KUBE-NWPLCY", "kube-router (NetworkPolicy)"),
    ("KUBE-KUBELET", "kubelet"),
    ("KUBE-", "kube-proxy"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("OLD_CILIUM_", "Cilium"),
    ("ANTREA-", "Antrea"),
    ("WEAVE", "Weave Net"),
    ("FLANNEL-", "flannel"),
    ("AWS-", "the AWS VPC CNI"),
    ("IP-MASQ", "ip-masq-agent"),
    ("CNI-", "a CNI plugin (portmap)"),
    ("ISTIO_", "Istio"),
    ("PROXY_INIT", "Linkerd"),
    ("DOCKER", "Docker"),
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
    ("f2b-", "fail2ban"),
    ("LIBVIRT_", "libvirt"),
    ("FWD", "firewalld"),
    ("IN_", "firewalld"),
];

/// The same of nftables tables.
const TABLES: &[(&str, &str)] = &[
    ("kube-proxy", "kube-proxy"),
    ("kube-network-policies", "kube-network-policies (NetworkPolicy)"),
    ("kindnet", "kindnet"),
    ("firewalld", "firewalld"),
    ("calico", "Calico"),
    ("cali", "Calico"),
    ("antrea", "Antrea"),
    ("cilium", "Cilium"),
    ("netavark", "Podman"),
    ("podman", "Podman"),
    ("istio", "Istio"),
    ("flannel", "flannel"),
    ("fail2ban", "fail2ban"),
    ("f2b-table", "fail2ban"),
    ("docker", "Docker"),
];

/// What stands in comments.
const COMMENTS: &[(&str, &str)] = &[
    ("cali:", "Calico"),
    ("cilium", "Cilium"),
    ("kubernetes", "kube-proxy"),
    ("flanneld", "flannel"),
    ("AWS", "the AWS VPC CNI"),
    ("ip-masq-agent", "ip-masq-agent"),
    ("!fw3", "OpenWrt"),
];

/// Who made the rule.
#[must_use]
pub(in crate::explain) fn of(table: &Table, chain: &str, rule: Option<&RuleLine>) -> Option<&'static str> {
    let begins = |list: &'static [(&str, &str)], text: &str| {
        list.iter().find(|(start, _)| text.starts_with(start)).map(|(_, who)| *who)
    };
    begins(TABLES, &table.name)
        .or_else(|| begins(CHAINS, chain))
        .or_else(|| begins(COMMENTS, rule?.comment.as_deref()?))
}

/// The rule enforces a Kubernetes NetworkPolicy: its chain, its owner or its comment says so.
#[must_use]
pub(in crate::explain) fn is_policy(table: &Table, chain: &str, rule: Option<&RuleLine>) -> bool {
    // Calico: to and from a workload, policy in and out; kube-router: a pod's firewall; Weave: its policy controller.
    const CHAINS: [&str; 9] = [
        "cali-tw-",
        "cali-fw-",
        "cali-pi-",
        "cali-po-",
        "KUBE-POD-FW-",
        "KUBE-NWPLCY",
        "WEAVE-NPC",
        "ANTREA-POL",
        "AWS-NP",
    ];
    let comment = rule.and_then(|rule| rule.comment.as_deref()).unwrap_or_default().to_ascii_lowercase();
    CHAINS.iter().any(|start| chain.starts_with(start))
        || table.name.contains("network-policies")
        || table.name.contains("networkpolicy")
        || ["networkpolicy", "network policy", "network-policy", "networkpolicies", "no policies passed"]
            .iter()
            .any(|word| comment.contains(word))
}
