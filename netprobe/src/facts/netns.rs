//! Network namespaces as handles: entered on a thread that ends afterwards, and let go soon.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};

/// An open network namespace. While this lives the kernel keeps the namespace and the links in it, and with them a deleted
/// pod's veth on the node: only the node's own is held for longer than a look.
#[derive(Debug)]
pub(super) struct Netns {
    file: File,
    /// Inode number in nsfs.
    pub(super) inum: u32,
}

impl Netns {
    /// Opens the file, which must be a namespace and not something else of that name.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inum = inum(&file.metadata()?)?;
        Ok(Self { file, inum })
    }

    /// Takes the calling thread into it, for good (`CAP_SYS_ADMIN` is needed).
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// The file, for `RTM_GETNSID`.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// nsfs gives each namespace a 32-bit inode number.
pub(super) fn inum(metadata: &Metadata) -> io::Result<u32> {
    u32::try_from(metadata.ino())
        .map_err(|_| io::Error::other(format!("inode {} is no namespace's: expected 32 bits", metadata.ino())))
}

/// Runs `f` inside each namespace in turn, on one thread of its own; sockets opened there stay bound to it.
///
/// Fails for a namespace that could not be entered (`CAP_SYS_ADMIN` is needed).
pub(super) fn visit<T: Send>(
    namespaces: &[&Netns],
    f: impl Fn(&Netns) -> io::Result<T> + Send + Sync,
) -> Vec<io::Result<T>> {
    let enter_and_run = |netns: &&Netns| {
        netns.enter()?;
        f(netns)
    };
    thread::scope(|scope| {
        let worker = scope.spawn(|| namespaces.iter().map(enter_and_run).collect());
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
