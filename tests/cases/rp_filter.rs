//! The node's strict reverse-path filter drops the answer.

use netprobe_tests::{Lab, SERVER};

#[test]
fn an_answer_by_the_other_nic_is_dropped_by_the_strict_filter() {
    let Some(lab) = Lab::start("an_answer_by_the_other_nic_is_dropped_by_the_strict_filter") else { return };
    lab.on("router").run("ip route replace 10.61.7.0/24 via 172.20.10.2");
    lab.on("node").set("ipv4/conf/eth0/rp_filter", "1");
    let finding = lab.finding("web-0", "rp-filter", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "eth0");
    assert_eq!(finding.text("/expected/device"), "eth1");
    assert_eq!(finding.text("/reason"), "IP_RPFILTER");
    finding.says("rp_filter");
}
