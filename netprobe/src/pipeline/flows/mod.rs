//! Who talks to whom by which device: the classifiers' counts, with names.
//!
//! Rows are given to whoever has the device and the address when they are read. So before somebody loses either, the rows
//! are taken out of the kernel's table and summed up ([`Leaving`]), and nobody who comes after gets them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

mod party;
mod sums;
mod view;

pub(super) use party::Known;
pub use party::Leaving;
use party::{Party, Past, Whose};
use sums::Sums;
use view::View;

use crate::{
    correlate::conversations::{Conversation, join},
    enrich::names::Names,
    facts::FactsEvent,
    model::{
        counted::{Counted, CountedRows},
        facts::NodeFacts,
        flow::Flow,
        flows::{FlowTable, NatTable, Translation},
        identity::Pod,
    },
};

/// Translations remembered as told.
const TOLD_MAX: usize = 65_536;

/// Of whom flows are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wanted {
    /// Namespaces.
    pub namespaces: BTreeSet<u32>,
    /// The own cgroups of pods that share the node's namespace.
    pub cgroups: BTreeSet<u64>,
}

/// The rows, and the sums of those that are over.
#[derive(Default)]
pub(super) struct Flows {
    since_ns: u64,
    rows: Vec<Counted>,
    sums: Sums,
    past: Past,
    /// Of whom flows are shown; of all where it is none.
    wanted: Option<Wanted>,
    told: BTreeSet<(Flow, Flow)>,
    /// Pods that shared the node's namespace and are gone, by their own cgroup, and when that was noticed.
    ended_sharing: BTreeMap<u64, u64>,
    /// Translations of rows that were taken out before they were told.
    untold: Vec<Translation>,
}

impl Flows {
    pub(super) fn since(now_ns: u64) -> Self {
        Self { since_ns: now_ns, ..Self::default() }
    }

    /// Shows these only; those of pods that ended meanwhile stay.
    pub(super) fn show(&mut self, wanted: Option<Wanted>) {
        self.wanted = wanted;
    }

    /// The kernel's rows, anew; those that are over are summed up.
    pub(super) fn set(&mut self, counted: CountedRows, known: Known<'_>) {
        let whose = Whose::now(known, &self.past);
        self.sums.add(&counted.over, &whose);
        if counted.leaving {
            let left: Vec<_> = whose.join(&counted.over).into_iter().map(|c| (View::of(&c, &whose), c)).collect();
            let untold = left.iter().filter(|(view, _)| view.parties().into_iter().any(|party| self.is_wanted(party)));
            let untold: Vec<Translation> = untold.filter_map(|(view, _)| view.translation.clone()).collect();
            self.untold.extend(untold);
            for (view, conversation) in left {
                self.past.remember(&conversation, view.ends);
            }
        }
        self.rows = counted.rows;
    }

    /// What the event takes away from somebody: its rows are to be taken out before.
    pub(super) fn leaving(&self, event: &FactsEvent, facts: &NodeFacts) -> Option<Leaving> {
        self.past.leaving(event, facts)
    }

