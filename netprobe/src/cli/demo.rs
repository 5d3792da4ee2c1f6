//! `netprobe demo`

use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  netprobe demo
      the wrong NIC: a policy table lost its route
  netprobe demo --list
      the names of all demos";

/// Options of `netprobe demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Which one
    #[arg(value_name = "NAME", default_value = "wrong-nic")]
    pub name: String,

    /// List the demos, then exit
    #[arg(long)]
    pub list: bool,

    /// How to show it.
    #[command(flatten)]
    pub output: Output,
}
