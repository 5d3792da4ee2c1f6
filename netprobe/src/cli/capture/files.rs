//! The files of a capture: gathered writes, rotation, and each complete in itself.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::render::pcapng::{Blocks, Interface, PacketBlock, Section, Statistics};

/// Bytes that are gathered before they go to the file.
const GATHER: usize = 256 << 10;

/// When the next file is begun, and how many are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rotation {
    /// Most bytes of a file.
    pub size: Option<u64>,
    /// Longest time from the first packet of a file to its last.
    pub time: Option<Duration>,
    /// The last so many are kept; all where it is none.
    pub files: Option<u32>,
}

enum To {
    Stdout(Box<dyn Write>),
    /// The current file; the `number`-th, from 0.
    Files {
        path: PathBuf,
        number: u32,
        file: File,
    },
}

/// Where the packets go.
pub(super) struct Files {
    to: To,
    rotation: Rotation,
    section: Section,
    interfaces: Vec<(Interface, Statistics)>,
    blocks: Blocks,
    /// Bytes of the current file that are written: whole blocks.
    written: u64,
    /// Time of the current file's first packet.
    first: Option<Duration>,
    /// When the capture began.
    begun: Duration,
}

impl Files {
    /// Begins at `path`; a regular file there is overwritten.
    ///
    /// # Errors
    ///
    /// The file cannot be made; likewise below, wherever the next one is begun.
    pub(super) fn create(path: &Path, rotation: Rotation, section: Section, begun: Duration) -> Result<Self> {
        let file = open(path)?;
        Self::begin(To::Files { path: path.to_owned(), number: 0, file }, rotation, section, begun)
    }

    /// Writes to one stream.
    ///
    /// # Errors
    ///
    /// A text is too long.
    pub(super) fn stream(to: Box<dyn Write>, section: Section, begun: Duration) -> Result<Self> {
        Self::begin(To::Stdout(to), Rotation::default(), section, begun)
    }

    fn begin(to: To, rotation: Rotation, section: Section, begun: Duration) -> Result<Self> {
        let blocks = Blocks::begin(&section)?;
        Ok(Self { to, rotation, section, interfaces: Vec::new(), blocks, written: 0, first: None, begun })
    }

    /// Adds an interface and gives its number.
    ///
    /// # Errors
    ///
    /// A text is too long.
    pub(super) fn interface(&mut self, interface: Interface) -> io::Result<u32> {
        self.blocks.interface(&interface)?;
        self.interfaces.push((interface, Statistics::default()));
        Ok(self.interfaces.len() as u32 - 1)
    }

    /// What the kernel has counted at an interface since the beginning.
    pub(super) fn count(&mut self, interface: u32, received: u64, dropped: u64) {
        if let Some((_, statistics)) = self.interfaces.get_mut(interface as usize) {
            (statistics.received, statistics.dropped) = (received, dropped);
        }
    }

