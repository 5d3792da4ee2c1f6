//! Names from the Kubernetes API, and what becomes of them when it fails.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use netprobe_tests::{
    Lab, Probe, SERVER, WEB_0, WEB_1,
    api::{Fault, host_name, node, pod},
    binary, open, wait,
};
use serde_json::{Value, json};

/// How the pods of a lab are called by their addresses.
fn web_0(name: &str, uid: &str) -> Value {
    let mut pod = pod("shop", name, &host_name(), &[WEB_0.v4.to_string(), WEB_0.v6.to_string()]);
    pod["metadata"]["uid"] = uid.into();
    pod
}

/// A journey that a pod of that name began.
fn begun_by(name: &str) -> impl Fn(&Value) -> bool {
    move |object| object["kind"] == "journey" && object["pod"]["name"] == name && object["pod"]["ended"].is_null()
}

/// Runs netprobe on the node to its end.
fn run(lab: &Lab, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command
        .args(args)
        .env_remove("KUBECONFIG")
        .env("HOME", lab.directory())
        .env_remove("SUDO_USER")
        .stdin(Stdio::null());
    lab.on("node").enter(|| command.output()).expect("run netprobe")
}

/// What it said; it must be one line, and exit code 2.
fn refused(lab: &Lab, args: &[&str]) -> String {
    let output = run(lab, args);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    assert!(words.starts_with("netprobe: "), "{words}");
    words
}

fn has(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in: {words}");
    }
}

/// Traffic of web-0 until netprobe tells of it under that name.
fn is_called(lab: &Lab, probe: &Probe, name: &str) {
    let begun = begun_by(name);
    // The news may come a moment after the connection.
    let is_told = (0..5).any(|_| {
        lab.on("web-0").connects(SERVER);
        wait(Duration::from_secs(2), || probe.objects().iter().any(&begun))
    });
    assert!(is_told, "{name}: nothing of that in {:#?}", probe.objects());
}

#[test]
fn pods_are_named_by_the_api() {
    let Some(lab) = Lab::start("pods_are_named_by_the_api") else { return };
    let api = lab.api();
    lab.on("node").run("ip route add blackhole 172.20.40.5 table 2");
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/web-0"]);
    lab.on("web-0").cannot_connect(SERVER);
    let finding = probe.one("route-blackhole");
    finding.is_at("web-0", "node", "vweb0");
    let here = format!("fieldSelector=spec.nodeName={}", host_name());
    assert_eq!(api.requests(&["/api/v1/pods", &here, "limit="]), 1, "this node's pods are listed once");
}

#[test]
fn labels_and_namespaces_come_from_the_api() {
    let Some(lab) = Lab::start("labels_and_namespaces_come_from_the_api") else { return };
    let api = lab.api();
    let probe = lab.netprobe_kube(&api, &["trace", "-n", "shop", "-l", "app in (web-1)"]);
    lab.on("web-0").connects(SERVER);
    lab.on("web-1").connects(SERVER);
    probe.shows("web-1", begun_by("web-1"));
    let run = probe.settled();
    assert!(!run.objects.iter().any(begun_by("web-0")), "web-0 was not asked for: {:#?}", run.objects);
}

#[test]
fn peers_on_other_nodes_and_services_get_their_names_later() {
    let Some(lab) = Lab::start("peers_on_other_nodes_and_services_get_their_names_later") else { return };
    let api = lab.api();
    api.put("nodes", node("n2", "172.20.20.9"));
    api.fault("spec.nodeName!=", Fault::Slow(Duration::from_millis(700)), 1);
    let probe = lab.netprobe_kube(&api, &["flows", "--pod", "shop/web-0", "--watch"]);
    api.put("pods", pod("data", "db-0", "n2", &[SERVER.ip().to_string()]));
    let named = |object: &Value| object.to_string().contains("data/db-0");
    lab.on("web-0").connects(SERVER);
    probe.shows("the server's pod", named);
    assert!(api.requests(&["spec.nodeName!=", "watch=true"]) > 0);
    let _ = probe.stop();
}

