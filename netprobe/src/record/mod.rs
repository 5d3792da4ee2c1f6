//! Recorded runs: everything that is not computed, in the order in which it came.
//!
//! A file is [`MAGIC`], the format's version and [`netprobe_common::ABI`] (u32 each, little
//! endian), then frames. A frame is its kind (u8), the length of its payload and a CRC-32 over
//! kind, length and payload (u32 each, little endian), then the payload. The first frame is the
//! [`Header`], the last one [`Frame::End`]: a file without it was cut, or its run was killed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{
    drops::Hole,
    facts::{HostFacts, NodeFacts},
    inventory::{Inventory, News},
    verdict::Told,
};

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{ReadError, Reader};
pub use writer::{WriteError, Writer};

/// First bytes of every recording. The last one is no text, so that a transfer that changes line
/// ends or cuts the eighth bit is noticed at once.
pub const MAGIC: [u8; 8] = *b"netprob\xfe";
/// Version of the format. Raised when a reader of the version before could go wrong.
pub const VERSION: u32 = 1;
/// Longest payload: what `kubectl get -A -o json` prints of the largest clusters becomes less
/// than this as an [`Inventory`]. A longer one is refused, so that a damaged length cannot take
/// the machine's memory.
pub const PAYLOAD_MAX: u32 = 16 << 20;
/// Kind, length and CRC.
const FRAME_HEAD: usize = 9;

/// Where and when a recording was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name of the node.
    pub node: String,
    /// `CLOCK_REALTIME` at its start, nanoseconds since 1970.
    pub wall_ns: i64,
    /// Version of the netprobe that made it.
    pub version: String,
}

/// A kernel address and its function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Address.
    pub address: u64,
    /// Function.
    pub name: String,
}

/// Records that were lost while recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// `CLOCK_MONOTONIC` nanoseconds when it was noticed.
    pub mono_ns: u64,
    /// How many.
    pub lost: u64,
    /// Of what.
    pub what: String,
    /// The hole that it left in the counts of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hole: Option<Hole>,
}

/// One piece of a recording.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Where and when; the first one.
    Header(Header),
    /// The kernel.
    HostFacts(Box<HostFacts>),
    /// The node, as it was at start.
    NodeFacts(Box<NodeFacts>),
    /// A change of the node, in the words of `facts`.
    FactsEvent(Bytes),
    /// The cluster.
    Inventory(Box<Inventory>),
    /// What was followed.
    Options(serde_json::Value),
    /// A record of the ring, as it lay there.
    Record(Bytes),
    /// A function's name.
    Symbol(Symbol),
    /// The kernel's counts of drops.
    Counts(serde_json::Value),
    /// The kernel's counts of flows.
    Flows(serde_json::Value),
    /// The clock went on: `CLOCK_MONOTONIC` nanoseconds.
    Tick(u64),
    /// Records were lost.
    Lost(Lost),
    /// The cluster changed.
    News(Box<News>),
    /// What `why` made of its connection; the last one before the end.
    Verdict(Box<Told>),
    /// The run ended as it should.
    End,
}

impl Frame {
    /// Its number in the file. Never used again for something else.
    const fn kind(&self) -> u8 {
        match self {
            Self::Header(_) => 1,
            Self::HostFacts(_) => 2,
            Self::NodeFacts(_) => 3,
            Self::FactsEvent(_) => 4,
            Self::Inventory(_) => 5,
            Self::Options(_) => 6,
            Self::Record(_) => kind::RECORD,
            Self::Symbol(_) => 8,
            Self::Counts(_) => 9,
            Self::Tick(_) => 10,
            Self::Lost(_) => 11,
            Self::End => 12,
            Self::Flows(_) => 13,
            Self::News(_) => 14,
            Self::Verdict(_) => 15,
        }
    }

    /// The payload.
    fn payload(&self) -> serde_json::Result<Bytes> {
        fn json(value: &impl Serialize) -> serde_json::Result<Bytes> {
            serde_json::to_vec(value).map(Bytes::from)
        }
        match self {
            Self::Header(header) => json(header),
            Self::HostFacts(facts) => json(facts),
            Self::NodeFacts(facts) => json(facts),
            Self::Inventory(inventory) => json(inventory),
            Self::News(news) => json(news),
            Self::Verdict(told) => json(told),
            Self::Options(value) | Self::Counts(value) | Self::Flows(value) => json(value),
            Self::FactsEvent(bytes) | Self::Record(bytes) => Ok(bytes.clone()),
            Self::Symbol(symbol) => json(symbol),
            Self::Tick(mono_ns) => Ok(Bytes::copy_from_slice(&mono_ns.to_le_bytes())),
            Self::Lost(lost) => json(lost),
            Self::End => Ok(Bytes::new()),
        }
    }

    /// The frame of that kind and payload; what is wrong with it otherwise.
    fn parse(kind: u8, payload: Bytes) -> Result<Self, String> {
        fn json<T: for<'a> Deserialize<'a>>(payload: &[u8]) -> Result<T, String> {
            serde_json::from_slice(payload).map_err(|error| error.to_string())
        }
        Ok(match kind {
            1 => Self::Header(json(&payload)?),
            2 => Self::HostFacts(json(&payload)?),
            3 => Self::NodeFacts(json(&payload)?),
            4 => Self::FactsEvent(payload),
            5 => Self::Inventory(json(&payload)?),
            6 => Self::Options(json(&payload)?),
            kind::RECORD => Self::Record(payload),
            8 => Self::Symbol(json(&payload)?),
            9 => Self::Counts(json(&payload)?),
            10 => Self::Tick(u64::from_le_bytes(
                payload.as_ref().try_into().map_err(|_| format!("a time of {} bytes", payload.len()))?,
            )),
            11 => Self::Lost(json(&payload)?),
            12 if payload.is_empty() => Self::End,
            12 => return Err(format!("an end with {} bytes", payload.len())),
            13 => Self::Flows(json(&payload)?),
            14 => Self::News(json(&payload)?),
            15 => Self::Verdict(json(&payload)?),
            other => return Err(format!("kind {other} is not known")),
        })
    }
}

mod kind {
    pub(super) const RECORD: u8 = 7;
}

/// CRC-32 (IEEE) over kind, length and payload.
fn checksum(kind: u8, payload: &[u8], length: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&length.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}
