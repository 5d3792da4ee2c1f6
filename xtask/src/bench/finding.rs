//! From a bad packet to the line that says what is wrong.

use std::{fs, time::Duration};

use anyhow::Result;
use serde_json::Value;

use super::{
    clock,
    lab::{self, Lab},
    report::{Bar, Figure},
    tool::{Bench, Tool},
};
use crate::shell::say;

/// No finding waits longer than this.
const LIMIT: Duration = Duration::from_secs(15);

struct Story {
    rule: &'static str,
    breaks: fn(&Lab) -> Result<()>,
    to: &'static str,
}

const STORIES: [Story; 2] = [
    Story { rule: "netfilter-drop", breaks: Lab::drop_all, to: lab::DROPPED },
    Story { rule: "wrong-egress", breaks: Lab::wrong_egress, to: lab::OPEN },
];

/// Measures it.
pub(crate) fn run(bench: &Bench) -> Result<(Vec<Figure>, String)> {
    let runs = if bench.quick { 2 } else { 7 };
    let mut figures = vec![];
    for story in STORIES {
        let lab = Lab::new()?;
        (story.breaks)(&lab)?;
        let (mut seconds, mut else_said) = (vec![], None);
        for _ in 0..runs {
            match once(bench, &story)? {
                Ok(took) => seconds.push(took.as_secs_f64()),
                Err(said) => else_said = Some(said),
            }
        }
        let what = format!("first packet to the finding `{}`", story.rule);
        let note = else_said.map_or_else(
            || "from exec of the sender, so a few ms too long".to_string(),
            |said| format!("{} runs without it; then {said}", runs - seconds.len()),
        );
        let figure = Figure::median(what, "s", &seconds).bar(Bar::AtMost(1.0)).note(note);
        figures.push(figure);
        say("bench", &format!("finding: {} in {seconds:.2?} s", story.rule));
    }
    Ok((figures, String::new()))
}

/// The time it took, or what was found instead.
fn once(bench: &Bench, story: &Story) -> Result<Result<Duration, String>> {
    let tool = Tool::netprobe("netprobe trace", &["trace", "--netns", lab::CLIENT, "-o", "json"]);
    let running = bench.start(&tool)?;
    let start = clock::now();
    let _sender = bench.trickle(lab::CLIENT, story.to, 5, 1.0)?;
    let found = clock::wait(LIMIT, || findings(&running.stdout).first().cloned());
    let took = start.elapsed();
    running.stop()?;
    Ok(match found {
        Some(rule) if rule == story.rule => Ok(took),
        Some(rule) => Err(format!("`{rule}` was found")),
        None => Err(format!("nothing was found within {LIMIT:?}")),
    })
}

fn findings(stdout: &std::path::Path) -> Vec<String> {
    let text = fs::read_to_string(stdout).unwrap_or_default();
    let objects = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let findings = objects.filter(|object| object["kind"] == "finding");
    findings.filter_map(|finding| finding["rule"].as_str().map(str::to_owned)).collect()
}
