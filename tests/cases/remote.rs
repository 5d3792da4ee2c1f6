//! netprobe from a laptop: the agents of the nodes watch, and what they see is shown here.

use std::{os::unix::fs::symlink, process::Output, time::Duration};

use netprobe::record::{Frame, Header, Writer};
use netprobe_tests::{Api, Lab, Laptop, Probe, SERVER, api::Fault, binary, laptop::put_agent, wait};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

/// How long a command on a node may take to end when who asked is gone.
const GONE: Duration = Duration::from_secs(7);

/// A node `n1` with an agent.
fn one_node(lab: &Lab) -> (Api, Laptop<'_>) {
    let api = lab.api_alone();
    lab.joins(&api, "n1", "shop");
    lab.agent(&api, "n1");
    let laptop = lab.laptop(&api);
    (api, laptop)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It ended with that code, and said all of this.
fn ended(output: &Output, code: i32, parts: &[&str]) {
    let words = words(output);
    assert_eq!(output.status.code(), Some(code), "{words}");
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in: {words}");
    }
}

/// Nothing that ran on a node runs there any more.
fn nothing_is_left(api: &Api) {
    let all_ended = wait(GONE, || api.commands().iter().all(netprobe_tests::api::Command::has_ended));
    assert!(all_ended, "left behind: {:?}", api.commands());
}

/// Everything but times, which are those of each run.
fn story(finding: &netprobe_tests::Finding) -> (String, String, String) {
    (finding.rule().to_owned(), finding.text("/claim").to_owned(), finding.text("/confidence").to_owned())
}

#[test]
fn a_pod_elsewhere_is_traced_as_it_would_be_there() {
    let Some(lab) = Lab::start("a_pod_elsewhere_is_traced_as_it_would_be_there") else { return };
    let (api, laptop) = one_node(&lab);
    lab.on("node").run("ip route add blackhole 172.20.40.5 table 2");
    let here = lab.netprobe_kube(&api, &["trace", "--pod", "shop/web-0", "--node-name", "n1"]);
    let there = laptop.netprobe(&["trace", "--pod", "web-0", "--agent-namespace", "netprobe"]);
    there.says("pod shop/web-0 is on node n1: asking its agent netprobe/agent-n1");
    lab.on("web-0").cannot_connect(SERVER);
    let finding = there.finding("route-blackhole");
    finding.is_at("web-0", "node", "vweb0");
    assert_eq!(finding.text("/node"), "n1");
    assert_eq!(story(&finding), story(&here.finding("route-blackhole")));
    let run = there.settled();
    assert_eq!(run.objects.last().expect("a summary")["kind"], "summary");
    nothing_is_left(&api);
}

#[test]
fn why_is_asked_of_the_pods_own_node() {
    let Some(lab) = Lab::start("why_is_asked_of_the_pods_own_node") else { return };
    let (api, laptop) = one_node(&lab);
    let fine = laptop.runs_without_privileges(&["why", "--pod", "shop/web-0", "--to", "172.20.40.5:3306"]);
    ended(&fine, 0, &["pod shop/web-0 is on node n1: asking its agent"]);
    let said = String::from_utf8_lossy(&fine.stdout).into_owned();
    assert!(said.contains("verdict: nothing is wrong"), "{said}");
    lab.on("node").run("ip route add blackhole 172.20.40.5 table 2");
    api.is_old();
    let laptop = laptop.over_tls(&api);
    let kept = lab.directory().join("why.npr");
    let kept = kept.to_str().expect("a plain path");
    let wrong = laptop
        .runs(binary(), &["why", "--pod", "shop/web-0", "--to", "172.20.40.5:3306", "-o", "json", "--record", kept]);
    ended(&wrong, 1, &[]);
    let said = String::from_utf8_lossy(&wrong.stdout).into_owned();
    let objects: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["finding", "verdict"], "{said}");
    assert_eq!((&objects[0]["rule"], &objects[1]["outcome"]), (&"route-blackhole".into(), &"finding".into()));
    let replayed = laptop.runs(binary(), &["replay", kept, "-o", "json"]);
    assert_eq!(String::from_utf8_lossy(&replayed.stdout), said);
    let protocols: Vec<_> = api.commands().iter().map(|command| command.protocol).collect();
    assert_eq!(protocols, ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    nothing_is_left(&api);
}

/// A packet of the pod that its node has no way for.
fn drops_one(lab: &Lab) {
    lab.on("web-0").cannot_connect(SERVER);
}

