//! What the user says should be so, and is not.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
};

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

/// Traces a pod that should keep its address, while `translation` is what postrouting does to it.
fn translated(lab: &Lab, translation: &str) -> netprobe_tests::Finding {
    lab.on("node").nft(&format!(
        "table ip site {{\n chain post {{\n type nat hook postrouting priority 100;\n oifname eth1 counter {translation}\n }}\n}}\n"
    ));
    let probe = lab.netprobe(&["trace", "--pod", "shop/web-0", "--expect-src", "pod"]);
    // Nobody may route an answer back: the SYN is enough.
    let _ = lab.on("web-0").enter(|| std::net::TcpStream::connect_timeout(&SERVER, std::time::Duration::from_secs(1)));
    let finding = probe.one("unexpected-snat");
    finding.is_at("web-0", "node", "eth1");
    finding.says("chain post in table ip site");
    finding
}

#[test]
fn why_masquerading_took_that_address_is_told() {
    let Some(lab) = Lab::start("why_masquerading_took_that_address_is_told") else { return };
    lab.on("node").run("ip addr add 203.0.113.99/32 dev eth1");
    let finding = translated(&lab, "masquerade");
    finding.says("masquerading takes eth1's first address in the network of the next hop");
    if lab.shows("nf_nat_masquerade_ipv4") {
        finding.says("nf_nat_masquerade_ipv4: masquerade to 172.20.20.2:");
    }
}

#[test]
fn an_address_of_the_other_nic_is_told() {
    let Some(lab) = Lab::start("an_address_of_the_other_nic_is_told") else { return };
    let listing = lab.on("node").run("ip -4 -o addr show dev eth0");
    let address = listing.split_whitespace().nth(3).and_then(|net| net.split('/').next()).expect("it has one");
    let finding = translated(&lab, &format!("snat to {address}"));
    finding.says(&format!("to {address}, which the rule names and which is an address of eth0 and not of eth1"));
    if lab.shows("nf_nat_setup_info") {
        finding.says(&format!(", from {address}"));
    }
}

#[test]
fn a_nic_without_an_address_of_its_own_is_told_without_being_asked() {
    let Some(lab) = Lab::start("a_nic_without_an_address_of_its_own_is_told_without_being_asked") else { return };
    let node = lab.on("node");
    node.nft("table ip site {\n chain post {\n type nat hook postrouting priority 100;\n oifname eth1 counter masquerade\n }\n}\n");
    node.run("ip addr flush dev eth1");
    node.run("ip route replace default via 172.20.20.1 dev eth1 onlink table 2");
    // A cloud's network lets nobody in by one NIC with the address of another.
    lab.on("router").run("ip rule add pref 90 iif n1 from 172.20.10.0/24 blackhole");
    let probe = lab.netprobe(&["trace", "--pod", "shop/web-0"]);
    lab.on("web-0").cannot_connect(SERVER);
    let finding = probe.one("unexpected-snat");
    finding.is_at("web-0", "node", "eth1");
    finding.says("an address of eth0, and nothing came back: eth1 has no address");
}

#[test]
fn a_server_that_turns_the_node_away_is_told_without_being_asked() {
    let Some(lab) = Lab::start("a_server_that_turns_the_node_away_is_told_without_being_asked") else { return };
    lab.on("node").nft(
        "table ip site {\n chain post {\n type nat hook postrouting priority 100;\n oifname eth1 counter masquerade\n }\n}\n",
    );
    let port = 3999;
    let listener = lab.on("server").enter(|| TcpListener::bind((SERVER.ip(), port)).expect("listen"));
    let finding = lab.finding("web-0", "unexpected-snat", |lab| {
        let greeted = lab.on("web-0").enter(|| TcpStream::connect((SERVER.ip(), port)));
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(b"Host is not allowed to connect").expect("say so");
        drop((client, greeted));
    });
    finding.is_at("web-0", "node", "eth1");
    finding.says("the peer said one thing and closed");
}
