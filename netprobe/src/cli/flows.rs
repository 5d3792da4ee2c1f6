//! `netprobe flows`

use std::io::IsTerminal;

use super::{
    live::{Request, Watch},
    output::{Output, Ready, Record},
    run::{Show, run as run_live},
    select::{Select, Target},
    until::Until,
};
use crate::explain::Expectations;

const EXAMPLES: &str = "\
Examples:
  netprobe flows --for 10s
      who talks to whom in ten seconds, by which device, and how much
  netprobe flows --watch --pod shop/web-0
      one pod's peers, kept current until Ctrl-C
  netprobe flows --for 1m -o json | jq '.devices'
      packets and bytes per pod and device, for a program

Counted in the kernel by TC classifiers at the pods' links and the node's
devices: packets and bytes as they are on the wire, also after NAT. A peer
outside the cluster is named as DNS named its address to this pod.";

/// Options of `netprobe flows`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, mut_arg("until_finding", |arg| arg.hide(true)))]
pub struct FlowsArgs {
    /// Show the table every second, in place where stdout is a terminal
    #[arg(long)]
    pub watch: bool,

    /// Whose flows; all where nobody is named.
    #[command(flatten)]
    pub select: Select,

    /// When to end.
    #[command(flatten)]
    pub until: Until,

    /// How to show it.
    #[command(flatten)]
    pub output: Output,

    /// Where to keep it.
    #[command(flatten)]
    pub record: Record,

    /// Readiness and the kernel's types.
    #[command(flatten)]
    pub ready: Ready,
}

/// Runs `netprobe flows`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &FlowsArgs) -> anyhow::Result<()> {
    let request = Request {
        command: "flows",
        watch: Watch::Flows,
        filter: &[],
        select: &args.select,
        default: Some(Target::All),
        expect: Expectations::default(),
        dns: None,
        output: &args.output,
        record: &args.record,
        ready: &args.ready,
    };
    let show = if args.watch { Show::FlowsLive(std::io::stdout().is_terminal()) } else { Show::Flows };
    run_live(&request, &args.until, show)
}
