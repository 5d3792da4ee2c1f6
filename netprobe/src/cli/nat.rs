//! `netprobe nat`

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
  netprobe nat
      each translation once, as it is seen: before, after, hook, device
  netprobe nat --pod shop/web-0 --for 30s
      one pod's

Seen at TC classifiers: the conntrack entry that each packet carries.";

/// Options of `netprobe nat`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, mut_arg("until_finding", |arg| arg.hide(true)))]
pub struct NatArgs {
    /// As without it: translations are told as they are seen
    #[arg(long)]
    pub watch: bool,

    /// Whose connections; all where nobody is named.
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

/// Runs `netprobe nat`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &NatArgs) -> anyhow::Result<()> {
    let request = Request {
        command: "nat",
        watch: Watch::Translations,
        filter: &[],
        select: &args.select,
        default: Some(Target::All),
        expect: Expectations::default(),
        dns: None,
        output: &args.output,
        record: &args.record,
        ready: &args.ready,
    };
    run_live(&request, &args.until, Show::Translations)
}
