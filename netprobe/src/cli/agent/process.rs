//! What the agent itself uses.

use std::{fs, time::SystemTime};

use nix::{
    sys::resource::{UsageWho, getrusage},
    unistd::{SysconfVar, sysconf},
};

/// Memory and time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Resident bytes.
    pub(super) resident: u64,
    /// Processor time, user and system, seconds.
    pub(super) cpu_s: f64,
}

/// As of now; zero where the kernel does not say.
pub(super) fn usage() -> Usage {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    // The second number is the resident set in pages (proc_pid_statm(5)).
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let cpu_s = getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    });
    Usage { resident: pages * page, cpu_s }
}

/// Nanoseconds since 1970.
pub(super) fn wall_ns() -> u64 {
    (wall_s() * 1e9) as u64
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "when the agent started is no time of the run's")]
pub(super) fn wall_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
