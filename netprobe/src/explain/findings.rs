//! Findings made so far: one per fault, however many journeys have it.

use std::{collections::BTreeSet, sync::Arc};

use hashbrown::HashMap;

use super::{Case, Draft, rules::RULES};
use crate::model::{
    asked::Question,
    finding::{Confidence, Finding},
};

/// What judging a journey gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new.
    Nothing,
    /// A finding was made or has changed.
    Found(Arc<Finding>),
    /// A rule would speak, but waits for something not to come until then (`CLOCK_MONOTONIC` ns).
    Wait(u64),
    /// A rule asks for facts that must be read first.
    Ask,
}

/// How long a verdict may still wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For facts that must be read, and for what is on its way.
    Long,
    /// For what is on its way; the facts did not come in time.
    NoFacts,
    /// For nothing: the run ends. What is not proven is not told.
    End,
}

/// What the first rule that knows the journey's cause says: its precedence, its id, its draft.
fn speak(case: &Case<'_>) -> Option<(usize, &'static str, Draft)> {
    RULES.iter().enumerate().find_map(|(rank, rule)| Some((rank, rule.id, (rule.check)(case)?)))
}

/// All findings of a run.
#[derive(Default)]
pub struct Findings {
    by_key: HashMap<String, Arc<Finding>>,
    /// What each journey has: key of the finding, precedence of its rule, how often.
    of_journey: HashMap<u64, (String, usize, u64)>,
    made: u64,
    /// Records were lost: nothing is `stated` any more.
    lossy: bool,
}

impl Findings {
    /// Notes that records were lost: what is concluded from now on cannot be `stated`.
    pub const fn note_loss(&mut self) {
        self.lossy = true;
    }

    /// Nothing was lost for long: what is concluded from now on can be `stated` again.
    pub const fn forget_loss(&mut self) {
        self.lossy = false;
    }

    /// Forgets findings that struck last before then, and of more than `most` the oldest. No open journey has them.
    pub fn forget_before(&mut self, before_ns: u64, most: usize) {
        let open: BTreeSet<&String> = self.of_journey.values().map(|(key, ..)| key).collect();
        let mut last: Vec<u64> = self.by_key.values().map(|finding| finding.last_ns).collect();
        let surplus = last.len().saturating_sub(most);
        last.sort_unstable();
        let before_ns = before_ns.max(last.get(surplus).copied().unwrap_or(0));
        self.by_key.retain(|key, finding| finding.last_ns >= before_ns || open.contains(key));
    }

    /// All findings, in the order they were made.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Finding>> {
        let mut all: Vec<_> = self.by_key.values().cloned().collect();
        all.sort_unstable_by_key(|f| f.id[1..].parse::<u64>().unwrap_or(u64::MAX));
        all
    }

    /// The finding a journey has.
    #[must_use]
    pub fn of(&self, journey: u64) -> Option<&Arc<Finding>> {
        self.of_journey.get(&journey).and_then(|(key, ..)| self.by_key.get(key))
    }

    /// Journeys that have a finding.
    pub fn journeys(&self) -> impl Iterator<Item = u64> {
        self.of_journey.keys().copied()
    }

    /// Forgets which finding an ended journey had; the finding stays.
    pub fn forget(&mut self, journey: u64) {
        self.of_journey.remove(&journey);
    }

    /// What the rules ask about a journey and have no answer to.
    #[must_use]
    pub fn questions(case: &Case<'_>) -> BTreeSet<Question> {
        speak(case);
        case.asked.take()
    }

    /// Judges a journey.
    pub fn judge(&mut self, case: &Case<'_>, patience: Patience) -> Verdict {
        let spoken = speak(case);
        if patience == Patience::Long && !case.asked.is_empty() {
            return Verdict::Ask;
        }
        let Some((rank, id, draft)) = spoken else { return Verdict::Nothing };
        let journey = case.journey.id;
        if self.of_journey.get(&journey).is_some_and(|(_, best, _)| *best < rank) {
            return Verdict::Nothing;
        }
        let until_ns = if patience == Patience::End { draft.proven_ns } else { draft.proven_ns.max(draft.ready_ns) };
        if until_ns > case.now_ns {
            return Verdict::Wait(until_ns);
        }
        self.take(case, rank, id, draft)
    }

    fn take(&mut self, case: &Case<'_>, rank: usize, rule: &'static str, draft: Draft) -> Verdict {
        let journey = case.journey.id;
        let pod = draft.pod.as_ref().map_or_else(String::new, ToString::to_string);
        let key = format!("{rule}|{pod}|{:?}|{}|{}", draft.side, draft.device.as_deref().unwrap_or(""), draft.detail);
        let before = self.of_journey.insert(journey, (key.clone(), rank, draft.count));
        let mut fresh = draft.count;
        let mut id = None;
        let mut is_known = false;
        if let Some((old_key, _, old_count)) = before {
            if old_key == key {
                is_known = true;
                fresh = draft.count.saturating_sub(old_count);
            } else if !self.of_journey.values().any(|(k, ..)| *k == old_key) {
                // Only this journey had the old cause: it was this fault, told less well.
                id = self.by_key.remove(&old_key).map(|old| old.id.clone());
            }
        }
        let finding = match self.by_key.get(&key) {
            Some(old) => {
                let is_better = is_better(&draft, old, is_known) && !self.lossy;
                if fresh == 0 && !is_better {
                    return Verdict::Nothing;
                }
                merged(old, draft, fresh, is_better)
            }
            None => self.first(case, rule, key.clone(), id, draft),
        };
        let finding = Arc::new(finding);
        self.by_key.insert(key, Arc::clone(&finding));
        Verdict::Found(finding)
    }

    fn first(&mut self, case: &Case<'_>, rule: &'static str, key: String, id: Option<String>, draft: Draft) -> Finding {
        let id = id.unwrap_or_else(|| {
            self.made += 1;
            format!("f{}", self.made)
        });
        let confidence = if self.lossy { draft.confidence.min(Confidence::Likely) } else { draft.confidence };
        Finding {
            id,
            rule,
            confidence,
            pod: draft.pod,
            flow: Some(draft.flow).filter(|flow| flow.frames().is_none()),
            side: draft.side,
            device: draft.device,
            expected_device: draft.expected_device,
            route: draft.route,
            reason: draft.reason,
            netfilter: draft.netfilter,
            count: draft.count,
            first_ns: draft.evidence.first().map_or(case.journey.first_ns, |e| e.mono_ns),
            last_ns: draft.last_ns,
            claim: draft.claim,
            since: draft.since,
            fix: draft.fix,
            evidence: draft.evidence,
            key,
        }
    }
}
/// Whether a draft says more than the finding: it is surer, or facts that came late prove more of the same connection.
fn is_better(draft: &Draft, old: &Finding, is_known: bool) -> bool {
    let proves_more = is_known && draft.evidence.len() > old.evidence.len();
    draft.confidence > old.confidence || (draft.confidence == old.confidence && proves_more)
}

/// A finding of which another packet, or another connection, tells.
fn merged(old: &Finding, draft: Draft, fresh: u64, is_better: bool) -> Finding {
    let mut finding = Finding { count: old.count + fresh, last_ns: old.last_ns.max(draft.last_ns), ..old.clone() };
    if is_better {
        finding.confidence = draft.confidence;
        finding.claim = draft.claim;
        finding.since = draft.since;
        finding.fix = draft.fix;
        finding.evidence = draft.evidence;
        finding.expected_device = draft.expected_device;
        finding.netfilter = draft.netfilter;
        finding.route = draft.route;
    }
    finding
}