    /// Adds a packet.
    ///
    /// # Errors
    ///
    /// The disk is full, the pipe is closed.
    pub(super) fn packet(&mut self, packet: &PacketBlock<'_>) -> Result<()> {
        if self.is_due(packet) {
            self.rotate(packet.time)?;
        }
        self.first.get_or_insert(packet.time);
        self.blocks.packet(packet)?;
        if let Some((_, statistics)) = self.interfaces.get_mut(packet.interface as usize) {
            statistics.delivered += 1;
        }
        if self.blocks.gathered().len() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// Whether the packet belongs into the next file. Each has one at least.
    fn is_due(&self, packet: &PacketBlock<'_>) -> bool {
        /// Of a packet's block, without the packet and its comment: 28 bytes and 20 of options (pcapng, 4.3), padded.
        const AROUND: usize = 60;
        let Some(first) = self.first else { return false };
        let length =
            self.written + (self.blocks.gathered().len() + AROUND + packet.data.len() + packet.comment.len()) as u64;
        self.rotation.size.is_some_and(|most| length > most)
            || self.rotation.time.is_some_and(|most| packet.time.saturating_sub(first) >= most)
    }

    /// Ends the file and begins the next.
    fn rotate(&mut self, now: Duration) -> Result<()> {
        self.end(now)?;
        let To::Files { path, number, file } = &mut self.to else { return Ok(()) };
        *number += 1;
        *file = open(&numbered(path, *number))?;
        if let Some(gone) = self.rotation.files.and_then(|most| number.checked_sub(most)) {
            let gone = numbered(path, gone);
            fs::remove_file(&gone).with_context(|| format!("remove {}", gone.display()))?;
        }
        (self.written, self.first) = (0, None);
        self.blocks = Blocks::begin(&self.section)?;
        for (interface, _) in &self.interfaces {
            self.blocks.interface(interface)?;
        }
        Ok(())
    }

    /// Ends the file: what was counted, then what is gathered.
    fn end(&mut self, now: Duration) -> Result<()> {
        for (number, (_, statistics)) in self.interfaces.iter().enumerate() {
            self.blocks.statistics(number as u32, (self.begun, now), *statistics)?;
        }
        self.flush()
    }

    /// Ends the last file.
    ///
    /// # Errors
    ///
    /// As [`Self::packet`].
    pub(super) fn finish(&mut self, now: Duration) -> Result<()> {
        self.end(now)
    }

    /// Writes what is gathered. A file that takes no more is cut behind its last whole block.
    ///
    /// # Errors
    ///
    /// As [`Self::packet`].
    pub(super) fn flush(&mut self) -> Result<()> {
        let bytes = self.blocks.gathered();
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.to {
            To::Stdout(out) => out.write_all(bytes).and_then(|()| out.flush()).context("write to stdout")?,
            To::Files { path, number, file } => {
                if let Err(error) = file.write_all(bytes) {
                    // Where it cannot be cut (a pipe), the reader sees half a block.
                    let _ = file.set_len(self.written);
                    let (name, whole) = (numbered(path, *number), self.written);
                    let why = format!("{} takes no more: its first {whole} bytes stay readable", name.display());
                    return Err(anyhow::Error::new(error).context(why));
                }
            }
        }
        self.written += bytes.len() as u64;
        self.blocks.clear();
        Ok(())
    }

    /// Packets written, by interface.
    pub(super) fn statistics(&self) -> impl Iterator<Item = (&Interface, Statistics)> {
        self.interfaces.iter().map(|(interface, statistics)| (interface, *statistics))
    }

    /// The file that is being written, and how many there were before it.
    pub(super) fn place(&self) -> Option<(PathBuf, u32)> {
        match &self.to {
            To::Stdout(_) => None,
            To::Files { path, number, .. } => Some((numbered(path, *number), *number)),
        }
    }
}

/// `FILE`, `FILE.1`, `FILE.2`, ...
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Packets are nobody else's to read: 0600, also where the file was there before.
fn open(path: &Path) -> Result<File> {
    let there = fs::metadata(path).ok();
    if there.as_ref().is_some_and(|there| there.is_dir()) {
        bail!("{} is a directory: name a file in it", path.display());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    if there.is_some_and(|there| there.is_file() && there.permissions().mode() & 0o077 != 0) {
        let mode = fs::Permissions::from_mode(0o600);
        file.set_permissions(mode).with_context(|| format!("make {} private", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    /// A directory of its own, gone when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("netprobe-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }
        fn file(&self) -> PathBuf {
            self.0.join("c.pcapng")
        }
        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.0)
                .expect("it is there")
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn interface() -> Interface {
        let text = String::new();
        Interface { name: "eth0".into(), description: text.clone(), ethernet: true, snap: 96, filter: text }
    }

    fn packet(at_ms: u64, data: &[u8]) -> PacketBlock<'_> {
        PacketBlock {
            interface: 0,
            time: Duration::from_millis(at_ms),
            len: data.len() as u32,
            data,
            inbound: true,
            comment: "x",
        }
    }

    /// Packets, interfaces and statistics in a file, which must be whole.
    fn contents(bytes: &[u8]) -> (usize, usize, usize) {
        let mut reader = PcapNgReader::new(bytes).expect("it begins with a section");
        let mut counts = (0, 0, 0);
        while let Some(block) = reader.next_block() {
            match block.expect("the block is right").0 {
                Block::EnhancedPacket(_) => counts.0 += 1,
                Block::InterfaceDescription(_) => counts.1 += 1,
                Block::InterfaceStatistics(_) => counts.2 += 1,
                other => panic!("{other:?}"),
            }
        }
        counts
    }

    fn written(scratch: &Scratch, rotation: Rotation, packets: &[PacketBlock<'_>]) {
        let mut files = Files::create(&scratch.file(), rotation, Section::default(), Duration::ZERO).expect("create");
        files.interface(interface()).expect("a short name");
        for packet in packets {
            files.packet(packet).expect("there is room");
        }
        files.finish(Duration::from_secs(9)).expect("there is room");
    }

    #[test]
    fn a_file_is_private_also_where_it_was_there_before() {
        let scratch = Scratch::new("private");
        fs::write(scratch.file(), "old").expect("write");
        fs::set_permissions(scratch.file(), fs::Permissions::from_mode(0o644)).expect("chmod");
        written(&scratch, Rotation::default(), &[packet(1, b"abc")]);
        assert_eq!(fs::metadata(scratch.file()).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(contents(&fs::read(scratch.file()).expect("read")), (1, 1, 1));
    }

    #[test]
    fn every_file_is_complete_and_none_is_larger_than_said() {
        let scratch = Scratch::new("size");
        let data = [7; 500];
        let packets: Vec<_> = (0..20).map(|ms| packet(ms, &data)).collect();
        written(&scratch, Rotation { size: Some(3_000), ..Rotation::default() }, &packets);
        let names = scratch.names();
        assert!(names.len() > 3, "{names:?}");
        assert_eq!(names[..2], ["c.pcapng", "c.pcapng.1"]);
        let mut all = 0;
        for name in &names {
            let bytes = fs::read(scratch.0.join(name)).expect("read");
            let (packets, interfaces, statistics) = contents(&bytes);
            assert!(packets > 0 && (interfaces, statistics) == (1, 1), "{name}");
            // The statistics come at the end, whatever was said.
            assert!(bytes.len() < 3_000 + 200, "{name}: {}", bytes.len());
            all += packets;
        }
        assert_eq!(all, 20);
    }

    #[test]
    fn a_file_ends_after_its_time_and_the_last_ones_are_kept() {
        let scratch = Scratch::new("time");
        let packets: Vec<_> = (0..50).map(|tenth| packet(tenth * 100, b"abc")).collect();
        let rotation = Rotation { time: Some(Duration::from_secs(1)), files: Some(2), ..Rotation::default() };
        written(&scratch, rotation, &packets);
        assert_eq!(scratch.names(), ["c.pcapng.3", "c.pcapng.4"]);
        assert_eq!(contents(&fs::read(scratch.0.join("c.pcapng.3")).expect("read")), (10, 1, 1));
    }

    #[test]
    fn a_packet_larger_than_a_file_has_a_file_of_its_own() {
        let scratch = Scratch::new("large");
        let data = [7; 500];
        written(&scratch, Rotation { size: Some(1), ..Rotation::default() }, &[packet(1, &data), packet(2, &data)]);
        assert_eq!(scratch.names(), ["c.pcapng", "c.pcapng.1"]);
    }

    #[test]
    fn a_full_disk_leaves_whole_blocks_and_says_what_stays() {
        let full = Path::new("/dev/full");
        let mut files =
            Files::create(full, Rotation::default(), Section::default(), Duration::ZERO).expect("it can be opened");
        files.interface(interface()).expect("a short name");
        files.packet(&packet(1, b"abc")).expect("it is gathered");
        let error = files.flush().expect_err("the device is full");
        assert_eq!(
            format!("{error:#}"),
            "/dev/full takes no more: its first 0 bytes stay readable: No space left on device (os error 28)"
        );
    }

    #[test]
    fn a_directory_is_no_file() {
        let error = Files::create(Path::new("/"), Rotation::default(), Section::default(), Duration::ZERO);
        assert!(error.err().expect("it is a directory").to_string().contains("name a file in it"));
    }

    #[test]
    fn a_stream_has_all_blocks_after_each_flush() {
        #[derive(Clone, Default)]
        struct Shared(Rc<RefCell<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.borrow_mut().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = Shared::default();
        let mut files = Files::stream(Box::new(out.clone()), Section::default(), Duration::ZERO).expect("begin");
        files.interface(interface()).expect("a short name");
        files.packet(&packet(1, b"abc")).expect("gathered");
        files.flush().expect("memory");
        assert_eq!(contents(&out.0.borrow()), (1, 1, 0));
        files.count(0, 5, 1);
        files.finish(Duration::from_secs(1)).expect("memory");
        assert_eq!(contents(&out.0.borrow()), (1, 1, 1));
        let (_, statistics) = files.statistics().next().expect("one interface");
        assert_eq!(statistics, Statistics { received: 5, dropped: 1, delivered: 1 });
    }
}
