//! Which journeys are judged when, and what of it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use super::{PATIENCE_NS, Pipeline, Progress};
use crate::{
    explain::{Asked, Case, Findings, Patience, Verdict},
    model::{asked::Question, finding::Finding},
    render::Render,
};

/// How long a journey must be quiet before it is judged, nanoseconds: what belongs together (a
/// drop and the ICMP error about it, a packet on all its devices) comes within a millisecond.
const SETTLE_NS: u64 = 20_000_000;
/// How long a journey that is never quiet waits at most.
const SETTLE_AT_MOST_NS: u64 = 200_000_000;
/// How often a finding is told again while only its count rises, nanoseconds.
const COUNT_AGAIN_NS: u64 = 5_000_000_000;

/// What a journey's verdict waits for.
pub(super) struct Asking {
    /// Until when, `CLOCK_MONOTONIC` nanoseconds.
    until_ns: u64,
    /// The facts that are not there yet.
    questions: BTreeSet<Question>,
}

impl Asking {
    fn is_over(&self, now_ns: u64) -> bool {
        self.questions.is_empty() || self.until_ns <= now_ns
    }
}

impl Pipeline {
    /// Journeys that were not judged yet, or whose verdict waits.
    pub(super) fn unjudged(&self, opened: Vec<u64>) -> BTreeSet<u64> {
        let known = [&self.unsettled, &self.waiting].into_iter().flat_map(BTreeMap::keys).chain(self.asking.keys());
        known.copied().chain(opened).collect()
    }

    /// What the rules ask of the facts, since the last call.
    pub fn take_questions(&mut self) -> BTreeSet<Question> {
        std::mem::take(&mut self.questions)
    }

    /// What the rules would ask before the run ends: the answers should be taken before [`finish`](Self::finish).
    pub fn last_questions(&mut self, now_ns: u64) -> BTreeSet<Question> {
        self.correlate(now_ns);
        let mut questions = self.take_questions();
        for id in self.unjudged(Vec::new()) {
            if let Some(case) = self.case(id, now_ns) {
                questions.extend(Findings::questions(&case));
            }
        }
        questions
    }

    /// An answer came: journeys that wait for it and nothing else are judged with the next tick, and so are those that
    /// could not wait for it.
    pub(super) fn answered(&mut self, question: Question, now_ns: u64) {
        for asking in self.asking.values_mut() {
            asking.questions.remove(&question);
        }
        self.unanswered.retain(|id, questions| {
            if questions.remove(&question) && questions.is_empty() {
                self.unsettled.entry(*id).or_insert(now_ns);
            }
            !questions.is_empty()
        });
    }

