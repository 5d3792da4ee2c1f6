//! The two places where an agent listens.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv6Addr, SocketAddr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::render::escape;

/// Both, and what keeps others from the socket.
pub(super) struct Listeners {
    pub(super) http: TcpListener,
    pub(super) socket: UnixListener,
    pub(super) held: Held,
}

/// The socket's file, removed at the end, and the lock beside it: the kernel lets go of it however we end.
pub(super) struct Held {
    path: PathBuf,
    _lock: Flock<fs::File>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("remove {}: {error}", self.path.display());
        }
    }
}

impl Listeners {
    /// Takes both.
    ///
    /// # Errors
    ///
    /// The address is in use, another agent has the socket, or its folder cannot be made.
    pub(super) fn open(listen: SocketAddr, socket: &Path) -> Result<Self> {
        let http = TcpListener::bind(listen).with_context(|| match listen.port() {
            _ if listen.ip().is_loopback() => format!("listen at {listen}; name another port with --listen"),
            _ => format!("listen at {listen}; name an address of this node and a free port with --listen"),
        })?;
        http.set_nonblocking(true).context("listen without waiting")?;
        let (socket, held) = unix(socket)?;
        Ok(Self { http, socket, held })
    }
}

/// `ADDR:PORT`. Brackets may be missing about an IPv6 address, as Kubernetes gives it (`$(NODE_IP):9799`): the port is never
/// missing, so that it is what follows the last colon.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = || {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(ip.parse::<Ipv6Addr>().ok()?.into(), port.parse().ok()?))
    };
    text.parse().ok().or_else(bare).ok_or_else(|| "write ADDR:PORT, ADDR an IP address of this node".to_owned())
}

fn unix(path: &Path) -> Result<(UnixListener, Held)> {
    let name = escape(&path.to_string_lossy()).into_owned();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("make the folder of the socket {name}"))?;
    }
    let lock = lock(&path.with_extension("lock"), &name)?;
    // Nobody lives behind it: who does holds the lock.
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            fs::remove_file(path).with_context(|| format!("remove the old socket {name}"))?;
        }
        Ok(_) => bail!("{name} is there and is no socket: name another path with --socket"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("look for the socket {name}")),
    }
    let socket = UnixListener::bind(path).with_context(|| format!("make the socket {name}"))?;
    let held = Held { path: path.to_owned(), _lock: lock };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(|| format!("keep {name} to root"))?;
    socket.set_nonblocking(true).context("listen without waiting")?;
    Ok((socket, held))
}

fn lock(path: &Path, name: &str) -> Result<Flock<fs::File>> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("make the lock of the socket {name}"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            bail!("another agent serves {name}: end it, or name another path with --socket")
        }
        Err((_, errno)) => Err(io::Error::from(errno)).with_context(|| format!("lock the socket {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_needs_no_brackets_before_its_port() {
        for (text, meant) in [
            ("127.0.0.1:9799", "127.0.0.1:9799"),
            ("[fd00::7]:9799", "[fd00::7]:9799"),
            ("fd00::7:9799", "[fd00::7]:9799"),
            ("2001:db8:1:2:3:4:5:6:80", "[2001:db8:1:2:3:4:5:6]:80"),
            (":::9799", "[::]:9799"),
            ("::ffff:10.0.0.7:9799", "[::ffff:10.0.0.7]:9799"),
        ] {
            assert_eq!(address(text), Ok(meant.parse().expect("an address and a port")), "{text}");
        }
        for text in ["", ":9799", "10.0.0.7", "10.0.0.7:", "10.0.0.7:65536", "fd00::7:", "fd00::7:99999", "node:9799"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("netprobe-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder");
        path
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = folder("stale");
        let path = folder.join("run").join("agent.sock");
        drop(UnixListener::bind({
            fs::create_dir(folder.join("run")).expect("a folder");
            &path
        }));
        let (_socket, held) = unix(&path).expect("nobody lives behind it");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let error = unix(&path).map(drop).expect_err("somebody does");
        assert!(error.to_string().contains("another agent serves"), "{error:#}");
        drop(held);
        assert!(!path.exists());
        unix(&path).map(drop).expect("it is free");
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = folder("file");
        let path = folder.join("agent.sock");
        fs::write(&path, "mine").expect("a file");
        let error = unix(&path).map(drop).expect_err("it is no socket");
        assert!(error.to_string().contains("is no socket"), "{error:#}");
        assert_eq!(fs::read(&path).expect("it is there"), b"mine");
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn the_folder_is_made_for_root_alone() {
        let folder = folder("folder");
        let (_socket, _held) = unix(&folder.join("new/agent.sock")).expect("all is made");
        let mode = fs::metadata(folder.join("new")).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        fs::remove_dir_all(folder).expect("clean up");
    }
}
