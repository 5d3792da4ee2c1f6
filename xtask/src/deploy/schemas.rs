//! The manifest, and the chart with every combination of its switches, against Kubernetes' own schemas: those of the
//! release whose types k8s-openapi has. Tests only.
//!
//! A field that a schema does not name is refused, as by `kubectl apply` with strict validation. What only an API server
//! knows is not seen: values that are words of a fixed set (the published schemas name none), what belongs together,
//! defaults, and what admission refuses. A PodMonitor is no kind of Kubernetes: see [`pod_monitor`].

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::DaemonSet,
        core::v1::{Namespace, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
    schemars::{JsonSchema, generate::SchemaSettings, schema_for},
};
use serde_json::{Value, json};

use super::{CHART, TEMPLATES, Values, chart, page, values_of};
use crate::root;

/// A kind's schema, and what selects it.
struct Kind {
    api_version: &'static str,
    kind: &'static str,
    schema: Value,
}

fn kind<T: Resource + JsonSchema>() -> Kind {
    let mut schema = schema_for!(T).to_value();
    close(&mut schema);
    Kind { api_version: T::API_VERSION, kind: T::KIND, schema }
}

fn kinds() -> Vec<Kind> {
    vec![
        kind::<ClusterRole>(),
        kind::<ClusterRoleBinding>(),
        kind::<DaemonSet>(),
        kind::<Namespace>(),
        kind::<ServiceAccount>(),
        pod_monitor(),
    ]
}

/// The fields of a PodMonitor that the chart sets, and the types that the Prometheus operator gives them (its API
/// reference, monitoring.coreos.com/v1). What else it could have is not known here, and refused.
fn pod_monitor() -> Kind {
    let mut parts = SchemaSettings::default().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut schema = json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": parts.subschema_for::<ObjectMeta>(),
            "spec": {
                "type": "object",
                "required": ["podMetricsEndpoints", "selector"],
                "properties": {
                    "podMetricsEndpoints": {
                        "type": "array",
                        "items": {"type": "object", "properties": {"port": {"type": "string"}}},
                    },
                    "selector": parts.subschema_for::<LabelSelector>(),
                },
            },
        },
    });
    close(&mut schema);
    Kind { api_version: "monitoring.coreos.com/v1", kind: "PodMonitor", schema }
}

