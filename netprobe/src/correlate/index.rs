//! Which journey a five-tuple belongs to, in either direction and in every dress.

use hashbrown::HashMap;

use crate::model::{flow::Flow, journey::Journey};

/// Canonical flow → journey number.
#[derive(Default)]
pub(super) struct Index(HashMap<Flow, u64>);

impl Index {
    pub(super) fn find(&self, flow: &Flow) -> Option<u64> {
        self.0.get(&flow.canonical()).copied()
    }

    pub(super) fn add(&mut self, flow: &Flow, id: u64) {
        self.0.insert(flow.canonical(), id);
    }

    /// Takes a journey's tuples out: a new connection uses them.
    pub(super) fn detach(&mut self, id: u64) {
        self.0.retain(|_, other| *other != id);
    }

    /// Takes one tuple of a journey out.
    pub(super) fn drop(&mut self, flow: &Flow, id: u64) {
        if self.find(flow) == Some(id) {
            self.0.remove(&flow.canonical());
        }
    }

    pub(super) fn forget(&mut self, journey: &Journey) {
        for flow in std::iter::once(&journey.flow).chain(&journey.translated) {
            self.drop(flow, journey.id);
        }
    }
}
