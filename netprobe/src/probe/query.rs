//! Programs that others have attached: which, and where.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::programs::loaded_programs;

/// Where a program may be attached, by `enum bpf_attach_type` (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// Packets into a cgroup's sockets.
    CgroupIngress = 0,
    /// Packets out of a cgroup's sockets.
    CgroupEgress = 1,
    /// `connect()`, IPv4.
    Connect4 = 10,
    /// `connect()`, IPv6.
    Connect6 = 11,
    /// `sendmsg()` over UDP, IPv4.
    Sendmsg4 = 14,
    /// `sendmsg()` over UDP, IPv6.
    Sendmsg6 = 15,
    /// A device's ingress.
    TcxIngress = 46,
    /// A device's egress.
    TcxEgress = 47,
    /// A netkit device, its own side.
    NetkitPrimary = 54,
    /// A netkit device, for its peer.
    NetkitPeer = 55,
}

/// `BPF_PROG_QUERY`.
const PROG_QUERY: libc::c_long = 16;

/// Programs of one place that we ask for: more than 64 (`BPF_CGROUP_MAX_PROGS`) a cgroup does not take.
const PROGRAMS_MAX: usize = 64;

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses.
#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Ids of the programs attached to a cgroup itself (not those it inherits), in order.
///
/// # Errors
///
/// When the kernel does not know the place, or refuses.
pub fn on_cgroup(cgroup: BorrowedFd<'_>, place: Place) -> io::Result<Vec<u32>> {
    query(u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?, place)
}

/// Ids of the programs attached to a device of the calling thread's namespace, in order.
///
/// # Errors
///
/// When the kernel does not know the place, or refuses.
pub fn on_device(ifindex: u32, place: Place) -> io::Result<Vec<u32>> {
    query(ifindex, place)
}

fn query(target: u32, place: Place) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut query = Query {
        target,
        attach_type: place as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        _pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `query` is laid out as the kernel's union, whose size is passed, and `prog_ids` points to as many
    // numbers as `prog_cnt` says; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.into_iter().take(query.prog_cnt as usize).collect())
}

/// Names of all loaded programs, by id. Programs that go away meanwhile are left out.
#[must_use]
pub fn names() -> std::collections::BTreeMap<u32, String> {
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    loaded_programs().flatten().map(|info| (info.id(), name(info.name()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(on_device(u32::MAX, Place::TcxIngress).is_err());
    }
}
