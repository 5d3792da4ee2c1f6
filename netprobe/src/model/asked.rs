//! What is read of a namespace only when a finding needs it: questions, and the readings that answer them.
//!
//! Nothing here is on the fast path. A rule asks, a thread beside the run reads, and the journey is judged
//! again when the reading is there.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{counters::Counters, devices::Devices, ruleset::Ruleset, sockets::Sockets};

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Counters of the stack: SNMP, conntrack, softnet.
    Counters,
    /// Netfilter rules with their counters.
    Netfilter,
    /// What is attached to devices and cgroups; queues, bridges, overlays.
    Devices,
    /// Sockets: who listens where, and how full the queues are.
    Sockets,
}

/// What is asked, of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Question {
    /// Inode number of the namespace.
    pub netns: u32,
    /// What.
    pub subject: Subject,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// Counters.
    Counters(Counters),
    /// Netfilter rules.
    Netfilter(Ruleset),
    /// What is attached to devices and cgroups.
    Devices(Devices),
    /// Sockets.
    Sockets(Sockets),
    /// It could not be read; why, in words.
    Failed(String),
}

/// A reading of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// When reading began, `CLOCK_MONOTONIC` nanoseconds: what happened before is in it.
    pub mono_ns: u64,
    /// When it was done: what happened after is not in it, and of what lies between nobody knows.
    pub done_ns: u64,
    /// What was read.
    pub reading: Reading,
}

/// Readings kept of one question: the first is the base that later ones are compared with, the others are the
/// latest. A window of a few is what tells a counter that moves now from one that moved an hour ago.
const KEPT: usize = 4;

/// All readings there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    of: BTreeMap<Question, VecDeque<Answer>>,
}

/// Two readings of the same: before and after.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a, T> {
    /// The latest reading before what is to be explained began, where there is one.
    pub before: Option<&'a T>,
    /// When that was, `CLOCK_MONOTONIC` nanoseconds.
    pub from_ns: u64,
    /// The latest reading after what is to be explained was seen.
    pub after: &'a T,
    /// When that was.
    pub to_ns: u64,
}

impl Readings {
    /// Keeps an answer.
    pub fn keep(&mut self, answer: &Answer) {
        let kept = self.of.entry(answer.question).or_default();
        if kept.len() >= KEPT {
            // The oldest stays as a base; the second oldest makes room.
            kept.remove(1);
        }
        kept.push_back(answer.clone());
    }

    /// Forgets a namespace that is gone.
    pub fn forget(&mut self, netns: u32) {
        self.of.retain(|question, _| question.netns != netns);
    }

    /// The latest reading made at or after `since_ns`, also one that failed.
    #[must_use]
    pub fn latest(&self, question: Question, since_ns: u64) -> Option<&Answer> {
        self.of.get(&question)?.back().filter(|answer| answer.mono_ns >= since_ns)
    }

    /// The latest good reading that was done before `until_ns`, else none.
    #[must_use]
    pub fn before(&self, question: Question, until_ns: u64) -> Option<&Answer> {
        let good = |a: &&Answer| a.done_ns < until_ns && !matches!(a.reading, Reading::Failed(_));
        self.of.get(&question)?.iter().rev().find(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question = Question { netns: 1, subject: Subject::Counters };

    fn answer(mono_ns: u64) -> Answer {
        Answer { question: QUESTION, mono_ns, done_ns: mono_ns, reading: Reading::Counters(Counters::default()) }
    }

    #[test]
    fn the_first_reading_stays_as_a_base() {
        let mut readings = Readings::default();
        for mono_ns in 1..=9 {
            readings.keep(&answer(mono_ns));
        }
        assert_eq!(readings.latest(QUESTION, 9), Some(&answer(9)));
        assert_eq!(readings.latest(QUESTION, 10), None);
        assert_eq!(readings.before(QUESTION, 5), Some(&answer(1)));
        assert_eq!(readings.before(QUESTION, 9), Some(&answer(8)));
    }

    #[test]
    fn a_reading_that_failed_is_an_answer_but_no_base() {
        let mut readings = Readings::default();
        let failed = Answer { reading: Reading::Failed("gone".to_owned()), ..answer(3) };
        readings.keep(&failed);
        assert_eq!(readings.latest(QUESTION, 2), Some(&failed));
        assert_eq!(readings.before(QUESTION, 4), None);
    }
}