#[test]
fn what_flowed_to_a_pod_is_not_told_of_the_next_one_with_its_address() {
    let Some(lab) = Lab::start("what_flowed_to_a_pod_is_not_told_of_the_next_one_with_its_address") else { return };
    let api = lab.api();
    api.put("pods", pod("data", "db-0", "n2", &[SERVER.ip().to_string()]));
    let probe = lab.netprobe_kube(&api, &["flows", "--pod", "shop/web-0", "--watch"]);
    let line = |object: &Value, name: &str, connections: u64| {
        let rows = object["flows"].as_array().into_iter().flatten();
        rows.filter(|row| row["peer_name"] == name && row["connections"] == connections).count() == 1
    };
    lab.on("web-0").connects(SERVER);
    probe.shows("db-0", |object| line(object, "data/db-0", 1));
    api.delete("pods", "data", "db-0");
    api.put("pods", pod("data", "cache-0", "n2", &[SERVER.ip().to_string()]));
    probe.shows("db-0 has ended", |object| line(object, "data/db-0 (ended)", 1));
    std::thread::sleep(Duration::from_millis(1500));
    lab.on("web-0").connects(SERVER);
    lab.on("web-0").connects(SERVER);
    probe.shows("both", |object| line(object, "data/db-0 (ended)", 1) && line(object, "data/cache-0", 2));
    let _ = probe.stop();
}

#[test]
fn a_pod_made_anew_with_the_same_address_has_its_own_name() {
    let Some(lab) = Lab::start("a_pod_made_anew_with_the_same_address_has_its_own_name") else { return };
    let api = lab.api();
    let probe = lab.netprobe_kube(&api, &["trace", "--all"]);
    is_called(&lab, &probe, "web-0");
    // The new one is told of before the old one is gone: until then nobody knows whose the address is.
    api.put("pods", web_0("other-7", "77777777-0000-4000-8000-000000000000"));
    api.delete("pods", "shop", "web-0");
    std::thread::sleep(Duration::from_millis(300));
    is_called(&lab, &probe, "other-7");
    // It ends, and its namespace is still there: what comes late is told as its.
    api.delete("pods", "shop", "other-7");
    std::thread::sleep(Duration::from_millis(300));
    lab.on("web-0").connects(open(WEB_1.v4));
    let ended = |object: &Value| object["pod"]["name"] == "other-7" && object["pod"]["ended"] == true;
    probe.shows("other-7, ended", ended);
    let _ = probe.stop();
}

#[test]
fn watches_that_are_cut_and_versions_that_are_forgotten_lose_nothing() {
    let Some(lab) = Lab::start("watches_that_are_cut_and_versions_that_are_forgotten_lose_nothing") else { return };
    let api = lab.api();
    let probe = lab.netprobe_kube(&api, &["trace", "--all"]);
    is_called(&lab, &probe, "web-0");
    // What happens while no watch runs, and is forgotten before the next one begins.
    api.fault("watch=true", Fault::Code(500, None), 1);
    api.cut();
    api.put("pods", web_0("other-7", "77777777-0000-4000-8000-000000000000"));
    api.delete("pods", "shop", "web-0");
    api.forget();
    let here = format!("spec.nodeName={}", host_name());
    let listed = wait(Duration::from_secs(15), || api.requests(&[&here, "limit="]) >= 2);
    assert!(listed, "after 410 it is listed again");
    std::thread::sleep(Duration::from_millis(300));
    is_called(&lab, &probe, "other-7");
    let run = probe.stop();
    assert_eq!(run.stderr, "", "nothing of that is worth a word");
}

#[test]
fn an_api_that_goes_away_costs_names_and_no_packets() {
    let Some(lab) = Lab::start("an_api_that_goes_away_costs_names_and_no_packets") else { return };
    let api = lab.api();
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/web-0"]);
    is_called(&lab, &probe, "web-0");
    api.go_away();
    probe.says("names are those of before, until it answers again");
    lab.on("node").run("ip route add blackhole 172.20.40.5 table 2");
    lab.on("web-0").cannot_connect(SERVER);
    probe.finding("route-blackhole").is_at("web-0", "node", "vweb0");
    std::thread::sleep(Duration::from_secs(2));
    let asked = api.requests(&[""]);
    api.come_back();
    probe.says("answers again: names are current");
    let run = probe.stop();
    assert!(asked < 60, "{asked} requests: it asks too often");
    assert_eq!(run.stderr.lines().count(), 2, "one line when it goes, one when it is back: {}", run.stderr);
    let summary = run.objects.last().expect("a summary");
    assert!(summary["names_stale_since"].is_null(), "{summary}");
}

#[test]
fn names_that_are_old_at_the_end_say_so() {
    let Some(lab) = Lab::start("names_that_are_old_at_the_end_say_so") else { return };
    let api = lab.api();
    let probe = lab.netprobe_kube(&api, &["trace", "--pod", "shop/web-0"]);
    is_called(&lab, &probe, "web-0");
    api.go_away();
    probe.says("names are those of before, until it answers again");
    let run = probe.stop();
    let summary = run.objects.last().expect("a summary");
    assert!(summary["names_stale_since"].is_string(), "{summary}");
}

