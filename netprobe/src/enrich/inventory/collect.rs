//! Objects, in any order → Inventory. Endpoints may come before their service.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    address,
    object::{Kind, Metadata, NumberOrName, Object, Port, SliceEndpoint, SubsetAddress},
};
use crate::model::inventory::{Endpoint, Inventory, PodEntry, Service, ServicePort};

/// Label of an EndpointSlice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name of a service.
type Key = (String, String);

#[derive(Debug, Default)]
pub(super) struct Collect {
    inventory: Inventory,
    /// From EndpointSlices.
    slices: BTreeMap<Key, Vec<Endpoint>>,
    /// From Endpoints, the older form of the same.
    endpoints: BTreeMap<Key, Vec<Endpoint>>,
}

impl Collect {
    /// Takes what is needed of `object`; the error says which object is wrong and how.
    pub(super) fn add(&mut self, kind: Kind, object: Object) -> Result<(), String> {
        match kind {
            Kind::Pod => self.pod(object),
            Kind::Service => self.service(object),
            Kind::EndpointSlice => self.slice(object),
            Kind::Endpoints => self.endpoints(object),
            Kind::Node => self.node(object),
            Kind::Other => Ok(()),
        }
    }

    pub(super) fn finish(self) -> Inventory {
        let Self { mut inventory, mut slices, mut endpoints } = self;
        for service in &mut inventory.services {
            let key = (service.namespace.clone(), service.name.clone());
            // A cluster keeps both forms of the same endpoints.
            service.endpoints = slices.remove(&key).or_else(|| endpoints.remove(&key)).unwrap_or_default();
        }
        inventory
    }

    fn pod(&mut self, object: Object) -> Result<(), String> {
        let Object { metadata, spec, status, .. } = object;
        if matches!(status.phase.as_str(), "Succeeded" | "Failed") {
            return Ok(());
        }
        let who = title("pod", &metadata);
        let mut ips = addresses(status.pod_ips.iter().map(|ip| ip.ip.as_str()), &who)?;
        if ips.is_empty() && !status.pod_ip.is_empty() {
            ips.push(address(&status.pod_ip, &who)?);
        }
        self.inventory.pods.push(PodEntry {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            ips,
            node: spec.node_name,
            host_network: spec.host_network,
            labels: metadata.labels.into_iter().collect(),
        });
        Ok(())
    }

    fn service(&mut self, object: Object) -> Result<(), String> {
        let Object { metadata, spec, .. } = object;
        let who = title("service", &metadata);
        let listed = if spec.cluster_ips.is_empty() { vec![spec.cluster_ip] } else { spec.cluster_ips };
        // `None` is a headless service; empty one of type ExternalName.
        let cluster_ips = addresses(listed.iter().map(String::as_str).filter(|ip| !matches!(*ip, "" | "None")), &who)?;
        self.inventory.services.push(Service {
            namespace: metadata.namespace,
            name: metadata.name,
            kind: if spec.service_type.is_empty() { "ClusterIP".to_owned() } else { spec.service_type },
            cluster_ips,
            ports: spec.ports.into_iter().map(service_port).collect(),
            external_local: spec.external_traffic_policy == "Local",
            internal_local: spec.internal_traffic_policy == "Local",
            endpoints: Vec::new(),
        });
        Ok(())
    }

    fn slice(&mut self, object: Object) -> Result<(), String> {
        let Object { metadata, address_type, endpoints, ports, .. } = object;
        let Some(service) = metadata.labels.get(SERVICE_NAME) else { return Ok(()) };
        let into = self.slices.entry((metadata.namespace.clone(), service.clone())).or_default();
        if address_type == "FQDN" {
            return Ok(());
        }
        let who = title("endpoint slice", &metadata);
        let ports = numbers(&ports);
        for SliceEndpoint { addresses: listed, conditions, node_name } in endpoints {
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            for ip in addresses(listed.iter().map(String::as_str), &who)? {
                into.push(Endpoint { ip, ports: ports.clone(), ready, node: node_name.clone() });
            }
        }
        Ok(())
    }

    fn endpoints(&mut self, object: Object) -> Result<(), String> {
        let Object { metadata, subsets, .. } = object;
        let who = title("endpoints", &metadata);
        let into = self.endpoints.entry((metadata.namespace, metadata.name)).or_default();
        for subset in subsets {
            let ports = numbers(&subset.ports);
            let ready = subset.addresses.into_iter().map(|a| (a, true));
            for (SubsetAddress { ip, node_name }, ready) in
                ready.chain(subset.not_ready_addresses.into_iter().map(|a| (a, false)))
            {
                into.push(Endpoint { ip: address(&ip, &who)?, ports: ports.clone(), ready, node: node_name });
            }
        }
        Ok(())
    }

    fn node(&mut self, object: Object) -> Result<(), String> {
        let who = title("node", &object.metadata);
        let numeric = object.status.addresses.iter().filter(|a| a.kind.ends_with("IP"));
        let ips = addresses(numeric.map(|a| a.address.as_str()), &who)?;
        self.inventory.nodes.push((object.metadata.name, ips));
        Ok(())
    }
}

fn addresses<'a>(listed: impl Iterator<Item = &'a str>, who: &str) -> Result<Vec<IpAddr>, String> {
    listed.map(|text| address(text, who)).collect()
}

fn numbers(ports: &[Port]) -> Vec<u16> {
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
fn title(kind: &str, Metadata { namespace, name, .. }: &Metadata) -> String {
    let (namespace, name) = (namespace.escape_debug(), name.escape_debug());
    if namespace.to_string().is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}
