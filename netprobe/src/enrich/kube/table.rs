//! What is known of the cluster, as far as it is needed to tell what changes it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Part;
use crate::{
    enrich::inventory::{
        convert::{self, Key},
        object::Object,
    },
    model::inventory::{Change, Endpoint, PodEntry, Service},
};

/// The longest name that Kubernetes gives (RFC 1123 subdomain), bytes.
const NAME_MAX: usize = 253;
/// The longest UID that is taken for one, bytes; Kubernetes' have 36.
const UID_MAX: usize = 128;
/// Addresses kept of a pod: one for each family and network.
const ADDRESSES_MAX: usize = 64;
/// Labels kept of a pod.
const LABELS_MAX: usize = 256;
/// The longest label, key and value together (253 + 1 + 63 and 63), bytes.
const LABEL_MAX: usize = 380;

/// What is known, by UID where that tells one object from its successor.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// UIDs of pods, and which watch tells of them.
    pods: HashMap<String, Part>,
    services: BTreeMap<Key, (String, Service)>,
    /// Slices by their own namespace and name, and the service that each belongs to.
    slices: BTreeMap<Key, (String, Key, Vec<Endpoint>)>,
    /// Names of the slices of a service.
    of_service: BTreeMap<Key, BTreeSet<Key>>,
    /// Nodes by name, with UID.
    nodes: BTreeMap<String, String>,
    changes: Vec<Change>,
    /// Services to be told.
    touched: BTreeSet<Key>,
}

impl Table {
    /// An object is so. Gives its UID; the error says what is wrong with it.
    pub(super) fn put(&mut self, part: Part, object: Object) -> Result<String, String> {
        let uid = uid(&object)?;
        match part {
            Part::Near | Part::Far => self.put_pod(part, object)?,
            Part::Services => {
                let service = convert::service(object)?;
                let key = (service.namespace.clone(), service.name.clone());
                self.services.insert(key.clone(), (uid.clone(), service));
                self.touched.insert(key);
            }
            Part::Slices => self.put_slice(&uid, object)?,
            Part::Nodes => {
                let (name, ips) = convert::node(object)?;
                self.nodes.insert(name.clone(), uid.clone());
                self.changes.push(Change::Node(name, ips));
            }
        }
        Ok(uid)
    }

    fn put_pod(&mut self, part: Part, object: Object) -> Result<(), String> {
        let uid = object.metadata.uid.clone();
        // The watch of other nodes' pods tells of a pod that was not bound yet, and may be late.
        if part == Part::Far && self.pods.get(&uid) == Some(&Part::Near) {
            return Ok(());
        }
        let Some(pod) = convert::pod(object)? else {
            self.lose_pod(part, &uid);
            return Ok(());
        };
        self.pods.insert(uid, part);
        self.changes.push(Change::Pod(slim(part, pod)));
        Ok(())
    }

    fn lose_pod(&mut self, part: Part, uid: &str) {
        if self.pods.get(uid) == Some(&part) {
            self.pods.remove(uid);
            self.changes.push(Change::PodGone(uid.to_owned()));
        }
    }

    fn put_slice(&mut self, uid: &str, object: Object) -> Result<(), String> {
        let own = (object.metadata.namespace.clone(), object.metadata.name.clone());
        self.lose_slice(&own);
        if let Some((service, endpoints)) = convert::slice(object)? {
            self.of_service.entry(service.clone()).or_default().insert(own.clone());
            self.touched.insert(service.clone());
            self.slices.insert(own, (uid.to_owned(), service, endpoints));
        }
        Ok(())
    }

    fn lose_slice(&mut self, own: &Key) {
        if let Some((_, service, _)) = self.slices.remove(own) {
            if let Some(names) = self.of_service.get_mut(&service) {
                names.remove(own);
                if names.is_empty() {
                    self.of_service.remove(&service);
                }
            }
            self.touched.insert(service);
        }
    }

