//! The node does not forward.

use netprobe_tests::{Lab, SERVER, SERVER6};

#[test]
fn a_node_that_does_not_forward_is_told_with_the_setting() {
    let Some(lab) = Lab::start("a_node_that_does_not_forward_is_told_with_the_setting") else { return };
    lab.on("node").set("ipv4/ip_forward", "0");
    let finding = lab.finding("web-0", "forwarding-off", |lab| {
        drop(lab.on("web-0").cannot_connect(SERVER));
        lab.on("node").connects(SERVER);
    });
    finding.is_at("web-0", "node", "vweb0");
    finding.says("ip_forward");
}

#[test]
fn a_node_that_does_not_forward_ipv6_is_told_with_the_setting() {
    let Some(lab) = Lab::start("a_node_that_does_not_forward_ipv6_is_told_with_the_setting") else { return };
    lab.on("node").set("ipv6/conf/all/forwarding", "0");
    let finding = lab.finding("web-0", "forwarding-off", |lab| drop(lab.on("web-0").cannot_connect(SERVER6)));
    finding.is_at("web-0", "node", "vweb0");
    finding.says("net.ipv6.conf");
}
