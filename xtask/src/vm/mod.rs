//! `cargo xtask vm`: the stories on the kernels that clusters run, in guests of QEMU.
//!
//! A guest is Debian's kernel with a file system in memory (`image`): this machine's programs, the same netprobe and
//! the same stories as the host's. This program is the guest's first process (`guest`) and reports each story on a
//! serial line (`report`); the kernel's own messages go to another (`qemu`).

mod cpio;
mod guest;
mod image;
mod kernel;
mod page;
mod qemu;
mod report;
mod types;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub(crate) use guest::run as guest;
pub(crate) use image::NETPROBE;
pub(crate) use kernel::Kernel;
pub(crate) use page::check as check_page;
use report::{Outcome, Plan, Results};
pub(crate) use types::{TypesArgs, run as types};

use crate::{
    build, setup,
    shell::{ask, is_root, say},
};

/// Options of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// A kernel; all where none is named.
    #[arg(long = "kernel", value_enum, value_name = "KERNEL")]
    kernels: Vec<Kernel>,
    /// Take the results over into docs/kernels.json and docs/kernels.md.
    #[arg(long)]
    publish: bool,
    /// The stories that depend on the kernel most: what CI has time for. One that fails has a second try.
    #[arg(long, conflicts_with = "stories")]
    brief: bool,
    /// Run this line of a shell in the guest instead of stories, and show what it printed.
    #[arg(long = "run", value_name = "LINE", conflicts_with_all = ["stories", "brief", "publish"])]
    line: Option<String>,
    /// Stories whose name has one of these words; all where nothing is named.
    stories: Vec<String>,
}

/// Guests without hardware help are this much slower, so that whatever waits in a story waits so much longer.
const PATIENCE: u32 = 6;
/// How long one story may take in a guest.
const STORY: Duration = Duration::from_secs(600);

/// What `--brief` takes: stories whose names begin so. Programs on kernel functions, which the host may not take; modules
/// of netfilter and devices; clsact in TCX's place; and what is left after a kill.
const BRIEF: &[&str] = &[
    "clsact::filters_count_as_links_do",
    "clsact::nothing_is_left_however_it_ends",
    "conntrack_invalid::",
    "conntrack_race::",
    "devices::a_sound_vrf_is_silent",
    "dns::every_query_is_told_with_its_server_and_what_became_of_it",
    "forwarding_off::a_node_that_does_not_forward_is_told_with_the_setting",
    "healthy::a_healthy_pod",
    "host_network::the_wrong_nic_of_a_pod_on_the_node_is_told",
    "kill_nine::nothing_is_left_of_a_start_that_was_killed",
    "modules::",
    "netfilter_told::",
    "no_route::a_pod_without_a_default_route_is_told_though_no_packet_exists",
    "rp_filter::",
    "rules_traced::of_two_tables_nftables_names_the_rule",
    "wrong_egress::a_rule_with_a_selector_that_is_not_evaluated_is_told_by_the_kernel",
    "wrong_egress::an_empty_table_sends_the_pod_to_the_main_table",
];

/// What CI runs: every kernel, briefly.
pub(crate) fn brief(root: &Path) -> Result<()> {
    run(root, &VmArgs { kernels: vec![], publish: false, brief: true, line: None, stories: vec![] })
}

/// Builds, boots each kernel, runs the stories, and fails if one of them did or could not tell.
pub(crate) fn run(root: &Path, args: &VmArgs) -> Result<()> {
    if !is_root() {
        bail!("the file system of a guest holds programs that only root may read; run `cargo xtask vm` as root");
    }
    setup::ensure_guests()?;
    let netprobe = build::release(root)?;
    let cases = build::stories(root)?;
    let all = listed(&cases)?;
    let stories = if args.line.is_some() { vec![] } else { chosen(&all, args)? };
    let kernels = if args.kernels.is_empty() { &Kernel::ALL[..] } else { &args.kernels };
    let folder = build::target_dir(root)?.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut failed = vec![];
    for kernel in kernels {
        let line = args.line.clone();
        let (stories, limit_seconds) = (stories.clone(), STORY.as_secs());
        let plan = Plan { stories, line, patience: PATIENCE, limit_seconds, is_counted: false };
        let mut results = one(root, *kernel, &plan, (&netprobe, &cases, &[]), &folder)?;
        if args.line.is_some() {
            continue;
        }
        let again: Vec<String> = results.failed().map(str::to_owned).collect();
        if args.brief && !again.is_empty() {
            // On a busy machine a guest is slower than any story has patience for.
            say("vm", &format!("once more, in a new guest: {}", again.join(", ")));
            let plan = Plan { stories: again, ..plan };
            results.stories.extend(one(root, *kernel, &plan, (&netprobe, &cases, &[]), &folder)?.stories);
        }
        results.write(&folder.join(format!("{}.json", kernel.name())))?;
        say("vm", &format!("Linux {}: {}", results.release, results.summary()));
        if args.publish {
            page::publish(root, *kernel, &results, &all)?;
        }
        failed.extend(results.failed().map(|story| format!("{} on {}", story, kernel.name())));
    }
    if !failed.is_empty() {
        bail!("failed in guests:\n  {}", failed.join("\n  "));
    }
    Ok(())
}

