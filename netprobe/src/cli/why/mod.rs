//! `netprobe why`: one verdict about one connection.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

mod attempt;
mod inside;
mod resolve;
mod story;
mod target;
mod unasked;
mod watch;

use attempt::{Done, End, Reserved};
use inside::{News, Trial, inside};
use resolve::{Files, Resolved};
use target::{Endpoint, Host};
use watch::Watched;

use super::{
    common::Depth,
    error::{EXIT_ERROR, EXIT_FINDING, EXIT_OK},
    expect::Expect,
    live::{Live, Request, TURN, Watch},
    output::{Output, Ready, Record},
    remote::{self, Where},
    run::Show,
    select::Select,
    until,
};
use crate::{
    model::{
        devices::CgroupProgram,
        flow::Proto,
        verdict::{Outcome, Passed, Verdict},
    },
    probe::host,
    render::Silent,
};

const EXAMPLES: &str = "\
Examples:
  netprobe why --pod shop/web-0 --to db.shop:3306
      looks the name up and connects as the pod would, and says what is wrong
  netprobe why --pod shop/web-0 --to 10.1.2.3 --proto icmp
      the same with a ping
  netprobe why --pod shop/web-0 --to 10.96.0.53:53 --proto udp
      the same with UDP; port 53 is asked in DNS
  netprobe why --pod shop/web-0 --to db.shop:3306 --passive --timeout 1m
      makes no connection of its own: waits for the pod's

Exit codes: 0 nothing wrong, 1 a finding, 2 could not tell, or an error.";

/// Protocols a connection can be tried with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Tried {
    /// A TCP handshake.
    #[default]
    Tcp,
    /// One datagram.
    Udp,
    /// One echo request.
    Icmp,
}

/// Options of `netprobe why`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct WhyArgs {
    /// Whither: a name as the pod would write it, or an address, and a port
    #[arg(long, value_name = "HOST:PORT")]
    pub to: Endpoint,

    /// Protocol to try
    #[arg(long, value_enum, default_value_t)]
    pub proto: Tried,

    /// How long to wait for name and connection each (500ms, 5s, 1m)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = super::until::duration)]
    pub timeout: Duration,

    /// Make no connection: watch for the pod's own
    #[arg(long)]
    pub passive: bool,

    /// Whose connection: one pod's.
    #[command(flatten)]
    pub select: Select,

    /// What to expect of it.
    #[command(flatten)]
    pub expect: Expect,

    /// What it may do to learn more.
    #[command(flatten)]
    pub depth: Depth,

    /// Where to watch.
    #[command(flatten)]
    pub place: Where,

    /// How to show it.
    #[command(flatten)]
    pub output: Output,

    /// Where to keep it.
    #[command(flatten)]
    pub record: Record,

    /// Readiness and the kernel's types.
    #[command(flatten)]
    pub ready: Ready,
}

/// After the connection stands: what comes late (a reset, an answer by another NIC).
const AFTER_ANSWER: Duration = Duration::from_millis(300);
/// After it failed: what a finding may still wait for.
const AFTER_FAILURE: Duration = Duration::from_millis(1_500);
/// After a finding: a better one may come.
const AFTER_FINDING: Duration = Duration::from_millis(250);

/// Runs `netprobe why`; the exit code is the verdict's.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &WhyArgs) -> Result<ExitCode> {
    let proto = check(args)?;
    let options = (&args.output, &args.record, &args.ready);
    let request = Request {
        expect: args.expect.read()?,
        traces_rules: args.depth.allow_system_changes,
        place: Some(&args.place),
        ..Request::new("why", Watch::Packets, &args.select, options)
    };
    if args.place.all_nodes || args.place.node.len() > 1 {
        bail!("`why` is about one pod, on one node: leave out --all-nodes and a second --node");
    }
    let there = |there| remote::watch(there, &request, &until::Until::default(), Show::Journeys).map(remote::code);
    if let Some(place) = remote::at_once(&request)? {
        return there(place);
    }
    match here(args, proto, &request) {
        Err(error) => match remote::instead(&request, &error) {
            Some(place) => there(place),
            None => Err(error),
        },
        done => done,
    }
}

fn here(args: &WhyArgs, proto: Proto, request: &Request<'_>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let stdin = until::Stdin::watch(args.ready.until_stdin_closes)?;
        let (live, mut out) = Live::start(request)?;
        let mut why = Why::new(args, proto, live)?;
        let over = tokio::select! {
            over = why.watch() => over,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            () = stdin.closed() => Ok(()),
        };
        over?;
        let verdict = why.verdict()?;
        for finding in &verdict.findings {
            out.finding(finding)?;
        }
        out.verdict(&verdict)?;
        Ok(code(verdict.outcome))
    })
}

/// The exit code of a verdict.
pub(super) fn code(outcome: Outcome) -> ExitCode {
    ExitCode::from(match outcome {
        Outcome::Fine => EXIT_OK,
        Outcome::Finding => EXIT_FINDING,
        Outcome::Unknown => EXIT_ERROR,
    })
}

