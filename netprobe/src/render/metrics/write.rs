//! Samples of the families.

use std::fmt;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

use super::{Metrics, Moment, PodLabels, label};
use crate::model::sighting::Side;

/// A number, whole where it can be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Whole(u64),
    Broken(f64),
}

impl Value {
    pub(super) fn encode(self, is_counter: bool, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        match (is_counter, self) {
            (true, Self::Whole(n)) => metric.encode_counter::<NoLabelSet, _, u64>(&n, None),
            (true, Self::Broken(n)) => metric.encode_counter::<NoLabelSet, _, u64>(&n, None),
            (false, Self::Whole(n)) => metric.encode_gauge(&n),
            (false, Self::Broken(n)) => metric.encode_gauge(&n),
        }
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::Whole(n)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Self {
        Self::Broken(n)
    }
}

/// Values of the labels, and the value.
pub(super) type Samples = Vec<(Vec<String>, Value)>;

pub(super) fn one(value: impl Into<Value>) -> Samples {
    vec![(vec![], value.into())]
}

pub(super) fn named(label: &str, n: u64) -> (Vec<String>, Value) {
    (vec![label.to_owned()], n.into())
}

pub(super) fn build(moment: &Moment) -> Samples {
    vec![(vec![env!("CARGO_PKG_VERSION").to_owned(), label(&moment.kernel)], 1.into())]
}

/// Packets (`at` 0) or bytes (1) by pod and device.
pub(super) fn devices(metrics: &Metrics, at: usize) -> Samples {
    let way = |at: usize, direction: &'static str| {
        metrics.devices.values(at).map(move |((pod, device, is_uplink), n)| {
            let link = if *is_uplink { "uplink" } else { "pod" };
            (with(pod, &[&label(device), link, direction]), n.into())
        })
    };
    way(at, "out").chain(way(at + 2, "in")).collect()
}

/// Packets (`at` 0) or bytes (1) that were dropped.
pub(super) fn drops(metrics: &Metrics, at: usize) -> Samples {
    let values = metrics.drops.values(at).map(|((pod, reason, site, side, noise), n)| {
        let side = match side {
            Side::Node => "node",
            Side::Pod => "pod",
            Side::Unknown => "unknown",
        };
        let noise = if *noise { "true" } else { "false" };
        (with(pod, &[&label(reason), &label(site), side, noise]), n.into())
    });
    values.collect()
}

/// Findings made (`at` 0), or how often they struck (1).
pub(super) fn findings(metrics: &Metrics, at: usize) -> Samples {
    let values = metrics.findings.values(at);
    values
        .map(|((rule, (namespace, pod)), n)| (vec![(*rule).to_owned(), namespace.clone(), pod.clone()], n.into()))
        .collect()
}

fn with((namespace, pod): &PodLabels, more: &[&str]) -> Vec<String> {
    [namespace.as_str(), pod].iter().chain(more).map(|text| (*text).to_owned()).collect()
}
