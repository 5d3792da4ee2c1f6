//! `netprobe drops`

use super::{
    common::{Common, Filter, Table},
    expect::Expect,
    live::{Kind, Request, Watch},
    run::{Show, run as run_live},
    select::Select,
};

const EXAMPLES: &str = "\
Examples:
  netprobe drops --for 10s
      what this node drops in ten seconds
  netprobe drops --watch
      the same, kept current until Ctrl-C
  netprobe drops --watch --all-nodes
      the same of all nodes, from anywhere, through their agents
  netprobe drops --watch --pod shop/web-0 udp port 53
      one pod's lost DNS packets";

/// Options of `netprobe drops`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, mut_arg("until_finding", |arg| arg.hide(true)))]
pub struct DropsArgs {
    /// Which packets.
    #[command(flatten)]
    pub filter: Filter,

    /// Kept current.
    #[command(flatten)]
    pub table: Table,

    /// Whose packets; all where nobody is named.
    #[command(flatten)]
    pub select: Select,

    /// What to expect of them; what breaks it is told as a finding.
    #[command(flatten)]
    pub expect: Expect,

    /// When to end, and where results go.
    #[command(flatten)]
    pub common: Common,
}

/// Runs `netprobe drops`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &DropsArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let request = Request {
        filter: &args.filter.words,
        expect: args.expect.read()?,
        ..common.request("drops", Watch::Drops, &args.select)
    };
    run_live(&request, &common.until, Show::table(Kind::Drops, args.table.watch, common))
}
