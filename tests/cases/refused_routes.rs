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