#[test]
fn drops_of_all_nodes_come_with_their_nodes() {
    let Some(one) = Lab::start("drops_of_all_nodes_come_with_their_nodes") else { return };
    let Some(two) = Lab::start("drops_of_all_nodes_come_with_their_nodes") else { return };
    let (api, laptop) = one_node(&one);
    two.joins(&api, "n2", "other");
    two.agent(&api, "n2");
    for lab in [&one, &two] {
        lab.on("node").nft("table ip t {\nchain c {\ntype filter hook forward priority 0\ntcp dport 3306 drop\n}\n}\n");
    }
    let probe = laptop.netprobe(&["drops", "--watch", "--all-nodes"]);
    drops_one(&one);
    drops_one(&two);
    for node in ["n1", "n2"] {
        // Both networks have the same addresses, so that none of them names a pod.
        let dropped = |row: &Value| row["reason"] == "NETFILTER_DROP" && row["at"]["device"] == "vweb0";
        probe.shows(node, |object| {
            let mut rows = object["rows"].as_array().into_iter().flatten();
            object["kind"] == "drops" && object["node"] == node && rows.any(dropped)
        });
    }
    kill(probe.pid(), Signal::SIGINT).expect("it runs");
    let run = probe.wait();
    let mut summaries: Vec<_> =
        run.objects.iter().filter(|object| object["kind"] == "summary").map(|object| object["node"].clone()).collect();
    summaries.sort_by_key(Value::to_string);
    assert_eq!(summaries, ["n1", "n2"]);
    nothing_is_left(&api);
}

#[test]
fn what_cannot_be_asked_is_said_and_the_rest_goes_on() {
    let Some(lab) = Lab::start("what_cannot_be_asked_is_said_and_the_rest_goes_on") else { return };
    let (api, laptop) = one_node(&lab);
    api.put("nodes", netprobe_tests::api::node("n3", "172.20.20.3"));
    api.put("nodes", netprobe_tests::api::node("n4", "172.20.20.4"));
    put_agent(&api, "n4", "False");
    let output = laptop.runs(binary(), &["drops", "--all-nodes", "--for", "300ms"]);
    let install = "there is no netprobe agent on node n3: install it with `helm install netprobe";
    let lines = [install, "agent of node n4, netprobe/agent-n4, is not ready", "2 of 3 nodes could not be watched"];
    ended(&output, 3, &lines);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("drops since start"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("n1  ") && line.contains(" journeys and ")), "{said}");
    let alone = laptop.runs(binary(), &["trace", "--all", "--node", "n3"]);
    ended(&alone, 2, &[install]);
    assert_eq!(words(&alone).lines().count(), 1);
    nothing_is_left(&api);
}

#[test]
fn who_may_not_exec_is_told_what_is_missing() {
    let Some(lab) = Lab::start("who_may_not_exec_is_told_what_is_missing") else { return };
    let (api, laptop) = one_node(&lab);
    api.forbid("pods/exec");
    let output = laptop.runs(binary(), &["drops", "--node", "n1"]);
    ended(&output, 2, &["lacks create on pods/exec in namespace netprobe", "docs/kubernetes.md"]);
    api.fault("/exec", Fault::Code(502, None), 1);
    let output = laptop.runs(binary(), &["drops", "--node", "n1"]);
    ended(&output, 2, &["node n1: ", "502"]);
}

#[test]
fn a_stream_that_is_cut_is_told() {
    let Some(lab) = Lab::start("a_stream_that_is_cut_is_told") else { return };
    let (api, laptop) = one_node(&lab);
    let probe = laptop.netprobe(&["trace", "--pod", "shop/web-0"]);
    lab.on("web-0").connects(SERVER);
    probe.shows("the journey", |object| object["kind"] == "journey");
    api.commands()[0].cut();
    let run = probe.wait_for(2);
    assert!(run.stderr.contains("node n1: its stream was cut: what was shown ends there"), "{}", run.stderr);
    nothing_is_left(&api);
}

#[test]
fn the_end_of_who_asks_is_the_end_of_the_command() {
    let Some(lab) = Lab::start("the_end_of_who_asks_is_the_end_of_the_command") else { return };
    let (api, laptop) = one_node(&lab);
    let probe = laptop.netprobe(&["drops", "--watch", "--node", "n1"]);
    kill(probe.pid(), Signal::SIGKILL).expect("it runs");
    nothing_is_left(&api);
    let probe: Probe = laptop.netprobe(&["drops", "--node", "n1"]);
    kill(probe.pid(), Signal::SIGINT).expect("it runs");
    let run = probe.wait();
    assert!(run.objects.iter().any(|object| object["kind"] == "summary"), "{:?}", run.objects);
    nothing_is_left(&api);
    assert_eq!(api.commands().len(), 2);
}

