//! What the user says should be so, and is not.

use std::fs;

use netprobe_tests::{Lab, SERVER};

#[test]
fn another_source_than_asked_is_told() {
    let Some(lab) = Lab::start("another_source_than_asked_is_told") else { return };
    let probe = lab.netprobe(&["trace", "--pod", "shop/web-0", "--expect-src", "node"]);
    lab.on("web-0").connects(SERVER);
    let finding = probe.one("masquerade-missing");
    finding.is_at("web-0", "node", "eth1");
    finding.says("not node as asked (--expect-src node)");
}

#[test]
fn a_standing_expectation_is_held_against_drops_too() {
    let Some(lab) = Lab::start("a_standing_expectation_is_held_against_drops_too") else { return };
    let file = lab.directory().join("expect.toml");
    fs::write(&file, "[[expect]]\npods = \"shop/web-*\"\ndevice = \"eth0\"\n").expect("write the file");
    let probe = lab.netprobe(&["drops", "--watch", "--expect", file.to_str().expect("a plain path")]);
    lab.on("web-0").connects(SERVER);
    lab.on("db-client").connects(SERVER);
    let finding = probe.one("wrong-egress");
    finding.is_at("web-0", "node", "eth1");
    finding.says("the expectation for shop/web-*");
}

#[test]
fn what_is_as_expected_is_silent() {
    let Some(lab) = Lab::start("what_is_as_expected_is_silent") else { return };
    let args = ["trace", "--pod", "shop/web-0", "--expect-src", "pod", "--expect-dev", "eth1"];
    let probe = lab.netprobe(&args);
    lab.on("web-0").connects(SERVER);
    assert!(probe.settled().findings().is_empty());
}
