//! One node's recording as it comes: through a pipeline of its own, on a thread of its own, to what is to be shown.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    rc::Rc,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::apart::Apart;
use crate::{
    cli::{
        output::Output,
        play::{Beginning, Play},
    },
    enrich::kube::agents::Agent,
    model::{drops::DropTable, verdict::Outcome},
    pipeline::Progress,
    record::{Frame, ReadError, Reader, Writer},
    render::Render,
};

/// What a node has to say.
pub(super) enum Item {
    /// Its hooks are attached: it sees every packet from now on.
    Begun,
    /// Text or JSON, whole lines, at that wall time in nanoseconds.
    Shown(i64, Vec<u8>),
    /// The same of its end: what was waiting, the summary.
    Last(Vec<u8>),
    /// Its drops, and how far its wall clock is ahead of its monotonic one, nanoseconds.
    Drops(i64, DropTable),
    /// It has come to that wall time, nanoseconds, and so much came of it.
    Reached(i64, Progress),
    /// A line of its stderr.
    Said(String),
    /// Its recording has ended: as `why` did; or what went wrong.
    Over(Result<Option<Outcome>>),
    /// The command there has ended; or what went wrong.
    Ended(Option<String>),
}

/// How a node's run is shown.
#[derive(Clone)]
pub(super) struct View {
    pub(super) output: Output,
    /// Columns that are taken by what stands before each line.
    pub(super) margin: usize,
    /// Tables are redrawn in place.
    pub(super) in_place: bool,
    /// Drops go into one table with those of other nodes.
    pub(super) drops_apart: bool,
    /// Where to keep the recording.
    pub(super) record: Option<PathBuf>,
}

/// Starts the thread. It ends with the recording, or when nobody listens.
pub(super) fn start(
    at: usize,
    agent: Agent,
    view: View,
    chunks: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<(usize, Item)>,
) -> Result<()> {
    let work = move || {
        let over = follow(at, &agent, &view, Chunks { chunks, rest: Bytes::new() }, &out);
        let _ = out.blocking_send((at, Item::Over(over)));
    };
    thread::Builder::new().name("node".to_owned()).spawn(work).context("start a thread for a node")?;
    Ok(())
}

/// The bytes that come.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Where the renderer writes: taken from here after each frame.
#[derive(Clone, Default)]
struct Pen(Rc<RefCell<Vec<u8>>>);

impl Write for Pen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames, each kept where the recording is kept.
struct Kept<R: Read> {
    reader: Reader<R>,
    writer: Option<Writer>,
}

impl<R: Read> Iterator for Kept<R> {
    type Item = Result<Frame, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.reader.next()?;
        if let (Ok(frame), Some(writer)) = (&frame, &mut self.writer)
            && let Err(error) = writer.write(frame)
        {
            // Said once: after its first failure the writer is silent.
            eprintln!("{}", crate::cli::error::lines(&anyhow::Error::new(error)));
        }
        Some(frame)
    }
}

fn follow(
    at: usize,
    agent: &Agent,
    view: &View,
    source: impl Read,
    out: &mpsc::Sender<(usize, Item)>,
) -> Result<Option<Outcome>> {
    let reader = open(agent, source)?;
    let writer = view.record.as_deref().map(|path| Writer::create(path, reader.header())).transpose()?;
    let mut frames = Kept { reader, writer };
    let Some(mut beginning) = Beginning::read(&mut frames)? else {
        bail!("its agent {agent} ended before it had begun");
    };
    // The agent's own word for it may be another.
    beginning.host.node.clone_from(&agent.node);
    let offset_ns = beginning.host.wall_offset_ns;
    let (pen, tables) = (Pen::default(), Rc::<RefCell<Vec<DropTable>>>::default());
    let mut setup = view.output.setup(&beginning.host);
    setup.columns = setup.columns.saturating_sub(view.margin);
    let mut shown = view.output.format.renderer(Box::new(pen.clone()), setup);
    if view.drops_apart {
        shown = Box::new(Apart { out: shown, tables: Rc::clone(&tables) });
    }
    let mut shown = beginning.renderer(shown, view.in_place);
    let mut page = Page { at, offset_ns, pen, tables, reached_ns: 0, out };
    let mut play = beginning.play(view.in_place);
    let fed = feed(&mut play, frames, &mut *shown, &mut page);
    // What came before it was cut is still told.
    let told = play_out(play, &mut *shown, &mut page);
    fed?;
    told
}

