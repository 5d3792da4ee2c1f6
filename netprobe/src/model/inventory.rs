//! Pods, services and endpoints as Kubernetes tells them: a snapshot.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is known of the cluster; empty without Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Pods, ended ones left out.
    pub pods: Vec<PodEntry>,
    /// Services.
    pub services: Vec<Service>,
    /// Addresses of nodes, with the node's name.
    pub nodes: Vec<(String, Vec<IpAddr>)>,
}

/// A pod of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `metadata.labels`, for `-l`.
    pub labels: Vec<(String, String)>,
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
