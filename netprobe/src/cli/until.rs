//! When a run ends.

use std::{
    io::{self, Read as _},
    process, thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use jiff::SignedDuration;
use tokio::sync::oneshot;

use super::error::EXIT_ERROR;

/// When to end; Ctrl-C and SIGTERM always do.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "End")]
pub struct Until {
    /// End after this time (500ms, 10s, 2m, 1h30m)
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,

    /// End after this many packets shown (with a table: tables; `nat`: translations; `dns`: queries)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// End with the first finding
    #[arg(long)]
    pub until_finding: bool,
}

/// How long a run may take to end once stdin has closed: counts are read and questions answered. Whoever would take its
/// last words may be gone, and a write to them would wait for ever.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Whether stdin is to be watched, and its end.
pub struct Stdin(Option<oneshot::Receiver<()>>);

impl Stdin {
    /// Watches stdin, where that is `asked`. From its end on the process has five seconds left, whatever it is at.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub fn watch(asked: bool) -> Result<Self> {
        if !asked {
            return Ok(Self(None));
        }
        let (sender, closed) = oneshot::channel();
        let watch = move || {
            // A byte, the end or an error: each says that it is over.
            let _ = io::stdin().lock().read(&mut [0]);
            let _ = sender.send(());
            thread::sleep(LAST_WORDS);
            process::exit(EXIT_ERROR.into());
        };
        thread::Builder::new().name("stdin".to_owned()).spawn(watch).context("start a thread for stdin")?;
        Ok(Self(Some(closed)))
    }

    /// Waits for its end; for ever where it is not watched.
    pub async fn closed(self) {
        match self.0 {
            Some(closed) => drop(closed.await),
            None => std::future::pending().await,
        }
    }
}

/// A time that is not zero, with its unit.
pub(super) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write 10s, 2m or 1h30m");
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("`{text}` is no time to wait: give at least 1ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_length() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["10", "", "soon", "0s", "-5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
