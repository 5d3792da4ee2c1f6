//! What a guest runs on: this machine's programs with their libraries, the kernel's modules, and the stories.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{cpio::Archive, kernel::Unpacked};
use crate::shell::{ask, run as execute, which};

/// Programs that stories and netprobe call. `cargo xtask setup` installs the packages that hold them.
const PROGRAMS: &[&str] = &[
    "bash",
    "bpftool",
    "cat",
    "conntrack",
    "cut",
    "grep",
    "insmod",
    "ip",
    "ip6tables",
    "ip6tables-legacy",
    "ip6tables-legacy-save",
    "ip6tables-nft",
    "ip6tables-nft-save",
    "ip6tables-save",
    "iptables",
    "iptables-legacy",
    "iptables-legacy-save",
    "iptables-nft",
    "iptables-nft-save",
    "iptables-save",
    "ipvsadm",
    "nft",
    "rmmod",
    "sh",
    "sleep",
    "sort",
    "ss",
    "sysctl",
    "tc",
    "tcpdump",
    "tshark",
    "wg",
];

/// Files and folders that those programs read.
const FILES: &[&str] = &[
    "/etc/ethertypes",
    "/etc/group",
    "/etc/iproute2",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
    "/usr/lib/x86_64-linux-gnu/xtables",
];

/// Empty folders, most of them to mount on.
const FOLDERS: &[&str] = &["proc", "sys", "dev", "run", "tmp", "var/run", "root"];

/// Where the guest finds modules, in the order of their names.
pub(super) const MODULES: &str = "/modules";
/// Where the guest finds what it is to do.
pub(super) const PLAN: &str = "/plan.json";
/// The stories.
pub(super) const CASES: &str = "/bin/cases";
/// The program under test.
pub(crate) const NETPROBE: &str = "/bin/netprobe";
/// This program, which is the guest's first process.
pub(super) const XTASK: &str = "/bin/xtask";

/// What of ours goes into the guest.
pub(super) struct Contents<'a> {
    /// The command-line program.
    pub(super) netprobe: &'a Path,
    /// The stories.
    pub(super) cases: &'a Path,
    /// Programs of this machine beside those that stories call.
    pub(super) programs: &'a [&'a str],
    /// [`PLAN`].
    pub(super) plan: &'a str,
}

/// Writes the archive `path`.
pub(super) fn write(path: &Path, kernel: &Unpacked, contents: &Contents<'_>) -> Result<()> {
    let mut archive = Archive::create(path)?;
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    for (number, (name, module)) in kernel.modules()?.into_iter().enumerate() {
        archive.file(format!("{MODULES}/{number:03}-{name}.ko"), &module)?;
    }
    for file in FILES {
        copy(&mut archive, Path::new(file))?;
    }
    for name in PROGRAMS.iter().chain(contents.programs) {
        let file = which(name).with_context(|| format!("no {name} here; run `cargo xtask setup`"))?;
        program(&mut archive, &file, &format!("/bin/{name}"))?;
    }
    // This program as it runs: its file may be a newer one by now, which the tests before had built.
    let own = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let scratch = path.with_extension("stripped");
    for (file, to) in [(own.as_path(), XTASK), (contents.cases, CASES), (contents.netprobe, NETPROBE)] {
        // A guest has its files in memory.
        execute(Command::new("strip").arg("--strip-debug").arg("-o").arg(&scratch).arg(file))?;
        program(&mut archive, &scratch, to)?;
    }
    let _ = fs::remove_file(scratch);
    archive.file(PLAN, contents.plan.as_bytes())?;
    archive.end()
}

/// Adds a program and the libraries that it is linked with, those at the paths where the loader looks for them.
fn program<W: std::io::Write>(archive: &mut Archive<W>, file: &Path, to: &str) -> Result<()> {
    archive.file(to, &read(file)?)?;
    for library in libraries(file)? {
        if !archive.has(&library) {
            archive.file(&library, &read(&library)?)?;
        }
    }
    Ok(())
}

fn libraries(file: &Path) -> Result<BTreeSet<PathBuf>> {
    // It fails on what is statically linked.
    let Ok(said) = ask(Command::new("ldd").arg(file)) else { return Ok(BTreeSet::new()) };
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(said.lines().filter_map(path).collect())
}

/// Adds a file or a folder at its own place, if it is there.
fn copy<W: std::io::Write>(archive: &mut Archive<W>, path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
            copy(archive, &entry?.path())?;
        }
    } else if path.is_file() {
        archive.file(path, &read(path)?)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
