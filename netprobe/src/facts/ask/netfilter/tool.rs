//! Tools of the system that list netfilter rules: those at hand or, in a container that has none, the host's.

use std::{
    fmt::{self, Display, Formatter},
    fs::{self, File, Metadata},
    io::{self, Read as _},
    iter::successors,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// Text taken of one listing, bytes: 20,000 rules are 3 MB; beyond this it is no firewall but an accident.
const LISTING_BYTES: u64 = 64 << 20;

/// Where tools of the system lie that a daemon's `PATH` may lack.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// A program.
#[derive(Debug)]
pub struct Tool {
    path: PathBuf,
    /// The host's mount namespace, where the program lies there.
    host: Option<File>,
}

impl Tool {
    /// The tool of this name.
    ///
    /// Fails where there is none, or where it cannot be known whether the host has it.
    pub(super) fn find(name: &str) -> Result<Self> {
        if let Some(path) = look_for(name) {
            return Ok(Self { path, host: None });
        }
        let Some(host) = host_mounts() else { bail!("{name} is not installed") };
        let path = on(&host, || look_for(name))
            .with_context(|| format!("{name} is not in this container, and the host's cannot be run"))?;
        let path = path.with_context(|| format!("{name} is neither in this container nor on the host"))?;
        Ok(Self { path, host: Some(host) })
    }

    /// It lies in the host's mount namespace, and we are in another.
    #[must_use]
    pub const fn is_hosts(&self) -> bool {
        self.host.is_some()
    }

    /// Runs it in the calling thread's network namespace and takes what it prints.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        let spawn = || {
            let mut command = Command::new(&self.path);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
        };
        let child = match &self.host {
            None => spawn(),
            Some(host) => on(host, spawn).and_then(|child| child),
        };
        let mut child = child.with_context(|| format!("run {self}"))?;
        let mut text = Vec::new();
        let taken = child.stdout.take().map_or(Ok(0), |out| out.take(LISTING_BYTES).read_to_end(&mut text));
        if matches!(taken, Ok(bytes) if bytes as u64 == LISTING_BYTES) {
            // It would wait for somebody to read the rest.
            child.kill().with_context(|| format!("stop {self}"))?;
        }
        let status = child.wait().with_context(|| format!("wait for {self}"))?;
        taken.with_context(|| format!("read from {self}"))?;
        if !status.success() && text.is_empty() {
            return Err(io::Error::other(format!("{self} {}: {status}", arguments.join(" "))).into());
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Display for Tool {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let whose = if self.host.is_some() { "the host's " } else { "" };
        write!(f, "{whose}{}", self.path.display())
    }
}

fn look_for(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_FOLDERS.iter().map(|folder| Path::new(folder).to_path_buf());
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The host's mount namespace, where this process has another: that of the nearest process above that is not in ours, which
/// is the container's runtime or, above all, the first process. None is seen in a container that has processes of its own.
fn host_mounts() -> Option<File> {
    let key = |file: &Metadata| (file.dev(), file.ino());
    let own = key(&fs::metadata("/proc/self/ns/mnt").ok()?);
    let above = successors(parent(std::process::id()), |pid| parent(*pid));
    let others = above.filter_map(|pid| File::open(format!("/proc/{pid}/ns/mnt")).ok());
    others.into_iter().find(|file| file.metadata().is_ok_and(|file| key(&file) != own))
}

/// The process that another was started by; nothing above the first one.
fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Does `work` where the files are those of this mount namespace, on a thread of its own: what it has of files it shares
/// with nobody, and it stays in the caller's other namespaces (`CAP_SYS_ADMIN`, `CAP_SYS_CHROOT`).
fn on<T: Send>(mounts: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let inside = || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(mounts, CloneFlags::CLONE_NEWNS)?;
        Ok(work())
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_nowhere_is_not_found() {
        assert!(Tool::find("netprobe-has-no-such-tool").is_err());
    }

    #[test]
    fn a_tool_here_is_named_by_its_path() {
        let tool = Tool::find("sh").expect("there is a shell");
        assert!(tool.to_string().starts_with('/'), "{tool}");
        assert_eq!(tool.run(&["-c", "echo told"]).expect("it runs"), "told\n");
        assert!(tool.run(&["-c", "exit 3"]).expect_err("it fails").to_string().contains("exit status: 3"));
    }
}