#[test]
fn an_api_that_is_busy_slow_or_mad_is_asked_again() {
    let Some(lab) = Lab::start("an_api_that_is_busy_slow_or_mad_is_asked_again") else { return };
    let api = lab.api();
    let here = format!("spec.nodeName={}", host_name());
    api.fault(&format!("{here}&watch"), Fault::Code(429, Some(1)), 1);
    api.fault(&format!("{here}&watch"), Fault::Garbage, 1);
    api.fault(&format!("{here}&watch"), Fault::Slow(Duration::from_millis(600)), 1);
    let probe = lab.netprobe_kube(&api, &["trace", "--all"]);
    api.put("pods", web_0("other-7", "77777777-0000-4000-8000-000000000000"));
    api.delete("pods", "shop", "web-0");
    let told = wait(Duration::from_secs(20), || api.requests(&[&here, "watch=true"]) >= 3);
    assert!(told, "it is watched again: {}", api.requests(&[&here, "watch=true"]));
    std::thread::sleep(Duration::from_millis(900));
    is_called(&lab, &probe, "other-7");
    let _ = probe.stop();
}

#[test]
fn pages_are_read_to_the_end() {
    let Some(lab) = Lab::start("pages_are_read_to_the_end") else { return };
    let api = lab.api();
    for number in 0..1_200 {
        let ip = format!("10.200.{}.{}", number / 250, number % 250 + 1);
        api.put("pods", pod("load", &format!("p-{number}"), "n2", &[ip]));
    }
    api.put("pods", pod("zz", "db-0", "n2", &[SERVER.ip().to_string()]));
    let probe = lab.netprobe_kube(&api, &["flows", "--pod", "shop/web-0", "--watch"]);
    lab.on("web-0").connects(SERVER);
    probe.shows("a name of the last page", |object| object.to_string().contains("zz/db-0"));
    assert_eq!(api.requests(&["spec.nodeName!=", "limit="]), 3);
    let _ = probe.stop();
}

/// Resident memory of a process, and its peak, KiB.
fn memory(probe: &Probe) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{}/status", probe.pid())).expect("it runs");
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    })
}

#[test]
fn a_cluster_of_five_thousand_pods_costs_little_memory() {
    let Some(lab) = Lab::start("a_cluster_of_five_thousand_pods_costs_little_memory") else { return };
    let api = lab.api();
    for number in 0..5_000 {
        let node = if number < 250 { host_name() } else { format!("n{}", number / 250) };
        let ip = format!("10.{}.{}.{}", 200 + number / 2_500, number / 250, number % 250 + 1);
        let mut pod = pod("load", &format!("web-6d4cf56db6-{number:05}"), &node, &[ip]);
        // As large as pods are in the API.
        pod["spec"]["padding"] = "x".repeat(6_000).into();
        api.put("pods", pod);
    }
    api.put("pods", pod("zz", "db-0", "n2", &[SERVER.ip().to_string()]));
    let alone = lab.netprobe(&["flows", "--pod", "shop/web-0", "--watch"]);
    lab.on("web-0").connects(SERVER);
    std::thread::sleep(Duration::from_secs(3));
    let [before, _] = memory(&alone);
    let _ = alone.stop();
    let probe = lab.netprobe_kube(&api, &["flows", "--pod", "shop/web-0", "--watch"]);
    lab.on("web-0").connects(SERVER);
    probe.shows("a name of the last page", |object| object.to_string().contains("zz/db-0"));
    std::thread::sleep(Duration::from_secs(3));
    let [after, peak] = memory(&probe);
    println!("{before} KiB from a file, {after} KiB from the API, {peak} KiB at most");
    assert!(after < before + 40 * 1024, "{before} KiB without and {after} KiB with 5,000 pods");
    let _ = probe.stop();
}

