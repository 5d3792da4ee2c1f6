//! Joins the stages; the only file that names them all.
//!
//! A pipeline is fed [`Input`]s, by the live run and by a replay alike, and writes to a renderer.
//! It reads no clock: time comes with [`Input::Tick`]. So a recorded run replays to the same
//! output.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::Arc,
};

use bytes::Bytes;

mod answers;
mod cluster;
mod dns;
mod drops;
mod flows;
mod forget;
mod judge;
mod requests;

use answers::Answers;
use dns::Dns;
pub use dns::{DnsOptions, DnsView};
pub use drops::{DropCount, DropCounts};
use drops::{Drops, Known};
use flows::Flows;
pub use flows::{Leaving, Wanted, rows_over};
pub use forget::QUIET_NS;
use judge::Asking;
use requests::Requests;

use crate::{
    correlate::Journeys,
    decode::Decoder,
    enrich::{self, names::Names, owned::Owned},
    explain::{Expectations, Findings},
    facts::FactsEvent,
    model::{
        asked::Question,
        counted::{Counted, CountedRows},
        drops::{DropTable, Loss, Summary},
        facts::NodeFacts,
        finding::Finding,
        flows::{FlowTable, NatTable, Translation},
        inventory::{Inventory, News},
        packet::Packet,
    },
    render::Render,
};

/// How long a verdict waits for facts that must be read first, nanoseconds: a second at most may pass from the bad
/// packet to the finding. What is read takes a few milliseconds, a netfilter ruleset of 20,000 rules up to a second.
pub const PATIENCE_NS: u64 = 700_000_000;

/// What goes into a pipeline.
pub enum Input {
    /// A record of the ring.
    Record(Bytes),
    /// A change of the node.
    Facts(Box<FactsEvent>),
    /// The cluster, anew.
    Inventory(Inventory),
    /// Changes of the cluster.
    News(News),
    /// The kernel's drop table.
    Drops(Vec<DropCount>),
    /// The kernel's table of counted flows.
    Counted(CountedRows),
    /// Something was lost.
    Lost(Loss),
}

/// What a tick brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Findings made or changed.
    pub findings: u64,
    /// Steps shown.
    pub shown: u64,
}

/// All stages, and what they have seen.
pub struct Pipeline {
    decoder: Decoder,
    names: Names,
    facts: NodeFacts,
    inventory: Inventory,
    /// When names of ended pods are to be forgotten, `CLOCK_MONOTONIC` nanoseconds.
    forgets_at: Option<u64>,
    journeys: Journeys,
    findings: Findings,
    expect: Expectations,
    pending: Vec<Packet>,
    /// Journeys to be judged: since when they changed, and when at the latest.
    unsettled: BTreeMap<u64, u64>,
    waiting: BTreeMap<u64, u64>,
    /// Journeys whose verdict waits for facts.
    asking: BTreeMap<u64, Asking>,
    /// Journeys that were judged without the facts they asked for, and what they asked.
    unanswered: BTreeMap<u64, BTreeSet<Question>>,
    /// Questions nobody has taken yet.
    questions: BTreeSet<Question>,
    shown: HashMap<u64, u64>,
    /// Journeys that were answered when they were judged last.
    answered: BTreeSet<u64>,
    /// Findings as told last, and when; those that changed since are told in time.
    told: BTreeMap<String, (Arc<Finding>, u64)>,
    drops: Drops,
    flows: Flows,
    /// Who asked for changes of the network.
    requests: Requests,
    answers: Answers,
    /// Whose flows of the node are.
    owned: Owned,
    /// DNS exchanges, where they are what is shown.
    dns: Option<Dns>,
    summary: Summary,
    /// When something was lost last, `CLOCK_MONOTONIC` nanoseconds.
    lost_ns: u64,
}

impl Pipeline {
    /// A pipeline on the node as it is now.
    #[must_use]
    pub fn new(decoder: Decoder, facts: NodeFacts, inventory: Inventory, expect: Expectations, now_ns: u64) -> Self {
        let mut pipeline = Self {
            names: Names::build(&inventory, &facts),
            decoder,
            facts,
            forgets_at: inventory.forgets_at(),
            inventory,
            journeys: Journeys::default(),
            findings: Findings::default(),
            expect,
            pending: Vec::new(),
            unsettled: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asking: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            questions: BTreeSet::new(),
            shown: HashMap::new(),
            answered: BTreeSet::new(),
            told: BTreeMap::new(),
            drops: Drops::since(now_ns),
            flows: Flows::since(now_ns),
            requests: Requests::default(),
            answers: Answers::default(),
            owned: Owned::default(),
            dns: None,
            summary: Summary { from_ns: now_ns, ..Summary::default() },
            lost_ns: 0,
        };
        pipeline.drops.number_owners(&pipeline.names);
        pipeline
    }

