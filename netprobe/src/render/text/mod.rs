//! The output for people.

use std::{
    collections::HashMap,
    io::{self, BufWriter, Write},
    sync::Arc,
};

use textwrap::{Options, WordSplitter};

use super::{Clock, Render, Setup, clock::elapsed, escape};
use crate::model::{
    drops::{DropTable, Hole, Loss, Summary},
    exchange::{DnsTable, Exchange},
    finding::{Evidence, Finding},
    flows::{FlowTable, NatTable, Translation},
    journey::{Journey, Step},
    verdict::{Outcome, Verdict},
};

mod dns;
mod flows;
mod grid;
mod nat;
mod path;
mod style;
mod table;
#[cfg(test)]
mod tests;

use style::{Styles, paint};

/// Findings whose text is remembered, so that a repetition is told in one line.
const REMEMBERED: usize = 1024;
/// Columns of a time of day and what follows it.
const TIME_COLUMNS: usize = 14;
/// A longer name of a client pushes its own line out, and no other.
const CLIENT_COLUMNS: usize = 40;

/// Renders for people.
pub(super) struct Text {
    out: BufWriter<Box<dyn Write>>,
    clock: Clock,
    columns: usize,
    screen_lines: Option<usize>,
    styles: Styles,
    /// Journey whose lines came last: another one needs its header first.
    current: Option<u64>,
    /// What was said of each finding, without its count.
    said: HashMap<String, Finding>,
    /// Counts of flows were shown: a run that follows no packet has no journeys to sum up.
    counted: bool,
    /// A table was drawn in place: what comes next takes its place.
    in_place: bool,
    /// Columns of the longest client told, so that lines stay in line.
    client_columns: usize,
}

impl Text {
    pub(super) fn new(out: Box<dyn Write>, setup: Setup) -> Self {
        Self {
            out: BufWriter::new(out),
            clock: setup.clock,
            columns: setup.columns.max(40),
            screen_lines: setup.lines,
            styles: Styles::new(setup.colour),
            current: None,
            said: HashMap::new(),
            counted: false,
            in_place: false,
            client_columns: 0,
        }
    }

    fn steps(&mut self, journey: &Journey, lines: Vec<path::Line>, findings: &[Arc<Finding>]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.current != Some(journey.id) {
            let header = path::header(journey);
            self.wrapped(&escape(&header), "", "  ", self.styles.header)?;
            self.current = Some(journey.id);
        }
        let mut marks = marks(findings);
        for line in lines {
            let mark = marks.iter().position(|mark| mark.fits(&line)).map(|index| marks.remove(index));
            self.step(&line, mark)?;
        }
        Ok(())
    }

    fn step(&mut self, line: &path::Line, mark: Option<Mark<'_>>) -> io::Result<()> {
        let time = format!("{:<10}", elapsed(line.since_ns));
        let topic = format!("{:<7}", line.topic);
        let style = if line.topic == "drop" { self.styles.bad } else { anstyle::Style::new() };
        let text = escape(&line.text);
        let indent = " ".repeat(21);
        let first = format!("    {}{}", paint(self.styles.dim, &time), paint(style, &topic));
        let mut rows = wrap(&text, self.columns, 21, 21).into_iter();
        let row = rows.next().unwrap_or_default();
        let mark = mark.map(|mark| mark.text()).unwrap_or_default();
        let used = 21 + textwrap::core::display_width(&row) + textwrap::core::display_width(&mark);
        let gap = if mark.is_empty() { 0 } else { self.columns.saturating_sub(used).max(1) };
        writeln!(self.out, "{first}{}{}{}", paint(style, &row), " ".repeat(gap), paint(self.styles.bad, &mark))?;
        for row in rows {
            writeln!(self.out, "{indent}{}", paint(style, &row))?;
        }
        Ok(())
    }

    /// Columns of a table. Only a terminal is too narrow for one: a file or a pipe gets every word.
    fn table_columns(&self) -> usize {
        self.screen_lines.map_or(usize::MAX, |_| self.columns)
    }

