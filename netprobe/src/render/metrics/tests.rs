//! What is written, held against the formats.

use super::*;
use crate::{
    model::{
        drops::DropRow,
        flows::{Amount, Amounts, DeviceRow},
    },
    render::samples,
};

const KEEP_NS: u64 = 60_000_000_000;

fn moment() -> Moment {
    Moment {
        hooks: vec![("kfree_skb", true), ("icmp_send", false)],
        classifiers: (3, 1),
        flow_rows: (12, 200_000),
        pods: 2,
        ages_s: (0.05, 1.5),
        streams_cut: 1,
        refused: vec![("http", 2)],
        events: vec![("created", 3)],
        otlp: [vec![("sent", 4), ("lost", 1)], vec![("answered", 3), ("failed", 2)]],
        kernel: "6.18.0".to_owned(),
        start_s: 1_700_000_000.5,
        resident: 1 << 20,
        cpu_s: 0.25,
    }
}

fn device(pod: &str, device: &str, packets: u64, is_ended: bool) -> DeviceRow {
    DeviceRow {
        pod: Some(samples::pod(pod)),
        is_ended,
        side: Side::Node,
        device: device.to_owned(),
        is_uplink: true,
        amounts: Amounts { out: Amount { packets, bytes: packets * 100 }, ..Amounts::default() },
    }
}

fn flows(devices: Vec<DeviceRow>) -> FlowTable {
    FlowTable { devices, ..FlowTable::default() }
}

fn drop_of(pod: &str, packets: u64) -> DropRow {
    DropRow {
        node: None,
        pod: Some(samples::pod(pod)),
        side: Side::Node,
        device: "eth0".into(),
        reason: "NETFILTER_DROP".into(),
        site: "nft_do_chain".into(),
        packets,
        bytes: packets * 60,
        fresh: 0,
        last_ns: 0,
        noise: None,
        example: None,
    }
}

/// The value of the one sample whose line begins so.
fn value(metrics: &Metrics, begins: &str) -> Option<u64> {
    let text = metrics.text(&moment(), Exposition::Text);
    let mut lines = text.lines().filter(|line| line.starts_with(begins));
    let line = lines.next();
    assert_eq!(lines.next(), None, "more than one {begins}");
    line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.parse().expect("a whole number"))
}

const WEB_0: &str =
    "netprobe_device_packets_total{namespace=\"shop\",pod=\"web-0\",device=\"eth1\",link=\"uplink\",direction=\"out\"}";

#[test]
fn a_pods_heir_goes_on_where_it_was_when_the_ended_one_is_forgotten() {
    let mut metrics = Metrics::default();
    metrics.take_flows(&flows(vec![device("web-0", "eth1", 100, false)]));
    metrics.take_flows(&flows(vec![device("web-0", "eth1", 100, true), device("web-0", "eth1", 7, false)]));
    assert_eq!(value(&metrics, WEB_0), Some(107));
    metrics.take_flows(&flows(vec![device("web-0", "eth1", 7, false)]));
    assert_eq!(value(&metrics, WEB_0), Some(107));
    metrics.take_flows(&flows(vec![device("web-0", "eth1", 9, false)]));
    assert_eq!(value(&metrics, WEB_0), Some(109));
    metrics.take_flows(&flows(vec![]));
    assert_eq!(value(&metrics, WEB_0), None, "nobody of that name is there");
}

#[test]
fn drops_at_several_devices_are_one_series() {
    let mut metrics = Metrics::default();
    let other = DropRow { device: "eth1".into(), ..drop_of("web-0", 4) };
    metrics.take_drops(&DropTable { rows: vec![drop_of("web-0", 3), other], ..DropTable::default() });
    let series = "netprobe_dropped_packets_total{namespace=\"shop\",pod=\"web-0\",reason=\"NETFILTER_DROP\"";
    assert_eq!(value(&metrics, series), Some(7));
}

#[test]
fn a_finding_counts_once_and_its_strikes_as_they_come() {
    let mut metrics = Metrics::default();
    let finding = Finding { count: 3, ..samples::netfilter_drop() };
    let (made, strikes) = ("netprobe_findings_total{rule=", "netprobe_finding_occurrences_total{rule=");
    metrics.take_finding(&finding);
    metrics.take_finding(&Finding { count: 8, ..finding.clone() });
    assert_eq!((value(&metrics, made), value(&metrics, strikes)), (Some(1), Some(8)));
    metrics.take_finding(&Finding { id: "f99".to_owned(), ..finding });
    assert_eq!((value(&metrics, made), value(&metrics, strikes)), (Some(2), Some(11)));
}

#[test]
fn findings_of_a_dead_pod_go_after_a_minute() {
    let mut metrics = Metrics::default();
    metrics.take_finding(&samples::netfilter_drop());
    let pod = samples::netfilter_drop().pod.expect("it has a pod");
    let made = "netprobe_findings_total{rule=";
    let seen = [
        (true, 0, true),
        (false, 1, true),
        (true, 2, true),
        (false, 3, true),
        (false, 2 + KEEP_NS, true),
        (false, 3 + KEEP_NS, false),
    ];
    for (live, at_ns, is_there) in seen {
        metrics.expire(live.then_some(&*pod).into_iter(), at_ns, KEEP_NS);
        assert_eq!(value(&metrics, made).is_some(), is_there, "at {at_ns}");
    }
}

#[test]
fn every_family_is_written_with_its_labels_and_described_in_both_formats() {
    let mut metrics = Metrics::default();
    metrics.take_flows(&flows(vec![device("web-0", "eth1", 1, false)]));
    metrics.take_drops(&DropTable { rows: vec![drop_of("web-0", 3)], ..DropTable::default() });
    metrics.take_finding(&samples::netfilter_drop());
    let (open, text) = (Exposition::OpenMetrics, Exposition::Text);
    let (open, text) = (metrics.text(&moment(), open), metrics.text(&moment(), text));
    assert!(open.ends_with("# EOF\n") && !text.contains("EOF"));
    for family in FAMILIES {
        let name = family.full_name();
        let kind = if family.is_counter { "counter" } else { "gauge" };
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        assert!(open.contains(&format!("# TYPE netprobe_{} {kind}\n", family.described())), "{name}");
        assert_eq!(family.name.ends_with("_total"), family.is_counter, "{name}");
        assert!(!family.help.contains('\n') && family.help.ends_with('.'), "{name}");
        let begins = if family.labels.is_empty() { format!("{name} ") } else { format!("{name}{{") };
        let sample = text.lines().find(|line| line.starts_with(&begins));
        let sample = sample.unwrap_or_else(|| panic!("no sample of {name}:\n{text}"));
        for label in family.labels {
            assert!(sample.contains(&format!("{label}=\"")), "{sample}");
        }
    }
}

#[test]
fn a_name_cannot_break_out_of_its_label() {
    let mut metrics = Metrics::default();
    metrics.take_flows(&flows(vec![device("a\"} 1\nb\\", "e\"th", 1, false)]));
    let text = metrics.text(&moment(), Exposition::Text);
    assert!(text.contains(r#"pod="a\"} 1\nb\\",device="e\"th""#), "{text}");
}

#[test]
fn the_format_is_what_the_reader_takes() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Exposition::accepted(prometheus), Exposition::OpenMetrics);
    assert_eq!(Exposition::accepted("*/*"), Exposition::Text);
}
