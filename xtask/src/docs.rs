//! Pages of docs/ that are made from the source, and the pages that people write for each rule.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::shell::{ask, cargo, say};

/// Pages, and how `netprobe/examples/docs.rs` calls them.
const PAGES: &[(&str, &str)] = &[("docs/hooks.md", "hooks")];

/// Writes the pages; with `check`, compares them.
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
    Ok(())
}

fn page(root: &Path, name: &str) -> Result<String> {
    ask(cargo(root).args(["run", "--quiet", "--locked", "--package", "netprobe", "--example", "docs", "--", name]))
}
