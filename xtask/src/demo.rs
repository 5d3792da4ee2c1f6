//! The main job, on a network of our own.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    build,
    shell::{is_root, run as execute},
};

/// Sets up, builds, and runs `netprobe demo` with `arguments`.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if !is_root() {
        bail!("the demo makes network namespaces and loads BPF programs; run `cargo xtask demo` as root");
    }
    let netprobe = build::release(root)?;
    execute(Command::new(netprobe).arg("demo").args(arguments))
}
