//! All nodes at once: their streams, what they show, and how they end.

use std::{
    fs,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, interval, sleep_until},
};

use super::{
    apart::Merged,
    asked::Asked,
    merge::Merge,
    node::{self, Item, View, recording_of},
    tell,
};
use crate::{
    cli::{
        error::{NotAll, Silently, is_broken_pipe},
        live::{Kind, Request},
        run::Show,
        until::{Stdin, Until},
    },
    enrich::kube::agents::Gate,
    model::{facts::HostFacts, verdict::Outcome},
    pipeline::DnsView,
    render::{Format, Render, escape},
};

/// How long agents may take to end their runs once they are asked to. They give themselves a second less.
const GRACE: Duration = Duration::from_secs(6);
/// Items of all nodes that may wait.
const ITEMS: usize = 256;
/// Chunks of one node's stream that may wait, 64 KiB each at most.
const CHUNKS: usize = 16;
/// Lines of one node's stderr that may wait.
const LINES: usize = 16;
/// A longer name pushes its own lines out, and no other.
const NAME_COLUMNS: usize = 40;

/// A node that is asked.
struct Node {
    name: Arc<str>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    has_begun: bool,
    /// It said something on stderr.
    has_spoken: bool,
    over: Option<Result<Option<Outcome>>>,
    ended: Option<Option<String>>,
    last: Vec<u8>,
}

/// A run on several nodes, or on one.
struct Run<'a> {
    request: &'a Request<'a>,
    until: &'a Until,
    show: Show,
    nodes: Vec<Node>,
    merge: Merge<Vec<u8>>,
    drops: Merged,
    /// Draws the table of all nodes' drops.
    table: Box<dyn Render>,
    /// Each line says its node.
    is_marked: bool,
    /// Columns of the longest name.
    columns: usize,
    shown: u64,
    /// When patience with the agents ends.
    until_when: Option<Instant>,
    was_interrupted: bool,
}

/// Asks all of them, and shows what they see until they end or are to end. Gives how `why` ended.
pub(super) async fn run(
    gate: Arc<Gate>,
    asked: Vec<Asked>,
    unseen: Vec<String>,
    request: &Request<'_>,
    until: &Until,
    show: Show,
) -> Result<Option<Outcome>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let stdin = Stdin::watch(request.ready.until_stdin_closes)?;
    let (out, mut items) = mpsc::channel(ITEMS);
    let mut run = Run::start(&gate, asked, unseen.len(), request, until, show, out)?;
    let mut second = interval(Duration::from_secs(1));
    let mut stdin = std::pin::pin!(stdin.closed());
    let mut is_closed = false;
    while !run.is_over() {
        let due = run.merge.due();
        tokio::select! {
            item = items.recv() => match item {
                Some((at, item)) => run.take(at, item)?,
                None => break,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = sleep_until(run.until_when.unwrap_or_else(Instant::now)), if run.until_when.is_some() => run.abort(),
            _ = second.tick() => run.draw()?,
            _ = interrupt.recv() => run.interrupt(),
            _ = terminate.recv() => run.interrupt(),
            () = &mut stdin, if !is_closed => {
                is_closed = true;
                run.stop();
            }
        }
        run.release()?;
    }
    run.finish(unseen)
}

