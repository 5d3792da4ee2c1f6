//! `netprobe replay`

use std::path::PathBuf;

use anyhow::Context;

use super::output::Output;
use crate::{
    decode::Decoder,
    model::{counted::CountedRows, drops::Loss, symbols::Symbols},
    pipeline::{DnsOptions, DnsView, DropCounts, Input, Pipeline},
    probe::tables::{HOLE, LOSS_NAMES},
    record::{Frame, Reader},
    render::{FindingsOnly, Render},
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
    for frame in reader.by_ref() {
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
    if matches!(options["command"].as_str(), Some("drops" | "flows" | "nat")) {
        out = Box::new(FindingsOnly(out));
    }
    let decoder = Decoder::new(host, Symbols::default());
    let mut pipeline = Pipeline::new(decoder, node, inventory.unwrap_or_default(), expect, now_ns);
    pipeline.show_flows_of(serde_json::from_value(options["namespaces"].clone()).unwrap_or_default());
    if let Some(options) = serde_json::from_value::<Option<DnsOptions>>(options["dns"].clone()).unwrap_or_default() {
        let view = if options.view == DnsView::Lines { DnsView::Lines } else { DnsView::Table(false) };
        pipeline = pipeline.showing_dns(DnsOptions { view, ..options });
    }
    let mut last_ns = now_ns;
    let fed = feed(&mut pipeline, reader, &mut last_ns, &mut Shown { out: &mut *out, options: &options });
    // What came before the damage is still told.
    let told = pipeline.finish(last_ns, &mut *out);
    fed.with_context(|| format!("read {}", args.file.display()))?;
    Ok(told?)
}

/// Where a replay goes, and what the run was asked.
struct Shown<'a> {
    out: &'a mut dyn Render,
    options: &'a serde_json::Value,
}

/// Feeds the recording's frames; `last_ns` is the time of the last tick.
fn feed(pipeline: &mut Pipeline, reader: Reader, last_ns: &mut u64, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    let out = &mut *shown.out;
    // The last tick is the end of the run, which `finish` tells: it is held back until more comes.
    let mut held = None;
    for frame in reader {
        let frame = frame?;
        if let Some(tick_ns) = held.take_if(|_| !matches!(frame, Frame::End)) {
            pipeline.tick(tick_ns, out)?;
        }
        match frame {
            Frame::Record(bytes) => pipeline.take(Input::Record(bytes)),
            Frame::FactsEvent(bytes) => {
                let event = serde_json::from_slice(&bytes).context("a change of the node makes no sense")?;
                pipeline.take(Input::Facts(event));
            }
            Frame::Inventory(inventory) => pipeline.take(Input::Inventory(*inventory)),
            Frame::News(news) => pipeline.take(Input::News(*news)),
            Frame::Symbol(symbol) => pipeline.decoder().symbols().learn(symbol.address, &symbol.name),
            Frame::Counts(value) => {
                let counts: DropCounts = serde_json::from_value(value).context("the drop counts make no sense")?;
                pipeline.take(Input::Drops(counts.rows));
                if counts.shown {
                    out.drops(&pipeline.drop_table(counts.mono_ns), false)?;
                }
            }
            Frame::Flows(value) => {
                let rows: CountedRows = serde_json::from_value(value).context("the counted flows make no sense")?;
                let (mono_ns, is_shown) = (rows.mono_ns, rows.shown);
                pipeline.take(Input::Counted(rows));
                match (shown.options["command"] == "nat", shown.options["table"] == true) {
                    _ if !is_shown => {}
                    (true, true) => out.nat(&pipeline.nat_table(mono_ns), false)?,
                    (true, false) => {
                        for translation in pipeline.fresh_translations() {
                            out.translation(&translation)?;
                        }
                    }
                    (false, _) => out.flows(&pipeline.flow_table(mono_ns), false)?,
                }
            }
            Frame::Lost(lost) => {
                let what =
                    LOSS_NAMES.iter().chain([&HOLE]).find(|name| **name == lost.what).copied().unwrap_or("records");
                let loss = Loss { mono_ns: lost.mono_ns, lost: lost.lost, what, hole: lost.hole };
                out.loss(&loss)?;
                pipeline.take(Input::Lost(loss));
            }
            Frame::Tick(tick_ns) => {
                *last_ns = tick_ns;
                held = Some(tick_ns);
            }
            Frame::Header(_) | Frame::HostFacts(_) | Frame::NodeFacts(_) | Frame::Options(_) | Frame::End => {}
        }
    }
    Ok(())
}
