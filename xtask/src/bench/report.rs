//! The figures as JSON for machines and as a page for people.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::stats;

const JSON: &str = "docs/bench.json";
const PAGE: &str = "docs/bench.md";

/// What a figure has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bar {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }
}

/// One line of a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was measured.
    what: String,
    unit: String,
    bar: Option<Bar>,
    /// The median of the samples (or what `note` says); none where it could not be measured.
    value: Option<f64>,
    smallest: f64,
    largest: f64,
    samples: usize,
    note: String,
}

impl Figure {
    /// The median of `samples`.
    pub(crate) fn median(what: impl Into<String>, unit: &str, samples: &[f64]) -> Self {
        Self::of(what, unit, samples, 0.5)
    }

    /// The smallest of `samples`.
    pub(crate) fn smallest(what: impl Into<String>, unit: &str, samples: &[f64]) -> Self {
        Self::of(what, unit, samples, 0.0)
    }

    /// The largest of `samples`.
    pub(crate) fn largest(what: impl Into<String>, unit: &str, samples: &[f64]) -> Self {
        Self::of(what, unit, samples, 1.0)
    }

    /// What could not be measured, and why.
    pub(crate) fn none(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { note: why.into(), ..Self::median(what, "", &[]) }
    }

    fn of(what: impl Into<String>, unit: &str, samples: &[f64], q: f64) -> Self {
        Self {
            what: what.into(),
            unit: unit.to_string(),
            bar: None,
            value: (!samples.is_empty()).then(|| stats::quantile(samples, q)),
            smallest: stats::quantile(samples, 0.0),
            largest: stats::quantile(samples, 1.0),
            samples: samples.len(),
            note: String::new(),
        }
    }

    /// With what it has to keep.
    pub(crate) fn bar(self, bar: Bar) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// With what has to be known to read it.
    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    fn verdict(&self) -> &'static str {
        match (self.bar, self.value) {
            (_, None) => "not measured",
            (None, Some(_)) => "",
            (Some(bar), Some(value)) if bar.met(value) => "met",
            (Some(_), Some(_)) => "**missed**",
        }
    }

    /// As a line of the page's table.
    pub(crate) fn line(&self) -> String {
        let Self { what, unit, bar, value, smallest, largest, samples, note } = self;
        let number = |value: f64| number(value);
        let bar = match bar {
            Some(Bar::AtLeast(bar)) => format!(">= {} {unit}", number(*bar)),
            Some(Bar::AtMost(bar)) => format!("<= {} {unit}", number(*bar)),
            None => String::new(),
        };
        let measured = match value {
            None => String::new(),
            Some(value) if *samples < 2 => format!("{} {unit}", number(*value)),
            Some(value) => {
                format!("{} {unit} ({} .. {}, n {samples})", number(*value), number(*smallest), number(*largest))
            }
        };
        format!("| {what} | {bar} | {measured} | {} | {note} |", self.verdict())
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// One row: what was measured in one go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Heading.
    pub(crate) title: String,
    /// When, and of which commit.
    pub(crate) when: String,
    /// The lines.
    pub(crate) figures: Vec<Figure>,
    /// Text below them: what the time goes into.
    pub(crate) text: String,
}

/// All rows that were ever measured, by number; a run replaces those it measures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    machine: String,
    rows: BTreeMap<String, Row>,
}

impl Report {
    /// What earlier runs left in `root`; nothing where it cannot be read.
    pub(crate) fn read(root: &Path) -> Self {
        let text = fs::read_to_string(root.join(JSON)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Takes in a row and writes both files.
    pub(crate) fn write(&mut self, root: &Path, machine: &str, key: &str, row: Row) -> Result<()> {
        machine.clone_into(&mut self.machine);
        self.rows.insert(key.to_string(), row);
        let json = serde_json::to_string_pretty(self).context("write the figures as JSON")?;
        fs::write(root.join(JSON), json + "\n").with_context(|| format!("write {JSON}"))?;
        fs::write(root.join(PAGE), self.page()).with_context(|| format!("write {PAGE}"))
    }

    fn page(&self) -> String {
        let mut page = format!("{HEAD}\nMachine: {}.\n", self.machine);
        for row in self.rows.values() {
            let _ = write!(page, "\n## {}\n\n{}.\n\n", row.title, row.when);
            page.push_str("| what | bar | measured | verdict | note |\n|---|---|---|---|---|\n");
            for figure in &row.figures {
                page.push_str(&figure.line());
                page.push('\n');
            }
            if !row.text.is_empty() {
                let _ = write!(page, "\n{}\n", row.text.trim_end());
            }
        }
        page
    }
}

const HEAD: &str = "\
# Measurements

Written by `cargo xtask bench`; `docs/bench.json` holds the same figures.

- Network: client -- node -- server, network namespaces joined by veth, fixed neighbours; netprobe runs in the node's.
- Load: UDP datagrams of 22 bytes by sendmmsg, sender on CPU 0 before all other work there (SCHED_FIFO); tools on CPU 1.
- On veth a packet's whole way runs on the sender's CPU. Its cost is wall time per packet in the best decile of slices of
  1 ms: slices in which the sender was interrupted or the virtual CPU stolen fall out.
- Runs with a tool lie between two runs without; a figure in % compares a run with its two neighbours. Medians are shown,
  with the smallest and the largest, and the number of pairs.
- A hook's cost is run_time_ns / run_cnt of `kernel.bpf_stats_enabled`, less that of an empty program, the smallest of
  some samples.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_below_its_bar_is_missed() {
        let figure = Figure::median("rate", "%", &[90.0, 95.0, 97.5]).bar(Bar::AtLeast(97.0));
        assert_eq!(figure.line(), "| rate | >= 97 % | 95 % (90 .. 97.5, n 3) | **missed** |  |");
    }

    #[test]
    fn a_tool_that_is_missing_is_not_a_missed_bar() {
        let figure = Figure::none("tcpdump -w", "tcpdump is not installed");
        assert_eq!(figure.line(), "| tcpdump -w |  |  | not measured | tcpdump is not installed |");
    }

    #[test]
    fn the_smallest_sample_can_be_the_figure() {
        let figure = Figure::smallest("hook", "ns", &[12.0, 9.0, 30.0]).bar(Bar::AtMost(10.0));
        assert_eq!(figure.verdict(), "met");
    }
}
