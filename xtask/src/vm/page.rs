//! docs/kernels.md: which story holds on which kernel, from the results that docs/kernels.json keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    kernel::Kernel,
    report::{Outcome, Results, Story},
    types::Hooks,
};
use crate::shell::{ask, say};

const KEPT: &str = "docs/kernels.json";
const PAGE: &str = "docs/kernels.md";
const HEAD: &str = "\
# Stories on other kernels

Each story of `tests/cases/` breaks a network one way and demands one finding. This is what became of them in guests of
QEMU with Debian's kernels, without hardware help, run by `cargo xtask vm --publish`; \"-\" was not run.

";

const TYPES: &str = "
## Kernels that were not booted

What `netprobe check` finds in the types (BTF) of Debian's packages, by `cargo xtask kernels --publish`: whether each hook
is there and passes what its program reads.
";

/// The results of all kernels.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    kernels: BTreeMap<String, OfKernel>,
    /// Of kernels that are not booted: what netprobe finds in their types.
    #[serde(default)]
    types: BTreeMap<String, Hooks>,
}

/// Those of one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct OfKernel {
    /// `uname -r` of the last run.
    release: String,
    stories: BTreeMap<String, Row>,
}

/// That of one story.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    outcome: Outcome,
    /// Where it failed, or why this kernel cannot have it; empty where it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
    /// The source it was run from, `+` where that had changes.
    commit: String,
}

/// Takes the results over, forgets stories that are not in `all` any more, and writes the page.
pub(super) fn publish(root: &Path, kernel: Kernel, results: &Results, all: &[String]) -> Result<()> {
    let mut kept = read(root)?.unwrap_or_default();
    let commit = commit(root)?;
    let of_kernel = kept.kernels.entry(kernel.name().to_owned()).or_default();
    of_kernel.release.clone_from(&results.release);
    for (story, told) in &results.stories {
        let row = Row { outcome: told.outcome, note: note(told), commit: commit.clone() };
        of_kernel.stories.insert(story.clone(), row);
    }
    for of_kernel in kept.kernels.values_mut() {
        of_kernel.stories.retain(|story, _| all.contains(story));
    }
    write(root, &kept)
}

/// Takes over what netprobe finds in the types of kernels, and writes the page.
pub(super) fn publish_types(root: &Path, types: BTreeMap<String, Hooks>) -> Result<()> {
    let mut kept = read(root)?.unwrap_or_default();
    kept.types = types;
    write(root, &kept)
}

fn write(root: &Path, kept: &Kept) -> Result<()> {
    let text = serde_json::to_string_pretty(kept).context("write the results")?;
    fs::write(root.join(KEPT), text + "\n").with_context(|| format!("write {KEPT}"))?;
    fs::write(root.join(PAGE), page(kept)).with_context(|| format!("write {PAGE}"))?;
    say("vm", &format!("wrote {KEPT} and {PAGE}"));
    Ok(())
}

/// Fails if the page is not what the kept results say.
pub(crate) fn check(root: &Path) -> Result<()> {
    let Some(kept) = read(root)? else { return Ok(()) };
    let text = fs::read_to_string(root.join(PAGE)).with_context(|| format!("read {PAGE}"))?;
    if text != page(&kept) {
        bail!("{PAGE} is not what {KEPT} says; run `cargo xtask vm --publish`");
    }
    Ok(())
}

fn read(root: &Path) -> Result<Option<Kept>> {
    let path = root.join(KEPT);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("read {KEPT}"))?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("parse {KEPT}"))
}

fn commit(root: &Path) -> Result<String> {
    let git = |arguments: &[&str]| {
        ask(Command::new("git").current_dir(root).args(["-c", "safe.directory=*"]).args(arguments))
    };
    let clean = git(&["status", "--porcelain", "--", ".", ":!docs/kernels.*"])?.trim().is_empty();
    Ok(format!("{}{}", git(&["rev-parse", "--short", "HEAD"])?.trim(), if clean { "" } else { "+" }))
}

