use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use super::Json;
use crate::{
    model::{
        drops::{Hole, Loss, Summary},
        finding::Finding,
        sighting::Side,
    },
    render::{Render, samples, schema},
};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The objects that `write` writes: one a line.
fn rendered(write: impl FnOnce(&mut Json) -> io::Result<()>) -> Vec<Value> {
    let kept = Kept::default();
    let mut json = Json::new(Box::new(kept.clone()), samples::clock());
    write(&mut json).expect("memory takes all");
    json.flush().expect("memory takes all");
    let bytes = kept.0.lock().expect("not poisoned").clone();
    let text = String::from_utf8(bytes).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("every line is an object")).collect()
}

fn summary() -> Summary {
    Summary { from_ns: 1, to_ns: 2, records: 9, findings: vec![("wrong-egress", 1)], ..Summary::default() }
}

/// Something of everything.
fn everything() -> Vec<Value> {
    rendered(|json| {
        let mut journey = samples::wrong_nic();
        journey.steps.extend(samples::every_event());
        let bare = Finding { pod: None, flow: None, ..samples::netfilter_drop() };
        json.journey(&journey, 0, &[Arc::new(samples::wrong_egress())])?;
        json.finding(&samples::wrong_egress())?;
        json.finding(&bare)?;
        json.drops(&samples::drop_table(), true)?;
        json.flows(&samples::flow_table(), true)?;
        json.translation(&samples::translation())?;
        json.nat(&samples::nat_table(), true)?;
        samples::exchanges().iter().try_for_each(|exchange| json.exchange(exchange))?;
        json.dns(&samples::dns_table(), true)?;
        json.loss(&Loss { mono_ns: 1, lost: 12, what: "records that found no room", hole: None })?;
        let hole = Hole { device: "veth0".to_owned(), netns: 9, from_ns: 1, to_ns: Some(2), why: "gone".to_owned() };
        json.loss(&Loss { mono_ns: 1, lost: 1, what: "holes", hole: Some(hole) })?;
        json.summary(&summary())
    })
}

