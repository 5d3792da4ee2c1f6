//! `netprobe dns`

use super::{
    common::{Common, Filter, Table},
    expect::Expect,
    filter,
    live::{Request, Watch},
    run::{Show, run as run_live},
    select::Select,
};
use crate::pipeline::DnsView;

const EXAMPLES: &str = "\
Examples:
  netprobe dns
      what the pods of this node ask DNS for, and what they get, as it happens
  netprobe dns --watch --pod shop/web-0
      one pod's queries as a table, kept current until Ctrl-C
  netprobe dns --pod web-0 --expect-net 10.219.226.0/24 --until-finding
      wait for an address that should not be
  netprobe dns --for 1m -o json | jq 'select(.result == \"timeout\")'
      queries nobody answered, for a program";

/// Words of the filter: those that make sense of port 53.
const FILTER_HELP: &str = "\
Which packets of port 53, in tcpdump's language; evaluated in the kernel

host A, net A/B, port N, portrange N-M, proto N, each after src or dst or neither; tcp, udp, icmp, icmp6, ip, ip6, \
also before port; joined by and, or, not and ( ). Quote what the shell would take for itself.";

/// Options of `netprobe dns`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, mut_arg("filter", |arg| arg.help("Which packets of port 53, in tcpdump's language; evaluated in the kernel").long_help(FILTER_HELP)))]
pub struct DnsArgs {
    /// Which packets.
    #[command(flatten)]
    pub filter: Filter,

    /// Kept current.
    #[command(flatten)]
    pub table: Table,

    /// Whose queries; all where nobody is named. Of a DNS server that is named, those it is asked too.
    #[command(flatten)]
    pub select: Select,

    /// What to expect of them.
    #[command(flatten)]
    pub expect: Expect,

    /// When to end, and where results go.
    #[command(flatten)]
    pub common: Common,
}

/// Runs `netprobe dns`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the output returns.
pub fn run(args: &DnsArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let request = Request {
        filter: &of_port_53(&args.filter.words)?,
        dns: Some(if args.table.watch { DnsView::Table(common.is_in_place()) } else { DnsView::Lines }),
        expect: args.expect.read()?,
        ..common.request("dns", Watch::Packets, &args.select)
    };
    run_live(&request, &common.until, Show::Journeys)
}

/// The user's filter, for packets of port 53 only.
///
/// # Errors
///
/// What is wrong with the user's words, where they stand.
fn of_port_53(words: &[String]) -> Result<Vec<String>, filter::FilterError> {
    let mut all: Vec<String> = ["port", "53"].map(str::to_owned).into();
    if !words.is_empty() {
        filter::compile_words(words)?;
        all.extend(["and", "("].map(str::to_owned));
        all.extend_from_slice(words);
        all.push(")".to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_filter_is_held_to_port_53() {
        let or = of_port_53(&words("host 10.0.0.1 or host 10.0.0.2")).expect("a filter");
        assert_eq!(or.join(" "), "port 53 and ( host 10.0.0.1 or host 10.0.0.2 )");
        assert_eq!(of_port_53(&[]).expect("a filter"), ["port", "53"]);
        assert!(filter::compile_words(&or).is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_where_the_user_wrote_it() {
        let wrong = of_port_53(&words("udp and prot 80")).expect_err("there is no such word");
        assert_eq!(wrong.word, Some(("prot".to_owned(), 9)));
    }
}
