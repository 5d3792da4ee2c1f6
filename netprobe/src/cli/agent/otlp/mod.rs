//! Findings and flows to an OpenTelemetry collector: OTLP over HTTP, as protobuf.
//!
//! A thread of its own sends. Who hands it a finding waits for nobody: what finds no room is counted as lost.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use opentelemetry_proto::tonic::{collector::logs::v1::ExportLogsServiceResponse, logs::v1::LogRecord};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

mod endpoint;
mod post;
mod tls;

pub(super) use endpoint::Endpoint;
use post::{Poster, Trouble};
use tls::Tls;

use super::shared::Shared;
use crate::{
    cli::{live::warn, until::duration},
    model::finding::Finding,
    render::{
        Clock, escape,
        otlp::{self, Origin},
    },
};

/// Findings that may wait for the thread.
const QUEUE: usize = 1_024;
/// Findings in one request.
const BATCH: usize = 256;
/// The first pause after a failure, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Options about OTLP.
#[derive(Debug, clap::Args)]
pub struct OtlpArgs {
    /// Send findings (as logs) and counts of flows (as metrics) to this OpenTelemetry collector, by OTLP over HTTP:
    /// http://HOST:4318 or https://HOST:4318
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub(super) otlp_endpoint: Option<Endpoint>,

    /// How often the counts are sent
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub otlp_every: Duration,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    /// Findings, by what became of them.
    pub(super) fn findings(&self) -> Vec<(&'static str, u64)> {
        vec![("sent", self.sent.load(Relaxed)), ("lost", self.lost.load(Relaxed))]
    }

    /// Requests, likewise.
    pub(super) fn requests(&self) -> Vec<(&'static str, u64)> {
        vec![("answered", self.answered.load(Relaxed)), ("failed", self.failed.load(Relaxed))]
    }
}

/// A running sender. It ends when it is dropped.
pub(super) struct Otlp {
    records: mpsc::Sender<LogRecord>,
    shared: Arc<Shared>,
    clock: Clock,
    /// Its end stops the thread.
    _stop: oneshot::Sender<()>,
}

/// Where to send, and as whom: all that is read from the environment and from files.
pub(super) struct Ready {
    poster: Poster,
    service: String,
}

