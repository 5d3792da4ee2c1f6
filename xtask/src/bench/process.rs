//! Programs that run while something is measured.

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::clock;

/// What has been started and not yet ended, for [`kill_all`].
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A program that we started; it ends with this value.
pub(crate) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts it, with nothing to read.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let what = crate::shell::text(command);
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot run `{what}`"))?;
        running(|pids| pids.insert(child.id()));
        Ok(Self { child, what })
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of all its threads so far, seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let nanoseconds = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        nanoseconds.sum::<f64>() / 1e9
    }

    /// A size of /proc/PID/status (`VmRSS`, `VmHWM`), MiB.
    pub(crate) fn memory_mib(&self, field: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    }

    /// Asks it to end; says how long that took. Killed after a minute, which is an error: guests are slow.
    pub(crate) fn stop(mut self, signal: Signal) -> Result<Duration> {
        let start = clock::now();
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a process number that is none")?);
        // It may have ended by itself.
        let _ = kill(pid, signal);
        if clock::wait(Duration::from_secs(60), || (!self.alive()).then_some(())).is_none() {
            bail!("`{}` did not end within 60 s of {signal}", self.what);
        }
        Ok(start.elapsed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        running(|pids| pids.remove(&self.child.id()));
    }
}

/// Kills what we started and what still runs, before we end ourselves.
pub(crate) fn kill_all() {
    running(|pids| {
        for pid in pids.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    });
}

fn running<T>(change: impl FnOnce(&mut BTreeSet<u32>) -> T) -> T {
    change(&mut RUNNING.lock().unwrap_or_else(PoisonError::into_inner))
}
