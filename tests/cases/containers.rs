//! Pods that containerd and a CNI made, and netprobe in a container beside them.

use std::time::Duration;

use netprobe_tests::{Containers, Lab, SERVER, WEB_0, wait};

use super::capture::attached;

/// How long a reading of the counts may take to be seen.
const READ: Duration = Duration::from_secs(5);
/// How long what a killed container leaves may stay.
const END: Duration = Duration::from_secs(5);

#[test]
fn a_rule_is_named_from_within_a_container() {
    let Some(lab) = Lab::start("a_rule_is_named_from_within_a_container") else { return };
    let Some(containers) = Containers::start(&lab) else { return };
    lab.on("node").nft("table ip t { chain c { type filter hook forward priority 0; tcp dport 3306 counter drop; }; }");
    let probe = containers.netprobe(&["trace", "--pod", "shop/cart-0"]);
    containers.on("cart-0").cannot_connect(SERVER);
    let finding = probe.one("netfilter-drop");
    assert_eq!(finding.text("/pod/name"), "cart-0");
    // The image has no nft: it is the host's that lists the rules.
    finding.says("tcp dport 3306");
}

#[test]
fn the_wrong_nic_of_a_container_is_told() {
    let Some(lab) = Lab::start("the_wrong_nic_of_a_container_is_told") else { return };
    let Some(containers) = Containers::start(&lab) else { return };
    lab.on("node").run("ip route flush table 2");
    let probe = containers.netprobe(&["trace", "--pod", "shop/cart-1"]);
    containers.on("cart-1").cannot_connect(SERVER);
    let finding = probe.one("wrong-egress");
    finding.is_at("cart-1", "node", "eth0");
    assert_eq!(finding.text("/expected/device"), "eth1");
}

#[test]
fn an_agent_in_a_container_counts_and_leaves_nothing_when_it_is_killed() {
    let Some(lab) = Lab::start("an_agent_in_a_container_counts_and_leaves_nothing_when_it_is_killed") else { return };
    let Some(containers) = Containers::start(&lab) else { return };
    let agent = containers.agent(&["--flows", "all"]);
    let held = || [("node", "eth0"), ("node", WEB_0.device)].map(|(at, device)| attached(&lab, at, device));
    assert!(held().into_iter().all(|programs| programs > 0), "{:?}", held());
    containers.on("cart-0").connects(SERVER);
    lab.on("node").run("ip route replace blackhole 172.20.40.5 table 2");
    containers.on("cart-2").cannot_connect(SERVER);
    let sent = || agent.metric("netprobe_device_packets_total", &[("pod", "cart-0"), ("direction", "out")]);
    assert!(wait(READ, || sent() > 0), "nothing is counted of cart-0");
    let found = || agent.metric("netprobe_findings_total", &[("pod", "cart-2")]);
    assert!(wait(READ, || found() > 0), "{:?}", agent.get("/metrics"));
    containers.kill("netprobe");
    assert!(wait(END, || held() == [0, 0]), "{:?}", held());
}
