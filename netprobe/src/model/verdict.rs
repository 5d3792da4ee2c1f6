//! What `why` says of one connection, in the end.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{finding::Finding, flow::Proto, identity::Pod};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It works, and nothing is wrong on its way.
    Fine,
    /// Something is wrong; a finding says what.
    Finding,
    /// It could not be told.
    Unknown,
}

/// One thing that worked, or did not, on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// It worked.
    pub ok: bool,
    /// Which part of the way: `name`, `pod`, `nat`, `route`, `node`, `answer`, `connect`.
    pub part: Cow<'static, str>,
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

/// The same as a recording has it: its findings by their ids, since they come again when it is shown again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
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
    /// Ids of findings, the cause first.
    pub findings: Vec<String>,
    /// One sentence.
    pub claim: String,
}

impl From<&Verdict> for Told {
    fn from(verdict: &Verdict) -> Self {
        let Verdict { mono_ns, pod, to, proto, outcome, way, findings, claim } = verdict;
        Self {
            mono_ns: *mono_ns,
            pod: pod.clone(),
            to: to.clone(),
            proto: *proto,
            outcome: *outcome,
            way: way.clone(),
            findings: findings.iter().map(|finding| finding.id.clone()).collect(),
            claim: claim.clone(),
        }
    }
}

impl Told {
    /// The verdict, with the findings as `find` has them.
    #[must_use]
    pub fn with(self, find: impl Fn(&str) -> Option<Arc<Finding>>) -> Verdict {
        let Self { mono_ns, pod, to, proto, outcome, way, findings, claim } = self;
        let findings = findings.iter().filter_map(|id| find(id)).collect();
        Verdict { mono_ns, pod, to, proto, outcome, way, findings, claim }
    }
}
