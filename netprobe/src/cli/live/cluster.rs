//! The cluster: where its names come from, and its news while the run goes on.

use std::{collections::BTreeSet, io::Write, net::IpAddr, time::Duration};

use anyhow::{Result, anyhow};

use super::Request;
use crate::{
    cli::select::{Select, Target},
    enrich::{
        inventory,
        kube::{KubeError, Message, Part, Quiet, Source},
    },
    model::inventory::{Change, Inventory, News},
    probe::host,
    render::escape,
};

/// How long a run that needs names waits for this node's pods, nanoseconds.
const NEEDED_NS: u64 = 15_000_000_000;
/// How long it waits for the rest of the cluster, where the pod asked for is not on this node, nanoseconds.
const ELSEWHERE_NS: u64 = 5_000_000_000;
/// How long a run waits that can do without, nanoseconds: an API that is near answers within it.
const WELCOME_NS: u64 = 200_000_000;
/// How often news of other nodes are taken in, nanoseconds: every time names are looked up anew.
const FAR_NS: u64 = 1_000_000_000;
/// Changes taken in at once: so many of them fit into a frame of a recording.
const CHANGES: usize = 5_000;

/// Where names come from.
#[derive(Default)]
pub(super) struct Cluster {
    /// Names of a file.
    file: Option<Inventory>,
    source: Option<Source>,
    /// Kubernetes' name of this node, where the API was asked.
    node: Option<String>,
    /// Changes that were not taken in yet.
    waiting: Vec<Change>,
    /// Some of them are to be taken in at once.
    is_urgent: bool,
    taken_ns: u64,
    listed: BTreeSet<Part>,
    failed: BTreeSet<Part>,
    /// Why, as told last.
    told: String,
    /// A list was read: what it took can go.
    has_read: bool,
    /// Addresses of this node's pods, as told last.
    near: Vec<IpAddr>,
}

impl Cluster {
    /// Reads the file, or begins to ask the API.
    pub(super) fn start(request: &Request<'_>, target: &Target) -> Result<Self> {
        let Select { inventory, kube, .. } = request.select;
        if let Some(path) = inventory {
            return Ok(Self { file: Some(inventory::load(path)?), ..Self::default() });
        }
        if kube.no_kube {
            return Ok(Self::default());
        }
        let options = kube.options(request.record.node_name.as_deref());
        let is_asked = kube.kubeconfig.is_some() || kube.context.is_some();
        match Source::start(&options) {
            Ok(source) => {
                if source.is_none() {
                    log::info!("no kubeconfig and no service account: names are those of namespaces");
                }
                Ok(Self { source, ..Self::default() })
            }
            Err(error) if needs_names(target) || is_asked => Err(refused(&error)),
            Err(error) => {
                warn(&format!("{error}; names are those of namespaces"));
                Ok(Self::default())
            }
        }
    }

    /// What is known at the start: as much as the target needs, waited for.
    pub(super) fn first(&mut self, target: &Target) -> Result<Inventory> {
        if let Some(inventory) = self.file.take() {
            return Ok(inventory);
        }
        let needed = needs_names(target);
        let start_ns = host::mono_ns();
        while let Some(source) = &self.source {
            let waited_ns = host::mono_ns().saturating_sub(start_ns);
            let limit_ns = match (needed, self.listed.contains(&Part::Near)) {
                (false, false) => WELCOME_NS,
                (true, false) => NEEDED_NS,
                (true, true) if self.may_be_elsewhere(target) => ELSEWHERE_NS,
                (_, true) => break,
            };
            match source.wait(Duration::from_nanos(limit_ns.saturating_sub(waited_ns))) {
                Ok(Message::Failed(Part::Near, error)) if needed => return Err(refused(&error)),
                Ok(message) => self.note(message),
                Err(Quiet::Now) if needed && !self.listed.contains(&Part::Near) => {
                    let reason = format!("this node's pods were not told within {} s", NEEDED_NS / 1_000_000_000);
                    return Err(refused(&KubeError::Away { place: source.place(), reason }));
                }
                Err(Quiet::Now) => break,
                Err(Quiet::ForEver) => self.source = None,
            }
        }
        let (mut inventory, mono_ns) = (Inventory::default(), host::mono_ns());
        self.taken_ns = mono_ns;
        self.is_urgent = false;
        inventory.take(News { mono_ns, changes: std::mem::take(&mut self.waiting) });
        Ok(inventory)
    }

