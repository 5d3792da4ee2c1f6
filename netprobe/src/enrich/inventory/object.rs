//! The few fields we need of the few kinds we need. One struct serves all kinds: where two kinds
//! have a field of the same name, it has the same form.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// Fields of an object that we may need.
pub(in crate::enrich) const PARTS: [&str; 7] =
    ["metadata", "spec", "status", "addressType", "endpoints", "ports", "subsets"];

/// What an object, or every object of a List, is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(in crate::enrich) enum Kind {
    #[serde(alias = "PodList")]
    Pod,
    #[serde(alias = "ServiceList")]
    Service,
    #[serde(alias = "EndpointSliceList")]
    EndpointSlice,
    #[serde(alias = "EndpointsList")]
    Endpoints,
    #[serde(alias = "NodeList")]
    Node,
    /// `List`, and kinds we do not need.
    #[default]
    #[serde(other)]
    Other,
}

impl Kind {
    pub(in crate::enrich) const fn is_object(self) -> bool {
        !matches!(self, Self::Other)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::enrich) struct Object {
    pub(in crate::enrich) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) spec: Spec,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) status: Status,
    /// EndpointSlice: `IPv4`, `IPv6` or `FQDN`.
    pub(in crate::enrich) address_type: String,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) ports: Vec<Port>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) subsets: Vec<Subset>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::enrich) struct Metadata {
    pub(in crate::enrich) namespace: String,
    pub(in crate::enrich) name: String,
    pub(in crate::enrich) uid: String,
    pub(in crate::enrich) resource_version: String,
    /// There: it is being deleted.
    pub(in crate::enrich) deletion_timestamp: Option<IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) annotations: Annotations,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) labels: BTreeMap<String, String>,
}

/// The annotations that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::enrich) struct Annotations {
    /// What Multus says of each network of a pod, as JSON.
    #[serde(rename = "k8s.v1.cni.cncf.io/network-status")]
    pub(in crate::enrich) network_status: Option<String>,
    /// What stands for the UID of a static pod on its node: the API server gives its mirror another.
    #[serde(rename = "kubernetes.io/config.mirror")]
    pub(in crate::enrich) static_hash: Option<String>,
}

/// A network of a pod.
#[derive(Debug, Deserialize)]
pub(in crate::enrich) struct NetworkStatus {
    #[serde(default)]
    pub(in crate::enrich) ips: Vec<String>,
}

/// Of a Pod or a Service.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::enrich) struct Spec {
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) host_network: bool,
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(in crate::enrich) service_type: String,
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub(in crate::enrich) cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub(in crate::enrich) cluster_ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) external_traffic_policy: String,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) internal_traffic_policy: String,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) ports: Vec<Port>,
}

/// Of a Pod or a Node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::enrich) struct Status {
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) phase: String,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pub(in crate::enrich) pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub(in crate::enrich) pod_ips: Vec<Ip>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) addresses: Vec<NodeAddress>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) conditions: Vec<Condition>,
}

/// `Ready` is the one that is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::enrich) struct Condition {
    #[serde(rename = "type")]
    pub(in crate::enrich) kind: String,
    pub(in crate::enrich) status: String,
}

#[derive(Debug, Deserialize)]
pub(in crate::enrich) struct Ip {
    pub(in crate::enrich) ip: String,
}

#[derive(Debug, Deserialize)]
pub(in crate::enrich) struct NodeAddress {
    #[serde(rename = "type")]
    pub(in crate::enrich) kind: String,
    pub(in crate::enrich) address: String,
}

/// A port of a Service, an EndpointSlice or Endpoints. In a slice without a number every port is meant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::enrich) struct Port {
    #[serde(default, deserialize_with = "or_default")]
    pub(in crate::enrich) port: u16,
    #[serde(default)]
    pub(in crate::enrich) protocol: Option<String>,
    #[serde(default)]
    pub(in crate::enrich) node_port: Option<u16>,
    #[serde(default)]
    pub(in crate::enrich) target_port: Option<NumberOrName>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(in crate::enrich) enum NumberOrName {
    Number(u16),
    #[expect(dead_code, reason = "a named port is a number only in the slice")]
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::enrich) struct SliceEndpoint {
    #[serde(default)]
    pub(in crate::enrich) addresses: Vec<String>,
    #[serde(default)]
    pub(in crate::enrich) conditions: Option<Conditions>,
    #[serde(default)]
    pub(in crate::enrich) node_name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::enrich) struct Conditions {
    /// Absent means ready (discovery.k8s.io/v1).
    pub(in crate::enrich) ready: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::enrich) struct Subset {
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) addresses: Vec<SubsetAddress>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) not_ready_addresses: Vec<SubsetAddress>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::enrich) ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::enrich) struct SubsetAddress {
    pub(in crate::enrich) ip: String,
    #[serde(default)]
    pub(in crate::enrich) node_name: Option<String>,
}

/// `null` is what some writers put where others leave the field out.
pub(in crate::enrich) fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
