//! A process that outlives us for a moment, to remove our filters should we be killed.
//!
//! It is this program again, with [`WORD`]. It hears over a socket which devices have our filters; when the socket closes,
//! and be it by `kill -9`, it removes what is still there, and ends. It holds nothing else: no output of ours, no terminal,
//! no network namespace (a held one keeps a deleted pod's devices alive).

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::PathBuf,
    process::{Child, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::{again, clsact, owner::Owner};

/// First word of the guardian's command line; the second is whose filters it removes.
const WORD: &str = "--guardian";
/// How long it may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a message.
const MESSAGE_BYTES: usize = 12;

/// What the guardian is told of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It gets our filters. `qdisc`: its clsact qdisc is there because of netprobe, also if no filter says so yet.
    Held { qdisc: bool },
    /// It has them no more.
    Left,
}

/// A device: inode number of its namespace, interface index.
type Key = (u32, u32);

fn write(key: Key, news: News) -> [u8; MESSAGE_BYTES] {
    let word: u32 = match news {
        News::Left => 0,
        News::Held { qdisc: false } => 1,
        News::Held { qdisc: true } => 2,
    };
    let mut bytes = [0; MESSAGE_BYTES];
    for (at, number) in [key.0, key.1, word].into_iter().enumerate() {
        bytes[at * 4..][..4].copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

fn read(bytes: &[u8; MESSAGE_BYTES]) -> Option<(Key, News)> {
    let number = |at: usize| bytes[at * 4..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let news = match number(2)? {
        0 => News::Left,
        1 => News::Held { qdisc: false },
        2 => News::Held { qdisc: true },
        _ => return None,
    };
    Some(((number(0)?, number(1)?), news))
}

/// Our end of it. Dropped, the guardian ends, and is waited for.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Child,
    /// None once it is told to end.
    socket: Option<UnixStream>,
}

impl Guardian {
    /// Starts one, and waits until nothing that ends us can end it.
    pub(super) fn start() -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("make its socket")?;
        let child = again::start(&[WORD, &Owner::own().handle(false).to_string()], theirs).context("start it")?;
        let mut guardian = Self { child, socket: Some(ours) };
        if let Some(socket) = &mut guardian.socket {
            socket
                .set_read_timeout(Some(PATIENCE))
                .and_then(|()| socket.read_exact(&mut [0]))
                .context("hear from it")?;
        }
        Ok(guardian)
    }

    /// It has ended: somebody killed it.
    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Tells it of a device.
    pub(super) fn tell(&mut self, key: Key, news: News) -> io::Result<()> {
        self.socket.as_mut().map_or(Ok(()), |socket| socket.write_all(&write(key, news)))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        const PAUSE: Duration = Duration::from_millis(1);
        self.socket = None;
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(PAUSE);
        }
        log::warn!("netprobe's guardian (process {}) does not end", self.child.id());
    }
}

/// The guardian's own run, if that is what the command line asks for.
#[must_use]
pub fn run() -> Option<ExitCode> {
    let mut words = env::args_os().skip(1);
    (words.next()? == WORD).then_some(())?;
    Some(match guard(words.next()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn guard(owner: Option<OsString>) -> Result<()> {
    let owner = owner.and_then(|word| word.to_str()?.parse().ok()).and_then(|handle| Owner::of("netprobe_in", handle));
    let owner = owner.context("whose filters?")?;
    again::outlive(c"netprobe-guard")?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.write_all(b"r")?;
    let mut held = BTreeMap::new();
    let mut bytes = [0; MESSAGE_BYTES];
    while socket.read_exact(&mut bytes).is_ok() {
        match read(&bytes) {
            Some((key, News::Held { qdisc })) => drop(held.insert(key, qdisc)),
            Some((key, News::Left)) => drop(held.remove(&key)),
            None => {}
        }
    }
    // One device that fails costs the others nothing.
    let results: Vec<io::Result<()>> = held.into_iter().map(|(key, qdisc)| detach(key, owner, qdisc)).collect();
    Ok(results.into_iter().collect::<io::Result<()>>()?)
}

/// Removes our filters from a device. One that is gone, alone or with its namespace, has none.
pub(super) fn detach((netns, ifindex): Key, owner: Owner, qdisc: bool) -> io::Result<()> {
    let Some(file) = find(netns)? else { return Ok(()) };
    let work = || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        clsact::detach(ifindex, owner, qdisc)
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Opens a network namespace by its inode number: our own, a process' or one with a name.
fn find(netns: u32) -> io::Result<Option<File>> {
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|file| file.path());
    let of_processes = fs::read_dir("/proc")?.flatten().map(|process| process.path().join("ns/net"));
    let own = PathBuf::from("/proc/self/ns/net");
    let nsfs = fs::metadata(&own)?.dev();
    let is = |file: &Metadata| (file.dev(), file.ino()) == (nsfs, u64::from(netns));
    for path in std::iter::once(own).chain(named).chain(of_processes) {
        // Opened only where it is the one; by then it may have gone.
        if fs::metadata(&path).is_ok_and(|file| is(&file))
            && let Ok(file) = File::open(&path)
            && is(&file.metadata()?)
        {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_over_as_they_were_sent() {
        for news in [News::Left, News::Held { qdisc: false }, News::Held { qdisc: true }] {
            let key = (4_026_531_840, 7);
            assert_eq!(read(&write(key, news)), Some((key, news)));
        }
        assert_eq!(read(&[9; MESSAGE_BYTES]), None);
    }

    #[test]
    fn a_namespace_is_found_by_its_number() {
        let own = fs::metadata("/proc/self/ns/net").expect("there is one").ino();
        let found = find(u32::try_from(own).expect("32 bits")).expect("/proc is there").expect("it is ours");
        assert_eq!(found.metadata().expect("it is open").ino(), own);
        assert!(find(1).expect("/proc is there").is_none());
    }
}
