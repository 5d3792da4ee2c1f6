//! An agent tells an OpenTelemetry collector, and goes on, whatever becomes of it.

use std::{net::SocketAddr, time::Duration};

use netprobe_tests::{
    Agent, Collector, DemoPod, Lab, SERVER, WEB_0, WEB_1,
    collector::{Manner, attribute},
    wait,
};

/// How long a finding may take to be made and sent, and one that was refused before to be sent again.
pub(super) const TOLD: Duration = Duration::from_secs(8);
/// A collector that does not answer is waited for so long.
const TIMEOUT_MS: &str = "700";

fn agent<'a>(lab: &'a Lab, endpoint: &str) -> Agent<'a> {
    let mut command = Agent::command(lab, &["--flows", "uplinks", "--otlp-every", "1s", "--otlp-endpoint", endpoint]);
    command.env("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT_MS).env("OTEL_SERVICE_NAME", "netprobe-lab");
    Agent::spawn(lab, command)
}

/// Packets of the pod to the server are dropped from now on: one finding for each port.
pub(super) fn breaks(lab: &Lab, pod: DemoPod, port: u16) {
    lab.on("node").run(&format!("ip route replace blackhole {} table 2", SERVER.ip()));
    lab.on(pod.name).cannot_connect(SocketAddr::new(SERVER.ip(), port));
}

pub(super) fn otlp(agent: &Agent<'_>, family: &str, result: &str) -> u64 {
    agent.metric(&format!("netprobe_otlp_{family}_total"), &[("result", result)])
}

pub(super) fn told_of(collector: &Collector, pod: &str) -> bool {
    collector.records().iter().any(|told| attribute(&told.record.attributes, "k8s.pod.name") == Some(pod))
}

#[test]
fn findings_and_flows_reach_the_collector() {
    let Some(lab) = Lab::start("findings_and_flows_reach_the_collector") else { return };
    let collector = Collector::start(&lab, Manner::Well);
    let agent = agent(&lab, &collector.endpoint());
    lab.on("web-1").connects(SERVER);
    breaks(&lab, WEB_0, 3306);
    assert!(wait(TOLD, || told_of(&collector, "web-0")), "{:?}", collector.records());
    let told = collector.records().remove(0);
    assert_eq!(attribute(&told.resource, "service.name"), Some("netprobe-lab"));
    let word = |key| attribute(&told.record.attributes, key).map(str::to_owned).unwrap_or_default();
    assert_eq!((word("netprobe.rule"), word("k8s.namespace.name")), ("unexplained-drop".into(), "shop".into()));
    assert_eq!((word("destination.address"), told.record.severity_text), (SERVER.ip().to_string(), "WARN".into()));
    assert!(told.record.time_unix_nano > 1_600_000_000_000_000_000, "{}", told.record.time_unix_nano);
    let sent = || collector.sum("netprobe.device.packets", "web-1", "eth1", "transmit").unwrap_or(0);
    assert!(wait(TOLD, || sent() > 0), "nothing is told of web-1's packets");
    assert_eq!(u64::try_from(sent()).ok(), Some(agent.sent("web-1", "eth1").0), "as /metrics says");
    assert!(otlp(&agent, "findings", "sent") > 0 && otlp(&agent, "findings", "lost") == 0);
    assert!(agent.stop() < Duration::from_secs(1));
}

#[test]
fn a_collector_that_fails_costs_nothing_else_and_is_told_again_when_it_works() {
    let name = "a_collector_that_fails_costs_nothing_else_and_is_told_again_when_it_works";
    let Some(lab) = Lab::start(name) else { return };
    for manner in [Manner::Status(429, 1), Manner::Status(503, 0), Manner::Never, Manner::Garbage] {
        let collector = Collector::start(&lab, manner);
        let agent = agent(&lab, &collector.endpoint());
        breaks(&lab, WEB_0, 3306);
        assert!(wait(TOLD, || otlp(&agent, "requests", "failed") > 0), "{manner:?}: nothing failed");
        // The run goes on meanwhile.
        let made = || agent.metric("netprobe_findings_total", &[("pod", "web-0")]);
        assert!(wait(TOLD, || made() > 0) && agent.get("/healthz").is_some_and(|answer| answer.0 == 200), "{manner:?}");
        assert!(collector.records().is_empty());
        collector.answers(Manner::Well);
        assert!(wait(TOLD, || told_of(&collector, "web-0")), "{manner:?}: {:?}", agent.get("/metrics"));
        assert_eq!(otlp(&agent, "findings", "lost"), 0, "{manner:?}: it waited");
        assert!(agent.stop() < Duration::from_secs(1), "{manner:?}");
    }
}

#[test]
fn what_a_collector_refuses_is_counted_as_lost() {
    let Some(lab) = Lab::start("what_a_collector_refuses_is_counted_as_lost") else { return };
    for manner in [Manner::Status(500, 0), Manner::Status(400, 0), Manner::GarbledMessage, Manner::RejectsOne] {
        let collector = Collector::start(&lab, manner);
        let agent = agent(&lab, &collector.endpoint());
        breaks(&lab, WEB_0, 3306);
        assert!(wait(TOLD, || otlp(&agent, "findings", "lost") > 0), "{manner:?}: {:?}", agent.get("/metrics"));
        collector.answers(Manner::Well);
        breaks(&lab, WEB_1, 3306);
        assert!(wait(TOLD, || told_of(&collector, "web-1")), "{manner:?}: it is not told again");
        drop(agent);
    }
}

#[test]
fn a_collector_that_is_not_there_is_told_of_once() {
    let Some(lab) = Lab::start("a_collector_that_is_not_there_is_told_of_once") else { return };
    // Nobody listens there.
    let agent = agent(&lab, "http://127.0.0.1:9");
    breaks(&lab, WEB_0, 3306);
    assert!(wait(TOLD, || otlp(&agent, "requests", "failed") > 1), "it is not tried again");
    let said = agent.end();
    assert_eq!(said.matches("the OTLP collector http://127.0.0.1:9: ").count(), 1, "{said}");
    assert!(said.contains("refused") && said.contains("counted as lost"), "{said}");
}

#[test]
fn an_endpoint_that_cannot_be_is_refused_at_once() {
    let Some(lab) = Lab::start("an_endpoint_that_cannot_be_is_refused_at_once") else { return };
    for (endpoint, protocol, words) in [
        ("collector:4318", "", "write http://HOST:4318 or https://HOST:4318"),
        ("http://127.0.0.1:4317", "grpc", "netprobe speaks http/protobuf"),
    ] {
        let mut command = Agent::command(&lab, &["--otlp-endpoint", endpoint]);
        let output = command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).output().expect("run netprobe");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{endpoint}: {said}");
        assert!(said.contains(words), "{endpoint}: {said}");
    }
}
