//! Runs a live command until it is over: the ring, the node's notifications, the clock, signals.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    live::{Live, Request, TURN},
    until::Until,
};
use crate::render::Render;

/// How a command shows what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Journeys or DNS exchanges, as they come, and findings.
    Journeys,
    /// A table of drops at the end.
    Drops,
    /// A table of drops every second; `true` redraws it in place.
    DropsLive(bool),
    /// A table of flows at the end.
    Flows,
    /// A table of flows every second; `true` redraws it in place.
    FlowsLive(bool),
    /// Translations as they are seen.
    Translations,
}

impl Show {
    /// What is shown every second: gives how many of what `--count` counts.
    fn regularly(self, live: &mut Live, out: &mut dyn Render) -> Result<u64> {
        match self {
            Self::Journeys | Self::Drops => Ok(0),
            Self::DropsLive(in_place) => live.show_drops(out, in_place).map(|()| 1),
            Self::Flows => live.tidy_flows().map(|()| 0),
            Self::FlowsLive(in_place) => live.show_flows(out, in_place).map(|()| 1),
            Self::Translations => live.tell_translations(out),
        }
    }

    /// What is shown at the end, before the summary.
    fn finally(self, live: &mut Live, out: &mut dyn Render) -> Result<()> {
        match self {
            Self::Journeys => Ok(()),
            Self::Drops | Self::DropsLive(_) => live.show_drops(out, false),
            Self::Flows | Self::FlowsLive(_) => live.show_flows(out, false),
            Self::Translations => live.tell_translations(out).map(drop),
        }
    }
}

/// Runs until the time is over, enough is seen, a signal comes, or the reader goes away.
///
/// # Errors
///
/// What goes wrong at start, and whatever the renderer returns.
pub fn run(request: &Request<'_>, until: &Until, show: Show) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        // Before anything is attached: a signal during start-up ends the run cleanly too.
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let (mut live, mut out) = Live::start(request)?;
        let over = tokio::select! {
            over = turns(&mut live, &mut *out, until, show) => over,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        over?;
        show.finally(&mut live, &mut *out)?;
        live.finish(&mut *out)
    })
}

async fn turns(live: &mut Live, out: &mut dyn Render, until: &Until, show: Show) -> Result<()> {
    let (ring, facts) = live.ready()?;
    let mut clock = interval(TURN);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut table = interval(Duration::from_secs(1));
    let end = until.duration.map(|d| Instant::now() + d);
    let (mut shown, mut tables) = (0, 0);
    loop {
        tokio::select! {
            ready = ring.readable() => ready?.clear_ready(),
            ready = facts.readable() => ready?.clear_ready(),
            _ = clock.tick() => {}
            _ = table.tick(), if !matches!(show, Show::Journeys | Show::Drops) => {
                tables += show.regularly(live, out)?;
                if until.count.is_some_and(|most| tables >= most) {
                    return Ok(());
                }
            }
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return Ok(()),
        }
        let progress = live.turn(out)?;
        shown += progress.shown;
        let enough = show == Show::Journeys && until.count.is_some_and(|most| shown >= most);
        if enough || (until.until_finding && progress.findings > 0) {
            return Ok(());
        }
    }
}
