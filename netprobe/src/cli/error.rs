//! What the user is told of a failure, and the exit codes.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::render::escape;

/// Nothing went wrong.
pub const EXIT_OK: u8 = 0;
/// A finding (`why`).
pub const EXIT_FINDING: u8 = 1;
/// An error, or a command line that makes no sense.
pub const EXIT_ERROR: u8 = 2;

/// Not all nodes that were to be watched were seen.
pub const EXIT_NOT_ALL: u8 = 3;

/// A failure of which everything was said.
#[derive(Debug)]
pub struct Silently;

impl fmt::Display for Silently {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it failed as was said")
    }
}

impl std::error::Error for Silently {}

/// Some nodes could not be watched, or not to the end.
#[derive(Debug)]
pub struct NotAll {
    /// Their names.
    pub unseen: Vec<String>,
    /// How many were to be watched.
    pub of: usize,
}

impl fmt::Display for NotAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unseen, of } = self;
        write!(
            f,
            "not all is told: {} of {of} nodes could not be watched to the end: {}",
            unseen.len(),
            unseen.join(", ")
        )
    }
}

impl std::error::Error for NotAll {}

/// What this program is called by who runs it: kubectl runs what is named `kubectl-netprobe` as `kubectl netprobe`.
#[must_use]
pub fn program() -> &'static str {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(Path::file_stem).and_then(OsStr::to_str);
    if name == Some("kubectl-netprobe") { "kubectl netprobe" } else { "netprobe" }
}

/// What the user can do about a failure, where we know.
#[must_use]
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    use nix::errno::Errno;

    let os = error.chain().find_map(|cause| {
        cause.downcast_ref::<io::Error>().map(io::Error::kind).or_else(|| {
            let errno = *cause.downcast_ref::<Errno>()?;
            Some(io::Error::from(errno).kind())
        })
    })?;
    let text = format!("{error:#}");
    match os {
        // The verifier's last line. Its refusal is EACCES or EINVAL, and no privilege changes it.
        _ if text.contains(" insns (limit ") => {
            Some("report this kernel's release and the message: its verifier is the cause")
        }
        ErrorKind::PermissionDenied => {
            Some("run as root, or grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_NET_BROADCAST")
        }
        ErrorKind::NotFound if text.contains("/sys/kernel/btf") => Some("the kernel needs CONFIG_DEBUG_INFO_BTF=y"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("make room, or name a file on another disk"),
        _ => None,
    }
}

/// The reader of our output has gone away: no failure.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe))
}

/// The lines on stderr for a failure: what, and what to do.
#[must_use]
pub fn lines(error: &anyhow::Error) -> String {
    let what = format!("{}: {}", program(), escape(&format!("{error:#}")));
    match advice(error) {
        Some(advice) => format!("{what}\n  try: {advice}"),
        None => what,
    }
}

/// Ends a run: quietly where all went well or the reader has gone, else with one line on stderr.
#[must_use]
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    exit_with(result.map(|()| ExitCode::from(EXIT_OK)))
}

/// The same for a command with an exit code of its own.
#[must_use]
pub fn exit_with(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::from(EXIT_OK),
        Err(error) if error.is::<Silently>() => ExitCode::from(EXIT_ERROR),
        Err(error) => {
            eprintln!("{}", lines(&error));
            ExitCode::from(if error.is::<NotAll>() { EXIT_NOT_ALL } else { EXIT_ERROR })
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn failed(kind: ErrorKind, doing: &'static str) -> anyhow::Error {
        Err::<(), _>(io::Error::from(kind)).context(doing).expect_err("it is an error")
    }

    #[test]
    fn a_missing_privilege_says_which() {
        assert_eq!(
            lines(&failed(ErrorKind::PermissionDenied, "load kfree_skb")),
            "netprobe: load kfree_skb: permission denied\n  \
             try: run as root, or grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_NET_BROADCAST"
        );
    }

    #[test]
    fn what_the_verifier_refuses_is_no_missing_privilege() {
        let error =
            failed(ErrorKind::PermissionDenied, "load x: too large\nprocessed 9 insns (limit 1000000) total_states 1");
        assert!(
            lines(&error).ends_with("try: report this kernel's release and the message: its verifier is the cause")
        );
    }

    #[test]
    fn advice_is_given_only_where_it_fits() {
        assert_eq!(advice(&failed(ErrorKind::NotFound, "open pods.json")), None);
        assert!(advice(&failed(ErrorKind::NotFound, "read /sys/kernel/btf/vmlinux")).is_some());
        assert_eq!(advice(&anyhow::anyhow!("no pod `web-9`")), None);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert!(is_broken_pipe(&failed(ErrorKind::BrokenPipe, "write")));
        assert!(!is_broken_pipe(&failed(ErrorKind::StorageFull, "write")));
    }
}
