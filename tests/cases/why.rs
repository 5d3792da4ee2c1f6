//! `netprobe why`: one verdict about one connection.

use netprobe_tests::{Lab, SERVER, SERVER6, WEB_1, closed};

fn lab(name: &str) -> Option<Lab> {
    Lab::start(name)
}

#[test]
fn a_sound_connection_is_fine_and_its_way_is_told() {
    let Some(lab) = lab("a_sound_connection_is_fine_and_its_way_is_told") else { return };
    for to in [SERVER, SERVER6] {
        let why = lab.why("web-0", &["--to", &to.to_string()]);
        assert_eq!((why.code, why.outcome()), (0, "fine"), "{why:#?}");
        assert!(why.run.findings().is_empty(), "{why:#?}");
        why.passed("node", "left this node by eth1");
        why.passed("answer", "SYN-ACK came by eth1");
        why.passed("connect", "connected in");
    }
}

#[test]
fn a_ping_is_answered() {
    let Some(lab) = lab("a_ping_is_answered") else { return };
    for to in [SERVER.ip(), SERVER6.ip()] {
        let why = lab.why("web-0", &["--to", &to.to_string(), "--proto", "icmp"]);
        assert_eq!((why.code, why.outcome()), (0, "fine"), "{why:#?}");
        why.passed("connect", "answered in");
    }
}

#[test]
fn the_wrong_nic_is_a_finding() {
    let Some(lab) = lab("the_wrong_nic_is_a_finding") else { return };
    lab.on("node").run("ip route del default table 2");
    let why = lab.why("web-0", &["--to", &SERVER.to_string()]);
    assert_eq!((why.code, why.outcome()), (1, "finding"), "{why:#?}");
    why.run.one("wrong-egress").is_at("web-0", "node", "eth0");
}

#[test]
fn a_closed_port_is_a_finding() {
    let Some(lab) = lab("a_closed_port_is_a_finding") else { return };
    let why = lab.why("web-0", &["--to", &closed(WEB_1.v4).to_string()]);
    assert_eq!((why.code, why.outcome()), (1, "finding"), "{why:#?}");
    why.run.one("port-closed").says("9999");
}

#[test]
fn a_pod_without_a_route_is_a_finding_though_there_is_no_packet() {
    let Some(lab) = lab("a_pod_without_a_route_is_a_finding_though_there_is_no_packet") else { return };
    lab.on("web-0").run("ip route del default");
    let why = lab.why("web-0", &["--to", &SERVER.to_string()]);
    assert_eq!((why.code, why.outcome()), (1, "finding"), "{why:#?}");
    let _ = why.run.one("no-route");
}

#[test]
fn the_pods_own_connection_is_watched_without_making_one() {
    let Some(lab) = lab("the_pods_own_connection_is_watched_without_making_one") else { return };
    let why = lab.why("web-0", &["--to", &SERVER.to_string(), "--passive", "--timeout", "500ms"]);
    assert_eq!((why.code, why.outcome()), (2, "unknown"), "{why:#?}");
    assert!(why.claim().contains("made no such connection"), "{why:#?}");
}

#[test]
fn what_makes_no_sense_is_one_line() {
    let Some(lab) = lab("what_makes_no_sense_is_one_line") else { return };
    for (args, said) in [
        (&["--to", "10.1.1.1"][..], "no port in `10.1.1.1`: write 10.1.1.1:PORT"),
        (&["--to", "10.1.1.1:80", "--proto", "icmp"], "ICMP has no ports"),
        (&["--to", "a b:80"], "is no HOST:PORT"),
    ] {
        let why = lab.why("web-0", args);
        assert_eq!(why.code, 2, "{why:#?}");
        assert!(why.run.stderr.contains(said), "{}", why.run.stderr);
        assert!(why.run.stderr.lines().count() <= 2, "{}", why.run.stderr);
    }
}
