//! What conntrack held against a segment that it called INVALID.

use serde::Serialize;

/// What conntrack had seen of a connection when it called a segment of it INVALID (`nf_conntrack_tcp_packet`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invalid {
    /// The connection had an entry in the table; else the segment would have been its first.
    pub entry: bool,
    /// Its state, as `conntrack -L` names it (`ESTABLISHED`); empty where it has none.
    pub state: &'static str,
    /// The segment is of the reply's direction.
    pub reply: bool,
    /// Of the original direction, then of the reply's.
    pub sides: [Side; 2],
}

/// What conntrack had seen of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Sequence number behind the last byte sent.
    pub end: u32,
    /// The same, and the window that the other side last offered.
    pub max_end: u32,
    /// Largest window offered, bytes, scaled; 0 where nothing of this direction was seen.
    pub max_window: u32,
}
