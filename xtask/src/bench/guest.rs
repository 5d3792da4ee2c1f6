//! In guests of QEMU: what the ways to hang a program on the kernel cost beside each other, and how long attaching takes.
//!
//! The machine of the other rows may have neither kprobes nor fentry. Without hardware help only ratios mean anything.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use super::{
    lab::{self, Lab},
    programs::{self, Stats},
    report::{Bar, Figure},
    stats,
    tool::{Bench, Tool},
};
use crate::vm::{self, Kernel};

/// What a guest measures, and what is called there beside what stories call.
const PROGRAMS: &[&str] = &["bpftool", "bpftrace", "chrt", "mount", "nsenter", "taskset", "unshare"];

/// A guest's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Inside {
    /// How long attaching takes.
    Attaching,
    /// What a call costs, each way.
    Ways,
}

/// Ways to hang a program on the kernel: what each is called, bpftrace's word for it, and where.
const WAYS: &[(&str, &str, &[&str])] = &[
    ("fentry", "kfunc:vmlinux:", FUNCTIONS),
    ("fexit", "kretfunc:vmlinux:", FUNCTIONS),
    ("kprobe", "kprobe:", FUNCTIONS),
    ("kretprobe", "kretprobe:", FUNCTIONS),
    ("tracepoint", "tracepoint:net:", TRACEPOINTS),
];

/// Where every forwarded packet passes, once or more: many calls a packet, so that their cost stands out.
const FUNCTIONS: &[&str] = &["ip_rcv", "ip_forward", "ip_output", "dev_hard_start_xmit", "eth_type_trans"];
const TRACEPOINTS: &[&str] = &["net_dev_queue", "net_dev_start_xmit", "net_dev_xmit", "netif_receive_skb"];

/// A tenth of what the quickest other tool that attaches to as much took in the same guests: retis, 20 s.
const ATTACH_MS: f64 = 2000.0;

/// Measures one kernel in guests and returns its release and the figures.
///
/// Where the cost of a call is asked, the guest's time is the number of its instructions: emulated, a packet takes half as
/// long again for no reason that anybody would see.
pub(super) fn measure(root: &Path, netprobe: &Path, kernel: Kernel) -> Result<(String, Vec<Figure>)> {
    let (mut all, mut of) = (vec![], String::new());
    for (what, is_counted) in [(Inside::Attaching, false), (Inside::Ways, true)] {
        let name = what.to_possible_value().context("every work has a name")?;
        let line = format!("xtask bench --in-guest {}", name.get_name());
        let (release, said) = vm::said(root, netprobe, kernel, &line, is_counted, PROGRAMS)?;
        let line = said.lines().find(|line| line.starts_with('['));
        let line = line.with_context(|| format!("the guest wrote no figures: {said}"))?;
        all.extend(serde_json::from_str::<Vec<Figure>>(line).context("read the guest's figures")?);
        of = release;
    }
    Ok((of, all))
}

/// Measures, inside the guest, and prints the figures.
pub(super) fn inside(what: Inside) -> Result<()> {
    let xtask = std::env::current_exe().context("find this program")?;
    let scratch = PathBuf::from("/tmp");
    let bench = Bench {
        netprobe: vm::NETPROBE.into(),
        scratch,
        xtask,
        only: None,
        // Where time is counted there is one processor.
        processor: if what == Inside::Ways { "0" } else { "1" },
        root: PathBuf::new(),
        quick: true,
    };
    let lab = Lab::new()?;
    let figures = match what {
        Inside::Attaching => attaching(&bench)?,
        Inside::Ways => {
            lab.drop_all()?;
            [ways(&bench)?, hooks(&bench)?].concat()
        }
    };
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
    for (name, way, places) in WAYS {
        let probes: Vec<String> = places.iter().map(|place| format!("{way}{place}")).collect();
        let tool = Tool::bpftrace(name, &format!("{} {{ }}", probes.join(",")));
        let (mut added, mut each) = (vec![], 0.0);
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
            let runs: u64 = programs::loaded()?.iter().map(|program| program.runs.count).sum();
            // bpftrace does not end within a minute of SIGTERM there; the kernel removes its programs with it.
            drop(running);
            let after = bench.flood(lab::OPEN, 0.5)?.best_ns;
            plain.extend([before, after]);
            let calls = runs as f64 / sent.packets.max(1) as f64;
            each = calls;
            added.push((sent.best_ns - f64::midpoint(before, after)) / calls.max(0.01));
        }
        if added.is_empty() {
            continue;
        }
        let middle = stats::median(&added);
        let fentry = *fentry.get_or_insert(middle);
        figures.push(
            Figure::median(format!("one call of an empty program by {name}"), "ns", &added)
                .note(format!("{:.1} times fentry; {each:.1} calls a packet", middle / fentry)),
        );
    }
    figures.push(Figure::median("a forwarded packet without any", "ns", &plain));
    Ok(figures)
}

/// netprobe's own programs at the kernel's functions, by fentry and by kprobes, on packets that a rule drops.
fn hooks(bench: &Bench) -> Result<Vec<Figure>> {
    let _stats = Stats::on()?;
    let mut figures = vec![];
    for way in ["fentry", "kprobe"] {
        let trace = Tool::netprobe("netprobe trace", &["trace", "--netns", lab::CLIENT, "-o", "json"]);
        let running = bench.start(&trace.with("NETPROBE_FUNCTIONS", way))?;
        let before = programs::of(running.process.pid())?;
        let sent = bench.flood(lab::DROPPED, 0.5)?;
        for (name, runs) in programs::of(running.process.pid())? {
            let then = before.get(&name).copied().unwrap_or_default();
            let (count, time_ns) = (runs.count - then.count, runs.time_ns - then.time_ns);
            if count >= sent.packets / 2 && count > 0 {
                let per_packet = count as f64 / sent.packets.max(1) as f64;
                let mean = time_ns as f64 / count as f64;
                figures.push(
                    Figure::median(format!("`{name}`, functions by {way}"), "ns a run", &[mean])
                        .note(format!("{per_packet:.1} runs a packet of the pod that is followed")),
                );
            }
        }
        running.stop()?;
    }
    Ok(figures)
}
