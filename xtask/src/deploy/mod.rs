//! deploy/netprobe.yaml: the chart as it is with its own values, for those without helm.
//!
//! The templates use little of helm's language, and this reads that little: `{{ .Values.a.b }}`, `{{ .Release.Namespace }}`,
//! and `{{- if .Values.a }}` or `{{- if not .Values.a }}` to `{{- end }}`, each on a line of its own. All else is an error,
//! so that what is rendered here is what helm renders. Kubernetes' schemas are held against it by the tests in `schemas`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::shell::say;

#[cfg(test)]
mod schemas;

const CHART: &str = "deploy/helm/netprobe";
const PAGE: &str = "deploy/netprobe.yaml";
const NAMESPACE: &str = "netprobe";
/// Those that make objects, in the order in which they are applied.
const TEMPLATES: &[&str] = &["rbac.yaml", "daemonset.yaml", "podmonitor.yaml"];

/// In front of the rest: a namespace that admits what the agent needs.
const HEAD: &str = "\
# Written by `cargo xtask deploy` from deploy/helm/netprobe, with its own values.
apiVersion: v1
kind: Namespace
metadata:
  name: netprobe
  labels:
    pod-security.kubernetes.io/enforce: privileged
    pod-security.kubernetes.io/audit: privileged
    pod-security.kubernetes.io/warn: privileged
";

/// Writes it; with `check`, compares it.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let page = page(root)?;
    let path = root.join(PAGE);
    if fs::read_to_string(&path).is_ok_and(|text| text == page) {
        return Ok(());
    }
    if check {
        bail!("{PAGE} is not what the chart says; run `cargo xtask deploy`");
    }
    fs::write(&path, page).with_context(|| format!("write {PAGE}"))?;
    say("deploy", &format!("wrote {PAGE}"));
    Ok(())
}

fn page(root: &Path) -> Result<String> {
    let values = fs::read_to_string(root.join(CHART).join("values.yaml")).context("read the chart's values")?;
    Ok(HEAD.to_owned() + &chart(root, &values_of(&values)?)?)
}

/// The objects of the chart, each after a line that separates it.
fn chart(root: &Path, values: &Values) -> Result<String> {
    let mut objects = String::new();
    for name in TEMPLATES {
        let path = root.join(CHART).join("templates").join(name);
        let template = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let text = render(&template, values).with_context(|| format!("render {name}"))?;
        if !text.trim().is_empty() {
            objects += "---\n";
            objects += &text;
        }
    }
    Ok(objects)
}

/// A value and its path: `.Values.image.tag`.
type Values = Vec<(String, String)>;

/// The values, which are plain: maps of words, with quotes or without.
fn values_of(text: &str) -> Result<Values> {
    let mut values = vec![(".Release.Namespace".to_owned(), NAMESPACE.to_owned())];
    let mut above: Vec<(usize, &str)> = vec![];
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        let (key, value) = line.trim().split_once(':').with_context(|| format!("`{line}` is no value"))?;
        let depth = line.len() - line.trim_start().len();
        above.retain(|(other, _)| *other < depth);
        above.push((depth, key));
        if !value.trim().is_empty() {
            let path: Vec<&str> = above.iter().map(|(_, key)| *key).collect();
            values.push((format!(".Values.{}", path.join(".")), value.trim().trim_matches('"').to_owned()));
        }
    }
    Ok(values)
}

/// What helm takes for false in an `if`, of the values that are words.
fn is_on(value: &str) -> bool {
    !matches!(value, "" | "false" | "0" | "null" | "~")
}

