//! Without TCX links classifiers are filters, which outlive their process: netprobe takes them away however it ends.

use std::{fs, net::SocketAddr, thread, time::Duration};

use netprobe_tests::{Lab, Probe, SERVER, WEB_0, binary, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::flows::{SINK, counted, is_exact, is_told_exactly, line, send};

/// The way of kernels before 6.6, on any.
const WAY: [(&str, &str); 1] = [("NETPROBE_TC", "clsact")];
/// How long the guardian may take to clean up.
const CLEAN: Duration = Duration::from_secs(3);

fn flows(lab: &Lab) -> Probe {
    lab.netprobe_with(&WAY, &["flows"])
}

/// The clsact qdiscs of the node and of a pod, and all filters of their devices.
fn filters(lab: &Lab) -> String {
    let each = "tc qdisc show | grep clsact | sort
        for d in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do
            for w in ingress egress; do tc filter show dev $d $w; done
        done";
    ["node", "web-0"].map(|name| lab.on(name).run(each)).concat()
}

/// How many of netprobe's filters there are.
fn ours(lab: &Lab) -> usize {
    filters(lab).lines().filter(|line| line.contains(" netprobe_")).count()
}

/// The guardian's process; it is a child of the probe's.
fn guardian(probe: &Probe) -> Pid {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", probe.pid())).expect("it runs");
    let pids = children.split_whitespace().map(|pid| pid.parse().expect("a pid")).map(Pid::from_raw);
    let named =
        |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "netprobe-guard");
    let found: Vec<Pid> = pids.filter(named).collect();
    assert_eq!(found.len(), 1, "children: {children}");
    found[0]
}

/// Gone, and no zombie either.
fn ended(pid: Pid) -> bool {
    wait(CLEAN, || !fs::exists(format!("/proc/{pid}")).expect("/proc is readable"))
}

#[track_caller]
fn left_as(lab: &Lab, before: &str) {
    assert!(wait(CLEAN, || filters(lab) == before), "before:\n{before}\nafter:\n{}", filters(lab));
}

#[test]
fn filters_count_as_links_do() {
    let Some(lab) = Lab::start("filters_count_as_links_do") else { return };
    let to = SocketAddr::new(SERVER.ip(), SINK);
    let probe = flows(&lab);
    assert!(ours(&lab) >= 4, "not by filters: {}", filters(&lab));
    send(&lab, to, ("server", to));
    let run = probe.stop();
    is_exact(counted(&run, "web-0", WEB_0.device)[0], false);
    is_exact(counted(&run, "web-0", "eth1")[0], false);
    is_told_exactly(line(&run, "web-0", to.ip(), SINK), false);
    assert_eq!(run.stderr, "");
}

#[test]
fn nothing_is_left_however_it_ends() {
    let Some(lab) = Lab::start("nothing_is_left_however_it_ends") else { return };
    // Devices of the pod alone: the node has no end of them.
    lab.on("web-0").run("ip link add own0 type veth peer name own1");
    let before = filters(&lab);
    assert_eq!(before, "", "a fresh network has no filters");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let probe = flows(&lab);
        let (guardian, pid) = (guardian(&probe), probe.pid());
        assert!(filters(&lab).contains("dev own0") && ours(&lab) >= 6, "{}", filters(&lab));
        kill(pid, signal).expect("it runs");
        if signal == Signal::SIGKILL {
            left_as(&lab, &before);
            drop(probe);
        } else {
            drop(probe.wait());
            assert!(filters(&lab) == before, "{signal}: {}", filters(&lab));
        }
        assert!(ended(guardian), "{signal}: the guardian is still there");
    }
    lab.on("web-0").connects(SERVER);
}

