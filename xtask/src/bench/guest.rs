//! In guests of QEMU: what the ways to hang a program on the kernel cost beside each other, and how long attaching takes.
//!
//! The machine of the other rows may have neither kprobes nor fentry. Without hardware help only ratios mean anything.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{
    lab::{self, Lab},
    programs::{self, Stats},
    report::{Bar, Figure},
    stats,
    tool::{Bench, Tool},
};
use crate::vm::{self, Kernel};

/// What the line in the guest is, and what it calls beside what stories call.
const LINE: &str = "xtask bench --in-guest";
const PROGRAMS: &[&str] = &["bpftrace", "chrt", "mount", "nsenter", "taskset", "unshare"];

/// An empty program of each kind where every forwarded packet passes once: what it is called, and bpftrace's words for it.
const WAYS: &[(&str, &str)] = &[
    ("fentry", "kfunc:vmlinux:ip_forward { }"),
    ("fexit", "kretfunc:vmlinux:ip_forward { }"),
    ("kprobe", "kprobe:ip_forward { }"),
    ("kretprobe", "kretprobe:ip_forward { }"),
    ("tracepoint", "tracepoint:net:net_dev_queue { }"),
    ("raw tracepoint", "rawtracepoint:net_dev_queue { }"),
];

/// A tenth of what the quickest other tool that attaches to as much took in the same guests: retis, 20 s.
const ATTACH_MS: f64 = 2000.0;

/// Measures one kernel in a guest and returns its release, the figures and the text below them.
pub(super) fn measure(root: &Path, netprobe: &Path, kernel: Kernel) -> Result<(String, Vec<Figure>)> {
    let (release, said) = vm::said(root, netprobe, kernel, LINE, PROGRAMS)?;
    let line = said
        .lines()
        .find(|line| line.starts_with('['))
        .with_context(|| format!("the guest wrote no figures: {said}"))?;
    Ok((release, serde_json::from_str(line).context("read the guest's figures")?))
}

/// Measures, inside the guest, and prints the figures.
pub(super) fn inside() -> Result<()> {
    let xtask = std::env::current_exe().context("find this program")?;
    let scratch = PathBuf::from("/tmp");
    let bench = Bench { netprobe: vm::NETPROBE.into(), scratch, xtask, only: None, quick: true };
    let _lab = Lab::new()?;
    let mut figures = attaching(&bench)?;
    figures.extend(ways(&bench)?);
    println!("{}", serde_json::to_string(&figures).context("write the figures")?);
    Ok(())
}

fn attaching(bench: &Bench) -> Result<Vec<Figure>> {
    let trace = Tool::netprobe("netprobe trace", &["trace", "--netns", lab::CLIENT, "-o", "json"]);
    let (mut start, mut stop, mut programs) = (vec![], vec![], 0);
    for _ in 0..5 {
        let running = bench.launch(&trace)?;
        programs = programs::of(running.process.pid())?.len();
        start.push(running.start.as_secs_f64() * 1e3);
        stop.push(running.stop()?.as_secs_f64() * 1e3);
    }
    Ok(vec![
        Figure::median("netprobe: start to every hook attached", "ms", &start).bar(Bar::AtMost(ATTACH_MS)).note(
            format!("{programs} programs; bar: a tenth of what retis took in such a guest (20 s; pwru 31 to 163 s)"),
        ),
        Figure::median("netprobe: SIGTERM to exit", "ms", &stop),
    ])
}

/// Each way between two runs without: how much longer a packet takes for one call of an empty program.
fn ways(bench: &Bench) -> Result<Vec<Figure>> {
    let _stats = Stats::on()?;
    let mut figures = vec![];
    let mut plain = vec![];
    let mut fentry = None;
    for (name, program) in WAYS {
        let tool = Tool::bpftrace(name, program);
        let mut added = vec![];
        for _ in 0..5 {
            let before = bench.flood(lab::OPEN, 0.5)?.best_ns;
            let running = match bench.start(&tool) {
                Ok(running) => running,
                Err(error) => {
                    figures.push(Figure::none(*name, format!("{error:#}")));
                    break;
                }
            };
            let sent = bench.flood(lab::OPEN, 0.5)?;
            // bpftrace's own timer is one of its programs, and runs seldom.
            let runs = programs::of(running.process.pid())?.values().map(|runs| runs.count).max().unwrap_or(0);
            // bpftrace does not end within a minute of SIGTERM there; the kernel removes its programs with it.
            drop(running);
            let after = bench.flood(lab::OPEN, 0.5)?.best_ns;
            plain.extend([before, after]);
            let calls = runs as f64 / sent.packets.max(1) as f64;
            added.push((sent.best_ns - f64::midpoint(before, after)) / calls.max(0.01));
        }
        if added.is_empty() {
            continue;
        }
        let middle = stats::median(&added);
        let fentry = *fentry.get_or_insert(middle);
        figures.push(
            Figure::median(format!("one call of an empty program by {name}"), "ns", &added)
                .note(format!("{:.1} times fentry", middle / fentry)),
        );
    }
    figures.push(Figure::median("a forwarded packet without any", "ns", &plain));
    Ok(figures)
}