impl<'a> Run<'a> {
    fn start(
        gate: &Arc<Gate>,
        asked: Vec<Asked>,
        unseen: usize,
        request: &'a Request<'a>,
        until: &'a Until,
        show: Show,
        out: mpsc::Sender<(usize, Item)>,
    ) -> Result<Self> {
        let is_several = asked.len() + unseen > 1;
        let is_text = request.output.format == Format::Text;
        let is_marked = is_several && is_text;
        let width = asked.iter().map(|asked| asked.agent.node.chars().count()).max().unwrap_or(0).min(NAME_COLUMNS);
        let drops_apart = is_marked && matches!(show, Show::Table(Kind::Drops) | Show::Live(Kind::Drops, _));
        let is_live = show.is_in_place() || request.dns == Some(DnsView::Table(true));
        let view = View {
            output: request.output.clone(),
            margin: if is_marked { width + 2 } else { 0 },
            // Tables of several nodes come one after the other, but for that of drops, which is one.
            in_place: is_live && (!is_several || drops_apart),
            drops_apart,
            record: request.record.file.clone(),
        };
        let mut nodes = Vec::new();
        for (at, asked) in asked.into_iter().enumerate() {
            let record = view.record.as_deref().filter(|_| is_several);
            let record = record.map(|path| recording_of(path, &asked.agent.node)).transpose()?;
            let view = View { record: record.or_else(|| view.record.clone()), ..view.clone() };
            nodes.push(Node::start(at, Arc::clone(gate), asked, view, out.clone())?);
        }
        Ok(Self {
            request,
            until,
            show,
            merge: Merge::of(nodes.len()),
            drops: Merged::default(),
            table: request.output.renderer(&HostFacts::default()),
            nodes,
            is_marked,
            columns: width,
            shown: 0,
            until_when: None,
            was_interrupted: false,
        })
    }

    fn is_over(&self) -> bool {
        self.nodes.iter().all(|node| node.over.is_some() && node.ended.is_some())
    }

    fn take(&mut self, at: usize, item: Item) -> Result<()> {
        let is_several = self.nodes.len() > 1;
        let Some(node) = self.nodes.get_mut(at) else { return Ok(()) };
        match item {
            Item::Begun => {
                node.has_begun = true;
                self.note_ready()?;
            }
            Item::Shown(wall_ns, bytes) if is_several => self.merge.push(at, wall_ns, bytes, Instant::now()),
            Item::Shown(_, bytes) => self.write(at, &bytes)?,
            Item::Last(bytes) => node.last = bytes,
            Item::Drops(offset_ns, table) => self.drops.take(at, &node.name, offset_ns, table),
            Item::Reached(wall_ns, progress) => {
                self.merge.reach(at, wall_ns);
                self.shown += progress.shown;
                let is_enough = self.until.count.is_some_and(|most| self.shown >= most) && self.show == Show::Journeys;
                if is_several && (is_enough || (self.until.until_finding && progress.findings > 0)) {
                    self.stop();
                }
            }
            Item::Said(line) => {
                node.has_spoken = true;
                let line = line.strip_prefix("netprobe: ").unwrap_or(&line);
                tell(&format!("node {}: {line}", node.name));
            }
            Item::Over(over) => {
                if let Err(error) = &over
                    && is_broken_pipe(error)
                {
                    return over.map(drop);
                }
                if over.is_err() && node.ended.is_none() {
                    // Nobody takes what it sends any more.
                    node.stop.take().map(|stop| stop.send(()));
                    self.until_when.get_or_insert(Instant::now() + GRACE);
                }
                node.over = Some(over);
                self.merge.end(at);
                self.tell_end(at);
                self.note_ready()?;
            }
            Item::Ended(how) => {
                node.ended = Some(how);
                self.tell_end(at);
            }
        }
        Ok(())
    }

    /// Says why a node was not seen to the end, as soon as all is known of it.
    fn tell_end(&self, at: usize) {
        let Some(Node { name, over: Some(Err(error)), ended: Some(how), has_begun, has_spoken, .. }) =
            self.nodes.get(at)
        else {
            return;
        };
        match (has_begun, how) {
            // It said itself why it did not begin.
            (false, _) if *has_spoken => {}
            (false, Some(how)) => tell(&format!("node {name}: {how}")),
            (true, Some(how)) => tell(&format!("node {name}: {error:#} ({how})")),
            (_, None) => tell(&format!("node {name}: {error:#}")),
        }
    }