fn render(template: &str, values: &Values) -> Result<String> {
    let value = |path: &str| {
        let found = values.iter().find(|(name, _)| name == path);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("there is no value {path}"))
    };
    let (mut text, mut shown) = (String::new(), vec![]);
    for line in template.lines() {
        if let Some(action) = line.trim().strip_prefix("{{-").and_then(|rest| rest.strip_suffix("}}")) {
            match action.split_whitespace().collect::<Vec<_>>()[..] {
                ["if", "not", path] => shown.push(!is_on(value(path)?)),
                ["if", path] => shown.push(is_on(value(path)?)),
                ["end"] if shown.pop().is_some() => {}
                _ => bail!("`{line}` is not of the little that is understood"),
            }
            continue;
        }
        let mut rest = line;
        let mut filled = String::new();
        while let Some((before, action)) = rest.split_once("{{") {
            let (path, after) = action.split_once("}}").with_context(|| format!("`{line}` does not end"))?;
            filled += before;
            filled += value(path.trim())?;
            rest = after;
        }
        if shown.iter().all(|shown| *shown) {
            text += &filled;
            text += rest;
            text.push('\n');
        }
    }
    if !shown.is_empty() {
        bail!("an `if` has no `end`");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::root;

    fn values() -> Values {
        values_of("# a remark\na:\n  b: 1\n  c:\n    d: x:y\non: true\noff: false\nurl: \"http://x\"\nnone: \"\"\n")
            .expect("they are plain")
    }

    #[test]
    fn values_are_found_by_their_paths() {
        let text = render("p: \"{{ .Values.a.b }}/{{ .Values.a.c.d }}\"\n", &values()).expect("it is little");
        assert_eq!(text, "p: \"1/x:y\"\n");
    }

    #[test]
    fn a_part_is_shown_where_its_value_is_true_or_says_something() {
        let of = |condition| format!("a\n  {{{{- if {condition} }}}}\n  b\n  {{{{- end }}}}\nc\n");
        for (condition, shown) in [
            (".Values.on", true),
            (".Values.off", false),
            (".Values.url", true),
            (".Values.none", false),
            ("not .Values.on", false),
            ("not .Values.off", true),
            ("not .Values.url", false),
            ("not .Values.none", true),
        ] {
            let text = render(&of(condition), &values()).expect("it is little");
            assert_eq!(text, if shown { "a\n  b\nc\n" } else { "a\nc\n" }, "{condition}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "{{ .Values.nothing }}",
            "{{- range .Values.a }}",
            "{{ .Values.a.b | quote }}",
            "{{- if .Values.on }}",
            "{{- end }}",
        ] {
            assert!(render(text, &values()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_page_is_what_the_chart_says() {
        run(&root(), true).expect("they are the same");
    }

    #[test]
    fn the_notes_are_understood_too() {
        let chart = root().join(CHART);
        let read = |name: &str| fs::read_to_string(chart.join(name)).expect("it is there");
        render(&read("templates/NOTES.txt"), &values_of(&read("values.yaml")).expect("plain")).expect("little");
    }

    #[test]
    fn the_narrow_rights_are_those_of_the_page() {
        let page = fs::read_to_string(root().join("docs/privileges.md")).expect("it is there");
        let chart = fs::read_to_string(root().join(CHART).join("templates/daemonset.yaml")).expect("it is there");
        let line = chart.lines().find_map(|line| line.trim().strip_prefix("add: [")?.strip_suffix(']'));
        let rights: BTreeSet<String> = line.expect("a list").split(", ").map(|name| format!("CAP_{name}")).collect();
        for right in &rights {
            assert!(page.contains(right.as_str()), "docs/privileges.md does not say what {right} is for");
        }
        let named: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| CAP_")?.split_once(' ').map(|(name, _)| format!("CAP_{name}")))
            .collect();
        assert_eq!(rights, named);
    }

    /// Names that begin with `netprobe_`, in a text.
    fn names(text: &str) -> BTreeSet<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("netprobe_"));
        words.map(str::to_owned).collect()
    }

    #[test]
    fn the_dashboard_asks_for_nothing_that_is_not_there() {
        let text = fs::read_to_string(root().join("deploy/grafana/netprobe.json")).expect("it is there");
        let dashboard: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let page = fs::read_to_string(root().join("docs/agent.md")).expect("it is there");
        let known = names(&page);
        let mut asked = BTreeSet::new();
        for panel in dashboard["panels"].as_array().expect("a list") {
            for target in panel["targets"].as_array().expect("a list") {
                asked.extend(names(target["expr"].as_str().expect("a query")));
            }
        }
        let variables = dashboard["templating"]["list"].as_array().expect("a list");
        asked.extend(variables.iter().flat_map(|variable| names(variable["query"].as_str().unwrap_or_default())));
        assert!(!asked.is_empty() && asked.is_subset(&known), "{:?}", asked.difference(&known));
    }
}
