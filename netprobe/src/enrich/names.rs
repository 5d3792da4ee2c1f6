//! Whose namespace, whose address.
//!
//! A namespace is named by the best there is: the inventory's pod whose addresses it holds, the
//! pod UID in the cgroup of its processes, a container id, its name in /run/netns, its number.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use hashbrown::HashMap;

use super::cgroup::{self, CgroupNames};
use crate::model::{
    facts::{NamespaceFacts, NodeFacts},
    identity::{Pod, Source},
    inventory::{Claim, Inventory, PodEntry},
    known::{Known, Why},
};

/// Digits of a container id that people use.
const SHORT_ID: usize = 12;

/// Names of this node's namespaces and of addresses; replaced whole when either input changes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    node: u32,
    namespaces: BTreeMap<u32, Arc<Pod>>,
    /// Ordered, so that a replay walks it as the run did.
    addresses: BTreeMap<IpAddr, Arc<Pod>>,
    node_addresses: BTreeSet<IpAddr>,
    /// Pods that share the node's namespace, by each of their cgroups, with their own one.
    cgroups: BTreeMap<u64, (u64, Arc<Pod>)>,
}

impl Names {
    /// Names everything that `facts` and `inventory` know: linear in their size.
    #[must_use]
    pub fn build(inventory: &Inventory, facts: &NodeFacts) -> Self {
        let index = Index::of(inventory, facts);
        let mut names = Self { node: facts.node, ..Self::default() };
        names.node_addresses.extend(facts.node().into_iter().flat_map(addresses));
        names.node_addresses.extend(inventory.nodes.iter().flat_map(|(_, ips)| ips));
        let mut identities: HashMap<*const PodEntry, Arc<Pod>> = HashMap::new();
        for (ip, pod) in &index.by_address {
            let identity = identities.entry(*pod).or_insert_with(|| Arc::new(named(pod, Source::Ip)));
            names.addresses.insert(*ip, Arc::clone(identity));
        }
        let mut holders: BTreeMap<IpAddr, Vec<Arc<Pod>>> = BTreeMap::new();
        for namespace in facts.namespaces.values().filter(|ns| ns.inum != facts.node) {
            let pod = Arc::new(index.name(namespace));
            for ip in addresses(namespace) {
                holders.entry(ip).or_default().push(Arc::clone(&pod));
            }
            names.namespaces.insert(namespace.inum, pod);
        }
        for (ip, pods) in holders {
            names.settle(ip, &pods);
        }
        for entry in inventory.pods.iter().filter(|pod| pod.host_network && !pod.uid.is_empty()) {
            let Some(known) = facts.shared.pods.get(entry.cgroup_name()) else { continue };
            let pod = Arc::new(named(entry, Source::Cgroup));
            names.cgroups.extend(known.all.iter().map(|cgroup| (*cgroup, (known.own, Arc::clone(&pod)))));
        }
        names
    }

    /// The namespace that holds an address now is the word on it; the inventory may be old. Where
    /// several hold it, the inventory decides, and without it nobody is named.
    fn settle(&mut self, ip: IpAddr, holders: &[Arc<Pod>]) {
        match holders {
            [one] => drop(self.addresses.insert(ip, Arc::new(Pod { identity: Source::Ip, ..Pod::clone(one) }))),
            several => {
                let said = self.addresses.get(&ip);
                if !said.is_some_and(|pod| several.iter().any(|holder| same(holder, pod))) {
                    self.addresses.remove(&ip);
                }
            }
        }
    }

    /// The pod whose network namespace has the inode number `inum`, or why there is none.
    #[must_use]
    pub fn namespace(&self, inum: u32) -> Known<Arc<Pod>> {
        match self.namespaces.get(&inum) {
            Some(pod) => Known::Yes(Arc::clone(pod)),
            None if inum == 0 => Known::No(Why::NoNamespace),
            None if inum == self.node => Known::No(Why::Node),
            None => Known::No(Why::NamespaceGone),
        }
    }

    /// The pod that owns `ip`, or why there is none.
    #[must_use]
    pub fn address(&self, ip: IpAddr) -> Known<Arc<Pod>> {
        match self.addresses.get(&ip) {
            Some(pod) => Known::Yes(Arc::clone(pod)),
            None if self.node_addresses.contains(&ip) => Known::No(Why::Node),
            None => Known::No(Why::Outside),
        }
    }

