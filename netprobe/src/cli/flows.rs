//! `netprobe flows`

use super::{
    common::{Common, Table},
    live::{Kind, Watch},
    run::{Show, run as run_live},
    select::Select,
};

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
    /// Kept current.
    #[command(flatten)]
    pub table: Table,

    /// Whose flows; all where nobody is named.
    #[command(flatten)]
    pub select: Select,

    /// When to end, and where results go.
    #[command(flatten)]
    pub common: Common,
}

/// Runs `netprobe flows`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &FlowsArgs) -> anyhow::Result<()> {
    let request = args.common.request("flows", Watch::Flows, &args.select);
    run_live(&request, &args.common.until, Show::table(Kind::Flows, args.table.watch, &args.common))
}
