//! `kill -9` leaves nothing behind.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use netprobe_tests::{Lab, SERVER, binary, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Ids of the BPF objects of one kind (`prog`, `link`, `map`) that a process holds open.
fn held(kind: &str, pid: Pid) -> BTreeSet<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs").flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let field = format!("{kind}_id:");
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix(&field)?.trim().parse().ok());
    texts.filter_map(id).collect()
}

fn objects(kind: &str) -> Vec<Value> {
    let output = Command::new("bpftool").args(["-j", kind]).stderr(Stdio::null()).output();
    let output = output.expect("bpftool is installed (Debian: apt-get install bpftool)");
    match serde_json::from_slice(&output.stdout) {
        Ok(Value::Array(objects)) => objects,
        other => panic!("bpftool -j {kind} printed {other:?}"),
    }
}

fn there(kind: &str, ids: &BTreeSet<u64>) -> Vec<u64> {
    objects(kind).iter().filter_map(|o| o["id"].as_u64()).filter(|id| ids.contains(id)).collect()
}

/// All that netprobe could have added to the network. It makes no namespaces.
fn network(lab: &Lab) -> Vec<String> {
    let mut state = vec![];
    for name in ["node", "web-0", "web-1", "db-client"] {
        for line in ["tc qdisc show", "ip -br link", "ip rule", "ip -6 rule", "nft list ruleset"] {
            state.push(lab.on(name).run(line));
        }
        for device in lab.on(name).run("ip -br link | cut -d' ' -f1 | cut -d@ -f1").lines() {
            let both = format!("tc filter show dev {device} ingress; tc filter show dev {device} egress");
            state.push(lab.on(name).run(&both));
        }
    }
    state
}

/// What a process holds of each kind.
fn all_held(pid: Pid) -> [(&'static str, BTreeSet<u64>); 3] {
    ["prog", "link", "map"].map(|kind| (kind, held(kind, pid)))
}

fn all_gone(all: &[(&str, BTreeSet<u64>)]) {
    for (kind, ids) in all {
        // The kernel frees programs after a grace period.
        let gone = wait(Duration::from_secs(6), || there(kind, ids).is_empty());
        assert!(gone, "left behind: {kind} {:?}", there(kind, ids));
    }
}

/// Kills netprobe with these words after `delay` and looks for what it left.
fn story(lab: &Lab, args: &[&str], delay: Duration) {
    let before = network(lab);
    let probe = lab.netprobe(args);
    let pid = probe.pid();
    let held = all_held(pid);
    for (kind, ids) in &held {
        // Without TCX the classifiers hang on filters, and a run of nothing else has no links.
        let seen = !there(kind, ids).is_empty() || (*kind == "link" && network(lab) != before);
        assert!(seen, "a test that sees no {kind} of ours proves nothing");
    }
    lab.on("web-0").connects(SERVER);
    thread::sleep(delay);
    kill(pid, Signal::SIGKILL).expect("it runs");
    drop(probe);
    all_gone(&held);
    // Filters are the guardian's to remove, at once after the kill.
    wait(Duration::from_secs(3), || network(lab) == before);
    assert_eq!(network(lab), before);
}

#[test]
fn nothing_is_left_after_kill_nine() {
    let Some(lab) = Lab::start("nothing_is_left_after_kill_nine") else { return };
    for args in [&["trace", "--pod", "shop/web-0"][..], &["flows"]] {
        for delay_ms in [0, 50, 300] {
            story(&lab, args, Duration::from_millis(delay_ms));
        }
    }
    lab.on("web-0").connects(SERVER);
}

#[test]
fn netprobe_starts_again_after_kill_nine() {
    let Some(lab) = Lab::start("netprobe_starts_again_after_kill_nine") else { return };
    let first = lab.trace("web-0");
    kill(first.pid(), Signal::SIGKILL).expect("it runs");
    drop(first);
    let second = lab.trace("web-0");
    lab.on("web-0").connects(SERVER);
    second.settled().silent();
}

#[test]
fn nothing_is_left_of_a_start_that_was_killed() {
    let Some(lab) = Lab::start("nothing_is_left_of_a_start_that_was_killed") else { return };
    let before = network(&lab);
    for delay_ms in [20, 60, 100, 150, 200, 300, 500] {
        let mut command = Command::new(binary());
        command.args(["trace", "--all", "--no-kube"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = lab.on("node").enter(|| command.spawn()).expect("start netprobe");
        thread::sleep(Duration::from_millis(delay_ms));
        let held = all_held(Pid::from_raw(child.id().try_into().expect("a pid")));
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
        all_gone(&held);
    }
    assert_eq!(network(&lab), before);
}
