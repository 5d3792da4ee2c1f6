//! What a tool costs the packets that a node forwards.

use std::{fmt::Write as _, fs, thread, time::Duration};

use anyhow::Result;

use super::{
    clock,
    lab::{self, Lab},
    load::Sent,
    programs,
    report::{Bar, Figure},
    tool::{Bench, REST, Tool},
};
use crate::shell::say;

/// How long others may take to unload their BPF programs.
const QUIET: Duration = Duration::from_secs(20);
/// How often a pair is measured again that others disturbed.
const TRIES: u32 = 4;

/// One tool beside the runs without.
#[derive(Default)]
struct Beside {
    /// Rate with it, % of the rate without.
    rate: Vec<f64>,
    /// What it adds to each packet, ns.
    added_ns: Vec<f64>,
    /// Its own processor time, % of one core.
    cpu: Vec<f64>,
    /// Its largest resident size, MiB.
    peak_mib: Vec<f64>,
    /// Records and packets that it says it lost.
    lost: Vec<f64>,
    /// Why it did not run, each time.
    failed: Vec<String>,
}

struct Subject {
    tool: Tool,
    bar: Option<Bar>,
    other: Other,
}

/// What the pod that is followed does, where it is not the one that sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Other {
    /// It has said nothing for so long that the hooks rest.
    Silent,
    /// It talks: what is followed is in flight.
    Talks,
    /// There is none.
    None,
}

/// What must cost less than tcpdump that writes the same packets.
const FLOWS: &str = "netprobe flows, all pods and the node";
const DNS: &str = "netprobe dns, all pods";
const CAPTURE_96: &str = "netprobe capture -w, the sending pod, at the node's two devices, 96 bytes of each packet";
const CAPTURE_FULL: &str = "netprobe capture -w, the sending pod, at the node's two devices, whole packets";
const CAPTURE_INSIDE: &str = "netprobe capture -w, the same, and at the pod's own device, whole packets";
const TRACE: &str = "netprobe trace, the sending pod";

fn capture(name: &'static str, how: &[&'static str]) -> Tool {
    let words: Vec<&str> = [&["capture", "--netns", lab::CLIENT, "-w", "FILE"], how].concat();
    Tool::netprobe(name, &words)
}

fn agent(name: &'static str, flows: &'static str) -> Tool {
    Tool::netprobe(name, &["agent", "--no-kube", "--socket", "SOCKET", "--flows", flows])
}

fn subjects(only: Option<&str>) -> Vec<Subject> {
    let subject = |tool, bar, other| Subject { tool, bar, other };
    let trace = |name, pod| Tool::netprobe(name, &["trace", "--netns", pod, "-o", "json"]);
    let count = "tracepoint:net:net_dev_queue { @ = count(); }";
    let mut all = vec![
        subject(trace("netprobe trace, another pod, idle", lab::IDLE), Some(Bar::AtLeast(97.0)), Other::Silent),
        subject(trace("netprobe trace, another pod, talking (20 packets/s)", lab::IDLE), None, Other::Talks),
        subject(
            Tool::netprobe("netprobe drops", &["drops", "--for", "60s", "-o", "json"]),
            Some(Bar::AtLeast(98.0)),
            Other::None,
        ),
        subject(agent("netprobe agent --flows off", "off"), Some(Bar::AtLeast(98.0)), Other::None),
        subject(agent("netprobe agent --flows uplinks", "uplinks"), Some(Bar::AtLeast(98.0)), Other::None),
        subject(agent("netprobe agent --flows all", "all"), None, Other::None),
        subject(trace(TRACE, lab::CLIENT), None, Other::None),
        subject(Tool::netprobe(FLOWS, &["flows", "-o", "json"]), None, Other::None),
        subject(Tool::netprobe(DNS, &["dns", "-o", "json"]), None, Other::None),
        // The places where `tcpdump -i any` has the packets too.
        subject(capture(CAPTURE_96, &["-i", "node:client0", "-i", "node:uplink0", "--snap", "96"]), None, Other::None),
        subject(capture(CAPTURE_FULL, &["-i", "node:client0", "-i", "node:uplink0", "--full"]), None, Other::None),
        subject(capture(CAPTURE_INSIDE, &["--full"]), None, Other::None),
        subject(Tool::tcpdump("tcpdump -i any -w, the same packets", &["-w", "FILE"]), None, Other::None),
        subject(Tool::tcpdump("tcpdump -i any, matching nothing", &["udp port 1"]), None, Other::None),
        subject(Tool::bpftrace("bpftrace, counting net_dev_queue", count), None, Other::None),
    ];
    all.retain(|subject| only.is_none_or(|only| subject.tool.name.contains(only)));
    all
}

