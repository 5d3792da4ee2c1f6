//! The socket on which the kernel tells what changes, in the node and in all namespaces that the
//! node has a number for (`NETLINK_LISTEN_ALL_NSID`).
//!
//! One socket instead of one in each namespace: a socket in a pod's namespace would keep it, and
//! the pod's veth on the node, alive after the pod is gone.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use libc::{
    NETLINK_LISTEN_ALL_NSID, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_NETCONF, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE, RTNLGRP_LINK, RTNLGRP_NEIGH,
    RTNLGRP_NSID, SOL_NETLINK,
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg, setsockopt, sockopt},
};

/// What is listened to: all that [`super::notify`] reads.
const GROUPS: [u32; 11] = [
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_NETCONF,
    RTNLGRP_NSID,
];

/// Bytes the kernel may queue for us. A pod's start makes some 40 messages of up to 2 KiB: this
/// is room for about 50 pods that start between two reads.
const QUEUE_BYTES: usize = 4 << 20;

/// Longer than any notification: the longest is a link with its statistics, about 2 KiB.
pub(super) const DATAGRAM_BYTES: usize = 32 << 10;

/// What was received.
pub(super) enum Heard {
    /// A datagram about the namespace that the node knows by this number (`None` is the node itself), and its length.
    Datagram(Option<i32>, usize),
    /// The queue was full, and the kernel dropped some.
    Overflow,
    /// Nothing more for now.
    Nothing,
}

/// The listening socket.
pub(super) struct Listener {
    socket: Socket,
}

impl Listener {
    /// Listens in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Without CAP_NET_ADMIN the limit of net.core.rmem_max holds.
        if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &QUEUE_BYTES)?;
        }
        socket.set_listen_all_namespaces(true)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket })
    }

    /// Takes the next datagram, if there is one, into a buffer of [`DATAGRAM_BYTES`].
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Heard> {
        let mut control = nix::cmsg_space!(libc::c_int);
        let mut iov = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        loop {
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = match recvmsg::<NetlinkAddr>(fd, &mut iov, Some(&mut control), flags) {
                Ok(message) => message,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Ok(Heard::Nothing),
                Err(Errno::ENOBUFS) => return Ok(Heard::Overflow),
                Err(error) => return Err(error.into()),
            };
            // Only the kernel tells facts; port 0 is its.
            if message.address.is_none_or(|from| from.pid() != 0) {
                continue;
            }
            let id = message.cmsgs()?.find_map(|control| namespace_id(&control));
            return Ok(Heard::Datagram(id, message.bytes));
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn namespace_id(control: &ControlMessageOwned) -> Option<i32> {
    match control {
        ControlMessageOwned::Unknown(other)
            if other.cmsg_header.cmsg_level == SOL_NETLINK
                && other.cmsg_header.cmsg_type == NETLINK_LISTEN_ALL_NSID =>
        {
            other.data_bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
        }
        _ => None,
    }
}