/// One line about a story that did not pass.
fn note(told: &Story) -> String {
    const LONGEST: usize = 160;
    let mut lines = told.said.lines();
    let line = match told.outcome {
        Outcome::Passed => "",
        Outcome::NotHere => told.said.trim(),
        Outcome::Late => "did not end in time",
        Outcome::Lost => "the guest did not report it",
        // The line after the one that says where.
        Outcome::Failed => {
            lines.find(|line| line.contains("panicked at")).and(lines.next()).unwrap_or("it says no why")
        }
    };
    line.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

fn page(kept: &Kept) -> String {
    let mut text = HEAD.to_owned();
    for (name, of_kernel) in in_order(kept) {
        let count = |outcome| of_kernel.stories.values().filter(|row| row.outcome == outcome).count();
        let commits: BTreeSet<&str> = of_kernel.stories.values().map(|row| row.commit.as_str()).collect();
        let commits = commits.into_iter().collect::<Vec<_>>().join(", ");
        let (run, passed, not_here) = (of_kernel.stories.len(), count(Outcome::Passed), count(Outcome::NotHere));
        let _ = writeln!(
            text,
            "* {name} ({}): {run} run, {passed} passed, {not_here} not on this kernel, {} failed; source {commits}",
            of_kernel.release,
            run - passed - not_here
        );
    }
    let names: Vec<&str> = in_order(kept).map(|(name, _)| name).collect();
    let _ = writeln!(text, "\n| story | Linux {} |\n|---|{}", names.join(" | Linux "), "---|".repeat(names.len()));
    let stories: BTreeSet<&String> = kept.kernels.values().flat_map(|k| k.stories.keys()).collect();
    for story in stories {
        let cells: Vec<&str> = in_order(kept).map(|(_, k)| k.stories.get(story).map_or("-", word)).collect();
        let _ = writeln!(text, "| `{story}` | {} |", cells.join(" | "));
    }
    for (name, of_kernel) in in_order(kept) {
        for (story, row) in of_kernel.stories.iter().filter(|(_, row)| !row.note.is_empty()) {
            let _ = writeln!(text, "\n`{story}`, Linux {name}, {}: {}", word(row), row.note.replace('|', "\\|"));
        }
    }
    text + &types(&kept.types)
}

/// Kernels of which only the types were looked at, those side by side that lack the same.
fn types(kept: &BTreeMap<String, Hooks>) -> String {
    let mut groups: Vec<(Vec<&str>, &Hooks)> = vec![];
    for (release, hooks) in kept {
        match groups.iter_mut().find(|(_, same)| *same == hooks) {
            Some((releases, _)) => releases.push(release),
            None => groups.push((vec![release], hooks)),
        }
    }
    let mut text = String::new();
    for (releases, hooks) in groups {
        if text.is_empty() {
            text.push_str(TYPES);
        }
        let without: Vec<(&String, &String)> =
            hooks.iter().filter_map(|(hook, why)| Some((hook, why.as_ref()?))).collect();
        let (fit, count) = (hooks.len() - without.len(), hooks.len());
        let _ = writeln!(text, "\n{fit} of {count} fit Linux {}.", releases.join(", "));
        for (hook, why) in without {
            let _ = writeln!(text, "* `{hook}`: {why}");
        }
    }
    text
}

/// Oldest first.
fn in_order(kept: &Kept) -> impl Iterator<Item = (&'static str, &OfKernel)> {
    Kernel::ALL.iter().filter_map(|kernel| Some((kernel.name(), kept.kernels.get(kernel.name())?)))
}

const fn word(row: &Row) -> &'static str {
    match row.outcome {
        Outcome::Passed => "ok",
        Outcome::NotHere => "not on this kernel",
        Outcome::Failed | Outcome::Late | Outcome::Lost => "**failed**",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Outcome, note: &str) -> Row {
        Row { outcome, note: note.to_owned(), commit: "abc".to_owned() }
    }

    #[test]
    fn what_failed_or_was_not_run_does_not_look_passed() {
        let stories = BTreeMap::from([
            ("a::one".to_owned(), row(Outcome::Passed, "")),
            ("a::two".to_owned(), row(Outcome::Failed, "no finding")),
        ]);
        let old = OfKernel { release: "6.1.0-9".to_owned(), stories };
        let stories = BTreeMap::from([("a::one".to_owned(), row(Outcome::Late, "did not end in time"))]);
        let new = OfKernel { release: "6.12.1".to_owned(), stories };
        let text = page(&Kept {
            kernels: BTreeMap::from([("6.1".to_owned(), old), ("6.12".to_owned(), new)]),
            ..Kept::default()
        });
        assert!(
            text.contains("* 6.1 (6.1.0-9): 2 run, 1 passed, 0 not on this kernel, 1 failed; source abc\n"),
            "{text}"
        );
        assert!(text.contains("| story | Linux 6.1 | Linux 6.12 |\n|---|---|---|\n"), "{text}");
        assert!(text.contains("| `a::one` | ok | **failed** |\n| `a::two` | **failed** | - |\n"), "{text}");
        assert!(text.contains("\n`a::two`, Linux 6.1, **failed**: no finding\n"), "{text}");
    }

    #[test]
    fn a_failure_is_noted_by_its_message() {
        let said =
            "running 1 test\nthread 'x' panicked at tests/cases/x.rs:1:2:\nno finding x\nnote: run with\n".to_owned();
        assert_eq!(note(&Story { outcome: Outcome::Failed, seconds: 1.0, said }), "no finding x");
    }
}
