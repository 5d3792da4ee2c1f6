//! `netprobe replay`

use std::path::PathBuf;

use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  netprobe replay /tmp/run.npr
      what `trace --record /tmp/run.npr` has shown
  netprobe replay /tmp/run.npr -o json | jq 'select(.kind == \"finding\")'
      only what is wrong";

/// Options of `netprobe replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// A file written with `--record`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// How to show it.
    #[command(flatten)]
    pub output: Output,
}