    /// Positions of the rows that are told by what leaves.
    pub(super) fn rows_leaving(&self, rows: &[Counted], leaving: &Leaving, known: Known<'_>) -> BTreeSet<usize> {
        let whose = Whose::now(known, &self.past);
        let leaves = |conversation: &Conversation<'_>| match leaving {
            Leaving::Namespace(inum) => View::of(conversation, &whose).is_of(Party::Pod(*inum)),
            Leaving::Device(netns, index) => {
                conversation.rows.iter().any(|(row, _)| (row.netns, row.ifindex) == (*netns, *index))
            }
            Leaving::Addresses(gone) => {
                let ends = [conversation.original, conversation.reply()];
                ends.into_iter().flatten().any(|flow| gone.contains(&flow.src.ip()))
            }
        };
        positions(rows, whose.join(rows).into_iter().filter(leaves))
    }

    /// The node is about to change; `known` is what holds before.
    pub(super) fn before(&mut self, event: &FactsEvent, known: Known<'_>) {
        match self.past.leaving(event, known.facts) {
            Some(Leaving::Namespace(inum)) => {
                let ended_ns = if let FactsEvent::NamespaceGone { mono_ns, .. } = event { *mono_ns } else { 0 };
                self.end(inum, ended_ns, known);
            }
            Some(Leaving::Device(netns, index)) if netns == known.facts.node => self.past.end_of_device(index),
            Some(Leaving::Addresses(_)) => {
                let taken = self.past.taken(event, known.facts);
                if !taken.is_empty() {
                    self.past.hand_over(&taken);
                }
            }
            Some(Leaving::Device(..)) | None => {}
        }
    }

    /// These addresses have been these pods' until now.
    pub(super) fn moved(&mut self, addresses: &BTreeMap<IpAddr, Arc<Pod>>, now_ns: u64) {
        for (ip, pod) in addresses.iter().filter(|(ip, _)| self.sums.has_peer(**ip)).collect::<Vec<_>>() {
            let ended = self.past.end_elsewhere(Arc::clone(pod), now_ns);
            self.sums.end_peer(*ip, ended, pod);
        }
        self.past.hand_over(&addresses.keys().copied().collect());
    }

    /// A pod's namespace goes: what was counted stays its own.
    fn end(&mut self, inum: u32, ended_ns: u64, known: Known<'_>) {
        let pod = self.sums.pod(Party::Pod(inum)).or_else(|| known.names.namespace(inum).yes().cloned());
        let Some(pod) = pod else { return };
        let is_wanted = self.is_wanted(Party::Pod(inum));
        let (ended, addresses) = self.past.end((inum, ended_ns), Arc::clone(&pod), is_wanted, known.facts);
        self.sums.hand_over(Party::Pod(inum), ended, &addresses, &pod);
        // Another namespace may get the number.
        if let Some(wanted) = &mut self.wanted {
            wanted.namespaces.remove(&inum);
        }
    }

    fn is_wanted(&self, party: Party) -> bool {
        match (party, &self.wanted) {
            (_, None) => true,
            (Party::Node, _) => false,
            (Party::Pod(inum), Some(wanted)) => wanted.namespaces.contains(&inum),
            (Party::Sharing(own), Some(wanted)) => wanted.cgroups.contains(&own),
            (Party::Ended(id), _) => self.past.get(id).is_some_and(|ended| ended.is_wanted),
        }
    }

    fn sums_now(&self, known: Known<'_>) -> Sums {
        let mut sums = self.sums.clone();
        sums.add(&self.rows, &Whose::now(known, &self.past));
        sums
    }

    /// The table of this moment.
    pub(super) fn table(&self, now_ns: u64, known: Known<'_>) -> FlowTable {
        let sums = self.sums_now(known);
        let wanted = |party| self.is_wanted(party);
        FlowTable {
            mono_ns: now_ns,
            since_ns: self.since_ns,
            devices: sums.device_rows(wanted, known.facts.node),
            lines: sums.flow_lines(wanted),
            more: sums.more,
        }
    }

    /// The same without connections: by device alone.
    pub(super) fn device_table(&self, now_ns: u64, known: Known<'_>) -> FlowTable {
        let mut sums = self.sums.devices_only();
        sums.add_devices(&self.rows, &Whose::now(known, &self.past));
        let devices = sums.device_rows(|party| self.is_wanted(party), known.facts.node);
        FlowTable { mono_ns: now_ns, since_ns: self.since_ns, devices, ..FlowTable::default() }
    }

    /// Lets go of the rows, which are about to be read anew: there is no need to have them twice.
    pub(super) fn clear_rows(&mut self) {
        self.rows = Vec::new();
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Forgets pods that ended before `dead_ns`, and sums of peers that were quiet since `quiet_ns`. Says how many pods.
    pub(super) fn forget(&mut self, (dead_ns, quiet_ns, now_ns): (u64, u64, u64), names: &Names) -> usize {
        let mut dead = self.past.forget(dead_ns);
        let Self { sums, ended_sharing, .. } = self;
        ended_sharing.retain(|own, _| names.cgroup(*own).is_none());
        for party in sums.parties() {
            if let Party::Sharing(own) = party
                && names.cgroup(own).is_none()
                && *ended_sharing.entry(own).or_insert(now_ns) < dead_ns
            {
                ended_sharing.remove(&own);
                dead.insert(party);
            }
        }
        self.sums.forget(&dead, quiet_ns);
        self.untold = Vec::new();
        dead.len()
    }

    /// What NAT makes of connections, as a table.
    pub(super) fn nat_table(&self, now_ns: u64, known: Known<'_>) -> NatTable {
        let sums = self.sums_now(known);
        let lines = sums.nat_lines(|party| self.is_wanted(party));
        NatTable { mono_ns: now_ns, since_ns: self.since_ns, lines, more: sums.more_nat }
    }

    /// Translations that were not told yet, oldest first.
    pub(super) fn fresh_translations(&mut self, known: Known<'_>) -> Vec<Translation> {
        let whose = Whose::now(known, &self.past);
        let views = whose.join(&self.rows).into_iter().map(|conversation| View::of(&conversation, &whose));
        let seen = views.filter(|view| view.parties().into_iter().any(|party| self.is_wanted(party)));
        let mut seen: Vec<Translation> = seen.filter_map(|view| view.translation).collect();
        seen.extend(std::mem::take(&mut self.untold));
        seen.sort_by_key(|t| t.first_ns);
        seen.retain(|translation| {
            if self.told.len() >= TOLD_MAX {
                self.told.clear();
            }
            self.told.insert((translation.before, translation.after))
        });
        seen
    }
}

/// Positions of the rows that belong to connections that are over.
#[must_use]
pub fn rows_over(rows: &[Counted], now_ns: u64) -> BTreeSet<usize> {
    positions(rows, join(rows, |_| None).into_iter().filter(|conversation| conversation.is_over(now_ns)))
}

fn positions<'a>(rows: &[Counted], of: impl Iterator<Item = Conversation<'a>>) -> BTreeSet<usize> {
    // The conversations hold references into `rows`.
    let at = |row: &Counted| (std::ptr::from_ref(row).addr() - rows.as_ptr().addr()) / size_of::<Counted>();
    of.flat_map(|conversation| conversation.rows).map(|(row, _)| at(row)).collect()
}
