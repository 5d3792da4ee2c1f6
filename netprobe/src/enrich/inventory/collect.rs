//! Objects, in any order → Inventory. Endpoints may come before their service.

use std::collections::BTreeMap;

use super::{
    convert::{self, Key, address, numbers, title},
    object::{Kind, Object, SubsetAddress},
};
use crate::model::inventory::{Endpoint, Inventory};

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
            Kind::Pod => self.inventory.pods.extend(convert::pod(object)?),
            Kind::Service => self.inventory.services.push(convert::service(object)?),
            Kind::EndpointSlice => {
                if let Some((service, endpoints)) = convert::slice(object)? {
                    self.slices.entry(service).or_default().extend(endpoints);
                }
            }
            Kind::Endpoints => self.endpoints(object)?,
            Kind::Node => self.inventory.nodes.push(convert::node(object)?),
            Kind::Other => {}
        }
        Ok(())
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
}
