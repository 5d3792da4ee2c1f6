//! A live run: the kernel's records and the node's changes go into the pipeline, and into the
//! recording, in one order.

use std::{collections::BTreeSet, fs, io, net::IpAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use netprobe_common::{
    config::{Config, NS_FOLLOWED, NS_NODE, NS_POD, NS_SHARED_BY_PODS},
    limits::ADDRESSES_MAX,
};
use tokio::io::unix::AsyncFd;

mod agent;
mod asking;
mod capturing;
mod cluster;
mod counting;
mod devices;
mod parts;
mod recording;
mod request;
mod sharing;
mod tables;
mod whom;

pub use agent::{Coverage, Tables};
use asking::Asking;
use cluster::Cluster;
pub(crate) use cluster::warn;
pub use devices::DeviceName;
use parts::Parts;
pub use parts::{is_privileged, must_be_privileged};
use recording::{begin, keep};
pub use request::{FlowsAt, Request, Watch};
use sharing::Sharing;
use tables::Table;
pub use tables::{Draw, Kind};
use whom::whom;

use super::select::Target;
use crate::{
    decode::Decoder,
    enrich::select::Followed,
    facts::{FactsEvent, FactsReader, Place},
    model::{drops::Loss, identity::Pod},
    pipeline::{DnsOptions, DnsView, Input, PATIENCE_NS, Pipeline, Progress, Wanted},
    probe::{
        attach::{Attached, give_memory_back, keep_large_apart, readable},
        host,
        tables::{HOLE, LOSS_NAMES, Lost},
    },
    record::{Frame, Lost as LostFrame, Symbol, Writer},
    render::{FindingsLast, FindingsOnly, Render, Silent},
};

/// Records taken out of the ring before the pipeline may look at them: 20,000 of 300 bytes are
/// 6 MiB, and 50 ms at 400,000 records a second.
const BATCH: usize = 20_000;
/// How long nothing followed must have been seen before the programs rest, nanoseconds.
const REST_NS: u64 = 2_000_000_000;
/// How often counters are read and tables tidied, nanoseconds.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;
/// How long a flow must be silent at a place before its row is retired, nanoseconds. A connection takes about fourteen
/// rows: with 8 s the table (`PLACES_MAX`) holds 140 new ones a second, with 30 s it was full at 40.
const RETIRE_NS: u64 = 8_000_000_000;

/// A live run.
pub struct Live {
    attached: Attached,
    facts: FactsReader,
    cluster: Cluster,
    /// Addresses as the programs were told last.
    addresses: Vec<(IpAddr, u32, bool)>,
    asking: Asking,
    pipeline: Pipeline,
    recorder: Option<Writer>,
    /// The recording is all that the run is for: it ends when nobody reads it any more.
    to_stdout: bool,
    target: Target,
    /// Namespaces that were followed last; none means all. When the last pod that fits is gone, nobody else takes its place.
    namespaces: Option<BTreeSet<u32>>,
    /// The own cgroups of followed pods that share the node's namespace.
    cgroups: BTreeSet<u64>,
    sharing: Sharing,
    node: String,
    lost: Lost,
    last_record_ns: u64,
    resting: bool,
    housekeeping_ns: u64,
    watch: Watch,
    last_table: Option<Table>,
    traces_rules: bool,
    /// DNS is what the run is about.
    dns: bool,
    /// Where packets are captured; everywhere where no device is named.
    at: Vec<DeviceName>,
}

impl Live {
    /// Attaches everything. When it returns, every packet from now on is seen.
    ///
    /// # Errors
    ///
    /// Bad input and missing privileges, each with what to do.
    pub fn start(request: &Request<'_>) -> Result<(Self, Box<dyn Render>)> {
        keep_large_apart();
        let target = request.select.target()?.or_else(|| request.default.clone());
        let Some(target) = target else { return Err(request.select.required().expect_err("nobody is named")) };
        let mut config: Config = netprobe_common::wire::zeroed();
        let compiled = super::filter::compile_words(request.filter)?;
        (config.filter, config.filter_tests, config.filter_clauses) =
            (compiled.filter, compiled.tests, compiled.clauses);
        request.record.check()?;
        let mut cluster = Cluster::start(request, &target)?;
        must_be_privileged()?;
        // What is expected can only be held against packets that are followed.
        let drops = request.watch == Watch::Drops;
        let watch = if drops && !request.expect.is_empty() { Watch::Packets } else { request.watch };
        let (parts, followed) = Parts::gather(request, &target, &mut cluster, watch, config)?;
        let node = parts.host.node.clone();
        let now_ns = host::mono_ns();
        let dns = request.dns.map(|view| DnsOptions { view, outside: !followed.all });
        let begun = request.record.file.as_deref().map(|path| begin(path, &parts, (request, &followed, dns), now_ns));
        let recorder = begun.transpose()?;
        let to_stdout = request.record.is_stdout();
        let mut renderer: Box<dyn Render> =
            if to_stdout { Box::new(Silent::Wholly) } else { request.output.renderer(&parts.host) };
        if request.watch != Watch::Packets {
            renderer = Box::new(FindingsOnly(renderer));
        }
        if request.dns == Some(DnsView::Table(true)) {
            renderer = Box::new(FindingsLast::new(renderer));
        }
        let decoder = Decoder::new(parts.host, parts.symbols);
        let mut pipeline = Pipeline::new(decoder, parts.node, parts.inventory, request.expect.clone(), now_ns);
        if let Some(dns) = dns {
            pipeline = pipeline.showing_dns(dns);
        }
        let mut live = Self {
            attached: parts.attached,
            facts: parts.facts,
            cluster,
            addresses: Vec::new(),
            asking: Asking::default(),
            pipeline,
            recorder,
            to_stdout,
            target,
            namespaces: None,
            cgroups: BTreeSet::new(),
            sharing: parts.sharing,
            node,
            lost: Lost::default(),
            last_record_ns: now_ns,
            resting: false,
            housekeeping_ns: now_ns,
            watch,
            last_table: None,
            traces_rules: request.traces_rules,
            dns: dns.is_some(),
            at: request.at.to_vec(),
        };
        live.begin(&followed, now_ns)?;
        give_memory_back();
        tell_ready(request)?;
        Ok((live, renderer))
    }

    /// Tells the programs whom to follow, has the classifiers where they belong, and reads what changes are held against.
    fn begin(&mut self, followed: &Followed, now_ns: u64) -> Result<()> {
        self.follow(followed)?;
        self.check_devices()?;
        self.classify();
        if self.watch == Watch::Packets {
            self.asking.read_bases(self.pipeline.facts(), followed);
            self.take_answers(now_ns)?;
        }
        Ok(())
    }

    /// Becomes readable when the programs, and when the node's network, have news.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn ready(&self) -> Result<(AsyncFd<OwnedFd>, AsyncFd<OwnedFd>)> {
        let notifications = self.facts.fd().try_clone_to_owned().context("watch the node's notifications")?;
        Ok((self.attached.ring_ready()?, readable(notifications)?))
    }

    /// Takes in what there is, and lets the pipeline work on it.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn turn(&mut self, out: &mut dyn Render) -> Result<Progress> {
        let now_ns = host::mono_ns();
        self.take_facts(now_ns)?;
        self.take_news(now_ns)?;
        self.take_answers(now_ns)?;
        let taken = self.take_records();
        if taken > 0 {
            (self.last_record_ns, self.resting) = (now_ns, false);
        } else if !self.resting && now_ns.saturating_sub(self.last_record_ns) > REST_NS {
            self.attached.rest()?;
            self.resting = true;
        }
        if now_ns.saturating_sub(self.housekeeping_ns) >= HOUSEKEEPING_NS {
            self.housekeeping_ns = now_ns;
            self.take_losses(now_ns, out)?;
            self.look_at_sharing(now_ns)?;
            for lack in self.attached.loaded_since() {
                log::warn!("{lack}");
            }
            if self.watch == Watch::Packets {
                self.attached.retire_places(now_ns.saturating_sub(RETIRE_NS))?;
            }
        }
        self.tick(now_ns, out)
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Render) -> Result<Progress> {
        let progress = self.pipeline.tick(now_ns, out)?;
        self.keep(&Frame::Tick(now_ns));
        if self.to_stdout && self.recorder.as_ref().is_some_and(Writer::has_failed) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        self.asking.note(self.pipeline.take_questions());
        Ok(progress)
    }

    /// Has read what is asked, and hands the pipeline what was read.
    fn take_answers(&mut self, now_ns: u64) -> Result<()> {
        let events = self.asking.turn(&mut self.facts, now_ns);
        self.take_events(events).map(drop)
    }

    /// The run ends: what the rules still want to know is read first, for as long as a verdict may wait.
    fn take_last_answers(&mut self) -> Result<()> {
        let start_ns = host::mono_ns();
        let questions = self.pipeline.last_questions(start_ns);
        self.asking.note(questions);
        while self.asking.is_busy() && host::mono_ns().saturating_sub(start_ns) < PATIENCE_NS {
            self.take_answers(host::mono_ns())?;
            std::thread::sleep(Duration::from_millis(2));
        }
        self.take_answers(host::mono_ns())
    }

    /// What the run has seen so far.
    #[must_use]
    pub const fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// What names the kernel's functions and reasons.
    pub const fn pipeline_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }

    /// The one namespace that is followed, opened.
    ///
    /// # Errors
    ///
    /// If there are more or none.
    pub fn only_place(&self) -> Result<Place> {
        let followed = whom(&self.target, self.pipeline.inventory(), self.pipeline.facts(), &self.node)?;
        match followed.namespaces.iter().collect::<Vec<_>>().as_slice() {
            [netns] => self.facts.place(**netns).context("open the pod's network namespace"),
            [] if followed.cgroups.len() == 1 => {
                self.facts.place(self.pipeline.facts().node).context("open the node's network namespace")
            }
            [] => bail!("nobody with a network namespace of their own fits; netprobe runs on the pod's node"),
            more => {
                let names: Vec<String> = followed.pods.iter().map(ToString::to_string).collect();
                bail!("{} fit: {}", more.len(), names.join(", "))
            }
        }
    }

    /// The one pod that is followed, where it is one.
    #[must_use]
    pub fn only_pod(&self) -> Option<Arc<Pod>> {
        let followed = whom(&self.target, self.pipeline.inventory(), self.pipeline.facts(), &self.node).ok()?;
        followed.pods.first().cloned()
    }

    /// Ends the run: the last records, the counts, the summary, the recording.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn finish(&mut self, out: &mut dyn Render) -> Result<()> {
        let told = self.conclude(out);
        self.end_recording(None)?;
        told
    }

    /// Ends the run, but not its recording.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn conclude(&mut self, out: &mut dyn Render) -> Result<()> {
        while self.take_records() == BATCH {}
        self.take_last_answers()?;
        let now_ns = host::mono_ns();
        self.take_losses(now_ns, out)?;
        if self.watch.counts_drops() {
            self.take_drops(now_ns)?;
        }
        let result = self.pipeline.finish(now_ns, out);
        self.keep(&Frame::Tick(now_ns));
        Ok(result?)
    }

    fn take_records(&mut self) -> usize {
        let (pipeline, recorder) = (&mut self.pipeline, &mut self.recorder);
        self.attached.drain(BATCH, |bytes| {
            let bytes = Bytes::copy_from_slice(bytes);
            let kept = recorder.is_some().then(|| bytes.clone());
            pipeline.take(Input::Record(bytes));
            for (address, name) in pipeline.decoder().symbols().take_fresh() {
                keep(recorder, &Frame::Symbol(Symbol { address, name: name.to_string() }));
            }
            if let Some(bytes) = kept {
                keep(recorder, &Frame::Record(bytes));
            }
        })
    }

    /// Takes in changes of the node. Says whether there were any.
    fn take_facts(&mut self, now_ns: u64) -> Result<bool> {
        let mut events = Vec::new();
        self.facts.read_ready(now_ns, &mut events)?;
        self.take_events(events)
    }

    /// The same of these changes.
    fn take_events(&mut self, events: Vec<FactsEvent>) -> Result<bool> {
        let mut renamed = false;
        let changed = !events.is_empty();
        for event in events {
            let json = serde_json::to_vec(&event).context("write a change of the node as JSON")?;
            self.take_leaving(&event)?;
            self.keep(&Frame::FactsEvent(json.into()));
            renamed |= event.changes_names();
            self.pipeline.take(Input::Facts(Box::new(event)));
        }
        if renamed {
            self.follow_again()?;
        }
        if changed {
            self.classify();
        }
        Ok(changed)
    }

    /// Takes in what Kubernetes tells.
    fn take_news(&mut self, now_ns: u64) -> Result<()> {
        let all = self.cluster.news(now_ns);
        if all.is_empty() {
            return Ok(());
        }
        for news in all {
            self.take_moving(&news)?;
            self.keep(&Frame::News(Box::new(news.clone())));
            self.pipeline.take(Input::News(news));
        }
        if let Some(addresses) = self.cluster.near(self.pipeline.inventory()) {
            self.facts.set_pod_addresses(addresses, now_ns);
        }
        if self.cluster.take_read() {
            give_memory_back();
        }
        self.look_at_sharing(now_ns)?;
        self.follow_again()
    }

    /// Names have changed: whom the user means may be another now. Where it is nobody, nobody takes their place.
    fn follow_again(&mut self) -> Result<()> {
        match whom(&self.target, self.pipeline.inventory(), self.pipeline.facts(), &self.node) {
            Ok(followed) => self.follow(&followed),
            Err(_) => Ok(()),
        }
    }

    fn take_losses(&mut self, now_ns: u64, out: &mut dyn Render) -> Result<()> {
        let lost = self.attached.lost()?;
        for (index, what) in LOSS_NAMES.iter().enumerate() {
            let fresh = lost.counters[index].saturating_sub(self.lost.counters[index]);
            if fresh > 0 {
                self.tell_loss(Loss { mono_ns: now_ns, lost: fresh, what, hole: None }, out)?;
            }
        }
        self.lost = lost;
        for hole in self.check_classifiers() {
            self.tell_loss(Loss { mono_ns: now_ns, lost: 1, what: HOLE, hole: Some(hole) }, out)?;
        }
        Ok(())
    }

    fn tell_loss(&mut self, loss: Loss, out: &mut dyn Render) -> Result<()> {
        out.loss(&loss)?;
        let Loss { mono_ns, lost, what, hole } = loss.clone();
        self.keep(&Frame::Lost(LostFrame { mono_ns, lost, what: what.to_owned(), hole }));
        self.pipeline.take(Input::Lost(loss));
        Ok(())
    }

    /// Tells the programs whom to follow.
    fn follow(&mut self, followed: &Followed) -> Result<()> {
        self.namespaces = (!followed.all).then(|| followed.namespaces.iter().copied().collect());
        let wanted = Wanted { namespaces: followed.namespaces.clone(), cgroups: followed.cgroups.clone() };
        self.pipeline.show_flows_of((!followed.all).then_some(wanted));
        self.cgroups.clone_from(&followed.cgroups);
        self.follow_sharing()?;
        let facts = self.pipeline.facts();
        let whole = |inum: u32| followed.all || followed.namespaces.contains(&inum);
        let shared = if followed.cgroups.is_empty() { 0 } else { NS_SHARED_BY_PODS };
        let mark = |inum: u32| {
            let shared = if inum == facts.node { shared } else { 0 };
            shared | if whole(inum) { NS_FOLLOWED } else { 0 }
        };
        let known: BTreeSet<u32> = facts.namespaces.keys().chain(&followed.namespaces).copied().collect();
        let roles: Vec<(u32, u32)> = known
            .into_iter()
            .map(|inum| (inum, mark(inum) | if inum == facts.node { NS_NODE } else { NS_POD }))
            .collect();
        let pods = facts.namespaces.values().filter(|namespace| namespace.inum != facts.node);
        let near = pods.flat_map(|pod| pod.addresses.iter().map(|address| address.net.addr())).collect();
        let addresses = addresses_to_tell(self.pipeline.owners(), &near, followed);
        let ports: Vec<(u32, u32)> = facts
            .node()
            .into_iter()
            .flat_map(|node| node.links.values().map(|link| (node.inum, link)))
            .filter(|(_, link)| link.peer_netns.is_some_and(|inum| inum != facts.node && whole(inum)))
            .map(|(inum, link)| (inum, link.index))
            .collect();
        if self.traces_rules {
            let addresses = followed.addresses.iter().copied().collect();
            self.facts.trace_rules((!followed.all).then_some(&addresses))?;
        }
        self.attached.set_ports(&ports)?;
        if addresses != self.addresses {
            self.attached.set_addresses(&addresses)?;
            self.addresses = addresses;
        }
        self.attached.set_namespaces(&roles)
    }
}