    /// The node, as known now.
    #[must_use]
    pub const fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// The cluster, as known now.
    #[must_use]
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The open journeys.
    #[must_use]
    pub const fn journeys(&self) -> &Journeys {
        &self.journeys
    }

    /// What is wrong with a journey, where something is.
    #[must_use]
    pub fn finding_of(&self, journey: u64) -> Option<&Arc<Finding>> {
        self.findings.of(journey)
    }

    /// The finding of that id.
    #[must_use]
    pub fn finding(&self, id: &str) -> Option<Arc<Finding>> {
        self.findings.all().into_iter().find(|finding| finding.id == id)
    }

    /// Names of namespaces and addresses.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// The decoder, for the symbols it resolved.
    pub const fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The same, and the names: both at once.
    pub const fn decoder_and_names(&mut self) -> (&mut Decoder, &Names) {
        (&mut self.decoder, &self.names)
    }

    /// Takes one input. Errors are none: what cannot be read is counted.
    pub fn take(&mut self, input: Input) {
        match input {
            Input::Record(bytes) => match self.decoder.packet(&bytes) {
                Ok(packet) => {
                    self.summary.records += 1;
                    if self.requests.note(&packet) {
                        self.requests.sign(&mut self.facts.journal);
                    } else {
                        self.pending.push(packet);
                    }
                }
                Err(malformed) => {
                    log::warn!("a record makes no sense: {malformed:?}");
                    self.note_loss(1);
                }
            },
            Input::Facts(event) => {
                let Self { names, facts, inventory, answers, flows, .. } = &mut *self;
                flows.before(&event, flows::Known { names, facts, inventory, answers });
                self.facts.apply(&event);
                match &*event {
                    FactsEvent::Change(_) => self.requests.sign(&mut self.facts.journal),
                    FactsEvent::Answer(answer) => self.answered(answer.question, answer.mono_ns),
                    FactsEvent::NamespaceGone { netns, .. } => self.answers.forget(*netns),
                    _ => {}
                }
                if event.changes_names() {
                    self.rename();
                }
            }
            Input::Inventory(inventory) => {
                self.inventory = inventory;
                self.rename();
            }
            Input::News(news) => self.take_news(news),
            Input::Drops(counts) => self.drops.set(counts, &mut self.decoder),
            Input::Counted(rows) => {
                // Answers first: they came before the connections that are counted.
                self.correlate(rows.mono_ns);
                let Self { names, facts, inventory, answers, flows, .. } = self;
                flows.set(rows, flows::Known { names, facts, inventory, answers });
            }
            Input::Lost(loss) => {
                self.lost_ns = self.lost_ns.max(loss.mono_ns);
                self.note_loss(loss.lost);
            }
        }
    }

    fn note_loss(&mut self, lost: u64) {
        self.summary.lost += lost;
        self.findings.note_loss();
        if let Some(dns) = &mut self.dns {
            dns.lost();
        }
    }

