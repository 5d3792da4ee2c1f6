//! What the rules ask is read beside the run, and becomes news of the node.

use std::collections::BTreeSet;

use crate::{
    enrich::select::Followed,
    facts::{Asker, FactsEvent, FactsReader},
    model::{
        asked::{Question, Subject},
        facts::NodeFacts,
    },
    probe::host,
};

/// Pods whose counters are read at start: entering one costs a fraction of a millisecond, beside the run.
const BASES_AT_MOST: usize = 64;

/// Read at start of every followed namespace.
const BASES: &[Subject] = &[Subject::Counters];

/// Pods whose netfilter rules are read at start, beside the node's: that takes a process or two each.
const RULESETS_AT_MOST: usize = 8;

/// Questions on their way.
pub(super) struct Asking {
    asker: Asker,
    /// Not taken yet: they were answered a moment ago.
    questions: BTreeSet<Question>,
    /// What is read at start, so that what moves later can be told from what moved before.
    bases: BTreeSet<Question>,
}

impl Default for Asking {
    fn default() -> Self {
        Self { asker: Asker::new(host::mono_ns), questions: BTreeSet::new(), bases: BTreeSet::new() }
    }
}

impl Asking {
    /// Takes questions.
    pub(super) fn note(&mut self, questions: BTreeSet<Question>) {
        self.questions.extend(questions);
    }

    /// Has the node's and the followed pods' counters read, as they are before anything happens.
    pub(super) fn read_bases(&mut self, facts: &NodeFacts, followed: &Followed) {
        let pods = facts.namespaces.keys().filter(|inum| followed.all || followed.namespaces.contains(*inum));
        let all = std::iter::once(&facts.node).chain(pods.clone()).take(BASES_AT_MOST);
        let bases = all.flat_map(|netns| BASES.iter().map(|subject| Question { netns: *netns, subject: *subject }));
        self.bases.extend(bases);
        let rulesets = std::iter::once(&facts.node).chain(pods).take(1 + RULESETS_AT_MOST);
        self.bases.extend(rulesets.map(|netns| Question { netns: *netns, subject: Subject::Netfilter }));
    }

    /// Something is still being read, or waits for its turn.
    pub(super) fn is_busy(&self) -> bool {
        !self.questions.is_empty() || self.asker.is_busy()
    }

    /// Has read what is asked, and gives what was read since. A namespace that a rule asks about has its settings read
    /// again too: the kernel announces few of their changes.
    pub(super) fn turn(&mut self, facts: &mut FactsReader, now_ns: u64) -> Vec<FactsEvent> {
        let mut events = Vec::new();
        self.bases.retain(|question| !facts.ask(*question, &mut self.asker));
        let taken: BTreeSet<Question> =
            self.questions.extract_if(.., |question| facts.ask(*question, &mut self.asker)).collect();
        let namespaces: BTreeSet<u32> = taken.into_iter().map(|question| question.netns).collect();
        for netns in namespaces {
            facts.refresh_sysctls(netns, now_ns, &mut events);
        }
        events.extend(self.asker.answers().into_iter().map(|answer| FactsEvent::Answer(Box::new(answer))));
        events
    }
}