    /// An object is no more. One of the same name with another UID stays.
    pub(super) fn gone(&mut self, part: Part, object: &Object) -> Result<(), String> {
        let uid = uid(object)?;
        let key = (object.metadata.namespace.clone(), object.metadata.name.clone());
        let is_it = |known: Option<&String>| known == Some(&uid);
        match part {
            Part::Near | Part::Far => self.lose_pod(part, &uid),
            Part::Services if is_it(self.services.get(&key).map(|(uid, _)| uid)) => self.lose_service(key),
            Part::Slices if is_it(self.slices.get(&key).map(|(uid, ..)| uid)) => self.lose_slice(&key),
            Part::Nodes if is_it(self.nodes.get(&key.1)) => self.lose_node(key.1),
            Part::Services | Part::Slices | Part::Nodes => {}
        }
        Ok(())
    }

    fn lose_service(&mut self, key: Key) {
        self.services.remove(&key);
        self.touched.remove(&key);
        self.changes.push(Change::ServiceGone(key.0, key.1));
    }

    fn lose_node(&mut self, name: String) {
        self.nodes.remove(&name);
        self.changes.push(Change::NodeGone(name));
    }

    /// A list is complete: what it does not hold ended while nobody told.
    pub(super) fn listed(&mut self, part: Part, seen: &HashSet<String>) {
        match part {
            Part::Near | Part::Far => {
                let lost = self.pods.iter().filter(|(uid, of)| **of == part && !seen.contains(*uid));
                let mut lost: Vec<String> = lost.map(|(uid, _)| uid.clone()).collect();
                lost.sort_unstable();
                lost.iter().for_each(|uid| self.lose_pod(part, uid));
            }
            Part::Services => {
                let lost = self.services.iter().filter(|(_, (uid, _))| !seen.contains(uid));
                let lost: Vec<Key> = lost.map(|(key, _)| key.clone()).collect();
                lost.into_iter().for_each(|key| self.lose_service(key));
            }
            Part::Slices => {
                let lost = self.slices.iter().filter(|(_, (uid, ..))| !seen.contains(uid));
                let lost: Vec<Key> = lost.map(|(key, _)| key.clone()).collect();
                lost.iter().for_each(|key| self.lose_slice(key));
            }
            Part::Nodes => {
                let lost = self.nodes.iter().filter(|(_, uid)| !seen.contains(*uid));
                let lost: Vec<String> = lost.map(|(name, _)| name.clone()).collect();
                lost.into_iter().for_each(|name| self.lose_node(name));
            }
        }
    }

    /// What changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.changes);
        for key in std::mem::take(&mut self.touched) {
            // Slices may come before their service.
            let Some((_, service)) = self.services.get(&key) else { continue };
            let slices = self.of_service.get(&key).into_iter().flatten();
            let endpoints = slices.filter_map(|name| self.slices.get(name)).flat_map(|(.., endpoints)| endpoints);
            changes.push(Change::Service(Service { endpoints: endpoints.cloned().collect(), ..service.clone() }));
        }
        changes
    }
}

/// The object's UID; an error where it has none, or a name that Kubernetes does not give.
fn uid(object: &Object) -> Result<String, String> {
    let metadata = &object.metadata;
    if metadata.uid.is_empty() || metadata.uid.len() > UID_MAX {
        return Err(format!("an object whose UID has {} bytes", metadata.uid.len()));
    }
    for name in [&metadata.name, &metadata.namespace] {
        if name.len() > NAME_MAX {
            return Err(format!("an object with a name of {} bytes", name.len()));
        }
    }
    if metadata.name.is_empty() {
        return Err("an object without a name".to_owned());
    }
    Ok(metadata.uid.clone())
}

