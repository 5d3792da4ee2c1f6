//! What names Kubernetes would give here: for `netprobe check`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{KubeError, Options, Part, api::Api, config, node};

/// How long the whole survey may take.
const LIMIT: Duration = Duration::from_secs(10);

/// One thing that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What.
    pub what: String,
    /// It is there.
    pub ok: bool,
    /// More of it, or why it is not.
    pub note: String,
}

impl Line {
    fn new(what: &str, ok: bool, note: impl Into<String>) -> Self {
        Self { what: what.to_owned(), ok, note: note.into() }
    }
}

/// `GET /version`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

/// `authorization.k8s.io/v1` `SelfSubjectAccessReview`
#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize)]
struct ReviewStatus {
    allowed: bool,
}

/// Asks the API what it would tell. Waits for it, at most ten seconds.
#[must_use]
pub fn survey(options: &Options) -> Vec<Line> {
    let found = match config::find(options) {
        Ok(Some(found)) => found,
        Ok(None) => {
            let note = "no kubeconfig and no service account here: names come from --inventory, or are namespaces'";
            return vec![Line::new("API server", false, note)];
        }
        Err(error) => return vec![Line::new("API server", false, error.to_string())],
    };
    let place = found.place.to_string();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return vec![Line::new("API server", false, "the runtime does not start")];
    };
    let asked = runtime.block_on(async { tokio::time::timeout(LIMIT, ask(found, options.node_name.clone())).await });
    runtime.shutdown_background();
    match asked {
        Ok(Ok(lines)) => lines,
        Ok(Err(error)) => vec![Line::new("API server", false, error.to_string())],
        Err(_) => vec![Line::new("API server", false, format!("{place}: no answer within {} s", LIMIT.as_secs()))],
    }
}

async fn ask(found: config::Found, asked: Option<String>) -> Result<Vec<Line>, KubeError> {
    let place = found.place.clone();
    let api = Api::new(found)?;
    // Who may do nothing else may still ask for the version; who is not known may not.
    let version = match api.get::<Version>("/version").await {
        Ok(version) => version.git_version,
        Err(trouble) => return Err(trouble.explain(&api.place, "get", "the version")),
    };
    let mut lines = vec![
        Line::new("API server", true, format!("{} ({version})", place.server)),
        Line::new("known by", true, place.known_by),
    ];
    let is_given = asked.is_some();
    let node = node::name(&api, asked).await;
    let first = api.page(Part::Near, &node, "").await;
    lines.push(match &first {
        Ok(page) if page.items.is_empty() && !is_given => {
            Line::new("node name", false, format!("{node}: no pod is on a node of that name; give --node-name"))
        }
        Ok(page) => Line::new("node name", true, format!("{node}, {} pods", page.items.len())),
        Err(trouble) => Line::new("node name", false, trouble.explain(&api.place, "list", "pods").to_string()),
    });
    for part in [Part::Near, Part::Services, Part::Slices, Part::Nodes] {
        lines.push(rights(&api, part).await);
    }
    Ok(lines)
}

/// What RBAC allows.
async fn rights(api: &Api, part: Part) -> Line {
    let lost = match part {
        Part::Near | Part::Far => "without it pods have no names",
        Part::Services | Part::Slices => "without it services have no names, and rules about them are silent",
        Part::Nodes => "without it other nodes have no names",
    };
    let mut missing = Vec::new();
    for verb in ["list", "watch"] {
        let attributes = json!({"verb": verb, "resource": part.resource(), "group": part.group()});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes}});
        match api.post::<Review>("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await {
            Ok(review) if review.status.allowed => {}
            Ok(_) => missing.push(verb),
            Err(trouble) => {
                return Line::new(
                    part.resource(),
                    false,
                    trouble.explain(&api.place, "review", part.resource()).to_string(),
                );
            }
        }
    }
    if missing.is_empty() {
        return Line::new(part.resource(), true, "list and watch are allowed, in all namespaces");
    }
    Line::new(part.resource(), false, format!("{} is not allowed in all namespaces: {lost}", missing.join(" and ")))
}