/// Everything is attached.
fn tell_ready(request: &Request<'_>) -> Result<()> {
    let Some(path) = &request.ready.ready_file else { return Ok(()) };
    fs::write(path, b"").with_context(|| format!("create the ready file {}", path.display()))
}

/// Addresses that the programs are told, each with the number of its pod and whether it is followed: as many as they have
/// room for, those that are followed first, then those of this node. Of the others they count drops by pod.
fn addresses_to_tell(
    owners: Vec<(IpAddr, u32)>,
    near: &BTreeSet<IpAddr>,
    followed: &Followed,
) -> Vec<(IpAddr, u32, bool)> {
    let known: BTreeSet<IpAddr> = owners.iter().map(|(ip, _)| *ip).collect();
    let unknown = followed.addresses.iter().filter(|ip| !known.contains(*ip)).map(|ip| (*ip, 0));
    let all = owners.iter().copied().chain(unknown);
    let mut all: Vec<_> = all.map(|(ip, owner)| (ip, owner, followed.addresses.contains(&ip))).collect();
    all.sort_by_key(|(ip, _, is_followed)| (!is_followed, !near.contains(ip)));
    all.truncate(ADDRESSES_MAX as usize);
    all
}

/// How often the pipeline is turned where nothing wakes it.
pub const TURN: Duration = Duration::from_millis(50);
