//! A guest from its start to its end.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{image::XTASK, report::Event};

/// Its file system is in memory, and netprobe's maps are.
const MEMORY: &str = "2G";
const PROCESSORS: &str = "2";
/// How much of the kernel's messages is shown when a guest is lost.
const TAIL_LINES: usize = 40;

/// What to boot.
pub(super) struct Guest<'a> {
    /// The kernel.
    pub(super) image: &'a Path,
    /// Its first file system.
    pub(super) archive: &'a Path,
    /// Where its messages go.
    pub(super) console: &'a Path,
    /// A guest that reports nothing for so long is lost.
    pub(super) silence: Duration,
    /// Its time is the number of instructions, one a nanosecond.
    pub(super) is_counted: bool,
}

/// Ended with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest<'_> {
    /// Boots it, hands on what it reports, and returns when it said that it is done.
    ///
    /// It fails with the end of the kernel's messages if the guest ends before (a panic ends it) or is silent for too
    /// long.
    pub(super) fn run(&self, mut report: impl FnMut(Event)) -> Result<()> {
        let mut running = Running(self.command().spawn().context("cannot run qemu-system-x86_64")?);
        let lines = BufReader::new(running.0.stdout.take().context("QEMU has no stdout")?).split(b'\n');
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                // The line begins with what the firmware wrote.
                let Some(begin) = line.find("{\"event\"") else { continue };
                let event = serde_json::from_str::<Event>(&line[begin..]).map_err(|e| format!("{e} in {line}"));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        loop {
            match events.recv_timeout(self.silence) {
                Ok(Ok(Event::Done)) => return Ok(()),
                Ok(Ok(event)) => report(event),
                Ok(Err(bad)) => bail!("it reported what makes no sense: {bad}"),
                Err(RecvTimeoutError::Timeout) => bail!("silent for {} s; {}", self.silence.as_secs(), self.tail()),
                Err(RecvTimeoutError::Disconnected) => bail!("it ended early; {}", self.tail()),
            }
        }
    }

    fn command(&self) -> Command {
        // A guest must not outlive whoever ends us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        if self.is_counted {
            command.args(["-accel", "tcg,thread=single", "-icount", "shift=0"]);
        } else if hardware_help() {
            command.args(["-accel", "kvm", "-accel", "tcg,thread=multi"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        // The second processor of a guest that counts does not come up.
        command.args(["-cpu", "max", "-smp", if self.is_counted { "1" } else { PROCESSORS }, "-m", MEMORY]);
        command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-no-user-config"]);
        command.arg("-kernel").arg(self.image).arg("-initrd").arg(self.archive);
        command.args(["-append", &format!("console=ttyS0 panic=-1 quiet rdinit={XTASK} -- guest")]);
        // The first line is the kernel's, the second is ours.
        command.arg("-serial").arg(format!("file:{}", self.console.display())).args(["-serial", "stdio"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// The end of the kernel's messages.
    fn tail(&self) -> String {
        let text = fs::read(self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the end of {}:\n{}", self.console.display(), last.join("\n"))
    }
}

/// Whether KVM works. /dev/kvm alone says little: some kernels have it without hardware for it, and QEMU aborts.
fn hardware_help() -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut flags = cpus.lines().filter(|line| line.starts_with("flags")).flat_map(|line| line.split(' '));
    flags.any(|flag| flag == "vmx" || flag == "svm")
        && fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}
