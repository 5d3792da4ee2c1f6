//! What a rule says, before it has a number and a history.

use std::sync::Arc;

use super::Case;
use crate::model::{
    finding::{Confidence, Evidence, Netfilter, RouteTaken},
    flow::Flow,
    identity::Pod,
    sighting::Side,
};

/// A cause, as one rule tells it of one journey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Whose fault it is, where it is not the journey's own pod's.
    pub pod: Option<Arc<Pod>>,
    /// How sure.
    pub confidence: Confidence,
    /// Node or pod side.
    pub side: Side,
    /// Device.
    pub device: Option<String>,
    /// Device it should have been.
    pub expected_device: Option<String>,
    /// The route taken.
    pub route: Option<RouteTaken>,
    /// Drop reason.
    pub reason: Option<Arc<str>>,
    /// Netfilter rule.
    pub netfilter: Option<Netfilter>,
    /// The flow, as the pod sent it.
    pub flow: Flow,
    /// How often in this journey.
    pub count: u64,
    /// Last time, `CLOCK_MONOTONIC` nanoseconds.
    pub last_ns: u64,
    /// One sentence.
    pub claim: String,
    /// Since when and by whom.
    pub since: Option<String>,
    /// Commands or steps.
    pub fix: Vec<String>,
    /// Proofs.
    pub evidence: Vec<Evidence>,
    /// What tells this fault from another of the same rule, pod and place: a table, a gateway, a
    /// port. Journeys with the same detail have the same fault.
    pub detail: String,
    /// Better not told before this time (`CLOCK_MONOTONIC` ns): what is on its way may tell more. At the end of the
    /// run it is told at once.
    pub ready_ns: u64,
    /// Not proven before this time, and so not told at the end of the run either: the proof is that something does
    /// *not* come.
    pub proven_ns: u64,
}

impl Draft {
    /// A draft with the journey's flow; `side` and `device` say where.
    #[must_use]
    pub fn new(case: &Case<'_>, side: Side, device: Option<String>, claim: String) -> Self {
        Self {
            pod: case.journey.pod.clone(),
            confidence: Confidence::Stated,
            side,
            device,
            expected_device: None,
            route: None,
            reason: None,
            netfilter: None,
            flow: case.journey.flow,
            count: 1,
            last_ns: case.journey.last_ns,
            claim,
            since: None,
            fix: Vec::new(),
            evidence: Vec::new(),
            detail: String::new(),
            ready_ns: 0,
            proven_ns: 0,
        }
    }

    /// Adds a proof.
    #[must_use]
    pub fn proof(mut self, mono_ns: u64, text: impl Into<String>) -> Self {
        self.evidence.push(Evidence { mono_ns, text: text.into() });
        self
    }

    /// Adds a step of the fix.
    #[must_use]
    pub fn fix(mut self, text: impl Into<String>) -> Self {
        self.fix.push(text.into());
        self
    }

    /// Says what tells this fault from its like.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.detail = text.into();
        self
    }

    /// Says how sure it is.
    #[must_use]
    pub const fn confidence(mut self, confidence: Confidence) -> Self {
        self.confidence = confidence;
        self
    }
}
