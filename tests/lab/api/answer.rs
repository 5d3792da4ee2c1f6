//! What the API answers.

use std::{
    io::{self, BufReader},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Event, Fault, Shared, State, TOKEN, events, exec,
    http::{Request, begin, chunk, end, reply},
};

/// How often a watch sends a bookmark.
const BOOKMARK: Duration = Duration::from_millis(500);

/// Resources: name, kind, where it is.
const RESOURCES: [(&str, &str, &str); 4] = [
    ("pods", "Pod", "/api/v1"),
    ("services", "Service", "/api/v1"),
    ("nodes", "Node", "/api/v1"),
    ("endpointslices", "EndpointSlice", "/apis/discovery.k8s.io/v1"),
];

/// Answers the requests of one connection until it ends.
pub(super) fn converse(shared: &Shared, stream: TcpStream) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = Request::read(&mut stream) {
        if answer(shared, &request, &mut out).is_err() {
            break;
        }
    }
    // The list of open connections has a copy, which would keep it open.
    let _ = out.shutdown(Shutdown::Both);
}

fn answer(shared: &Shared, request: &Request, out: &mut TcpStream) -> io::Result<()> {
    let fault = fault(&mut shared.state(), &request.line());
    match fault {
        Some(Fault::Code(code, after)) => {
            let headers = after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
            return reply(out, code, &headers, status(code, "as the test wants it").to_string().as_bytes());
        }
        Some(Fault::Garbage) => return reply(out, 200, "", b"\x00<html>{{{"),
        Some(Fault::Slow(time)) => thread::sleep(time),
        Some(Fault::Cut) => {
            begin(out)?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        None => {}
    }
    // kubectl sends no token where there is no TLS.
    if !request.token.is_empty() && request.token != TOKEN {
        return reply(out, 401, "", status(401, "Unauthorized").to_string().as_bytes());
    }
    if let Some(body) = fixed(request, &shared.state()) {
        return reply(out, 200, "", body.to_string().as_bytes());
    }
    if let Some(answered) = events::answer(shared, request, out).or_else(|| exec::answer(shared, request, out)) {
        return answered;
    }
    let Some((resource, namespace, rest)) = resource(&request.path) else {
        return reply(
            out,
            404,
            "",
            status(404, "the server could not find the requested resource").to_string().as_bytes(),
        );
    };
    if shared.state().forbidden.iter().any(|forbidden| forbidden == resource) {
        let words = format!(
            "{resource} is forbidden: User \"tester\" cannot list resource \"{resource}\" in API group \"\" at the cluster scope"
        );
        return reply(out, 403, "", status(403, &words).to_string().as_bytes());
    }
    match rest {
        "" if request.option("watch") == "true" => watch(shared, request, resource, out),
        "" => list(&shared.state(), request, (resource, namespace), out),
        name => one(&shared.state(), (resource, namespace), name.trim_start_matches('/'), out),
    }
}

/// Takes the next fault that is meant for this request.
fn fault(state: &mut State, line: &str) -> Option<Fault> {
    state.requests.push(line.to_owned());
    let (_, fault, times) =
        state.faults.iter_mut().find(|(words, _, times)| *times > 0 && line.contains(words.as_str()))?;
    *times -= 1;
    Some(fault.clone())
}

pub(super) fn status(code: u16, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": message})
}

/// The resource, the namespace where one is named, and what follows.
fn resource(path: &str) -> Option<(&'static str, &str, &str)> {
    let of = |(name, _, at): &(&'static str, _, &str)| {
        let path = path.strip_prefix(*at)?.strip_prefix('/')?;
        let (namespace, path) =
            path.strip_prefix("namespaces/").and_then(|path| path.split_once('/')).unwrap_or(("", path));
        Some((*name, namespace, path.strip_prefix(name)?))
    };
    RESOURCES.iter().find_map(of)
}

/// Answers that do not depend on objects: what kubectl asks before it gets anything.
fn fixed(request: &Request, state: &State) -> Option<Value> {
    let resources = |at: &str, group: &str| {
        let of = RESOURCES.iter().filter(|(.., place)| *place == at);
        let all: Vec<Value> = of
            .map(|(name, kind, _)| {
                let verbs = json!(["get", "list", "watch"]);
                json!({"name": name, "singularName": "", "namespaced": *name != "nodes", "kind": kind, "verbs": verbs})
            })
            .collect();
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": all})
    };
    Some(match request.path.as_str() {
        "/version" => json!({"major": "1", "minor": "33", "gitVersion": "v1.33.1-lab"}),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => {
            let version = json!({"groupVersion": "discovery.k8s.io/v1", "version": "v1"});
            let group = json!({"name": "discovery.k8s.io", "versions": [version], "preferredVersion": version});
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
        }
        "/api/v1" => resources("/api/v1", "v1"),
        "/apis/discovery.k8s.io/v1" => resources("/apis/discovery.k8s.io/v1", "discovery.k8s.io/v1"),
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => {
            let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let of = asked["spec"]["resourceAttributes"]["resource"].as_str().unwrap_or_default();
            let allowed = !state.forbidden.iter().any(|forbidden| forbidden == of);
            json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": {"allowed": allowed}})
        }
        _ => return None,
    })
}

fn one(state: &State, (resource, namespace): (&str, &str), name: &str, out: &mut TcpStream) -> io::Result<()> {
    match state.objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())) {
        Some(object) => reply(out, 200, "", object.to_string().as_bytes()),
        None => reply(out, 404, "", status(404, "not found").to_string().as_bytes()),
    }
}

