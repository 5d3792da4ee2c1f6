//! What changes an inventory while a run goes on.

use std::{collections::HashMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Inventory, PodEntry, Service};

/// How long the name of a pod that ended is kept, nanoseconds: its last packets and answers to them still come.
pub const KEEP_ENDED_NS: u64 = 60_000_000_000;

/// Changes of the cluster, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// When they were taken in, `CLOCK_MONOTONIC` nanoseconds.
    pub mono_ns: u64,
    /// What changed.
    pub changes: Vec<Change>,
}

/// One change of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A pod is so.
    Pod(PodEntry),
    /// The pod with this UID is no more. One of the same name with another UID stays.
    PodGone(String),
    /// A service, with its endpoints, is so.
    Service(Service),
    /// A service is no more: namespace and name.
    ServiceGone(String, String),
    /// A node has these addresses.
    Node(String, Vec<IpAddr>),
    /// A node is no more.
    NodeGone(String),
    /// Nobody has told of changes since that time, `CLOCK_MONOTONIC` nanoseconds; none: they are told again.
    Stale(Option<u64>),
}

impl Inventory {
    /// Takes the changes in.
    pub fn take(&mut self, News { mono_ns, changes }: News) {
        let mut places = Places::of(self);
        for change in changes {
            match change {
                Change::Pod(pod) => put(&mut self.pods, &mut places.pods, pod.uid.clone(), pod),
                Change::PodGone(uid) => {
                    let place = places.pods.get(&uid).copied();
                    if let Some(pod) = place.and_then(|at| self.pods.get_mut(at)) {
                        pod.ended_ns.get_or_insert(mono_ns);
                    }
                }
                Change::Service(service) => {
                    let key = (service.namespace.clone(), service.name.clone());
                    put(&mut self.services, &mut places.services, key, service);
                }
                Change::ServiceGone(namespace, name) => {
                    self.services.retain(|s| (&s.namespace, &s.name) != (&namespace, &name));
                    places = Places::of(self);
                }
                Change::Node(name, ips) => match self.nodes.iter_mut().find(|(other, _)| *other == name) {
                    Some((_, known)) => *known = ips,
                    None => self.nodes.push((name, ips)),
                },
                Change::NodeGone(name) => self.nodes.retain(|(other, _)| *other != name),
                Change::Stale(since_ns) => self.stale_since_ns = since_ns,
            }
        }
    }

    /// Forgets pods that ended long ago. Says whether there were any.
    pub fn forget(&mut self, now_ns: u64) -> bool {
        let before = self.pods.len();
        self.pods.retain(|pod| pod.ended_ns.is_none_or(|ended| now_ns.saturating_sub(ended) < KEEP_ENDED_NS));
        self.pods.len() < before
    }

    /// When [`forget`](Self::forget) has something to do next; never where it is none.
    #[must_use]
    pub fn forgets_at(&self) -> Option<u64> {
        self.pods.iter().filter_map(|pod| pod.ended_ns).min().map(|ended| ended.saturating_add(KEEP_ENDED_NS))
    }
}

/// Where in the lists things stand: else every change would walk them.
struct Places {
    pods: HashMap<String, usize>,
    services: HashMap<(String, String), usize>,
}

impl Places {
    fn of(inventory: &Inventory) -> Self {
        let Inventory { pods, services, .. } = inventory;
        Self {
            pods: pods.iter().enumerate().map(|(at, pod)| (pod.uid.clone(), at)).collect(),
            services: services
                .iter()
                .enumerate()
                .map(|(at, service)| ((service.namespace.clone(), service.name.clone()), at))
                .collect(),
        }
    }
}

/// Puts `value` where the one of the same key stands, or at the end.
fn put<K: std::hash::Hash + Eq, V>(list: &mut Vec<V>, places: &mut HashMap<K, usize>, key: K, value: V) {
    let place = *places.entry(key).or_insert(list.len());
    match list.get_mut(place) {
        Some(known) => *known = value,
        None => list.push(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str) -> PodEntry {
        PodEntry { namespace: "shop".into(), name: name.into(), uid: uid.into(), ..PodEntry::default() }
    }

    fn news(mono_ns: u64, changes: Vec<Change>) -> News {
        News { mono_ns, changes }
    }

    fn names(inventory: &Inventory) -> Vec<(&str, &str, Option<u64>)> {
        inventory.pods.iter().map(|p| (p.name.as_str(), p.uid.as_str(), p.ended_ns)).collect()
    }

    #[test]
    fn a_pod_is_known_by_its_uid_alone() {
        let mut inventory = Inventory::default();
        inventory.take(news(1, vec![Change::Pod(pod("web-0", "a")), Change::Pod(pod("web-0", "b"))]));
        inventory.take(news(2, vec![Change::PodGone("a".into()), Change::PodGone("unknown".into())]));
        assert_eq!(names(&inventory), [("web-0", "a", Some(2)), ("web-0", "b", None)]);
        inventory.take(news(3, vec![Change::PodGone("a".into()), Change::Pod(pod("web-1", "b"))]));
        assert_eq!(names(&inventory), [("web-0", "a", Some(2)), ("web-1", "b", None)], "it ended once");
    }

    #[test]
    fn an_ended_pod_is_forgotten_after_a_while() {
        let mut inventory = Inventory::default();
        inventory.take(news(1, vec![Change::Pod(pod("web-0", "a")), Change::Pod(pod("web-1", "b"))]));
        assert_eq!(inventory.forgets_at(), None);
        inventory.take(news(5, vec![Change::PodGone("a".into())]));
        assert_eq!(inventory.forgets_at(), Some(5 + KEEP_ENDED_NS));
        assert!(!inventory.forget(4 + KEEP_ENDED_NS));
        assert!(inventory.forget(5 + KEEP_ENDED_NS));
        assert_eq!(names(&inventory), [("web-1", "b", None)]);
    }

    #[test]
    fn services_and_nodes_are_replaced_and_removed() {
        let service = |kind: &str, name: &str| Service {
            namespace: "shop".into(),
            name: name.into(),
            kind: kind.into(),
            ..Service::default()
        };
        let mut inventory = Inventory::default();
        let changes = vec![
            Change::Service(service("ClusterIP", "web")),
            Change::Service(service("ClusterIP", "db")),
            Change::ServiceGone("shop".into(), "web".into()),
            Change::Service(service("NodePort", "db")),
            Change::Node("n1".into(), vec![]),
            Change::Node("n1".into(), vec![IpAddr::from([10, 0, 0, 1])]),
            Change::Node("n2".into(), vec![]),
            Change::NodeGone("n2".into()),
        ];
        inventory.take(news(1, changes));
        assert_eq!(inventory.services, [service("NodePort", "db")]);
        assert_eq!(inventory.nodes, [("n1".to_owned(), vec![IpAddr::from([10, 0, 0, 1])])]);
    }
}
