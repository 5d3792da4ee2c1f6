//! Events, as strictly as the API server takes them (`pkg/apis/core/validation/events.go`).

use std::{io, net::TcpStream};

use serde_json::Value;

use super::{
    Shared,
    answer::status,
    http::{Request, reply},
};

/// Where Events are.
const AT: &str = "/apis/events.k8s.io/v1/namespaces/";

/// Answers a request that creates or changes an Event; none where this is another one.
pub(super) fn answer(shared: &Shared, request: &Request, out: &mut TcpStream) -> Option<io::Result<()>> {
    let (namespace, name) = request.path.strip_prefix(AT)?.split_once("/events")?;
    let verb = match request.method.as_str() {
        "POST" => "create",
        "PATCH" => "patch",
        _ => return None,
    };
    let mut state = shared.state();
    if state.forbidden.iter().any(|forbidden| forbidden == "events") {
        let words = format!(
            "events.events.k8s.io is forbidden: User \"tester\" cannot {verb} resource \"events\" in API group \
             \"events.k8s.io\" in the namespace \"{namespace}\""
        );
        return Some(reply(out, 403, "", status(403, &words).to_string().as_bytes()));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let taken = match verb {
        "create" => created(namespace, &body).map(|()| body),
        _ => {
            let key = ("events".to_owned(), namespace.to_owned(), name.trim_start_matches('/').to_owned());
            let Some(event) = state.objects.get(&key) else {
                return Some(reply(out, 404, "", status(404, "not found").to_string().as_bytes()));
            };
            changed(event, &body)
        }
    };
    Some(match taken {
        Ok(event) => {
            let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            state.objects.insert(("events".to_owned(), namespace.to_owned(), name), event.clone());
            reply(out, if verb == "create" { 201 } else { 200 }, "", event.to_string().as_bytes())
        }
        Err(words) => reply(out, 422, "", status(422, &words).to_string().as_bytes()),
    })
}

/// `2026-11-21T19:00:00.000000Z`: no other number of digits is a `MicroTime`.
fn is_micro_time(time: &Value) -> bool {
    let text = time.as_str().unwrap_or_default();
    text.len() == 27 && text.as_bytes()[19] == b'.' && text.ends_with('Z')
}

fn created(namespace: &str, event: &Value) -> Result<(), String> {
    let texts = [
        ("/metadata/name", 253),
        ("/reportingController", 253),
        ("/reportingInstance", 128),
        ("/action", 128),
        ("/reason", 128),
        ("/note", 1024),
    ];
    for (field, most) in texts {
        let text = event.pointer(field).and_then(Value::as_str).unwrap_or_default();
        if text.is_empty() || text.len() > most {
            return Err(format!("{field}: {} bytes", text.len()));
        }
    }
    let is_right = event["apiVersion"] == "events.k8s.io/v1"
        && event["kind"] == "Event"
        && ["Normal", "Warning"].iter().any(|kind| event["type"] == *kind)
        && is_micro_time(&event["eventTime"])
        && event["metadata"]["namespace"] == namespace
        && event["regarding"]["namespace"] == namespace
        && (event["series"].is_null() || is_series(&event["series"]));
    if is_right { Ok(()) } else { Err(format!("invalid: {event}")) }
}

fn is_series(series: &Value) -> bool {
    series["count"].as_i64().is_some_and(|count| count > 1) && is_micro_time(&series["lastObservedTime"])
}

/// Nothing of an Event can be changed but its series.
fn changed(event: &Value, patch: &Value) -> Result<Value, String> {
    let fields: Vec<&String> = patch.as_object().into_iter().flat_map(serde_json::Map::keys).collect();
    if fields != ["series"] || !is_series(&patch["series"]) {
        return Err(format!("invalid: {patch}"));
    }
    let mut event = event.clone();
    event["series"] = patch["series"].clone();
    Ok(event)
}
