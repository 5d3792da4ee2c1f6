//! `netprobe trace`

use super::{
    common::{Common, Depth, Filter},
    expect::Expect,
    live::{Request, Watch},
    run::{Show, run as run_live},
    select::Select,
};

const EXAMPLES: &str = "\
Examples:
  netprobe trace --pod shop/web-0
      everything that happens to one pod's packets
  netprobe trace --pod web-0 tcp and port 3306 and host 10.176.46.4
      only its connections to one database
  netprobe trace -n shop -l app=web --until-finding -o json
      wait for the first thing that is wrong, for a program
  netprobe trace --netns blue --record /tmp/run.npr --for 30s
      without Kubernetes; keep it for `netprobe replay`";

/// Options of `netprobe trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TraceArgs {
    /// Which packets.
    #[command(flatten)]
    pub filter: Filter,

    /// Whose packets.
    #[command(flatten)]
    pub select: Select,

    /// What to expect of them.
    #[command(flatten)]
    pub expect: Expect,

    /// What it may do to learn more.
    #[command(flatten)]
    pub depth: Depth,

    /// When to end, and where results go.
    #[command(flatten)]
    pub common: Common,
}

/// Runs `netprobe trace`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &TraceArgs) -> anyhow::Result<()> {
    if super::filter::compile_words(&args.filter.words)?.is_arp_only() {
        anyhow::bail!("filter: trace shows connections, and ARP has none; `netprobe capture` keeps the frames");
    }
    let request = Request {
        filter: &args.filter.words,
        default: None,
        expect: args.expect.read()?,
        traces_rules: args.depth.allow_system_changes,
        ..args.common.request("trace", Watch::Packets, &args.select)
    };
    run_live(&request, &args.common.until, Show::Journeys)
}
