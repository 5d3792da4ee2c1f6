//! `netprobe replay`

use std::path::PathBuf;

use anyhow::Context;

use super::output::Output;
use crate::{
    decode::Decoder,
    model::{drops::Loss, symbols::Symbols},
    pipeline::{Input, Pipeline},
    probe::tables::LOSS_NAMES,
    record::{Frame, ReadError, Reader},
    render::Render,
};

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
    let mut reader = Reader::open(&args.file).with_context(|| format!("read {}", args.file.display()))?;
    let (mut host, mut node, mut inventory, mut options) = (None, None, None, None);
    let mut start = None;
    while let Some(frame) = reader.next() {
        match frame.with_context(|| format!("read {}", args.file.display()))? {
            Frame::HostFacts(facts) => host = Some(*facts),
            Frame::NodeFacts(facts) => node = Some(*facts),
            Frame::Inventory(known) => inventory = Some(*known),
            Frame::Options(value) => options = Some(value),
            Frame::Tick(now_ns) => {
                start = Some(now_ns);
                break;
            }
            _ => break,
        }
    }
    let (Some(host), Some(node), Some(now_ns)) = (host, node, start) else {
        anyhow::bail!("{} has no beginning: it was cut before anything was recorded", args.file.display());
    };
    let options = options.unwrap_or_default();
    let expect = serde_json::from_value(options["expect"].clone()).unwrap_or_default();
    let mut out = args.output.renderer(&host);
    let decoder = Decoder::new(host, Symbols::default());
    let mut pipeline = Pipeline::new(decoder, node, inventory.unwrap_or_default(), expect, now_ns);
    let drops = options["command"] == "drops";
    let (last_ns, whole) = feed(&mut pipeline, reader, drops, now_ns, &mut *out)?;
    pipeline.finish(last_ns, &mut *out)?;
    whole.with_context(|| format!("read {}", args.file.display()))
}

/// Feeds the recording's frames; gives the time of the last tick, and what is wrong with the rest.
fn feed(
    pipeline: &mut Pipeline,
    reader: Reader,
    drops: bool,
    start_ns: u64,
    out: &mut dyn Render,
) -> anyhow::Result<(u64, Result<(), ReadError>)> {
    let mut now_ns = start_ns;
    // The last tick is the end of the run, which `finish` tells: it is held back until more comes.
    let mut held = None;
    for frame in reader {
        let input = match frame {
            Ok(Frame::Record(bytes)) => Input::Record(bytes),
            Ok(Frame::FactsEvent(bytes)) => {
                Input::Facts(serde_json::from_slice(&bytes).context("a change of the node")?)
            }
            Ok(Frame::Inventory(inventory)) => Input::Inventory(*inventory),
            Ok(Frame::Symbol(symbol)) => {
                pipeline.decoder().symbols().learn(symbol.address, &symbol.name);
                continue;
            }
            Ok(Frame::Counts(value)) => {
                pipeline.take(Input::Drops(serde_json::from_value(value).context("the drop counts")?));
                if drops {
                    out.drops(&pipeline.drop_table(now_ns), false)?;
                }
                continue;
            }
            Ok(Frame::Lost(lost)) => {
                let what = LOSS_NAMES.iter().find(|name| **name == lost.what).copied().unwrap_or("records");
                let loss = Loss { mono_ns: lost.mono_ns, lost: lost.lost, what };
                out.loss(&loss)?;
                Input::Lost(loss)
            }
            Ok(Frame::Tick(tick_ns)) => {
                if let Some(before_ns) = held.replace(tick_ns) {
                    pipeline.tick(before_ns, out)?;
                }
                now_ns = tick_ns;
                continue;
            }
            Ok(_) => continue,
            Err(error) => return Ok((now_ns, Err(error))),
        };
        if let Some(tick_ns) = held.take() {
            pipeline.tick(tick_ns, out)?;
        }
        pipeline.take(input);
    }
    Ok((now_ns, Ok(())))
}
