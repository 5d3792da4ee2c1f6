//! Every check and every test.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    abi, build, deploy, docs, layers, setup,
    shell::{cargo, is_root, run as execute, say},
    vm,
};

/// Sets up, then runs all steps, also after one failed, the tests with a kernel last. `arguments` go to these.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if !is_root() {
        bail!(
            "the tests with a kernel make network namespaces and load BPF programs; run `cargo xtask test` as root, \
             or `cargo test --package netprobe` for those without"
        );
    }
    setup::ensure(root)?;
    let mut failed = vec![];
    let mut step = |name: &'static str, run: &mut dyn FnMut() -> Result<()>| {
        say("test", name);
        if let Err(error) = run() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    step("format", &mut || execute(cargo(root).args(["fmt", "--all", "--check"])));
    step("layers", &mut || layers::run(root));
    step("abi", &mut || abi::run(root, false));
    step("lints", &mut || lints(root));
    step("lints of the BPF programs", &mut || lints_of_programs(root));
    step("docs", &mut || docs::run(root, true));
    step("deploy", &mut || deploy::run(root, true));
    step("unit tests", &mut || unit_tests(root));
    step("stories", &mut || stories(root, arguments));
    if arguments.is_empty() && std::env::var_os("NETPROBE_GUESTS").is_none_or(|value| value != "0") {
        step("stories on other kernels", &mut || vm::brief(root));
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Those of every package but the stories. Some need root, too.
fn unit_tests(root: &Path) -> Result<()> {
    execute(tests(root).args(["--workspace", "--exclude", "netprobe-tests", "--exclude", "netprobe-ebpf"]))
}

fn lints(root: &Path) -> Result<()> {
    execute(cargo(root).args(["clippy", "--locked", "--all-targets", "--", "--deny", "warnings"]))
}

/// Clippy has no core for BPF where the compiler is the system's, so it reads the programs as if for this machine.
fn lints_of_programs(root: &Path) -> Result<()> {
    execute(cargo(root).env("RUSTC_BOOTSTRAP", "aya_ebpf,netprobe_bpf").env("CARGO_PROFILE_DEV_PANIC", "abort").args([
        "clippy",
        "--locked",
        "--package",
        "netprobe-ebpf",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// The tests with a kernel and the recorded runs. One at a time: each counts packets and programs of the machine.
fn stories(root: &Path, arguments: &[String]) -> Result<()> {
    let netprobe = build::release(root)?;
    let promtool = setup::ensure_promtool(root)?;
    execute(
        tests(root)
            .env("NETPROBE_BIN", netprobe)
            .env("PROMTOOL", promtool)
            .args(["--package", "netprobe-tests", "--", "--test-threads=1"])
            .args(arguments),
    )
}

/// `cargo test`, told that what cannot run must fail and not be skipped.
fn tests(root: &Path) -> Command {
    let mut command = cargo(root);
    command.env("CI", "true").args(["test", "--locked"]);
    command
}
