//! Parse, run, print the error and what to do, exit code.

use std::{io, process::ExitCode};

use netprobe::{
    cli::{self, Command},
    probe::classifiers::{guardian, heir},
};

fn main() -> ExitCode {
    // Before all else: they are to be small.
    if let Some(code) = guardian::run().or_else(heir::run) {
        return code;
    }
    // What kube says of failures is told in our own words.
    let filter = env_logger::Env::new().filter_or("NETPROBE_LOG", "warn,kube_client=off");
    env_logger::Builder::from_env(filter).target(env_logger::Target::Stderr).init();
    let cli = cli::parse();
    let result = match cli.command {
        _ if cli.schema => cli::print(netprobe::render::schema()).map_err(Into::into),
        Some(Command::Trace(args)) => cli::trace::run(&args),
        Some(Command::Why(args)) => return cli::error::exit_with(cli::why::run(&args)),
        Some(Command::Drops(args)) => cli::drops::run(&args),
        Some(Command::Flows(args)) => cli::flows::run(&args),
        Some(Command::Nat(args)) => cli::nat::run(&args),
        Some(Command::Capture(args)) => cli::capture::run(&args),
        Some(Command::Dns(args)) => cli::dns::run(&args),
        Some(Command::Agent(args)) => cli::agent::run(&args),
        Some(Command::Check(args)) => cli::check::run(&args),
        Some(Command::Replay(args)) => cli::replay::run(&args),
        Some(Command::Demo(args)) => cli::demo::run(&args),
        Some(Command::Completions(args)) => cli::completions::run(&args, &mut io::stdout()).map_err(Into::into),
        None => Ok(()),
    };
    cli::error::exit(result)
}