    /// Addresses whose pod is no more the same in `later`, with the pod as it was here. Who had no UID may have got it only
    /// now.
    #[must_use]
    pub fn moved(&self, later: &Self) -> BTreeMap<IpAddr, Arc<Pod>> {
        let is_same = |ip, pod: &Pod| later.addresses.get(ip).is_some_and(|other| other.uid == pod.uid);
        let moved = self.addresses.iter().filter(|(ip, pod)| pod.uid.is_some() && !is_same(ip, pod));
        moved.map(|(ip, pod)| (*ip, Arc::clone(pod))).collect()
    }

    /// The pod without a namespace of its own whose cgroup that is, and the pod's own cgroup.
    #[must_use]
    pub fn cgroup(&self, cgroup: u64) -> Option<(u64, &Arc<Pod>)> {
        self.cgroups.get(&cgroup).map(|(own, pod)| (*own, pod))
    }

    /// Every pod that shares the node's namespace, with its own cgroup.
    pub fn sharing(&self) -> impl Iterator<Item = (u64, &Arc<Pod>)> {
        self.cgroups.iter().filter(|(cgroup, (own, _))| *cgroup == own).map(|(own, (_, pod))| (*own, pod))
    }

    /// All cgroups of pods that share the node's namespace, each with the pod's own one.
    pub fn cgroups(&self) -> impl Iterator<Item = (u64, u64, &Arc<Pod>)> {
        self.cgroups.iter().map(|(cgroup, (own, pod))| (*cgroup, *own, pod))
    }

    /// Every address whose pod is known, in order.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Arc<Pod>)> {
        self.addresses.iter().map(|(ip, pod)| (*ip, pod))
    }

    /// Every pod of this node, with the inode number of its namespace.
    pub fn pods(&self) -> impl Iterator<Item = (u32, &Arc<Pod>)> {
        self.namespaces.iter().map(|(inum, pod)| (*inum, pod))
    }
}

/// The same pod, however it was recognised.
fn same(a: &Pod, b: &Pod) -> bool {
    match (&a.uid, &b.uid) {
        (Some(a), Some(b)) => a == b,
        _ => a.namespace == b.namespace && a.name == b.name,
    }
}

fn named(pod: &PodEntry, identity: Source) -> Pod {
    let uid = (!pod.uid.is_empty()).then(|| pod.uid.clone());
    let is_ended = pod.ended_ns.is_some();
    Pod { namespace: pod.namespace.clone(), name: pod.name.clone(), uid, identity, is_ended }
}

/// Addresses that can tell one namespace from another: not those that every one may hold.
fn addresses(namespace: &NamespaceFacts) -> impl Iterator<Item = IpAddr> {
    namespace.addresses.iter().map(|a| a.net.addr()).filter(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    })
}

/// The inventory, by what a namespace shows of itself.
struct Index<'a> {
    by_address: HashMap<IpAddr, &'a PodEntry>,
    by_uid: HashMap<&'a str, &'a PodEntry>,
    cgroups: BTreeMap<u32, CgroupNames>,
}

impl<'a> Index<'a> {
    fn of(inventory: &'a Inventory, facts: &NodeFacts) -> Self {
        let own = inventory.pods.iter().filter(|p| !p.host_network);
        let mut claims: HashMap<IpAddr, Claim<'_>> = HashMap::new();
        for (ip, pod) in own.clone().flat_map(|p| p.ips.iter().map(move |ip| (*ip, p))) {
            claims.entry(ip).or_default().add(pod);
        }
        Self {
            by_address: claims.into_iter().filter_map(|(ip, claim)| Some((ip, claim.pod()?))).collect(),
            by_uid: own.filter(|p| !p.uid.is_empty()).map(|p| (p.uid.as_str(), p)).collect(),
            cgroups: cgroups(facts),
        }
    }

