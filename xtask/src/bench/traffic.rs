//! Loads of the rows, as processes inside the lab.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::{
    lab::{self, inside},
    load::Sent,
    process::Process,
    tool::Bench,
};
use crate::shell::ask;

impl Bench {
    /// Sends from the client to `to` as fast as one CPU can, on CPU 0 and before all other work there.
    pub(crate) fn flood(&self, to: &str, seconds: f64) -> Result<Sent> {
        let mut command = inside(lab::CLIENT, "taskset");
        command.args(["-c", "0", "chrt", "--fifo", "1"]).arg(&self.xtask);
        command.args(["load", "--to", to, "--seconds", &seconds.to_string()]);
        self.sent(&mut command)
    }

    /// Sends from the namespace `from` with `rate` packets a second, in the background.
    pub(crate) fn trickle(&self, from: &str, to: &str, rate: u64, seconds: f64) -> Result<Process> {
        Process::start(self.sender(from, to, rate, seconds).stdout(Stdio::null()))
    }

    /// Sends from the namespace `from` one packet to each of so many ports of the server.
    pub(crate) fn sweep(&self, from: &str, ports: usize) -> Result<Sent> {
        let (rate, ports) = (50_000, ports.to_string());
        self.sent(self.sender(from, lab::OPEN, rate, 10.0).args(["--count", &ports, "--ports", &ports]))
    }

    fn sender(&self, from: &str, to: &str, rate: u64, seconds: f64) -> Command {
        let mut command = inside(from, "taskset");
        // On CPU 0 it would not run beside a flood.
        command.args(["-c", "1"]).arg(&self.xtask).args(["load", "--to", to]);
        command.args(["--rate", &rate.to_string(), "--seconds", &seconds.to_string()]);
        command
    }

    fn sent(&self, command: &mut Command) -> Result<Sent> {
        let said = ask(command)?;
        serde_json::from_str(&said).with_context(|| format!("the load wrote `{}`, which is no figure", said.trim()))
    }
}
