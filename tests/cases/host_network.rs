//! Pods with `hostNetwork`: theirs is what their processes send and receive, and nothing else of the node.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    time::Duration,
};

use netprobe_tests::{Api, HostPod, Lab, Run, SERVER, SERVER6, binary, open, wait};
use serde_json::Value;

/// The node's address on eth0, and ports of it at which the pod, a process beside it, and nobody waits.
const NODE: [u8; 4] = [172, 20, 10, 2];
const POD_PORT: u16 = 8088;
const OTHERS_PORT: u16 = 8089;
/// How long netprobe may take to hear of a socket that waits: it looks once a second.
const LISTENING: Duration = Duration::from_secs(3);

/// A network with a pod `proxy` on the node itself.
fn scene(name: &str) -> Option<(Lab, Api, HostPod)> {
    let lab = Lab::start(name)?;
    let pod = HostPod::start(name, "proxy")?;
    let api = lab.api();
    api.put("pods", pod.object());
    Some((lab, api, pod))
}

fn is_proxys(value: &Value) -> bool {
    value["pod"]["name"] == "proxy" && value["pod"]["identity"] == "cgroup" && value["pod"]["namespace"] == "shop"
}

/// Journeys and packets of the port.
fn of_port(run: &Run, port: u16) -> Vec<&Value> {
    let has = |value: &&Value| value["flow"]["dport"] == port || value["flow"]["sport"] == port;
    run.objects.iter().filter(has).collect()
}

#[test]
fn the_wrong_nic_of_a_pod_on_the_node_is_told() {
    let Some((lab, api, pod)) = scene("the_wrong_nic_of_a_pod_on_the_node_is_told") else { return };
    let node = lab.on("node");
    node.run("ip rule add pref 1400 to 172.20.40.5 iif lo lookup 2; ip route flush table 2");
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/proxy"]);
    // The same fault strikes a process of the node, which nobody asked about.
    node.connects(SERVER);
    pod.inside(|| node.connects(SERVER));
    let _ = probe.finding("wrong-egress");
    let run = probe.settled();
    let finding = run.one("wrong-egress");
    finding.is_at("proxy", "node", "eth0");
    assert_eq!((finding.text("/expected/device"), finding.text("/pod/identity")), ("eth1", "cgroup"));
    assert_eq!(finding.text("/pod/uid"), pod.uid);
    let journeys: Vec<_> = run.objects.iter().filter(|object| object["kind"] == "journey").collect();
    assert_eq!((journeys.len(), is_proxys(journeys[0])), (1, true), "{journeys:#?}");
}

#[test]
fn a_pod_on_the_node_that_is_well_is_traced_without_a_finding() {
    let Some((lab, api, mut pod)) = scene("a_pod_on_the_node_that_is_well_is_traced_without_a_finding") else { return };
    let node = lab.on("node");
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/proxy"]);
    pod.inside(|| node.connects(SERVER));
    // It has a cgroup that netprobe has not seen yet.
    pod.another_container();
    wait(LISTENING, || false);
    pod.inside(|| node.exchanges(SERVER));
    pod.inside(|| node.connects(SERVER6));
    let run = probe.settled();
    assert!(run.findings().is_empty(), "{:#?}", run.findings());
    for (proto, count) in [("tcp", 2), ("udp", 1)] {
        let shown = |o: &&Value| o["kind"] == "journey" && o["flow"]["proto"] == proto && is_proxys(o);
        assert_eq!(run.objects.iter().filter(shown).count(), count, "{proto}: {:#?}", run.objects);
    }
}

#[test]
fn a_pod_on_the_node_without_a_route_is_told_though_no_packet_exists() {
    let name = "a_pod_on_the_node_without_a_route_is_told_though_no_packet_exists";
    let Some((lab, api, pod)) = scene(name) else { return };
    let node = lab.on("node");
    node.run("ip route del default; ip -6 route del default");
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/proxy"]);
    node.cannot_connect(SERVER6);
    assert_eq!(pod.inside(|| node.cannot_connect(SERVER)).kind(), ErrorKind::NetworkUnreachable);
    let finding = probe.one("no-route");
    assert_eq!((finding.text("/pod/name"), finding.text("/at/namespace")), ("proxy", "node"));
    finding.says("172.20.40.5");
}

/// Drops of the port's packets, with their pod's name.
fn dropped(objects: &[Value]) -> Vec<(String, u64)> {
    let Some(last) = objects.iter().rev().find(|object| object["kind"] == "drops") else { return Vec::new() };
    let rows = last["rows"].as_array().expect("a list").iter().filter(|row| row["reason"] == "NETFILTER_DROP");
    let name = |row: &Value| row["pod"]["name"].as_str().unwrap_or("nobody").to_owned();
    rows.map(|row| (name(row), row["packets"].as_u64().expect("a number"))).collect()
}

