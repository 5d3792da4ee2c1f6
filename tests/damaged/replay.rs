//! Recordings that were cut or changed on their way.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output},
};

use netprobe_tests::binary;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::material::recording;

/// A file of this test alone; gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = env::temp_dir().join(format!("netprobe-{}-{name}.npr", std::process::id()));
        fs::write(&path, bytes).expect("write the file");
        Self(path)
    }

    fn replay(&self) -> Output {
        let mut command = Command::new(binary());
        command.args(["replay", "--output", "json"]).arg(&self.0).env_remove("NETPROBE_LOG");
        command.output().expect("run netprobe")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

/// One line on stderr, exit code 2, and whole lines of JSON on stdout.
fn complains(output: &Output, about: &str) -> String {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{about}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{about}: {stderr}");
    assert!(stderr.starts_with("netprobe: "), "{about}: {stderr}");
    let stdout = text(&output.stdout);
    for line in stdout.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{about}: {error}: {line}"));
    }
    stdout
}

#[test]
fn what_came_before_the_damage_is_told() {
    let mut bytes = fs::read(recording("wrong-nic")).expect("a recording");
    let late = bytes.len() - 2_000;
    bytes[late] ^= 0x10;
    let output = Scratch::new("late", &bytes).replay();
    let told = complains(&output, "a flipped bit near the end");
    assert!(told.contains(r#""rule":"wrong-egress""#), "{told}");
    assert!(told.lines().last().expect("lines").contains(r#""kind":"summary""#));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("damaged in frame") || stderr.contains("cut off at byte"), "{stderr}");
}

#[test]
fn a_recording_whose_run_was_killed_is_told_as_far_as_it_goes() {
    let bytes = fs::read(recording("rule-missing")).expect("a recording");
    // Without the last frame, whose payload is empty.
    let output = Scratch::new("killed", &bytes[..bytes.len() - 9]).replay();
    let golden = fs::read(format!("{}/golden/rule-missing.json", env!("CARGO_MANIFEST_DIR"))).expect("a golden file");
    assert_eq!(complains(&output, "no end"), text(&golden));
}

#[test]
fn a_recording_of_nothing_is_refused() {
    let bytes = fs::read(recording("blackhole")).expect("a recording");
    for length in [0, 1, 8, 15, 16, 20, 200, 4_000] {
        let told = complains(&Scratch::new(&format!("short{length}"), &bytes[..length]).replay(), "a short file");
        assert_eq!(told, "", "{length} bytes tell nothing");
    }
    complains(&Scratch::new("other", b"\x7fELF and so on, for more than sixteen bytes").replay(), "another file");
}

#[test]
fn no_damage_makes_a_replay_panic_or_lie() {
    let bytes = fs::read(recording("netfilter-drop")).expect("a recording");
    let golden = fs::read_to_string(format!("{}/golden/netfilter-drop.json", env!("CARGO_MANIFEST_DIR")));
    let golden = golden.expect("a golden file");
    let whole: Vec<&str> = golden.lines().collect();
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config { cases: 60, ..Config::default() }, rng);
    let places = proptest::collection::vec((0..bytes.len(), 0u8..8), 1..4);
    let cut = proptest::option::weighted(0.3, 0..bytes.len());
    let result = runner.run(&(places, cut), |(places, cut)| {
        let mut spoiled = bytes.clone();
        for (at, bit) in &places {
            spoiled[*at] ^= 1 << bit;
        }
        spoiled.truncate(cut.unwrap_or(bytes.len()));
        let told = complains(&Scratch::new("fuzz", &spoiled).replay(), &format!("{places:?} {cut:?}"));
        // Findings may be fewer, but what is told of them is what the whole recording tells.
        for line in told.lines().filter(|line| line.contains(r#""kind":"packet""#)) {
            assert!(whole.contains(&line), "{places:?} {cut:?}: {line}");
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
