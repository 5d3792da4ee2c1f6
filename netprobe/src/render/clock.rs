//! Monotonic time → wall time, by the one offset of the run.

use jiff::Timestamp;

use crate::model::facts::HostFacts;

/// The run's clock and the node's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    offset_ns: i64,
    /// Name of the node.
    node: String,
}

impl Clock {
    /// The clock of a run on that host.
    #[must_use]
    pub fn new(host: &HostFacts) -> Self {
        Self { offset_ns: host.wall_offset_ns, node: host.node.clone() }
    }

    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Nanoseconds since 1970; 0 for a time before.
    #[must_use]
    pub fn unix_ns(&self, mono_ns: u64) -> u64 {
        u64::try_from(i128::from(mono_ns) + i128::from(self.offset_ns)).unwrap_or(0)
    }

    /// RFC 3339 with nanoseconds, UTC.
    #[must_use]
    pub fn rfc3339(&self, mono_ns: u64) -> String {
        format!("{:.9}", self.at(mono_ns))
    }

    /// RFC 3339 with microseconds, UTC: what Kubernetes calls `MicroTime`, which takes no other number of digits.
    #[must_use]
    pub fn rfc3339_micros(&self, mono_ns: u64) -> String {
        format!("{:.6}", self.at(mono_ns))
    }

    /// `14:03:22.481`, UTC.
    #[must_use]
    pub fn time_of_day(&self, mono_ns: u64) -> String {
        let text = format!("{:.3}", self.at(mono_ns));
        text.split_once('T').map_or_else(String::new, |(_, time)| time.trim_end_matches('Z').to_owned())
    }

    /// A time outside what a calendar can hold comes only from a damaged recording: it is shown
    /// as the epoch, so that the rest of the run stays readable.
    fn at(&self, mono_ns: u64) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(mono_ns) + i128::from(self.offset_ns)).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// Time since a journey's first step, three digits wide: `0.012 ms`, `12.34 ms`, `1.03 s`.
pub(super) fn elapsed(ns: u64) -> String {
    match ns {
        _ if ns < S => millis(ns) + " ms",
        _ if ns < 10 * S => scaled(ns, S, 2) + " s",
        _ if ns < 100 * S => scaled(ns, S, 1) + " s",
        _ => scaled(ns, S, 0) + " s",
    }
}

/// Milliseconds: `0.012`, `12.34`, `5003`.
pub(super) fn millis(ns: u64) -> String {
    match ns {
        _ if ns < 10 * MS => scaled(ns, MS, 3),
        _ if ns < 100 * MS => scaled(ns, MS, 2),
        _ if ns < S => scaled(ns, MS, 1),
        _ => scaled(ns, MS, 0),
    }
}

/// Nanoseconds, as a fraction of `unit_ns` with that many decimals, rounded down.
fn scaled(ns: u64, unit_ns: u64, decimals: usize) -> String {
    let (whole, rest) = (ns / unit_ns, ns % unit_ns);
    let digits = format!("{:09}", u128::from(rest) * 1_000_000_000 / u128::from(unit_ns));
    if decimals == 0 { whole.to_string() } else { format!("{whole}.{}", &digits[..decimals]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_nanoseconds_in_utc() {
        let host = HostFacts { wall_offset_ns: 1_700_000_000_000_000_000, ..HostFacts::default() };
        let clock = Clock::new(&host);
        assert_eq!(clock.rfc3339(1_000_000_042), "2023-11-14T22:13:21.000000042Z");
        assert_eq!(clock.time_of_day(1_481_000_000), "22:13:21.481");
    }

    #[test]
    fn a_time_no_calendar_holds_is_the_epoch() {
        let host = HostFacts { wall_offset_ns: i64::MAX, ..HostFacts::default() };
        assert!(Clock::new(&host).rfc3339(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn elapsed_time_keeps_its_width_over_nine_orders() {
        let cases = [
            (0, "0.000 ms"),
            (12_345, "0.012 ms"),
            (12_345_678, "12.34 ms"),
            (999_999_999, "999.9 ms"),
            (1_030_000_000, "1.03 s"),
            (63_250_000_000, "63.2 s"),
            (100_000_000_000, "100 s"),
        ];
        for (ns, text) in cases {
            assert_eq!(elapsed(ns), text);
        }
    }
}
