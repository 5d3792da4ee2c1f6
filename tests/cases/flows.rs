//! Who sends how much by which device: exactly what was sent, whatever NAT makes of it.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use netprobe_tests::{DemoPod, LATE_POD, Lab, Run, SERVER, SERVER6, WEB_0, WEB_1};
use serde_json::Value;

use super::dns;

/// Datagrams sent at once, and how long a receiver has to take them.
const DATAGRAMS: u64 = 4_000;
const PAYLOAD: usize = 100;
/// Where nobody answers, so that what comes back is not mixed with what goes out.
pub(crate) const SINK: u16 = 4000;

/// What was told last of a kind.
fn last<'a>(run: &'a Run, kind: &str) -> &'a Value {
    run.objects.iter().rev().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {run:#?}"))
}

/// Packets and bytes of a pod at a device: from it, and to it.
pub(crate) fn counted(run: &Run, pod: &str, device: &str) -> [(u64, u64); 2] {
    let rows = last(run, "flows")["devices"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["pod"]["name"] == pod && row["at"]["device"] == device);
    let row = row.unwrap_or_else(|| panic!("nothing of {pod} at {device}: {rows:#?}"));
    ["out", "in"].map(|way| (number(&row[way]["packets"]), number(&row[way]["bytes"])))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What the pod has to say about a peer's port.
pub(crate) fn line<'a>(run: &'a Run, pod: &str, peer: IpAddr, port: u16) -> &'a Value {
    let lines = last(run, "flows")["flows"].as_array().expect("a list");
    let is = |l: &&Value| l["pod"]["name"] == pod && l["peer"] == peer.to_string() && l["port"] == port;
    lines.iter().find(is).unwrap_or_else(|| panic!("{pod} and {peer}:{port} are not told: {lines:#?}"))
}

/// Sends datagrams from the pod, while somebody in `receiver` takes them.
pub(crate) fn send(lab: &Lab, to: SocketAddr, receiver: (&str, SocketAddr)) {
    send_from(lab, "web-0", to, receiver);
}

