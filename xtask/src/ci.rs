//! What must pass before a merge.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    setup,
    shell::{ask, cargo, run as execute, say},
    test, toolchain,
};

/// `cargo xtask test`, then licences and sources of dependencies, spelling, and that none of it changed the tree.
pub(crate) fn run(root: &Path) -> Result<()> {
    let before = tree(root)?;
    setup::ensure_checkers(root)?;
    let bin = toolchain::tools(root).join("bin");
    say("ci", "dependencies");
    execute(Command::new(bin.join("cargo-deny")).current_dir(root).args([
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;
    say("ci", "spelling");
    execute(Command::new(bin.join("typos")).current_dir(root))?;
    say("ci", "documentation");
    execute(cargo(root).env("RUSTDOCFLAGS", "--deny warnings").args([
        "doc",
        "--locked",
        "--no-deps",
        "--quiet",
        "--document-private-items",
    ]))?;
    test::run(root, &[])?;
    let after = tree(root)?;
    if before != after {
        bail!("the checks changed the tree:\n{after}");
    }
    Ok(())
}

fn tree(root: &Path) -> Result<String> {
    ask(Command::new("git").current_dir(root).args(["-c", "safe.directory=*", "status", "--porcelain"]))
}
