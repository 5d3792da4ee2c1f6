//! The main job, on a network of our own.

use std::{os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{build, shell::is_root};

/// Sets up, builds, and becomes `netprobe demo` with `arguments`, so that Ctrl-C is netprobe's to answer.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if !is_root() {
        bail!("the demo makes network namespaces and loads BPF programs; run `cargo xtask demo` as root");
    }
    let netprobe = build::release(root)?;
    let error = Command::new(&netprobe).arg("demo").args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", netprobe.display()))
}