    /// A table, in place where it is `live`.
    fn table(&mut self, heading: &str, mut lines: Vec<String>, live: bool) -> io::Result<()> {
        if live {
            // One line for the heading and one for the cursor.
            if let Some(room) = self.screen_lines.map(|lines| lines.saturating_sub(2).max(2))
                && lines.len() > room
            {
                let hidden = lines.len() - (room - 1);
                lines.truncate(room - 1);
                lines.push(format!("({hidden} lines more: make the terminal higher, or pipe the output)"));
            }
            // Home; each line clears to its end; then all below.
            write!(self.out, "\x1b[H{}\x1b[K\r\n", paint(self.styles.dim, heading))?;
            for line in &lines {
                write!(self.out, "{line}\x1b[K\r\n")?;
            }
            write!(self.out, "\x1b[J")?;
            self.in_place = true;
        } else {
            if std::mem::take(&mut self.in_place) {
                // The last table stands where it stood, whole.
                write!(self.out, "\x1b[H\x1b[J")?;
            }
            writeln!(self.out, "{}", paint(self.styles.dim, heading))?;
            for line in &lines {
                writeln!(self.out, "{line}")?;
            }
        }
        self.flush()
    }

    /// `text` after `first`, wrapped, the next lines after `next`.
    fn wrapped(&mut self, text: &str, first: &str, next: &str, style: anstyle::Style) -> io::Result<()> {
        for (index, row) in wrap(text, self.columns, first.len(), next.len()).iter().enumerate() {
            let indent = if index == 0 { first } else { next };
            writeln!(self.out, "{indent}{}", paint(style, row))?;
        }
        Ok(())
    }

    fn evidence(&mut self, evidence: &Evidence) -> io::Result<()> {
        let text = format!("{}  {}", self.clock.time_of_day(evidence.mono_ns), escape(&evidence.text));
        self.wrapped(&text, "  seen    ", &" ".repeat(24), self.styles.dim)
    }

    fn whole_finding(&mut self, finding: &Finding) -> io::Result<()> {
        let title = format!("{} ({}): ", finding.rule, finding.confidence);
        let rows = wrap(&escape(&finding.claim), self.columns, title.len(), 2);
        for (index, row) in rows.iter().enumerate() {
            if index == 0 {
                let style = self.styles.finding(finding.confidence);
                writeln!(self.out, "{}{row}", paint(style, &title))?;
            } else {
                writeln!(self.out, "  {row}")?;
            }
        }
        let hanging = " ".repeat(10);
        if let Some(since) = &finding.since {
            self.wrapped(&escape(since), "  since   ", &hanging, anstyle::Style::new())?;
        }
        for fix in &finding.fix {
            self.wrapped(&escape(fix), "  fix     ", &hanging, self.styles.fix)?;
        }
        for evidence in &finding.evidence {
            self.evidence(evidence)?;
        }
        Ok(())
    }
}

impl Render for Text {
    fn packet(&mut self, step: &Step, journey: &Journey) -> io::Result<()> {
        let place = journey.steps.iter().rposition(|other| Arc::ptr_eq(&other.sighting, &step.sighting));
        let Some(index) = place else { return Ok(()) };
        self.steps(journey, path::lines(journey, index..index + 1), &[])
    }

    fn journey(&mut self, journey: &Journey, from_step: usize, findings: &[Arc<Finding>]) -> io::Result<()> {
        self.steps(journey, path::lines(journey, from_step..journey.steps.len()), findings)
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.current = None;
        let bare = Finding { count: 0, first_ns: 0, last_ns: 0, flow: None, evidence: Vec::new(), ..finding.clone() };
        if self.said.get(&finding.id) == Some(&bare) {
            let last = self.clock.time_of_day(finding.last_ns);
            let text = format!("{} times so far, last at {last} ({})", finding.count, escape(&finding.claim));
            self.wrapped(&text, &format!("{}: ", finding.rule), "  ", self.styles.dim)?;
        } else {
            self.whole_finding(finding)?;
            if self.said.len() >= REMEMBERED {
                self.said.clear();
            }
            self.said.insert(finding.id.clone(), bare);
        }
        self.flush()
    }