/// What makes no sense is said before anything is attached.
fn check(args: &WhyArgs) -> Result<Proto> {
    if args.select.all {
        bail!("`why` is about one pod: name it with --pod [NS/]NAME");
    }
    let v6 = matches!(args.to.host, Host::Address(IpAddr::V6(_)));
    match (args.proto, args.to.port) {
        (Tried::Icmp, Some(port)) => bail!("ICMP has no ports: leave out `:{port}`"),
        (Tried::Tcp | Tried::Udp, None) => bail!("no port in `{}`: write {}:PORT", args.to, args.to),
        (Tried::Tcp, _) => Ok(Proto::Tcp),
        (Tried::Udp, _) => Ok(Proto::Udp),
        (Tried::Icmp, None) => Ok(if v6 { Proto::Icmpv6 } else { Proto::Icmp }),
    }
}

/// A run.
struct Why<'a> {
    args: &'a WhyArgs,
    live: Live,
    watched: Watched,
    news: Receiver<News>,
    resolved: Option<Resolved>,
    done: Option<Done>,
    /// Programs on the pod's cgroups that were not asked about our attempt.
    programs: Vec<CgroupProgram>,
    broken: Option<anyhow::Error>,
    /// When the connection was over, or a finding was there.
    ended: Option<Instant>,
    found: Option<Instant>,
    losses: Silent,
    /// The local port of a connection made for a pod on the node itself.
    _reserved: Option<Reserved>,
}

/// A pod that shares the node's namespace is known by its sockets' cgroup, which netprobe's own has not: the connection made
/// for it is known by its local port.
fn reserve(live: &mut Live, proto: Proto) -> Result<Option<Reserved>> {
    if !live.is_of_sharing_pod() {
        return Ok(None);
    }
    if proto.is_icmp() {
        bail!(
            "the pod uses the node's own network, where an echo request tells nobody whose it is: use --proto tcp or udp"
        );
    }
    let reserved = Reserved::new(proto).context("reserve a local port")?;
    live.adopt_port(proto, reserved.port)?;
    Ok(Some(reserved))
}

impl<'a> Why<'a> {
    fn new(args: &'a WhyArgs, proto: Proto, mut live: Live) -> Result<Self> {
        let place = live.only_place().context("`why` is about one pod")?;
        let reserved = if args.passive { None } else { reserve(&mut live, proto)? };
        let port = reserved.as_ref().map_or(0, |reserved| reserved.port);
        let files = Files::of(&place.pids, place.name.as_deref());
        let pod: BTreeSet<IpAddr> = live.pipeline().facts().namespaces[&place.inum()]
            .addresses
            .iter()
            .map(|address| address.net.addr())
            .collect();
        let (sender, news) = channel();
        let (to, timeout, passive) = (args.to.clone(), args.timeout, args.passive);
        let speaks_v6 =
            pod.iter().any(|ip| matches!(ip, IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local()));
        let work = move || {
            let result = inside(&place, &to, proto, &files, Trial { timeout, passive, speaks_v6, port }, &sender);
            if let Err(error) = result {
                // The run may be over.
                let _ = sender.send(News::Broken(error));
            }
        };
        // Before the thread begins: a connection without a route is over within microseconds.
        let watched = Watched { proto, to: Vec::new(), own: None, pod, since_ns: host::mono_ns() };
        thread::Builder::new().name("connect".to_owned()).spawn(work).context("start a thread for the connection")?;
        let losses = if args.record.is_stdout() { Silent::Wholly } else { Silent::ButLosses };
        Ok(Self {
            args,
            live,
            watched,
            news,
            resolved: None,
            done: None,
            programs: Vec::new(),
            broken: None,
            ended: None,
            found: None,
            losses,
            _reserved: reserved,
        })
    }

    /// Turns the pipeline until the verdict can be given.
    async fn watch(&mut self) -> Result<()> {
        let (ring, facts) = self.live.ready()?;
        let mut clock = tokio::time::interval(TURN);
        let begun = Instant::now();
        loop {
            tokio::select! {
                ready = ring.readable() => ready?.clear_ready(),
                ready = facts.readable() => ready?.clear_ready(),
                _ = clock.tick() => {}
            }
            self.live.turn(&mut self.losses)?;
            self.take_news();
            if self.is_over(begun) {
                return Ok(());
            }
        }
    }

    fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Resolved(resolved) => {
                    let port = self.args.to.port.unwrap_or(0);
                    self.watched.to = resolved.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
                    if resolved.addresses.is_empty() {
                        self.ended = Some(Instant::now());
                    }
                    self.resolved = Some(resolved);
                }
                News::Begun(flow) => {
                    self.watched.proto = flow.proto;
                    self.watched.own = Some(flow);
                }
                News::Programs(programs) => self.programs = programs,
                News::Done(done) => (self.done, self.ended) = (Some(done), Some(Instant::now())),
                News::Broken(error) => (self.broken, self.ended) = (Some(error), Some(Instant::now())),
            }
        }
    }

    fn is_over(&mut self, begun: Instant) -> bool {
        if self.found.is_none() && !self.findings().is_empty() {
            self.found = Some(Instant::now());
        }
        if let Some(found) = self.found {
            return found.elapsed() >= AFTER_FINDING;
        }
        if self.args.passive && self.broken.is_none() && self.ended.is_none() {
            // The pod's own connection counts from its first packet on.
            let settled = self.watched.journeys(self.live.pipeline()).any(|journey| journey.closed);
            return settled || begun.elapsed() >= self.args.timeout;
        }
        let patience = match &self.done {
            Some(Done { end: End::Answered, .. }) => AFTER_ANSWER,
            _ => AFTER_FAILURE,
        };
        self.ended.is_some_and(|ended| ended.elapsed() >= patience)
    }

    /// Findings about the connection; about the name, where that is what failed.
    fn findings(&self) -> Vec<std::sync::Arc<crate::model::finding::Finding>> {
        let pipeline = self.live.pipeline();
        let nameless = self.resolved.as_ref().is_some_and(|r| r.asked && r.addresses.is_empty());
        if nameless { self.watched.dns_findings(pipeline) } else { self.watched.findings(pipeline) }
    }

    fn verdict(mut self) -> Result<Verdict> {
        self.take_news();
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        self.live.conclude(&mut self.losses)?;
        let findings = self.findings();
        let pipeline = self.live.pipeline();
        let mut way: Vec<Passed> = Vec::new();
        if let (Some(resolved), Host::Name(_)) = (&self.resolved, &self.args.to.host) {
            way.push(Passed { ok: !resolved.addresses.is_empty(), part: "name".into(), text: resolved.text.clone() });
        }
        let journey = self.watched.journeys(pipeline).last();
        way.extend(journey.map(story::of).unwrap_or_default());
        let answered = journey.is_some_and(|j| way.iter().any(|p| p.part == "answer") || j.packets > 0 && j.closed);
        if let Some(done) = &self.done {
            way.push(ended(done, self.watched.proto));
        }
        let outcome = match (&self.done, findings.is_empty()) {
            (_, false) => Outcome::Finding,
            (Some(Done { end: End::Answered, .. }), true) => Outcome::Fine,
            (None, true) if self.args.passive && answered => Outcome::Fine,
            _ => Outcome::Unknown,
        };
        let claim = match outcome {
            Outcome::Fine => format!("nothing is wrong{}", self.unasked()),
            Outcome::Finding => findings.iter().map(|f| f.claim.as_str()).collect::<Vec<_>>().join("; "),
            Outcome::Unknown => self.unknown(journey.is_some()) + &self.unasked(),
        };
        let place = journey.and_then(|j| j.pod.clone()).or_else(|| self.live.only_pod());
        let verdict = Verdict {
            mono_ns: host::mono_ns(),
            pod: place,
            to: self.args.to.to_string(),
            proto: self.watched.proto,
            outcome,
            way,
            findings,
            claim,
        };
        self.live.end_recording(Some(&verdict))?;
        Ok(verdict)
    }

    /// Who else decides about connections of the pod's own processes, as the end of a sentence.
    fn unasked(&self) -> String {
        let v6 = self.watched.to.first().is_some_and(SocketAddr::is_ipv6);
        unasked::words(&self.programs, self.watched.proto, v6)
    }

    /// Why it could not be told.
    fn unknown(&self, seen: bool) -> String {
        let why = match (&self.resolved, &self.done) {
            (Some(resolved), _) if resolved.addresses.is_empty() => "the name has no address, and no rule says why",
            (_, Some(Done { end: End::Silent, .. })) if self.watched.proto == Proto::Udp => {
                "nothing answered, and UDP need not answer: try a port whose service does, or --passive"
            }
            (_, Some(Done { end: End::Silent, .. })) => "nothing answered in time, and no rule says why",
            (_, Some(Done { end: End::Failed(_), .. })) => "it failed, and no rule says why",
            (_, None) if self.args.passive && seen => "the pod's packets were seen, and no answer yet",
            (_, None) if self.args.passive => "the pod made no such connection in this time",
            _ => "it was interrupted",
        };
        format!("could not tell: {why}")
    }
}

fn ended(done: &Done, proto: Proto) -> Passed {
    let took = resolve::millis(done.took);
    let (ok, text) = match (&done.end, proto) {
        (End::Answered, Proto::Tcp) => (true, format!("connected in {took}")),
        (End::Answered, _) => (true, format!("answered in {took}")),
        (End::Failed(errno), _) => {
            let errno = nix::errno::Errno::from_raw(*errno);
            (false, format!("{errno:?} after {took}: {}", errno.desc()))
        }
        (End::Silent, _) => (false, format!("no answer in {took}")),
    };
    Passed { ok, part: "connect".into(), text }
}