    fn name(&self, namespace: &NamespaceFacts) -> Pod {
        let cgroup = self.cgroups.get(&namespace.inum);
        let uid = cgroup.and_then(|c| c.pod_uid.as_deref());
        let by_cgroup = uid.and_then(|uid| self.by_uid.get(uid));
        if let Some(pod) = self.by_addresses(namespace).filter(|pod| !contradicts(uid, pod)) {
            return named(pod, Source::Netns);
        }
        if let Some(pod) = by_cgroup {
            return named(pod, Source::Cgroup);
        }
        let bare = |name, identity| Pod {
            namespace: String::new(),
            name,
            uid: uid.map(str::to_owned),
            identity,
            is_ended: false,
        };
        if let Some(id) = cgroup.and_then(|c| c.container.as_deref()) {
            return bare(id[..SHORT_ID].to_owned(), Source::Cgroup);
        }
        let number = || format!("netns:[{}]", namespace.inum);
        bare(namespace.name.clone().unwrap_or_else(number), Source::Netns)
    }

    /// The pod with the most addresses in this namespace.
    fn by_addresses(&self, namespace: &NamespaceFacts) -> Option<&'a PodEntry> {
        let mut found: Vec<(&PodEntry, usize)> = Vec::new();
        for pod in addresses(namespace).filter_map(|ip| self.by_address.get(&ip)) {
            match found.iter_mut().find(|(other, _)| std::ptr::eq(*other, *pod)) {
                Some((_, count)) => *count += 1,
                None => found.push((pod, 1)),
            }
        }
        // The first of the best: `max_by_key` would take the last.
        found.into_iter().rev().max_by_key(|(_, count)| *count).map(|(pod, _)| pod)
    }
}

/// The processes belong to another pod than the one that had this address when the inventory was
/// made. A static pod's cgroup carries a hash, which contradicts nothing.
fn contradicts(uid: Option<&str>, pod: &PodEntry) -> bool {
    uid.is_some_and(|uid| cgroup::is_uid(uid) && !pod.uid.is_empty() && uid != pod.uid)
}

