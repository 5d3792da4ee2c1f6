//! Reads a recording.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use bytes::Bytes;

use super::{FRAME_HEAD, Frame, Header, MAGIC, PAYLOAD_MAX, VERSION, checksum};

/// A recording that is being read: its frames, then what is wrong with it, if anything.
#[derive(Debug)]
pub struct Reader<R: Read = BufReader<File>> {
    source: R,
    header: Header,
    /// Frames read, the header too.
    frames: u64,
    /// Where the next frame begins.
    byte: u64,
    over: bool,
}

/// What is wrong with a recording. Frames are counted from 0, the header.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be read.
    Io(io::Error),
    /// It begins otherwise.
    NotRecording,
    /// A version of the format that came later; the netprobe that made it, where that can be read.
    Newer(u32, Option<String>),
    /// Records of another layout; likewise.
    Abi(u32, Option<String>),
    /// It ends within a frame, at this byte.
    Truncated(u64),
    /// It ends after a whole frame, at this byte, without its end.
    Unfinished(u64),
    /// Frame and byte of it whose checksum is not that of its bytes.
    Damaged(u64, u64),
    /// Frame, byte of it and the length it claims.
    TooLong(u64, u64, u32),
    /// Frame, byte of it, and what about it makes no sense although its checksum is right.
    Senseless(u64, u64, String),
    /// It goes on after its end, at this byte.
    Trailing(u64),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => f.write_str("cannot read the recording"),
            Self::NotRecording => f.write_str("not a recording: name a file written with --record"),
            Self::Newer(version, _) => {
                write!(f, "a recording of format {version}, this netprobe reads up to {VERSION}: use a newer netprobe")
            }
            Self::Abi(abi, _) => write!(
                f,
                "a recording with records of layout {abi}, this netprobe reads {}: use the netprobe that made it",
                netprobe_common::ABI
            ),
            Self::Truncated(byte) => {
                write!(f, "the recording is cut off at byte {byte}: copy it again, or live with what was shown")
            }
            Self::Unfinished(byte) => {
                write!(f, "the recording ends at byte {byte} without its end: its run was killed, or the file was cut")
            }
            Self::Damaged(frame, byte) => {
                write!(
                    f,
                    "the recording is damaged in frame {frame} (byte {byte}): copy it again, or live with what was shown"
                )
            }
            Self::TooLong(frame, byte, length) => {
                write!(f, "the recording is damaged in frame {frame} (byte {byte}): it claims {length} bytes")
            }
            Self::Senseless(frame, byte, what) => {
                write!(f, "frame {frame} of the recording (byte {byte}) makes no sense: {what}")
            }
            Self::Trailing(byte) => write!(f, "the recording goes on after its end, at byte {byte}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl ReadError {
    /// What was read before it is whole; only the rest is missing.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        matches!(self, Self::Truncated(_) | Self::Unfinished(_))
    }
}

impl Reader {
    /// Opens the recording at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, is none, or is one that this netprobe does not understand.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::new(BufReader::with_capacity(256 << 10, File::open(path).map_err(ReadError::Io)?))
    }
}

impl<R: Read> Reader<R> {
    /// Reads a recording from `source`.
    ///
    /// # Errors
    ///
    /// As [`open`](Reader::open).
    pub fn new(source: R) -> Result<Self, ReadError> {
        let mut reader = Self { source, header: Header::default(), frames: 0, byte: 0, over: false };
        let head = reader.bytes(MAGIC.len() + 8)?;
        match head.get(..MAGIC.len()) {
            Some(magic) if magic == MAGIC => {}
            // A file of a few bytes that could become a recording is one that was cut.
            None if !head.is_empty() && MAGIC.starts_with(&head) => {
                return Err(ReadError::Truncated(head.len() as u64));
            }
            _ => return Err(ReadError::NotRecording),
        }
        let number = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (Some(version), Some(abi)) = (number(8), number(12)) else {
            return Err(ReadError::Truncated(head.len() as u64));
        };
        reader.byte = head.len() as u64;
        if version > VERSION {
            return Err(ReadError::Newer(version, reader.made_by()));
        }
        if version == 0 {
            return Err(ReadError::NotRecording);
        }
        if abi != netprobe_common::ABI {
            return Err(ReadError::Abi(abi, reader.made_by()));
        }
        match reader.frame()? {
            Some(Frame::Header(header)) => reader.header = header,
            Some(_) => return Err(ReadError::Senseless(0, 16, "it is no header".to_owned())),
            None => return Err(ReadError::Unfinished(reader.byte)),
        }
        Ok(reader)
    }

    /// The netprobe that made it, as far as its header can be read.
    fn made_by(&mut self) -> Option<String> {
        match self.frame() {
            Ok(Some(Frame::Header(header))) => Some(header.version),
            _ => None,
        }
    }

    /// Where and when it was made.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Up to `length` bytes: fewer only at the end of the file. Memory grows with what is there,
    /// not with what a length claims.
    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::with_capacity(length.min(64 << 10));
        (&mut self.source).take(length as u64).read_to_end(&mut bytes).map_err(ReadError::Io)?;
        Ok(bytes)
    }

    /// The next frame; `None` at the end of the file.
    fn frame(&mut self) -> Result<Option<Frame>, ReadError> {
        let (frame, byte) = (self.frames, self.byte);
        let head = self.bytes(FRAME_HEAD)?;
        if head.is_empty() {
            return Ok(None);
        }
        let &[kind, l0, l1, l2, l3, c0, c1, c2, c3] = head.as_slice() else {
            return Err(ReadError::Truncated(byte + head.len() as u64));
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > PAYLOAD_MAX {
            return Err(ReadError::TooLong(frame, byte, length));
        }
        let payload = self.bytes(length as usize)?;
        let end = byte + (FRAME_HEAD + payload.len()) as u64;
        if payload.len() < length as usize {
            return Err(ReadError::Truncated(end));
        }
        if checksum(kind, &payload, length) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(ReadError::Damaged(frame, byte));
        }
        self.frames += 1;
        self.byte = end;
        Frame::parse(kind, Bytes::from(payload)).map(Some).map_err(|what| ReadError::Senseless(frame, byte, what))
    }

    /// After the end nothing may come.
    fn end(&mut self) -> Result<Frame, ReadError> {
        if self.bytes(1)?.is_empty() { Ok(Frame::End) } else { Err(ReadError::Trailing(self.byte)) }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Frame, ReadError>;

    /// The next frame; the last item is [`Frame::End`] or what is wrong.
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let item = match self.frame() {
            Ok(Some(Frame::End)) => self.end(),
            Ok(Some(frame)) => return Some(Ok(frame)),
            Ok(None) => Err(ReadError::Unfinished(self.byte)),
            Err(error) => Err(error),
        };
        self.over = true;
        Some(item)
    }
}
