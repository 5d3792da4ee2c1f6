//! Writes a recording.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Frame, Header, MAGIC, PAYLOAD_MAX, VERSION, checksum, kind};

/// Bytes that are gathered before they go to the file.
const GATHER: usize = 256 << 10;

/// A recording that is being made.
///
/// Each method fails at most once in a run: after the first failure nothing more is written, and
/// what is in the file stays readable. The caller reports the failure and goes on.
#[derive(Debug)]
pub struct Writer<F: Sink = File> {
    file: F,
    path: PathBuf,
    /// Whole frames that are not in the file yet.
    gathered: Vec<u8>,
    /// Bytes in the file, all of them whole frames.
    written: u64,
    failed: bool,
}

/// What a recording is written to.
pub trait Sink: Write {
    /// Cuts the file to `length` bytes, as far as it can be cut.
    ///
    /// # Errors
    ///
    /// The file cannot be cut.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Sink for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Why nothing (more) is recorded.
#[derive(Debug)]
pub enum WriteError {
    /// The file cannot be made.
    Create(PathBuf, io::Error),
    /// There is something else of that name.
    NotRegular(PathBuf),
    /// The file takes no more: path, bytes that are in it, why.
    Write(PathBuf, u64, io::Error),
    /// A payload of so many bytes.
    TooLong(usize),
    /// A value cannot be written as JSON.
    Json(serde_json::Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path, _) => write!(f, "cannot write the recording {}", path.display()),
            Self::NotRegular(path) => {
                write!(f, "{} is no regular file: name another for the recording", path.display())
            }
            Self::Write(path, bytes, _) => {
                write!(f, "{} takes no more: the recording ends here, its first {bytes} bytes stay", path.display())
            }
            Self::TooLong(bytes) => write!(f, "{bytes} bytes at once are too many for a recording ({PAYLOAD_MAX})"),
            Self::Json(_) => f.write_str("a value does not fit into the recording"),
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Create(_, error) | Self::Write(_, _, error) => Some(error),
            Self::Json(error) => Some(error),
            Self::NotRegular(_) | Self::TooLong(_) => None,
        }
    }
}

impl Writer<File> {
    /// Begins a recording at `path`. A regular file there is overwritten, anything else is left
    /// alone.
    ///
    /// # Errors
    ///
    /// The file cannot be made or is not a regular one.
    pub fn create(path: &Path, header: &Header) -> Result<Self, WriteError> {
        let failed = |error| WriteError::Create(path.to_owned(), error);
        // Asked before it is opened: to open a pipe would wait for its reader.
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(WriteError::NotRegular(path.to_owned()));
        }
        // A recording holds addresses and names: it is nobody else's to read.
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
        Self::start(file, path, header)
    }
}

impl Writer<File> {
    /// Begins a recording on stdout, which is to hold nothing else.
    ///
    /// # Errors
    ///
    /// Stdout is closed.
    pub fn to_stdout(header: &Header) -> Result<Self, WriteError> {
        let path = Path::new("stdout");
        let own = io::stdout().as_fd().try_clone_to_owned();
        let file = own.map_err(|error| WriteError::Create(path.to_owned(), error))?;
        Self::start(File::from(file), path, header)
    }
}

impl<F: Sink> Writer<F> {
    pub(super) fn start(file: F, path: &Path, header: &Header) -> Result<Self, WriteError> {
        let gathered = Vec::with_capacity(GATHER + 4096);
        let mut writer = Self { file, path: path.to_owned(), gathered, written: 0, failed: false };
        writer.gathered.extend_from_slice(&MAGIC);
        writer.gathered.extend_from_slice(&VERSION.to_le_bytes());
        writer.gathered.extend_from_slice(&netprobe_common::ABI.to_le_bytes());
        writer.write(&Frame::Header(header.clone()))?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds a frame. A [`Frame::Tick`] hands everything to the file, so that it outlives a kill.
    ///
    /// # Errors
    ///
    /// The first failure of the run; or this frame's own, after which the recording goes on.
    pub fn write(&mut self, frame: &Frame) -> Result<(), WriteError> {
        let payload = frame.payload().map_err(WriteError::Json)?;
        self.append(frame.kind(), &payload)?;
        if matches!(frame, Frame::Tick(_) | Frame::End) { self.flush() } else { Ok(()) }
    }

    /// Adds a record of the ring.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn record(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.append(kind::RECORD, bytes)
    }

    /// Ends the recording.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.write(&Frame::End)
    }

    /// Nothing more is written.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Bytes recorded so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    /// Hands everything to the file.
    ///
    /// # Errors
    ///
    /// The first failure of the run.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        if self.failed || self.gathered.is_empty() {
            return Ok(());
        }
        let done = self.file.write_all(&self.gathered).and_then(|()| self.file.flush());
        match done {
            Ok(()) => {
                self.written += self.gathered.len() as u64;
                self.gathered.clear();
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                self.gathered = Vec::new();
                // Where the cut fails too, the reader still finds every whole frame.
                let _ = self.file.cut(self.written);
                Err(WriteError::Write(self.path.clone(), self.written, error))
            }
        }
    }

    fn append(&mut self, kind: u8, payload: &[u8]) -> Result<(), WriteError> {
        if self.failed {
            return Ok(());
        }
        let length = match u32::try_from(payload.len()) {
            Ok(length) if length <= PAYLOAD_MAX => length,
            _ => return Err(WriteError::TooLong(payload.len())),
        };
        self.gathered.push(kind);
        self.gathered.extend_from_slice(&length.to_le_bytes());
        self.gathered.extend_from_slice(&checksum(kind, payload, length).to_le_bytes());
        self.gathered.extend_from_slice(payload);
        if self.gathered.len() >= GATHER { self.flush() } else { Ok(()) }
    }
}