    /// Lets time pass: judges what has settled and shows what is new.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn tick(&mut self, now_ns: u64, out: &mut dyn Render) -> io::Result<Progress> {
        self.correlate(now_ns);
        self.forget_ended(now_ns);
        let (ended, opened) = self.journeys.expire(now_ns, |id| self.unanswered.contains_key(&id));
        self.unsettled.extend(opened.into_iter().map(|id| (id, now_ns)));
        let mut progress = Progress::default();
        progress.shown += self.show_exchanges(now_ns, false, out)?;
        for id in self.due(now_ns) {
            self.judge(id, now_ns, false, out, &mut progress)?;
        }
        for journey in ended {
            self.findings.forget(journey.id);
            self.shown.remove(&journey.id);
            self.answered.remove(&journey.id);
            self.unsettled.remove(&journey.id);
            self.waiting.remove(&journey.id);
            self.asking.remove(&journey.id);
            self.unanswered.remove(&journey.id);
        }
        self.tell_counts(now_ns, false, out)?;
        progress.shown += self.show_due_table(now_ns, out)?;
        out.flush()?;
        Ok(progress)
    }

    /// Ends the run: tells what was waiting, and the summary.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn finish(&mut self, now_ns: u64, out: &mut dyn Render) -> io::Result<()> {
        self.correlate(now_ns);
        let (_, opened) = self.journeys.expire(now_ns, |_| true);
        let left = self.unjudged(opened);
        let mut progress = Progress::default();
        self.show_exchanges(now_ns, true, out)?;
        for id in left {
            self.judge(id, now_ns, true, out, &mut progress)?;
        }
        self.tell_counts(now_ns, true, out)?;
        self.show_last_table(now_ns, out)?;
        self.summary.to_ns = now_ns;
        self.summary.journeys = self.journeys.count();
        self.summary.dropped = self.dropped();
        self.summary.stale_since_ns = self.inventory.stale_since_ns;
        let mut by_rule: BTreeMap<&'static str, u64> = BTreeMap::new();
        for finding in self.findings.all() {
            *by_rule.entry(finding.rule).or_default() += 1;
        }
        self.summary.findings = by_rule.into_iter().collect();
        out.summary(&self.summary)
    }

    /// The drop table of this moment.
    pub fn drop_table(&mut self, now_ns: u64) -> DropTable {
        let Self { drops, decoder, names, facts, journeys, .. } = self;
        drops.table(now_ns, Known { decoder, names, facts, journeys })
    }

    /// Shows flows and translations of these only; of all where it is none.
    pub fn show_flows_of(&mut self, wanted: Option<Wanted>) {
        self.flows.show(wanted);
    }

    /// Who talks to whom at this moment.
    #[must_use]
    pub fn flow_table(&self, now_ns: u64) -> FlowTable {
        self.flows.table(now_ns, self.known_for_flows())
    }

    /// What NAT makes of connections at this moment.
    #[must_use]
    pub fn nat_table(&self, now_ns: u64) -> NatTable {
        self.flows.nat_table(now_ns, self.known_for_flows())
    }

    /// Translations that were not told yet.
    pub fn fresh_translations(&mut self) -> Vec<Translation> {
        let Self { names, facts, inventory, answers, flows, .. } = self;
        flows.fresh_translations(flows::Known { names, facts, inventory, answers })
    }

    /// What the event will take away from somebody: the rows counted by it are to be taken in before the event.
    #[must_use]
    pub fn leaving(&self, event: &FactsEvent) -> Option<Leaving> {
        self.flows.leaving(event, &self.facts)
    }

    /// Positions of the rows that are told by what leaves.
    #[must_use]
    pub fn rows_leaving(&self, rows: &[Counted], leaving: &Leaving) -> BTreeSet<usize> {
        self.flows.rows_leaving(rows, leaving, self.known_for_flows())
    }

    const fn known_for_flows(&self) -> flows::Known<'_> {
        let Self { names, facts, inventory, answers, .. } = self;
        flows::Known { names, facts, inventory, answers }
    }

    fn dropped(&mut self) -> u64 {
        let Self { drops, decoder, names, facts, journeys, .. } = self;
        drops.dropped(Known { decoder, names, facts, journeys })
    }

    /// Addresses of the pods we know, each with the number that stands for its pod in the
    /// kernel's tables.
    #[must_use]
    pub fn owners(&self) -> Vec<(IpAddr, u32)> {
        self.drops.owners(&self.names)
    }

    /// cgroups of pods that share the node's namespace: each with the pod's own one, and the number that stands for the pod
    /// in the kernel's tables.
    pub fn cgroups(&self) -> impl Iterator<Item = (u64, u64, u32)> {
        self.names.cgroups().map(|(cgroup, own, pod)| (cgroup, own, self.drops.number(pod)))
    }

    fn rename(&mut self) {
        self.names = Names::build(&self.inventory, &self.facts);
        self.drops.number_owners(&self.names);
        if let Some(dns) = &mut self.dns {
            dns.rename(&self.inventory);
        }
    }

    fn correlate(&mut self, now_ns: u64) {
        let mut packets = std::mem::take(&mut self.pending);
        // CPUs write to the ring in turn, but read the clock before: neighbours may be swapped.
        packets.sort_by_key(|p| p.mono_ns);
        for packet in packets {
            if self.owned.note(&packet) {
                continue;
            }
            if self.dns.is_some() && !dns::concerns(&packet.what) {
                continue;
            }
            let sighting = Arc::new(enrich::sighting(packet, &self.names, &self.facts, &self.owned));
            self.answers.take(&sighting);
            if let Some(dns) = &mut self.dns {
                dns.take(&sighting);
            }
            if let Some(id) = self.journeys.take(sighting) {
                self.unsettled.entry(id).or_insert(now_ns);
            }
        }
    }
}