#[test]
fn drops_of_a_pod_on_the_node_have_its_name() {
    let Some((lab, api, pod)) = scene("drops_of_a_pod_on_the_node_have_its_name") else { return };
    let node = lab.on("node");
    let listen = |port| node.enter(|| TcpListener::bind(SocketAddr::from((NODE, port)))).expect("a free port");
    let _theirs = pod.inside(|| listen(POD_PORT));
    let _others = listen(OTHERS_PORT);
    node.nft(&format!(
        "table ip t {{ chain i {{ type filter hook input priority 0; tcp dport {{ {POD_PORT}, {OTHERS_PORT}, 8090 }} drop; }};
         chain o {{ type filter hook output priority 0; tcp dport 3306 drop; }}; }}"
    ));
    let probe = lab.netprobe_kube(&api, &["drops", "--watch"]);
    // A packet for the pod, one for a process beside it, one for nobody; one of the pod, one of a process beside it.
    for port in [POD_PORT, OTHERS_PORT, 8090] {
        lab.on("server").cannot_connect(SocketAddr::from((NODE, port)));
    }
    let told = || dropped(&probe.objects());
    let of = |name: &str| told().iter().filter(|(pod, _)| pod == name).map(|(_, packets)| packets).sum::<u64>();
    assert!(wait(LISTENING, || of("proxy") > 0 && of("nobody") > 0), "{:?}", told());
    let (before, others) = (of("proxy"), of("nobody"));
    assert!(others > before, "two of three were for others: {:?}", told());
    pod.inside(|| node.cannot_connect(SERVER));
    assert!(wait(LISTENING, || of("proxy") > before), "{:?}", told());
    let before = of("proxy");
    node.cannot_connect(SERVER);
    assert!(wait(LISTENING, || of("nobody") > others), "{:?}", told());
    assert_eq!(of("proxy"), before, "the neighbour's drop is not the pod's: {:?}", told());
    drop(probe.stop());
}

#[test]
fn a_packet_for_a_pod_on_the_node_that_is_dropped_is_a_finding() {
    let Some((lab, api, pod)) = scene("a_packet_for_a_pod_on_the_node_that_is_dropped_is_a_finding") else { return };
    let node = lab.on("node");
    let listen = |port| node.enter(|| TcpListener::bind(("0.0.0.0", port))).expect("a free port");
    let _theirs = pod.inside(|| listen(POD_PORT));
    let _others = listen(OTHERS_PORT);
    node.nft(&format!(
        "table ip t {{ chain i {{ type filter hook input priority 0; tcp dport {{ {POD_PORT}, {OTHERS_PORT} }} drop; }}; }}"
    ));
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/proxy"]);
    lab.on("server").cannot_connect(SocketAddr::from((NODE, OTHERS_PORT)));
    lab.on("server").cannot_connect(SocketAddr::from((NODE, POD_PORT)));
    let _ = probe.finding("netfilter-drop");
    let run = probe.settled();
    let finding = run.one("netfilter-drop");
    finding.is_at("proxy", "node", "eth0");
    assert_eq!(finding.text("/pod/identity"), "cgroup");
    assert!(of_port(&run, OTHERS_PORT).is_empty(), "{:#?}", of_port(&run, OTHERS_PORT));
}

#[test]
fn flows_of_a_pod_on_the_node_are_counted_for_it_alone() {
    let Some((lab, api, pod)) = scene("flows_of_a_pod_on_the_node_are_counted_for_it_alone") else { return };
    let node = lab.on("node");
    let probe = lab.netprobe_kube(&api, &["flows", "--all"]);
    node.connects(SERVER);
    pod.inside(|| node.connects(SERVER));
    let run = probe.settled();
    let table = run.objects.iter().rev().find(|object| object["kind"] == "flows").expect("a table");
    let lines = table["flows"].as_array().expect("a list");
    let to_server = |line: &&Value| line["peer"] == SERVER.ip().to_string() && line["port"] == SERVER.port();
    let lines: Vec<_> = lines.iter().filter(to_server).collect();
    let count = |ours: bool| {
        lines.iter().filter(|l| is_proxys(l) == ours).map(|l| l["connections"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!((count(true), count(false)), (vec![Some(1)], vec![Some(1)]), "{lines:#?}");
}

#[test]
fn why_connects_for_a_pod_on_the_node() {
    let Some((lab, api, pod)) = scene("why_connects_for_a_pod_on_the_node") else { return };
    let config = api.kubeconfig(lab.directory());
    let why = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["why", "--pod", "shop/proxy", "--to", &SERVER.to_string(), "-o", "json", "--kubeconfig"]);
        command.arg(&config).args(args).stdin(Stdio::null());
        let output = lab.on("node").enter(|| command.output()).expect("run netprobe");
        let text = String::from_utf8(output.stdout).expect("output is text");
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        (output.status.code(), objects, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, objects, words) = why(&[]);
    assert_eq!(code, Some(0), "{objects:#?} {words}");
    lab.on("node").run("ip rule add pref 1400 to 172.20.40.5 iif lo lookup 2; ip route flush table 2");
    let (code, objects, words) = why(&[]);
    assert_eq!(code, Some(1), "{objects:#?} {words}");
    let finding = objects.iter().find(|object| object["kind"] == "finding").expect("a finding");
    assert_eq!((&finding["rule"], is_proxys(finding)), (&"wrong-egress".into(), true), "{finding:#}");
    drop(pod);
}

#[test]
fn a_pod_on_the_node_without_a_cgroup_is_refused_with_the_reason() {
    let Some((lab, api, pod)) = scene("a_pod_on_the_node_without_a_cgroup_is_refused_with_the_reason") else { return };
    let mut other = pod.object();
    other["metadata"]["name"] = "unfound".into();
    other["metadata"]["uid"] = "00000000-0000-4000-8000-ffffffffffff".into();
    api.put("pods", other);
    let config = api.kubeconfig(lab.directory());
    let mut command = Command::new(binary());
    command.args(["trace", "--pod", "shop/unfound", "--for", "1s", "--kubeconfig"]).arg(config).stdin(Stdio::null());
    let output = lab.on("node").enter(|| command.output()).expect("run netprobe");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("no cgroup of version 2 on this node is named after it"), "{words}");
}

#[test]
fn a_killed_run_leaves_the_pods_cgroup_alone() {
    let Some((lab, api, pod)) = scene("a_killed_run_leaves_the_pods_cgroup_alone") else { return };
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/proxy"]);
    pod.inside(|| lab.on("node").connects(open(NODE)));
    // Kills it.
    drop(probe);
    assert!(wait(LISTENING, || pod.is_free()), "something is left in the cgroup");
}