/// Forbids what a schema does not name, and gives a number that may be a word (a port, a quantity) its two types, which
/// Kubernetes writes as an extension.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.get("properties").is_some_and(Value::is_object) {
                members.insert("additionalProperties".to_owned(), false.into());
            }
            if members.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                members.insert("type".to_owned(), json!(["integer", "string"]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// What is wrong with a manifest, one line for each trouble.
fn complaints(kinds: &[Kind], manifest: &str) -> Vec<String> {
    let documents: Vec<Value> = match serde_saphyr::from_multiple(manifest) {
        Ok(documents) => documents,
        Err(error) => return vec![error.to_string()],
    };
    documents.iter().flat_map(|document| complaints_about(kinds, document)).collect()
}

fn complaints_about(kinds: &[Kind], document: &Value) -> Vec<String> {
    let (api_version, kind) = (&document["apiVersion"], &document["kind"]);
    let Some(known) = kinds.iter().find(|known| known.api_version == *api_version && known.kind == *kind) else {
        return vec![format!("{api_version} {kind}: no schema")];
    };
    let validator = jsonschema::draft202012::new(&known.schema).expect("the schema is a schema");
    let errors = validator.iter_errors(document);
    errors.map(|error| format!("{}{}: {error}", known.kind, error.instance_path())).collect()
}

/// The chart's values with other switches: each value that a template asks `if` about, on and off.
fn combinations() -> Vec<(String, Values)> {
    let read = |name: &str| std::fs::read_to_string(root().join(CHART).join(name)).expect("it is there");
    let values = values_of(&read("values.yaml")).expect("they are plain");
    let mut switches: Vec<String> = vec![];
    for name in TEMPLATES {
        let template = read(&format!("templates/{name}"));
        let asked = template.lines().filter_map(|line| line.trim().strip_prefix("{{- if ")?.strip_suffix(" }}"));
        switches.extend(asked.map(|path| path.trim_start_matches("not ").to_owned()));
    }
    switches.sort();
    switches.dedup();
    let mut all = vec![(String::new(), values)];
    for switch in switches {
        for (name, mut values) in all.clone() {
            let (_, value) = values.iter_mut().find(|(path, _)| *path == switch).expect("the chart has its value");
            *value = match value.as_str() {
                "true" => "false".to_owned(),
                "false" => "true".to_owned(),
                _ if switch == ".Values.otlpEndpoint" => "https://collector:4318".to_owned(),
                _ => "netprobe-otlp".to_owned(),
            };
            all.push((format!("{name} {switch}={value}"), values));
        }
    }
    all
}

#[test]
fn the_manifest_is_what_kubernetes_takes() {
    assert_eq!(complaints(&kinds(), &page(&root()).expect("it renders")), Vec::<String>::new());
}

#[test]
fn the_chart_is_what_kubernetes_takes_with_every_switch() {
    let kinds = kinds();
    let combinations = combinations();
    assert_eq!(combinations.len(), 16, "otlpEndpoint, otlpSecret, podMonitor and privileged, on and off");
    let mut seen = std::collections::BTreeSet::new();
    for (name, values) in combinations {
        let text = chart(&root(), &values).expect("it renders");
        assert_eq!(complaints(&kinds, &text), Vec::<String>::new(), "with{name}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), 16, "each switch changes something");
    assert!(seen.iter().any(|text| text.contains("kind: PodMonitor")), "a PodMonitor is among them");
    assert!(seen.iter().any(|text| text.contains("--otlp-endpoint=https://collector:4318")), "and a collector");
}

#[test]
fn what_kubernetes_would_not_take_is_found() {
    let kinds = kinds();
    let switched = combinations().into_iter().find(|(name, _)| name.ends_with(".Values.podMonitor=true"));
    let text = chart(&root(), &switched.expect("it is a switch").1).expect("it renders");
    for (was, becomes, complaint) in [
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", "/securityContext: Additional properties"),
        ("hostNetwork: true", "hostNetwork: \"yes\"", "/spec/template/spec/hostNetwork: \"yes\" is not of type"),
        ("periodSeconds: 2\n", "periodSeconds: 2s\n", "/startupProbe/periodSeconds: \"2s\" is not of type"),
        ("cpu: 50m", "cpu: [50m]", "/resources/requests/cpu: [\"50m\"] is not of types"),
        ("port: metrics\n            periodSeconds: 2", "port: {}\n            periodSeconds: 2", "/httpGet/port: {}"),
        ("  kind: ClusterRole\n", "", "/roleRef: \"kind\" is a required property"),
        ("apiVersion: apps/v1", "apiVersion: apps/v1beta2", "\"apps/v1beta2\" \"DaemonSet\": no schema"),
        ("verbs: [create, patch]", "verbs: create", "/rules/3/verbs: \"create\" is not of type"),
        ("podMetricsEndpoints:", "podMetricEndpoints:", "PodMonitor/spec: "),
        ("matchLabels:\n      app", "matchLabel:\n      app", "/spec/selector: Additional properties"),
    ] {
        assert!(text.contains(was), "the chart has no `{was}` any more");
        let complaints = complaints(&kinds, &text.replace(was, becomes));
        assert!(complaints.iter().any(|said| said.contains(complaint)), "{becomes}: {complaints:?}");
    }
}

#[test]
fn what_is_no_yaml_is_found() {
    assert!(!complaints(&kinds(), "a: [\n").is_empty());
    assert!(!complaints(&kinds(), "kind: DaemonSet\nkind: DaemonSet\n").is_empty());
}
