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

    fn sender(&self, from: &str, to: &str, rate: u64, seconds: f64) -> Command {
        let mut command = inside(from, "taskset");
        command.args(["-c", "0"]).arg(&self.xtask).args(["load", "--to", to]);
        command.args(["--rate", &rate.to_string(), "--seconds", &seconds.to_string()]);
        command
    }

    fn sent(&self, command: &mut Command) -> Result<Sent> {
        let said = ask(command)?;
        serde_json::from_str(&said).with_context(|| format!("the load wrote `{}`, which is no figure", said.trim()))
    }
}
