//! The commands: one file each, and the options they share.

use std::io::{self, Write};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

pub mod agent;
pub mod capture;
pub mod check;
pub mod common;
pub mod completions;
pub mod demo;
pub mod dns;
pub mod drops;
pub mod error;
pub mod expect;
pub mod filter;
pub mod flows;
pub mod live;
pub mod nat;
pub mod output;
pub mod play;
mod privileges;
pub mod remote;
pub mod replay;
pub mod run;
pub mod select;
pub mod trace;
pub mod until;
pub mod why;

/// Says why a pod's traffic leaves by the wrong NIC, or vanishes
#[derive(Debug, Parser)]
#[command(name = "netprobe", version, arg_required_else_help = true, args_conflicts_with_subcommands = true, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Print the JSON schema of `-o json`, then exit
    #[arg(long)]
    pub schema: bool,

    /// What to do; absent only with `--schema`.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  netprobe trace --pod shop/web-0
      everything that happens to one pod's packets, and what is wrong with it
  netprobe why --pod shop/web-0 --to db.shop:3306
      one connection, tried from inside the pod: what is wrong with it
  netprobe drops --watch
      who loses packets, why and where, kept current
  netprobe drops --watch --all-nodes
      the same of all nodes of the cluster, from a laptop, through their agents
  netprobe flows --pod shop/web-0 --watch
      its peers, the devices its packets leave by, packets and bytes
  netprobe dns
      what pods ask DNS for, what they get, and how long it takes
  netprobe demo
      see it on a small broken network; needs no cluster

Needs root, or the capabilities that docs/privileges.md lists. `netprobe check` says
what this kernel can show. NETPROBE_LOG=debug says more on stderr.
Exit codes: 0 fine, 1 a finding (why), 2 error or usage, 3 not all nodes were seen.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow a pod's packets through this node, and say what is wrong
    Trace(trace::TraceArgs),
    /// Say what is wrong with one connection, in one verdict
    Why(why::WhyArgs),
    /// Count who loses packets, why and where
    Drops(drops::DropsArgs),
    /// Show who talks to whom by which device, and how much
    Flows(flows::FlowsArgs),
    /// Write a pod's packets to a pcapng file, at all the node's devices they pass
    Capture(capture::CaptureArgs),
    /// Show what NAT makes of connections, and which device's address it takes
    Nat(nat::NatArgs),
    /// Show what pods ask DNS for, and what they get
    Dns(dns::DnsArgs),
    /// Watch all pods of this node for good: metrics, findings, a local API
    Agent(agent::AgentArgs),
    /// Say what this kernel, these privileges and this node let netprobe see
    Check(check::CheckArgs),
    /// Show a run recorded with `trace --record` again, on any machine, without root
    Replay(replay::ReplayArgs),
    /// Build a small network, break it one way, show what trace says, clean up
    Demo(demo::DemoArgs),
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
}

/// The command line of this process. Ends the process where it asks for help or makes no sense:
/// one line on stderr, exit code 2.
#[must_use]
pub fn parse() -> Cli {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => cli,
        Err(error) => match complaint(&error, std::env::args().nth(1).as_deref()) {
            Some(text) => {
                eprintln!("{text}");
                std::process::exit(error::EXIT_ERROR.into())
            }
            None => error.exit(),
        },
    }
}

/// The command line's grammar, in the words of who calls us.
#[must_use]
pub fn command() -> clap::Command {
    named(Cli::command(), error::program())
}

/// The same where the program is called `program`, which the examples are to say too.
fn named(command: clap::Command, program: &'static str) -> clap::Command {
    if program == "netprobe" {
        return command;
    }
    let reworded = |command: clap::Command| {
        let Some(text) = command.get_after_help().map(ToString::to_string) else { return command };
        let lines = text.lines().map(|line| line.replacen("  netprobe ", &format!("  {program} "), 1));
        let text = lines.collect::<Vec<_>>().join("\n");
        command.after_help(text)
    };
    let names: Vec<String> = command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    let command = reworded(command.bin_name(program).display_name(program));
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, reworded))
}