/// Measures it.
pub(crate) fn run(bench: &Bench) -> Result<(Vec<Figure>, String)> {
    let _lab = Lab::new()?;
    let (pairs, seconds) = if bench.quick { (3, 0.5) } else { (5, 0.8) };
    let subjects = subjects(bench.only.as_deref());
    let mut beside: Vec<Beside> = subjects.iter().map(|_| Beside::default()).collect();
    let (mut base, mut disturbed) = (vec![], 0);
    bench.flood(lab::OPEN, seconds)?;
    for pair in 0..pairs {
        for turn in 0..subjects.len() {
            // Each round begins elsewhere, so that no tool always follows the same other.
            let at = (pair + turn) % subjects.len();
            for _ in 0..TRIES {
                match one_pair(bench, &subjects[at], &mut beside[at], seconds) {
                    Ok(Some(without)) => {
                        base.push(without);
                        break;
                    }
                    Ok(None) => disturbed += 1,
                    Err(error) => {
                        beside[at].failed.push(format!("{error:#}"));
                        break;
                    }
                }
            }
        }
        say("bench", &format!("forwarding: round {} of {pairs}", pair + 1));
    }
    Ok((figures(&subjects, &beside, &base), told(disturbed)))
}

/// A run with the tool between two without. Nothing where BPF programs of others disturbed it; else the time per
/// packet without.
fn one_pair(bench: &Bench, subject: &Subject, beside: &mut Beside, seconds: f64) -> Result<Option<f64>> {
    clock::wait(QUIET, || programs::loaded().is_ok_and(|all| all.is_empty()).then_some(()));
    let before = bench.flood(lab::OPEN, seconds)?;
    let Some(with) = beside_load(bench, subject, beside, seconds)? else { return Ok(None) };
    let after = bench.flood(lab::OPEN, seconds)?;
    if !programs::loaded()?.is_empty() {
        return Ok(None);
    }
    let without = (before.best_ns + after.best_ns) / 2.0;
    beside.rate.push(100.0 * without / with.best_ns);
    beside.added_ns.push(with.best_ns - without);
    Ok(Some(without))
}

fn beside_load(bench: &Bench, subject: &Subject, beside: &mut Beside, seconds: f64) -> Result<Option<Sent>> {
    if let Some(why) = subject.tool.missing() {
        anyhow::bail!(why);
    }
    let running = bench.start(&subject.tool)?;
    let mut talk = None;
    match subject.other {
        Other::Silent => thread::sleep(REST),
        Other::Talks => talk = Some(bench.trickle(lab::IDLE, lab::OPEN, 20, seconds + 2.0)?),
        Other::None => {}
    }
    let cpu = running.process.cpu_seconds();
    let sent = bench.flood(lab::OPEN, seconds)?;
    drop(talk);
    let alone = programs::alone(running.process.pid())?;
    beside.cpu.push(100.0 * (running.process.cpu_seconds() - cpu) / sent.seconds);
    beside.peak_mib.push(running.process.memory_mib("VmHWM"));
    let stdout = running.stdout.clone();
    running.stop()?;
    beside.lost.push(lost(&fs::read_to_string(stdout).unwrap_or_default()));
    Ok(alone.then_some(sent))
}

/// The sum of the losses that netprobe tells in its JSON.
fn lost(json: &str) -> f64 {
    let objects = json.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    objects.filter(|object| object["kind"] == "loss").filter_map(|object| object["lost"].as_f64()).sum()
}

fn figures(subjects: &[Subject], beside: &[Beside], base: &[f64]) -> Vec<Figure> {
    let mut figures = vec![Figure::median("no tool, time per packet", "ns", base)];
    let tcpdump = subjects.iter().position(|s| s.tool.name.starts_with("tcpdump -i any -w"));
    let tcpdump = tcpdump.map(|at| super::stats::median(&beside[at].rate)).filter(|rate| *rate > 0.0);
    for (subject, beside) in subjects.iter().zip(beside) {
        let name = subject.tool.name;
        if let Some(why) = beside.failed.last().filter(|_| beside.rate.is_empty()) {
            figures.push(Figure::none(name, why));
            continue;
        }
        let median = super::stats::median;
        let mut note = format!(
            "{:+.0} ns a packet; itself {:.0} % of a core, {:.0} MiB",
            median(&beside.added_ns),
            median(&beside.cpu),
            median(&beside.peak_mib)
        );
        if beside.lost.iter().any(|lost| *lost > 0.0) {
            let _ = write!(note, "; lost records told: {:.0}", median(&beside.lost));
        }
        if let Some(why) = beside.failed.last() {
            let _ = write!(note, "; did not run {} times: {why}", beside.failed.len());
        }
        let mut figure = Figure::median(name, "% of the rate without", &beside.rate).note(note);
        let following = [TRACE, FLOWS, DNS, CAPTURE_96, CAPTURE_FULL].contains(&name);
        if let Some(bar) = subject.bar.or(tcpdump.filter(|_| following).map(Bar::AtLeast)) {
            figure = figure.bar(bar);
        }
        figures.push(figure);
    }
    figures
}

fn told(disturbed: u32) -> String {
    let mut text = MEANING.to_string();
    if disturbed > 0 {
        let _ = write!(text, "\n{disturbed} pairs were thrown away: BPF programs of others were loaded meanwhile.");
    }
    text
}

const MEANING: &str = "\
The path is a short one (no NIC, no driver, one packet at a time), so each nanosecond weighs several times what it weighs on
a real node. Eight calls of hooks fall on one packet here: queue and transmit in the client and on the node, receive on the
node and at the server, one look-up, one end. What an idle `trace` adds and its programs do not take (next section) is the
kernel calling them: it does so for every attached tracepoint, however short its program.
";
