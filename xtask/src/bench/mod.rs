//! `cargo xtask bench`: the figures of the project, measured side by side.

mod agent;
pub(crate) mod clock;
mod finding;
mod forwarding;
mod guest;
mod hooks;
mod lab;
mod load;
mod process;
mod programs;
mod report;
mod start;
mod stats;
mod storm;
mod tool;
mod traffic;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use load::{LoadArgs, send};
use report::{Figure, Report, Row};
use tool::Bench;

use crate::{
    build,
    shell::{ask, is_root, say},
    vm::Kernel,
};

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Fewer and shorter runs: a first look, about a minute.
    #[arg(long)]
    quick: bool,
    /// Measure this netprobe instead of building one.
    #[arg(long, value_name = "FILE")]
    netprobe: Option<PathBuf>,
    /// Beside forwarding measure only tools whose name has this; print the figures, write none.
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Measure in guests of QEMU instead: what the ways to hang a program on the kernel cost, and how long attaching takes.
    #[arg(long, conflicts_with_all = ["only", "rows"])]
    vm: bool,
    /// Inside such a guest.
    #[arg(long, hide = true, value_enum)]
    in_guest: Option<guest::Inside>,
    /// What to measure; all where nothing is named.
    #[arg(value_enum)]
    rows: Vec<What>,
}

/// A row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// What a tool costs the packets that a node forwards.
    Forwarding,
    /// What one hook costs a packet that is not ours.
    Hooks,
    /// A drop storm: whether every drop is counted, and what counting takes.
    Storm,
    /// Start, end and memory.
    Start,
    /// From a bad packet to the finding.
    Finding,
    /// Memory and processor time of the agent on a full node.
    Agent,
}

type Measure = fn(&Bench) -> Result<(Vec<Figure>, String)>;

/// Every row in the order of the page: its name, its heading, what measures it.
const ROWS: &[(What, &str, &str, Measure)] = &[
    (What::Forwarding, "1-forwarding", "Cost to forwarded packets", forwarding::run),
    (What::Hooks, "2-hooks", "Cost of one hook on a packet that is not ours", hooks::run),
    (What::Storm, "3-storm", "Drop storm", storm::run),
    (What::Start, "4-start", "Start, end and memory", start::run),
    (What::Finding, "5-finding", "From a bad packet to the finding", finding::run),
    (What::Agent, "6-agent", "The agent on a full node", agent::run),
];

/// Measures and writes docs/bench.md and docs/bench.json.
pub(crate) fn run(root: &Path, args: &BenchArgs) -> Result<()> {
    if !is_root() {
        bail!("the measurements make network namespaces and load BPF programs; run `cargo xtask bench` as root");
    }
    if let Some(what) = args.in_guest {
        return guest::inside(what);
    }
    let netprobe = match &args.netprobe {
        Some(path) => fs::canonicalize(path).with_context(|| format!("no netprobe at {}", path.display()))?,
        None => build::release(root)?,
    };
    if args.vm {
        return in_guests(root, &netprobe);
    }
    let scratch = Scratch::new()?;
    end_cleanly_on_signals(scratch.0.clone());
    let xtask = env::current_exe().context("find this program")?;
    let only = args.only.clone();
    let bench = Bench {
        netprobe,
        scratch: scratch.0.clone(),
        xtask,
        only,
        processor: "1",
        root: root.to_owned(),
        quick: args.quick,
    };
    let mut report = Report::read(root);
    let machine = machine()?;
    for (what, key, title, measure) in ROWS {
        if !args.rows.is_empty() && !args.rows.contains(what) {
            continue;
        }
        say("bench", title);
        let (figures, text) = measure(&bench)?;
        if bench.only.is_some() {
            figures.iter().for_each(|figure| println!("{}", figure.line()));
            continue;
        }
        let row = Row { title: (*title).to_string(), when: when(root, args.quick)?, figures, text };
        report.write(root, &machine, key, row)?;
    }
    say("bench", "wrote docs/bench.md and docs/bench.json");
    Ok(())
}

/// Measures in guests, a row for each kernel.
fn in_guests(root: &Path, netprobe: &Path) -> Result<()> {
    for kernel in Kernel::ALL {
        say("bench", &format!("Linux {} in a guest", kernel.name()));
        let (release, figures) = guest::measure(root, netprobe, kernel)?;
        figures.iter().for_each(|figure| println!("{}", figure.line()));
        let mut report = Report::read(root);
        let machine = machine()?;
        let title = format!("In a guest with Linux {}", kernel.name());
        let text = format!(
            "Linux {release}, emulated by QEMU on that machine. Attaching is in real time. For the cost of calls the guest's \
             time is counted in instructions, one a nanosecond: only ratios mean anything. Empty programs of bpftrace \
             are where each packet passes; the time is what a packet took longer, by the number of calls. A run of \
             netprobe's programs is run_time_ns / run_cnt, with the kernel's two clock reads."
        );
        report.write(
            root,
            &machine,
            &format!("7-guest-{}", kernel.name()),
            Row { title, when: when(root, false)?, figures, text },
        )?;
    }
    Ok(())
}

/// A folder in memory, gone with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = Path::new("/dev/shm").join(format!("netprobe-bench-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// On Ctrl-C and SIGTERM ends what we started, removes the network and goes.
fn end_cleanly_on_signals(scratch: PathBuf) {
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            process::kill_all();
            programs::restore_stats();
            lab::remove();
            let _ = fs::remove_dir_all(&scratch);
            std::process::exit(130);
        });
    });
}

fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let cpus = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = cpus.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |m| m.1);
    let count = cpus.lines().filter(|l| l.starts_with("processor")).count();
    let kind = if cpus.contains(" hypervisor") { "virtual" } else { "physical" };
    Ok(format!("Linux {}, {count} {kind} CPUs ({model})", kernel.trim()))
}

fn when(root: &Path, quick: bool) -> Result<String> {
    let date = ask(Command::new("date").args(["--utc", "+%Y-%m-%d %H:%M UTC"]))?;
    let git = |arguments: &[&str]| ask(Command::new("git").current_dir(root).args(arguments));
    let commit = git(&["describe", "--always"])?;
    // Our own two pages do not count.
    let clean = git(&["status", "--porcelain", "--", ".", ":!docs/bench.*"])?.trim().is_empty();
    let changed = if clean { "" } else { " with changes" };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    let quick = if quick { ", quick run" } else { "" };
    Ok(format!("{}, commit {}{changed}, load average at the end {load}{quick}", date.trim(), commit.trim()))
}