#[test]
fn an_agent_of_another_version_is_not_believed() {
    let Some(lab) = Lab::start("an_agent_of_another_version_is_not_believed") else { return };
    let (api, laptop) = one_node(&lab);
    let path = lab.directory().join("other.npr");
    let header = Header { node: "n1".to_owned(), wall_ns: 0, version: "9.8.7".to_owned() };
    let mut writer = Writer::create(&path, &header).expect("a file of ours");
    writer.write(&Frame::Tick(1)).expect("it is written");
    writer.finish().expect("it is written");
    let file = path.clone();
    api.container("netprobe", "agent-n1", move |_| {
        let mut command = std::process::Command::new("cat");
        command.arg(&file);
        command
    });
    let output = laptop.runs(binary(), &["drops", "--node", "n1"]);
    let here = format!("node n1: its agent netprobe/agent-n1 is netprobe 9.8.7, this is {}", env!("CARGO_PKG_VERSION"));
    ended(&output, 2, &[&here]);
    api.container("netprobe", "agent-n1", |_| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "printf 'error: unexpected argument \\033[31m--record\\n' >&2; exit 2"]);
        command
    });
    let output = laptop.runs(binary(), &["drops", "--node", "n1"]);
    ended(&output, 2, &["node n1: error: unexpected argument \\u{1b}[31m--record"]);
}

#[test]
fn kubectl_netprobe_calls_itself_so() {
    let Some(lab) = Lab::start("kubectl_netprobe_calls_itself_so") else { return };
    let (_api, laptop) = one_node(&lab);
    let plugin = lab.directory().join("kubectl-netprobe");
    symlink(binary(), &plugin).expect("a name of ours");
    let output = laptop.runs(&plugin, &["drops", "--context", "lab", "--node", "n9"]);
    ended(&output, 2, &["kubectl netprobe: there is no netprobe agent on node n9"]);
    let output = laptop.runs(&plugin, &["trace", "-n", "nowhere", "--pod", "web-0", "--context", "other"]);
    ended(&output, 2, &["kubectl netprobe: ", "has no context other"]);
    let help = laptop.runs(&plugin, &["trace", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(
        help.contains("Usage: kubectl netprobe trace") && help.contains("\n  kubectl netprobe trace --pod"),
        "{help}"
    );
}

#[test]
fn kubectl_speaks_to_our_exec() {
    let Some(lab) = Lab::start("kubectl_speaks_to_our_exec") else { return };
    let (api, laptop) = one_node(&lab);
    // kubectl speaks WebSocket since 1.29; what came before speaks SPDY, which our server does not.
    let version = laptop.runs("kubectl", &["version", "--client", "-o", "json"]);
    let version: Value = serde_json::from_slice(&version.stdout).expect("a version");
    let minor = version["clientVersion"]["minor"].as_str().expect("a number").trim_end_matches('+').to_owned();
    if minor.parse::<u32>().is_ok_and(|minor| minor < 31) {
        println!("skipped: kubectl 1.{minor} has no exec over WebSocket");
        return;
    }
    let exec = ["exec", "-i", "-n", "netprobe", "agent-n1", "-c", "agent", "--", "netprobe"];
    let drops = ["drops", "--record", "-", "--until-stdin-closes"];
    let output = laptop.runs("kubectl", &[&exec[..], &drops[..]].concat());
    ended(&output, 0, &[]);
    assert_eq!(output.stdout.get(..8), Some(&netprobe::record::MAGIC[..]), "{}", words(&output));
    let path = lab.directory().join("kubectl.npr");
    std::fs::write(&path, &output.stdout).expect("a file of ours");
    ended(&laptop.runs(binary(), &["replay", path.to_str().expect("a plain path")]), 0, &[]);
    let wrong = laptop.runs("kubectl", &[&exec[..], &["trace", "--pod", "nobody"]].concat());
    ended(&wrong, 2, &["no pod `nobody`", "exit code 2"]);
    assert!(api.commands().iter().all(|command| command.protocol == "v5.channel.k8s.io"));
    nothing_is_left(&api);
}
