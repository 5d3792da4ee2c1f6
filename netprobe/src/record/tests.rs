use std::{
    io::{self, Cursor, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use serde_json::json;

use super::{writer::Sink, *};
use crate::model::{
    flow::Proto,
    verdict::{Outcome, Passed},
};

/// A file in memory that takes `room` bytes.
#[derive(Clone, Debug)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: usize,
}

impl Disk {
    fn with(room: usize) -> Self {
        Self { bytes: Arc::default(), room }
    }
    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("not poisoned").clone()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.bytes.lock().expect("not poisoned");
        match self.room - file.len() {
            0 => Err(io::ErrorKind::StorageFull.into()),
            room => {
                let part = &bytes[..bytes.len().min(room)];
                file.extend_from_slice(part);
                Ok(part.len())
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Disk {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.bytes.lock().expect("not poisoned").truncate(usize::try_from(length).expect("small"));
        Ok(())
    }
}

fn header() -> Header {
    Header { node: "n1".to_owned(), wall_ns: 1_700_000_000_000_000_000, version: "0.1.0".to_owned() }
}

fn verdict() -> Told {
    let way = vec![Passed { ok: false, part: "connect".into(), text: "no answer in 5 s".to_owned() }];
    let (outcome, findings) = (Outcome::Finding, vec!["f1".to_owned()]);
    let (to, claim) = ("10.0.0.1:80".to_owned(), "it is dropped".to_owned());
    Told { mono_ns: 5, pod: None, to, proto: Proto::Tcp, outcome, way, findings, claim }
}

fn frames() -> Vec<Frame> {
    vec![
        Frame::HostFacts(Box::new(HostFacts { node: "n1".to_owned(), ..HostFacts::default() })),
        Frame::NodeFacts(Box::default()),
        Frame::Inventory(Box::default()),
        Frame::Options(json!({"pod": "shop/web-0", "filter": "tcp"})),
        Frame::Symbol(Symbol { address: 0xffff_ffff_8100_0000, name: "nft_do_chain".to_owned() }),
        Frame::Record(Bytes::from_static(&[7; 200])),
        Frame::FactsEvent(Bytes::from_static(b"{\"RouteDeleted\":1}")),
        Frame::Record(Bytes::new()),
        Frame::Tick(5_000_000_000),
        Frame::Lost(Lost { mono_ns: 9, lost: 3, what: "records".to_owned(), hole: None }),
        Frame::Counts(json!([1, 2])),
        Frame::Flows(json!({"rows": []})),
        Frame::Verdict(Box::new(verdict())),
        Frame::Tick(6_000_000_000),
    ]
}

fn recorded(frames: &[Frame]) -> Vec<u8> {
    let disk = Disk::with(usize::MAX);
    let mut writer = Writer::start(disk.clone(), Path::new("run"), &header()).expect("there is room");
    for frame in frames {
        writer.write(frame).expect("there is room");
    }
    writer.finish().expect("there is room");
    disk.bytes()
}

/// The frames, and what was wrong after them.
fn read(bytes: &[u8]) -> (Vec<Frame>, Option<ReadError>) {
    let reader = match Reader::new(Cursor::new(bytes)) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut frames = Vec::new();
    for frame in reader {
        match frame {
            Ok(frame) => frames.push(frame),
            Err(error) => return (frames, Some(error)),
        }
    }
    (frames, None)
}

/// What the user is told is wrong.
fn message(bytes: &[u8]) -> String {
    read(bytes).1.expect("something is wrong").to_string()
}

#[test]
fn what_was_written_is_read() {
    let bytes = recorded(&frames());
    assert_eq!(Reader::new(Cursor::new(&bytes)).expect("it is whole").header(), &header());
    let (read, error) = read(&bytes);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read[..read.len() - 1], frames());
    assert_eq!(read.last(), Some(&Frame::End));
}

#[test]
fn something_else_is_no_recording() {
    for bytes in [b"".as_slice(), b"{\"kind\":\"packet\"}\n", b"\x7fELF", &[0; 64]] {
        assert_eq!(message(bytes), "not a recording: name a file written with --record");
    }
}

#[test]
fn a_newer_format_and_another_layout_say_so() {
    let mut bytes = recorded(&[]);
    bytes[12] ^= 0xff;
    let abi = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
    let ours = netprobe_common::ABI;
    assert_eq!(
        message(&bytes),
        format!("a recording with records of layout {abi}, this netprobe reads {ours}: use the netprobe that made it")
    );
    bytes[8] = 9;
    assert_eq!(message(&bytes), "a recording of format 9, this netprobe reads up to 1: use a newer netprobe");
}

#[test]
fn a_run_that_was_killed_gives_all_up_to_its_last_tick() {
    let disk = Disk::with(usize::MAX);
    let mut writer = Writer::start(disk.clone(), Path::new("run"), &header()).expect("there is room");
    for frame in frames() {
        writer.write(&frame).expect("there is room");
    }
    writer.record(&[1, 2, 3]).expect("there is room");
    // No end and no flush, as after `kill -9`.
    std::mem::forget(writer);
    let bytes = disk.bytes();
    let (read, error) = read(&bytes);
    assert_eq!(read, frames());
    let error = error.expect("the end is missing");
    assert!(matches!(error, ReadError::Unfinished(byte) if byte == bytes.len() as u64), "{error:?}");
    assert!(error.is_cut());
}

#[test]
fn a_length_that_is_too_long_is_refused_unread() {
    let mut bytes = recorded(&[]);
    let end = bytes.len() - FRAME_HEAD;
    bytes[end + 1..end + 5].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        message(&bytes),
        format!("the recording is damaged in frame 1 (byte {end}): it claims 4294967295 bytes")
    );
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let mut bytes = recorded(&[]);
    let end = bytes.len();
    bytes.push(0);
    assert_eq!(message(&bytes), format!("the recording goes on after its end, at byte {end}"));
}

#[test]
fn a_full_disk_is_told_once_and_leaves_a_readable_file() {
    let disk = Disk::with(600);
    let mut writer = Writer::start(disk.clone(), Path::new("run"), &header()).expect("there is room");
    let mut errors = Vec::new();
    for tick in 0..100 {
        let record = writer.record(&[3; 20]);
        let tick = writer.write(&Frame::Tick(tick));
        errors.extend([record, tick].into_iter().filter_map(Result::err));
    }
    writer.finish().expect("it was told before");
    assert_eq!(errors.len(), 1);
    let length = disk.bytes().len();
    assert_eq!(
        errors[0].to_string(),
        format!("run takes no more: the recording ends here, its first {length} bytes stay")
    );
    let (read, error) = read(&disk.bytes());
    assert!(read.len() >= 16 && read.len() % 2 == 0, "{}", read.len());
    assert!(matches!(error, Some(ReadError::Unfinished(_))), "{error:?}");
}

#[test]
fn one_frame_that_is_too_long_does_not_end_the_recording() {
    let disk = Disk::with(usize::MAX);
    let mut writer = Writer::start(disk.clone(), Path::new("run"), &header()).expect("there is room");
    let error = writer.record(&vec![0; PAYLOAD_MAX as usize + 1]).expect_err("too long");
    assert_eq!(error.to_string(), "16777217 bytes at once are too many for a recording (16777216)");
    writer.record(&[1]).expect("there is room");
    writer.finish().expect("there is room");
    assert_eq!(read(&disk.bytes()).0, [Frame::Record(Bytes::from_static(&[1])), Frame::End]);
}

/// A directory that goes away with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netprobe-record-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory takes one more");
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_recording_overwrites_a_file_and_is_its_owners_alone() {
    let place = Place::new("file");
    let path = place.0.join("run.npr");
    Writer::create(&path, &header()).expect("it can be made").finish().expect("there is room");
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&path, [0; 10_000]).expect("it can be written");
    Writer::create(&path, &header()).expect("it can be made").finish().expect("there is room");
    let frames: Vec<_> = Reader::open(&path).expect("it is one").collect::<Result<_, _>>().expect("it is whole");
    assert_eq!(frames, [Frame::End]);
}

