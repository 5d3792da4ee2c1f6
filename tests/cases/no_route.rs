//! No table has a route.

use std::io::ErrorKind;

use netprobe_tests::{Lab, SERVER, SERVER6};

#[test]
fn a_pod_without_a_default_route_is_told_though_no_packet_exists() {
    let Some(lab) = Lab::start("a_pod_without_a_default_route_is_told_though_no_packet_exists") else { return };
    lab.on("web-0").run("ip route del default");
    let finding = lab.finding("web-0", "no-route", |lab| {
        assert_eq!(lab.on("web-0").cannot_connect(SERVER).kind(), ErrorKind::NetworkUnreachable);
    });
    assert_eq!((finding.text("/pod/name"), finding.text("/at/namespace")), ("web-0", "pod"));
    finding.says("172.20.40.5");
    finding.is_whole();
}

#[test]
fn a_pod_without_an_ipv6_default_route_is_told() {
    let Some(lab) = Lab::start("a_pod_without_an_ipv6_default_route_is_told") else { return };
    lab.on("web-0").run("ip -6 route del default");
    let finding = lab.finding("web-0", "no-route", |lab| drop(lab.on("web-0").cannot_connect(SERVER6)));
    assert_eq!((finding.text("/pod/name"), finding.text("/at/namespace")), ("web-0", "pod"));
    finding.is_whole();
}

#[test]
fn a_node_without_a_route_is_told() {
    let Some(lab) = Lab::start("a_node_without_a_route_is_told") else { return };
    lab.on("node").run("ip route del default table 2; ip route del default");
    let finding = lab.finding("web-0", "no-route", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "vweb0");
    finding.says("172.20.40.5");
}

#[test]
fn a_node_without_an_ipv6_route_is_told() {
    let Some(lab) = Lab::start("a_node_without_an_ipv6_route_is_told") else { return };
    lab.on("node").run("ip -6 route del default table 2; ip -6 route del default");
    let finding = lab.finding("web-0", "no-route", |lab| drop(lab.on("web-0").cannot_connect(SERVER6)));
    finding.is_at("web-0", "node", "vweb0");
}
