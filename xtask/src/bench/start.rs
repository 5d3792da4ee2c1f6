//! How long a tool takes to attach and to end, and what memory it needs.

use anyhow::Result;

use super::{
    lab::{self, Lab},
    report::{Bar, Figure},
    tool::{Bench, Tool},
};

/// Measures it.
pub(crate) fn run(bench: &Bench) -> Result<(Vec<Figure>, String)> {
    let _lab = Lab::new()?;
    let runs = if bench.quick { 4 } else { 10 };
    let mut figures = vec![];
    let trace = Tool::netprobe("netprobe trace", &["trace", "--netns", lab::CLIENT, "-o", "json"]);
    let (start, stop) = times(bench, &trace, runs)?;
    figures.push(Figure::median("netprobe: start to --ready-file", "ms", &start).bar(Bar::AtMost(300.0)));
    figures.push(Figure::median("netprobe: SIGTERM to exit", "ms", &stop).bar(Bar::AtMost(200.0)));
    figures.extend(memory(bench, &trace, runs)?);
    for (tool, ready) in [
        (Tool::tcpdump("tcpdump -i any", &["-w", "FILE"]), "\"listening on\""),
        (
            Tool::bpftrace("bpftrace, one tracepoint", "tracepoint:net:net_dev_queue { @ = count(); }"),
            "its first timer",
        ),
    ] {
        figures.extend(other(bench, &tool, ready, runs));
    }
    Ok((figures, String::new()))
}

/// Milliseconds to start and to stop, of each run.
fn times(bench: &Bench, tool: &Tool, runs: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut start, mut stop) = (vec![], vec![]);
    for _ in 0..runs {
        let running = bench.launch(tool)?;
        start.push(running.start.as_secs_f64() * 1e3);
        stop.push(running.stop()?.as_secs_f64() * 1e3);
    }
    Ok((start, stop))
}

fn other(bench: &Bench, tool: &Tool, ready: &str, runs: usize) -> Vec<Figure> {
    let name = tool.name;
    if let Some(why) = tool.missing() {
        return vec![Figure::none(name, why)];
    }
    match times(bench, tool, runs) {
        Ok((start, stop)) => vec![
            Figure::median(format!("{name}: start to {ready}"), "ms", &start),
            Figure::median(format!("{name}: SIGTERM to exit"), "ms", &stop),
        ],
        Err(error) => vec![Figure::none(name, format!("{error:#}"))],
    }
}

/// Resident memory while the pod that is followed sends as fast as it can.
fn memory(bench: &Bench, trace: &Tool, runs: usize) -> Result<[Figure; 2]> {
    let (mut peak, mut after) = (vec![], vec![]);
    for _ in 0..runs.div_ceil(3) {
        let running = bench.start(trace)?;
        bench.flood(lab::OPEN, if bench.quick { 1.0 } else { 3.0 })?;
        peak.push(running.process.memory_mib("VmHWM"));
        after.push(running.process.memory_mib("VmRSS"));
        running.stop()?;
    }
    let name = "netprobe trace of the sending pod";
    Ok([
        Figure::median(format!("{name}: resident, right after the load"), "MiB", &after).bar(Bar::AtMost(40.0)),
        Figure::median(format!("{name}: resident, most ever"), "MiB", &peak).bar(Bar::AtMost(40.0)),
    ])
}
