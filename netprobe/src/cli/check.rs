//! `netprobe check`

use std::path::PathBuf;

use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  netprobe check
      what can be seen here, what is missing, and what is lost by it
  netprobe check -o json
      the same, for a program";

/// Options of `netprobe check`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// How to show it.
    #[command(flatten)]
    pub output: Output,

    /// Read the kernel's types from here
    #[arg(long, hide = true, value_name = "PATH")]
    pub btf: Option<PathBuf>,
}
