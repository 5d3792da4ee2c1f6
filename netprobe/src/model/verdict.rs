//! What `why` says of one connection, in the end.

use std::sync::Arc;

use super::{finding::Finding, flow::Proto, identity::Pod};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It works, and nothing is wrong on its way.
    Fine,
    /// Something is wrong; a finding says what.
    Finding,
    /// It could not be told.
    Unknown,
}

/// One thing that worked, or did not, on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// It worked.
    pub ok: bool,
    /// Which part of the way: `name`, `pod`, `nat`, `route`, `node`, `answer`, `connect`.
    pub part: &'static str,
    /// What happened, in words.
    pub text: String,
}

/// One verdict about one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// When it was given, `CLOCK_MONOTONIC` nanoseconds.
    pub mono_ns: u64,
    /// Whose connection.
    pub pod: Option<Arc<Pod>>,
    /// Whither, as the user wrote it.
    pub to: String,
    /// Protocol.
    pub proto: Proto,
    /// How it ended.
    pub outcome: Outcome,
    /// The parts of the way, in order.
    pub way: Vec<Passed>,
    /// What is wrong, the cause first.
    pub findings: Vec<Arc<Finding>>,
    /// One sentence.
    pub claim: String,
}
