//! Options that several live commands share, each written once.

use std::io::IsTerminal;

use clap::builder::NonEmptyStringValueParser;

use super::{
    live::{Request, Watch},
    output::{Output, Ready, Record},
    remote::Where,
    select::{Select, Target},
    until::Until,
};
use crate::render::Format;

/// Which packets.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// Which packets, in tcpdump's language; evaluated in the kernel
    ///
    /// host A, net A/B, port N, portrange N-M, proto N, each after src or dst or neither; tcp, udp, icmp, icmp6, ip,
    /// ip6, also before port; arp; len <= N; tcp[tcpflags] & (tcp-syn|tcp-ack) != 0; icmp[icmptype] == icmp-echo;
    /// joined by and, or, not and ( ). Quote what the shell would take for itself.
    #[arg(id = "filter", value_name = "FILTER", value_parser = NonEmptyStringValueParser::new())]
    pub words: Vec<String>,
}

/// A table that is kept current.
#[derive(Debug, Default, clap::Args)]
pub struct Table {
    /// Show a table every second, in place where stdout is a terminal
    #[arg(long)]
    pub watch: bool,
}

/// What the run may do to the node to learn more.
#[derive(Debug, Default, clap::Args)]
pub struct Depth {
    /// Let nftables tell which rule drops a packet, for which the node gets a table of ours while this runs
    ///
    /// The table marks these pods' packets for nftables' trace, a hundred a second, and names the rule by its handle
    /// (iptables-nft's, too; not iptables-legacy's). The kernel removes it with this process, however that ends.
    #[arg(long)]
    pub allow_system_changes: bool,
}

/// When to end, and where results go.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Where to watch.
    #[command(flatten)]
    pub place: Where,

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

impl Common {
    /// A run that is asked for everybody's packets, where nobody is named, and expects nothing.
    #[must_use]
    pub fn request<'a>(&'a self, command: &'static str, watch: Watch, select: &'a Select) -> Request<'a> {
        let options = (&self.output, &self.record, &self.ready);
        let request = Request::new(command, watch, select, options);
        Request { default: Some(Target::All), place: Some(&self.place), ..request }
    }

    /// Tables are redrawn in place.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.output.format == Format::Text && std::io::stdout().is_terminal()
    }
}