/// Runs a line of a shell in a guest that has `programs`, too; returns the guest's release and what the line printed.
pub(crate) fn said(
    root: &Path,
    netprobe: &Path,
    kernel: Kernel,
    line: &str,
    is_counted: bool,
    programs: &[&str],
) -> Result<(String, String)> {
    setup::ensure_guests()?;
    let folder = build::target_dir(root)?.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let line = Some(line.to_owned());
    let plan = Plan { stories: vec![], line, patience: PATIENCE, limit_seconds: STORY.as_secs(), is_counted };
    // There are no stories in it; the guest does not ask for the program of them.
    let results = one(root, kernel, &plan, (netprobe, netprobe, programs), &folder)?;
    Ok((results.release, results.said))
}

/// The stories, as the test program names them: file and story.
fn listed(cases: &Path) -> Result<Vec<String>> {
    let said = ask(Command::new(cases).args(["--list", "--format", "terse"]))?;
    Ok(said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Those to run.
fn chosen(all: &[String], args: &VmArgs) -> Result<Vec<String>> {
    if args.brief {
        return brief_of(all);
    }
    let words = &args.stories;
    let wanted = |name: &&String| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let stories: Vec<String> = all.iter().filter(wanted).cloned().collect();
    if stories.is_empty() {
        bail!("no story has {} in its name", words.join(" or "));
    }
    Ok(stories)
}

/// Those of [`BRIEF`], each of which must be there.
fn brief_of(all: &[String]) -> Result<Vec<String>> {
    if let Some(gone) = BRIEF.iter().find(|brief| !all.iter().any(|story| story.starts_with(**brief))) {
        bail!("no story's name begins with {gone}: correct BRIEF in xtask/src/vm/mod.rs");
    }
    let wanted = |story: &&String| BRIEF.iter().any(|brief| story.starts_with(brief));
    Ok(all.iter().filter(wanted).cloned().collect())
}

fn one(
    root: &Path,
    kernel: Kernel,
    plan: &Plan,
    (netprobe, cases, programs): (&Path, &Path, &[&str]),
    folder: &Path,
) -> Result<Results> {
    let unpacked = kernel::Unpacked::fetch(root, kernel)?;
    let archive: PathBuf = folder.join(format!("{}.cpio", kernel.name()));
    let text = serde_json::to_string(plan).context("write the plan")?;
    image::write(&archive, &unpacked, &image::Contents { netprobe, cases, programs, plan: &text })?;
    say("vm", &format!("Linux {}: {} stories", unpacked.release, plan.stories.len()));
    let guest = qemu::Guest {
        image: &unpacked.image(),
        archive: &archive,
        console: &folder.join(format!("{}.log", kernel.name())),
        silence: STORY + Duration::from_secs(60),
        is_counted: plan.is_counted,
    };
    let mut results = Results::default();
    let ended = guest.run(|event| {
        if let Some(line) = results.take(event) {
            say("vm", &line);
        }
    });
    let _ = fs::remove_file(archive);
    ended.with_context(|| format!("the guest of Linux {} is lost after {}", unpacked.release, results.summary()))?;
    for story in &plan.stories {
        if results.outcome(story).is_none() {
            results.stories.insert(story.clone(), report::Story { outcome: Outcome::Lost, ..Default::default() });
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn briefly_is_what_the_list_names_and_a_name_that_nobody_has_is_told() {
        let named = BRIEF.iter().map(|brief| format!("{brief}x"));
        let all: Vec<String> = named.chain(["why::a".to_owned()]).collect();
        assert_eq!(brief_of(&all).expect("all are there").len(), BRIEF.len());
        let error = brief_of(&all[1..]).expect_err("one is gone");
        assert!(error.to_string().contains(BRIEF[0]), "{error}");
    }
}
