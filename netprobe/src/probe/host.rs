//! What is true of the host: kernel, names, clocks.

use std::{fs, io::BufReader, os::linux::fs::MetadataExt, thread};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

use super::{attach::give_memory_back, btf::KernelBtf, offsets};
use crate::model::{
    facts::HostFacts,
    symbols::{Symbols, Table},
};

/// Path of the namespace netprobe runs in. /proc/1 may be another one, or unreadable.
pub const OWN_NETNS: &str = "/proc/self/ns/net";

/// Reads the host's facts. `node` is what outputs call it; by default the host name.
///
/// # Errors
///
/// When /proc is not there.
pub fn read(btf: &KernelBtf, node: Option<String>) -> Result<HostFacts> {
    let uname = nix::sys::utsname::uname().context("ask for the kernel's name")?;
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    Ok(HostFacts {
        node: node.unwrap_or_else(|| text(uname.nodename())),
        kernel: text(uname.release()),
        drop_reasons: offsets::drop_reasons(btf),
        reset_reasons: offsets::reset_reasons(btf),
        wall_offset_ns: wall_offset_ns()?,
        node_netns: node_netns()?,
    })
}

/// Inode number of the namespace netprobe runs in.
///
/// # Errors
///
/// When /proc is not there.
pub fn node_netns() -> Result<u32> {
    let meta = fs::metadata(OWN_NETNS).with_context(|| format!("read {OWN_NETNS}; is /proc mounted?"))?;
    u32::try_from(meta.st_ino()).context("inode number of a namespace")
}

/// Nanoseconds on `CLOCK_MONOTONIC`, the clock of the programs.
///
/// # Panics
///
/// Never on Linux: the clock always exists.
#[must_use]
pub fn mono_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, nanoseconds)
}

fn nanoseconds(t: nix::sys::time::TimeSpec) -> u64 {
    u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
}

fn wall_offset_ns() -> Result<i64> {
    let wall = nanoseconds(clock_gettime(ClockId::CLOCK_REALTIME).context("read the wall clock")?);
    Ok(i64::try_from(wall)? - i64::try_from(mono_ns())?)
}

/// Begins to read the kernel's functions, which takes some tens of milliseconds that nobody need wait for. Empty where the
/// kernel hides their addresses.
#[must_use]
pub fn symbols() -> Symbols {
    // Whoever opens it decides what it shows: a capability that is given up later is still there.
    let file = fs::File::open("/proc/kallsyms");
    let read = || {
        let Ok(file) = file else { return Table::default() };
        let table = Table::parse(BufReader::with_capacity(1 << 16, file));
        // What the table grew through.
        give_memory_back();
        table
    };
    thread::spawn(read).into()
}
