//! A netfilter rule drops or rejects.

use std::io::ErrorKind;

use netprobe_tests::{Finding, Lab, PORT, SERVER, WEB_0, WEB_1, open};

/// `verdict` for packets to the port, in that hook of the node.
fn rule(lab: &Lab, hook: &str, verdict: &str) {
    let packets = format!("tcp dport {PORT} counter {verdict}");
    lab.on("node").nft(&format!(
        "table inet site {{\n chain guard {{\n type filter hook {hook} priority 0;\n {packets}\n }}\n}}\n"
    ));
}

fn story(lab: &Lab, hook: &str) -> Finding {
    rule(lab, hook, "drop");
    let finding = lab.finding("web-0", "netfilter-drop", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    assert_eq!((finding.text("/pod/name"), finding.text("/at/namespace")), ("web-0", "node"));
    assert_eq!(finding.text("/netfilter/hook"), hook);
    assert_eq!(finding.text("/reason"), "NETFILTER_DROP");
    finding.is_whole();
    finding
}

#[test]
fn a_drop_before_routing_is_told_at_the_device_it_came_by() {
    let Some(lab) = Lab::start("a_drop_before_routing_is_told_at_the_device_it_came_by") else { return };
    story(&lab, "prerouting").is_at("web-0", "node", "vweb0");
}

#[test]
fn a_drop_while_forwarding_is_told_by_its_hook() {
    let Some(lab) = Lab::start("a_drop_while_forwarding_is_told_by_its_hook") else { return };
    story(&lab, "forward");
}

#[test]
fn a_drop_after_routing_is_told_by_its_hook() {
    let Some(lab) = Lab::start("a_drop_after_routing_is_told_by_its_hook") else { return };
    story(&lab, "postrouting");
}

#[test]
fn a_drop_of_what_is_for_the_node_is_told_by_its_hook() {
    let Some(lab) = Lab::start("a_drop_of_what_is_for_the_node_is_told_by_its_hook") else { return };
    rule(&lab, "input", "drop");
    let node = open("172.20.10.2".parse::<std::net::IpAddr>().expect("an address"));
    let finding = lab.finding("web-0", "netfilter-drop", |lab| drop(lab.on("web-0").cannot_connect(node)));
    finding.is_at("web-0", "node", "vweb0");
    assert_eq!(finding.text("/netfilter/hook"), "input");
}

#[test]
fn a_drop_of_the_nodes_own_packet_is_told_without_a_pod() {
    let Some(lab) = Lab::start("a_drop_of_the_nodes_own_packet_is_told_without_a_pod") else { return };
    rule(&lab, "output", "drop");
    let probe = lab.netprobe(&["trace", "--all"]);
    drop(lab.on("node").cannot_connect(SERVER));
    let finding = probe.one("netfilter-drop");
    assert_eq!(finding.text("/netfilter/hook"), "output");
    assert_eq!(finding.text("/at/namespace"), "node");
    assert!(finding.value("/pod").is_null());
}

#[test]
fn a_reject_is_told_from_a_drop_and_from_a_closed_port() {
    let Some(lab) = Lab::start("a_reject_is_told_from_a_drop_and_from_a_closed_port") else { return };
    rule(&lab, "forward", "reject");
    let finding = lab.finding("web-0", "netfilter-reject", |lab| {
        assert_eq!(lab.on("web-0").cannot_connect(SERVER).kind(), ErrorKind::ConnectionRefused);
    });
    assert_eq!((finding.text("/pod/name"), finding.text("/at/namespace")), ("web-0", "node"));
    assert_eq!(finding.text("/netfilter/hook"), "forward");
    finding.is_whole();
}

#[test]
fn a_rule_of_a_bridge_is_told_by_the_bridges_hook() {
    let Some(lab) = Lab::start("a_rule_of_a_bridge_is_told_by_the_bridges_hook") else { return };
    let node = lab.on("node");
    node.run(
        "ip link add br0 type bridge; ip link set vweb0 master br0; ip link set vweb1 master br0; ip link set br0 up",
    );
    for (pod, other) in [("web-0", WEB_1.v4), ("web-1", WEB_0.v4)] {
        lab.on(pod).run(&format!("ip route add {other}/32 dev eth0 scope link"));
    }
    node.nft(&format!(
        "table bridge site {{\n chain guard {{\n type filter hook forward priority 0;\n tcp dport {PORT} counter drop\n }}\n}}\n"
    ));
    let finding = lab.finding("web-0", "netfilter-drop", |lab| drop(lab.on("web-0").cannot_connect(open(WEB_1.v4))));
    let netfilter = |field: &str| finding.text(&format!("/netfilter/{field}"));
    assert_eq!((netfilter("family"), netfilter("hook"), netfilter("chain")), ("bridge", "forward", "guard"));
    finding.says("chain guard in table bridge site");
}
