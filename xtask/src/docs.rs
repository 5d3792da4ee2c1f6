//! Pages of docs/ that are made from the source, and the page that a person writes for each rule.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell::{ask, cargo, say},
    vm,
};

/// Pages, and how `netprobe/examples/docs.rs` calls them.
const PAGES: &[(&str, &str)] = &[("docs/agent.md", "agent"), ("docs/hooks.md", "hooks"), (RULES, "rules")];
const RULES: &str = "docs/rules.md";

/// Writes the pages; with `check`, compares them. Either way each rule must have its own page.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    for (path, name) in PAGES {
        let page = page(root, name)?;
        if fs::read_to_string(root.join(path)).is_ok_and(|text| text == page) {
            continue;
        }
        if check {
            bail!("{path} is not what the source says; run `cargo xtask docs`");
        }
        fs::write(root.join(path), page).with_context(|| format!("write {path}"))?;
        say("docs", &format!("wrote {path}"));
    }
    // Made by `cargo xtask vm --publish` from results; here it can only be held against those that are kept.
    vm::check_page(root)?;
    let table = fs::read_to_string(root.join(RULES)).with_context(|| format!("read {RULES}"))?;
    let pages = pages_of_rules(root)?;
    let complaints = compare(&ids(&table), &pages);
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

fn page(root: &Path, name: &str) -> Result<String> {
    ask(cargo(root).args(["run", "--quiet", "--locked", "--package", "netprobe", "--example", "docs", "--", name]))
}

/// The ids in the first column of the table of rules.
fn ids(table: &str) -> BTreeSet<String> {
    let id = |line: &str| Some(line.strip_prefix("| [`")?.split_once('`')?.0.to_string());
    table.lines().filter_map(id).collect()
}

/// The files of docs/rules, without `.md`, and what is in them.
fn pages_of_rules(root: &Path) -> Result<Vec<(String, String)>> {
    let mut pages = vec![];
    for entry in fs::read_dir(root.join("docs/rules")).context("read docs/rules")? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        pages.push((name, fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?));
    }
    pages.sort();
    Ok(pages)
}

/// What is wrong between the rules and their pages.
fn compare(ids: &BTreeSet<String>, pages: &[(String, String)]) -> Vec<String> {
    const PARTS: &[&str] = &["## Symptom", "## What proves it", "## What else it could be", "## Fix"];
    let named: BTreeSet<&String> = pages.iter().map(|(name, _)| name).collect();
    let without = ids.iter().filter(|id| !named.contains(id));
    let mut complaints: Vec<String> =
        without.map(|id| format!("the rule {id} has no page; write docs/rules/{id}.md")).collect();
    for (name, text) in pages {
        if !ids.contains(name) {
            complaints.push(format!("docs/rules/{name}.md is about no rule; remove or rename it"));
        }
        for part in PARTS.iter().filter(|part| !text.lines().any(|line| line == **part)) {
            complaints.push(format!("docs/rules/{name}.md lacks the part \"{part}\""));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "# Rules\n\n| rule | it means |\n|---|---|\n| [`no-reply`](rules/no-reply.md) | nothing came back |\n";
    const PAGE: &str = "# no-reply\n\n## Symptom\n\n## What proves it\n\n## What else it could be\n\n## Fix\n";

    fn complaints(pages: &[(&str, &str)]) -> Vec<String> {
        let pages: Vec<_> = pages.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        compare(&ids(TABLE), &pages)
    }

    #[test]
    fn is_content_with_one_whole_page_for_each_rule() {
        assert!(complaints(&[("no-reply", PAGE)]).is_empty());
    }

    #[test]
    fn complains_about_a_rule_without_a_page_and_a_page_without_a_rule() {
        assert_eq!(complaints(&[]), ["the rule no-reply has no page; write docs/rules/no-reply.md"]);
        assert_eq!(
            complaints(&[("no-reply", PAGE), ("no-idea", PAGE)]),
            ["docs/rules/no-idea.md is about no rule; remove or rename it"]
        );
    }

    #[test]
    fn complains_about_a_page_without_a_fix() {
        assert_eq!(
            complaints(&[("no-reply", &PAGE.replace("## Fix\n", ""))]),
            ["docs/rules/no-reply.md lacks the part \"## Fix\""]
        );
    }
}