#[test]
fn every_object_is_as_the_schema_says() {
    let schema: Value = serde_json::from_str(schema()).expect("the schema is JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("the schema is a schema");
    let objects = everything();
    for object in &objects {
        let errors: Vec<_> = validator.iter_errors(object).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{object}\n{errors:?}");
    }
    for kind in
        ["packet", "journey", "finding", "drops", "flows", "nat", "nat-table", "dns", "dns-table", "loss", "summary"]
    {
        assert!(objects.iter().any(|object| object["kind"] == kind), "no {kind}");
    }
}

/// The schema permits more than it names, so that it can grow: here nothing else may come.
#[test]
fn the_schema_names_every_field_and_demands_it() {
    let mut schema: Value = serde_json::from_str(schema()).expect("the schema is JSON");
    close(&mut schema);
    let validator = jsonschema::draft202012::new(&schema).expect("the schema is a schema");
    for object in everything() {
        let errors: Vec<_> = validator.iter_errors(&object).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{object}\n{errors:?}");
        for field in object.as_object().expect("an object").keys() {
            let mut less = object.clone();
            less.as_object_mut().expect("an object").remove(field);
            assert!(!validator.is_valid(&less), "{} may lack {field}", object["kind"]);
        }
    }
}

/// Forbids what is not named, in every object of a schema that names anything.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let event = fields.get("properties").is_some_and(|properties| properties["event"]["const"].is_string());
            // A packet has the fields of its event beside its own.
            let word = if fields.contains_key("oneOf") { "unevaluatedProperties" } else { "additionalProperties" };
            if fields.contains_key("properties") && fields.contains_key("required") && !event {
                fields.insert(word.to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[test]
fn a_finding_has_the_fields_of_the_contract() {
    let finding = rendered(|json| json.finding(&samples::wrong_egress())).remove(0);
    assert_eq!(
        finding,
        json!({
            "kind": "finding", "id": "f1", "time": "2023-11-14T22:13:28.000000000Z", "node": "n1",
            "rule": "wrong-egress", "confidence": "stated",
            "pod": {"namespace": "shop", "name": "web-0", "uid": "6b1f", "identity": "netns"},
            "flow": {"proto": "tcp", "src": "10.176.98.29", "sport": 41234, "dst": "10.176.46.4", "dport": 3306},
            "at": {"namespace": "node", "device": "eth0"}, "expected": {"device": "eth1"},
            "route": {"table": 254, "rule": 32766, "gateway": "10.176.32.1"}, "reason": null, "netfilter": null,
            "count": 3, "first": "2023-11-14T22:13:25.000000000Z", "last": "2023-11-14T22:13:28.000000000Z",
            "claim": "shop/web-0 leaves this node by eth0; policy rule 1536 sends it to table 2 (eth1), which is empty",
            "since": "14:03:22 default via 10.176.96.1 dev eth1 table 2 was deleted by ipamd (pid 812)",
            "fix": ["ip route add default via 10.176.96.1 dev eth1 table 2", "restart the daemon that owns table 2"],
            "evidence": [{"time": "2023-11-14T22:13:25.000015000Z", "text": "fib_table_lookup table 2: no route"}],
        })
    );
}

#[test]
fn a_query_has_its_server_before_and_after_nat() {
    let query = rendered(|json| json.exchange(&samples::exchanges()[0])).remove(0);
    assert_eq!(
        query,
        json!({
            "kind": "dns", "time": "2023-11-14T22:13:25.000000000Z", "node": "n1",
            "pod": {"namespace": "shop", "name": "web-0", "uid": "6b1f", "identity": "netns"},
            "client": {"ip": "10.176.98.29", "port": 40000}, "name": "api.com", "type": "A",
            "server": {"ip": "10.96.0.10", "port": 53, "name": "kube-system/kube-dns"},
            "server_after": {"ip": "10.176.98.31", "port": 5353, "name": "kube-system/coredns-0"}, "dnat": true,
            "result": "NOERROR", "addresses": ["192.0.2.1", "192.0.2.2"], "records": 2, "truncated": false,
            "tries": 1, "took_ns": 1_204_000, "transport": "udp",
        })
    );
}

#[test]
fn what_is_missing_is_null() {
    let bare = Finding { pod: None, flow: None, side: Side::Unknown, ..samples::netfilter_drop() };
    let finding = rendered(|json| json.finding(&bare)).remove(0);
    for field in ["pod", "flow", "expected", "route", "since"] {
        assert_eq!(finding.get(field), Some(&Value::Null), "{field}");
    }
    assert_eq!(finding["at"], json!({"namespace": null, "device": null}));
    assert_eq!(finding["netfilter"]["hook"], "forward");
    assert_eq!(finding["netfilter"]["chain"], Value::Null);
}

#[test]
fn a_loss_says_how_many_and_of_what() {
    let loss = rendered(|json| json.loss(&Loss { mono_ns: 1, lost: 12, what: "records", hole: None })).remove(0);
    let want = json!({"kind": "loss", "time": "2023-11-14T22:13:20.000000001Z", "node": "n1", "lost": 12,
                      "what": "records", "hole": null});
    assert_eq!(loss, want);
}

#[test]
fn an_escape_sequence_in_a_name_stays_inside_its_string() {
    let kept = Kept::default();
    let mut json = Json::new(Box::new(kept.clone()), samples::clock());
    json.finding(&Finding { claim: "a\u{1b}[2Jb\nc".to_owned(), ..samples::wrong_egress() }).expect("memory");
    let bytes = kept.0.lock().expect("not poisoned").clone();
    assert!(!bytes.contains(&0x1b));
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
}

#[test]
fn a_reader_that_has_gone_is_a_broken_pipe() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut json = Json::new(Box::new(Gone), samples::clock());
    let error = json.finding(&samples::wrong_egress()).expect_err("nobody reads");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    // Beyond the buffer, where serde_json meets it first.
    let large = Finding { claim: "x".repeat(100_000), ..samples::wrong_egress() };
    assert_eq!(json.finding(&large).expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
}