/// Writes `text` to stdout. Other than `println!` it can say that the reader has gone.
///
/// # Errors
///
/// Whatever stdout returns; `BrokenPipe` ends the run quietly.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What clap complains of in one line, and a second one that says where to read more; `None`
/// where it does not complain. `word` is the first one of the command line.
fn complaint(error: &clap::Error, word: Option<&str>) -> Option<String> {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion) {
        return None;
    }
    let text = error.render().to_string();
    let said: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !["Usage:", "For more information", "tip:"].iter().any(|end| line.starts_with(end)))
        .filter(|line| !line.is_empty())
        .collect();
    let said = said.join(" ");
    let meant = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| error.get(kind))
        .map(|meant| format!(": is {meant} meant?"))
        .unwrap_or_default();
    let command = word.filter(|word| Cli::command().find_subcommand(word).is_some());
    let command = command.map(|command| format!("{command} ")).unwrap_or_default();
    let said = crate::render::escape(said.strip_prefix("error: ").unwrap_or(&said)).into_owned();
    let program = error::program();
    Some(format!("{program}: {said}{meant}\n  try: {program} {command}--help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(args: &[&str]) -> String {
        let error = Cli::try_parse_from(args).expect_err("the command line makes no sense");
        complaint(&error, args.get(1).copied()).expect("it is a complaint")
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_usage_error_is_one_line_and_a_hint() {
        assert_eq!(
            said(&["netprobe", "trace", "--all", "--for", "10"]),
            "netprobe: invalid value '10' for '--for <DURATION>': `10` is no duration: write 10s, 2m or 1h30m\n  \
             try: netprobe trace --help"
        );
        assert_eq!(
            said(&["netprobe", "trace", "--contianer", "x"]),
            "netprobe: unexpected argument '--contianer' found: is --container meant?\n  try: netprobe trace --help"
        );
    }

    #[test]
    fn one_line_names_the_options_that_exclude_each_other() {
        assert_eq!(
            said(&["netprobe", "trace", "-l", "app=web", "--pid", "1"]),
            "netprobe: the argument '--selector <SELECTOR>' cannot be used with '--pid <PID>'\n  \
             try: netprobe trace --help"
        );
        assert!(Cli::try_parse_from(["netprobe", "trace", "-l", "app=web", "--pod", "web"]).is_ok());
        assert!(Cli::try_parse_from(["netprobe", "--schema", "trace", "--all"]).is_err());
    }

    #[test]
    fn filter_words_and_options_may_mix() {
        let args = ["netprobe", "trace", "--pod", "web-0", "tcp", "and", "port", "80", "-o", "json", "--for", "2m"];
        let Some(Command::Trace(args)) = Cli::try_parse_from(args).expect("it is right").command else {
            panic!("it is trace")
        };
        assert_eq!(args.filter.words, ["tcp", "and", "port", "80"]);
        assert_eq!(args.common.until.duration, Some(std::time::Duration::from_secs(120)));
        assert_eq!(args.common.output.format, crate::render::Format::Json);
    }

    /// No schema of Kubernetes knows what a container's arguments mean.
    #[test]
    fn the_arguments_of_the_manifest_are_an_agents() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/netprobe.yaml");
        let page = std::fs::read_to_string(page).expect("it is there");
        let (_, args) = page.split_once("          args:\n").expect("the container has arguments");
        let args = args.lines().map_while(|line| line.strip_prefix("            - "));
        let args: Vec<String> = args.map(|arg| arg.replace("$(NODE_IP)", "10.0.0.7")).collect();
        let cli = Cli::try_parse_from(std::iter::once("netprobe").chain(args.iter().map(String::as_str)));
        let Some(Command::Agent(args)) = cli.expect("it is right").command else { panic!("it is agent") };
        assert_eq!(args.listen.to_string(), "10.0.0.7:9799");
    }

    #[test]
    fn every_command_has_help_with_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
    }
}