fn send_from(lab: &Lab, pod: &str, to: SocketAddr, receiver: (&str, SocketAddr)) {
    let (name, at) = receiver;
    let sink = lab.on(name).enter(|| UdpSocket::bind(at)).expect("receive in the network");
    let (from, payload) = (if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, [7; PAYLOAD]);
    lab.on(pod).enter(|| {
        let socket = UdpSocket::bind(from).expect("a socket in the pod");
        for n in 0..DATAGRAMS {
            socket.send_to(&payload, to).expect("send");
            if n % 200 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    drop(sink);
}

/// Bytes of a datagram on the wire.
fn on_the_wire(v6: bool) -> u64 {
    PAYLOAD as u64 + 8 + if v6 { 40 } else { 20 } + 14
}

/// ARP and neighbour discovery are counted too: a handful of frames beside the datagrams.
#[track_caller]
pub(crate) fn is_exact((packets, bytes): (u64, u64), v6: bool) {
    let more = packets.checked_sub(DATAGRAMS).unwrap_or_else(|| panic!("{packets} of {DATAGRAMS} were counted"));
    assert!(more <= 8, "{packets} counted, {DATAGRAMS} sent");
    let more_bytes = bytes - DATAGRAMS * on_the_wire(v6);
    assert!(more_bytes >= more * 42 && more_bytes <= more * 110, "{more_bytes} bytes in {more} frames more");
}

/// Of the flow itself, nothing but the datagrams.
#[track_caller]
pub(crate) fn is_told_exactly(line: &Value, v6: bool) {
    assert_eq!(number(&line["out"]["packets"]), DATAGRAMS, "{line:#}");
    assert_eq!(number(&line["out"]["bytes"]), DATAGRAMS * on_the_wire(v6), "{line:#}");
}

#[test]
fn datagrams_are_counted_at_the_link_and_at_the_uplink() {
    let Some(lab) = Lab::start("datagrams_are_counted_at_the_link_and_at_the_uplink") else { return };
    for server in [SERVER, SERVER6] {
        let to = SocketAddr::new(server.ip(), SINK);
        let probe = lab.netprobe(&["flows"]);
        send(&lab, to, ("server", to));
        let run = probe.stop();
        let v6 = to.is_ipv6();
        is_exact(counted(&run, "web-0", WEB_0.device)[0], v6);
        is_exact(counted(&run, "web-0", "eth1")[0], v6);
        let line = line(&run, "web-0", to.ip(), SINK);
        is_told_exactly(line, v6);
        assert_eq!((&line["devices"][0], &line["initiated"]), (&"eth1".into(), &true.into()), "{line:#}");
        assert_eq!(line["states"]["unanswered"], 1, "{line:#}");
        assert_eq!(line["nat"], Value::Null, "{line:#}");
    }
}

#[test]
fn what_was_translated_still_counts_as_the_pods() {
    let Some(lab) = Lab::start("what_was_translated_still_counts_as_the_pods") else { return };
    lab.on("node").nft(
        "table ip t {
            chain d { type nat hook prerouting priority -100; ip daddr 10.96.0.20 udp dport 53 dnat to 172.20.40.5:4000; }
            chain s { type nat hook postrouting priority 100; oifname \"eth1\" masquerade; }
         }",
    );
    let probe = lab.netprobe(&["flows"]);
    send(&lab, "10.96.0.20:53".parse().expect("an address"), ("server", SocketAddr::new(SERVER.ip(), SINK)));
    let run = probe.stop();
    is_exact(counted(&run, "web-0", WEB_0.device)[0], false);
    is_exact(counted(&run, "web-0", "eth1")[0], false);
    let line = line(&run, "web-0", "10.96.0.20".parse().expect("an address"), 53);
    is_told_exactly(line, false);
    let nat = &line["nat"];
    assert_eq!((&nat["dnat"], &nat["snat"]), (&"PREROUTING".into(), &"POSTROUTING".into()), "{nat:#}");
    assert_eq!(nat["snat_device"], "eth1", "{nat:#}");
    assert_eq!(
        (&nat["after"]["dst"], &nat["after"]["dport"]),
        (&SERVER.ip().to_string().into(), &SINK.into()),
        "{nat:#}"
    );
}

#[test]
fn a_neighbours_service_stays_on_the_node_and_both_pods_are_told() {
    let Some(lab) = Lab::start("a_neighbours_service_stays_on_the_node_and_both_pods_are_told") else { return };
    lab.on("node").nft(
        "table ip t { chain d { type nat hook prerouting priority -100; ip daddr 10.96.0.20 udp dport 53 dnat to 10.61.7.11:4000; }\n}",
    );
    let probe = lab.netprobe(&["flows"]);
    send(&lab, "10.96.0.20:53".parse().expect("an address"), ("web-1", SocketAddr::new(WEB_1.v4.into(), SINK)));
    let run = probe.stop();
    is_exact(counted(&run, "web-0", WEB_0.device)[0], false);
    is_exact(counted(&run, "web-1", WEB_1.device)[1], false);
    let asked = line(&run, "web-0", "10.96.0.20".parse().expect("an address"), 53);
    assert_eq!(asked["devices"], Value::Array(vec![]), "{asked:#}");
    let served = line(&run, "web-1", WEB_0.v4.into(), SINK);
    assert_eq!((number(&served["in"]["packets"]), &served["initiated"]), (DATAGRAMS, &false.into()), "{served:#}");
}

/// A number that `ss -ti` prints.
fn said(text: &str, name: &str) -> u64 {
    let value = text.split_whitespace().find_map(|word| word.strip_prefix(name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("ss says no {name}: {text}"))
}

#[test]
fn segments_of_offload_count_as_on_the_wire() {
    let Some(lab) = Lab::start("segments_of_offload_count_as_on_the_wire") else { return };
    const BYTES: usize = 8 << 20;
    let at = SocketAddr::new(SERVER.ip(), SINK);
    let listener = lab.on("server").enter(|| TcpListener::bind(at)).expect("listen in the network");
    let probe = lab.netprobe(&["flows"]);
    let received = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut taken = vec![0; BYTES];
        stream.read_exact(&mut taken).expect("all of it");
        stream
    });
    let mut stream = lab.on("web-0").enter(|| TcpStream::connect(at)).expect("connect");
    stream.write_all(&vec![7; BYTES]).expect("send");
    let _open = received.join().expect("the receiver is well");
    // The last acknowledgements.
    thread::sleep(Duration::from_millis(300));
    let text = lab.on("web-0").run("ss -tinH dport = :4000");
    let run = probe.stop();
    let line = line(&run, "web-0", at.ip(), SINK);
    let (out, into) = (number(&line["out"]["packets"]), number(&line["in"]["packets"]));
    assert_eq!((out, into), (said(&text, "segs_out:"), said(&text, "segs_in:")), "{line:#}\n{text}");
    // Ethernet, IPv4, TCP with timestamps; a SYN has eight bytes more of options.
    assert_eq!(
        number(&line["out"]["bytes"]),
        said(&text, "bytes_sent:") + out * (14 + 20 + 32) + 8,
        "{line:#}\n{text}"
    );
    assert_eq!(counted(&run, "web-0", "eth1")[0].0.abs_diff(out), 0, "{line:#}");
    assert!(line["handshake_ns"].is_u64() && line["states"]["open"] == 1, "{line:#}");
}

#[test]
fn a_translation_is_told_once_with_its_device() {
    let Some(lab) = Lab::start("a_translation_is_told_once_with_its_device") else { return };
    lab.on("node")
        .nft("table ip t { chain s { type nat hook postrouting priority 100; oifname \"eth1\" masquerade; }\n}");
    let probe = lab.netprobe(&["nat", "--pod", "shop/web-0"]);
    lab.on("web-0").connects(SERVER);
    lab.on("web-1").connects(SERVER);
    let run = probe.stop();
    let told: Vec<&Value> = run.objects.iter().filter(|object| object["kind"] == "nat").collect();
    assert_eq!(told.len(), 1, "{run:#?}");
    assert_eq!((&told[0]["pod"]["name"], &told[0]["snat_device"]), (&"web-0".into(), &"eth1".into()), "{:#}", told[0]);
    assert_eq!(told[0]["dnat"], Value::Null, "{:#}", told[0]);
}

/// A filter of somebody else's, beside ours.
const DROPS: &str = "bpf da bytecode '1,6 0 0 2'";

#[test]
fn a_filter_beside_ours_does_as_it_did() {
    let Some(lab) = Lab::start("a_filter_beside_ours_does_as_it_did") else { return };
    let node = lab.on("node");
    let add = |what: &str| drop(node.run(&format!("tc filter add dev {} ingress {what}", WEB_0.device)));
    let clear = || drop(node.run(&format!("tc filter del dev {} ingress", WEB_0.device)));
    node.run(&format!("tc qdisc add dev {} clsact", WEB_0.device));
    // It was there first.
    add(DROPS);
    let probe = lab.netprobe(&["flows"]);
    lab.on("web-0").cannot_connect(SERVER);
    let run = probe.stop();
    let line_of = |run: &Run| line(run, "web-0", SERVER.ip(), SERVER.port()).clone();
    let told = line_of(&run);
    assert!(number(&told["out"]["packets"]) >= 1 && number(&told["in"]["packets"]) == 0, "{told:#}");
    clear();
    // It comes while ours is there, and goes again.
    let probe = lab.netprobe(&["flows"]);
    lab.on("web-0").connects(SERVER);
    add(DROPS);
    lab.on("web-0").cannot_connect(SERVER);
    clear();
    lab.on("web-0").connects(SERVER);
    add(&format!("u32 match u32 0 0 action mirred egress redirect dev {}", WEB_1.device));
    lab.on("web-0").cannot_connect(SERVER);
    let run = probe.stop();
    let told = line_of(&run);
    assert_eq!((&told["states"]["closed"], &told["connections"]), (&2.into(), &4.into()), "{told:#}");
    let filters = node.run(&format!("tc filter show dev {} ingress; tc qdisc show dev {}", WEB_0.device, WEB_0.device));
    assert!(filters.contains("mirred") && filters.contains("clsact"), "theirs stays: {filters}");
}

#[test]
fn a_pod_that_comes_later_is_counted() {
    let Some(mut lab) = Lab::start("a_pod_that_comes_later_is_counted") else { return };
    let probe = lab.netprobe(&["flows", "--watch"]);
    lab.add_pod(netprobe_tests::LATE_POD);
    // It is looked at within half a second of its link's last news, and then it has its name.
    thread::sleep(Duration::from_millis(1_500));
    lab.on("late-0").connects(SERVER);
    let run = probe.stop();
    assert!(counted(&run, "late-0", netprobe_tests::LATE_POD.device)[0].0 >= 4, "{run:#?}");
}

#[test]
fn a_peer_outside_has_the_name_that_the_pod_asked_for() {
    let Some(lab) = Lab::start("a_peer_outside_has_the_name_that_the_pod_asked_for") else { return };
    lab.on("node").nft(dns::NAT);
    let _server = dns::Server::start(&lab);
    let probe = lab.netprobe(&["flows"]);
    assert!(dns::ask(&lab, dns::SERVICE, &dns::question(1, "s3.example.com", dns::A), 1, dns::SOON));
    lab.on("web-0").connects(SERVER);
    lab.on("web-1").connects(SERVER);
    let run = probe.stop();
    let named = |pod| {
        let line = line(&run, pod, SERVER.ip(), SERVER.port());
        (line["peer_name"].clone(), line["peer_name_source"].clone())
    };
    assert_eq!(named("web-0"), ("s3.example.com".into(), "dns".into()));
    assert_eq!(named("web-1"), (Value::Null, Value::Null), "it did not ask");
    let server = line(&run, "web-1", WEB_0.v4.into(), dns::BEHIND);
    assert_eq!((&server["peer_name"], &server["peer_name_source"]), (&"shop/web-0".into(), &"pod".into()));
}

/// What is told of a pod that ended, or of one that goes on: at a device, from it.
fn told_of(run: &Run, ended: bool, device: &str) -> Vec<(u64, u64)> {
    let rows = last(run, "flows")["devices"].as_array().expect("a list").iter();
    let rows = rows.filter(|row| row["ended"] == ended && row["pod"]["name"] == LATE_POD.name);
    let rows = rows.filter(|row| row["at"]["device"] == device);
    rows.map(|row| (number(&row["out"]["packets"]), number(&row["out"]["bytes"]))).collect()
}

#[test]
fn a_pod_that_ended_keeps_its_counts_and_its_heir_has_only_its_own() {
    let Some(mut lab) = Lab::start("a_pod_that_ended_keeps_its_counts_and_its_heir_has_only_its_own") else { return };
    let to = SocketAddr::new(SERVER.ip(), SINK);
    let heir = DemoPod { device: "vlate1", ..LATE_POD };
    for args in [&["flows"][..], &["flows", "--pod", "shop/late-0"], &["flows", "--watch"]] {
        lab.add_pod(LATE_POD);
        let probe = lab.netprobe(args);
        send_from(&lab, LATE_POD.name, to, ("server", to));
        lab.remove_pod(LATE_POD.name);
        thread::sleep(Duration::from_millis(300));
        // Its address and its name are another's now.
        lab.add_pod(heir);
        thread::sleep(Duration::from_millis(1_500));
        for _ in 0..2 {
            send_from(&lab, heir.name, to, ("server", to));
        }
        lab.remove_pod(heir.name);
        thread::sleep(Duration::from_millis(300));
        lab.add_pod(LATE_POD);
        thread::sleep(Duration::from_millis(1_500));
        let run = probe.stop();
        lab.remove_pod(LATE_POD.name);
        // The kernel takes its link away after it.
        thread::sleep(Duration::from_millis(300));
        let [first] = told_of(&run, true, LATE_POD.device)[..] else { panic!("{args:?}: {run:#?}") };
        is_exact(first, false);
        let [(second, _)] = told_of(&run, true, heir.device)[..] else { panic!("{args:?}: {run:#?}") };
        assert!((2 * DATAGRAMS..2 * DATAGRAMS + 16).contains(&second), "{args:?}: {second}");
        let mut at_uplink = told_of(&run, true, "eth1");
        at_uplink.sort_unstable();
        let sent = [DATAGRAMS, 2 * DATAGRAMS].map(|sent| (sent, sent * on_the_wire(false)));
        assert_eq!(at_uplink, sent, "{args:?}: {run:#?}");
        assert_eq!(told_of(&run, false, "eth1"), [], "{args:?}: the third has sent nothing: {run:#?}");
        let lines = last(&run, "flows")["flows"].as_array().expect("a list");
        let lines = lines.iter().filter(|line| line["peer"] == to.ip().to_string() && line["port"] == SINK);
        let told: Vec<_> =
            lines.map(|l| (l["ended"] == true, number(&l["connections"]), number(&l["out"]["packets"]))).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.contains(&(true, 1, DATAGRAMS)) && told.contains(&(true, 2, 2 * DATAGRAMS)), "{told:?}");
        let rows = last(&run, "flows")["devices"].as_array().expect("a list").iter();
        let nodes: u64 = rows.filter(|row| row["pod"].is_null()).map(|row| number(&row["out"]["packets"])).sum();
        assert!(nodes < 100, "{args:?}: the node got {nodes}: {run:#?}");
    }
}

const MASQUERADE: &str =
    "table ip t { chain s { type nat hook postrouting priority 100; oifname \"eth1\" masquerade; }\n}";

#[test]
fn translations_of_a_pod_that_ended_are_told_and_stay_in_the_table() {
    let Some(mut lab) = Lab::start("translations_of_a_pod_that_ended_are_told_and_stay_in_the_table") else { return };
    lab.on("node").nft(MASQUERADE);
    for (args, kind) in [(&["nat"][..], "nat"), (&["nat", "--watch"], "nat-table")] {
        lab.add_pod(LATE_POD);
        let probe = lab.netprobe(args);
        for _ in 0..2 {
            lab.on(LATE_POD.name).connects(SERVER);
        }
        lab.remove_pod(LATE_POD.name);
        thread::sleep(Duration::from_millis(300));
        let run = probe.stop();
        if kind == "nat" {
            let told = run.objects.iter().filter(|o| o["kind"] == kind && o["pod"]["name"] == LATE_POD.name);
            assert_eq!(told.count(), 2, "{run:#?}");
            continue;
        }
        let rows = last(&run, kind)["rows"].as_array().expect("a list");
        let row = rows.iter().find(|row| row["pod"]["name"] == LATE_POD.name);
        let row = row.unwrap_or_else(|| panic!("nothing of it: {run:#?}"));
        assert_eq!((&row["ended"], &row["connections"]), (&true.into(), &2.into()), "{row:#}");
        assert_eq!((&row["snat_device"], &row["devices"][0]), (&"eth1".into(), &"eth1".into()), "{row:#}");
    }
}

#[test]
fn the_last_table_comes_once() {
    let Some(lab) = Lab::start("the_last_table_comes_once") else { return };
    for (command, kind) in [("flows", "flows"), ("drops", "drops"), ("nat", "nat-table")] {
        let run = lab.netprobe(&[command, "--watch", "--count", "2"]).wait();
        let tables = run.objects.iter().filter(|object| object["kind"] == kind).count();
        assert_eq!(tables, 2, "{command}: {run:#?}");
    }
}
