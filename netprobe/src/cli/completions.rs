//! `netprobe completions`

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  netprobe completions bash > /etc/bash_completion.d/netprobe
      for every user's bash";

/// Options of `netprobe completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Writes the completion script to `out`.
///
/// # Errors
///
/// Whatever `out` returns.
pub fn run(args: &CompletionsArgs, out: &mut dyn Write) -> io::Result<()> {
    // clap_complete panics where it cannot write: it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "netprobe", &mut script);
    out.write_all(&script)?;
    out.flush()
}
