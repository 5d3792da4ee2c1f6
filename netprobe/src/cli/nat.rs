//! `netprobe nat`

use super::{
    common::{Common, Table},
    live::{Kind, Request, Watch},
    run::{Show, run as run_live},
    select::Select,
};

const EXAMPLES: &str = "\
Examples:
  netprobe nat
      each translation once, as it is seen: before, after, hook, device
  netprobe nat --pod shop/web-0 --for 30s
      one pod's
  netprobe nat --watch
      connections that are translated alike in one row, kept current until Ctrl-C

Seen at TC classifiers: the conntrack entry that each packet carries.";

/// Options of `netprobe nat`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, mut_arg("until_finding", |arg| arg.hide(true)))]
pub struct NatArgs {
    /// Kept current.
    #[command(flatten)]
    pub table: Table,

    /// Whose connections; all where nobody is named.
    #[command(flatten)]
    pub select: Select,

    /// When to end, and where results go.
    #[command(flatten)]
    pub common: Common,
}

/// Runs `netprobe nat`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &NatArgs) -> anyhow::Result<()> {
    let watch = args.table.watch;
    let request = Request { nat_table: watch, ..args.common.request("nat", Watch::Translations, &args.select) };
    let show = if watch { Show::table(Kind::Nat, true, &args.common) } else { Show::Translations };
    run_live(&request, &args.common.until, show)
}
