//! A live run: the kernel's records and the node's changes go into the pipeline, and into the
//! recording, in one order.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::IpAddr,
    os::{fd::OwnedFd, linux::fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use netprobe_common::config::{Config, MODE_ALL, MODE_DROPS, NS_FOLLOWED, NS_NODE, NS_POD};

use tokio::io::unix::AsyncFd;

use super::{
    output::{Output, Ready, Record},
    select::{Select, Target},
};
use crate::{
    decode::Decoder,
    enrich::{
        cgroup, inventory,
        select::{Followed, Whose, resolve},
    },
    explain::Expectations,
    facts::{FactsReader, Options as FactsOptions},
    model::{
        drops::Loss,
        facts::{HostFacts, NodeFacts},
        inventory::Inventory,
    },
    pipeline::{DropCount, Input, Pipeline, Progress},
    probe::{
        attach::{Attached, readable},
        btf::KernelBtf,
        host, offsets,
        tables::{LOSS_NAMES, Lost},
    },
    record::{Frame, Header, Lost as LostFrame, Symbol, Writer},
    render::Render,
};

/// Records taken out of the ring before the pipeline may look at them: 20,000 of 300 bytes are
/// 6 MiB, and 50 ms at 400,000 records a second.
const BATCH: usize = 20_000;
/// How long nothing followed must have been seen before the programs rest, nanoseconds.
const REST_NS: u64 = 2_000_000_000;
/// How often counters are read and tables tidied, nanoseconds.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;
/// How long a flow must be silent at a place before its row is retired, nanoseconds.
const RETIRE_NS: u64 = 30_000_000_000;

/// What a live run is asked.
pub struct Request<'a> {
    /// `trace` or `drops`, as recordings name it.
    pub command: &'static str,
    /// Filter words.
    pub filter: &'a [String],
    /// Whose packets.
    pub select: &'a Select,
    /// Whom, where nobody is named; an error where that is none.
    pub default: Option<Target>,
    /// What should be so.
    pub expect: Expectations,
    /// Format.
    pub output: &'a Output,
    /// Recording and node name.
    pub record: &'a Record,
    /// Readiness and BTF.
    pub ready: &'a Ready,
}

/// A live run.
pub struct Live {
    attached: Attached,
    facts: FactsReader,
    pipeline: Pipeline,
    recorder: Option<Writer>,
    target: Target,
    node: String,
    lost: Lost,
    last_record_ns: u64,
    resting: bool,
    housekeeping_ns: u64,
    drops_only: bool,
}

