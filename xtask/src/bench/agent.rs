//! What the agent needs on a full node: memory and processor time at rest, with many flows, and in a drop storm.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    clock,
    lab::{self, Lab},
    process::Process,
    report::{Bar, Figure},
    tool::{Bench, Running, Tool},
};
use crate::build;

/// Pods of this node.
const PODS: usize = 250;
/// Pods of the cluster, this node's among them.
const CLUSTER: usize = 5000;
/// Flows that each pod of the node begins: 50,000 of the node.
const FLOWS: usize = 200;
/// Pods of another node of the cluster.
const ELSEWHERE: usize = 50;
/// How long the agent may take until it knows all pods of the node.
const KNOWN: Duration = Duration::from_secs(30);
/// The more rows there are, the more seldom they are read: every 15 s at most.
const COUNTED: Duration = Duration::from_secs(40);
/// The socket of its API, and the file of the cluster's pods, in the folder of the measurements.
const SOCKET: &str = "agent.sock";
const CLUSTER_FILE: &str = "cluster";

/// Measures it.
pub(crate) fn run(bench: &Bench) -> Result<(Vec<Figure>, String)> {
    let lab = Lab::new()?;
    lab.crowd(PODS)?;
    lab.drop_all()?;
    let api = Cluster::start(bench)?;
    let socket = bench.scratch.join(SOCKET);
    let socket = socket.to_string_lossy();
    let names = ["--kubeconfig", &api.kubeconfig, "--node-name", lab::NODE];
    let tool = Tool::netprobe("netprobe agent", &[&["agent", "--socket", &socket], &names[..]].concat());
    let seconds = if bench.quick { 2.0 } else { 10.0 };
    let mut rows = Rows::default();
    for _ in 0..if bench.quick { 1 } else { 3 } {
        rows.one(bench, &lab, &tool, seconds)?;
    }
    Ok((rows.figures(), String::new()))
}

/// The samples of each run.
#[derive(Default)]
struct Rows {
    start: Vec<f64>,
    rest_mib: Vec<f64>,
    rest_cpu: Vec<f64>,
    flows: Vec<f64>,
    flows_mib: Vec<f64>,
    flows_cpu: Vec<f64>,
    storm_cpu: Vec<f64>,
    storm_grown: Vec<f64>,
    peak_mib: Vec<f64>,
    stop: Vec<f64>,
}

impl Rows {
    /// An agent's life: it starts, rests, sees every pod's flows come and a storm of drops, and ends.
    fn one(&mut self, bench: &Bench, lab: &Lab, tool: &Tool, seconds: f64) -> Result<()> {
        let running = bench.start(tool)?;
        self.start.push(running.start.as_secs_f64() * 1e3);
        let known = || status(bench).ok().filter(|status| status["pods"].as_u64() >= Some(PODS as u64)).map(drop);
        if clock::wait(KNOWN, known).is_none() {
            bail!("the agent does not know the node's {PODS} pods after {KNOWN:?}: {}", status(bench)?);
        }
        self.rest_cpu.push(cpu_over(&running, seconds));
        self.rest_mib.push(running.process.memory_mib("VmRSS"));

        let before = running.process.cpu_seconds();
        for pod in 0..PODS {
            bench.sweep(&lab::crowd_name(pod), FLOWS)?;
        }
        let counted =
            || status(bench).ok()?["flow_rows"]["used"].as_u64().filter(|rows| *rows >= (PODS * FLOWS) as u64);
        clock::wait(COUNTED, counted);
        self.flows.push(status(bench)?["flow_rows"]["used"].as_f64().unwrap_or(0.0));
        self.flows_cpu.push((running.process.cpu_seconds() - before) * 1e6 / (PODS * FLOWS) as f64);
        self.flows_mib.push(running.process.memory_mib("VmRSS"));

        let (size, cpu, dropped) = (running.process.memory_mib("VmRSS"), running.process.cpu_seconds(), lab.dropped()?);
        let sent = bench.flood(lab::DROPPED, seconds)?;
        self.storm_cpu.push(100.0 * (running.process.cpu_seconds() - cpu) / sent.seconds);
        self.storm_grown.push(running.process.memory_mib("VmRSS") - size);
        if lab.dropped()? == dropped {
            bail!("the rule that drops the storm counted nothing");
        }
        self.peak_mib.push(running.process.memory_mib("VmHWM"));
        self.stop.push(running.stop()?.as_secs_f64() * 1e3);
        Ok(())
    }

