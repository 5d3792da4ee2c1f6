use std::net::IpAddr;

use proptest::prelude::*;

use super::read;
use crate::model::inventory::{Endpoint, Inventory, PodEntry, ServicePort};

fn parse(text: &str) -> Inventory {
    read(text.as_bytes(), "inventory.json").expect("the inventory is right")
}

fn refuse(text: &str) -> String {
    read(text.as_bytes(), "inventory.json").expect_err("the inventory is wrong").to_string()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// In the order of keys that kubectl prints, with fields and a kind that are not needed.
const CLUSTER: &str = r#"{
  "apiVersion": "v1",
  "items": [
    {"apiVersion": "v1", "kind": "Pod",
     "metadata": {"name": "web-0", "namespace": "shop", "uid": "5f2d", "labels": {"app": "web", "tier": "front"}},
     "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
     "status": {"phase": "Running", "podIP": "10.61.7.10", "podIPs": [{"ip": "10.61.7.10"}, {"ip": "fd5a:61::10"}]}},
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job-1", "namespace": "shop", "uid": "77"},
     "spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded", "podIP": "10.61.7.10"}},
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "proxy", "namespace": "kube-system", "uid": "8"},
     "spec": {"nodeName": "n2", "hostNetwork": true}, "status": {"phase": "Running", "podIP": "172.20.10.3"}},
    {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
     "metadata": {"name": "web-x7", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
     "endpoints": [{"addresses": ["10.61.7.10"], "conditions": {"ready": true}, "nodeName": "n1"},
                   {"addresses": ["10.61.7.11"], "conditions": {"ready": false}}],
     "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]},
    {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "shop"},
     "subsets": [{"addresses": [{"ip": "10.61.7.99"}], "ports": [{"port": 1}]}]},
    {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "old", "namespace": "shop"},
     "subsets": [{"addresses": [{"ip": "10.61.7.12", "nodeName": "n1"}], "notReadyAddresses": [{"ip": "10.61.7.13"}],
                  "ports": [{"port": 9000, "protocol": "UDP"}]}]},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
     "spec": {"type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd5a:96::10"],
              "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster",
              "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": 30080},
                        {"port": 443, "targetPort": 8443}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "old", "namespace": "shop"},
     "spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": null}},
    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
     "status": {"addresses": [{"type": "InternalIP", "address": "172.20.10.2"}, {"type": "Hostname", "address": "n1"}]}},
    {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
     "spec": {"ports": "another form", "podSelector": {}}, "status": [1]}
  ],
  "kind": "List",
  "metadata": {"resourceVersion": ""}
}"#;

#[test]
fn keeps_running_pods_with_all_their_addresses() {
    let pods = parse(CLUSTER).pods;
    assert_eq!(
        pods[0],
        PodEntry {
            namespace: "shop".into(),
            name: "web-0".into(),
            uid: "5f2d".into(),
            ips: vec![ip("10.61.7.10"), ip("fd5a:61::10")],
            node: "n1".into(),
            host_network: false,
            labels: vec![("app".into(), "web".into()), ("tier".into(), "front".into())],
            ..PodEntry::default()
        }
    );
    let names: Vec<_> = pods.iter().map(|p| (p.name.as_str(), p.host_network)).collect();
    assert_eq!(names, [("web-0", false), ("proxy", true)], "job-1 has ended and its address may be another pod's");
}

#[test]
fn the_addresses_of_further_networks_are_the_pods_too() {
    let pod = |status: &str| {
        let status = serde_json::Value::from(status);
        let text = format!(
            r#"{{"kind":"Pod","metadata":{{"name":"a","deletionTimestamp":"2026-01-01T00:00:00Z",
               "annotations":{{"other":"x","k8s.v1.cni.cncf.io/network-status":{status}}}}},
               "status":{{"podIP":"10.0.0.1"}}}}"#
        );
        parse(&text).pods.remove(0)
    };
    let multus =
        r#"[{"name":"cbr0","ips":["10.0.0.1"],"default":true},{"name":"net1","ips":["192.168.9.7","x"]},{"name":"b"}]"#;
    assert_eq!(pod(multus).ips, [ip("10.0.0.1"), ip("192.168.9.7")]);
    assert!(pod(multus).is_leaving);
    assert_eq!(pod("no JSON").ips, [ip("10.0.0.1")]);
}