    /// Creates the file for which scripts wait, once every node is seen or will not be.
    fn note_ready(&self) -> Result<()> {
        match &self.request.ready.ready_file {
            Some(path) if self.nodes.iter().all(|node| node.has_begun || node.over.is_some()) => {
                fs::write(path, b"").with_context(|| format!("create the ready file {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// A signal came: the first asks all agents to end their runs, the second does not wait for them.
    fn interrupt(&mut self) {
        if std::mem::replace(&mut self.was_interrupted, true) {
            self.abort();
        } else {
            self.stop();
        }
    }

    /// Asks all agents to end their runs.
    fn stop(&mut self) {
        for node in &mut self.nodes {
            node.stop.take().map(|stop| stop.send(()));
        }
        self.until_when.get_or_insert(Instant::now() + GRACE);
    }

    /// Lets go of agents that do not end: with its connection each of them loses its stdin.
    fn abort(&mut self) {
        self.until_when = None;
        for node in self.nodes.iter_mut().filter(|node| node.ended.is_none()) {
            node.task.abort();
            node.ended = Some(Some("it did not end in time".to_owned()));
        }
    }

    fn release(&mut self) -> Result<()> {
        for (at, bytes) in self.merge.ready(Instant::now()) {
            self.write(at, &bytes)?;
        }
        Ok(())
    }

    /// What a node shows, each line after the node's name where there are several.
    fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        match self.nodes.get(at).filter(|_| self.is_marked) {
            None => out.write_all(bytes)?,
            Some(node) => {
                let name = escape(&node.name);
                for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                    match line {
                        b"\n" => write!(out, "{name}")?,
                        _ => write!(out, "{name:<width$}  ", width = self.columns)?,
                    }
                    out.write_all(line)?;
                }
            }
        }
        Ok(out.flush()?)
    }

    /// Draws the table of all nodes, where it is kept current.
    fn draw(&mut self) -> Result<()> {
        let Show::Live(_, in_place) = self.show else { return Ok(()) };
        match self.drops.fresh() {
            Some(table) => Ok(self.table.drops(&table, in_place)?),
            None => Ok(()),
        }
    }

    fn finish(mut self, mut unseen: Vec<String>) -> Result<Option<Outcome>> {
        self.nodes.iter().enumerate().for_each(|(at, _)| self.merge.end(at));
        self.release()?;
        let is_last = self.show.is_in_place() || matches!(self.show, Show::Table(_));
        match self.drops.fresh() {
            Some(table) => self.table.drops(&table, false)?,
            None if is_last && self.drops.is_some() => self.table.drops(&self.drops.all(), false)?,
            None => {}
        }
        let of = self.nodes.len() + unseen.len();
        let mut outcome = None;
        for at in 0..self.nodes.len() {
            self.write(at, &self.nodes[at].last)?;
        }
        for node in self.nodes {
            match node.over {
                Some(Ok(how)) => outcome = outcome.or(how),
                _ => unseen.push(node.name.to_string()),
            }
        }
        match unseen.len() {
            0 => Ok(outcome),
            all if all == of => Err(Silently.into()),
            _ => Err(NotAll { unseen, of }.into()),
        }
    }
}

impl Node {
    fn start(at: usize, gate: Arc<Gate>, asked: Asked, view: View, out: mpsc::Sender<(usize, Item)>) -> Result<Self> {
        let Asked { agent, words } = asked;
        let name = agent.node.as_str().into();
        let (chunks, taken) = mpsc::channel(CHUNKS);
        let (stop, stopped) = oneshot::channel();
        node::start(at, agent.clone(), view, taken, out.clone())?;
        let task = tokio::spawn(async move {
            let how = match gate.exec(&agent, words).await {
                Err(error) => Some(error.to_string()),
                Ok(session) => {
                    let (said, mut lines) = mpsc::channel(LINES);
                    let tell = async {
                        while let Some(line) = lines.recv().await {
                            let _ = out.send((at, Item::Said(line))).await;
                        }
                    };
                    // The chunks go with the session: their end is the stream's.
                    let (how, ()) = tokio::join!(session.run(chunks, said, stopped), tell);
                    let _ = out.send((at, Item::Ended(how))).await;
                    return;
                }
            };
            let _ = out.send((at, Item::Ended(how))).await;
            drop(chunks);
        });
        Ok(Self {
            name,
            stop: Some(stop),
            task,
            has_begun: false,
            has_spoken: false,
            over: None,
            ended: None,
            last: Vec::new(),
        })
    }
}
