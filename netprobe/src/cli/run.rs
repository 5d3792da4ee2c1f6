//! Runs a live command until it is over: the ring, the node's notifications, the clock, signals.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    common::Common,
    live::{Draw, Kind, Live, Request, TURN},
    remote,
    until::{Stdin, Until},
};
use crate::render::{FindingsLast, Render};

/// How a command shows what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Journeys or DNS exchanges, as they come, and findings.
    Journeys,
    /// Translations as they are seen.
    Translations,
    /// A table at the end.
    Table(Kind),
    /// A table every second; `true` redraws it in place.
    Live(Kind, bool),
}

impl Show {
    /// A table every second, or at the end.
    #[must_use]
    pub fn table(kind: Kind, watch: bool, common: &Common) -> Self {
        if watch { Self::Live(kind, common.is_in_place()) } else { Self::Table(kind) }
    }

    /// Tables are redrawn in place.
    pub(super) const fn is_in_place(self) -> bool {
        matches!(self, Self::Live(_, true))
    }

    /// Something is to be done every second.
    const fn is_regular(self) -> bool {
        !matches!(self, Self::Journeys | Self::Table(Kind::Drops))
    }

    /// What is shown every second: gives how many of what `--count` counts.
    fn regularly(self, live: &mut Live, out: &mut dyn Render) -> Result<u64> {
        match self {
            Self::Journeys | Self::Table(Kind::Drops) => Ok(0),
            Self::Translations => live.tell_translations(out),
            Self::Table(Kind::Flows | Kind::Nat) => live.tidy_flows().map(|()| 0),
            Self::Live(kind, in_place) => {
                live.show_table(kind, if in_place { Draw::InPlace } else { Draw::Below }, out).map(|()| 1)
            }
        }
    }

    /// What is shown at the end, before the summary.
    fn finally(self, live: &mut Live, out: &mut dyn Render) -> Result<()> {
        match self {
            Self::Journeys => Ok(()),
            Self::Translations => live.tell_translations(out).map(drop),
            Self::Table(kind) => live.show_table(kind, Draw::Last { in_place: false }, out),
            Self::Live(kind, in_place) => live.show_table(kind, Draw::Last { in_place }, out),
        }
    }
}

/// How a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// `--count` tables were shown: the last one is the last word.
    Tables,
    /// The time was over, there was enough, or a signal came.
    Other,
}

/// Runs until the time is over, enough is seen, a signal comes, or the reader goes away: here, or where the pods are.
///
/// # Errors
///
/// What goes wrong at start, and whatever the renderer returns.
pub fn run(request: &Request<'_>, until: &Until, show: Show) -> Result<()> {
    let there = |there| remote::watch(there, request, until, show).map(drop);
    if let Some(place) = remote::at_once(request)? {
        return there(place);
    }
    match here(request, until, show) {
        Err(error) => match remote::instead(request, &error) {
            Some(place) => there(place),
            None => Err(error),
        },
        done => done,
    }
}

fn here(request: &Request<'_>, until: &Until, show: Show) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        // Before anything is attached: a signal during start-up ends the run cleanly too.
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let stdin = Stdin::watch(request.ready.until_stdin_closes)?;
        let (mut live, mut out) = Live::start(request)?;
        if show.is_in_place() {
            out = Box::new(FindingsLast::new(out));
        }
        let over = tokio::select! {
            over = turns(&mut live, &mut *out, until, show) => over,
            _ = interrupt.recv() => Ok(End::Other),
            _ = terminate.recv() => Ok(End::Other),
            () = stdin.closed() => Ok(End::Other),
        };
        if over? == End::Other || show.is_in_place() {
            show.finally(&mut live, &mut *out)?;
        }
        live.finish(&mut *out)
    })
}

async fn turns(live: &mut Live, out: &mut dyn Render, until: &Until, show: Show) -> Result<End> {
    let (ring, facts) = live.ready()?;
    let mut clock = interval(TURN);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut table = interval(Duration::from_secs(1));
    let end = until.duration.map(|d| Instant::now() + d);
    let (mut shown, mut tables) = (0, 0);
    loop {
        tokio::select! {
            // The end first: else a table that is due at the same moment is shown twice.
            biased;
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return Ok(End::Other),
            _ = table.tick(), if show.is_regular() => {
                tables += show.regularly(live, out)?;
                if until.count.is_some_and(|most| tables >= most) {
                    return Ok(if matches!(show, Show::Live(..)) { End::Tables } else { End::Other });
                }
            }
            ready = ring.readable() => ready?.clear_ready(),
            ready = facts.readable() => ready?.clear_ready(),
            _ = clock.tick() => {}
        }
        let progress = live.turn(out)?;
        shown += progress.shown;
        let enough = show == Show::Journeys && until.count.is_some_and(|most| shown >= most);
        if enough || (until.until_finding && progress.findings > 0) {
            return Ok(End::Other);
        }
    }
}