#[test]
fn what_is_no_regular_file_is_left_alone() {
    let place = Place::new("directory");
    let error = Writer::create(&place.0, &header()).expect_err("a directory");
    assert_eq!(error.to_string(), format!("{} is no regular file: name another for the recording", place.0.display()));
    assert!(Writer::create(Path::new("/dev/null"), &header()).is_err());
    let missing = place.0.join("no/such/run.npr");
    let error = Writer::create(&missing, &header()).expect_err("no such directory");
    assert_eq!(error.to_string(), format!("cannot write the recording {}", missing.display()));
}

proptest! {
    #[test]
    fn any_cut_gives_a_clean_prefix_and_says_so(at in any::<prop::sample::Index>()) {
        let bytes = recorded(&frames());
        let cut = at.index(bytes.len());
        let (read, error) = read(&bytes[..cut]);
        prop_assert!(frames().starts_with(&read));
        match error {
            Some(ReadError::Truncated(byte) | ReadError::Unfinished(byte)) => prop_assert_eq!(byte, cut as u64),
            Some(ReadError::NotRecording) => prop_assert_eq!(cut, 0),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bit_flip_gives_a_clean_prefix_and_an_error(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = recorded(&frames());
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        let (read, error) = read(&bytes);
        prop_assert!(frames().starts_with(&read));
        prop_assert!(error.is_some());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&tail);
        let mut bytes = recorded(&[]);
        bytes.truncate(bytes.len() - FRAME_HEAD);
        bytes.extend(tail);
        prop_assert!(read(&bytes).1.is_some());
    }

    /// Right checksums around arbitrary payloads, as only a hostile file has them.
    #[test]
    fn no_payload_makes_the_parser_panic(kind in 0u8..16, payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Frame::parse(kind, Bytes::from(payload));
    }
}
