//! A DNS message, as far as it tells who asked for what, and what was answered.

use std::{net::IpAddr, sync::Arc};

/// A question or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number: the answer repeats the question's.
    pub id: u16,
    /// The name asked for, lower case, without the last dot; `.` is the root.
    pub name: Arc<str>,
    /// Type of record asked for (`A`, `AAAA`), as DNS writes it.
    pub kind: Arc<str>,
    /// What the answer says; `None` where it is a question.
    pub answer: Option<Answer>,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Outcome.
    pub code: Code,
    /// Addresses in the answer section.
    pub addresses: Vec<IpAddr>,
    /// Records in the answer section, of any type.
    pub records: u16,
    /// It did not fit in a datagram: the client asks again over TCP.
    pub truncated: bool,
}

/// Outcome of a query (`RCODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The name exists.
    NoError,
    /// The server could not make sense of the question.
    FormErr,
    /// The server could not find out.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// The server does not do this kind of query.
    NotImp,
    /// The server does not want to answer.
    Refused,
    /// Any other, by its number.
    Other(u16),
}

impl Code {
    /// From the number on the wire (RFC 1035, 4.1.1).
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::NoError,
            1 => Self::FormErr,
            2 => Self::ServFail,
            3 => Self::NxDomain,
            4 => Self::NotImp,
            5 => Self::Refused,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for Code {
    /// As `dig` prints it: `NXDOMAIN`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoError => f.write_str("NOERROR"),
            Self::FormErr => f.write_str("FORMERR"),
            Self::ServFail => f.write_str("SERVFAIL"),
            Self::NxDomain => f.write_str("NXDOMAIN"),
            Self::NotImp => f.write_str("NOTIMP"),
            Self::Refused => f.write_str("REFUSED"),
            Self::Other(number) => write!(f, "RCODE{number}"),
        }
    }
}