    fn drops(&mut self, table: &DropTable, live: bool) -> io::Result<()> {
        let lines = table::lines(table, self.table_columns(), self.columns);
        self.table(&format!("{}  drops since start", self.clock.time_of_day(table.mono_ns)), lines, live)
    }

    fn flows(&mut self, table: &FlowTable, live: bool) -> io::Result<()> {
        self.counted = true;
        let lines = flows::lines(table, self.table_columns(), self.columns);
        let took = elapsed(table.mono_ns.saturating_sub(table.since_ns));
        let heading = format!("{}  packets and bytes on the wire in {took}", self.clock.time_of_day(table.mono_ns));
        self.table(&heading, lines, live)
    }

    fn translation(&mut self, translation: &Translation) -> io::Result<()> {
        (self.current, self.counted) = (None, true);
        let time = self.clock.time_of_day(translation.first_ns);
        let (header, words) = flows::translation(translation);
        self.wrapped(&format!("{time}  {header}"), "", "  ", self.styles.header)?;
        for text in words {
            self.wrapped(&text, "  ", "    ", anstyle::Style::new())?;
        }
        self.flush()
    }

    fn nat(&mut self, table: &NatTable, live: bool) -> io::Result<()> {
        self.counted = true;
        let lines = nat::lines(table, self.table_columns());
        let took = elapsed(table.mono_ns.saturating_sub(table.since_ns));
        let heading = format!("{}  connections translated in {took}", self.clock.time_of_day(table.mono_ns));
        self.table(&heading, lines, live)
    }

    fn exchange(&mut self, exchange: &Exchange) -> io::Result<()> {
        self.current = None;
        let client = dns::client(exchange);
        self.client_columns = self.client_columns.max(textwrap::core::display_width(&client)).min(CLIENT_COLUMNS);
        let status = exchange.status();
        let style = if dns::is_bad(status) { self.styles.bad } else { anstyle::Style::new() };
        let space = " ".repeat(self.client_columns.saturating_sub(textwrap::core::display_width(&client)));
        let first = format!(
            "{}  {client}{space}  {}  {:>8}  ",
            paint(self.styles.dim, &self.clock.time_of_day(exchange.asked_ns)),
            paint(style, &format!("{:<8}", status.to_string())),
            dns::took(exchange),
        );
        let text = dns::sentence(exchange);
        if self.screen_lines.is_none() {
            // A file or a pipe gets one line each, for whoever searches it.
            return writeln!(self.out, "{first}{text}");
        }
        let before = TIME_COLUMNS + textwrap::core::display_width(&client) + space.len() + 22;
        // Type and name stay together.
        let text = text.replacen(' ', "\u{a0}", 1);
        for (index, row) in wrap(&text, self.columns, before, TIME_COLUMNS).iter().enumerate() {
            let indent = if index == 0 { first.clone() } else { " ".repeat(TIME_COLUMNS) };
            writeln!(self.out, "{}", format!("{indent}{}", row.replace('\u{a0}', " ")).trim_end())?;
        }
        Ok(())
    }

