//! `netprobe replay`

use std::path::PathBuf;

use anyhow::Context;

use super::{
    output::Output,
    play::{Beginning, Play},
};
use crate::{record::Reader, render::Render};

const EXAMPLES: &str = "\
Examples:
  netprobe replay /tmp/run.npr
      what `trace --record /tmp/run.npr` has shown
  netprobe replay /tmp/run.npr -o json | jq 'select(.kind == \"finding\")'
      only what is wrong";

/// Options of `netprobe replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// A file written with `--record`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// How to show it.
    #[command(flatten)]
    pub output: Output,
}

/// Runs `netprobe replay`.
///
/// # Errors
///
/// A file that is no whole recording of this version, and whatever the output returns.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let reading = || format!("read {}", args.file.display());
    let mut reader = Reader::open(&args.file).with_context(reading)?;
    let Some(beginning) = Beginning::read(&mut reader).with_context(reading)? else {
        anyhow::bail!("{} has no beginning: it was cut before anything was recorded", args.file.display());
    };
    let mut out = beginning.renderer(args.output.renderer(&beginning.host), false);
    let mut play = beginning.play(false);
    let fed = feed(&mut play, reader, &mut *out);
    // What came before the damage is still told.
    let told = play.finish(&mut *out);
    fed.with_context(reading)?;
    told.with_context(reading).map(drop)
}

fn feed(play: &mut Play, reader: Reader, out: &mut dyn Render) -> anyhow::Result<()> {
    for frame in reader {
        play.take(frame?, out)?;
    }
    Ok(())
}