/// What is kept of a pod: of another node's, who has its addresses.
fn slim(part: Part, mut pod: PodEntry) -> PodEntry {
    pod.ips.truncate(ADDRESSES_MAX);
    if pod.node.len() > NAME_MAX {
        pod.node.clear();
    }
    pod.labels.retain(|(key, value)| key.len() + value.len() <= LABEL_MAX);
    pod.labels.truncate(if part == Part::Near { LABELS_MAX } else { 0 });
    pod.labels.shrink_to_fit();
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Object {
        serde_json::from_value(value).expect("an object")
    }

    fn pod(name: &str, uid: &str, ip: &str) -> Object {
        object(json!({"metadata": {"namespace": "shop", "name": name, "uid": uid, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIP": ip}}))
    }

    fn told(table: &mut Table) -> Vec<String> {
        let short = |change: Change| match change {
            Change::Pod(pod) => format!("+{} {} {}", pod.name, pod.uid, pod.labels.len()),
            Change::PodGone(uid) => format!("-{uid}"),
            Change::Service(service) => {
                let ips: Vec<String> = service.endpoints.iter().map(|end| end.ip.to_string()).collect();
                format!("{} {:?} {}", service.name, service.cluster_ips, ips.join(","))
            }
            other => format!("{other:?}"),
        };
        table.take_changes().into_iter().map(short).collect()
    }

    #[test]
    fn a_pod_ends_by_its_uid_and_by_the_watch_that_tells_of_it() {
        let mut table = Table::default();
        table.put(Part::Far, pod("web-0", "a", "")).expect("taken");
        assert_eq!(told(&mut table), ["+web-0 a 0"], "of another node's pod no labels are kept");
        table.put(Part::Near, pod("web-0", "a", "10.0.0.1")).expect("taken");
        table.gone(Part::Far, &pod("web-0", "a", "")).expect("taken");
        table.put(Part::Far, pod("web-0", "a", "")).expect("taken");
        assert_eq!(told(&mut table), ["+web-0 a 1"], "it was bound to this node: the other watch knows no better");
        table.gone(Part::Near, &pod("web-0", "other", "")).expect("taken");
        assert!(told(&mut table).is_empty(), "another pod of that name ended");
        table.gone(Part::Near, &pod("web-0", "a", "")).expect("taken");
        assert_eq!(told(&mut table), ["-a"]);
    }

    #[test]
    fn a_list_ends_what_it_does_not_hold_in_its_own_part() {
        let mut table = Table::default();
        for (part, uid) in [(Part::Near, "a"), (Part::Near, "b"), (Part::Far, "c")] {
            table.put(part, pod("web", uid, "")).expect("taken");
        }
        told(&mut table);
        table.listed(Part::Near, &["b".to_owned()].into());
        assert_eq!(told(&mut table), ["-a"]);
    }

    #[test]
    fn a_pod_that_has_run_to_its_end_is_no_more() {
        let mut table = Table::default();
        let done = |uid: &str| {
            object(
                json!({"metadata": {"namespace": "shop", "name": "job", "uid": uid}, "status": {"phase": "Succeeded"}}),
            )
        };
        table.put(Part::Near, pod("job", "a", "10.0.0.1")).expect("taken");
        table.put(Part::Near, done("a")).expect("taken");
        table.put(Part::Near, done("b")).expect("taken");
        assert_eq!(told(&mut table), ["+job a 1", "-a"]);
    }

    #[test]
    fn endpoints_and_their_service_come_in_any_order() {
        let slice = |name: &str, ip: &str| {
            object(json!({"metadata": {"namespace": "shop", "name": name, "uid": name,
                "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "endpoints": [{"addresses": [ip]}], "ports": [{"port": 80}]}))
        };
        let service = |uid: &str| {
            object(
                json!({"metadata": {"namespace": "shop", "name": "web", "uid": uid}, "spec": {"clusterIP": "10.9.0.1"}}),
            )
        };
        let mut table = Table::default();
        table.put(Part::Slices, slice("web-a", "10.0.0.1")).expect("taken");
        assert!(told(&mut table).is_empty());
        table.put(Part::Services, service("s1")).expect("taken");
        table.put(Part::Slices, slice("web-b", "10.0.0.2")).expect("taken");
        assert_eq!(told(&mut table), ["web [10.9.0.1] 10.0.0.1,10.0.0.2"]);
        table.gone(Part::Slices, &slice("web-a", "")).expect("taken");
        assert_eq!(told(&mut table), ["web [10.9.0.1] 10.0.0.2"]);
        table.gone(Part::Services, &service("s2")).expect("taken");
        assert!(told(&mut table).is_empty(), "the service was made anew");
        table.listed(Part::Services, &HashSet::new());
        assert_eq!(told(&mut table), ["ServiceGone(\"shop\", \"web\")"]);
    }

    #[test]
    fn what_kubernetes_does_not_write_is_refused() {
        let mut table = Table::default();
        for (name, uid) in [("web", ""), ("", "a"), (&*"w".repeat(254), "a"), ("web", &*"a".repeat(129))] {
            assert!(table.put(Part::Near, pod(name, uid, "")).is_err(), "{name} {uid}");
        }
        assert!(table.put(Part::Near, pod("web", "a", "no address")).is_err());
        assert!(told(&mut table).is_empty());
    }
}