/// Whether the object passes `spec.nodeName=x`, `spec.nodeName!=x` or `metadata.name=x`.
fn selected(selector: &str, object: &Value) -> bool {
    let text = |part: &str, field: &str| object[part][field].as_str().unwrap_or_default().to_owned();
    if let Some(name) = selector.strip_prefix("metadata.name=") {
        return text("metadata", "name") == name;
    }
    let node = text("spec", "nodeName");
    match selector.split_once("!=") {
        Some((_, not)) => node != not,
        None => selector.split_once('=').is_none_or(|(_, is)| node == is),
    }
}

/// What a `continue` token holds: the version of the list, and how many objects were told.
fn list(state: &State, request: &Request, (resource, namespace): (&str, &str), out: &mut TcpStream) -> io::Result<()> {
    let labels = request.option("labelSelector");
    let labelled = |object: &Value| {
        labels.split_once('=').is_none_or(|(name, value)| object["metadata"]["labels"][name].as_str() == Some(value))
    };
    let (selector, limit) = (request.option("fieldSelector"), request.option("limit").parse().unwrap_or(usize::MAX));
    let token = request.option("continue");
    let (version, from) = match token.split_once('/') {
        Some((version, from)) => (version.parse().unwrap_or(0), from.parse().unwrap_or(0)),
        None => (state.version, 0),
    };
    if version < state.forgotten {
        let words = "The provided continue parameter is too old";
        return reply(out, 410, "", status(410, words).to_string().as_bytes());
    }
    let of = state.objects.iter().filter(|((of, within, _), object)| {
        of == resource
            && (namespace.is_empty() || within == namespace)
            && selected(&selector, object)
            && labelled(object)
    });
    let all: Vec<&Value> = of.map(|(_, object)| object).collect();
    let told: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
    let upto = from + told.len();
    let token = if upto < all.len() { format!("{version}/{upto}") } else { String::new() };
    let (_, kind, at) = RESOURCES.iter().find(|(name, ..)| *name == resource).expect("it is one of them");
    let group = at.trim_start_matches("/apis/").trim_start_matches("/api/");
    let body = json!({
        "kind": format!("{kind}List"), "apiVersion": group,
        "metadata": {"resourceVersion": version.to_string(), "continue": token}, "items": told,
    });
    reply(out, 200, "", body.to_string().as_bytes())
}

/// What a watch with that selector is told of an event.
fn seen(selector: &str, event: &Event) -> Option<Value> {
    let is = selected(selector, &event.object);
    let was = event.before.as_ref().is_some_and(|before| selected(selector, before));
    let kind = match (event.kind, was, is) {
        (_, false, false) => return None,
        ("DELETED", true, _) => "DELETED",
        (_, true, false) => "DELETED",
        (_, false, true) => "ADDED",
        (kind, ..) => kind,
    };
    Some(json!({"type": kind, "object": event.object}))
}

fn watch(shared: &Shared, request: &Request, resource: &str, out: &mut TcpStream) -> io::Result<()> {
    let selector = request.option("fieldSelector");
    let mut version: u64 = request.option("resourceVersion").parse().unwrap_or(0);
    let mut state = shared.state();
    begin(out)?;
    let cuts = state.cuts;
    loop {
        if version < state.forgotten {
            chunk(out, &json!({"type": "ERROR", "object": status(410, "too old resource version")}))?;
            return end(out);
        }
        let fresh: Vec<Event> =
            state.events.get(resource).into_iter().flatten().filter(|event| event.version > version).cloned().collect();
        version = version.max(state.version);
        let has_ended = state.cuts != cuts;
        drop(state);
        for line in fresh.iter().filter_map(|event| seen(&selector, event)) {
            chunk(out, &line)?;
        }
        if has_ended {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (next, waited) =
            shared.news.wait_timeout(shared.state(), BOOKMARK).unwrap_or_else(std::sync::PoisonError::into_inner);
        state = next;
        if waited.timed_out() {
            let marked = json!({"metadata": {"resourceVersion": version.to_string()}});
            chunk(out, &json!({"type": "BOOKMARK", "object": marked}))?;
        }
    }
}
