//! DNS exchanges: a query, every try of it, and what became of it; and the table of them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    dns::{Answer, Code},
    finding::Finding,
    flow::Proto,
    identity::Pod,
};

/// A query and what became of it, where the client is; of a client outside, where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// First try, `CLOCK_MONOTONIC` nanoseconds.
    pub asked_ns: u64,
    /// Who asked, where it is a pod that we know.
    pub pod: Option<Arc<Pod>>,
    /// From where it asked.
    pub client: SocketAddr,
    /// UDP or TCP.
    pub transport: Proto,
    /// The name asked for, lower case, without the last dot; `.` is the root.
    pub name: Arc<str>,
    /// Type of record asked for (`A`, `AAAA`), as DNS writes it.
    pub kind: Arc<str>,
    /// The server as the client addressed it.
    pub server: Server,
    /// What NAT made of that.
    pub translated: Translated,
    /// Times it was sent under the same number; 0 where only the answer was seen.
    pub tries: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// A DNS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address and port.
    pub addr: SocketAddr,
    /// Its service or pod (`kube-system/kube-dns`), or `node` where it is one of this node's addresses.
    pub name: Option<Arc<str>>,
}

/// What became of the address that the client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translated {
    /// No packet was seen behind the place where NAT happens.
    Unknown,
    /// Nothing: it is the server's own.
    No,
    /// DNAT sent it to this one.
    To(Server),
}

/// What became of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered {
        /// When, `CLOCK_MONOTONIC` nanoseconds.
        at_ns: u64,
        /// The answer.
        answer: Answer,
    },
    /// An ICMP error came in place of an answer: the query did not arrive.
    Unreachable {
        /// When, `CLOCK_MONOTONIC` nanoseconds.
        at_ns: u64,
        /// Who sent it.
        from: IpAddr,
    },
    /// Nobody answered.
    Timeout {
        /// Nanoseconds waited since the first try.
        waited_ns: u64,
    },
    /// The run ended before there was an answer.
    Open {
        /// Nanoseconds waited since the first try.
        waited_ns: u64,
    },
    /// No answer was seen, and records were left out: there may have been one.
    Unknown,
}

/// The word for what became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// An answer of this code.
    Code(Code),
    /// An ICMP error.
    Unreachable,
    /// No answer.
    Timeout,
    /// No answer yet.
    Open,
    /// Not known.
    Unknown,
}

impl std::fmt::Display for Status {
    /// `NXDOMAIN`, `timeout`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Unreachable => f.write_str("icmp"),
            Self::Timeout => f.write_str("timeout"),
            Self::Open => f.write_str("open"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl Exchange {
    /// The word for what became of it.
    #[must_use]
    pub const fn status(&self) -> Status {
        match &self.outcome {
            Outcome::Answered { answer, .. } => Status::Code(answer.code),
            Outcome::Unreachable { .. } => Status::Unreachable,
            Outcome::Timeout { .. } => Status::Timeout,
            Outcome::Open { .. } => Status::Open,
            Outcome::Unknown => Status::Unknown,
        }
    }

    /// Nanoseconds from the first try to the answer, or to the ICMP error: what the application waited. `None` where
    /// either was not seen.
    #[must_use]
    pub fn took_ns(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Answered { at_ns, .. } | Outcome::Unreachable { at_ns, .. } if self.tries > 0 => {
                Some(at_ns.saturating_sub(self.asked_ns))
            }
            _ => None,
        }
    }
}

/// Exchanges that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRow {
    /// Who asked: the pod, else the address.
    pub client: Arc<str>,
    /// The pod, where it is one that we know.
    pub pod: Option<Arc<Pod>>,
    /// The name asked for.
    pub name: Arc<str>,
    /// Type of record asked for.
    pub kind: Arc<str>,
    /// What became of them.
    pub status: Status,
    /// How many.
    pub queries: u64,
    /// Times they were sent, all together.
    pub tries: u64,
    /// Median time from question to answer of the last 128, nanoseconds.
    pub median_ns: Option<u64>,
    /// Longest time from question to answer, nanoseconds.
    pub max_ns: Option<u64>,
}

/// A name that cost more queries than needed, because the search list was tried before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Who asked: the pod, else the address.
    pub client: Arc<str>,
    /// The name that was meant.
    pub name: Arc<str>,
    /// Queries in all, of every type.
    pub queries: u64,
    /// Those of them that asked for a name that does not exist.
    pub misses: u64,
}

/// The exchanges at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsTable {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub mono_ns: u64,
    /// The rows, in the order in which they are to be shown.
    pub rows: Vec<DnsRow>,
    /// Searches that cost more than one query a type, most queries first.
    pub searches: Vec<Search>,
    /// Queries that wait for their answer.
    pub open: u64,
    /// Queries that found no row: there were too many names.
    pub unlisted: u64,
    /// Messages were left out, because one socket sent more than 100 a second: the counts are at least these.
    pub sampled: bool,
    /// What is wrong, as told last.
    pub findings: Vec<Arc<Finding>>,
}