/// What the environment says, in OpenTelemetry's own variables.
fn of_environment(endpoint: &Endpoint) -> Result<Ready> {
    let said = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(protocol) = said("OTEL_EXPORTER_OTLP_PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
        bail!("OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}: netprobe speaks http/protobuf");
    }
    let millis = said("OTEL_EXPORTER_OTLP_TIMEOUT").map(|text| text.parse::<u64>());
    let millis = millis.transpose().context("OTEL_EXPORTER_OTLP_TIMEOUT is no number of milliseconds")?;
    let headers = endpoint::headers(&said("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default())?;
    let tls = endpoint.is_secure.then(|| Tls::new(&endpoint.host, said)).transpose()?;
    let timeout = Duration::from_millis(millis.unwrap_or(10_000));
    let service = said("OTEL_SERVICE_NAME").unwrap_or_else(|| "netprobe".to_owned());
    Ok(Ready { poster: Poster { endpoint: endpoint.clone(), tls, headers, timeout }, service })
}

impl OtlpArgs {
    /// What is to be sent with, where that is wanted. To be asked before anything is attached, and before capabilities
    /// that files may need are given up.
    ///
    /// # Errors
    ///
    /// A variable of the environment that cannot be, or a file that it names.
    pub(super) fn ready(&self) -> Result<Option<Ready>> {
        self.otlp_endpoint.as_ref().map(of_environment).transpose()
    }

    /// Begins to send, where that is wanted.
    ///
    /// # Errors
    ///
    /// There is no thread left.
    pub(super) fn start(&self, ready: Option<Ready>, shared: &Arc<Shared>, clock: &Clock) -> Result<Option<Otlp>> {
        let Some(Ready { poster, service }) = ready else { return Ok(None) };
        let origin = Origin { service, node: clock.node().to_owned(), start_ns: shared.start_ns() };
        let (records, queue) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let sender = Sender { poster, origin, shared: Arc::clone(shared), failures: 0, has_said: false };
        let every = self.otlp_every.max(FIRST);
        let work = move || {
            // Without a runtime the queue closes, and findings are counted as lost.
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                tokio::select! {
                    () = sender.run(queue, every) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        };
        thread::Builder::new().name("otlp".to_owned()).spawn(work).context("start a thread for OTLP")?;
        Ok(Some(Otlp { records, shared: Arc::clone(shared), clock: clock.clone(), _stop: stop }))
    }
}

impl Otlp {
    /// Hands a finding over. Never waits.
    pub(super) fn tell(&self, finding: &Finding) {
        if self.records.try_send(otlp::record(finding, &self.clock)).is_err() {
            self.shared.otlp.lost.fetch_add(1, Relaxed);
        }
    }
}

struct Sender {
    poster: Poster,
    origin: Origin,
    shared: Arc<Shared>,
    /// In a row.
    failures: u32,
    has_said: bool,
}

impl Sender {
    async fn run(mut self, mut queue: mpsc::Receiver<LogRecord>, every: Duration) {
        let mut clock = interval(every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch: Vec<LogRecord> = Vec::new();
        loop {
            tokio::select! {
                taken = queue.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    self.send_findings(&mut batch).await;
                }
                _ = clock.tick() => self.send_flows().await,
            }
        }
    }

    /// Sends them until they are taken, or refused for good.
    async fn send_findings(&mut self, batch: &mut Vec<LogRecord>) {
        let count = batch.len() as u64;
        let body = otlp::logs(&self.origin, std::mem::take(batch)).encode_to_vec();
        loop {
            let answer = self.poster.post("/v1/logs", body.clone()).await;
            let answer = answer.and_then(|bytes| {
                ExportLogsServiceResponse::decode(bytes)
                    .map_err(|_| Trouble::Refused("an answer that is no OTLP".to_owned()))
            });
            let counts = &self.shared.otlp;
            match answer {
                Ok(answer) => {
                    let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_log_records);
                    let rejected = u64::try_from(rejected).unwrap_or(0).min(count);
                    counts.sent.fetch_add(count - rejected, Relaxed);
                    counts.lost.fetch_add(rejected, Relaxed);
                    self.works();
                    return;
                }
                Err(trouble) => {
                    if matches!(trouble, Trouble::Refused(_)) {
                        counts.lost.fetch_add(count, Relaxed);
                    }
                    let is_over = matches!(trouble, Trouble::Refused(_));
                    let pause = self.failed(&trouble);
                    if is_over {
                        return;
                    }
                    sleep(pause).await;
                }
            }
        }
    }

    /// The sums of now hold what an earlier request did not bring: nothing is sent twice.
    async fn send_flows(&mut self) {
        let points = self.shared.device_points();
        if points.is_empty() {
            return;
        }
        let body = otlp::flows(&self.origin, &points, super::process::wall_ns()).encode_to_vec();
        match self.poster.post("/v1/metrics", body).await {
            Ok(_) => self.works(),
            Err(trouble) => drop(self.failed(&trouble)),
        }
    }

    fn works(&mut self) {
        self.shared.otlp.answered.fetch_add(1, Relaxed);
        self.failures = 0;
        if std::mem::take(&mut self.has_said) {
            warn(&format!("the OTLP collector {} takes findings and flows again", self.poster.endpoint));
        }
    }

    /// How long to leave the collector alone. One line is said of a trouble, however long it lasts.
    fn failed(&mut self, trouble: &Trouble) -> Duration {
        self.shared.otlp.failed.fetch_add(1, Relaxed);
        if !std::mem::replace(&mut self.has_said, true) {
            let endpoint = &self.poster.endpoint;
            let reason = escape(&trouble.to_string()).to_string();
            warn(&format!(
                "the OTLP collector {endpoint}: {reason}; up to {QUEUE} findings wait for it, others are counted as lost"
            ));
        }
        let step = FIRST.saturating_mul(1 << self.failures.min(5)).min(LONGEST);
        self.failures += 1;
        match trouble {
            Trouble::Later { after: Some(after), .. } => (*after).clamp(step, LONGEST * 10),
            _ => step,
        }
    }
}
