//! The packet leaves as it should, and nothing comes back.

use netprobe_tests::{Lab, SERVER, WEB_0, open};

#[test]
fn a_loss_outside_is_told_with_what_this_node_did_right() {
    let Some(lab) = Lab::start("a_loss_outside_is_told_with_what_this_node_did_right") else { return };
    lab.on("router").run("ip rule add pref 90 iif n1 from 10.61.7.10 blackhole");
    let finding = lab.finding("web-0", "no-reply", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "eth1");
    finding.says("172.20.40.5");
}

#[test]
fn an_answer_to_a_call_from_outside_that_is_lost_outside_is_told() {
    let Some(lab) = Lab::start("an_answer_to_a_call_from_outside_that_is_lost_outside_is_told") else { return };
    lab.on("router").run("ip rule add pref 90 iif n1 from 10.61.7.10 blackhole");
    let finding = lab.finding("web-0", "no-reply", |lab| drop(lab.on("server").cannot_connect(open(WEB_0.v4))));
    finding.is_at("web-0", "node", "eth1");
    finding.says("its answer left this node by eth1");
}
