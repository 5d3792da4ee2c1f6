//! `struct sock`.

use netprobe_common::{event::SocketView, flow::mapped};

use super::{device::inum, has, offset, probe, probe_into, typed};

/// A checked pointer to a `struct sock`.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const u8);

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV` (`include/net/tcp_states.h`).
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;

impl Sock {
    /// Wraps a tracepoint's argument; none where it is null.
    #[inline(always)]
    pub(crate) fn new(pointer: *const u8) -> Option<Self> {
        if pointer.is_null() { None } else { Some(Self(pointer)) }
    }

    /// Namespace inode number.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        inum(typed(self.0, offset!(sk_net)))
    }

    /// `sk_err`.
    #[inline(always)]
    pub(crate) fn error(self) -> u32 {
        typed(self.0, offset!(sk_err))
    }

    /// Number of its cgroup (version 2), 0 where it has none. A connection that is being opened has that of its listener.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        if !has!(sk_cgroup) || !has!(cgroup_kn) || !has!(kernfs_id) {
            return 0;
        }
        match typed::<u8>(self.0, offset!(sk_state)) {
            // Only a part of a socket, without a cgroup.
            TIME_WAIT => 0,
            NEW_SYN_RECV if has!(sk_listener) => {
                let listener: u64 = probe(self.0 as u64, offset!(sk_listener));
                let cgroup: u64 = probe(listener, offset!(sk_cgroup));
                probe(probe(cgroup, offset!(cgroup_kn)), offset!(kernfs_id))
            }
            NEW_SYN_RECV => 0,
            _ => {
                let cgroup: *const u8 = typed(self.0, offset!(sk_cgroup));
                let node: *const u8 = typed(cgroup, offset!(cgroup_kn));
                typed(node, offset!(kernfs_id))
            }
        }
    }

    /// How often in a row it sent its oldest segment again because no acknowledgement came in time.
    #[inline(always)]
    pub(crate) fn timeouts(self) -> u32 {
        if !has!(icsk_retransmits) {
            return 0;
        }
        u32::from(probe::<u8>(self.0 as u64, offset!(icsk_retransmits)))
    }

    /// Its local port. A socket that is being closed has given back the port it was bound to, but still knows which
    /// it was; one that never got a port has none.
    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        let bound: u16 = typed(self.0, offset!(sk_num));
        if bound != 0 || !has!(inet_sport) {
            return bound;
        }
        // Behind the end of `struct sock`, where only a copy may read.
        u16::from_be(probe(self.0 as u64, offset!(inet_sport)))
    }

    /// The same of a socket of any protocol; none of a family that is not IP.
    #[inline(always)]
    pub(crate) fn datagram_view(self) -> Option<SocketView> {
        let mut view = self.view();
        // Only IP sockets are given a family.
        if view.flow.family == 0 {
            return None;
        }
        view.flow.proto = typed::<u16>(self.0, offset!(sk_protocol)) as _;
        Some(view)
    }

    /// Addresses, ports, namespace and state.
    #[inline(always)]
    pub(crate) fn view(self) -> SocketView {
        let mut view: SocketView = netprobe_common::wire::zeroed();
        let family: u16 = typed(self.0, offset!(sk_family));
        view.netns = self.netns();
        view.state = u32::from(typed::<u8>(self.0, offset!(sk_state)));
        view.flow.proto = 6;
        view.flow.sport = self.local_port();
        view.flow.dport = u16::from_be(typed(self.0, offset!(sk_dport)));
        if family == AF_INET6 && has!(sk_daddr6) {
            probe_into(&raw mut view.flow.src, self.0 as u64, offset!(sk_saddr6));
            probe_into(&raw mut view.flow.dst, self.0 as u64, offset!(sk_daddr6));
            // A v6 socket that talks IPv4 carries mapped addresses: it is an IPv4 flow.
            view.flow.family = if mapped_prefix(&view.flow.dst) { 4 } else { 6 };
        } else if family == AF_INET {
            view.flow.family = 4;
            view.flow.src = mapped(typed::<u32>(self.0, offset!(sk_saddr)).to_ne_bytes());
            view.flow.dst = mapped(typed::<u32>(self.0, offset!(sk_daddr)).to_ne_bytes());
        }
        view
    }
}

#[inline(always)]
fn mapped_prefix(address: &[u8; 16]) -> bool {
    let (high, low) = netprobe_common::flow::words(address);
    high == 0 && (low as u32) == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}