    fn figures(&self) -> Vec<Figure> {
        let flows = PODS * FLOWS;
        vec![
            Figure::median("start to --ready-file", "ms", &self.start)
                .note(format!("{PODS} pods on the node, {CLUSTER} in the cluster, 4 KB of JSON each")),
            Figure::median("resident, at rest", "MiB", &self.rest_mib),
            Figure::median("processor time, at rest", "% of a core", &self.rest_cpu),
            Figure::smallest("flows that it has rows of", "rows", &self.flows)
                .bar(Bar::AtLeast(flows as f64))
                .note(format!("{FLOWS} of each pod, all within seconds")),
            Figure::median("resident, with those flows", "MiB", &self.flows_mib).bar(Bar::AtMost(80.0)),
            Figure::median("processor time until they are counted, a flow", "us", &self.flows_cpu),
            Figure::median("processor time, in a drop storm", "% of a core", &self.storm_cpu).bar(Bar::AtMost(5.0)),
            Figure::largest("grown in the storm", "MiB", &self.storm_grown),
            Figure::largest("resident, most ever", "MiB", &self.peak_mib).bar(Bar::AtMost(80.0)),
            Figure::median("SIGTERM to exit", "ms", &self.stop).bar(Bar::AtMost(200.0)),
        ]
    }
}

/// Its processor time over so many seconds, % of a core.
fn cpu_over(running: &Running, seconds: f64) -> f64 {
    let before = running.process.cpu_seconds();
    thread::sleep(Duration::from_secs_f64(seconds));
    100.0 * (running.process.cpu_seconds() - before) / seconds
}

/// What the agent says of itself.
fn status(bench: &Bench) -> Result<Value> {
    let mut stream = UnixStream::connect(bench.scratch.join(SOCKET)).context("the agent's socket")?;
    stream.write_all(b"GET /v1/status HTTP/1.0\r\n\r\n").context("ask the agent")?;
    let mut said = String::new();
    stream.read_to_string(&mut said).context("read the agent's answer")?;
    let body = said.split_once("\r\n\r\n").map_or("", |parts| parts.1);
    serde_json::from_str(body).with_context(|| format!("the agent's status: {said}"))
}

/// The API server of the cluster, in the node's namespace; it ends with this value.
struct Cluster {
    kubeconfig: String,
    _server: Process,
}

impl Cluster {
    fn start(bench: &Bench) -> Result<Self> {
        let server = build::cluster(&bench.root)?;
        let pods = bench.scratch.join(CLUSTER_FILE);
        fs::write(&pods, pods_of_cluster()).context("write the cluster's pods")?;
        let said = bench.scratch.join("kubeconfig-path");
        let stdout = fs::File::create(&said).context("make a file for output")?;
        let mut command: Command = lab::inside(lab::NODE, "taskset");
        command.args(["-c", "0"]).arg(server).arg(&pods).arg(&bench.scratch).stdout(Stdio::from(stdout));
        let process = Process::start(&mut command)?;
        let path = clock::wait(KNOWN, || line_of(&said)).context("the API server of the cluster does not answer")?;
        Ok(Self { kubeconfig: path, _server: process })
    }
}

/// A whole line in the file.
fn line_of(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok()?.strip_suffix('\n').map(str::to_owned)
}

/// Every pod of the cluster, a line each: node, namespace, name, address.
fn pods_of_cluster() -> String {
    let mut lines = String::new();
    for number in 0..CLUSTER {
        let node = match number.checked_sub(PODS) {
            None => lab::NODE.to_owned(),
            Some(number) => format!("node-{}", number / ELSEWHERE),
        };
        let address = lab::crowd_address(number);
        lines += &format!("{node} team-{} web-{number} {address}\n", number % 40);
    }
    lines
}
