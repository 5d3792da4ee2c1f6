//! One network namespace of ours: commands, settings and sockets inside it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    panic,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps the files that hold namespaces.
const DIRECTORY: &str = "/run/netns";

/// A network namespace with a name in /run/netns; deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// `None` once it is deleted.
    file: Option<File>,
}

impl Namespace {
    /// Makes the namespace `name`, with `lo` up.
    ///
    /// # Errors
    ///
    /// `ip` is missing, or refuses: no privileges, or the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        tool("ip", &["netns", "add", name], None)?;
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let namespace = Self { name: name.to_owned(), file: Some(file) };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name in /run/netns.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does `work` on a thread inside the namespace. Sockets made and processes started there stay in it.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered: no privileges, or it is deleted.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        let file = self.file.as_ref().with_context(|| format!("network namespace {} is deleted", self.name))?;
        let inside = || {
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter network namespace {}", self.name))?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    }

    /// Runs `program` inside and returns what it printed.
    ///
    /// # Errors
    ///
    /// It is missing, or fails; with its words.
    pub fn run(&self, program: &str, args: &[&str], stdin: Option<&str>) -> Result<String> {
        self.enter(|| tool(program, args, stdin))?
    }

    /// Runs `ip` with the words of `line`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn ip(&self, line: &str) -> Result<()> {
        let args: Vec<_> = line.split_whitespace().collect();
        self.run("ip", &args, None).map(drop)
    }

    /// Runs `ip` with a command in each line, those that begin with `-6` after the others.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); what came before the bad line is done.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        // Inside a batch `ip` takes no options.
        let (v6, any): (Vec<_>, Vec<_>) = lines.lines().map(family).partition(|(v6, _)| *v6);
        let text = |lines: Vec<(bool, &str)>| lines.iter().map(|(_, line)| format!("{line}\n")).collect::<String>();
        if !any.is_empty() {
            self.run("ip", &["-batch", "-"], Some(&text(any)))?;
        }
        if !v6.is_empty() {
            self.run("ip", &["-6", "-batch", "-"], Some(&text(v6)))?;
        }
        Ok(())
    }

    /// Writes a setting, named in slashes: `ipv4/ip_forward`. A device's name may hold dots.
    ///
    /// # Errors
    ///
    /// There is no such setting here, or it does not take `value`.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("write {value} to {}", path.display()))
    }

    /// Deletes the namespace; what runs or listens in it keeps it alive without a name.
    ///
    /// # Errors
    ///
    /// `ip` refuses.
    pub fn delete(&mut self) -> Result<()> {
        match self.file.take() {
            Some(_) => delete(&self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            log::warn!("{error:#}");
        }
    }
}

/// Whether `line` begins with `-6`, and what follows.
pub(super) fn family(line: &str) -> (bool, &str) {
    line.strip_prefix("-6 ").map_or((false, line), |rest| (true, rest))
}

fn delete(name: &str) -> Result<()> {
    tool("ip", &["netns", "del", name], None).map(drop)
}

/// Deletes the namespaces of runs that died: those named `<prefix><pid>-..` whose process is gone.
pub fn sweep(prefix: &str) {
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(prefix).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        let gone = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        if pid.is_some_and(gone)
            && let Err(error) = delete(&name)
        {
            log::warn!("{error:#}");
        }
    }
}

/// Runs `program` to its end and returns what it printed.
///
/// # Errors
///
/// It is not installed, or fails; with its command line and words.
pub fn tool(program: &str, args: &[&str], stdin: Option<&str>) -> Result<String> {
    let input = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
    let child = Command::new(program)
        .args(args)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| missing(program, error))?;
    let output = feed(child, stdin).with_context(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words: Vec<_> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    bail!("`{program} {}` failed: {}", args.join(" "), words.join("; "))
}

fn feed(mut child: std::process::Child, stdin: Option<&str>) -> io::Result<std::process::Output> {
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A program that fails early closes its end; its own words say more than EPIPE.
        if let Err(error) = pipe.write_all(text.as_bytes())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(error);
        }
    }
    child.wait_with_output()
}

/// What to install for `program`.
pub(super) fn missing(program: &str, error: io::Error) -> anyhow::Error {
    if error.kind() != io::ErrorKind::NotFound {
        return anyhow::Error::new(error).context(format!("start {program}"));
    }
    let package = match program {
        "nft" => "nftables",
        "tc" | "ip" => "iproute2",
        other => other,
    };
    anyhow::anyhow!("`{program}` is not installed: install it (Debian: apt-get install {package})")
}
