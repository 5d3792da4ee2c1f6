//! Nobody answers for the gateway.

use netprobe_tests::{Lab, SERVER, SERVER6};

#[test]
fn a_gateway_that_answers_no_arp_is_named() {
    let Some(lab) = Lab::start("a_gateway_that_answers_no_arp_is_named") else { return };
    lab.on("router").run("ip -4 addr flush dev n1");
    let finding = lab.finding("web-0", "neighbour-unresolved", |lab| drop(lab.on("web-0").finds_no_neighbour(SERVER)));
    finding.is_at("web-0", "node", "eth1");
    finding.says("172.20.20.1");
}

#[test]
fn a_gateway_that_answers_no_solicitation_is_named() {
    let Some(lab) = Lab::start("a_gateway_that_answers_no_solicitation_is_named") else { return };
    lab.on("router").run("ip -6 addr del fd5a:20::1/64 dev n1");
    let finding = lab.finding("web-0", "neighbour-unresolved", |lab| drop(lab.on("web-0").finds_no_neighbour(SERVER6)));
    finding.is_at("web-0", "node", "eth1");
    finding.says("fd5a:20::1");
}

#[test]
fn a_pods_gateway_that_answers_nobody_is_told_inside_the_pod() {
    let Some(lab) = Lab::start("a_pods_gateway_that_answers_nobody_is_told_inside_the_pod") else { return };
    lab.on("web-0").run("ip neigh del 169.254.1.1 dev eth0");
    let finding = lab.finding("web-0", "neighbour-unresolved", |lab| drop(lab.on("web-0").finds_no_neighbour(SERVER)));
    finding.is_at("web-0", "pod", "eth0");
    finding.says("169.254.1.1");
}
