//! The one clock of the measurements.

use std::time::{Duration, Instant};

/// Now.
#[allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Asks `question` every millisecond until it says something, for at most `limit`.
pub(crate) fn wait<T>(limit: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + limit;
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
