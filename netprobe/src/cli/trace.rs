//! `netprobe trace`

use super::{
    expect::Expect,
    output::{Output, Ready, Record},
    select::Select,
    until::Until,
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
    /// Which packets, in tcpdump's language; evaluated in the kernel
    ///
    /// host A, net A/B, port N, portrange N-M, proto N, each after src or dst or neither; tcp, udp, icmp, icmp6, ip,
    /// ip6, also before port; arp; len <= N; tcp[tcpflags] & (tcp-syn|tcp-ack) != 0; icmp[icmptype] == icmp-echo;
    /// joined by and, or, not and ( ). Quote what the shell would take for itself.
    #[arg(value_name = "FILTER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub filter: Vec<String>,

    /// Whose packets.
    #[command(flatten)]
    pub select: Select,

    /// What to expect of them.
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

/// Runs `netprobe trace`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &TraceArgs) -> anyhow::Result<()> {
    if super::filter::compile_words(&args.filter)?.is_arp_only() {
        anyhow::bail!("filter: trace shows connections, and ARP has none; `netprobe capture` keeps the frames");
    }
    let request = super::live::Request {
        command: "trace",
        watch: super::live::Watch::Packets,
        filter: &args.filter,
        select: &args.select,
        default: None,
        dns: None,
        expect: args.expect.read()?,
        output: &args.output,
        record: &args.record,
        ready: &args.ready,
    };
    super::run::run(&request, &args.until, super::run::Show::Journeys)
}
