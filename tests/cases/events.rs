//! Findings become Kubernetes Events.

use std::{process::Command, thread, time::Duration};

use netprobe_tests::{
    Agent, Api, Lab, SERVER,
    api::{Fault, host_name},
    binary, wait,
};
use serde_json::Value;

use super::kube_tls::{in_pod, leave_pod};

/// An Event comes so long after its fault at most.
const SOON: Duration = Duration::from_secs(10);

/// An agent with names from that API.
fn start<'a>(lab: &'a Lab, api: &Api, args: &[&str]) -> Agent<'a> {
    let mut command = Command::new(binary());
    command.args(["agent", "--kubeconfig"]).arg(api.kubeconfig(lab.directory())).args(args);
    Agent::start_as(lab, command)
}

/// web-0 has a route to nowhere, and runs into it.
fn fault(lab: &Lab) {
    lab.on("node").run("ip route replace blackhole 172.20.40.5 table 2");
    lab.on("web-0").cannot_connect(SERVER);
}

/// The one Event there is, once `test` passes.
fn event(api: &Api, what: &str, test: impl Fn(&Value) -> bool) -> Value {
    wait(SOON, || api.objects("events").iter().any(&test));
    let events = api.objects("events");
    assert!(events.len() == 1 && test(&events[0]), "{what}: {events:#?}");
    events[0].clone()
}

#[test]
fn a_finding_is_an_event_of_its_pod() {
    let Some(lab) = Lab::start("a_finding_is_an_event_of_its_pod") else { return };
    let api = lab.api();
    let agent = start(&lab, &api, &["--events", "--events-every", "1s"]);
    fault(&lab);
    // An agent does not follow lookups, so it does not name the route.
    let first = event(&api, "an Event", |event| event["reason"] == "UnexplainedDrop");
    let pod = api.objects("pods").into_iter().find(|pod| pod["metadata"]["name"] == "web-0").expect("it is there");
    assert_eq!(first["regarding"]["uid"], pod["metadata"]["uid"]);
    assert_eq!((&first["regarding"]["kind"], &first["regarding"]["name"]), (&"Pod".into(), &"web-0".into()));
    assert_eq!((&first["type"], &first["action"]), (&"Warning".into(), &"Observed".into()));
    assert_eq!(first["reportingInstance"], host_name());
    assert!(first["note"].as_str().is_some_and(|note| note.contains("172.20.40.5")), "{first}");
    // The same fault again is the same Event, with a higher count.
    let count = |event: &Value| event["series"]["count"].as_i64().unwrap_or(1);
    let before = count(&first);
    fault(&lab);
    let next = event(&api, "its count", |event| count(event) > before);
    assert_eq!((&next["metadata"], &next["note"]), (&first["metadata"], &first["note"]));
    assert_eq!(api.requests(&["POST /apis/events.k8s.io/v1/namespaces/shop/events"]), 1);
    assert_eq!(agent.metric("netprobe_events_total", &[("result", "created")]), 1);
    assert!(agent.metric("netprobe_events_total", &[("result", "updated")]) >= 1);
    assert_eq!(agent.metric("netprobe_events_total", &[("result", "failed")]), 0);
}

#[test]
fn an_event_that_the_api_forgot_or_would_not_take_comes_again() {
    let Some(lab) = Lab::start("an_event_that_the_api_forgot_or_would_not_take_comes_again") else { return };
    let api = lab.api();
    api.fault("POST /apis/events.k8s.io", Fault::Code(503, None), 1);
    let agent = start(&lab, &api, &["--events", "--events-every", "1s"]);
    fault(&lab);
    let first = event(&api, "the second try", |_| true);
    let name = first["metadata"]["name"].as_str().expect("a name");
    api.delete("events", "shop", name);
    fault(&lab);
    let second = event(&api, "made anew", |_| true);
    assert_ne!(second["metadata"]["name"], name);
    assert_eq!(agent.metric("netprobe_events_total", &[("result", "created")]), 2);
    assert_eq!(agent.metric("netprobe_events_total", &[("result", "failed")]), 2, "503, and 404");
}

#[test]
fn an_api_that_forbids_events_is_told_of_once() {
    let Some(lab) = Lab::start("an_api_that_forbids_events_is_told_of_once") else { return };
    let api = lab.api();
    api.forbid("events");
    let agent = start(&lab, &api, &["--events"]);
    fault(&lab);
    let has_failed = || agent.metric("netprobe_events_total", &[("result", "failed")]) == 1;
    assert!(wait(SOON, has_failed), "it tries");
    fault(&lab);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(api.requests(&["POST /apis/events.k8s.io"]), 1, "it does not ask again soon");
    let said = agent.end();
    let words = "cannot create events: user tester lacks create on events";
    assert_eq!(said.matches(words).count(), 1, "{said}");
}

#[test]
fn a_users_own_cluster_gets_no_events_unasked() {
    let Some(lab) = Lab::start("a_users_own_cluster_gets_no_events_unasked") else { return };
    let api = lab.api();
    for args in [&[][..], &["--no-events"]] {
        let agent = start(&lab, &api, args);
        fault(&lab);
        let found = || agent.metric("netprobe_findings_total", &[("pod", "web-0")]) > 0;
        assert!(wait(SOON, found), "there is a finding");
        thread::sleep(Duration::from_secs(1));
        let _ = agent.stop();
    }
    assert_eq!(api.requests(&["events.k8s.io"]), 0);
}

#[test]
fn in_a_pod_findings_are_events_unasked() {
    let Some(lab) = Lab::start("in_a_pod_findings_are_events_unasked") else { return };
    let api = lab.api();
    let mut command = in_pod(&lab, &api);
    command.arg("agent");
    let agent = Agent::start_as(&lab, command);
    fault(&lab);
    let _ = event(&api, "an Event", |_| true);
    let said = agent.end();
    leave_pod();
    assert_eq!(said, "");
}
