//! Counters for Prometheus: what a run that never ends has counted, by pod.
//!
//! It takes what a renderer takes, and the values of the moment with each reading. Text comes as OpenMetrics, or as the older
//! text of Prometheus (version 0.0.4), in which a counter's description has its `_total` too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::Arc,
};

use prometheus_client::{collector::Collector, encoding, registry::Registry};

mod families;
mod series;
#[cfg(test)]
mod tests;
mod write;

pub use families::{FAMILIES, Family};
use series::Series;
use write::Samples;

use crate::{
    model::{
        drops::{DropTable, Loss},
        finding::Finding,
        flows::FlowTable,
        identity::Pod,
        sighting::Side,
    },
    probe::tables::{HOLE, LOSS_NAMES},
};

/// Pods and devices of which packets are counted: 250 pods at eight devices each.
const DEVICES_MAX: usize = 2_000;
/// Pods, reasons and places of drops.
const DROPS_MAX: usize = 2_000;
/// Rules and pods of findings.
const FINDINGS_MAX: usize = 1_000;
/// Findings of which the last count is remembered.
const TOLD_MAX: usize = 4_096;

/// Kubernetes namespace and name; both empty for the node's own.
type PodLabels = (String, String);

/// Whose packets, at which device; the device leads out of the node.
type DeviceLabels = (PodLabels, String, bool);

/// Whose packets, the reason, the function, in the node's namespace or a pod's, noise.
type DropLabels = (PodLabels, Arc<str>, Arc<str>, Side, bool);

/// The rule, and whose packets.
type FindingLabels = (&'static str, PodLabels);

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Text,
}

impl Exposition {
    /// What a reader takes that sends this `Accept` header.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Values of one moment.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// Every hook of the run, and whether it is attached.
    pub hooks: Vec<(&'static str, bool)>,
    /// Devices with classifiers, and devices that could not have them.
    pub classifiers: (u64, u64),
    /// Rows of the kernel's table of flows, and how many it can hold.
    pub flow_rows: (u64, u64),
    /// Pods' namespaces on this node.
    pub pods: u64,
    /// Seconds since the node's notifications, and since the counts were read.
    pub ages_s: (f64, f64),
    /// Readers of streams that were cut off.
    pub streams_cut: u64,
    /// Connections refused, by listener.
    pub refused: Vec<(&'static str, u64)>,
    /// What became of Kubernetes Events, by result.
    pub events: Vec<(&'static str, u64)>,
    /// What became of findings for an OTLP collector, and of the requests to it, by result.
    pub otlp: [Vec<(&'static str, u64)>; 2],
    /// Release of the kernel.
    pub kernel: String,
    /// When the run began, seconds since 1970.
    pub start_s: f64,
    /// Resident bytes.
    pub resident: u64,
    /// Processor time, seconds.
    pub cpu_s: f64,
}

/// Traffic of a pod (or of the node's own: empty names) at a device since start, packets and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePoint {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Device.
    pub device: String,
    /// It leads out of the node.
    pub is_uplink: bool,
    /// From the pod.
    pub out: [u64; 2],
    /// To it.
    pub into: [u64; 2],
}

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    devices: Series<DeviceLabels, 4>,
    drops: Series<DropLabels, 2>,
    findings: Series<FindingLabels, 2>,
    /// By number of the finding: what it was told as, and how often it had struck.
    told: BTreeMap<u64, (FindingLabels, u64)>,
    lost: BTreeMap<&'static str, u64>,
    /// Pods that are gone, and since when (`CLOCK_MONOTONIC` nanoseconds).
    gone: BTreeMap<PodLabels, u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            devices: Series::new(DEVICES_MAX),
            drops: Series::new(DROPS_MAX),
            findings: Series::new(FINDINGS_MAX),
            told: BTreeMap::new(),
            lost: LOSS_NAMES.iter().copied().chain([HOLE]).map(|what| (what, 0)).collect(),
            gone: BTreeMap::new(),
        }
    }
}

impl Metrics {
    /// Traffic since start. Rows that are in the table no more are gone, with their series.
    pub fn take_flows(&mut self, table: &FlowTable) {
        let mut totals: BTreeMap<DeviceLabels, [u64; 4]> = BTreeMap::new();
        for row in &table.devices {
            let (out, into) = (row.amounts.out, row.amounts.into);
            let sum = totals.entry((pod_labels(row.pod.as_deref()), row.device.clone(), row.is_uplink)).or_default();
            let more = [out.packets, out.bytes, into.packets, into.bytes];
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.devices.set_all(totals);
    }

    /// The traffic, as many rows as there are series.
    #[must_use]
    pub fn device_points(&self) -> Vec<DevicePoint> {
        let all = self.devices.all().map(|(((namespace, pod), device, is_uplink), [op, ob, ip, ib])| DevicePoint {
            namespace: namespace.clone(),
            pod: pod.clone(),
            device: device.clone(),
            is_uplink: *is_uplink,
            out: [op, ob],
            into: [ip, ib],
        });
        all.collect()
    }

    /// Drops since start, likewise.
    pub fn take_drops(&mut self, table: &DropTable) {
        let mut totals: BTreeMap<DropLabels, [u64; 2]> = BTreeMap::new();
        for row in &table.rows {
            let (reason, site) = (Arc::clone(&row.reason), Arc::clone(&row.site));
            let labels = (pod_labels(row.pod.as_deref()), reason, site, row.side, row.noise.is_some());
            let sum = totals.entry(labels).or_default();
            sum[0] += row.packets;
            sum[1] += row.bytes;
        }
        self.drops.set_all(totals);
    }

    /// A finding that is new or has changed.
    pub fn take_finding(&mut self, finding: &Finding) {
        let labels = (finding.rule, pod_labels(finding.pod.as_deref()));
        let id = finding.id.get(1..).and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
        // Under its number it may be told anew by another rule, which knows the cause better.
        let (made, more) = match self.told.get(&id) {
            Some((told, count)) if *told == labels => (0, finding.count.saturating_sub(*count)),
            _ => (1, finding.count),
        };
        self.findings.add(&labels, [made, more]);
        self.told.insert(id, (labels, finding.count));
        if self.told.len() > TOLD_MAX {
            self.told.pop_first();
        }
    }

    /// Something was lost.
    pub fn take_loss(&mut self, loss: &Loss) {
        *self.lost.entry(loss.what).or_default() += loss.lost;
    }

    /// Lets the findings' series of pods go that are not among `live` for `keep_ns`.
    pub fn expire<'a>(&mut self, live: impl Iterator<Item = &'a Pod>, now_ns: u64, keep_ns: u64) {
        let live: BTreeSet<PodLabels> = live.map(|pod| pod_labels(Some(pod))).collect();
        let nobody = PodLabels::default();
        let named: BTreeSet<PodLabels> = self.findings.labels().into_iter().map(|(_, pod)| pod.clone()).collect();
        let absent: Vec<PodLabels> = named.into_iter().filter(|pod| *pod != nobody && !live.contains(pod)).collect();
        self.gone.retain(|pod, _| absent.contains(pod));
        for pod in absent {
            self.gone.entry(pod).or_insert(now_ns);
        }
        let is_dead =
            |pod: &PodLabels| self.gone.get(pod).is_some_and(|since| now_ns.saturating_sub(*since) >= keep_ns);
        self.findings.remove(|(_, pod)| is_dead(pod));
    }

