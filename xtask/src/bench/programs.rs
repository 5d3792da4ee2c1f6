//! What the kernel says of loaded BPF programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::shell::ask;

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// How often a program ran, and for how long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runs {
    /// Times.
    pub(crate) count: u64,
    /// Nanoseconds in all.
    pub(crate) time_ns: u64,
}

/// One loaded program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Number in the kernel.
    pub(crate) id: u64,
    /// Name, cut to 15 bytes by kernels where BTF does not have the whole.
    pub(crate) name: String,
    /// What it did since it was loaded.
    pub(crate) runs: Runs,
}

/// All programs at hooks that see packets.
pub(crate) fn loaded() -> Result<Vec<Program>> {
    let said = ask(Command::new("bpftool").args(["-j", "prog", "show"]))?;
    let json: Value = serde_json::from_str(&said).context("read what bpftool wrote")?;
    let kinds = ["tracing", "raw_tracepoint", "tracepoint", "kprobe", "sched_cls"];
    let ours = |p: &&Value| kinds.contains(&p["type"].as_str().unwrap_or_default());
    Ok(json.as_array().into_iter().flatten().filter(ours).map(program).collect())
}

fn program(json: &Value) -> Program {
    let number = |field: &str| json[field].as_u64().unwrap_or(0);
    Program {
        id: number("id"),
        name: json["name"].as_str().unwrap_or("unnamed").to_string(),
        runs: Runs { count: number("run_cnt"), time_ns: number("run_time_ns") },
    }
}

/// Those that process `pid` holds, by name.
pub(crate) fn of(pid: u32) -> Result<BTreeMap<String, Runs>> {
    let held = held(pid)?;
    Ok(loaded()?
        .into_iter()
        .filter(|program| held.contains(&program.id))
        .map(|program| (program.name, program.runs))
        .collect())
}

/// Whether `pid` holds all programs that are loaded.
pub(crate) fn alone(pid: u32) -> Result<bool> {
    let held = held(pid)?;
    Ok(loaded()?.iter().all(|program| held.contains(&program.id)))
}

/// Numbers of the programs that process `pid` has open, itself or through a link. Older bpftools do not tell.
fn held(pid: u32) -> Result<BTreeSet<u64>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&folder).with_context(|| format!("read {folder}"))?.flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    Ok(texts.filter_map(id).collect())
}

/// What was in [`STATS`] before we changed it.
static BEFORE: Mutex<Option<String>> = Mutex::new(None);

/// The kernel's book-keeping of run times, for as long as this value lives. It costs time itself.
pub(crate) struct Stats(());

impl Stats {
    /// Turns it on.
    pub(crate) fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS).with_context(|| format!("read {STATS}"))?;
        fs::write(STATS, "1").with_context(|| format!("turn on {STATS}"))?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        Ok(Self(()))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        restore_stats();
    }
}

/// Sets the book-keeping back to what it was, if we changed it.
pub(crate) fn restore_stats() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = fs::write(STATS, before.trim());
    }
}
