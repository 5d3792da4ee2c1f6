//! One object of Kubernetes → one entry of the inventory.

use std::{fmt, net::IpAddr};

use super::object::{Metadata, NetworkStatus, NumberOrName, Object, Port, SliceEndpoint};
use crate::model::inventory::{Endpoint, PodEntry, Service, ServicePort};

/// Label of an EndpointSlice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name of a service.
pub(in crate::enrich) type Key = (String, String);

/// A pod; none where it has run to its end.
pub(in crate::enrich) fn pod(object: Object) -> Result<Option<PodEntry>, String> {
    let Object { metadata, spec, status, .. } = object;
    if matches!(status.phase.as_str(), "Succeeded" | "Failed") {
        return Ok(None);
    }
    let who = title("pod", &metadata);
    let mut ips = addresses(status.pod_ips.iter().map(|ip| ip.ip.as_str()), &who)?;
    if ips.is_empty() && !status.pod_ip.is_empty() {
        ips.push(address(&status.pod_ip, &who)?);
    }
    let networks = metadata.annotations.network_status.as_deref();
    for ip in networks.map(of_networks).unwrap_or_default() {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(Some(PodEntry {
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        ips,
        node: spec.node_name,
        host_network: spec.host_network,
        static_hash: metadata.annotations.static_hash,
        labels: metadata.labels.into_iter().collect(),
        is_leaving: metadata.deletion_timestamp.is_some(),
        ended_ns: None,
    }))
}

/// The addresses that Multus tells. Anybody may write an annotation, so what makes no sense is left out.
fn of_networks(text: &str) -> Vec<IpAddr> {
    let networks: Vec<NetworkStatus> = serde_json::from_str(text).unwrap_or_default();
    let ips = networks.iter().flat_map(|network| &network.ips);
    ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()).collect()
}

/// A service, without its endpoints.
pub(in crate::enrich) fn service(object: Object) -> Result<Service, String> {
    let Object { metadata, spec, .. } = object;
    let who = title("service", &metadata);
    let listed = if spec.cluster_ips.is_empty() { vec![spec.cluster_ip] } else { spec.cluster_ips };
    // `None` is a headless service; empty one of type ExternalName.
    let cluster_ips = addresses(listed.iter().map(String::as_str).filter(|ip| !matches!(*ip, "" | "None")), &who)?;
    Ok(Service {
        namespace: metadata.namespace,
        name: metadata.name,
        kind: if spec.service_type.is_empty() { "ClusterIP".to_owned() } else { spec.service_type },
        cluster_ips,
        ports: spec.ports.into_iter().map(service_port).collect(),
        external_local: spec.external_traffic_policy == "Local",
        internal_local: spec.internal_traffic_policy == "Local",
        endpoints: Vec::new(),
    })
}

/// The endpoints of a slice, and whose they are; none where it is no service's.
pub(in crate::enrich) fn slice(object: Object) -> Result<Option<(Key, Vec<Endpoint>)>, String> {
    let Object { metadata, address_type, endpoints, ports, .. } = object;
    let Some(service) = metadata.labels.get(SERVICE_NAME) else { return Ok(None) };
    let key = (metadata.namespace.clone(), service.clone());
    let mut into = Vec::new();
    if address_type == "FQDN" {
        return Ok(Some((key, into)));
    }
    let who = title("endpoint slice", &metadata);
    let ports = numbers(&ports);
    for SliceEndpoint { addresses: listed, conditions, node_name } in endpoints {
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        for ip in addresses(listed.iter().map(String::as_str), &who)? {
            into.push(Endpoint { ip, ports: ports.clone(), ready, node: node_name.clone() });
        }
    }
    Ok(Some((key, into)))
}

/// A node's name and addresses.
pub(in crate::enrich) fn node(object: Object) -> Result<(String, Vec<IpAddr>), String> {
    let who = title("node", &object.metadata);
    let numeric = object.status.addresses.iter().filter(|a| a.kind.ends_with("IP"));
    let ips = addresses(numeric.map(|a| a.address.as_str()), &who)?;
    Ok((object.metadata.name, ips))
}

fn addresses<'a>(listed: impl Iterator<Item = &'a str>, who: &str) -> Result<Vec<IpAddr>, String> {
    listed.map(|text| address(text, who)).collect()
}

pub(super) fn numbers(ports: &[Port]) -> Vec<u16> {
    ports.iter().map(|p| p.port).filter(|port| *port != 0).collect()
}

fn service_port(port: Port) -> ServicePort {
    let Port { port, protocol, node_port, target_port } = port;
    ServicePort {
        port,
        protocol: protocol.unwrap_or_else(|| "TCP".to_owned()),
        node_port: node_port.unwrap_or_default(),
        target_port: match target_port {
            Some(NumberOrName::Number(number)) => number,
            Some(NumberOrName::Name(_)) => 0,
            // Kubernetes' default: the same port.
            None => port,
        },
    }
}

/// `pod shop/web-0`
pub(super) fn title(kind: &str, Metadata { namespace, name, .. }: &Metadata) -> String {
    let (namespace, name) = (namespace.escape_debug(), name.escape_debug());
    if namespace.to_string().is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// `text` as an address; `of` is whose it is, for the error.
pub(super) fn address(text: &str, of: impl fmt::Display) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| {
        format!(
            "{of} has the address `{}`, which is no IP address: correct it or make the file anew",
            text.escape_debug()
        )
    })?;
    Ok(ip.to_canonical())
}