    /// Journeys that are quiet, or were long enough in motion, or whose wait is over.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<u64> {
        let quiet = |id: &u64| self.journeys.get(*id).is_none_or(|j| now_ns.saturating_sub(j.last_ns) >= SETTLE_NS);
        let settled = |(id, since): &(&u64, &u64)| quiet(id) || now_ns.saturating_sub(**since) >= SETTLE_AT_MOST_NS;
        let mut due: Vec<u64> = self.unsettled.iter().filter(settled).map(|(id, _)| *id).collect();
        due.retain(|id| self.asking.get(id).is_none_or(|asking| asking.is_over(now_ns)));
        due.extend(self.waiting.iter().filter(|(_, at)| **at <= now_ns).map(|(id, _)| *id));
        due.extend(self.asking.iter().filter(|(_, asking)| asking.is_over(now_ns)).map(|(id, _)| *id));
        due.sort_unstable();
        due.dedup();
        for id in &due {
            self.unsettled.remove(id);
            self.waiting.remove(id);
        }
        due
    }

    pub(super) fn judge(
        &mut self,
        id: u64,
        now_ns: u64,
        last_call: bool,
        out: &mut dyn Render,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let asking = self.asking.remove(&id);
        let until_ns = asking.map_or(now_ns + PATIENCE_NS, |asking| asking.until_ns);
        let patience = match now_ns {
            _ if last_call => Patience::End,
            now_ns if until_ns <= now_ns => Patience::NoFacts,
            _ => Patience::Long,
        };
        let mut findings = std::mem::take(&mut self.findings);
        let judged = self.case(id, now_ns).map(|case| (findings.judge(&case, patience), case.asked.take()));
        self.findings = findings;
        self.compare_with_siblings(id, now_ns);
        let (Some((verdict, questions)), Some(journey)) = (judged, self.journeys.get(id)) else { return Ok(()) };
        if verdict == Verdict::Ask {
            self.questions.extend(&questions);
            self.asking.insert(id, Asking { until_ns, questions });
        } else if patience == Patience::NoFacts && !questions.is_empty() {
            self.unanswered.insert(id, questions);
        }
        let total = journey.steps.len() as u64 + journey.omitted;
        let before = self.shown.insert(id, total).unwrap_or(0);
        if total > before && self.dns.is_none() {
            let from = usize::try_from(before.saturating_sub(journey.omitted)).unwrap_or(0);
            let about: Vec<_> = self.findings.of(id).cloned().into_iter().collect();
            out.journey(journey, from, &about)?;
            progress.shown += total - before;
        }
        match verdict {
            Verdict::Found(finding) => progress.findings += self.tell(&finding, now_ns, out)?,
            Verdict::Wait(until_ns) => {
                self.waiting.insert(id, until_ns);
            }
            Verdict::Nothing | Verdict::Ask => {}
        }
        Ok(())
    }

    /// The first answer to one connection is news about those to the same address that have none: they are judged
    /// again.
    fn compare_with_siblings(&mut self, id: u64, now_ns: u64) {
        let Some(journey) = self.journeys.get(id) else { return };
        if self.answered.contains(&id) || journey.steps.iter().all(|step| step.forward) {
            return;
        }
        let to = journey.flow.dst.ip();
        self.answered.insert(id);
        let without = |sibling: &u64| !self.answered.contains(sibling);
        let siblings = self.findings.journeys().chain(self.waiting.keys().copied()).filter(without);
        let same = |sibling: &u64| self.journeys.get(*sibling).is_some_and(|j| j.flow.dst.ip() == to);
        let again: Vec<u64> = siblings.filter(same).collect();
        self.unsettled.extend(again.into_iter().map(|sibling| (sibling, now_ns)));
    }

    /// The journey and all that is known beside it.
    fn case(&self, id: u64, now_ns: u64) -> Option<Case<'_>> {
        Some(Case {
            journey: self.journeys.get(id)?,
            journeys: &self.journeys,
            facts: &self.facts,
            inventory: &self.inventory,
            host: self.decoder.host(),
            expect: &self.expect,
            now_ns,
            asked: Asked::default(),
            talk: std::cell::OnceCell::new(),
        })
    }

    /// Tells a finding that is new or better; one that only counts higher has time.
    fn tell(&mut self, finding: &Arc<Finding>, now_ns: u64, out: &mut dyn Render) -> io::Result<u64> {
        if let Some((told, at_ns)) = self.told.get(&finding.id)
            && told.rule == finding.rule
            && told.confidence == finding.confidence
            && told.claim == finding.claim
            && now_ns.saturating_sub(*at_ns) < COUNT_AGAIN_NS
        {
            return Ok(0);
        }
        self.told.insert(finding.id.clone(), (Arc::clone(finding), now_ns));
        out.finding(finding)?;
        Ok(1)
    }

    /// Tells the counts that have risen since they were told.
    pub(super) fn tell_counts(&mut self, now_ns: u64, at_once: bool, out: &mut dyn Render) -> io::Result<()> {
        for finding in self.findings.all() {
            let Some((told, at_ns)) = self.told.get_mut(&finding.id) else { continue };
            let due = at_once || now_ns.saturating_sub(*at_ns) >= COUNT_AGAIN_NS;
            if due && **told != *finding {
                (*told, *at_ns) = (Arc::clone(&finding), now_ns);
                out.finding(&finding)?;
            }
        }
        Ok(())
    }
}
