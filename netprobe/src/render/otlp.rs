//! OTLP: findings as log records, flows as metrics, in the messages that OpenTelemetry's collectors take.

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    metrics::v1::{
        AggregationTemporality, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
};

use super::{Clock, metrics::DevicePoint};
use crate::model::finding::Finding;

/// Who tells: one netprobe on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `service.name`.
    pub service: String,
    /// The node.
    pub node: String,
    /// When it began to count, nanoseconds since 1970.
    pub start_ns: u64,
}

impl Origin {
    fn resource(&self) -> Resource {
        let attributes = vec![
            text("service.name", &self.service),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &self.node),
            text("k8s.node.name", &self.node),
        ];
        Resource { attributes, ..Resource::default() }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "netprobe".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn text(key: &str, value: impl ToString) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_string())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn number(key: &str, value: impl TryInto<i64>) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::IntValue(value.try_into().unwrap_or(i64::MAX))) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// A finding as it is told now. All are warnings, as their Kubernetes Events are: how sure they are is an attribute.
#[must_use]
pub fn record(finding: &Finding, clock: &Clock) -> LogRecord {
    let mut attributes = vec![
        text("netprobe.finding.id", &finding.id),
        text("netprobe.rule", finding.rule),
        text("netprobe.confidence", finding.confidence),
        number("netprobe.count", finding.count),
        text("netprobe.first", clock.rfc3339(finding.first_ns)),
    ];
    if let Some(pod) = &finding.pod {
        attributes.extend([text("k8s.namespace.name", &pod.namespace), text("k8s.pod.name", &pod.name)]);
        attributes.extend(pod.uid.as_ref().map(|uid| text("k8s.pod.uid", uid)));
    }
    if let Some(flow) = &finding.flow {
        attributes.extend([
            text("network.transport", flow.proto),
            text("source.address", flow.src.ip()),
            text("destination.address", flow.dst.ip()),
        ]);
        if flow.has_ports() {
            let ports = [("source.port", flow.src.port()), ("destination.port", flow.dst.port())];
            attributes.extend(ports.map(|(key, port)| number(key, port)));
        }
    }
    let words = [
        ("network.interface.name", finding.device.as_deref()),
        ("netprobe.expected.device", finding.expected_device.as_deref()),
        ("netprobe.reason", finding.reason.as_deref()),
        ("netprobe.since", finding.since.as_deref()),
    ];
    attributes.extend(words.into_iter().filter_map(|(key, word)| word.map(|word| text(key, word))));
    if !finding.fix.is_empty() {
        attributes.push(text("netprobe.fix", finding.fix.join("\n")));
    }
    LogRecord {
        time_unix_nano: clock.unix_ns(finding.last_ns),
        observed_time_unix_nano: clock.unix_ns(finding.last_ns),
        severity_number: SeverityNumber::Warn.into(),
        severity_text: "WARN".to_owned(),
        event_name: "netprobe.finding".to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(finding.claim.clone())) }),
        attributes,
        ..LogRecord::default()
    }
}

/// A request with these records.
#[must_use]
pub fn logs(origin: &Origin, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
    let resource = Some(origin.resource());
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }] }
}

/// A request with the counts of that moment, nanoseconds since 1970: sums since the start.
#[must_use]
pub fn flows(origin: &Origin, points: &[DevicePoint], now_ns: u64) -> ExportMetricsServiceRequest {
    let metric = |name: &str, unit: &str, description: &str, at: usize| {
        let each = points.iter().flat_map(|point| {
            [("transmit", point.out[at]), ("receive", point.into[at])].map(|(way, value)| NumberDataPoint {
                attributes: vec![
                    text("k8s.namespace.name", &point.namespace),
                    text("k8s.pod.name", &point.pod),
                    text("network.interface.name", &point.device),
                    text("network.io.direction", way),
                    text("netprobe.link", if point.is_uplink { "uplink" } else { "pod" }),
                ],
                start_time_unix_nano: origin.start_ns,
                time_unix_nano: now_ns,
                value: Some(number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
                ..NumberDataPoint::default()
            })
        });
        let sum = Sum {
            data_points: each.collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        };
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            description: description.to_owned(),
            data: Some(Data::Sum(sum)),
            ..Metric::default()
        }
    };
    let metrics = vec![
        metric(
            "netprobe.device.packets",
            "{packet}",
            "Packets on the wire, by pod (empty: the node's own) and device",
            0,
        ),
        metric("netprobe.device.bytes", "By", "The bytes of these packets, with link-layer headers", 1),
    ];
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let resource = Some(origin.resource());
    let all = ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![all] }
}
