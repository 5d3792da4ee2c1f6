//! Counters by labels: they never go down, they are bounded in number, and those of the dead go.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
};

/// Refused sets of labels that are remembered, for each that has room.
const REMEMBERED: usize = 16;

/// A counter that is told its totals. Where a total falls, because what it was the sum of was forgotten, the counter stays
/// where it is and goes on from there.
#[derive(Clone, Copy, Debug)]
struct Counter<const N: usize> {
    /// What was forgotten.
    base: [u64; N],
    /// The totals as told last.
    last: [u64; N],
}

impl<const N: usize> Counter<N> {
    const ZERO: Self = Self { base: [0; N], last: [0; N] };

    fn set(&mut self, totals: [u64; N]) {
        for ((base, last), total) in self.base.iter_mut().zip(&mut self.last).zip(totals) {
            *base += last.saturating_sub(total);
            *last = total;
        }
    }

    fn value(&self, at: usize) -> u64 {
        self.base[at].saturating_add(self.last[at])
    }
}

/// Counters of one kind, `N` numbers for each set of labels.
#[derive(Debug)]
pub(super) struct Series<L, const N: usize> {
    cap: usize,
    counters: BTreeMap<L, Counter<N>>,
    /// Label sets that found no room, by hash: each counts once.
    refused: HashSet<u64>,
    hash: RandomState,
    /// How many there were.
    refusals: u64,
}

impl<L: Ord + Clone + std::hash::Hash, const N: usize> Series<L, N> {
    /// None yet, and `cap` at most.
    pub(super) fn new(cap: usize) -> Self {
        Self { cap, counters: BTreeMap::new(), refused: HashSet::new(), hash: RandomState::new(), refusals: 0 }
    }

    /// Tells the totals of all there is: who is not among them has gone.
    pub(super) fn set_all(&mut self, totals: BTreeMap<L, [u64; N]>) {
        self.counters.retain(|labels, _| totals.contains_key(labels));
        for (labels, totals) in totals {
            if let Some(counter) = self.room(&labels) {
                counter.set(totals);
            }
        }
    }

    /// Counts more.
    pub(super) fn add(&mut self, labels: &L, more: [u64; N]) {
        if let Some(counter) = self.room(labels) {
            counter.last.iter_mut().zip(more).for_each(|(last, more)| *last = last.saturating_add(more));
        }
    }

    /// Removes those that `is_gone` says.
    pub(super) fn remove(&mut self, is_gone: impl Fn(&L) -> bool) {
        self.counters.retain(|labels, _| !is_gone(labels));
    }

    fn room(&mut self, labels: &L) -> Option<&mut Counter<N>> {
        if self.counters.len() >= self.cap && !self.counters.contains_key(labels) {
            // What is remembered is bounded too: a set that comes again after that counts again.
            if self.refused.len() >= REMEMBERED * self.cap {
                self.refused.clear();
            }
            self.refusals += u64::from(self.refused.insert(self.hash.hash_one(labels)));
            return None;
        }
        Some(self.counters.entry(labels.clone()).or_insert(Counter::ZERO))
    }

    /// Each with its `at`-th number.
    pub(super) fn values(&self, at: usize) -> impl Iterator<Item = (&L, u64)> {
        self.counters.iter().map(move |(labels, counter)| (labels, counter.value(at)))
    }

    /// Each with all its numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (&L, [u64; N])> {
        self.counters.iter().map(|(labels, counter)| (labels, std::array::from_fn(|at| counter.value(at))))
    }

    /// All labels.
    pub(super) fn labels(&self) -> BTreeSet<&L> {
        self.counters.keys().collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.counters.len() as u64
    }

    /// How many sets of labels found no room.
    pub(super) const fn refusals(&self) -> u64 {
        self.refusals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(series: &Series<&'static str, 1>) -> Vec<(&'static str, u64)> {
        series.values(0).map(|(labels, value)| (*labels, value)).collect()
    }

    #[test]
    fn a_counter_never_goes_down_when_a_part_of_its_sum_is_forgotten() {
        let mut series = Series::new(8);
        for (total, value) in [(100, 100), (140, 140), (30, 140), (35, 145), (0, 145), (5, 150)] {
            series.set_all([("web-0", [total])].into());
            assert_eq!(told(&series), [("web-0", value)]);
        }
    }

    #[test]
    fn who_is_not_told_any_more_goes_and_begins_anew() {
        let mut series = Series::new(8);
        series.set_all([("web-0", [7]), ("web-1", [9])].into());
        series.set_all([("web-1", [10])].into());
        assert_eq!(told(&series), [("web-1", 10)]);
        series.set_all([("web-0", [1]), ("web-1", [10])].into());
        assert_eq!(told(&series), [("web-0", 1), ("web-1", 10)]);
    }

    #[test]
    fn the_cap_refuses_new_labels_and_counts_each_once() {
        let mut series = Series::new(2);
        for _ in 0..3 {
            series.set_all([("a", [1]), ("b", [2]), ("c", [3]), ("d", [4])].into());
        }
        assert_eq!((told(&series), series.refusals()), (vec![("a", 1), ("b", 2)], 2));
        series.add(&"e", [1]);
        series.add(&"a", [4]);
        assert_eq!((told(&series), series.refusals()), (vec![("a", 5), ("b", 2)], 3));
        // There is room again.
        series.set_all([("a", [1]), ("d", [4])].into());
        assert_eq!(told(&series), [("a", 5), ("d", 4)]);
    }
}