fn feed<R: Read>(play: &mut Play, frames: Kept<R>, shown: &mut dyn Render, page: &mut Page<'_>) -> Result<()> {
    let mut has_begun = false;
    for frame in frames {
        let frame = frame.map_err(cut)?;
        // Of the first tick all hooks are attached, and of the second the pods are told apart.
        let begins = !has_begun && matches!(frame, Frame::Tick(_));
        let progress = play.take(frame, shown)?;
        shown.flush()?;
        page.turn(play.now_ns(), progress)?;
        if begins {
            has_begun = true;
            page.send(Item::Begun)?;
        }
    }
    Ok(())
}

fn play_out(play: Play, shown: &mut dyn Render, page: &mut Page<'_>) -> Result<Option<Outcome>> {
    let outcome = play.finish(shown);
    shown.flush()?;
    page.take_tables()?;
    page.send(Item::Last(page.take_shown()))?;
    outcome
}

/// The recording, of this very version: another one may mean other things by the same words.
fn open<R: Read>(agent: &Agent, source: R) -> Result<Reader<R>> {
    let here = env!("CARGO_PKG_VERSION");
    let differs = |there: &str| match there {
        there if there == here => {
            anyhow!("its agent {agent} is another build of netprobe {here}: use the same here as there")
        }
        there => anyhow!("its agent {agent} is netprobe {there}, this is {here}: use the same version here as there"),
    };
    let reader = Reader::new(source).map_err(|error| match error {
        ReadError::Newer(_, Some(there)) | ReadError::Abi(_, Some(there)) => differs(&there),
        ReadError::Newer(_, None) | ReadError::Abi(_, None) => differs("of another version"),
        ReadError::Io(error) => anyhow::Error::new(error),
        _ => anyhow!("its agent {agent} sends no recording: is it another version? this is netprobe {here}"),
    })?;
    match reader.header().version.as_str() {
        there if there == here => Ok(reader),
        there => Err(differs(there)),
    }
}

fn cut(error: ReadError) -> anyhow::Error {
    if error.is_cut() { anyhow!("its stream was cut: what was shown ends there") } else { error.into() }
}

/// Where a node's items go.
struct Page<'a> {
    at: usize,
    offset_ns: i64,
    pen: Pen,
    tables: Rc<RefCell<Vec<DropTable>>>,
    /// The time that was told last.
    reached_ns: u64,
    out: &'a mpsc::Sender<(usize, Item)>,
}

impl Page<'_> {
    /// Hands on what was shown at that time of the node.
    fn turn(&mut self, mono_ns: u64, progress: Progress) -> Result<()> {
        let wall_ns = i64::try_from(mono_ns).unwrap_or(i64::MAX).saturating_add(self.offset_ns);
        self.take_tables()?;
        let shown = self.take_shown();
        if !shown.is_empty() {
            self.send(Item::Shown(wall_ns, shown))?;
        }
        if self.reached_ns == mono_ns && progress == Progress::default() {
            return Ok(());
        }
        self.reached_ns = mono_ns;
        self.send(Item::Reached(wall_ns, progress))
    }

    fn take_tables(&self) -> Result<()> {
        let tables = std::mem::take(&mut *self.tables.borrow_mut());
        tables.into_iter().try_for_each(|table| self.send(Item::Drops(self.offset_ns, table)))
    }

    fn take_shown(&self) -> Vec<u8> {
        std::mem::take(&mut *self.pen.0.borrow_mut())
    }

    fn send(&self, item: Item) -> Result<()> {
        // Nobody listens any more: as when the reader of a pipe has gone.
        self.out.blocking_send((self.at, item)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe).into())
    }
}

/// Where the recording of one of several nodes goes: `run.npr` becomes `run.NODE.npr`.
pub(super) fn recording_of(path: &Path, node: &str) -> Result<PathBuf> {
    // A node's name is one of DNS; this one comes from outside, and becomes part of a path.
    if node.is_empty() || !node.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
        bail!("`{}` is no name of a node", node.escape_debug());
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(".");
    name.push(node);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_recording_of_its_own() {
        let of = |path: &str, node: &str| recording_of(Path::new(path), node).map(|path| path.display().to_string());
        assert_eq!(of("/tmp/run.npr", "ip-10-0-1-2.ec2").expect("a name"), "/tmp/run.ip-10-0-1-2.ec2.npr");
        assert_eq!(of("run", "n1").expect("a name"), "run.n1");
        assert!(of("run", "../n1").is_err());
    }
}
