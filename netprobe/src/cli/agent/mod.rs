//! `netprobe agent`

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{ColorChoice, builder::NonEmptyStringValueParser};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

mod body;
mod events;
mod listen;
mod otlp;
mod process;
mod routes;
mod serve;
mod shared;
mod sinks;
mod streams;

use listen::Listeners;
use shared::{Ask, Shared, What};
use sinks::{Buffer, Sinks};

use super::{
    live::{FlowsAt, Live, Request, TURN, Watch},
    output::{Output, Ready, Record},
    privileges,
    select::{Select, Target},
    until::duration,
};
use crate::{
    probe::host,
    render::{Clock, Format, Setup, escape},
};

const EXAMPLES: &str = "\
Examples:
  netprobe agent --no-kube
      count drops, findings and traffic of all pods; curl localhost:9799/metrics
  netprobe agent --listen 10.0.0.7:9799 --flows off
      drops and findings alone, for a scraper on the network
  curl --unix-socket /run/netprobe/agent.sock 'http://agent/v1/findings?watch=1'
      findings as they are made, one JSON object a line

/metrics, /healthz and /readyz are at --listen; on the socket also /v1/findings,
/v1/drops, /v1/flows (each with ?watch=1 kept current) and /v1/status.
docs/agent.md lists the metrics, and what an agent does not see.";

/// How often what is over is forgotten.
const FORGET: Duration = Duration::from_secs(5);
/// The counts are read this often at most ...
const READ_FIRST: Duration = Duration::from_secs(1);
/// ... and at least; in between so that reading takes a fiftieth of the time.
const READ_LAST: Duration = Duration::from_secs(15);
const READ_SHARE: u32 = 50;

/// Options of `netprobe agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, mut_args(|arg| {
    let is_whose = ["pod", "namespace", "selector", "netns", "pid", "container", "all"].contains(&arg.get_id().as_str());
    if is_whose { arg.hide(true) } else { arg }
}))]
pub struct AgentArgs {
    /// Address and port of /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9799", value_parser = listen::address)]
    pub listen: SocketAddr,

    /// Socket of the local API; its folder is made where there is none
    #[arg(long, value_name = "PATH", default_value = "/run/netprobe/agent.sock")]
    pub socket: PathBuf,

    /// Where packets and bytes are counted; each place costs every packet that passes it some 0.2 us
    #[arg(long, value_name = "WHERE", value_enum, default_value = "uplinks")]
    pub flows: FlowsAt,

    /// How long the series of a pod stay after it is gone: longer than between two scrapes
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub keep: Duration,

    /// Names; everybody is watched.
    #[command(flatten)]
    pub select: Select,

    /// Name of this node in results; the host name without it
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node_name: Option<String>,

    /// Events of the pods that findings are about.
    #[command(flatten)]
    pub events: events::EventArgs,

    /// Findings and flows for OpenTelemetry.
    #[command(flatten)]
    pub otlp: otlp::OtlpArgs,

    /// Readiness and the kernel's types.
    #[command(flatten)]
    pub ready: Ready,
}

/// Runs `netprobe agent` until a signal ends it.
///
/// # Errors
///
/// Bad input, an address or a socket that cannot be had, missing privileges, and a kernel that refuses later.
pub fn run(args: &AgentArgs) -> Result<()> {
    if !matches!(args.select.target()?, None | Some(Target::All)) {
        bail!("agent watches every pod of the node: leave --pod and its like out, or use `netprobe trace`");
    }
    let collector = args.otlp.ready()?;
    // Before all that takes time: who cannot have them learns it at once.
    let listeners = Listeners::open(args.listen, &args.socket)?;
    privileges::give_up_others()?;
    let (asks, asked) = mpsc::channel(16);
    let shared = Arc::new(Shared::new(asks));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let _server = serve::start(listeners, &shared)?;
        let output = Output { format: Format::Json, color: ColorChoice::Never };
        let record = Record { file: None, node_name: args.node_name.clone() };
        let options = (&output, &record, &args.ready);
        let request = Request {
            default: Some(Target::All),
            ..Request::new("agent", Watch::Agent(args.flows), &args.select, options)
        };
        let (live, _) = Live::start(&request)?;
        let mut agent = Agent::new(live, Arc::clone(&shared), asked, args, collector)?;
        log::info!("metrics at http://{}/metrics, API at {}", args.listen, escape(&args.socket.to_string_lossy()));
        tokio::select! {
            over = agent.turns() => over,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    })
}

