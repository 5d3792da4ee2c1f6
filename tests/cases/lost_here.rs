//! Packets that are lost on this node, and what had them.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use netprobe_tests::{Lab, SERVER, SERVER6, WEB_0, WEB_1, open, wait};

#[test]
fn an_iptables_rule_is_named_with_its_text() {
    let Some(lab) = Lab::start("an_iptables_rule_is_named_with_its_text") else { return };
    lab.on("node").run("iptables -A FORWARD -s 10.61.7.10 -p tcp --dport 3306 -j DROP");
    let finding = lab.finding("web-0", "netfilter-drop", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "vweb0");
    assert_eq!((finding.text("/netfilter/hook"), finding.text("/netfilter/chain")), ("forward", "FORWARD"));
    finding.says("-s 10.61.7.10");
}

/// A program in `folder` that takes longer than a verdict waits, and then does what `name` does.
fn slow(folder: &Path, name: &str) {
    let file = folder.join(name);
    let script = format!("#!/bin/sh\nsleep 1\nPATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin exec {name} \"$@\"\n");
    fs::write(&file, script).expect("write the program");
    fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("let it run");
}

#[test]
fn rules_that_are_read_late_are_named_late() {
    let Some(lab) = Lab::start("rules_that_are_read_late_are_named_late") else { return };
    lab.on("node").run("iptables -A FORWARD -s 10.61.7.10 -p udp --dport 3306 -j DROP");
    for name in ["iptables-save", "iptables-nft-save"] {
        slow(lab.directory(), name);
    }
    let path = format!("{}:{}", lab.directory().display(), env::var("PATH").expect("there is one"));
    let probe = lab.netprobe_with(&[("PATH", &path)], &["trace", "--pod", "shop/web-0"]);
    // One packet: a second would have the journey judged again in any case.
    lab.on("web-0").enter(|| {
        let socket = std::net::UdpSocket::bind((WEB_0.v4, 0)).expect("bind");
        socket.send_to(b"word", SERVER).expect("send");
    });
    let first = probe.finding("netfilter-drop");
    assert!(!first.value("/netfilter/rule").is_string(), "it was not read late: {first:#?}");
    // What takes long is read again only after four times as long, and it was read at the start.
    wait(Duration::from_secs(15), || probe.finding("netfilter-drop").value("/netfilter/rule").is_string());
    let last = probe.settled().one("netfilter-drop");
    assert_eq!(last.text("/netfilter/chain"), "FORWARD");
    last.says("-s 10.61.7.10");
}

#[test]
fn an_nft_rule_is_named_with_its_handle() {
    let Some(lab) = Lab::start("an_nft_rule_is_named_with_its_handle") else { return };
    lab.on("node").nft(
        "table inet site {\n chain guard {\n type filter hook forward priority 0\n ip6 nexthdr tcp tcp dport 3306 counter drop\n }\n}\n",
    );
    let finding = lab.finding("web-0", "netfilter-drop", |lab| drop(lab.on("web-0").cannot_connect(SERVER6)));
    assert_eq!((finding.text("/netfilter/table"), finding.text("/netfilter/chain")), ("site", "guard"));
    assert!(finding.value("/netfilter/handle").is_u64(), "{finding:#?}");
}