    /// Of each family with a bound: how many series it has, and how many found no room. A pod and device have two.
    fn sizes(&self) -> [(&'static str, u64, u64); 3] {
        [
            ("netprobe_device_packets_total", self.devices.len() * 2, self.devices.refusals() * 2),
            ("netprobe_dropped_packets_total", self.drops.len(), self.drops.refusals()),
            ("netprobe_findings_total", self.findings.len(), self.findings.refusals()),
        ]
    }

    /// All as text.
    #[must_use]
    pub fn text(&self, moment: &Moment, exposition: Exposition) -> String {
        let mut registry = Registry::with_prefix("netprobe");
        let snapshot = FAMILIES.iter().map(|family| (*family, (family.samples)(self, moment))).collect();
        registry.register_collector(Box::new(Snapshot(snapshot)));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encoding::text::encode(&mut text, &registry);
        match exposition {
            Exposition::OpenMetrics => text,
            Exposition::Text => classic(&text),
        }
    }
}

/// What is written: a family and its samples, each with the values of its labels.
#[derive(Debug)]
struct Snapshot(Vec<(Family, Samples)>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: encoding::DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (family, samples) in &self.0 {
            let mut metric = encoder.encode_descriptor(family.described(), family.help, None, family.kind())?;
            for (values, value) in samples {
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                let labels = labels.as_slice();
                if labels.is_empty() {
                    value.encode(family.is_counter, &mut metric)?;
                } else {
                    value.encode(family.is_counter, &mut metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// The older text: a counter is described by the name that its samples have, and the text has no end mark.
fn classic(open: &str) -> String {
    let counters: BTreeSet<String> =
        FAMILIES.iter().filter(|f| f.is_counter).map(|f| format!("netprobe_{}", f.described())).collect();
    let mut text = String::with_capacity(open.len() + 256);
    for line in open.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        let described = (words.next(), words.next(), words.next(), words.next());
        let written = match described {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) if counters.contains(name) => {
                writeln!(text, "# {what} {name}_total {rest}")
            }
            _ => writeln!(text, "{line}"),
        };
        // Writing to a String cannot fail.
        let _ = written;
    }
    text
}

/// Values of labels, as the text formats take them: the library writes them as they are.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn pod_labels(pod: Option<&Pod>) -> PodLabels {
    pod.map_or_else(PodLabels::default, |pod| (label(&pod.namespace), label(&pod.name)))
}
