//! What one hook costs a packet that is not ours, and where the time of all hooks goes.

use std::{collections::BTreeMap, fmt::Write as _, thread};

use anyhow::{Context as _, Result};

use super::{
    lab::{self, Lab},
    programs::{self, Runs, Stats},
    report::{Bar, Figure},
    stats,
    tool::{Bench, Tool},
};

/// Below this many runs in a sample a mean says little.
const RUNS_MIN: u64 = 1000;

/// Samples of one program.
#[derive(Default)]
struct Hook {
    /// Mean time of a run, ns, less the empty program's.
    cost_ns: Vec<f64>,
    /// Runs per packet sent.
    per_packet: Vec<f64>,
}

struct State {
    name: &'static str,
    command: &'static [&'static str],
    talks: bool,
    bar: Option<f64>,
}

const STATES: &[State] = &[
    State {
        name: "nothing followed is in flight",
        command: &["trace", "--netns", lab::IDLE],
        talks: false,
        bar: Some(10.0),
    },
    State {
        name: "another pod is followed and in flight",
        command: &["trace", "--netns", lab::IDLE],
        talks: true,
        bar: Some(40.0),
    },
    State { name: "the sending pod is followed", command: &["trace", "--netns", lab::CLIENT], talks: false, bar: None },
    State {
        name: "`drops` runs and nothing is dropped",
        command: &["drops", "--for", "600s"],
        talks: false,
        bar: None,
    },
];

/// Measures it.
pub(crate) fn run(bench: &Bench) -> Result<(Vec<Figure>, String)> {
    let _lab = Lab::new()?;
    let _stats = Stats::on()?;
    let samples = if bench.quick { 4 } else { 12 };
    let empty = Tool::bpftrace("an empty program", "tracepoint:net:net_dev_queue { }");
    let empty = if empty.missing().is_none() { Some(bench.start(&empty)?) } else { None };
    let empty = empty.as_ref().map(|running| running.process.pid());
    let (mut figures, mut text) = (vec![], String::new());
    let mut empty_ns = vec![];
    for state in STATES {
        let tool = Tool::netprobe("netprobe", state.command);
        let running = bench.start(&tool)?;
        thread::sleep(super::tool::REST);
        let talk =
            if state.talks { Some(bench.trickle(lab::IDLE, lab::OPEN, 50, f64::from(samples) * 2.0)?) } else { None };
        let hooks = sample(bench, running.process.pid(), empty, samples, &mut empty_ns)?;
        drop(talk);
        running.stop()?;
        if let Some(bar) = state.bar {
            let dearest = hooks.iter().max_by(|a, b| least(&a.1.cost_ns).total_cmp(&least(&b.1.cost_ns)));
            let (name, hook) = dearest.context("no program of netprobe ran")?;
            let figure = Figure::smallest(format!("dearest hook while {}", state.name), "ns", &hook.cost_ns);
            figures.push(figure.bar(Bar::AtMost(bar)).note(format!("`{name}`; the others below")));
        }
        table(&mut text, state.name, &hooks);
    }
    figures.push(empty_figure(&empty_ns));
    Ok((figures, text))
}

fn empty_figure(empty_ns: &[f64]) -> Figure {
    let note = "subtracted above, each sample's own: the kernel's two clock reads";
    if empty_ns.is_empty() {
        return Figure::none(
            "empty program",
            "bpftrace is not installed; the cheapest program of a sample stands for it",
        );
    }
    Figure::smallest("empty program (bpftrace, net_dev_queue)", "ns", empty_ns).note(note)
}

fn sample(
    bench: &Bench,
    pid: u32,
    empty: Option<u32>,
    samples: u32,
    empty_ns: &mut Vec<f64>,
) -> Result<BTreeMap<String, Hook>> {
    let mut hooks: BTreeMap<String, Hook> = BTreeMap::new();
    for _ in 0..samples {
        let before = (programs::of(pid)?, empty.map(programs::of).transpose()?);
        let sent = bench.flood(lab::OPEN, 0.4)?;
        let after = (programs::of(pid)?, empty.map(programs::of).transpose()?);
        let ours = means(&before.0, &after.0);
        let least_of_all = || ours.values().map(|(mean, _)| *mean).fold(f64::INFINITY, f64::min);
        let base = match (before.1, after.1) {
            (Some(before), Some(after)) => means(&before, &after).values().next().map(|(mean, _)| *mean),
            _ => None,
        };
        empty_ns.extend(base);
        let base = base.unwrap_or_else(least_of_all);
        for (name, (mean, runs)) in ours {
            let hook = hooks.entry(name).or_default();
            hook.cost_ns.push((mean - base).max(0.0));
            hook.per_packet.push(runs as f64 / sent.packets.max(1) as f64);
        }
    }
    Ok(hooks)
}

/// Mean nanoseconds of a run between two looks, and the number of runs.
fn means(before: &BTreeMap<String, Runs>, after: &BTreeMap<String, Runs>) -> BTreeMap<String, (f64, u64)> {
    let mean = |(name, now): (&String, &Runs)| {
        let then = before.get(name).copied().unwrap_or_default();
        let runs = now.count.saturating_sub(then.count);
        let time = now.time_ns.saturating_sub(then.time_ns);
        (runs >= RUNS_MIN).then(|| (name.clone(), (time as f64 / runs as f64, runs)))
    };
    after.iter().filter_map(mean).collect()
}

fn least(samples: &[f64]) -> f64 {
    stats::quantile(samples, 0.0)
}

fn table(text: &mut String, state: &str, hooks: &BTreeMap<String, Hook>) {
    let total: f64 = hooks.values().map(|hook| least(&hook.cost_ns) * stats::median(&hook.per_packet)).sum();
    let runs: f64 = hooks.values().map(|hook| stats::median(&hook.per_packet)).sum();
    let _ = writeln!(text, "Programs while {state}: {total:.0} ns in {runs:.1} runs a forwarded packet.\n");
    text.push_str("| program | runs a packet | ns a run, least | median |\n|---|---|---|---|\n");
    for (name, hook) in hooks {
        let (runs, ns) = (stats::median(&hook.per_packet), stats::median(&hook.cost_ns));
        let _ = writeln!(text, "| `{name}` | {runs:.2} | {:.0} | {ns:.0} |", least(&hook.cost_ns));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(count: u64, time_ns: u64) -> BTreeMap<String, Runs> {
        BTreeMap::from([("hook".to_string(), Runs { count, time_ns })])
    }

    #[test]
    fn a_mean_covers_only_what_ran_between_the_looks() {
        let means = means(&look(5000, 900_000), &look(7000, 1_000_000));
        assert_eq!(means["hook"], (50.0, 2000));
    }

    #[test]
    fn a_program_that_hardly_ran_has_no_mean() {
        assert!(means(&look(5000, 900_000), &look(5010, 990_000)).is_empty());
    }
}
