//! `netprobe demo`: a small network in namespaces of its own, broken one way, and what trace says.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::output::Output;
use crate::render::{Format, escape};

mod daemon;
pub mod namespace;
pub mod network;
pub mod scenes;
mod stage;
pub mod traffic;

const EXAMPLES: &str = "\
Examples:
  netprobe demo
      the names of all demos, and what happens in them
  netprobe demo wrong-nic
      a policy table loses its route: who did it, and what to do";

/// Options of `netprobe demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Which one; without it they are listed
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// How to show it.
    #[command(flatten)]
    pub output: Output,
}

/// How names of a demo's namespaces begin; its pid follows.
const PREFIX: &str = "npdemo";

/// How a demo is shown.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    /// `trace -o json`; what goes on beside it is then told on stderr.
    json: bool,
    colour: bool,
}

/// The demos' names and what happens in them, a line each.
fn list() -> String {
    scenes::SCENES.iter().fold(String::new(), |mut text, scene| {
        let _ = writeln!(text, "{:15} {}", scene.name, scene.sentence);
        text
    })
}

/// Lists the demos, or plays the one that is named and cleans up after it, also on Ctrl-C.
///
/// # Errors
///
/// There is no such demo; the network cannot be built; trace fails, or does not find the fault.
pub fn run(args: &DemoArgs) -> Result<()> {
    let DemoArgs { name, output } = args;
    let Some(name) = name else {
        return io::stdout().write_all(list().as_bytes()).context("list the demos");
    };
    play(name, Options { json: matches!(output.format, Format::Json), colour: output.colour() })
}

fn play(name: &str, options: Options) -> Result<()> {
    let Some(scene) = scenes::find(name) else {
        let closest = scenes::SCENES.iter().map(|s| s.name).min_by_key(|s| strsim::damerau_levenshtein(s, name));
        let name = escape(name);
        bail!("no demo `{name}`: is {} meant? `netprobe demo` lists them", closest.unwrap_or("wrong-nic"));
    };
    if !nix::unistd::geteuid().is_root() {
        bail!("a demo makes network namespaces, which needs root: run it with sudo");
    }
    sweep();
    let interrupted = watch_signals()?;
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let played = stage::play(scene, options, &prefix, &interrupted);
    // A closed pipe fails the play too; the reason for it is then the signal or the reader, not the network.
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted: the demo's network is gone again");
    }
    played
}

/// Removes what a demo left that was killed.
fn sweep() {
    namespace::sweep(PREFIX);
    for entry in fs::read_dir("/run").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).filter(|pid| pid.parse::<u32>().is_ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            log::warn!("remove {}: {error}", entry.path().display());
        }
    }
}

/// A flag that SIGINT and SIGTERM set instead of ending the process, so that it can clean up.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let (set, (sender, receiver)) = (Arc::clone(&flag), mpsc::channel());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime.map_err(|error| sender.send(Err(error))) else { return };
        runtime.block_on(async {
            let signals = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
            let Ok((mut interrupt, mut terminate)) = signals.map_err(|error| sender.send(Err(error))) else { return };
            if sender.send(Ok(())).is_err() {
                return;
            }
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                set.store(true, Ordering::Relaxed);
            }
        });
    });
    receiver.recv().context("watch signals")?.context("watch signals")?;
    Ok(flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_demo_names_the_closest() {
        let error = play("wrong-nick", Options::default()).expect_err("there is no such demo").to_string();
        assert_eq!(error, "no demo `wrong-nick`: is wrong-nic meant? `netprobe demo` lists them");
    }

    #[test]
    fn the_list_has_a_line_for_each_demo() {
        let list = list();
        assert_eq!(list.lines().count(), scenes::SCENES.len());
        assert!(list.lines().all(|line| line.chars().count() <= 120), "{list}");
    }
}
