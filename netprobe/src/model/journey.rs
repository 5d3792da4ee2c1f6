//! A connection on its way: what all sightings of it say together.

use std::{collections::VecDeque, sync::Arc};

use super::{flow::Flow, identity::Pod, sighting::Sighting};

/// Sightings kept of one journey; beyond it the middle is left out and counted.
pub const SIGHTINGS_MAX: usize = 160;

/// One connection (or one-sided flow), over namespaces, NAT, retransmits and the reply.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Number, in order of first sight.
    pub id: u64,
    /// The pod it is told about: the followed one at its source, else at its destination.
    pub pod: Option<Arc<Pod>>,
    /// As its first packet's sender sent it.
    pub flow: Flow,
    /// Other forms of the same flow, after translation, in the same direction.
    pub translated: Vec<Flow>,
    /// `CLOCK_MONOTONIC` nanoseconds of the first sighting.
    pub first_ns: u64,
    /// Of the last one.
    pub last_ns: u64,
    /// What was seen, in order of time, with whether it goes with the flow or back.
    pub steps: VecDeque<Step>,
    /// Steps left out of the middle.
    pub omitted: u64,
    /// Packets in the flow's direction seen where it was seen most.
    pub packets: u64,
    /// The connection is over (FIN both ways, RST, or idle).
    pub closed: bool,
}

/// One sighting of a journey.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was seen.
    pub sighting: Arc<Sighting>,
    /// It goes with the flow (`true`) or is the answer (`false`).
    pub forward: bool,
}
