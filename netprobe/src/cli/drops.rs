//! `netprobe drops`

use super::{
    expect::Expect,
    output::{Output, Ready, Record},
    select::Select,
    until::Until,
};

const EXAMPLES: &str = "\
Examples:
  netprobe drops --for 10s
      what this node drops in ten seconds
  netprobe drops --watch
      the same, kept current until Ctrl-C
  netprobe drops --watch --pod shop/web-0 udp port 53
      one pod's lost DNS packets";

/// Options of `netprobe drops`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, mut_arg("until_finding", |arg| arg.hide(true)))]
pub struct DropsArgs {
    /// Which packets, in tcpdump's language; evaluated in the kernel
    ///
    /// host A, net A/B, port N, portrange N-M, proto N, each after src or dst or neither; tcp, udp, icmp, icmp6, ip,
    /// ip6, also before port; arp; len <= N; tcp[tcpflags] & (tcp-syn|tcp-ack) != 0; icmp[icmptype] == icmp-echo;
    /// joined by and, or, not and ( ). Quote what the shell would take for itself.
    #[arg(value_name = "FILTER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub filter: Vec<String>,

    /// Show the table every second, in place where stdout is a terminal
    #[arg(long)]
    pub watch: bool,

    /// Whose packets; all where nobody is named.
    #[command(flatten)]
    pub select: Select,

    /// What to expect of them; what breaks it is told as a finding.
    #[command(flatten)]
    pub expect: Expect,

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

/// Runs `netprobe drops`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &DropsArgs) -> anyhow::Result<()> {
    use std::io::IsTerminal;

    let request = super::live::Request {
        command: "drops",
        watch: super::live::Watch::Drops,
        filter: &args.filter,
        select: &args.select,
        default: Some(super::select::Target::All),
        dns: None,
        expect: args.expect.read()?,
        output: &args.output,
        record: &args.record,
        ready: &args.ready,
    };
    let show =
        if args.watch { super::run::Show::DropsLive(std::io::stdout().is_terminal()) } else { super::run::Show::Drops };
    super::run::run(&request, &args.until, show)
}
