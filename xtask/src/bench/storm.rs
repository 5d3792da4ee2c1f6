//! Every packet dropped, as many as one CPU can send: is each counted, and what does counting take?

use std::fs;

use anyhow::Result;
use serde_json::Value;

use super::{
    lab::{self, Lab},
    report::{Bar, Figure},
    tool::{Bench, Tool},
};

/// Measures it.
pub(crate) fn run(bench: &Bench) -> Result<(Vec<Figure>, String)> {
    let lab = Lab::new()?;
    lab.drop_all()?;
    let (runs, seconds) = if bench.quick { (2, 2.0) } else { (5, 5.0) };
    let tool = Tool::netprobe("netprobe drops", &["drops", "--for", "600s", "-o", "json"]);
    let (mut missing, mut cpu, mut grown, mut cost) = (vec![], vec![], vec![], vec![]);
    let (mut most, mut told) = (0, 0.0);
    for _ in 0..runs {
        let without = bench.flood(lab::DROPPED, seconds / 4.0)?;
        let before = lab.dropped()?;
        let running = bench.start(&tool)?;
        let (cpu_before, size) = (running.process.cpu_seconds(), running.process.memory_mib("VmRSS"));
        let with = bench.flood(lab::DROPPED, seconds)?;
        cpu.push(100.0 * (running.process.cpu_seconds() - cpu_before) / with.seconds);
        grown.push(running.process.memory_mib("VmRSS") - size);
        let stdout = running.stdout.clone();
        running.stop()?;
        let dropped = lab.dropped()? - before;
        let text = fs::read_to_string(stdout).unwrap_or_default();
        missing.push(dropped as f64 - counted(&text));
        told += lost(&text);
        cost.push(with.best_ns - without.best_ns);
        most = most.max((dropped as f64 / with.seconds) as u64);
    }
    let storm = format!("up to {most} drops a second, {seconds:.0} s each; samples lost and told {told:.0}");
    let figures = vec![
        Figure::largest("drops the nft rule counted and netprobe did not", "packets", &missing)
            .bar(Bar::AtMost(0.0))
            .note(storm),
        Figure::median("processor time of `drops`", "% of a core", &cpu).bar(Bar::AtMost(5.0)),
        Figure::largest("memory that `drops` grew by", "MiB", &grown),
        Figure::median("added to each dropped packet", "ns", &cost),
    ];
    Ok((figures, String::new()))
}

fn objects(json: &str) -> impl Iterator<Item = Value> {
    json.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// The rows of the last table that the rule made, added up.
fn counted(json: &str) -> f64 {
    let Some(table) = objects(json).filter(|object| object["kind"] == "drops").last() else { return 0.0 };
    let rows = table["rows"].as_array().into_iter().flatten();
    rows.filter(|row| row["reason"] == "NETFILTER_DROP").filter_map(|row| row["packets"].as_f64()).sum()
}

/// The losses that were told.
fn lost(json: &str) -> f64 {
    objects(json).filter(|object| object["kind"] == "loss").filter_map(|object| object["lost"].as_f64()).sum()
}