/// The run, and what it hands on.
struct Agent {
    live: Live,
    shared: Arc<Shared>,
    asked: mpsc::Receiver<Ask>,
    sinks: Sinks,
    setup: Setup,
    /// How long what a pod has stays after it is gone, nanoseconds.
    keep_ns: u64,
    read: Instant,
    forgotten: Instant,
}

impl Agent {
    fn new(
        mut live: Live,
        shared: Arc<Shared>,
        asked: mpsc::Receiver<Ask>,
        args: &AgentArgs,
        collector: Option<otlp::Ready>,
    ) -> Result<Self> {
        let host = live.pipeline_mut().decoder().host();
        let setup = Setup { clock: Clock::new(host), columns: 80, lines: None, colour: false };
        shared.begin(host.kernel.clone(), setup.clock.node().to_owned());
        let events = args.events.start(&args.select, args.node_name.as_deref(), setup.clock.node(), &shared.events);
        let otlp = args.otlp.start(collector, &shared, &setup.clock)?;
        let sinks = Sinks::new(&shared, &setup, events, otlp);
        let now = now();
        let keep_ns = u64::try_from(args.keep.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { live, shared, asked, sinks, setup, keep_ns, read: now, forgotten: now })
    }

    /// Turns until something cannot go on.
    async fn turns(&mut self) -> Result<()> {
        let (ring, facts) = self.live.ready()?;
        let mut clock = interval(TURN);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                ready = ring.readable() => ready?.clear_ready(),
                ready = facts.readable() => ready?.clear_ready(),
                Some(ask) = self.asked.recv() => self.answer(ask)?,
                _ = clock.tick() => {}
            }
            self.live.turn(&mut self.sinks)?;
            self.shared.turned(host::mono_ns());
            if self.read.elapsed() >= pause {
                let start = now();
                self.read_tables()?;
                if self.forgotten.elapsed() >= FORGET {
                    self.forget()?;
                }
                pause = (start.elapsed() * READ_SHARE).clamp(READ_FIRST, READ_LAST);
            }
        }
    }

    fn read_tables(&mut self) -> Result<()> {
        let tables = self.live.read_tables()?;
        self.shared.counted(&tables, self.live.coverage(), host::mono_ns());
        self.read = now();
        Ok(())
    }

    /// To be called right after a reading: the tables before and after tell what was forgotten from what was counted.
    fn forget(&mut self) -> Result<()> {
        let now_ns = host::mono_ns();
        if let Some(tables) = self.live.forget(self.keep_ns)? {
            self.shared.counted(&tables, self.live.coverage(), now_ns);
        }
        self.shared.expire(self.live.pipeline().known_pods(), now_ns, self.keep_ns);
        self.forgotten = now();
        Ok(())
    }

    /// Writes a table for a reader of the API, as it is now.
    fn answer(&mut self, ask: Ask) -> Result<()> {
        if self.read.elapsed() >= READ_FIRST {
            self.read_tables()?;
        }
        let buffer = Buffer::default();
        let mut json = Format::Json.renderer(Box::new(buffer.clone()), self.setup.clone());
        match ask.what {
            What::Drops => {
                let table = self.live.pipeline_mut().drop_table(host::mono_ns());
                json.drops(&table, false)?;
            }
            What::Flows => json.flows(&self.live.flow_table(), false)?,
        }
        // Who asked may be gone.
        let _ = ask.to.send(buffer.take());
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "the agent's own pace, which is nothing of the run's")]
fn now() -> Instant {
    Instant::now()
}
