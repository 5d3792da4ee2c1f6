//! Builds, tests and measures netprobe: `cargo xtask <verb>`.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

mod abi;
mod bench;
mod build;
mod ci;
mod demo;
mod deploy;
mod docs;
#[cfg(test)]
mod house;
mod image;
mod layers;
mod setup;
mod shell;
mod source;
mod test;
#[path = "../../netprobe/build/toolchain.rs"]
#[allow(dead_code, reason = "netprobe/build.rs uses the rest")]
mod toolchain;
mod vm;

/// Builds, tests and measures netprobe.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the build and the tests need and this machine lacks (Debian 12, as root).
    Setup,
    /// Build target/release/netprobe with its BPF programs inside.
    Build,
    /// Break a small network in namespaces of its own and show what netprobe says (as root).
    Demo {
        /// Name of the demo and options of `netprobe demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "wrong-nic")]
        arguments: Vec<String>,
    },
    /// Run every check and every test (as root).
    Test {
        /// Arguments for the tests with a kernel, such as a story's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run what must pass before a merge: `test`, dependencies, spelling, and a tree left as it was.
    Ci,
    /// Measure what netprobe costs, beside other tools, and write docs/bench.md (as root; some minutes).
    Bench(bench::BenchArgs),
    /// Run the stories on other kernels, in guests of QEMU (as root; some minutes each).
    Vm(vm::VmArgs),
    /// Ask which programs fit the kernels in Debian's packages, by their types
    Kernels(vm::TypesArgs),
    /// What `vm` runs inside its guests.
    #[command(hide = true)]
    Guest,
    /// Send UDP datagrams: what `bench` runs inside its namespaces.
    #[command(hide = true)]
    Load(bench::LoadArgs),
    /// Check that data flows one way through the modules of netprobe.
    Layers,
    /// Check that the layout of records did not change without a new ABI number.
    Abi {
        /// Record the present layout under the present number.
        #[arg(long)]
        accept: bool,
    },
    /// Write deploy/netprobe.yaml from the chart.
    Deploy {
        /// Write nothing; fail where it is not what it would be.
        #[arg(long)]
        check: bool,
    },
    /// Build netprobe as one static file.
    Static,
    /// Write a container image with the static program: an OCI archive.
    Image {
        /// Take this program instead of building one.
        #[arg(long, value_name = "FILE")]
        netprobe: Option<PathBuf>,
        /// Where to.
        #[arg(long, value_name = "FILE", default_value = "target/netprobe-image.tar")]
        to: PathBuf,
    },
    /// Write the pages of docs/ that are made from the source.
    Docs {
        /// Write nothing; fail where a page is not what it would be.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    if let Err(error) = run(Cli::parse().verb) {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(verb: Verb) -> Result<()> {
    let root = root();
    match verb {
        Verb::Setup => setup::run(&root),
        Verb::Build => build::release(&root).map(drop),
        Verb::Demo { arguments } => demo::run(&root, &arguments),
        Verb::Test { arguments } => test::run(&root, &arguments),
        Verb::Ci => ci::run(&root),
        Verb::Bench(args) => bench::run(&root, &args),
        Verb::Vm(args) => vm::run(&root, &args),
        Verb::Kernels(args) => vm::types(&root, &args),
        Verb::Guest => vm::guest(),
        Verb::Load(args) => bench::send(&args),
        Verb::Layers => layers::run(&root),
        Verb::Abi { accept } => abi::run(&root, accept),
        Verb::Deploy { check } => deploy::run(&root, check),
        Verb::Static => image::build_static(&root).map(drop),
        Verb::Image { netprobe, to } => image::run(&root, netprobe.as_deref(), &to),
        Verb::Docs { check } => docs::run(&root, check),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}
