//! The command-line program, with its BPF programs inside.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    setup,
    shell::{ask, cargo, run},
};

/// Sets up, builds the release binary and says where it is.
pub(crate) fn release(root: &Path) -> Result<PathBuf> {
    setup::ensure(root)?;
    run(cargo(root).args(["build", "--release", "--locked", "--package", "netprobe"]))?;
    Ok(target_dir(root)?.join("release/netprobe"))
}

/// Builds the stories and says where they are.
pub(crate) fn stories(root: &Path) -> Result<PathBuf> {
    let mut command = cargo(root);
    command.args(["test", "--no-run", "--locked", "--package", "netprobe-tests", "--message-format", "json"]);
    let said = ask(&mut command)?;
    let mut messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let cases = messages.find(|m| m["target"]["name"] == "cases" && m["executable"].is_string());
    let file = cases.and_then(|message| message["executable"].as_str().map(PathBuf::from));
    file.context("cargo names no program of the stories")
}

/// Builds what serves the API of a cluster and says where it is.
pub(crate) fn cluster(root: &Path) -> Result<PathBuf> {
    run(cargo(root).args(["build", "--release", "--locked", "--package", "netprobe-tests", "--example", "cluster"]))?;
    Ok(target_dir(root)?.join("release/examples/cluster"))
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir(root: &Path) -> Result<PathBuf> {
    let said = ask(cargo(root).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&said).context("cannot read what cargo metadata wrote")?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(folder.into())
}