    fn dns(&mut self, table: &DnsTable, live: bool) -> io::Result<()> {
        self.current = None;
        let mut lines = dns::lines(table, self.table_columns(), self.columns);
        if live {
            lines.splice(0..0, dns::findings(table, self.columns));
        }
        self.table(&format!("{}  DNS queries since start", self.clock.time_of_day(table.mono_ns)), lines, live)
    }

    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        let pod = verdict.pod.as_deref().map_or_else(|| "the pod".to_owned(), ToString::to_string);
        let header = format!("{pod} -> {} {}", verdict.to, verdict.proto);
        self.wrapped(&escape(&header), "", "  ", self.styles.header)?;
        for passed in &verdict.way {
            let (word, style) = if passed.ok { ("ok", self.styles.fix) } else { ("fails", self.styles.bad) };
            let first = format!("  {}{:<9}", paint(style, &format!("{word:<7}")), passed.part);
            for (index, row) in wrap(&escape(&passed.text), self.columns, 18, 18).iter().enumerate() {
                writeln!(self.out, "{}{row}", if index == 0 { &first } else { "                  " })?;
            }
        }
        let (text, style) = match verdict.outcome {
            Outcome::Fine => (verdict.claim.clone(), self.styles.fix),
            Outcome::Finding => {
                let rules: Vec<_> = verdict.findings.iter().map(|f| f.rule).collect();
                (format!("{}, as above", rules.join(", ")), self.styles.bad)
            }
            Outcome::Unknown => (verdict.claim.clone(), self.styles.bad),
        };
        self.wrapped(&escape(&text), "verdict: ", "  ", style)?;
        self.flush()
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.current = None;
        let text = match &loss.hole {
            None => format!("{} {}: nothing in this time can be stated", loss.lost, escape(loss.what)),
            Some(Hole { device, from_ns, to_ns, why, .. }) => {
                let from = self.clock.time_of_day(*from_ns);
                let to = to_ns.map_or_else(|| "on".to_owned(), |to_ns| format!("to {}", self.clock.time_of_day(to_ns)));
                format!("counts at {} have a hole from {from} {to}: {}", escape(device), escape(why))
            }
        };
        self.wrapped(&text, "lost: ", "  ", self.styles.bad)?;
        self.flush()
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        if self.counted && summary.records == 0 {
            return self.flush();
        }
        self.current = None;
        let findings = match summary.findings.as_slice() {
            [] => "no finding".to_owned(),
            some => some.iter().map(|(rule, count)| format!("{rule} {count}")).collect::<Vec<_>>().join(", "),
        };
        let stale = summary.stale_since_ns.map_or_else(String::new, |since_ns| {
            format!("; names are {} old", elapsed(summary.to_ns.saturating_sub(since_ns)))
        });
        let some = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let text = format!(
            "{} and {} in {}; {findings}; {}, {} lost{stale}",
            some(summary.journeys, "journey"),
            some(summary.dropped, "drop"),
            elapsed(summary.to_ns.saturating_sub(summary.from_ns)),
            some(summary.records, "record"),
            summary.lost,
        );
        self.wrapped(&text, "", "  ", self.styles.dim)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What a finding says of a line.
struct Mark<'a> {
    finding: &'a Finding,
    expected: &'a str,
}

impl Mark<'_> {
    fn fits(&self, line: &path::Line) -> bool {
        line.left_by
            .as_ref()
            .is_some_and(|(side, device)| *side == self.finding.side && self.finding.device.as_ref() == Some(device))
    }

    fn text(&self) -> String {
        format!("<- expected {}", escape(self.expected))
    }
}

fn marks(findings: &[Arc<Finding>]) -> Vec<Mark<'_>> {
    findings
        .iter()
        .filter_map(|finding| {
            finding
                .expected_device
                .as_deref()
                .filter(|expected| finding.device.as_deref() != Some(expected))
                .map(|expected| Mark { finding, expected })
        })
        .collect()
}

/// Rows of `text` in `columns`, leaving `first` and `next` columns for what stands before them.
/// Words are never broken: a command must stay fit for copying.
fn wrap(text: &str, columns: usize, first: usize, next: usize) -> Vec<String> {
    let (first_indent, next_indent) = (" ".repeat(first), " ".repeat(next));
    let options = Options::new(columns)
        .initial_indent(&first_indent)
        .subsequent_indent(&next_indent)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, options)
        .iter()
        .enumerate()
        .map(|(index, row)| row.get(if index == 0 { first } else { next }..).unwrap_or_default().to_owned())
        .collect()
}
