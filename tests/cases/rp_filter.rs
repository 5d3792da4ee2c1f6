//! The node's strict reverse-path filter drops the answer.

use std::net::UdpSocket;

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

#[test]
fn a_pod_that_sends_from_an_address_it_does_not_have_is_followed_by_its_device() {
    let name = "a_pod_that_sends_from_an_address_it_does_not_have_is_followed_by_its_device";
    let Some(lab) = Lab::start(name) else { return };
    lab.on("node").set("ipv4/conf/vweb0/rp_filter", "1");
    lab.on("web-0").nft(
        "table ip site {\n chain post {\n type filter hook postrouting priority 300;\n udp dport 3306 ip saddr set 10.61.7.99\n }\n}\n",
    );
    let probe = lab.trace("web-0");
    lab.on("web-0").enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.send_to(b"x", SERVER).expect("it leaves the pod");
    });
    let finding = probe.one("rp-filter");
    finding.is_at("web-0", "node", "vweb0");
    finding.says("10.61.7.99 is no address of shop/web-0, which sends it");
}
