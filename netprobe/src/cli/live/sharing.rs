//! Pods that share the node's network namespace: whose sockets are whose.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Result, bail};

use super::{Live, Request, Watch};
use crate::{
    enrich::{cgroup, select::Followed},
    facts::{FactsEvent, SharedReader, WaitingSockets, waiting_sockets},
    model::{facts::NamespaceFacts, flow::Proto, inventory::Inventory, shared::Shared},
    probe::cgroups::Waiting,
};

/// Finds their cgroups.
pub(super) struct Sharing {
    reader: SharedReader,
    /// Where their sockets wait, as the programs were told last.
    waiting: BTreeMap<Waiting, u64>,
    cgroups: BTreeMap<u64, u32>,
    /// A port that counts as the followed pod's.
    adopted: Option<(Proto, u16)>,
    /// The kernel does not list its sockets, and that was said.
    is_blind: bool,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            reader: SharedReader::new(pod_of),
            waiting: BTreeMap::new(),
            cgroups: BTreeMap::new(),
            adopted: None,
            is_blind: false,
        }
    }
}

/// What stands for a pod in the last part of the path, where that part names one.
fn pod_of(path: &Path) -> Option<String> {
    cgroup::parse(path.file_name()?.to_str()?).pod_uid
}

impl Sharing {
    /// Looks for the cgroups of the inventory's pods; gives what is known where that changed.
    pub(super) fn look(&mut self, inventory: &Inventory, node: Option<&str>, now_ns: u64) -> Option<Shared> {
        let here = |name: &str| node.is_none_or(|node| node == name);
        let pods = inventory.pods.iter().filter(|pod| pod.host_network && pod.ended_ns.is_none() && here(&pod.node));
        let names = pods.map(|pod| pod.cgroup_name().to_owned()).filter(|name| !name.is_empty());
        self.reader.want(names.collect());
        self.reader.look(now_ns)
    }

    /// Addresses and ports of the node at which sockets of these cgroups wait, and of nobody else.
    fn waiting(&mut self, node: &NamespaceFacts, cgroups: &BTreeMap<u64, u32>) -> BTreeMap<Waiting, u64> {
        let sockets = match waiting_sockets() {
            Ok(sockets) => sockets,
            Err(error) => {
                if !self.is_blind {
                    log::warn!("packets for pods with hostNetwork are known by their answers alone: {error:#}");
                    self.is_blind = true;
                }
                return BTreeMap::new();
            }
        };
        self.is_blind = false;
        spread(sockets, &node.addresses.iter().map(|address| address.net.addr()).collect(), cgroups)
    }
}

/// Refuses what needs a namespace of the pod's own.
pub(super) fn must_serve(request: &Request<'_>, watch: Watch, followed: &Followed) -> Result<()> {
    let what = match watch {
        Watch::Capture(_) => "capture",
        _ if request.dns.is_some() => "dns",
        _ => return Ok(()),
    };
    let pods: Vec<String> = followed.pods.iter().map(ToString::to_string).collect();
    let pods = pods.join(", ").escape_debug().to_string();
    bail!("{pods} uses the node's own network, whose packets `{what}` does not tell apart: use --all and a filter")
}

impl Live {
    /// Looks for cgroups that came and went, and at which ports their sockets wait.
    pub(super) fn look_at_sharing(&mut self, now_ns: u64) -> Result<()> {
        let node = self.cluster.node();
        if let Some(shared) = self.sharing.look(self.pipeline.inventory(), node, now_ns) {
            self.take_events(vec![FactsEvent::Shared(Box::new(shared))])?;
        } else if !self.cgroups.is_empty() {
            self.follow_sharing()?;
        }
        Ok(())
    }

    /// The one pod that is followed shares the node's namespace.
    #[must_use]
    pub fn is_of_sharing_pod(&self) -> bool {
        self.cgroups.len() == 1 && self.namespaces.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// From now on what is sent from that port of the node's counts as the followed pod's.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn adopt_port(&mut self, proto: Proto, port: u16) -> Result<()> {
        self.sharing.adopted = Some((proto, port));
        self.follow_sharing()
    }

    fn with_adopted(&self, mut waiting: BTreeMap<Waiting, u64>) -> BTreeMap<Waiting, u64> {
        let node = self.pipeline.facts().node();
        if let (Some((proto, port)), Some(own), Some(node)) = (self.sharing.adopted, self.cgroups.first(), node) {
            let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
            let addresses = node.addresses.iter().map(|address| address.net.addr()).chain(any);
            waiting.extend(addresses.map(|ip| (Waiting { proto, at: SocketAddr::new(ip, port) }, *own)));
        }
        waiting
    }