    /// The pod that is meant is none of this node's, and the others are still being told.
    fn may_be_elsewhere(&self, target: &Target) -> bool {
        let Target::Pods { namespace, name: Some(name), .. } = target else { return false };
        let is_told = self.listed.contains(&Part::Far) || self.failed.contains(&Part::Far);
        let is_here = |change: &Change| match change {
            Change::Pod(pod) => {
                pod.name.starts_with(name.as_str()) && namespace.as_ref().is_none_or(|ns| *ns == pod.namespace)
            }
            _ => false,
        };
        !is_told && !self.waiting.iter().any(is_here)
    }

    fn note(&mut self, message: Message) {
        match message {
            Message::Node(name) => self.node = Some(name),
            Message::Changes(part, changes) => {
                self.is_urgent |= part == Part::Near;
                self.waiting.extend(changes);
            }
            Message::Listed(part) => {
                self.has_read |= self.listed.insert(part);
                if self.failed.remove(&part) && self.failed.is_empty() {
                    self.told.clear();
                    warn("Kubernetes gives all names now");
                }
            }
            Message::Failed(part, error) => {
                // A server that is away fails all of them in one way, which is said once.
                let reason = error.to_string();
                if self.failed.insert(part) && self.told != reason {
                    let who = if matches!(error, KubeError::Away { .. }) { "pods and services" } else { of(part) };
                    warn(&format!("{reason}; until it works, {who} have no names"));
                    self.told = reason;
                }
            }
            Message::Stale(since_ns, words) => {
                self.is_urgent = true;
                self.waiting.push(Change::Stale(since_ns));
                warn(&match since_ns {
                    Some(_) => format!("{words}; names are those of before, until it answers again"),
                    None => format!("the {words} answers again: names are current"),
                });
            }
        }
    }

    /// What changed, where it is time to take it in.
    pub(super) fn news(&mut self, now_ns: u64) -> Vec<News> {
        while let Some(source) = &self.source {
            match source.poll() {
                Ok(message) => self.note(message),
                Err(Quiet::Now) => break,
                Err(Quiet::ForEver) => self.source = None,
            }
        }
        if self.waiting.is_empty() || !(self.is_urgent || now_ns.saturating_sub(self.taken_ns) >= FAR_NS) {
            return Vec::new();
        }
        (self.is_urgent, self.taken_ns) = (false, now_ns);
        let mut left = std::mem::take(&mut self.waiting).into_iter().peekable();
        let mut all = Vec::new();
        while left.peek().is_some() {
            all.push(News { mono_ns: now_ns, changes: left.by_ref().take(CHANGES).collect() });
        }
        all
    }

    /// Lists were read since the last call, which takes memory for a moment.
    pub(super) fn take_read(&mut self) -> bool {
        self.waiting.is_empty() && std::mem::take(&mut self.has_read)
    }

    /// More may be told later.
    pub(super) const fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// Kubernetes' name of this node, where the API was asked.
    pub(super) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Addresses of this node's pods, where they are others than before. A file may be old about where a pod is.
    pub(super) fn near(&mut self, inventory: &Inventory) -> Option<Vec<IpAddr>> {
        let here = |node: &str| self.node.as_ref().is_none_or(|name| name == node);
        let pods = inventory.pods.iter().filter(|pod| pod.ended_ns.is_none() && !pod.host_network && here(&pod.node));
        let near: Vec<IpAddr> = pods.flat_map(|pod| pod.ips.iter().copied()).collect();
        (near != self.near).then(|| {
            self.near.clone_from(&near);
            near
        })
    }
}

/// Who these are.
const fn of(part: Part) -> &'static str {
    match part {
        Part::Near => "this node's pods",
        Part::Far => "pods of other nodes",
        Part::Services => "services",
        Part::Slices => "endpoints of services",
        Part::Nodes => "nodes",
    }
}

/// Only a name that Kubernetes gives says who is meant.
const fn needs_names(target: &Target) -> bool {
    matches!(target, Target::Pods { .. })
}

fn refused(error: &KubeError) -> anyhow::Error {
    anyhow!("{error}; or give --inventory FILE, or --netns, which needs no names")
}

pub(crate) fn warn(words: &str) {
    let _ = writeln!(std::io::stderr(), "{}: {}", crate::cli::error::program(), escape(words));
}
