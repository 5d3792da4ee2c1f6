//! Which Event is due: new ones at once, changed ones now and then, and not too many of both.

use std::collections::BTreeMap;

use super::Notice;

/// Events that are kept in mind.
const ENTRIES: usize = 1_000;
/// Requests that may come at once ...
const BURST: u64 = 20;
/// ... and how long it takes until there may be one more, nanoseconds: 20 in a minute.
const REFILL_NS: u64 = 3_000_000_000;

/// A finding, by its id. Another rule may tell it anew: that is another Event, because a reason cannot be changed.
pub(super) type Key = (String, &'static str);

/// An Event that the API has.
#[derive(Clone, Debug)]
struct Told {
    name: String,
    /// Occurrences that it tells of.
    count: u64,
    at_ns: u64,
}

#[derive(Debug)]
struct Entry {
    notice: Notice,
    told: Option<Told>,
    /// When there was news of it last.
    order: u64,
}

impl Entry {
    fn is_pending(&self) -> bool {
        self.told.as_ref().is_none_or(|told| told.count < self.notice.count)
    }
}

/// What to ask the API for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) notice: Notice,
    /// The Event's name, where the API has it already.
    pub(super) name: Option<String>,
}

/// Findings, and what the API was told of them. All times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: BTreeMap<Key, Entry>,
    /// An Event is changed this often at most.
    every_ns: u64,
    /// The next request is allowed when its time has come; it lies in the past as long as there is a burst left.
    allowed_ns: u64,
    orders: u64,
}

impl Ledger {
    pub(super) const fn new(every_ns: u64) -> Self {
        Self { entries: BTreeMap::new(), every_ns, allowed_ns: 0, orders: 0 }
    }

    /// Takes news of a finding; false where there is no room.
    pub(super) fn take(&mut self, notice: Notice) -> bool {
        let key = (notice.id.clone(), notice.rule);
        self.orders += 1;
        let order = self.orders;
        if let Some(entry) = self.entries.get_mut(&key) {
            (entry.notice, entry.order) = (notice, order);
            return true;
        }
        if self.entries.len() >= ENTRIES && !self.make_room() {
            return false;
        }
        self.entries.insert(key, Entry { notice, told: None, order });
        true
    }

    /// Forgets what has been told for longest.
    fn make_room(&mut self) -> bool {
        let told = self.entries.iter().filter(|(_, entry)| !entry.is_pending());
        let Some(key) = told.min_by_key(|(_, entry)| entry.order).map(|(key, _)| key.clone()) else { return false };
        self.entries.remove(&key).is_some()
    }

    /// There is something to tell, now or later.
    pub(super) fn is_pending(&self) -> bool {
        self.entries.values().any(Entry::is_pending)
    }

    /// What to ask for now. It counts as asked for.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<Due> {
        let earliest = now_ns.saturating_sub((BURST - 1) * REFILL_NS);
        let allowed = self.allowed_ns.max(earliest);
        if allowed > now_ns {
            return None;
        }
        let is_due = |entry: &Entry| {
            let is_time = |told: &Told| now_ns.saturating_sub(told.at_ns) >= self.every_ns;
            entry.is_pending() && entry.told.as_ref().is_none_or(is_time)
        };
        let due = self.entries.iter().filter(|(_, entry)| is_due(entry));
        // Faults that nobody has heard of first.
        let (key, entry) = due.min_by_key(|(_, entry)| (entry.told.is_some(), entry.order))?;
        self.allowed_ns = allowed + REFILL_NS;
        let name = entry.told.as_ref().map(|told| told.name.clone());
        Some(Due { key: key.clone(), notice: entry.notice.clone(), name })
    }

    /// The API has it, by that name.
    pub(super) fn told(&mut self, due: &Due, name: String, now_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&due.key) {
            entry.told = Some(Told { name, count: due.notice.count, at_ns: now_ns });
        }
    }

    /// The API has it no more: Events go after an hour.
    pub(super) fn gone(&mut self, due: &Due) {
        if let Some(entry) = self.entries.get_mut(&due.key) {
            entry.told = None;
        }
    }

    /// The API does not want it.
    pub(super) fn give_up(&mut self, due: &Due) {
        self.entries.remove(&due.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn notice(id: u64, count: u64) -> Notice {
        Notice { id: format!("f{id}"), rule: "no-route", count, ..Notice::default() }
    }

    #[test]
    fn a_finding_is_told_at_once_and_its_count_now_and_then() {
        let mut ledger = Ledger::new(60 * S);
        assert!(ledger.take(notice(1, 1)) && ledger.take(notice(1, 2)));
        let due = ledger.due(100 * S).expect("it is new");
        assert_eq!((due.notice.count, &due.name), (2, &None));
        ledger.told(&due, "web-0.1".to_owned(), 100 * S);
        assert!(!ledger.is_pending());
        assert!(ledger.take(notice(1, 3)) && ledger.is_pending());
        assert_eq!(ledger.due(159 * S), None, "not yet a minute");
        assert!(ledger.take(notice(1, 9)));
        let due = ledger.due(160 * S).expect("a minute has passed");
        assert_eq!((due.notice.count, due.name.as_deref()), (9, Some("web-0.1")));
        ledger.gone(&due);
        assert_eq!(ledger.due(160 * S).expect("at once").name, None, "the API had forgotten it");
    }

    #[test]
    fn twenty_come_at_once_and_twenty_in_a_minute() {
        let mut ledger = Ledger::new(60 * S);
        for id in 0..100 {
            assert!(ledger.take(notice(id, 1)));
        }
        let mut told = |now_ns| {
            let mut number = 0;
            while let Some(due) = ledger.due(now_ns) {
                ledger.told(&due, due.notice.id.clone(), now_ns);
                number += 1;
            }
            number
        };
        assert_eq!(told(1_000 * S), 20);
        assert_eq!(told(1_002 * S), 0);
        assert_eq!((1_003..=1_060).map(|second| told(second * S)).sum::<u64>(), 20);
        assert_eq!(told(9_000 * S), 20, "what was not used is not kept");
    }

    #[test]
    fn what_is_told_makes_room_and_what_is_not_does_not() {
        let mut ledger = Ledger::new(60 * S);
        for id in 0..ENTRIES as u64 {
            assert!(ledger.take(notice(id, 1)));
        }
        assert!(!ledger.take(notice(5_000, 1)), "all are still to be told");
        let due = ledger.due(100 * S).expect("there is much to tell");
        ledger.told(&due, "x".to_owned(), 100 * S);
        assert!(ledger.take(notice(5_000, 1)));
        assert_eq!(ledger.entries.len(), ENTRIES);
    }
}
