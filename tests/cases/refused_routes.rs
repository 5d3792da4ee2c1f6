//! A route of a refusing kind covers the destination.

use netprobe_tests::{Lab, SERVER};

fn story(name: &str, kind: &str) {
    let Some(lab) = Lab::start(name) else { return };
    lab.on("node").run(&format!("ip route add {kind} 172.20.40.5 table 2"));
    let rule = format!("route-{kind}");
    let finding = lab.finding("web-0", &rule, |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "vweb0");
    finding.says("table 2");
    finding.says(kind);
}

#[test]
fn a_blackhole_is_named() {
    story("a_blackhole_is_named", "blackhole");
}

#[test]
fn an_unreachable_route_is_named() {
    story("an_unreachable_route_is_named", "unreachable");
}

#[test]
fn a_prohibiting_route_is_named() {
    story("a_prohibiting_route_is_named", "prohibit");
}

#[test]
fn a_policy_rule_that_refuses_by_itself_is_named() {
    let Some(lab) = Lab::start("a_policy_rule_that_refuses_by_itself_is_named") else { return };
    lab.on("node").run("ip rule add pref 900 from 10.61.7.10 to 172.20.40.5 prohibit");
    let finding = lab.finding("web-0", "route-prohibit", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "vweb0");
    finding.says("policy rule 900 (from 10.61.7.10 to 172.20.40.5 prohibit) refuses it");
}

#[test]
fn a_blackhole_on_the_way_back_is_named_by_the_pods_address() {
    let Some(lab) = Lab::start("a_blackhole_on_the_way_back_is_named_by_the_pods_address") else { return };
    lab.on("node").run("ip route replace blackhole 10.61.7.10/32");
    let finding = lab.finding("web-0", "route-blackhole", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "eth1");
    finding.says("dropped the answer of");
    finding.says("a blackhole route for 10.61.7.10/32");
}