impl Live {
    /// Attaches everything. When it returns, every packet from now on is seen.
    ///
    /// # Errors
    ///
    /// Bad input and missing privileges, each with what to do.
    pub fn start(request: &Request<'_>) -> Result<(Self, Box<dyn Render>)> {
        let target = request.select.target()?.or_else(|| request.default.clone());
        let Some(target) = target else { return Err(request.select.required().expect_err("nobody is named")) };
        let mut config: Config = netprobe_common::wire::zeroed();
        let compiled = super::filter::compile_words(request.filter)?;
        (config.filter, config.filter_tests, config.filter_clauses) =
            (compiled.filter, compiled.tests, compiled.clauses);
        let inventory = match &request.select.inventory {
            Some(path) => inventory::load(path)?,
            None => Inventory::default(),
        };
        must_be_privileged()?;
        let drops_only = request.command == "drops";
        let (parts, followed) = Parts::gather(request, &target, &inventory, drops_only, config)?;
        let node = parts.host.node.clone();
        let recorder =
            request.record.file.as_deref().map(|path| begin(path, &parts, &inventory, request)).transpose()?;
        let renderer = request.output.renderer(&parts.host);
        let now_ns = host::mono_ns();
        let decoder = Decoder::new(parts.host, parts.symbols);
        let pipeline = Pipeline::new(decoder, parts.node, inventory, request.expect.clone(), now_ns);
        let mut live = Self {
            attached: parts.attached,
            facts: parts.facts,
            pipeline,
            recorder,
            target,
            node,
            lost: Lost::default(),
            last_record_ns: now_ns,
            resting: false,
            housekeeping_ns: now_ns,
            drops_only,
        };
        live.follow(&followed)?;
        if let Some(path) = &request.ready.ready_file {
            fs::write(path, b"").with_context(|| format!("create the ready file {}", path.display()))?;
        }
        Ok((live, renderer))
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
            if !self.drops_only {
                self.attached.retire_places(now_ns.saturating_sub(RETIRE_NS))?;
            }
        }
        self.tick(now_ns, out)
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Render) -> Result<Progress> {
        let progress = self.pipeline.tick(now_ns, out)?;
        self.keep(&Frame::Tick(now_ns));
        Ok(progress)
    }

    /// Reads the drop table and shows it.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn show_drops(&mut self, out: &mut dyn Render, live: bool) -> Result<()> {
        let now_ns = host::mono_ns();
        self.take_drops()?;
        let table = self.pipeline.drop_table(now_ns);
        Ok(out.drops(&table, live)?)
    }

    /// Ends the run: the last records, the counts, the summary.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn finish(mut self, out: &mut dyn Render) -> Result<()> {
        while self.take_records() == BATCH {}
        let now_ns = host::mono_ns();
        self.take_losses(now_ns, out)?;
        self.take_drops()?;
        let result = self.pipeline.finish(now_ns, out);
        self.keep(&Frame::Tick(now_ns));
        if let Some(recorder) = self.recorder.take() {
            recorder.finish().map_err(anyhow::Error::new)?;
        }
        Ok(result?)
    }

    fn take_records(&mut self) -> usize {
        let (pipeline, recorder) = (&mut self.pipeline, &mut self.recorder);
        self.attached.drain(BATCH, |bytes| {
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

    fn take_facts(&mut self, now_ns: u64) -> Result<()> {
        let mut events = Vec::new();
        self.facts.read_ready(now_ns, &mut events)?;
        let mut renamed = false;
        for event in events {
            let json = serde_json::to_vec(&event).context("write a change of the node as JSON")?;
            self.keep(&Frame::FactsEvent(json.into()));
            renamed |= event.changes_names();
            self.pipeline.take(Input::Facts(event));
        }
        if renamed
            && let Ok(followed) = whom(&self.target, self.pipeline.inventory(), self.pipeline.facts(), &self.node)
        {
            self.follow(&followed)?;
        }
        Ok(())
    }

    fn take_losses(&mut self, now_ns: u64, out: &mut dyn Render) -> Result<()> {
        let lost = self.attached.lost()?;
        for (index, what) in LOSS_NAMES.iter().enumerate() {
            let fresh = lost.counters[index].saturating_sub(self.lost.counters[index]);
            if fresh > 0 {
                let loss = Loss { mono_ns: now_ns, lost: fresh, what };
                out.loss(&loss)?;
                self.keep(&Frame::Lost(LostFrame { mono_ns: now_ns, lost: fresh, what: (*what).to_owned() }));
                self.pipeline.take(Input::Lost(loss));
            }
        }
        self.lost = lost;
        Ok(())
    }

    fn take_drops(&mut self) -> Result<()> {
        let rows: Vec<DropCount> = self
            .attached
            .drops()?
            .into_iter()
            .map(|(key, total)| DropCount {
                location: key.location,
                netns: key.netns,
                ifindex: key.ifindex,
                reason: key.reason,
                owner: key.owner,
                packets: total.packets,
                bytes: total.bytes,
                last_ns: total.last_ns,
            })
            .collect();
        let json = serde_json::to_value(&rows).context("write the drop counts as JSON")?;
        self.pipeline.take(Input::Drops(rows));
        for (address, name) in self.pipeline.decoder().symbols().take_fresh() {
            self.keep(&Frame::Symbol(Symbol { address, name: name.to_string() }));
        }
        self.keep(&Frame::Counts(json));
        Ok(())
    }

    /// Tells the programs whom to follow.
    fn follow(&mut self, followed: &Followed) -> Result<()> {
        let facts = self.pipeline.facts();
        let whole = |inum: u32| followed.all || followed.namespaces.contains(&inum);
        let mark = |inum: u32| if whole(inum) { NS_FOLLOWED } else { 0 };
        let known: BTreeSet<u32> = facts.namespaces.keys().chain(&followed.namespaces).copied().collect();
        let roles: Vec<(u32, u32)> = known
            .into_iter()
            .map(|inum| (inum, mark(inum) | if inum == facts.node { NS_NODE } else { NS_POD }))
            .collect();
        let owners = self.pipeline.owners();
        let addresses: Vec<(IpAddr, u32, bool)> = owners
            .iter()
            .map(|(ip, owner)| (*ip, *owner, followed.addresses.contains(ip)))
            .chain(
                followed.addresses.iter().filter(|ip| !owners.iter().any(|(o, _)| o == *ip)).map(|ip| (*ip, 0, true)),
            )
            .collect();
        self.attached.set_addresses(&addresses)?;
        self.attached.set_namespaces(&roles)
    }

    fn keep(&mut self, frame: &Frame) {
        keep(&mut self.recorder, frame);
    }
}

/// Writes a frame; the first failure is told once, and the run goes on without recording.
fn keep(recorder: &mut Option<Writer>, frame: &Frame) {
    if let Some(writer) = recorder
        && let Err(error) = writer.write(frame)
    {
        let _ = writeln!(std::io::stderr(), "{}", super::error::lines(&anyhow::Error::new(error)));
        *recorder = None;
    }
}

/// What is read and attached at start, side by side.
struct Parts {
    attached: Attached,
    host: HostFacts,
    symbols: crate::model::symbols::Symbols,
    facts: FactsReader,
    node: NodeFacts,
}

impl Parts {
    fn gather(
        request: &Request<'_>,
        target: &Target,
        inventory: &Inventory,
        drops_only: bool,
        filter: Config,
    ) -> Result<(Self, Followed)> {
        let pods: Vec<IpAddr> = inventory.pods.iter().flat_map(|p| p.ips.iter().copied()).collect();
        let options = FactsOptions { pod_addresses: pods, now_ns: host::mono_ns() };
        let here = request.record.node_name.clone();
        std::thread::scope(|scope| {
            let symbols = scope.spawn(host::symbols);
            let facts = scope.spawn(|| FactsReader::start(options));
            let btf = KernelBtf::load(request.ready.btf.as_deref())?;
            let host = host::read(&btf, here)?;
            let (facts, node) = facts.join().map_err(|_| anyhow!("reading the node's network failed"))??;
            let followed = whom(target, inventory, &node, &host.node)?;
            let mut config = Config { ..offsets::config(&btf)? };
            (config.filter, config.filter_tests, config.filter_clauses) =
                (filter.filter, filter.filter_tests, filter.filter_clauses);
            config.mode = if followed.all { MODE_ALL } else { 0 } | if drops_only { MODE_DROPS } else { 0 };
            let attached = Attached::new(&config, &btf)?;
            let symbols = symbols.join().map_err(|_| anyhow!("reading the kernel's symbols failed"))?;
            Ok((Self { attached, host, symbols, facts, node }, followed))
        })
    }
}

fn begin(path: &Path, parts: &Parts, inventory: &Inventory, request: &Request<'_>) -> Result<Writer> {
    let wall_ns = i64::try_from(host::mono_ns())? + parts.host.wall_offset_ns;
    let header = Header { node: parts.host.node.clone(), wall_ns, version: env!("CARGO_PKG_VERSION").to_owned() };
    let mut writer = Writer::create(path, &header)?;
    writer.write(&Frame::HostFacts(Box::new(parts.host.clone())))?;
    writer.write(&Frame::NodeFacts(Box::new(parts.node.clone())))?;
    writer.write(&Frame::Inventory(Box::new(inventory.clone())))?;
    let options = serde_json::json!({ "command": request.command, "expect": request.expect });
    writer.write(&Frame::Options(options))?;
    writer.write(&Frame::Tick(host::mono_ns()))?;
    Ok(writer)
}

/// Whom the target means, on the node as it is now.
fn whom(target: &Target, inventory: &Inventory, facts: &NodeFacts, here: &str) -> Result<Followed> {
    let netns = |inum: u32, asked: &str| resolve(Whose::Netns { inum, asked }, inventory, facts, here);
    Ok(match target {
        Target::All => resolve(Whose::All, inventory, facts, here)?,
        Target::Pods { namespace, name, labels } => {
            let test = |pod: &[(String, String)]| labels.as_ref().is_none_or(|l| l.matches(pod));
            let labels = labels.is_some().then_some(&test as &dyn Fn(&[(String, String)]) -> bool);
            let whose = Whose::Pods { namespace: namespace.as_deref(), name: name.as_deref(), labels };
            resolve(whose, inventory, facts, here)?
        }
        Target::Netns(name) => netns(netns_inum(name)?, name)?,
        Target::Pid(pid) => {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let meta = fs::metadata(&path).with_context(|| format!("there is no process {pid} that we may look at"))?;
            netns(u32::try_from(meta.st_ino())?, &format!("pid {pid}"))?
        }
        Target::Container(id) => {
            let has = |path: &str| cgroup::parse(path).container.is_some_and(|c| c.starts_with(id.as_str()));
            let found = facts.namespaces.values().find(|n| n.cgroup.as_deref().is_some_and(has));
            let Some(found) = found else { bail!("no container `{id}` with a namespace linked into this node") };
            netns(found.inum, id)?
        }
    })
}

fn netns_inum(name: &str) -> Result<u32> {
    let path = if name.contains('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) };
    let meta = fs::metadata(&path).with_context(|| format!("no network namespace `{name}` ({})", path.display()))?;
    Ok(u32::try_from(meta.st_ino())?)
}

/// `CAP_BPF` and `CAP_SYS_ADMIN` (`include/uapi/linux/capability.h`): to load programs, and to look into the
/// pods' namespaces.
const NEEDED: u64 = 1 << 39 | 1 << 21;

fn must_be_privileged() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0);
    if effective & NEEDED != NEEDED {
        bail!(
            "not enough privileges to load BPF programs and to look into pods' namespaces: run it with sudo, \
             or grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN"
        );
    }
    Ok(())
}

/// How often the pipeline is turned where nothing wakes it.
pub const TURN: Duration = Duration::from_millis(50);
