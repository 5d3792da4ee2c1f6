//! What the run and the server share. Neither waits for the other: locks are held for as long as it takes to write or to
//! copy.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    super::live::{Coverage, Tables},
    otlp, process,
};
use crate::{
    enrich::kube::events::Counts,
    model::{drops::Loss, finding::Finding, identity::Pod},
    probe::host,
    render::metrics::{DevicePoint, Exposition, Metrics, Moment},
};

/// Findings and losses on their way to slow readers; who is further behind is cut off.
const LINES: usize = 256;
/// Findings that a new reader is told.
const RECENT: usize = 1_000;
/// How long the run may take for one turn before it counts as stuck, nanoseconds. The longest things it does (reading a full
/// table of flows) take less than one second.
const STUCK_NS: u64 = 10_000_000_000;
/// How long attaching may take before it counts as stuck.
const START_NS: u64 = 60_000_000_000;

/// A table that a reader asks the run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Drops,
    Flows,
}

/// The same, and whom to tell.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) what: What,
    pub(super) to: oneshot::Sender<Bytes>,
}

/// Who listens where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listener {
    Http,
    Socket,
}

impl Listener {
    const ALL: [(Self, &'static str); 2] = [(Self::Http, "http"), (Self::Socket, "socket")];
}

#[derive(Default)]
struct State {
    kernel: String,
    node: String,
    coverage: Coverage,
    /// When the counts were read, `CLOCK_MONOTONIC` nanoseconds; 0 for not yet.
    counted_ns: u64,
}

/// What the run and the server share.
pub(super) struct Shared {
    metrics: Mutex<Metrics>,
    state: Mutex<State>,
    started_ns: u64,
    start_s: f64,
    turned_ns: AtomicU64,
    lines: broadcast::Sender<Bytes>,
    recent: Mutex<BTreeMap<u64, Bytes>>,
    asks: mpsc::Sender<Ask>,
    cut: AtomicU64,
    refused: [AtomicU64; 2],
    pub(super) events: Arc<Counts>,
    pub(super) otlp: otlp::Counts,
}

/// What was half done by a thread that failed is still the best there is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self {
            metrics: Mutex::default(),
            state: Mutex::default(),
            started_ns: host::mono_ns(),
            start_s: process::wall_s(),
            turned_ns: AtomicU64::new(0),
            lines: broadcast::channel(LINES).0,
            recent: Mutex::default(),
            asks,
            cut: AtomicU64::new(0),
            refused: [AtomicU64::new(0), AtomicU64::new(0)],
            events: Arc::default(),
            otlp: otlp::Counts::default(),
        }
    }

    // What the run tells.

    pub(super) fn begin(&self, kernel: String, node: String) {
        let mut state = lock(&self.state);
        (state.kernel, state.node) = (kernel, node);
    }

    pub(super) fn turned(&self, now_ns: u64) {
        self.turned_ns.store(now_ns, Relaxed);
    }

    pub(super) fn counted(&self, tables: &Tables, coverage: Coverage, now_ns: u64) {
        let mut metrics = lock(&self.metrics);
        metrics.take_drops(&tables.drops);
        metrics.take_flows(&tables.devices);
        drop(metrics);
        let mut state = lock(&self.state);
        (state.coverage, state.counted_ns) = (coverage, now_ns);
    }

    pub(super) fn expire<'a>(&self, live: impl Iterator<Item = &'a Pod>, now_ns: u64, keep_ns: u64) {
        lock(&self.metrics).expire(live, now_ns, keep_ns);
    }

    pub(super) fn found(&self, finding: &Finding) {
        lock(&self.metrics).take_finding(finding);
    }

    pub(super) fn lost(&self, loss: &Loss) {
        lock(&self.metrics).take_loss(loss);
    }

    /// Hands a line to all readers; that of a finding also to those who come later.
    pub(super) fn publish(&self, finding: Option<u64>, line: Bytes) {
        if let Some(number) = finding {
            let mut recent = lock(&self.recent);
            recent.insert(number, line.clone());
            if recent.len() > RECENT {
                recent.pop_first();
            }
        }
        // Nobody need listen.
        let _ = self.lines.send(line);
    }

    // What the server asks.

    /// Lines from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Bytes> {
        self.lines.subscribe()
    }

    /// The findings so far, each as it was told last.
    pub(super) fn recent(&self) -> Vec<Bytes> {
        lock(&self.recent).values().cloned().collect()
    }

    /// A table, as the run has it now; none where the run ends.
    pub(super) async fn ask(&self, what: What) -> Option<Bytes> {
        let (to, answer) = oneshot::channel();
        self.asks.send(Ask { what, to }).await.ok()?;
        answer.await.ok()
    }

    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Relaxed);
    }

    pub(super) fn refuse(&self, listener: Listener) {
        self.refused[listener as usize].fetch_add(1, Relaxed);
    }

    /// What is wrong with the run, where it does not go on.
    pub(super) fn stuck(&self) -> Option<String> {
        let (turned, now) = (self.turned_ns.load(Relaxed), host::mono_ns());
        let (since, most) = if turned == 0 { (self.started_ns, START_NS) } else { (turned, STUCK_NS) };
        let for_ns = now.saturating_sub(since);
        (for_ns > most).then(|| format!("nothing was done for {} s", for_ns / 1_000_000_000))
    }

    /// Why nothing is to be expected of it yet.
    pub(super) fn unready(&self) -> Option<String> {
        let is_counted = lock(&self.state).counted_ns != 0;
        self.stuck().or_else(|| (!is_counted).then(|| "attaching".to_owned()))
    }

    pub(super) fn metrics(&self, exposition: Exposition) -> String {
        let moment = self.moment();
        lock(&self.metrics).text(&moment, exposition)
    }

    /// When the agent started, nanoseconds since 1970.
    pub(super) fn start_ns(&self) -> u64 {
        (self.start_s * 1e9) as u64
    }

    pub(super) fn device_points(&self) -> Vec<DevicePoint> {
        lock(&self.metrics).device_points()
    }

    fn moment(&self) -> Moment {
        let state = lock(&self.state);
        let now = host::mono_ns();
        let age = |ns: u64| if ns == 0 { f64::NAN } else { now.saturating_sub(ns) as f64 / 1e9 };
        let usage = process::usage();
        Moment {
            hooks: state.coverage.hooks.clone(),
            classifiers: state.coverage.classifiers,
            flow_rows: state.coverage.flow_rows,
            pods: state.coverage.pods,
            ages_s: (age(self.turned_ns.load(Relaxed)), age(state.counted_ns)),
            streams_cut: self.cut.load(Relaxed),
            refused: Listener::ALL.map(|(at, name)| (name, self.refused[at as usize].load(Relaxed))).to_vec(),
            events: self.events.read().to_vec(),
            otlp: [self.otlp.findings(), self.otlp.requests()],
            kernel: state.kernel.clone(),
            start_s: self.start_s,
            resident: usage.resident,
            cpu_s: usage.cpu_s,
        }
    }

    /// The state of the run as an object.
    pub(super) fn status(&self) -> Value {
        let moment = self.moment();
        let node = lock(&self.state).node.clone();
        let hooks: BTreeMap<_, _> = moment.hooks.into_iter().collect();
        json!({
            "kind": "status",
            "node": node,
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": moment.kernel,
            "started": moment.start_s,
            "ready": self.unready().is_none(),
            "stuck": self.stuck(),
            "hooks": hooks,
            "classifiers": { "attached": moment.classifiers.0, "refused": moment.classifiers.1 },
            "flow_rows": { "used": moment.flow_rows.0, "most": moment.flow_rows.1 },
            "pods": moment.pods,
            "streams_cut": moment.streams_cut,
            "resident_bytes": moment.resident,
            "cpu_seconds": moment.cpu_s,
        })
    }
}
