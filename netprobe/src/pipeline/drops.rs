//! Who loses packets, why and where: the kernel's counts, with names.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    correlate::Journeys,
    decode::Decoder,
    enrich::names::Names,
    explain::noise,
    model::{
        drops::{DropRow, DropTable},
        facts::NodeFacts,
        flow::Flow,
        identity::Pod,
        packet::{Packet, What},
        sighting::Side,
        stack::base,
    },
};

/// A row of the kernel's drop table, summed over its CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DropCount {
    /// Instruction address that freed the packets.
    pub location: u64,
    /// Namespace inode number.
    pub netns: u32,
    /// Device, or 0.
    pub ifindex: u32,
    /// Drop reason of this kernel.
    pub reason: u32,
    /// Number of the pod ([`Pipeline::owners`]), 0 for none.
    pub owner: u32,
    /// Packets since start.
    pub packets: u64,
    /// Bytes since start.
    pub bytes: u64,
    /// Last one, `CLOCK_MONOTONIC` nanoseconds.
    pub last_ns: u64,
}

/// The kernel's drop table at one moment, as a recording keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DropCounts {
    /// `CLOCK_MONOTONIC` nanoseconds when it was read.
    pub mono_ns: u64,
    /// The user was shown it.
    pub shown: bool,
    /// The rows.
    pub rows: Vec<DropCount>,
}

/// What makes two rows the same: place, namespace, device, reason, owner.
type Key = (u64, u32, u32, u32, u32);

impl DropCount {
    const fn key(&self) -> Key {
        (self.location, self.netns, self.ifindex, self.reason, self.owner)
    }
}

/// Namespace and name of a pod.
type Name = (String, String);

fn name(pod: &Pod) -> Name {
    (pod.namespace.clone(), pod.name.clone())
}

/// The drop counts, and the numbers that stand for pods in them.
#[derive(Default)]
pub(super) struct Drops {
    counts: Vec<DropCount>,
    before: HashMap<Key, u64>,
    table_ns: u64,
    /// By number less one; none for a number that is free again.
    owners: Vec<Option<Arc<Pod>>>,
    /// Their numbers, by namespace and name: one pod may be known in two ways (by its namespace, by its address).
    numbers: HashMap<Name, u32>,
    /// Numbers that are free again.
    free: Vec<u32>,
}

/// What names a row needs.
pub(super) struct Known<'a> {
    pub(super) decoder: &'a mut Decoder,
    pub(super) names: &'a Names,
    pub(super) facts: &'a NodeFacts,
    pub(super) journeys: &'a Journeys,
}

impl Drops {
    /// From now on.
    pub(super) fn since(now_ns: u64) -> Self {
        Self { table_ns: now_ns, ..Self::default() }
    }

    /// The counts, anew. Names are looked up at once, so that a recording has them before.
    pub(super) fn set(&mut self, counts: Vec<DropCount>, decoder: &mut Decoder) {
        for count in &counts {
            decoder.symbols().name(count.location);
        }
        self.counts = counts;
    }

    /// Gives every pod that has no number the next one.
    pub(super) fn number_owners(&mut self, names: &Names) {
        let mut pods: Vec<Arc<Pod>> = names.addresses().map(|(_, pod)| Arc::clone(pod)).collect();
        pods.extend(names.pods().map(|(_, pod)| Arc::clone(pod)));
        pods.extend(names.sharing().map(|(_, pod)| Arc::clone(pod)));
        pods.sort();
        for pod in pods {
            let name = name(&pod);
            if self.numbers.contains_key(&name) {
                continue;
            }
            if let Some(number) = self.free.pop() {
                self.owners[number as usize - 1] = Some(pod);
                self.numbers.insert(name, number);
            } else {
                self.owners.push(Some(pod));
                self.numbers.insert(name, self.owners.len() as u32);
            }
        }
    }

    /// Addresses with the number of their pod.
    pub(super) fn owners(&self, names: &Names) -> Vec<(IpAddr, u32)> {
        let number = |pod: &Arc<Pod>| self.numbers.get(&name(pod)).copied().unwrap_or(0);
        names.addresses().map(|(ip, pod)| (ip, number(pod))).collect()
    }

    /// The number of a pod.
    pub(super) fn number(&self, pod: &Pod) -> u32 {
        self.numbers.get(&name(pod)).copied().unwrap_or(0)
    }

