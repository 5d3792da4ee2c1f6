//! The few fields we need of the few kinds we need. One struct serves all kinds: where two kinds
//! have a field of the same name, it has the same form.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Fields of an object that we may need.
pub(super) const PARTS: [&str; 7] = ["metadata", "spec", "status", "addressType", "endpoints", "ports", "subsets"];

/// What an object, or every object of a List, is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Kind {
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
    pub(super) const fn is_object(self) -> bool {
        !matches!(self, Self::Other)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Object {
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: Spec,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: Status,
    /// EndpointSlice: `IPv4`, `IPv6` or `FQDN`.
    pub(super) address_type: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<Port>,
    #[serde(deserialize_with = "or_default")]
    pub(super) subsets: Vec<Subset>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
}

/// Of a Pod or a Service.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(deserialize_with = "or_default")]
    pub(super) node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_network: bool,
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(super) service_type: String,
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub(super) cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub(super) cluster_ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) external_traffic_policy: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) internal_traffic_policy: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<Port>,
}

/// Of a Pod or a Node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(deserialize_with = "or_default")]
    pub(super) phase: String,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pub(super) pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub(super) pod_ips: Vec<Ip>,
    #[serde(deserialize_with = "or_default")]
    pub(super) addresses: Vec<NodeAddress>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ip {
    pub(super) ip: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct NodeAddress {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) address: String,
}

/// A port of a Service, an EndpointSlice or Endpoints. In a slice without a number every port is meant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) port: u16,
    #[serde(default)]
    pub(super) protocol: Option<String>,
    #[serde(default)]
    pub(super) node_port: Option<u16>,
    #[serde(default)]
    pub(super) target_port: Option<NumberOrName>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum NumberOrName {
    Number(u16),
    #[expect(dead_code, reason = "a named port is a number only in the slice")]
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceEndpoint {
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) conditions: Option<Conditions>,
    #[serde(default)]
    pub(super) node_name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Conditions {
    /// Absent means ready (discovery.k8s.io/v1).
    pub(super) ready: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Subset {
    #[serde(deserialize_with = "or_default")]
    pub(super) addresses: Vec<SubsetAddress>,
    #[serde(deserialize_with = "or_default")]
    pub(super) not_ready_addresses: Vec<SubsetAddress>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubsetAddress {
    pub(super) ip: String,
    #[serde(default)]
    pub(super) node_name: Option<String>,
}

/// `null` is what some writers put where others leave the field out.
fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
