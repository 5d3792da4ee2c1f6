//! The pod's traffic leaves by eth0, though its rule means eth1.

use netprobe_tests::{Finding, Lab, SERVER, SERVER6};

/// The pod connects in vain; the finding must name both devices.
fn story(lab: &Lab, server: std::net::SocketAddr) -> Finding {
    let finding = lab.finding("web-0", "wrong-egress", |lab| drop(lab.on("web-0").cannot_connect(server)));
    finding.is_at("web-0", "node", "eth0");
    assert_eq!(finding.text("/expected/device"), "eth1");
    finding
}

#[test]
fn an_empty_table_sends_the_pod_to_the_main_table() {
    let Some(lab) = Lab::start("an_empty_table_sends_the_pod_to_the_main_table") else { return };
    lab.on("node").run("ip route flush table 2");
    let finding = story(&lab, SERVER);
    finding.says("table 2");
    assert_eq!(finding.text("/flow/dst"), SERVER.ip().to_string());
    assert_eq!(finding.value("/flow/dport"), SERVER.port());
}

#[test]
fn a_route_deleted_while_watched_is_told_with_its_gateway() {
    let Some(lab) = Lab::start("a_route_deleted_while_watched_is_told_with_its_gateway") else { return };
    let probe = lab.trace("web-0");
    lab.on("web-0").connects(SERVER);
    lab.on("node").run("ip route del default table 2");
    lab.on("web-0").cannot_connect(SERVER);
    let finding = probe.one("wrong-egress");
    finding.is_at("web-0", "node", "eth0");
    assert_eq!(finding.text("/expected/device"), "eth1");
    finding.says("deleted");
    if lab.shows("rtnetlink_rcv_msg") {
        // The process ended long before anybody could look for it.
        finding.says("was deleted by ip (pid ");
    }
    finding.says("via 172.20.20.1 dev eth1 table 2");
}

#[test]
fn a_missing_rule_is_told_from_an_empty_table() {
    let Some(lab) = Lab::start("a_missing_rule_is_told_from_an_empty_table") else { return };
    lab.on("node").run("ip rule del pref 1536 from 10.61.7.10");
    let finding = story(&lab, SERVER);
    finding.says("rule");
    finding.says("10.61.7.10");
}

#[test]
fn a_device_that_is_gone_is_named() {
    let Some(lab) = Lab::start("a_device_that_is_gone_is_named") else { return };
    let probe = lab.trace("web-0");
    lab.on("node").run("ip link del eth1");
    lab.on("web-0").cannot_connect(SERVER);
    let finding = probe.one("wrong-egress");
    finding.is_at("web-0", "node", "eth0");
    finding.says("eth1");
}

#[test]
fn a_device_that_is_down_is_named() {
    let Some(lab) = Lab::start("a_device_that_is_down_is_named") else { return };
    let probe = lab.trace("web-0");
    lab.on("node").run("ip link set eth1 down");
    lab.on("web-0").cannot_connect(SERVER);
    let finding = probe.one("wrong-egress");
    finding.is_at("web-0", "node", "eth0");
    assert_eq!(finding.text("/expected/device"), "eth1");
    finding.says("down");
}

#[test]
fn a_rule_that_comes_before_the_pods_own_is_told_once_nothing_comes_back() {
    let Some(lab) = Lab::start("a_rule_that_comes_before_the_pods_own_is_told_once_nothing_comes_back") else { return };
    lab.on("node").run("ip rule add pref 1000 from 10.61.7.0/24 lookup main");
    let finding = story(&lab, SERVER);
    finding.says("policy rule 1000 (from 10.61.7.0/24 lookup main) comes before rule 1536 (from 10.61.7.10 lookup 2)");
    assert_eq!(finding.text("/confidence"), "likely");
    assert_eq!(finding.value("/route/rule"), 1000);
}

#[test]
fn a_mark_that_sends_the_pod_to_another_table_is_told() {
    let Some(lab) = Lab::start("a_mark_that_sends_the_pod_to_another_table_is_told") else { return };
    let node = lab.on("node");
    node.run("ip rule add pref 100 fwmark 0x99 lookup main");
    node.nft("table ip site {\n chain marks {\n type filter hook prerouting priority -150;\n iifname vweb0 meta mark set 0x99\n }\n}\n");
    let finding = story(&lab, SERVER);
    finding.says("policy rule 100 (from all fwmark 0x99 lookup main) comes before rule 1536");
    assert_eq!(finding.text("/confidence"), "possible");
}

#[test]
fn a_rule_by_destination_is_meant_and_named_where_the_loss_is_outside() {
    let Some(lab) = Lab::start("a_rule_by_destination_is_meant_and_named_where_the_loss_is_outside") else { return };
    lab.on("node").run("ip rule add pref 1000 to 172.20.40.0/24 lookup main");
    let finding = lab.finding("web-0", "no-reply", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "eth0");
    finding.says("policy rule 1000 (from all to 172.20.40.0/24 lookup main) chose eth0");
}

#[test]
fn ipv6_has_tables_of_its_own() {
    let Some(lab) = Lab::start("ipv6_has_tables_of_its_own") else { return };
    lab.on("node").run("ip -6 route flush table 2");
    let finding = story(&lab, SERVER6);
    finding.says("table 2");
    finding.says("-6");
}

#[test]
fn kprobes_tell_the_rule_that_led_to_the_table_too() {
    let Some(lab) = Lab::start("kprobes_tell_the_rule_that_led_to_the_table_too") else { return };
    lab.on("node").run("ip route flush table 2");
    let Some(probe) = lab.trace_by_kprobes("web-0") else { return };
    drop(lab.on("web-0").cannot_connect(SERVER));
    let finding = probe.one("wrong-egress");
    finding.says("route look-up in table 2 by policy rule 1536: no route");
}

#[test]
fn a_rule_with_a_selector_that_is_not_evaluated_is_told_by_the_kernel() {
    let Some(lab) = Lab::start("a_rule_with_a_selector_that_is_not_evaluated_is_told_by_the_kernel") else { return };
    let node = lab.on("node");
    node.run("ip rule del pref 1536 from 10.61.7.10");
    // Forwarded packets are asked for as uid 0.
    node.run("ip rule add pref 1200 from 10.61.7.10 uidrange 0-0 lookup 2");
    node.run("ip route flush table 2");
    if lab.shows("fib4_rule_action") {
        let finding = story(&lab, SERVER);
        finding.says("policy rule 1200 (from 10.61.7.10 lookup 2) sends it to table 2");
        finding.says("route look-up in table 2 by policy rule 1200: no route");
        assert_eq!(finding.value("/route/rule"), 32766);
    }
}
