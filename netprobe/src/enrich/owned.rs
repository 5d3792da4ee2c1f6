//! Flows of the node that belong to a pod which shares its namespace, as the kernel told them.

use std::{collections::HashMap, mem, sync::Arc};

use super::names::Names;
use crate::model::{
    flow::Flow,
    identity::Pod,
    packet::{LookupRole, Packet, What},
};

/// Flows, and processes, remembered twice over: when a table is full, the older half of what is known goes.
const HALF: usize = 32_768;

/// What was told last of flows and of processes.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    flows: HashMap<Flow, u64>,
    older: HashMap<Flow, u64>,
    tasks: HashMap<u32, u64>,
}

impl Owned {
    /// Keeps a record that tells whose a flow is; says whether it is one.
    pub fn note(&mut self, packet: &Packet) -> bool {
        let What::Owned { flow, cgroup, by_task } = packet.what else { return false };
        if by_task {
            if self.tasks.len() >= HALF {
                self.tasks.clear();
            }
            self.tasks.insert(packet.pid, cgroup);
        } else {
            if self.flows.len() >= HALF {
                self.older = mem::take(&mut self.flows);
            }
            self.flows.insert(flow, cgroup);
        }
        true
    }

    /// The pod whose process has the flow's source as its end.
    #[must_use]
    pub fn sender(&self, flow: &Flow, names: &Names) -> Option<Arc<Pod>> {
        let cgroup = self.flows.get(flow).or_else(|| self.older.get(flow))?;
        names.cgroup(*cgroup).map(|(_, pod)| Arc::clone(pod))
    }

    /// The pod of the process that asked for a route to send by: all that is known where no packet came of it. In between
    /// the kernel may have asked for somebody else, so it counts for nothing once a packet is there.
    #[must_use]
    pub fn asker(&self, packet: &Packet, names: &Names) -> Option<Arc<Pod>> {
        let What::Lookup { role: LookupRole::Output, .. } = packet.what else { return None };
        names.cgroup(*self.tasks.get(&packet.pid)?).map(|(_, pod)| Arc::clone(pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enrich::names::tests::{inventory, namespace, node, pod},
        model::shared::PodCgroups,
    };

    const UID: &str = "0c7b3a5e-91f4-4f6a-8f83-2f60f5a1c9d4";

    fn names() -> Names {
        let mut proxy = pod("proxy", UID, &["172.20.10.2"]);
        proxy.host_network = true;
        let mut facts = node(vec![namespace(1, None, &["172.20.10.2"])]);
        facts.shared.pods.insert(UID.to_owned(), PodCgroups { own: 70, all: [70, 71].into() });
        Names::build(&inventory(vec![proxy]), &facts)
    }

    fn packet(pid: u32, what: What) -> Packet {
        Packet { mono_ns: 1, cpu: 0, pid, netns: 1, ifindex: 0, what }
    }

    fn flow() -> Flow {
        let end = |text: &str| text.parse().expect("an address with a port");
        Flow { proto: crate::model::flow::Proto::Tcp, src: end("172.20.10.2:40000"), dst: end("10.0.0.9:443") }
    }

    #[test]
    fn a_flow_is_its_owners_in_one_direction() {
        let mut owned = Owned::default();
        assert!(owned.note(&packet(9, What::Owned { flow: flow(), cgroup: 71, by_task: false })));
        let names = names();
        assert_eq!(owned.sender(&flow(), &names).map(|pod| pod.to_string()).as_deref(), Some("shop/proxy"));
        assert_eq!(owned.sender(&flow().reversed(), &names), None, "the other end is somebody else's");
        assert_eq!(names.address("172.20.10.2".parse().expect("an address")).yes(), None, "the address is the node's");
    }

    #[test]
    fn a_cgroup_that_nobody_names_is_nobodys() {
        let mut owned = Owned::default();
        owned.note(&packet(9, What::Owned { flow: flow(), cgroup: 99, by_task: false }));
        assert_eq!(owned.sender(&flow(), &names()), None);
    }
}
