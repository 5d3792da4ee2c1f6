//! A process that has our links when we end, so that we end at once.
//!
//! To take one program off a device the kernel waits until no CPU is within it (`tcx_link_release`, `kernel/bpf/tcx.c`):
//! some 10 ms, with the lock of all devices held, so that several threads take as long as one. 500 links take five seconds,
//! and a process that just exits waits as well: its links are closed before it is gone. So what has many leaves them in a
//! socket, of which the other end is this program again, with [`WORD`]. It waits for our end, then ends itself, and the
//! links go with the socket. Should it be killed before, nothing is lost: the kernel closes what it holds.

use std::{
    env, fs,
    io::{self, IoSlice},
    os::{
        fd::{AsFd as _, AsRawFd as _, IntoRawFd as _, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
};

use super::again;

/// First word of the heir's command line.
const WORD: &str = "--heir";
/// Descriptors in one message (`SCM_MAX_FD`, `include/net/scm.h`).
const MESSAGE_FDS: usize = 253;

/// Leaves this process' links to an heir. What was left is closed by us as before, which then takes no time.
///
/// # Errors
///
/// When no process can be started, or too many descriptors are under way: the links are still ours then.
pub(super) fn leave_links() -> Result<()> {
    let links = links().context("look for the links")?;
    let (ours, theirs) = UnixStream::pair().context("make its socket")?;
    for links in links.chunks(MESSAGE_FDS) {
        let message = [ControlMessage::ScmRights(links)];
        sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(b"l")], &message, MsgFlags::MSG_DONTWAIT, None)
            .context("hand the links over")?;
    }
    again::start(&[WORD], theirs).context("start it")?;
    // Closed by our end.
    let _ = ours.into_raw_fd();
    Ok(())
}

/// Our descriptors of TCX links. Links to tracepoints are closed at once.
fn links() -> io::Result<Vec<RawFd>> {
    let mut links = Vec::new();
    for file in fs::read_dir("/proc/self/fd")? {
        let path = file?.path();
        let is_link = fs::read_link(&path).is_ok_and(|target| target == Path::new("anon_inode:bpf_link"));
        let fd = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let Some(fd) = fd.filter(|_| is_link) else { continue };
        if fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?.lines().any(|line| line == "link_type:\ttcx") {
            links.push(fd);
        }
    }
    Ok(links)
}

/// The heir's own run, if that is what the command line asks for.
#[must_use]
pub fn run() -> Option<ExitCode> {
    (env::args_os().nth(1)? == WORD).then_some(())?;
    Some(match wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn wait() -> Result<()> {
    again::outlive(c"netprobe-heir")?;
    let stdin = io::stdin();
    // The end alone: to read is to take the links out.
    let mut ends = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    poll(&mut ends, PollTimeout::NONE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_link_is_not_left() {
        let _file = fs::File::open("/proc/self/stat").expect("it is there");
        assert_eq!(links().expect("/proc is there"), Vec::<RawFd>::new());
    }
}
