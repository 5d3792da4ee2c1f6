//! What is measured against no tool at all: netprobe, and what people use today.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{
    clock,
    lab::{NODE, inside},
    process::Process,
};
use crate::shell::which;

/// A tool has this long to attach.
const READY: Duration = Duration::from_secs(60);
/// What a tool does once more after it said it was ready, such as reading its first packets.
const SETTLE: Duration = Duration::from_millis(300);

/// bpftrace, with the file systems it needs where the machine has not mounted them.
const WITH_TRACEFS: &str = "mount -t debugfs bench /sys/kernel/debug; mount -t tracefs bench /sys/kernel/tracing; \
                            mount -t tracefs bench /sys/kernel/debug/tracing; exec bpftrace \"$@\"";

/// After this long without a packet of its pod netprobe lets its hooks rest, and some to spare.
pub(crate) const REST: Duration = Duration::from_millis(2500);

/// A tool, and how it is called.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    /// Name in the tables.
    pub(crate) name: &'static str,
    program: Program,
    arguments: Vec<String>,
    environment: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Netprobe,
    Tcpdump,
    Bpftrace,
}

impl Tool {
    /// netprobe with `arguments`; the ready file is added. `SOCKET` among them stands for the path of a socket, `FILE` for a file
    /// that is thrown away.
    pub(crate) fn netprobe(name: &'static str, arguments: &[&str]) -> Self {
        Self::new(name, Program::Netprobe, arguments)
    }

    /// tcpdump on every device of the node with `arguments`; `FILE` among them stands for a file that is thrown away.
    pub(crate) fn tcpdump(name: &'static str, arguments: &[&str]) -> Self {
        let mut all = vec!["-n", "-i", "any"];
        all.extend(arguments);
        Self::new(name, Program::Tcpdump, &all)
    }

    /// bpftrace with the program `probe`, to which is added what says that it is attached.
    pub(crate) fn bpftrace(name: &'static str, probe: &str) -> Self {
        let ready = "interval:ms:5 { if (!@ready) { @ready = 1; printf(\"ready\\n\"); } }";
        Self::new(name, Program::Bpftrace, &["-e", &format!("{probe} {ready}")])
    }

    fn new(name: &'static str, program: Program, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|word| (*word).to_string()).collect();
        Self { name, program, arguments, environment: None }
    }

    /// The same with a variable of its environment.
    pub(crate) fn with(self, name: &'static str, value: &'static str) -> Self {
        Self { environment: Some((name, value)), ..self }
    }

    /// Why it cannot run here.
    pub(crate) fn missing(&self) -> Option<String> {
        let name = match self.program {
            Program::Netprobe => return None,
            Program::Tcpdump => "tcpdump",
            Program::Bpftrace => "bpftrace",
        };
        which(name).is_none().then(|| format!("{name} is not installed; run `cargo xtask setup`"))
    }
}

/// Where tools are started, and where they write.
pub(crate) struct Bench {
    /// The netprobe that is measured.
    pub(crate) netprobe: PathBuf,
    /// A folder of ours in memory.
    pub(crate) scratch: PathBuf,
    /// The program that holds the load: ourselves.
    pub(crate) xtask: PathBuf,
    /// Of the tools beside forwarding those alone whose name has this.
    pub(crate) only: Option<String>,
    /// The processor of the tools; the load is on 0.
    pub(crate) processor: &'static str,
    /// Where the project is; nowhere in a guest.
    pub(crate) root: PathBuf,
    /// How much longer than the quickest sensible run.
    pub(crate) quick: bool,
}

/// A tool that runs in the node's namespace.
pub(crate) struct Running {
    /// The process itself.
    pub(crate) process: Process,
    /// From exec to every hook attached.
    pub(crate) start: Duration,
    /// What it wrote to stdout.
    pub(crate) stdout: PathBuf,
}

impl Bench {
    /// Starts `tool` in the node's namespace on CPU 1 and waits until it is attached.
    pub(crate) fn start(&self, tool: &Tool) -> Result<Running> {
        let running = self.launch(tool)?;
        thread::sleep(SETTLE);
        Ok(running)
    }

    /// The same, without letting it settle.
    pub(crate) fn launch(&self, tool: &Tool) -> Result<Running> {
        let ready = self.scratch.join("ready");
        let (stdout, stderr) = (self.scratch.join("stdout"), self.scratch.join("stderr"));
        let _ = fs::remove_file(&ready);
        let start = clock::now();
        let mut process = Process::start(
            self.command(tool, &ready)
                .stdout(File::create(&stdout).context("make a file for output")?)
                .stderr(File::create(&stderr).context("make a file for complaints")?),
        )?;
        let attached = || match tool.program {
            Program::Netprobe => ready.exists(),
            Program::Tcpdump => says(&stderr, "listening on"),
            Program::Bpftrace => says(&stdout, "ready"),
        };
        let done = clock::wait(READY, || if attached() { Some(true) } else { (!process.alive()).then_some(false) });
        let took = start.elapsed();
        if done != Some(true) {
            let said = fs::read_to_string(&stderr).unwrap_or_default();
            bail!("{} did not attach within {READY:?}: {}", tool.name, said.trim());
        }
        Ok(Running { process, start: took, stdout })
    }

    fn command(&self, tool: &Tool, ready: &Path) -> Command {
        let mut command = inside(NODE, "taskset");
        command.args(["-c", self.processor]);
        let thrown = self.scratch.join("pcap");
        match tool.program {
            Program::Netprobe => command.arg(&self.netprobe),
            // Line by line is what lets "ready" through.
            Program::Bpftrace => command.args(["unshare", "--mount", "sh", "-c", WITH_TRACEFS, "sh", "-B", "line"]),
            // Packets are written as root: the folder is not tcpdump's.
            Program::Tcpdump => command.args(["tcpdump", "-Z", "root"]),
        };
        for word in &tool.arguments {
            match word.as_str() {
                "FILE" => command.arg(&thrown),
                "SOCKET" => command.arg(self.scratch.join("socket")),
                word => command.arg(word),
            };
        }
        if tool.program == Program::Netprobe {
            command.arg("--ready-file").arg(ready);
        }
        command.envs(tool.environment).stdin(Stdio::null());
        command
    }
}

impl Running {
    /// Ends it by SIGTERM, or as people end the others: by SIGINT.
    pub(crate) fn stop(self) -> Result<Duration> {
        self.process.stop(Signal::SIGTERM)
    }
}

fn says(file: &Path, what: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.contains(what))
}
