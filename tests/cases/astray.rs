//! What is for a pod leaves the node, because the route to the pod is gone or overruled.

use netprobe_tests::{Lab, WEB_1, open};

#[test]
fn a_pod_of_this_node_whose_route_is_gone_is_told_with_its_device() {
    let Some(lab) = Lab::start("a_pod_of_this_node_whose_route_is_gone_is_told_with_its_device") else { return };
    let probe = lab.trace("web-0");
    lab.on("web-0").connects(open(WEB_1.v4));
    lab.on("node").run(&format!("ip route del {} dev vweb1", WEB_1.v4));
    lab.on("web-0").cannot_connect(open(WEB_1.v4));
    let finding = probe.one("wrong-egress");
    assert_eq!(finding.text("/at/namespace"), "node");
    assert_eq!(finding.text("/expected/device"), "vweb1");
    finding.says("is on this node, behind vweb1: no route leads there");
    finding.says("was deleted");
    finding.is_whole();
}

#[test]
fn what_the_node_sends_to_a_pod_needs_no_rule_of_the_pods() {
    let Some(lab) = Lab::start("what_the_node_sends_to_a_pod_needs_no_rule_of_the_pods") else { return };
    lab.on("node").run(&format!("ip route del {} dev vweb1", WEB_1.v4));
    let finding = lab.finding("web-1", "wrong-egress", |lab| drop(lab.on("node").cannot_connect(open(WEB_1.v4))));
    assert_eq!(finding.text("/expected/device"), "vweb1");
    finding.says("the packets of this node");
}