#[test]
fn a_recording_has_the_names_as_they_came() {
    let Some(lab) = Lab::start("a_recording_has_the_names_as_they_came") else { return };
    let api = lab.api();
    let kept = lab.directory().join("run.npr");
    let probe = lab.netprobe_kube(&api, &["trace", "--all", "--record", kept.to_str().expect("a plain path")]);
    is_called(&lab, &probe, "web-0");
    api.put("pods", web_0("other-7", "77777777-0000-4000-8000-000000000000"));
    api.delete("pods", "shop", "web-0");
    std::thread::sleep(Duration::from_millis(300));
    is_called(&lab, &probe, "other-7");
    let run = probe.stop();
    let replay = Command::new(binary()).args(["replay", "-o", "json"]).arg(&kept).output().expect("run netprobe");
    let objects: Vec<Value> = String::from_utf8_lossy(&replay.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .collect();
    assert_eq!(objects, run.objects);
}

#[test]
fn what_the_api_refuses_is_said_in_one_line() {
    let Some(lab) = Lab::start("what_the_api_refuses_is_said_in_one_line") else { return };
    let api = lab.api();
    let config = api.kubeconfig(lab.directory());
    let config = config.to_str().expect("a plain path");
    let trace = ["trace", "--pod", "shop/web-0", "--for", "1s", "--kubeconfig"];
    let with = |more: &[&str]| refused(&lab, &[&trace, more].concat());

    has(&with(&[config, "--context", "prod"]), &[config, "it has no context prod; it has lab"]);
    has(&with(&["/nonexistent"]), &["/nonexistent", "--inventory"]);
    let expired = api.kubeconfig_with(lab.directory(), "expired");
    has(&with(&[expired.to_str().expect("a plain path")]), &["401", "expired", "http://127.0.0.1:", "context lab"]);
    let unknown = ["trace", "--pod", "shop/wbe-0", "--for", "1s", "--kubeconfig", config];
    has(&refused(&lab, &unknown), &["no pod `shop/wbe-0`", "is shop/web-0"]);
    api.put("pods", pod("shop", "far-0", "n2", &["10.200.0.1".to_owned()]));
    let elsewhere = ["trace", "--pod", "shop/far-0", "--for", "1s", "--kubeconfig", config];
    has(
        &refused(&lab, &elsewhere),
        &["pod shop/far-0 is on node n2: there is no netprobe agent on node n2: install it"],
    );
    has(&refused(&lab, &[&elsewhere[..], &["--local"]].concat()), &["pod shop/far-0 runs on node n2"]);
    let mut proxy = pod("shop", "proxy", &host_name(), &["172.20.20.2".to_owned()]);
    proxy["spec"]["hostNetwork"] = true.into();
    api.put("pods", proxy);
    let host = ["trace", "--pod", "shop/proxy", "--for", "1s", "--kubeconfig", config];
    has(&refused(&lab, &host), &["pod shop/proxy uses the node's own network, and no cgroup"]);

    api.forbid("pods");
    has(
        &with(&[config]),
        &["cannot list pods: user tester lacks list on pods at the cluster scope", "docs/kubernetes.md"],
    );
    api.go_away();
    has(&with(&[config]), &["cannot reach the API server http://127.0.0.1:", "context lab"]);
}

#[test]
fn who_needs_no_names_goes_on_without() {
    let Some(lab) = Lab::start("who_needs_no_names_goes_on_without") else { return };
    let api = lab.api();
    api.forbid("pods");
    let config = api.kubeconfig(lab.directory());
    let args = ["trace", "--all", "--for", "1s", "-o", "json", "--kubeconfig", config.to_str().expect("a plain path")];
    let output = run(&lab, &args);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    has(&words, &["cannot list pods", "this node's pods have no names"]);
    // Nothing here tells of Kubernetes: as before, and without a word.
    let output = run(&lab, &["trace", "--all", "--for", "1s", "-o", "json"]);
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""));
}

#[test]
fn check_says_what_names_are_to_be_had() {
    let Some(lab) = Lab::start("check_says_what_names_are_to_be_had") else { return };
    let api = lab.api();
    api.forbid("nodes");
    let config = api.kubeconfig(lab.directory());
    let output = run(&lab, &["check", "-o", "json", "--kubeconfig", config.to_str().expect("a plain path")]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let line = |what: &str| {
        let found = report["names"].as_array().expect("a list").iter().find(|item| item["what"] == what);
        found.unwrap_or_else(|| panic!("nothing about {what} in {report:#}")).clone()
    };
    assert!(line("API server").to_string().contains("v1.33.1-lab"));
    assert!(line("node name").to_string().contains(&format!("{}, 3 pods", host_name())));
    assert_eq!((&line("pods")["ok"], &line("nodes")["ok"]), (&json!(true), &json!(false)));
    has(&line("nodes").to_string(), &["list and watch is not allowed"]);
}

#[test]
fn kubectl_reads_our_api_server() {
    let Some(lab) = Lab::start("kubectl_reads_our_api_server") else { return };
    let api = lab.api();
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(api.kubeconfig(lab.directory())).env("HOME", lab.directory());
    command.args(["get", "pods", "-A", "--no-headers", "-o", "wide"]).stdin(Stdio::null());
    let output = lab.on("node").enter(|| command.output()).expect("run kubectl");
    let (said, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{words}");
    for name in ["web-0", "web-1", "db-client"] {
        assert!(said.lines().any(|line| line.starts_with("shop") && line.contains(name)), "{name} is not in: {said}");
    }
}