#[test]
fn joins_endpoints_to_services_and_prefers_slices() {
    let services = parse(CLUSTER).services;
    let web = &services[0];
    assert_eq!((web.kind.as_str(), web.external_local, web.internal_local), ("NodePort", true, false));
    assert_eq!(web.cluster_ips, [ip("10.96.0.10"), ip("fd5a:96::10")]);
    let port = |port, node_port, target_port| ServicePort { port, protocol: "TCP".into(), node_port, target_port };
    assert_eq!(web.ports, [port(80, 30080, 0), port(443, 0, 8443)]);
    let end = |text, port, ready, node: Option<&str>| Endpoint {
        ip: ip(text),
        ports: vec![port],
        ready,
        node: node.map(Into::into),
    };
    assert_eq!(web.endpoints, [end("10.61.7.10", 8080, true, Some("n1")), end("10.61.7.11", 8080, false, None)]);
    let old = &services[1];
    assert_eq!(old.cluster_ips, [] as [IpAddr; 0]);
    assert_eq!(old.endpoints, [end("10.61.7.12", 9000, true, Some("n1")), end("10.61.7.13", 9000, false, None)]);
}

#[test]
fn keeps_the_addresses_of_nodes() {
    assert_eq!(parse(CLUSTER).nodes, [("n1".to_owned(), vec![ip("172.20.10.2")])]);
}

#[test]
fn reads_concatenated_lists_arrays_of_lists_single_objects_and_typed_lists() {
    let pod = r#"{"kind":"Pod","metadata":{"name":"a"},"status":{"podIP":"10.0.0.1"}}"#;
    let list = format!(r#"{{"kind":"List","items":[{pod}]}}"#);
    for text in [
        format!("{list}\n{list}"),
        format!("[{list},{list}]"),
        format!("{pod}{pod}"),
        format!("[{pod},{list}]"),
        r#"{"kind":"PodList","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}"#.into(),
        r#"{"items":[{"metadata":{"name":"a"},"kind":"Pod"},{"spec":{},"kind":"Pod"}]}"#.into(),
    ] {
        assert_eq!(parse(&text).pods.len(), 2, "{text}");
    }
    assert_eq!(parse(r#"{"kind":"List","items":[]}"#), Inventory::default());
    assert_eq!(parse(r#"{"kind":"List","items":null}"#), Inventory::default());
}

#[test]
fn a_broken_file_is_told_with_its_place() {
    assert_eq!(
        refuse("{\"kind\": \"List\",\n \"items\": [\n  {\"kind\": \"Pod\",]}"),
        "inventory inventory.json, line 3, column 18: key must be a string"
    );
    assert_eq!(
        refuse("{\"items\": [{\"kind\": \"Pod\""),
        "inventory inventory.json, line 1, column 25: EOF while parsing an object"
    );
    assert_eq!(refuse(""), "inventory inventory.json, line 1, column 1: the file is empty");
    assert_eq!(refuse("apiVersion: v1"), "inventory inventory.json, line 1, column 1: expected value");
}

#[test]
fn json_that_is_no_list_is_told_how_to_make_one() {
    let error = refuse("{\"colour\": [1, 2]}");
    assert!(error.starts_with("inventory inventory.json, line 1, column 18: this is JSON, but no List"), "{error}");
    assert!(error.contains("kubectl get pods"), "{error}");
    let error = refuse("7");
    assert!(error.contains("invalid type: integer `7`, expected a List of Kubernetes objects"), "{error}");
}

#[test]
fn an_address_that_is_none_is_told_with_its_owner() {
    let text = CLUSTER.replace("\"fd5a:61::10\"", "\"10.61.7.300\"");
    let error = refuse(&text);
    assert!(
        error.ends_with(
            "pod shop/web-0 has the address `10.61.7.300`, which is no IP address: correct it or make the file anew"
        ),
        "{error}"
    );
    assert!(error.starts_with("inventory inventory.json, line "), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = super::load("/nonexistent/inventory.json".as_ref()).expect_err("there is no such file").to_string();
    assert_eq!(error, "cannot read inventory /nonexistent/inventory.json: No such file or directory (os error 2)");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(bytes.as_slice(), "x");
    }

    #[test]
    fn a_cut_or_damaged_inventory_is_read_or_refused(cut in 0..CLUSTER.len(), at in 0..CLUSTER.len(), byte in any::<u8>()) {
        let mut bytes = CLUSTER.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = read(&bytes[..], "x");
        prop_assert!(read(&CLUSTER.as_bytes()[..cut], "x").is_err(), "half a file is no inventory");
    }
}
