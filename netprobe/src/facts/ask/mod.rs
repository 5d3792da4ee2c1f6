//! Reading what a finding needs, beside the run: one thread a reading, in the namespace it is about.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use super::netns::Netns;
use crate::model::asked::{Answer, Question, Reading, Subject};

mod counters;
mod devices;
mod netfilter;
mod sockets;

pub(super) use devices::cgroup_mount;
pub use devices::cgroup_programs_of_others;
#[cfg(test)]
pub(crate) use netfilter::parse_iptables_save;
pub use netfilter::tools;
pub(super) use sockets::read as listening;

/// How long a reading stands at least before the same is read again, nanoseconds: a broken pod asks with every packet.
const AGAIN_NS: u64 = 250_000_000;
/// And how many times as long as it took: a large ruleset must not keep a core busy.
const AGAIN_TIMES: u64 = 4;

/// Readings at a time; the others wait. Enough for node and pod at once, little enough not to be felt.
const AT_ONCE: usize = 4;

/// Reads the subject in the calling thread's namespace.
fn read(question: Question) -> anyhow::Result<Reading> {
    Ok(match question.subject {
        Subject::Counters => Reading::Counters(counters::read()?),
        Subject::Netfilter => Reading::Netfilter(netfilter::read()?),
        Subject::Devices => Reading::Devices(devices::read()?),
        Subject::Sockets => Reading::Sockets(sockets::read()?),
    })
}

/// A reading that waits for its turn.
struct Waiting {
    question: Question,
    netns: io::Result<Netns>,
}

/// Takes questions, gives answers.
pub struct Asker {
    sender: Sender<Answer>,
    receiver: Receiver<Answer>,
    waiting: VecDeque<Waiting>,
    reading: BTreeSet<Question>,
    /// When each question may be read again, `CLOCK_MONOTONIC` nanoseconds.
    again: BTreeMap<Question, u64>,
    clock: fn() -> u64,
}

impl Asker {
    /// One that reads the time from `clock` (`CLOCK_MONOTONIC` nanoseconds).
    #[must_use]
    pub fn new(clock: fn() -> u64) -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver, waiting: VecDeque::new(), reading: BTreeSet::new(), again: BTreeMap::new(), clock }
    }

    /// Takes a question; `open` opens its namespace. False if it is being read, or was a moment ago: ask again later.
    pub(super) fn ask(&mut self, question: Question, open: impl FnOnce() -> io::Result<Netns>) -> bool {
        let now_ns = (self.clock)();
        if self.reading.contains(&question) || self.again.get(&question).is_some_and(|at| now_ns < *at) {
            return false;
        }
        self.reading.insert(question);
        self.waiting.push_back(Waiting { question, netns: open() });
        self.start();
        true
    }

    /// Answers that came since, in the order they came.
    pub fn answers(&mut self) -> Vec<Answer> {
        let answers: Vec<Answer> = self.receiver.try_iter().collect();
        let now_ns = (self.clock)();
        for answer in &answers {
            self.reading.remove(&answer.question);
            let took = now_ns.saturating_sub(answer.mono_ns);
            self.again.insert(answer.question, now_ns + AGAIN_NS.max(took * AGAIN_TIMES));
        }
        self.start();
        answers
    }

    /// Whether something is still being read.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.reading.is_empty()
    }

    fn start(&mut self) {
        let running = self.reading.len().saturating_sub(self.waiting.len());
        for _ in running..AT_ONCE {
            let Some(Waiting { question, netns }) = self.waiting.pop_front() else { return };
            let (sender, clock) = (self.sender.clone(), self.clock);
            let work = move || {
                let mono_ns = clock();
                let reading = netns.map_err(anyhow::Error::new).and_then(|netns| inside(&netns, || read(question)));
                let reading = reading.unwrap_or_else(|error| Reading::Failed(format!("{error:#}")));
                // Nobody listens where the run is over.
                let _ = sender.send(Answer { question, mono_ns, done_ns: clock(), reading });
            };
            let named = thread::Builder::new().name(format!("read {:?}", question.subject).to_lowercase());
            if let Err(error) = named.spawn(work) {
                log::warn!("cannot read {:?} of namespace {}: {error}", question.subject, question.netns);
                self.reading.remove(&question);
            }
        }
    }
}

/// Does `work` in that namespace. The thread stays there, so it must be one of ours that ends.
fn inside<T>(netns: &Netns, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    netns.enter()?;
    work()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;

    fn own() -> io::Result<Netns> {
        Netns::open(Path::new("/proc/self/ns/net"))
    }

    fn first(asker: &mut Asker) -> Answer {
        for _ in 0..1_000 {
            if let Some(answer) = asker.answers().into_iter().next() {
                return answer;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("no answer in ten seconds");
    }

    #[test]
    fn an_answer_comes_and_the_same_is_not_read_again_at_once() {
        let mut asker = Asker::new(|| 5_000_000_000);
        let question = Question { netns: 1, subject: Subject::Counters };
        assert!(asker.ask(question, own));
        let answer = first(&mut asker);
        assert_eq!((answer.question, answer.mono_ns), (question, 5_000_000_000));
        assert!(matches!(answer.reading, Reading::Counters(_) | Reading::Failed(_)), "{answer:?}");
        assert!(!asker.ask(question, own));
        assert!(!asker.is_busy());
    }

    #[test]
    fn a_namespace_that_is_gone_is_an_answer() {
        let mut asker = Asker::new(|| 0);
        let question = Question { netns: 1, subject: Subject::Sockets };
        asker.ask(question, || Err(io::Error::new(io::ErrorKind::NotFound, "nobody refers to it any more")));
        let Answer { reading: Reading::Failed(why), .. } = first(&mut asker) else { panic!("it cannot be read") };
        assert_eq!(why, "nobody refers to it any more");
    }
}