    /// Tells the programs which cgroups are followed, and where sockets of theirs wait.
    pub(super) fn follow_sharing(&mut self) -> Result<()> {
        let followed = self.pipeline.cgroups().filter(|(_, own, _)| self.cgroups.contains(own));
        let cgroups: BTreeMap<u64, u32> = followed.map(|(cgroup, _, number)| (cgroup, number)).collect();
        let waiting = match self.pipeline.facts().node() {
            Some(node) if !cgroups.is_empty() && !self.watch.lives_on_classifiers() => {
                self.sharing.waiting(node, &cgroups)
            }
            _ => BTreeMap::new(),
        };
        let waiting = self.with_adopted(waiting);
        if cgroups != self.sharing.cgroups {
            self.attached.set_cgroups(&cgroups)?;
            self.sharing.cgroups = cgroups;
        }
        if waiting != self.sharing.waiting {
            self.attached.set_waiting(&waiting)?;
            self.sharing.waiting = waiting;
        }
        Ok(())
    }
}

/// Where sockets of these cgroups wait, on a node with these addresses. A socket at one address goes before one at all of
/// them.
fn spread(
    sockets: WaitingSockets,
    addresses: &BTreeSet<IpAddr>,
    cgroups: &BTreeMap<u64, u32>,
) -> BTreeMap<Waiting, u64> {
    let mut at: BTreeMap<Waiting, Option<u64>> = BTreeMap::new();
    let (everywhere, somewhere): (Vec<_>, Vec<_>) =
        sockets.into_iter().partition(|((_, local), _)| local.ip().is_unspecified());
    for ((proto, local), (cgroup, takes_v4)) in everywhere {
        let fits = |ip: &&IpAddr| ip.is_ipv6() == local.is_ipv6() || (takes_v4 && ip.is_ipv4());
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        for ip in addresses.iter().chain(&loopback).filter(fits) {
            let waiting = Waiting { proto, at: SocketAddr::new(*ip, local.port()) };
            // An IPv4 and an IPv6 socket of two owners may share a port.
            at.entry(waiting)
                .and_modify(|known| *known = known.filter(|known| Some(*known) == cgroup))
                .or_insert(cgroup);
        }
    }
    for ((proto, local), (cgroup, _)) in somewhere {
        at.insert(Waiting { proto, at: SocketAddr::new(local.ip().to_canonical(), local.port()) }, cgroup);
    }
    at.into_iter()
        .filter_map(|(waiting, cgroup)| Some((waiting, cgroup?)))
        .filter(|(_, c)| cgroups.contains_key(c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u64 = 70;

    fn at(sockets: &[(&str, u64, bool)]) -> Vec<(String, u64)> {
        let socket = |(local, cgroup, v4): &(&str, u64, bool)| {
            ((Proto::Tcp, local.parse().expect("an address")), ((*cgroup != 0).then_some(*cgroup), *v4))
        };
        let addresses = ["10.0.0.1", "127.0.0.1", "fd00::1"].map(|ip| ip.parse().expect("an address")).into();
        let found = spread(sockets.iter().map(socket).collect(), &addresses, &[(OURS, 1)].into());
        found.into_iter().map(|(waiting, cgroup)| (waiting.at.to_string(), cgroup)).collect()
    }

    #[test]
    fn a_socket_everywhere_waits_at_every_address_of_its_family() {
        let v4 = [("10.0.0.1:80".to_owned(), OURS), ("127.0.0.1:80".to_owned(), OURS)];
        assert_eq!(at(&[("0.0.0.0:80", OURS, false)]), v4);
        assert_eq!(at(&[("[::]:80", OURS, true)]).len(), 3);
        assert_eq!(at(&[("[::]:80", OURS, false)]), [("[fd00::1]:80".to_owned(), OURS)]);
    }

    #[test]
    fn a_socket_at_one_address_goes_before_one_at_all() {
        let others = at(&[("0.0.0.0:80", OURS, false), ("10.0.0.1:80", 99, false)]);
        assert_eq!(others, [("127.0.0.1:80".to_owned(), OURS)], "the address is somebody else's");
    }

    #[test]
    fn sockets_of_others_tell_nothing() {
        assert!(at(&[("0.0.0.0:80", 99, false), ("10.0.0.1:81", 0, false)]).is_empty());
    }
}
