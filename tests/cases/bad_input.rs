//! Bad input gets one clear line that says what is wrong and what to do, and exit code 2.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use netprobe_tests::{Lab, Run, SERVER, binary};

/// `nobody` on Debian and on most others.
const NOBODY: u32 = 65534;

fn netprobe(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    command
}

/// What it said; it must be one line, and perhaps one that says what to do, and exit code 2.
fn refusal(mut command: Command) -> String {
    let output = command.output().expect("start netprobe");
    refused(&output)
}

fn refused(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    let lines: Vec<_> = words.lines().collect();
    match lines.as_slice() {
        [what] => assert!(what.starts_with("netprobe: "), "{words}"),
        [what, hint] => assert!(what.starts_with("netprobe: ") && hint.starts_with("  try: "), "{words}"),
        _ => panic!("one line and a hint at most, not:\n{words}"),
    }
    words
}

/// The same on the node of a lab.
fn refused_on_node(lab: &Lab, args: &[&str]) -> String {
    let mut command = netprobe(args);
    refused(&lab.on("node").enter(|| command.output()).expect("start netprobe"))
}

fn says(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in: {words}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our paths are text")
}

#[test]
fn without_root_it_says_what_it_needs() {
    let Some(lab) = Lab::start("without_root_it_says_what_it_needs") else { return };
    // Nobody may be able to read where cargo builds.
    let program = PathBuf::from(format!("/tmp/nptest-{}", std::process::id()));
    fs::copy(binary(), &program).expect("copy netprobe");
    let mut command = Command::new(&program);
    command.args(["trace", "--all", "--no-kube"]).stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
    let output = lab.on("node").enter(|| command.output()).expect("start netprobe");
    fs::remove_file(&program).expect("remove the copy");
    says(&refused(&output), &["privileges", "sudo", "CAP_BPF"]);
}

#[test]
fn a_kernel_without_types_is_told() {
    let Some(lab) = Lab::start("a_kernel_without_types_is_told") else { return };
    let words = refused_on_node(&lab, &["trace", "--all", "--no-kube", "--btf", "/nonexistent/vmlinux"]);
    says(&words, &["/nonexistent/vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
}

#[test]
fn an_unknown_pod_is_told_with_the_closest_names() {
    let Some(lab) = Lab::start("an_unknown_pod_is_told_with_the_closest_names") else { return };
    let inventory = lab.inventory();
    let args = ["trace", "--pod", "shop/wbe-0", "--no-kube", "--inventory", text(&inventory)];
    says(&refused_on_node(&lab, &args), &["wbe-0", "shop/web-0"]);
    let args = ["trace", "--pod", "shop/late-0", "--no-kube", "--inventory", text(&inventory)];
    says(&refused_on_node(&lab, &args), &["shop/late-0", "10.61.7.20"]);
}

#[test]
fn an_unknown_network_namespace_is_told() {
    let Some(lab) = Lab::start("an_unknown_network_namespace_is_told") else { return };
    says(&refused_on_node(&lab, &["trace", "--netns", "nowhere", "--no-kube"]), &["nowhere"]);
    says(&refused_on_node(&lab, &["trace", "--pid", "4194300", "--no-kube"]), &["4194300"]);
}

#[test]
fn a_broken_inventory_is_told_with_line_and_reason() {
    let Some(lab) = Lab::start("a_broken_inventory_is_told_with_line_and_reason") else { return };
    let path = lab.directory().join("broken.json");
    for (content, parts) in [
        ("{\"items\": [\n{\"kind\": \"Pod\",,\n", ["line 2", "key must be a string"]),
        ("{\"colour\": \"blue\"}", ["line 1", "no List of Kubernetes objects"]),
        (
            "{\"items\": [{\"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}, \"status\": {\"podIP\": \"10.0.0.300\"}}]}",
            ["pod a", "10.0.0.300"],
        ),
    ] {
        fs::write(&path, content).expect("write the inventory");
        let words = refused_on_node(&lab, &["trace", "--all", "--no-kube", "--inventory", text(&path)]);
        says(&words, &["broken.json"]);
        says(&words, &parts);
    }
    let words = refused_on_node(&lab, &["trace", "--all", "--no-kube", "--inventory", "/nonexistent.json"]);
    says(&words, &["/nonexistent.json", "No such file"]);
}

#[test]
fn a_bad_filter_is_told_with_the_word_that_is_wrong() {
    let Some(lab) = Lab::start("a_bad_filter_is_told_with_the_word_that_is_wrong") else { return };
    says(&refused_on_node(&lab, &["trace", "--all", "--no-kube", "tcp", "and", "prot", "80"]), &["prot"]);
    says(&refused_on_node(&lab, &["trace", "--all", "--no-kube", "port", "70000"]), &["70000"]);
}

#[test]
fn a_recording_that_cannot_be_written_is_told() {
    let Some(lab) = Lab::start("a_recording_that_cannot_be_written_is_told") else { return };
    for path in ["/nonexistent/run.npr", "/proc", "/proc/version"] {
        says(&refused_on_node(&lab, &["trace", "--all", "--no-kube", "--record", path]), &[path]);
    }
}

#[test]
fn something_else_than_a_recording_is_told() {
    let file = std::env::temp_dir().join(format!("nptest-{}-no.npr", std::process::id()));
    for content in ["", "hello, this is no recording at all\n"] {
        fs::write(&file, content).expect("write the file");
        says(&refusal(netprobe(&["replay", text(&file)])), &[text(&file)]);
    }
    fs::remove_file(&file).expect("it is there");
    says(&refusal(netprobe(&["replay", "/nonexistent.npr"])), &["/nonexistent.npr", "No such file"]);
}

/// A run on a network without its route, recorded.
fn recorded(lab: &Lab, path: &Path) -> Run {
    lab.on("node").run("ip route flush table 2");
    let probe = lab.netprobe(&["trace", "--pod", "shop/web-0", "--record", text(path)]);
    drop(lab.on("web-0").cannot_connect(SERVER));
    let _ = probe.finding("wrong-egress");
    probe.settled()
}

#[test]
fn a_recording_replays_to_the_same_findings_and_a_damaged_one_is_told() {
    let Some(lab) = Lab::start("a_recording_replays_to_the_same_findings_and_a_damaged_one_is_told") else { return };
    let path = lab.directory().join("run.npr");
    let live = recorded(&lab, &path);
    let output = netprobe(&["replay", "-o", "json", text(&path)]).output().expect("start netprobe");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let again = String::from_utf8(output.stdout).expect("output is text");
    let objects = again.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let again = Run { objects, stderr: String::new() };
    assert_eq!(format!("{:?}", again.findings()), format!("{:?}", live.findings()));

    let whole = fs::read(&path).expect("the recording");
    let damaged = lab.directory().join("damaged.npr");
    fs::write(&damaged, &whole[..whole.len() / 2]).expect("write");
    says(&refusal(netprobe(&["replay", text(&damaged)])), &["damaged.npr"]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    fs::write(&damaged, flipped).expect("write");
    says(&refusal(netprobe(&["replay", text(&damaged)])), &["damaged.npr"]);
}