#[test]
fn the_guardian_holds_nothing_and_is_in_no_group_of_ours() {
    let Some(lab) = Lab::start("the_guardian_holds_nothing_and_is_in_no_group_of_ours") else { return };
    let probe = flows(&lab);
    let guardian = guardian(&probe);
    let stat = fs::read_to_string(format!("/proc/{guardian}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    assert_eq!(fields[2..4], [guardian.to_string(), guardian.to_string()], "group and session are its own: {stat}");
    let files = fs::read_dir(format!("/proc/{guardian}/fd")).expect("it runs").flatten();
    for file in files.filter_map(|file| fs::read_link(file.path()).ok()) {
        let name = file.to_string_lossy();
        assert!(name.starts_with("socket:") || name == "/dev/null", "it holds {name}");
    }
    // What ends a service ends all of its processes; it waits for us nevertheless.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(guardian, signal).expect("it runs");
    }
    thread::sleep(Duration::from_millis(100));
    kill(probe.pid(), Signal::SIGKILL).expect("it runs");
    left_as(&lab, "");
    drop(probe);
    assert!(ended(guardian), "the guardian is still there");
}

#[test]
fn what_was_there_before_stays() {
    let Some(lab) = Lab::start("what_was_there_before_stays") else { return };
    let node = lab.on("node");
    node.run(&format!("tc qdisc add dev {} clsact", WEB_0.device));
    for way in ["ingress", "egress"] {
        node.run(&format!("tc filter add dev {} {way} pref 1 bpf da bytecode '1,6 0 0 0'", WEB_0.device));
    }
    node.run("tc qdisc add dev eth1 clsact");
    let before = filters(&lab);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let probe = flows(&lab);
        assert!(ours(&lab) >= 4, "{}", filters(&lab));
        kill(probe.pid(), signal).expect("it runs");
        if signal == Signal::SIGTERM {
            let run = probe.wait();
            assert!(run.stderr.contains("earlier TC filter") && run.stderr.contains(WEB_0.device), "{}", run.stderr);
        }
        left_as(&lab, &before);
    }
    lab.on("web-0").connects(SERVER);
}

#[test]
fn what_others_add_meanwhile_stays_and_keeps_the_qdisc() {
    let Some(lab) = Lab::start("what_others_add_meanwhile_stays_and_keeps_the_qdisc") else { return };
    let probe = flows(&lab);
    lab.on("node").run(&format!("tc filter add dev {} egress pref 9 u32 match u32 0 0 flowid 1:1", WEB_0.device));
    kill(probe.pid(), Signal::SIGKILL).expect("it runs");
    assert!(wait(CLEAN, || ours(&lab) == 0), "{}", filters(&lab));
    thread::sleep(Duration::from_millis(200));
    let after = filters(&lab);
    assert!(after.contains("pref 9 u32") && after.matches("clsact").count() == 1, "{after}");
}

#[test]
fn a_later_start_removes_what_nobody_could() {
    let Some(lab) = Lab::start("a_later_start_removes_what_nobody_could") else { return };
    let first = flows(&lab);
    let filters_of_one = ours(&lab);
    kill(guardian(&first), Signal::SIGKILL).expect("it runs");
    kill(first.pid(), Signal::SIGKILL).expect("it runs");
    drop(first);
    assert_eq!(ours(&lab), filters_of_one, "a test that leaves nothing proves nothing");
    let second = flows(&lab);
    assert_eq!(ours(&lab), filters_of_one, "{}", filters(&lab));
    drop(second.stop());
    assert_eq!(filters(&lab), "", "the qdiscs go with the last");
}

#[test]
fn two_at_once_leave_each_other_alone() {
    let Some(lab) = Lab::start("two_at_once_leave_each_other_alone") else { return };
    let first = flows(&lab);
    let filters_of_one = ours(&lab);
    let second = flows(&lab);
    assert_eq!(ours(&lab), 2 * filters_of_one, "{}", filters(&lab));
    drop(first.stop());
    assert_eq!(ours(&lab), filters_of_one, "{}", filters(&lab));
    lab.on("web-0").connects(SERVER);
    let run = second.stop();
    assert!(counted(&run, "web-0", WEB_0.device)[0].0 >= 4, "{run:#?}");
    assert_eq!(filters(&lab), "", "the qdisc of the first goes with the second");
}

#[test]
fn a_device_that_goes_away_is_no_trouble() {
    let Some(mut lab) = Lab::start("a_device_that_goes_away_is_no_trouble") else { return };
    let probe = lab.netprobe_with(&WAY, &["flows", "--watch"]);
    lab.add_pod(netprobe_tests::LATE_POD);
    let device = netprobe_tests::LATE_POD.device;
    let there = |lab: &Lab| lab.on("node").run(&format!("tc filter show dev {device} ingress")).contains("netprobe_in");
    assert!(wait(CLEAN, || there(&lab)), "{}", filters(&lab));
    lab.on("node").run(&format!("ip link del {device}"));
    let guardian = guardian(&probe);
    let run = probe.settled();
    assert!(!run.stderr.contains("not counted"), "{}", run.stderr);
    assert!(ended(guardian), "the guardian is still there");
    assert_eq!(filters(&lab), "");
}