/// What the cgroups tell, where it tells one namespace from another: processes that merely inherit
/// the cgroup of whoever started them (as when all of this runs in a pod) name nobody.
fn cgroups(facts: &NodeFacts) -> BTreeMap<u32, CgroupNames> {
    let all: BTreeMap<u32, CgroupNames> =
        facts.namespaces.values().filter_map(|ns| Some((ns.inum, cgroup::parse(ns.cgroup.as_deref()?)))).collect();
    let count = |same: &dyn Fn(&CgroupNames) -> bool| all.values().filter(|c| same(c)).count();
    let mut own = all.clone();
    own.remove(&facts.node);
    for names in own.values_mut() {
        if names.pod_uid.is_some() && count(&|c| c.pod_uid == names.pod_uid) > 1 {
            *names = CgroupNames::default();
        }
        if names.container.is_some() && count(&|c| c.container == names.container) > 1 {
            names.container = None;
        }
    }
    own
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::facts::{Address, NamespaceKind};

    pub(in crate::enrich) fn namespace(inum: u32, name: Option<&str>, ips: &[&str]) -> NamespaceFacts {
        let address = |ip: &&str| Address { ifindex: 2, net: ip.parse::<IpAddr>().expect("an address").into() };
        NamespaceFacts {
            inum,
            kind: if inum == 1 { NamespaceKind::Node } else { NamespaceKind::Pod },
            name: name.map(Into::into),
            addresses: ips.iter().map(address).collect(),
            ..NamespaceFacts::default()
        }
    }

    pub(in crate::enrich) fn node(namespaces: Vec<NamespaceFacts>) -> NodeFacts {
        let namespaces = namespaces.into_iter().map(|ns| (ns.inum, ns)).collect();
        NodeFacts { node: 1, namespaces, ..NodeFacts::default() }
    }

    pub(in crate::enrich) fn pod(name: &str, uid: &str, ips: &[&str]) -> PodEntry {
        PodEntry {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
            ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
            node: "n1".into(),
            host_network: false,
            labels: vec![("app".into(), name.split('-').next().unwrap_or_default().into())],
            ..PodEntry::default()
        }
    }

    pub(in crate::enrich) fn inventory(pods: Vec<PodEntry>) -> Inventory {
        Inventory { pods, ..Inventory::default() }
    }

    const UID_A: &str = "0c7b3a5e-91f4-4f6a-8f83-2f60f5a1c9de";
    const UID_B: &str = "11111111-2222-3333-4444-555555555555";

    fn in_pod(mut namespace: NamespaceFacts, uid: &str, container: char) -> NamespaceFacts {
        namespace.cgroup = Some(format!("/kubepods/pod{uid}/{}", container.to_string().repeat(64)));
        namespace
    }

    fn of_namespace(names: &Names, inum: u32) -> (String, Source) {
        let pod = names.namespace(inum);
        let pod = pod.yes().expect("the namespace has a name");
        (pod.to_string(), pod.identity)
    }

    fn of_address(names: &Names, ip: &str) -> Known<String> {
        match names.address(ip.parse().expect("an address")) {
            Known::Yes(pod) => {
                assert_eq!(pod.identity, Source::Ip);
                Known::Yes(pod.to_string())
            }
            Known::No(why) => Known::No(why),
        }
    }

    #[test]
    fn addresses_tie_a_namespace_to_its_pod() {
        let facts = node(vec![
            namespace(1, None, &["172.20.10.2"]),
            namespace(7, Some("cni-1"), &["127.0.0.1", "fe80::1", "10.61.7.10", "fd5a:61::10"]),
        ]);
        let names = Names::build(&inventory(vec![pod("web-0", UID_A, &["10.61.7.10", "fd5a:61::10"])]), &facts);
        assert_eq!(of_namespace(&names, 7), ("shop/web-0".into(), Source::Netns));
        assert_eq!(of_address(&names, "10.61.7.10"), Known::Yes("shop/web-0".into()));
        assert_eq!(of_address(&names, "fd5a:61::10"), Known::Yes("shop/web-0".into()));
        assert_eq!(of_address(&names, "fe80::1"), Known::No(Why::Outside));
        assert_eq!(of_address(&names, "172.20.10.2"), Known::No(Why::Node));
        assert_eq!(of_address(&names, "192.0.2.9"), Known::No(Why::Outside));
        assert_eq!(names.namespace(1), Known::No(Why::Node));
        assert_eq!(names.namespace(0), Known::No(Why::NoNamespace));
        assert_eq!(names.namespace(99), Known::No(Why::NamespaceGone));
    }

    #[test]
    fn without_an_address_the_cgroup_the_file_or_the_number_names_it() {
        let facts = node(vec![
            namespace(1, None, &[]),
            in_pod(namespace(7, Some("cni-1"), &["10.61.7.10"]), UID_A, 'a'),
            in_pod(namespace(8, Some("cni-2"), &["10.61.7.11"]), UID_B, 'b'),
            namespace(9, Some("blue"), &[]),
            namespace(10, None, &[]),
        ]);
        let names = Names::build(&inventory(vec![pod("web-0", UID_A, &[])]), &facts);
        assert_eq!(of_namespace(&names, 7), ("shop/web-0".into(), Source::Cgroup));
        assert_eq!(of_namespace(&names, 8), ("bbbbbbbbbbbb".into(), Source::Cgroup));
        assert_eq!(of_namespace(&names, 9), ("blue".into(), Source::Netns));
        assert_eq!(of_namespace(&names, 10), ("netns:[10]".into(), Source::Netns));
        assert_eq!(of_address(&names, "10.61.7.11"), Known::Yes("bbbbbbbbbbbb".into()));
        assert_eq!(names.pods().count(), 4);
    }

    #[test]
    fn an_address_that_moved_is_not_blamed_on_its_former_pod() {
        let facts = node(vec![in_pod(namespace(7, None, &["10.61.7.10"]), UID_B, 'b')]);
        let old = pod("web-0", UID_A, &["10.61.7.10"]);
        let names = Names::build(&inventory(vec![old.clone()]), &facts);
        assert_eq!(of_namespace(&names, 7), ("bbbbbbbbbbbb".into(), Source::Cgroup), "a pod too new for the inventory");
        assert_eq!(of_address(&names, "10.61.7.10"), Known::Yes("bbbbbbbbbbbb".into()));
        let names = Names::build(&inventory(vec![old, pod("web-1", UID_B, &[])]), &facts);
        assert_eq!(of_namespace(&names, 7), ("shop/web-1".into(), Source::Cgroup));
        assert_eq!(of_address(&names, "10.61.7.10"), Known::Yes("shop/web-1".into()));
    }

    #[test]
    fn a_static_pods_hash_does_not_contradict_its_uid() {
        let facts = node(vec![in_pod(namespace(7, None, &["10.61.7.10"]), "d0a5e1c0f5e14ed8a7a6d3c2b1a09f8e", 'b')]);
        let names = Names::build(&inventory(vec![pod("etcd-n1", UID_A, &["10.61.7.10"])]), &facts);
        assert_eq!(of_namespace(&names, 7), ("shop/etcd-n1".into(), Source::Netns));
    }

    #[test]
    fn a_cgroup_shared_by_namespaces_names_none_of_them() {
        let facts = node(vec![
            in_pod(namespace(1, None, &[]), UID_A, 'a'),
            in_pod(namespace(7, Some("blue"), &["10.61.7.10"]), UID_A, 'a'),
            in_pod(namespace(8, Some("green"), &[]), UID_A, 'a'),
        ]);
        let names = Names::build(&inventory(vec![pod("web-0", UID_B, &["10.61.7.10"])]), &facts);
        assert_eq!(of_namespace(&names, 7), ("shop/web-0".into(), Source::Netns));
        assert_eq!(of_namespace(&names, 8), ("green".into(), Source::Netns));
    }

    #[test]
    fn an_address_held_twice_is_the_inventorys_pod_or_nobodys() {
        let facts =
            node(vec![namespace(7, Some("blue"), &["10.61.7.10"]), namespace(8, Some("green"), &["10.61.7.10"])]);
        let names = Names::build(&Inventory::default(), &facts);
        assert_eq!(of_address(&names, "10.61.7.10"), Known::No(Why::Outside));
        let names = Names::build(&inventory(vec![pod("web-0", UID_A, &["10.61.7.10"])]), &facts);
        assert_eq!(of_address(&names, "10.61.7.10"), Known::Yes("shop/web-0".into()));
    }

    #[test]
    fn an_address_claimed_by_two_pods_is_the_firmer_ones_or_nobodys() {
        let nobody_here = node(vec![namespace(1, None, &[])]);
        let (one, other) = (pod("web-0", UID_A, &["10.61.7.10"]), pod("db-0", UID_B, &["10.61.7.10"]));
        let told = |pods: [&PodEntry; 2]| {
            let inventory = inventory(pods.into_iter().cloned().collect());
            let names = of_address(&Names::build(&inventory, &nobody_here), "10.61.7.10");
            let holder = inventory.holder("10.61.7.10".parse().expect("an address")).map(|p| p.name.clone());
            (names, holder)
        };
        assert_eq!(told([&one, &other]), (Known::No(Why::Outside), None), "both run");
        let leaving = PodEntry { is_leaving: true, ..one.clone() };
        for pods in [[&leaving, &other], [&other, &leaving]] {
            assert_eq!(told(pods), (Known::Yes("shop/db-0".into()), Some("db-0".into())));
        }
        let ended = |pod: &PodEntry, ns| PodEntry { ended_ns: Some(ns), ..pod.clone() };
        for pods in [[&ended(&one, 9), &leaving], [&ended(&other, 9), &leaving]] {
            assert_eq!(told(pods).0, Known::Yes("shop/web-0".into()), "it is still there");
        }
        for pods in [[&ended(&one, 5), &ended(&other, 9)], [&ended(&other, 9), &ended(&one, 5)]] {
            assert_eq!(told(pods).0, Known::Yes("shop/db-0 (ended)".into()), "it ended last");
        }
    }

    #[test]
    fn an_ended_pod_names_what_nobody_else_has() {
        let ended = PodEntry { ended_ns: Some(5), ..pod("web-0", UID_A, &["10.61.7.10"]) };
        let facts = node(vec![namespace(1, None, &[]), in_pod(namespace(7, None, &["10.61.7.10"]), UID_B, 'b')]);
        let names = Names::build(&inventory(vec![ended.clone()]), &facts);
        assert_eq!(of_address(&names, "10.61.7.10"), Known::Yes("bbbbbbbbbbbb".into()), "a new pod has its address");
        let names = Names::build(&inventory(vec![ended]), &node(vec![namespace(7, None, &["10.61.7.10"])]));
        assert_eq!(of_namespace(&names, 7), ("shop/web-0 (ended)".into(), Source::Netns));
    }

    #[test]
    fn host_network_pods_own_no_address() {
        let mut proxy = pod("proxy", UID_A, &["172.20.10.2"]);
        proxy.host_network = true;
        let names = Names::build(&inventory(vec![proxy]), &node(vec![namespace(1, None, &["172.20.10.2"])]));
        assert_eq!(of_address(&names, "172.20.10.2"), Known::No(Why::Node));
    }
}
