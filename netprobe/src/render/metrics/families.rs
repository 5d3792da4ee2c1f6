//! Every family of `/metrics`: one row each. The page of docs/ and the dashboard's test are made of them.

use prometheus_client::metrics::MetricType;

use super::{
    Metrics, Moment,
    write::{Samples, build, devices, drops, findings, named, one},
};

/// A family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name as queries have it, without the prefix `netprobe_`.
    pub name: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it is, with its unit.
    pub help: &'static str,
    /// It only grows; else it is a value of the moment.
    pub is_counter: bool,
    /// Its samples.
    pub(super) samples: fn(&Metrics, &Moment) -> Samples,
}

impl Family {
    /// Name as queries have it.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("netprobe_{}", self.name)
    }

    /// Name as OpenMetrics describes it: a counter's has no `_total` there.
    pub(super) fn described(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }

    pub(super) const fn kind(&self) -> MetricType {
        if self.is_counter { MetricType::Counter } else { MetricType::Gauge }
    }
}

type Labels = &'static [&'static str];
type From = fn(&Metrics, &Moment) -> Samples;

const fn counter(name: &'static str, labels: Labels, help: &'static str, samples: From) -> Family {
    Family { name, labels, help, is_counter: true, samples }
}

const fn gauge(name: &'static str, labels: Labels, help: &'static str, samples: From) -> Family {
    Family { name, labels, help, is_counter: false, samples }
}

const DEVICE: Labels = &["namespace", "pod", "device", "link", "direction"];
const DROP: Labels = &["namespace", "pod", "reason", "place", "at", "noise"];
const FINDING: Labels = &["rule", "namespace", "pod"];

/// All of them, in the order in which they are written.
pub const FAMILIES: &[Family] = &[
    counter(
        "device_packets_total",
        DEVICE,
        "Packets on the wire, by pod (empty: the node's own) and device, out of the pod or in; link is uplink where the \
         device leads out of the node, pod where it leads to the pod.",
        |metrics, _| devices(metrics, 0),
    ),
    counter("device_bytes_total", DEVICE, "The bytes of these packets, with link-layer headers.", |metrics, _| {
        devices(metrics, 1)
    }),
    counter(
        "dropped_packets_total",
        DROP,
        "Packets that the kernel dropped, by pod (empty: none is known), the kernel's reason, the kernel function (place) \
         and network namespace (at: node, pod); noise is true for what a healthy node drops too.",
        |metrics, _| drops(metrics, 0),
    ),
    counter("dropped_bytes_total", DROP, "The bytes of these packets.", |metrics, _| drops(metrics, 1)),
    counter(
        "findings_total",
        FINDING,
        "Findings made, by rule and pod (empty: none is known): one for a fault, however often it strikes.",
        |metrics, _| findings(metrics, 0),
    ),
    counter("finding_occurrences_total", FINDING, "How often the faults of these findings struck.", |metrics, _| {
        findings(metrics, 1)
    }),
    counter(
        "lost_total",
        &["what"],
        "What netprobe itself lost or could not see, by kind, in the unit that the kind names.",
        |metrics, _| metrics.lost.iter().map(|(what, n)| named(what, *n)).collect(),
    ),
    gauge(
        "hook_attached",
        &["hook"],
        "1 for a tracepoint that is attached, 0 for one that this kernel lacks or refuses.",
        |_, moment| moment.hooks.iter().map(|(hook, is)| named(hook, u64::from(*is))).collect(),
    ),
    gauge(
        "classifier_devices",
        &["state"],
        "Devices at which TC classifiers count (attached), and devices that could not have them (refused).",
        |_, moment| vec![named("attached", moment.classifiers.0), named("refused", moment.classifiers.1)],
    ),
    gauge(
        "flow_rows",
        &[],
        "Rows of the kernel's table of counted flows, one for each flow, device and direction.",
        |_, moment| one(moment.flow_rows.0),
    ),
    gauge("flow_rows_max", &[], "Rows that the kernel's table of counted flows has room for.", |_, moment| {
        one(moment.flow_rows.1)
    }),
    gauge("pods", &[], "Network namespaces of pods known on this node.", |_, moment| one(moment.pods)),
    gauge(
        "node_facts_age_seconds",
        &[],
        "Seconds since the notifications about the node's network were read last.",
        |_, moment| one(moment.ages_s.0),
    ),
    gauge(
        "counts_age_seconds",
        &[],
        "Seconds since the kernel's counts of drops and flows were read last.",
        |_, moment| one(moment.ages_s.1),
    ),
    gauge("series", &["family"], "Series that a family with pods in its labels has now.", |metrics, _| {
        metrics.sizes().iter().map(|(family, now, _)| named(family, *now)).collect()
    }),
    counter("series_refused_total", &["family"], "Series that found no room in their family.", |metrics, _| {
        metrics.sizes().iter().map(|(family, _, refused)| named(family, *refused)).collect()
    }),
    counter(
        "streams_cut_total",
        &[],
        "Readers of the local API that were cut off because they read too slowly.",
        |_, moment| one(moment.streams_cut),
    ),
    counter(
        "connections_refused_total",
        &["listener"],
        "Connections closed unanswered because too many were open.",
        |_, moment| moment.refused.iter().map(|(listener, n)| named(listener, *n)).collect(),
    ),
    counter(
        "events_total",
        &["result"],
        "Kubernetes Events of findings, by result: created, updated, failed (the API refused or did not answer; tried again \
         where that may help), dropped (there was no room to wait).",
        |_, moment| moment.events.iter().map(|(result, n)| named(result, *n)).collect(),
    ),
    counter(
        "otlp_findings_total",
        &["result"],
        "Findings for the OTLP collector, by result: sent, lost (refused, or there was no room to wait).",
        |_, moment| moment.otlp[0].iter().map(|(result, n)| named(result, *n)).collect(),
    ),
    counter(
        "otlp_requests_total",
        &["result"],
        "Requests to the OTLP collector, by result: answered, failed (tried again where that may help).",
        |_, moment| moment.otlp[1].iter().map(|(result, n)| named(result, *n)).collect(),
    ),
    gauge(
        "build_info",
        &["version", "kernel"],
        "1; the version of netprobe and the release of the kernel.",
        |_, moment| build(moment),
    ),
    gauge("start_time_seconds", &[], "When netprobe started, in seconds since 1970.", |_, moment| one(moment.start_s)),
    gauge("resident_memory_bytes", &[], "Resident memory of netprobe in bytes.", |_, moment| one(moment.resident)),
    counter("cpu_seconds_total", &[], "Processor time of netprobe in seconds, user and system.", |_, moment| {
        one(moment.cpu_s)
    }),
];