/// What was told of holes in the counts of a device.
fn holes(probe: &Probe, device: &str) -> Vec<Value> {
    let told = probe.objects().into_iter().filter(|object| object["kind"] == "loss");
    told.map(|object| object["hole"].clone()).filter(|hole| hole["device"] == device).collect()
}

#[test]
fn what_somebody_removes_comes_back_and_the_hole_is_told() {
    let Some(lab) = Lab::start("what_somebody_removes_comes_back_and_the_hole_is_told") else { return };
    let to = SocketAddr::new(SERVER.ip(), SINK);
    let device = WEB_0.device;
    for line in [format!("tc filter del dev {device} ingress"), format!("tc qdisc del dev {device} clsact")] {
        let probe = flows(&lab);
        let whole = ours(&lab);
        lab.on("node").run(&line);
        // Told only of filters that were missing; how long they were is over before a slow machine can look.
        assert!(wait(CLEAN, || !holes(&probe, device).is_empty()), "{line}: no word of a hole");
        assert!(wait(CLEAN, || ours(&lab) == whole), "{line}: {}", filters(&lab));
        let told = holes(&probe, device);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0]["from"].as_str() < told[0]["to"].as_str(), "{told:#?}");
        send(&lab, to, ("server", to));
        let run = probe.stop();
        is_exact(counted(&run, "web-0", device)[0], false);
        assert_eq!(filters(&lab), "", "{line}");
    }
}

#[test]
fn what_is_removed_just_before_the_end_is_told_too() {
    let Some(lab) = Lab::start("what_is_removed_just_before_the_end_is_told_too") else { return };
    let probe = flows(&lab);
    lab.on("node").run(&format!("tc filter del dev {} ingress", WEB_0.device));
    let run = probe.stop();
    let told = run.objects.iter().filter(|object| object["hole"]["device"] == WEB_0.device).count();
    assert_eq!(told, 1, "{run:#?}");
    assert_eq!(filters(&lab), "");
}

#[test]
fn a_filter_that_comes_before_ours_is_overtaken_again() {
    let Some(lab) = Lab::start("a_filter_that_comes_before_ours_is_overtaken_again") else { return };
    let device = WEB_0.device;
    let probe = flows(&lab);
    lab.on("node").run(&format!("tc filter add dev {device} ingress pref 10 bpf da bytecode '1,6 0 0 2'"));
    assert!(wait(CLEAN, || !holes(&probe, device).is_empty()), "no word of a hole: {}", filters(&lab));
    lab.on("web-0").cannot_connect(SERVER);
    let run = probe.stop();
    let told = line(&run, "web-0", SERVER.ip(), SERVER.port());
    assert!(told["out"]["packets"].as_u64() >= Some(1), "what theirs drops is counted: {told:#}");
    assert!(filters(&lab).contains("pref 10 bpf") && ours(&lab) == 0, "theirs stays: {}", filters(&lab));
}

#[test]
fn a_guardian_that_is_killed_is_replaced() {
    let Some(lab) = Lab::start("a_guardian_that_is_killed_is_replaced") else { return };
    let probe = flows(&lab);
    let first = guardian(&probe);
    kill(first, Signal::SIGKILL).expect("it runs");
    assert!(ended(first), "a zombie stays");
    let children = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", probe.pid())).expect("it runs");
    assert!(wait(CLEAN, || !children().trim().is_empty()), "no other guardian");
    // It names itself once it is ready.
    thread::sleep(Duration::from_millis(500));
    let second = guardian(&probe);
    assert_ne!(first, second);
    assert!(holes(&probe, WEB_0.device).is_empty(), "nothing was missed");
    kill(probe.pid(), Signal::SIGKILL).expect("it runs");
    left_as(&lab, "");
    assert!(ended(second), "the guardian is still there");
}

#[test]
fn check_says_which_way() {
    let check = |way: &str| {
        let output = std::process::Command::new(binary()).arg("check").env("NETPROBE_TC", way).output();
        String::from_utf8(output.expect("it runs").stdout).expect("it is text")
    };
    assert!(check("clsact").contains("with a guardian"), "{}", check("clsact"));
    assert!(check("xdp").contains("it is tcx or clsact"), "{}", check("xdp"));
}
