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

/// Where cargo puts what it builds.
fn target_dir(root: &Path) -> Result<PathBuf> {
    let said = ask(cargo(root).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&said).context("cannot read what cargo metadata wrote")?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(folder.into())
}