#[test]
fn a_policys_chain_makes_it_a_policy() {
    let Some(lab) = Lab::start("a_policys_chain_makes_it_a_policy") else { return };
    lab.on("node").run(
        "iptables -N cali-tw-vweb1; iptables -A cali-tw-vweb1 -m comment --comment 'Drop if no policies passed packet' -j DROP; \
         iptables -A FORWARD -s 10.61.7.10 -p tcp --dport 3306 -j cali-tw-vweb1",
    );
    let finding = lab.finding("web-0", "policy-drop", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    assert_eq!(finding.text("/netfilter/chain"), "cali-tw-vweb1");
}

#[test]
fn a_service_without_endpoints_is_told_from_its_rule() {
    let Some(lab) = Lab::start("a_service_without_endpoints_is_told_from_its_rule") else { return };
    lab.on("node").run(
        "iptables -N KUBE-SERVICES; iptables -A FORWARD -j KUBE-SERVICES; \
         iptables -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment 'shop/web has no endpoints' -m tcp --dport 80 \
         -j REJECT --reject-with icmp-port-unreachable",
    );
    let to = "10.96.0.10:80".parse().expect("an address");
    let finding = lab.finding("web-0", "service-no-endpoints", |lab| drop(lab.on("web-0").cannot_connect(to)));
    finding.says("shop/web");
}

#[test]
fn the_pods_own_loopback_is_down() {
    let Some(lab) = Lab::start("the_pods_own_loopback_is_down") else { return };
    lab.on("web-0").run("ip link set lo down");
    let to = "127.0.0.1:3306".parse().expect("an address");
    let finding = lab.finding("web-0", "link-down", |lab| drop(lab.on("web-0").cannot_connect(to)));
    assert_eq!((finding.text("/at/namespace"), finding.text("/at/device")), ("pod", "lo"));
}

#[test]
fn a_full_shaper_is_told_with_its_device() {
    let Some(lab) = Lab::start("a_full_shaper_is_told_with_its_device") else { return };
    lab.on("node").run("tc qdisc add dev eth1 root tbf rate 8kbit burst 1600 limit 1600");
    let finding = lab.finding("web-0", "qdisc-drop", |lab| {
        lab.on("web-0").enter(|| {
            let socket = std::net::UdpSocket::bind((WEB_0.v4, 0)).expect("bind");
            for _ in 0..20 {
                socket.send_to(&[0; 1000], SERVER).expect("send");
            }
        });
    });
    assert_eq!((finding.text("/at/namespace"), finding.text("/at/device")), ("node", "eth1"));
}

#[test]
fn a_frame_larger_than_the_way_ahead_is_told() {
    let Some(lab) = Lab::start("a_frame_larger_than_the_way_ahead_is_told") else { return };
    lab.on("node").run("ip link set eth1 mtu 1280");
    let finding = lab.finding("web-0", "mtu-exceeded", |lab| {
        lab.on("web-0").enter(|| {
            let socket = std::net::UdpSocket::bind(("::", 0)).expect("bind");
            let _ = socket.send_to(&[0; 1400], SERVER6);
        });
    });
    finding.says("1280");
}

#[test]
fn a_service_that_a_rule_keeps_from_conntrack_is_told_with_the_rule() {
    let Some(lab) = Lab::start("a_service_that_a_rule_keeps_from_conntrack_is_told_with_the_rule") else { return };
    lab.on("node").run(&format!(
        "iptables -t nat -N KUBE-SERVICES; iptables -t nat -A PREROUTING -j KUBE-SERVICES; \
         iptables -t nat -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment 'shop/web cluster IP' -m tcp \
         --dport 80 -j DNAT --to-destination {}; iptables -t raw -A PREROUTING -d 10.96.0.10/32 -j CT --notrack",
        open(WEB_1.v4)
    ));
    let to = "10.96.0.10:80".parse().expect("an address");
    let finding = lab.finding("web-0", "service-not-translated", |lab| drop(lab.on("web-0").cannot_connect(to)));
    finding.says("shop/web");
    finding.says("a rule keeps it from conntrack (-d 10.96.0.10/32 -j CT --notrack)");
}

#[test]
fn a_carrier_that_is_lost_while_watched_is_told() {
    let Some(lab) = Lab::start("a_carrier_that_is_lost_while_watched_is_told") else { return };
    let finding = lab.finding("web-0", "link-down", |lab| {
        lab.on("web-0").connects(SERVER);
        lab.on("router").run("ip link set n1 down");
        lab.on("web-0").cannot_connect(SERVER);
    });
    finding.is_at("web-0", "node", "eth1");
    finding.says("eth1 has no carrier");
}

#[test]
fn a_gateway_whose_link_layer_address_alternates_is_told() {
    let Some(lab) = Lab::start("a_gateway_whose_link_layer_address_alternates_is_told") else { return };
    let mac = lab.on("router").run("ip -o link show n1 | sed 's/.*link.ether //; s/ .*//'");
    let is_at = |mac: &str| {
        lab.on("node").run(&format!("ip neigh replace 172.20.20.1 lladdr {} dev eth1 nud reachable", mac.trim()));
    };
    let finding = lab.finding("web-0", "duplicate-address", |lab| {
        lab.on("web-0").connects(SERVER);
        for taken in ["02:00:00:00:00:66", &mac, "02:00:00:00:00:66"] {
            is_at(taken);
        }
        lab.on("web-0").cannot_connect(SERVER);
    });
    finding.is_at("web-0", "node", "eth1");
    finding.says("02:00:00:00:00:66");
}

#[test]
fn of_two_tc_filters_the_kernel_tells_which_dropped_it() {
    let Some(lab) = Lab::start("of_two_tc_filters_the_kernel_tells_which_dropped_it") else { return };
    let (node, device) = (lab.on("node"), WEB_0.device);
    node.run(&format!("tc qdisc add dev {device} clsact"));
    // One lets all pass; the other drops IPv4 and nothing else, so that neighbours are found.
    for (preference, program) in [(5, "1,6 0 0 4294967295"), (9, "4,40 0 0 12,21 0 1 2048,6 0 0 2,6 0 0 4294967295")] {
        node.run(&format!("tc filter add dev {device} ingress pref {preference} bpf da bytecode '{program}'"));
    }
    let finding = lab.finding("web-0", "tc-drop", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", device);
    if lab.shows("cls_bpf_classify") {
        finding.says("on vweb0: filter bpf pref 9 at the tc ingress of vweb0 refuses it");
    } else {
        finding.says("one of filter bpf pref 5, filter bpf pref 9 at the tc ingress of vweb0");
    }
}
