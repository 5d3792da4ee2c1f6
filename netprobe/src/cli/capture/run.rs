//! A capture, from the first packet to the summary.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    CaptureArgs,
    files::{Files, Rotation},
    open,
    places::{Node, Places, Settings},
    window::{HOLD_NS, Window},
    words::{Knows, Said, Words},
};
use crate::{
    cli::{
        live::{Live, Request, TURN},
        until::Until,
    },
    probe::host,
    render::{escape, pcapng::PacketBlock},
};

/// How often counters are read and files written where little comes, nanoseconds.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;

/// A capture that runs.
struct Capture {
    live: Live,
    files: Files,
    window: Window,
    words: Words,
    places: Places,
    settings: Settings,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    offset_ns: i64,
    begun_ns: u64,
    housekeeping_ns: u64,
    to_stdout: bool,
    rotation: Rotation,
    written: u64,
    /// Packets after which it ends.
    most: u64,
    lost: u64,
}

/// Runs until the time is over, enough is captured, a signal comes, or the reader goes away.
pub(super) fn run(request: &Request<'_>, args: &CaptureArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let (live, _) = Live::start(request)?;
        let mut capture = Capture::begin(live, args)?;
        tokio::select! {
            over = capture.turns(&args.until) => over,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }?;
        capture.finish()
    })
}

impl Capture {
    fn begin(mut live: Live, args: &CaptureArgs) -> Result<Self> {
        let offset_ns = live.pipeline_mut().decoder().host().wall_offset_ns;
        let begun_ns = host::mono_ns();
        let files = open(args, &mut live, wall(begun_ns, offset_ns))?;
        if args.write.is_none()
            && let Some((path, _)) = files.place()
        {
            tell(&format!("writing {}", path.display()));
        }
        let mut capture = Self {
            live,
            files,
            window: Window::default(),
            words: Words::default(),
            places: Places::default(),
            settings: Settings { snap: args.snap(), filter: args.filter.words.join(" ") },
            offset_ns,
            begun_ns,
            housekeeping_ns: begun_ns,
            to_stdout: args.is_to_stdout(),
            rotation: args.rotation(),
            written: 0,
            most: args.until.count.unwrap_or(u64::MAX),
            lost: 0,
        };
        capture.name_places()?;
        capture.files.flush()?;
        Ok(capture)
    }

    async fn turns(&mut self, until: &Until) -> Result<()> {
        let (ring, facts) = self.live.ready()?;
        let mut clock = interval(TURN);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = until.duration.map(|d| Instant::now() + d);
        while self.written < self.most && !(self.to_stdout && reader_has_gone()) {
            tokio::select! {
                ready = ring.readable() => ready?.clear_ready(),
                ready = facts.readable() => ready?.clear_ready(),
                _ = clock.tick() => {}
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return Ok(()),
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Takes in what there is, and writes what was held long enough.
    fn turn(&mut self) -> Result<()> {
        // Asked before the ring is emptied: what is older is in it, or was.
        let now_ns = host::mono_ns();
        let window = &mut self.window;
        if self.live.capture_turn(|record| window.take(record))?.changed {
            self.name_places()?;
        }
        self.write_until(now_ns.saturating_sub(HOLD_NS))?;
        if self.to_stdout {
            self.files.flush()?;
        }
        if now_ns.saturating_sub(self.housekeeping_ns) >= HOUSEKEEPING_NS {
            self.housekeeping_ns = now_ns;
            self.count()?;
            self.files.flush()?;
        }
        Ok(())
    }

    /// Puts new devices into the file, and looks again whose they all are.
    fn name_places(&mut self) -> Result<()> {
        let pipeline = self.live.pipeline();
        let node = Node { facts: pipeline.facts(), names: pipeline.names() };
        self.words.forget();
        self.places.rename(node);
        for device in self.live.captured_devices() {
            self.places.of((device.netns, device.ifindex), node, &self.settings, &mut self.files)?;
        }
        Ok(())
    }

    fn write_until(&mut self, until_ns: u64) -> Result<()> {
        let Self { live, files, words, places, settings, offset_ns, written, most, .. } = self;
        let pipeline = live.pipeline_mut();
        self.window.release(until_ns, |released| {
            if *written >= *most {
                return Ok(());
            }
            let captured = released.captured;
            let id = (captured.netns, captured.ifindex);
            let node = Node { facts: pipeline.facts(), names: pipeline.names() };
            let place = places.of(id, node, settings, files)?;
            let (decoder, names) = pipeline.decoder_and_names();
            let at = (place.interface, &place.at);
            let said = Said { how: captured.how, forms: released.forms, dropped: released.dropped };
            let comment = words.of(at, said, Knows { names, decoder });
            *written += 1;
            files.packet(&PacketBlock {
                interface: place.interface,
                time: wall(released.mono_ns, *offset_ns),
                len: captured.len.max(captured.kept),
                data: released.data,
                inbound: captured.is_ingress(),
                comment,
            })
        })
    }

    /// Reads what the programs counted, and tells losses.
    fn count(&mut self) -> Result<()> {
        for (id, count) in self.live.captured()? {
            if let Some(interface) = self.places.interface(id) {
                self.files.count(interface, count.packets, count.lost);
            }
        }
        let fresh = self.live.fresh_losses()?;
        if fresh > 0 {
            self.lost += fresh;
            tell(&format!("{fresh} packets were lost: the ring was full; fewer bytes (--snap) or a filter help"));
        }
        Ok(())
    }

    /// Writes what is still held, what was counted, and the summary.
    fn finish(&mut self) -> Result<()> {
        let window = &mut self.window;
        while self.live.capture_turn(|record| window.take(record))?.records > 0 {}
        self.count()?;
        self.write_until(u64::MAX)?;
        let end_ns = host::mono_ns();
        self.files.finish(wall(end_ns, self.offset_ns))?;
        self.summarise(end_ns);
        Ok(())
    }

    fn summarise(&self, end_ns: u64) {
        let to = match self.files.place() {
            None => "stdout".to_owned(),
            Some((path, 0)) => path.display().to_string(),
            Some((path, before)) => {
                let kept = self.rotation.files.map_or(before, |files| before.min(files - 1));
                format!("{} and the {kept} before it", path.display())
            }
        };
        let seconds = Duration::from_nanos(end_ns.saturating_sub(self.begun_ns)).as_secs_f64();
        tell(&format!("{} packets in {seconds:.2} s to {to}; {} lost", self.written, self.lost));
        for (interface, statistics) in self.files.statistics() {
            let lost = if statistics.dropped > 0 { format!(", {} lost", statistics.dropped) } else { String::new() };
            tell(&format!("  {:>8}  {}{lost}", statistics.delivered, interface.name));
        }
    }
}

fn wall(mono_ns: u64, offset_ns: i64) -> Duration {
    Duration::from_nanos(mono_ns.saturating_add_signed(offset_ns))
}

/// Writes a line to stderr; a reader of it that has gone is no failure.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", escape(text));
}

/// Whether nobody reads our stdout any more: without packets no write would say so.
fn reader_has_gone() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}
