//! What a case asks of the facts that are read on demand.

use std::{cell::RefCell, collections::BTreeSet};

use super::Case;
use crate::model::{
    asked::{Answer, Question, Reading, Subject, Window},
    counters::Counters,
    devices::Devices,
    ruleset::Ruleset,
    sockets::Sockets,
};

/// Questions that a case had no answer to.
#[derive(Debug, Default)]
pub struct Asked(RefCell<BTreeSet<Question>>);

impl Asked {
    /// Takes the questions out.
    #[must_use]
    pub fn take(&self) -> BTreeSet<Question> {
        self.0.take()
    }

    /// Nothing was asked that has no answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    fn note(&self, question: Question) {
        self.0.borrow_mut().insert(question);
    }
}

/// The reading of one subject out of an answer, in its own type.
type Pick<T> = fn(&Reading) -> Option<&T>;

impl<'a> Case<'a> {
    /// Listening sockets of a namespace, read at or after `since_ns` (`CLOCK_MONOTONIC`). `None` asks for them: the
    /// journey is judged again when they are there. Ask only on a suspicion, with the time of what raised it.
    #[must_use]
    pub fn sockets(&self, netns: u32, since_ns: u64) -> Option<&'a Sockets> {
        let pick: Pick<Sockets> = |reading| if let Reading::Sockets(found) = reading { Some(found) } else { None };
        self.reading(Question { netns, subject: Subject::Sockets }, since_ns, pick).map(|(_, found)| found)
    }

    /// A namespace's counters, read at or after `since_ns`, beside those before the journey began. `None` asks for
    /// them.
    #[must_use]
    pub fn counters(&self, netns: u32, since_ns: u64) -> Option<Window<'a, Counters>> {
        let pick: Pick<Counters> = |reading| if let Reading::Counters(found) = reading { Some(found) } else { None };
        self.window(Question { netns, subject: Subject::Counters }, since_ns, pick)
    }

    /// A namespace's netfilter rules, read at or after `since_ns`, beside those before the journey began: a counter that
    /// rose between them names a rule. `None` asks for them.
    #[must_use]
    pub fn netfilter(&self, netns: u32, since_ns: u64) -> Option<Window<'a, Ruleset>> {
        let pick: Pick<Ruleset> = |reading| if let Reading::Netfilter(found) = reading { Some(found) } else { None };
        self.window(Question { netns, subject: Subject::Netfilter }, since_ns, pick)
    }

    /// What is attached to a namespace's devices and to cgroups, read at or after `since_ns`. `None` asks for it.
    #[must_use]
    pub fn devices(&self, netns: u32, since_ns: u64) -> Option<&'a Devices> {
        let pick: Pick<Devices> = |reading| if let Reading::Devices(found) = reading { Some(found) } else { None };
        self.reading(Question { netns, subject: Subject::Devices }, since_ns, pick).map(|(_, found)| found)
    }

    fn window<T>(&self, question: Question, since_ns: u64, pick: Pick<T>) -> Option<Window<'a, T>> {
        let (answer, after) = self.reading(question, since_ns, pick)?;
        let before = self.facts.readings.before(question, self.journey.first_ns.min(answer.mono_ns));
        let from_ns = before.map_or(answer.mono_ns, |b| b.mono_ns);
        let before = before.and_then(|b| pick(&b.reading));
        Some(Window { before, from_ns, after, to_ns: answer.mono_ns })
    }

    fn reading<T>(&self, question: Question, since_ns: u64, pick: Pick<T>) -> Option<(&'a Answer, &'a T)> {
        let facts = self.facts;
        let Some(answer) = facts.readings.latest(question, since_ns) else {
            self.asked.note(question);
            return None;
        };
        pick(&answer.reading).map(|found| (answer, found))
    }
}
