use super::*;
use crate::enrich::names::tests::{inventory, namespace, node, pod};

const UID: &str = "0c7b3a5e-91f4-4f6a-8f83-2f60f5a1c9d";

/// Two pods and a namespace without a pod here; one pod elsewhere, one on the node's network, one that waits.
fn cluster() -> (Inventory, NodeFacts) {
    let facts = node(vec![
        namespace(1, None, &["172.20.10.2"]),
        namespace(7, Some("cni-7"), &["127.0.0.1", "10.61.7.10", "fd5a:61::10"]),
        namespace(8, Some("cni-8"), &["10.61.7.11"]),
        namespace(9, Some("blue"), &["10.9.9.9"]),
    ]);
    let mut far = pod("web-9", &format!("{UID}3"), &["10.61.8.9"]);
    far.node = "n2".into();
    let mut proxy = pod("proxy", &format!("{UID}4"), &["172.20.10.2"]);
    proxy.host_network = true;
    proxy.node = "n1".into();
    let pods = vec![
        pod("web-0", &format!("{UID}1"), &["10.61.7.10", "fd5a:61::10"]),
        pod("db-client", &format!("{UID}2"), &["10.61.7.11"]),
        far,
        proxy,
        pod("waits", &format!("{UID}5"), &[]),
    ];
    (inventory(pods), facts)
}

fn find(whose: Whose<'_>) -> Result<Followed, String> {
    let (inventory, facts) = cluster();
    resolve(whose, &inventory, &facts, "n1").map_err(|e| e.to_string())
}

fn named<'a>(namespace: Option<&'a str>, name: &'a str) -> Whose<'a> {
    Whose::Pods { namespace, name: Some(name), labels: None }
}

fn inums(whose: Whose<'_>) -> Vec<u32> {
    find(whose).expect("somebody is meant").namespaces.into_iter().collect()
}

fn refusal(whose: Whose<'_>) -> String {
    find(whose).expect_err("nobody is meant")
}

#[test]
fn a_pod_is_found_by_its_name_or_the_start_of_it() {
    let found = find(named(Some("shop"), "web-0")).expect("it is there");
    assert_eq!(found.namespaces, [7].into());
    let ips: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.61.7.10", "fd5a:61::10"]);
    assert_eq!(found.pods[0].to_string(), "shop/web-0");
    assert!(!found.all);
    assert_eq!(inums(named(None, "web-0")), [7]);
    assert_eq!(inums(named(None, "db")), [8]);
    assert_eq!(inums(named(None, "web")), [7], "web-9 begins so too, but is elsewhere");
}

#[test]
fn without_a_pod_the_name_in_run_netns_serves() {
    assert_eq!(inums(named(None, "blue")), [9]);
    let (_, facts) = cluster();
    let found = resolve(named(None, "cni-7"), &Inventory::default(), &facts, "n1").expect("no inventory names it");
    assert_eq!(found.namespaces, [7].into());
    assert_eq!(found.pods[0].to_string(), "cni-7");
}

#[test]
fn a_start_that_several_share_is_refused_with_their_names() {
    let (mut inventory, mut facts) = cluster();
    inventory.pods.push(pod("web-1", "", &["10.61.7.12"]));
    facts.namespaces.insert(10, namespace(10, None, &["10.61.7.12"]));
    let error = resolve(named(None, "we"), &inventory, &facts, "n1").expect_err("two begin so").to_string();
    assert_eq!(error, "`we` may be shop/web-0 or shop/web-1: write more of the name");
}

#[test]
fn an_unknown_pod_is_refused_with_the_closest_names() {
    assert_eq!(refusal(named(Some("shop"), "wbe-0")), "no pod `shop/wbe-0`: is shop/web-0 or shop/web-9 meant?");
    assert_eq!(refusal(named(Some("shpo"), "web-0")), "no pod `shpo/web-0`: is shop/web-0 or shop/web-9 meant?");
    assert_eq!(
        refusal(named(None, "zzzzzzzz")),
        "no pod `zzzzzzzz`: this node has blue, shop/db-client and shop/web-0"
    );
    let (inventory, mut facts) = cluster();
    facts.namespaces.insert(10, namespace(10, Some("red"), &[]));
    let error = resolve(named(None, "zzzzzzzz"), &inventory, &facts, "n1").expect_err("nobody").to_string();
    assert_eq!(error, "no pod `zzzzzzzz`: this node has blue, red, shop/db-client and 1 more");
    let error = resolve(named(None, "x\u{1b}[2J"), &Inventory::default(), &node(vec![]), "n1").expect_err("nobody");
    assert_eq!(error.to_string(), "no pod `x\\u{1b}[2J`: this node has no pods; give --inventory FILE or --netns NAME");
}

#[test]
fn a_pod_that_is_not_here_is_refused_with_the_reason() {
    assert_eq!(refusal(named(None, "web-9")), "pod shop/web-9 runs on node n2, not on n1: run netprobe there");
    assert_eq!(
        refusal(named(None, "proxy")),
        "pod shop/proxy uses the node's own network, and no cgroup of version 2 on this node is named after it: follow it \
         with --all and a filter"
    );
    assert_eq!(refusal(named(None, "waits")), "pod shop/waits has no address yet: wait until it runs, or give --netns");
    let (mut inventory, facts) = cluster();
    inventory.pods[2].node = "n1".into();
    let error = resolve(named(None, "web-9"), &inventory, &facts, "n1").expect_err("no namespace has its address");
    assert_eq!(
        error.to_string(),
        "pod shop/web-9 is not on this node: no namespace here holds 10.61.8.9; is the inventory old?"
    );
}

#[test]
fn labels_and_namespaces_choose_among_the_pods_here() {
    let web = |labels: &[(String, String)]| labels.iter().any(|(k, v)| k == "app" && v == "web");
    assert_eq!(inums(Whose::Pods { namespace: None, name: None, labels: Some(&web) }), [7]);
    assert_eq!(inums(Whose::Pods { namespace: Some("shop"), name: None, labels: None }), [7, 8]);
    let none = |_: &[(String, String)]| false;
    assert_eq!(
        refusal(Whose::Pods { namespace: None, name: None, labels: Some(&none) }),
        "none of this node's 2 pods fits the namespace and the labels: see `kubectl get pods -A --show-labels`"
    );
    let (_, facts) = cluster();
    let ask = Whose::Pods { namespace: Some("shop"), name: None, labels: None };
    assert_eq!(resolve(ask, &Inventory::default(), &facts, "n1"), Err(SelectError::NeedsInventory));
}

#[test]
fn a_namespace_must_be_linked_to_the_node() {
    assert_eq!(inums(Whose::Netns { inum: 9, asked: "blue" }), [9]);
    let error = refusal(Whose::Netns { inum: 77, asked: "pid 4711" });
    assert!(error.starts_with("pid 4711 is in a network namespace that is not linked to this node's"), "{error}");
}

#[test]
fn all_is_every_pod_of_the_node() {
    let found = find(Whose::All).expect("always");
    assert!(found.all);
    assert_eq!(found.namespaces, [7, 8, 9].into());
}