    /// The table of this moment.
    pub(super) fn table(&mut self, now_ns: u64, mut known: Known<'_>) -> DropTable {
        let mut rows = self.rows(&mut known);
        rows.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| (&a.reason, &a.site).cmp(&(&b.reason, &b.site))));
        let table = DropTable { mono_ns: now_ns, interval_ns: now_ns.saturating_sub(self.table_ns), rows };
        self.table_ns = now_ns;
        self.before = self.counts.iter().map(|count| (count.key(), count.packets)).collect();
        table
    }

    fn owner(&self, number: u32) -> Option<&Arc<Pod>> {
        self.owners.get(number.checked_sub(1)? as usize)?.as_ref()
    }

    /// Forgets the counts of pods and namespaces that are gone and were quiet since `before_ns`, and the numbers that
    /// stood for such pods. Gives the counts: they are to be taken out of the kernel's table.
    pub(super) fn forget(&mut self, names: &Names, facts: &NodeFacts, before_ns: u64) -> Vec<DropCount> {
        let known = names.addresses().map(|(_, pod)| pod).chain(names.pods().map(|(_, pod)| pod));
        let live: HashSet<Name> = known.chain(names.sharing().map(|(_, pod)| pod)).map(|pod| name(pod)).collect();
        let is_live = |pod: &Pod| live.contains(&name(pod));
        let gone: Vec<bool> = self.owners.iter().map(|owner| owner.as_ref().is_some_and(|pod| !is_live(pod))).collect();
        let is_gone =
            |number: u32| number.checked_sub(1).and_then(|at| gone.get(at as usize)).copied().unwrap_or(false);
        let over = |count: &DropCount| {
            let is_dead = is_gone(count.owner) || !facts.namespaces.contains_key(&count.netns);
            is_dead && count.last_ns < before_ns
        };
        let (over, kept) = std::mem::take(&mut self.counts).into_iter().partition(over);
        self.counts = kept;
        for (at, owner) in self.owners.iter_mut().enumerate() {
            let is_used = self.counts.iter().any(|count| count.owner as usize == at + 1);
            if gone[at]
                && !is_used
                && let Some(pod) = owner.take()
            {
                self.numbers.remove(&name(&pod));
                self.free.push(at as u32 + 1);
            }
        }
        over
    }

    /// Packets dropped, noise left out.
    pub(super) fn dropped(&self, mut known: Known<'_>) -> u64 {
        self.rows(&mut known).iter().filter(|row| row.noise.is_none()).map(|row| row.packets).sum()
    }

    fn rows(&self, known: &mut Known<'_>) -> Vec<DropRow> {
        self.counts.iter().map(|count| self.row(count, known)).collect()
    }

    fn row(&self, count: &DropCount, known: &mut Known<'_>) -> DropRow {
        let reason = known.decoder.reason(count.reason);
        let site = known.decoder.symbols().name(count.location);
        let owner = self.owner(count.owner).cloned();
        let namespace = known.facts.namespaces.get(&count.netns);
        let device = namespace.filter(|_| count.ifindex != 0).map_or_else(String::new, |n| n.device(count.ifindex));
        let base = base(&site);
        DropRow {
            node: None,
            pod: owner.or_else(|| known.names.namespace(count.netns).yes().cloned()),
            side: if count.netns == known.facts.node { Side::Node } else { Side::Pod },
            device: Arc::from(device),
            noise: noise::of(&reason, base, None, true),
            site: Arc::from(base),
            reason,
            packets: count.packets,
            bytes: count.bytes,
            fresh: count.packets.saturating_sub(self.before.get(&count.key()).copied().unwrap_or(0)),
            last_ns: count.last_ns,
            example: example(count, known.journeys),
        }
    }
}

/// A flow that had such a drop, from the samples.
fn example(count: &DropCount, journeys: &Journeys) -> Option<Flow> {
    let fits = |packet: &Packet| packet.netns == count.netns && packet.ifindex == count.ifindex;
    journeys.iter().flat_map(|j| j.steps.iter().rev()).find_map(|step| match &step.sighting.packet.what {
        What::Dropped { head, .. } if fits(&step.sighting.packet) => head.flow,
        _ => None,
    })
}
