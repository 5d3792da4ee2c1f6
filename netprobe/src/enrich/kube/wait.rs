//! How long to wait before the API is asked again: longer each time, and never all nodes at once.

use std::{
    hash::{BuildHasher, Hasher},
    time::Duration,
};

/// The first wait, as client-go has it.
const FIRST: Duration = Duration::from_millis(800);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest that the API itself may ask for.
const ASKED: Duration = Duration::from_secs(300);

/// Waits of one watch.
#[derive(Debug, Default)]
pub(super) struct Wait {
    failures: u32,
}

impl Wait {
    /// It works again.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How often it has failed in a row.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// It failed once more: how long to wait. At least as long as the API asks for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        // Half to all of it.
        let jittered = step.mul_f64(0.5 + fraction() / 2.0);
        asked.map_or(jittered, |asked| asked.min(ASKED) + jittered / 4)
    }
}

/// A number from 0 to 1, another one each time.
pub(super) fn fraction() -> f64 {
    // The standard library seeds its hashers by chance.
    let number = std::hash::RandomState::new().build_hasher().finish();
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ() {
        let mut wait = Wait::default();
        let waits: Vec<Duration> = (0..12).map(|_| wait.next(None)).collect();
        for (at, wait) in waits.iter().enumerate() {
            let step = FIRST.saturating_mul(1 << at).min(LONGEST);
            assert!(*wait >= step / 2 && *wait <= step, "{at}: {wait:?}");
        }
        let again: Vec<Duration> = (0..12).map(|_| Wait { failures: 9 }.next(None)).collect();
        assert!(again.iter().any(|one| *one != again[0]), "all nodes would come back at once: {again:?}");
        wait.reset();
        assert!(wait.next(None) <= FIRST);
    }

    #[test]
    fn the_api_may_ask_for_more_but_not_for_hours() {
        let asked = Wait::default().next(Some(Duration::from_secs(7)));
        assert!(asked >= Duration::from_secs(7) && asked < Duration::from_secs(8), "{asked:?}");
        assert!(Wait::default().next(Some(Duration::from_secs(86_400))) < ASKED + FIRST);
    }
}
