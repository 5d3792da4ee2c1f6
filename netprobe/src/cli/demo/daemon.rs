//! A process that changes the network and goes on living, as a CNI's daemon does: netprobe can name it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    namespace::{Namespace, family, missing},
    scenes::DAEMON,
};

/// A process called [`DAEMON`] that did one thing; ends when dropped.
pub(super) struct Daemon {
    child: Child,
    /// `ip` ends when this closes.
    commands: Option<ChildStdin>,
}

impl Daemon {
    /// Does what `line` tells `ip` to do, inside `namespace`; the change is made when this returns.
    pub(super) fn start(namespace: &Namespace, directory: &Path, line: &str) -> Result<Self> {
        let program = directory.join(DAEMON);
        if !program.exists() {
            symlink(which("ip")?, &program).with_context(|| format!("make {}", program.display()))?;
        }
        let (v6, line) = family(line);
        // The kernel names a process after its file, `ip` takes its work from its first argument.
        let mut command = Command::new(&program);
        command.arg0("ip").arg(if v6 { "-6" } else { "-4" }).args(["-force", "-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = namespace.enter(|| command.spawn())?.map_err(|error| missing("ip", error))?;
        let (commands, complaints) = (child.stdin.take(), child.stderr.take());
        let mut daemon = Self { child, commands };
        let pipe = daemon.commands.as_mut().context("the daemon takes no commands")?;
        // `ip` says nothing of a command that worked, but complains of one that did not, at once:
        // the complaint of the second line says that the first is done.
        write!(pipe, "{line}\ndone?\n").with_context(|| format!("tell {DAEMON} `{line}`"))?;
        pipe.flush().with_context(|| format!("tell {DAEMON} `{line}`"))?;
        let mut words = Vec::new();
        for said in BufReader::new(complaints.context("the daemon does not complain")?).lines() {
            let said = said.with_context(|| format!("hear {DAEMON}"))?;
            match said.strip_prefix("Command failed -:") {
                Some("1") => bail!("`ip {line}` failed: {}", words.join("; ")),
                Some(_) => return Ok(daemon),
                None => words.push(said),
            }
        }
        bail!("`ip {line}` ended early: {}", words.join("; "))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

/// Where `program` is.
fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    let found = found.ok_or_else(|| missing(program, io::ErrorKind::NotFound.into()))?;
    fs::canonicalize(&found).with_context(|| format!("find {}", found.display()))
}
