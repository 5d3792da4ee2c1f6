//! This program once more, as a process that outlives us and hears our end over a socket.

use std::{
    ffi::{CStr, OsString},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Child, Command, Stdio},
};

use nix::{
    sys::{prctl, signal::SigSet},
    unistd::{close, setsid},
};

/// Starts it with these words, of which the first says what it is to do, and with `socket` as its stdin.
pub(super) fn start(words: &[&str], socket: UnixStream) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg0("netprobe")
        .args(words)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// In the new process: neither the terminal nor whoever ends a whole group or service ends it before us.
pub(super) fn outlive(name: &CStr) -> io::Result<()> {
    SigSet::all().thread_block()?;
    setsid()?;
    close_inherited()?;
    Ok(prctl::set_name(name)?)
}

/// Closes what whoever started netprobe gave it beside stdin, stdout and stderr: a pipe held by us would never end.
fn close_inherited() -> io::Result<()> {
    let names: Vec<OsString> =
        fs::read_dir("/proc/self/fd")?.map(|file| Ok(file?.file_name())).collect::<io::Result<_>>()?;
    for fd in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|fd| *fd > 2) {
        // The directory's own is closed already.
        let _ = close(fd);
    }
    Ok(())
}
