//! Recorded runs: what replay makes of them is golden output, byte for byte. Needs no root.
//!
//! `UPDATE_GOLDEN=1` writes what came out instead of comparing it (the other tests may still meet
//! the old files in that run); `record` makes the recordings.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use netprobe_tests::binary;

/// The formats and how their golden files end.
const FORMATS: [(&str, &str); 2] = [("text", "txt"), ("json", "json")];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn recording(story: &str) -> PathBuf {
    folder("fixtures").join(story).join("run.npr")
}

/// Names in a folder, without what follows the dot.
fn names(folder: &Path, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries.map(|entry| entry.expect("the folder is readable").file_name());
    files.filter_map(|name| Some(name.to_str()?.strip_suffix(ending)?.to_owned())).collect()
}

fn stories() -> BTreeSet<String> {
    names(&folder("fixtures"), "")
}

fn replay(file: &Path, format: &str) -> Output {
    // Whatever the terminal is like that the tests run in.
    replay_at_width(file, format, "100")
}

fn replay_at_width(file: &Path, format: &str, columns: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(["replay", "--output", format, "--color", "never"]).arg(file);
    command.env("COLUMNS", columns).env_remove("NETPROBE_LOG").output().expect("run netprobe")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

/// The first line that differs, for a message that can be read.
fn difference(golden: &str, now: &str) -> String {
    let (mut old, mut new) = (golden.lines(), now.lines());
    for line in 1.. {
        match (old.next(), new.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => return format!("line {line}\n  golden: {}\n  now:    {}", a.unwrap_or("-"), b.unwrap_or("-")),
        }
    }
    "in how lines end".to_owned()
}

#[test]
fn every_recording_replays_to_its_golden_output() {
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for story in stories() {
        for (format, ending) in FORMATS {
            let output = replay(&recording(&story), format);
            assert!(output.status.success(), "{story}: {}", text(&output.stderr));
            assert_eq!(text(&output.stderr), "", "{story}: replay has nothing to complain about");
            let path = folder("golden").join(format!("{story}.{ending}"));
            if update {
                fs::write(&path, &output.stdout).expect("write the golden file");
            }
            let golden = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if golden != output.stdout {
                wrong.push(format!("{story}.{ending}: {}", difference(&text(&golden), &text(&output.stdout))));
            }
        }
    }
    assert!(wrong.is_empty(), "not as in the golden files (UPDATE_GOLDEN=1 rewrites them):\n{}", wrong.join("\n"));
}

#[test]
fn every_recording_has_golden_output_and_no_golden_file_is_left_over() {
    let stories = stories();
    assert!(stories.len() >= 13, "only {stories:?} are recorded");
    for (_, ending) in FORMATS {
        assert_eq!(names(&folder("golden"), &format!(".{ending}")), stories, "golden files in {ending}");
    }
    for story in stories {
        let bytes = fs::metadata(recording(&story)).expect("each fixture is a run.npr").len();
        assert!(bytes <= 100_000, "{story}: {bytes} bytes");
    }
}

#[test]
fn a_recording_says_the_same_each_time_and_at_any_width() {
    for story in stories() {
        let once = replay(&recording(&story), "json").stdout;
        // Hash tables have another order in each process.
        for columns in ["40", "80", "100", "200"] {
            assert_eq!(text(&replay_at_width(&recording(&story), "json", columns).stdout), text(&once), "{story}");
        }
    }
}

/// Each story's golden output has the finding that it is about, and no other.
#[test]
fn the_golden_output_has_the_one_finding_of_its_story() {
    let rule = |story: &str| match story {
        "wrong-nic" | "wrong-nic-ipv6" | "rule-missing" => Some("wrong-egress"),
        "blackhole" => Some("route-blackhole"),
        "neighbour" => Some("neighbour-unresolved"),
        "no-route" => Some("no-route"),
        "rp-filter" => Some("rp-filter"),
        "forwarding-off" => Some("forwarding-off"),
        "netfilter-drop" => Some("netfilter-drop"),
        "netfilter-reject" => Some("netfilter-reject"),
        "no-reply" => Some("no-reply"),
        "port-closed" => Some("port-closed"),
        "healthy" => None,
        other => panic!("say here which rule `{other}` is about"),
    };
    for story in stories() {
        let golden = fs::read_to_string(folder("golden").join(format!("{story}.json"))).expect("a golden file");
        let objects = golden.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let findings = objects.filter(|object| object["kind"] == "finding");
        let rules: BTreeSet<(String, String)> =
            findings.map(|f| (f["id"].to_string(), f["rule"].as_str().expect("a rule").to_owned())).collect();
        let rules: Vec<&str> = rules.iter().map(|(_, rule)| rule.as_str()).collect();
        assert_eq!(rules, rule(&story).into_iter().collect::<Vec<_>>(), "{story}");
    }
}
