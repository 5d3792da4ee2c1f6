//! Pods, services and endpoints as Kubernetes tells them: a snapshot, and what changes it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

mod news;

pub use news::{Change, KEEP_ENDED_NS, News};

/// What is known of the cluster; empty without Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Pods, ended ones left out.
    pub pods: Vec<PodEntry>,
    /// Services.
    pub services: Vec<Service>,
    /// Addresses of nodes, with the node's name.
    pub nodes: Vec<(String, Vec<IpAddr>)>,
    /// Since when nobody tells of changes, `CLOCK_MONOTONIC` nanoseconds; none: changes are told, or a file is all there
    /// is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since_ns: Option<u64>,
}

impl Inventory {
    /// The pod whose address `ip` is; nobody where several pods claim it alike.
    #[must_use]
    pub fn holder(&self, ip: IpAddr) -> Option<&PodEntry> {
        let mut claim = Claim::Nobody;
        self.pods.iter().filter(|pod| !pod.host_network && pod.ips.contains(&ip)).for_each(|pod| claim.add(pod));
        claim.pod()
    }

    /// The pod of that name; the one that runs, where one of that name ended.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodEntry> {
        self.pods.iter().filter(|pod| pod.namespace == namespace && pod.name == name).min_by_key(|pod| pod.hold())
    }
}

/// Who may have an address.
#[derive(Clone, Copy, Debug, Default)]
pub enum Claim<'a> {
    /// No pod.
    #[default]
    Nobody,
    /// This one.
    One(&'a PodEntry),
    /// Several with equal right, of which this is one.
    Several(&'a PodEntry),
}

impl<'a> Claim<'a> {
    /// One more pod says that it has the address. One that runs goes before one that is leaving, that one before one that
    /// ended, and of those the last to end had it last.
    pub fn add(&mut self, pod: &'a PodEntry) {
        *self = match *self {
            Self::Nobody => Self::One(pod),
            Self::One(other) | Self::Several(other) if pod.hold() < other.hold() => Self::One(pod),
            Self::One(other) if pod.hold() == other.hold() && !std::ptr::eq(other, pod) => Self::Several(other),
            settled => settled,
        };
    }

    /// The one pod that has the address.
    #[must_use]
    pub const fn pod(self) -> Option<&'a PodEntry> {
        match self {
            Self::One(pod) => Some(pod),
            Self::Nobody | Self::Several(_) => None,
        }
    }
}

impl PodEntry {
    /// What stands for it in the name of its cgroup.
    #[must_use]
    pub fn cgroup_name(&self) -> &str {
        self.static_hash.as_deref().unwrap_or(&self.uid)
    }

    /// How firmly it holds its addresses: less is firmer.
    const fn hold(&self) -> (u8, u64) {
        match self.ended_ns {
            Some(ended) => (2, u64::MAX - ended),
            None => (self.is_leaving as u8, 0),
        }
    }
}

/// A pod of the inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodEntry {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Every address in `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Of a static pod: the hash that stands for its UID in the name of its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_hash: Option<String>,
    /// `metadata.labels`, for `-l`.
    pub labels: Vec<(String, String)>,
    /// It is being deleted: its addresses may soon be another pod's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_leaving: bool,
    /// When it ended, `CLOCK_MONOTONIC` nanoseconds. Its name is kept for a while: packets come late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ns: Option<u64>,
}

/// A service with its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`.
    pub kind: String,
    /// Cluster addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy` is `Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// Endpoints of its slices.
    pub endpoints: Vec<Endpoint>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Port at the cluster address.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port at the node, or 0.
    pub node_port: u16,
    /// Port at the pod, where it is a number.
    pub target_port: u16,
}

/// One address behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Ports of its slice.
    pub ports: Vec<u16>,
    /// `conditions.ready`.
    pub ready: bool,
    /// Node it runs on, where the slice says.
    pub node: Option<String>,
}
