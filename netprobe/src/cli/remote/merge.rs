//! What several nodes show, in the order of their wall clocks.
//!
//! Each node's own output is in order, and its ticks say how far it has come. What one node shows waits until the others
//! have come as far, but not longer than [`HOLD`]: a node that is slow, or whose clock is wrong, holds nobody up.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// How long output waits for that of other nodes.
pub(super) const HOLD: Duration = Duration::from_millis(500);

/// Output that waits.
pub(super) struct Merge<T> {
    /// By wall time in nanoseconds, then in the order in which it came: the node, and what it shows.
    waiting: BTreeMap<(i64, u64), (usize, T)>,
    /// When what waits came, and its wall time, oldest first.
    came: VecDeque<(Instant, i64)>,
    /// Up to this wall time everything was shown: what comes later and is older is shown at once.
    shown: i64,
    /// How far each node has come, wall time in nanoseconds; none once it is over.
    reached: Vec<Option<i64>>,
    count: u64,
}

impl<T> Merge<T> {
    /// Of so many nodes, none of which has said anything.
    pub(super) fn of(nodes: usize) -> Self {
        let (waiting, came) = (BTreeMap::new(), VecDeque::new());
        Self { waiting, came, shown: i64::MIN, reached: vec![Some(i64::MIN); nodes], count: 0 }
    }

    /// Node `at` has come to that time.
    pub(super) fn reach(&mut self, at: usize, wall_ns: i64) {
        if let Some(Some(reached)) = self.reached.get_mut(at) {
            *reached = wall_ns.max(*reached);
        }
    }

    /// Nobody waits for node `at` any more.
    pub(super) fn end(&mut self, at: usize) {
        if let Some(reached) = self.reached.get_mut(at) {
            *reached = None;
        }
    }

    /// Takes what node `at` shows at that time.
    pub(super) fn push(&mut self, at: usize, wall_ns: i64, what: T, now: Instant) {
        self.count += 1;
        self.waiting.insert((wall_ns, self.count), (at, what));
        self.came.push_back((now, wall_ns));
    }

    /// What is to be shown at `now`, in order, with its node.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<(usize, T)> {
        let all_reached = self.reached.iter().flatten().min().copied().unwrap_or(i64::MAX);
        self.shown = self.shown.max(all_reached);
        while let Some((came, wall_ns)) = self.came.front()
            && (*wall_ns <= self.shown || now.duration_since(*came) >= HOLD)
        {
            self.shown = self.shown.max(*wall_ns);
            self.came.pop_front();
        }
        let rest = match self.shown.checked_add(1) {
            Some(after) => self.waiting.split_off(&(after, 0)),
            None => BTreeMap::new(),
        };
        std::mem::replace(&mut self.waiting, rest).into_values().collect()
    }

    /// When something must be shown at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.came.front().map(|(came, _)| *came + HOLD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(merge: &mut Merge<&'static str>, at: Instant) -> Vec<&'static str> {
        merge.ready(at).into_iter().map(|(_, what)| what).collect()
    }

    #[test]
    fn output_waits_until_the_others_have_come_as_far() {
        let (mut merge, start) = (Merge::of(2), Instant::now());
        merge.push(0, 20, "second", start);
        merge.reach(0, 25);
        assert_eq!(shown(&mut merge, start), [""; 0]);
        merge.push(1, 10, "first", start);
        merge.reach(1, 15);
        assert_eq!(shown(&mut merge, start), ["first"]);
        merge.reach(1, 30);
        assert_eq!(shown(&mut merge, start), ["second"]);
    }

    #[test]
    fn nobody_waits_for_a_node_longer_than_that() {
        let (mut merge, start) = (Merge::of(2), Instant::now());
        merge.push(0, 20, "b", start);
        merge.push(0, 10, "a", start);
        merge.push(0, 30, "c", start + HOLD / 2);
        assert_eq!(merge.due(), Some(start + HOLD));
        assert_eq!(shown(&mut merge, start + HOLD / 2), [""; 0]);
        assert_eq!(shown(&mut merge, start + HOLD), ["a", "b"]);
    }

    #[test]
    fn what_comes_too_late_is_shown_at_once() {
        let (mut merge, start) = (Merge::of(2), Instant::now());
        merge.push(0, 1_000, "ahead", start);
        assert_eq!(shown(&mut merge, start + HOLD), ["ahead"]);
        merge.push(1, 10, "late", start + HOLD);
        assert_eq!(shown(&mut merge, start + HOLD), ["late"]);
        assert_eq!(merge.due(), None);
    }

    #[test]
    fn a_node_that_is_over_holds_nobody_up() {
        let (mut merge, start) = (Merge::of(2), Instant::now());
        merge.push(0, 20, "a", start);
        merge.reach(0, 20);
        merge.end(1);
        assert_eq!(shown(&mut merge, start), ["a"]);
        merge.push(0, 40, "b", start);
        merge.end(0);
        assert_eq!(shown(&mut merge, start), ["b"]);
    }
}
