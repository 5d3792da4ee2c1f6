//! What the programs tell user space: a [`Header`], then the payload its number names.

mod capture;
mod dns;
mod drop;
mod nat;
mod neighbour;
mod netlink;
mod owner;
mod path;
mod route;
mod tcp;
mod verdict;

pub use capture::{
    CAPTURED_AFTER_NAT, CAPTURED_BEFORE_NAT, CAPTURED_EGRESS, CAPTURED_FORMS, Captured, CapturedDrop, Forms,
};
pub use dns::DnsHead;
pub use drop::{IcmpSend, SkbDrop};
pub use nat::{NAT_DESTINATION, NAT_MASQUERADE, NAT_SOURCE, NatChoice};
pub use neighbour::{NEIGH_FAILED_TIMER, NEIGH_SEND, NEIGH_SEND_DEAD, NEIGH_UPDATE, Neighbour};
pub use netlink::NetlinkRequest;
pub use owner::{FlowOwner, OWNER_LISTENER, OWNER_SOCKET, OWNER_TASK};
pub use path::{Conntrack, Hop, PacketHead, Tuple};
pub use route::RouteLookup;
pub use tcp::{SendError, SocketState, SocketView, TcpReset, TcpRetransmit};
pub use verdict::{Invalid, TcpSeen, VERDICT_CONFIRM, VERDICT_NFT, VERDICT_UNKNOWN, VERDICT_XTABLES, Verdict};

use crate::wire::{self, Wire};

crate::wire! {
    /// Before every payload.
    pub struct Header {
        /// Number of the payload (`events!`).
        pub kind: u32,
        /// CPU that sent it.
        pub cpu: u32,
        /// Nanoseconds since boot on `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`). Stops during
        /// suspend. Comparable across CPUs of one host, never across hosts.
        pub mono_ns: u64,
        /// Process (thread group) that ran on the CPU. In a softirq it is whoever was interrupted.
        pub pid: u32,
        /// Zero.
        pub _pad: u32,
    }
}

/// A payload, tied to its number.
pub trait Payload: Wire {
    /// Its number on the wire.
    const KIND: u32;
}

/// A header and its payload, as they lie in the ring.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record<P> {
    /// Who, where, when.
    pub header: Header,
    /// What.
    pub payload: P,
}

/// Bytes that are no record of this layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than header or payload need: how many there were.
    Short(usize),
    /// A number that names no payload.
    Unknown(u32),
}

/// Declares the events: number, payload, and all that is derived from the list.
macro_rules! events {
    ($( $(#[$meta:meta])* $number:literal => $name:ident ),+ $(,)?) => {
        $( impl Payload for $name { const KIND: u32 = $number; }
           const _: () = assert!(size_of::<$name>() % 8 == 0, concat!(stringify!($name), ": size must be a multiple of 8")); )+

        /// A payload of any kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $( $(#[$meta])* $name($name) ),+ }

        /// Names of the events, in order of their numbers.
        pub const NAMES: &[(u32, &str)] = &[ $( ($number, stringify!($name)) ),+ ];

        /// Reads header and payload from `bytes`.
        ///
        /// # Errors
        ///
        /// Returns what is wrong with bytes that are too short or of an unknown kind.
        pub fn parse(bytes: &[u8]) -> Result<(Header, Event), Malformed> {
            let short = || Malformed::Short(bytes.len());
            let header: Header = wire::read(bytes).ok_or_else(short)?;
            let rest = bytes.get(size_of::<Header>()..).ok_or_else(short)?;
            let event = match header.kind {
                $( $number => Event::$name(wire::read(rest).ok_or_else(short)?), )+
                other => return Err(Malformed::Unknown(other)),
            };
            Ok((header, event))
        }
    };
}

events! {
    /// The kernel freed a packet it did not deliver.
    1 => SkbDrop,
    /// A packet crossed a device or ended its way.
    2 => Hop,
    /// The kernel looked a route up.
    3 => RouteLookup,
    /// TCP sent a segment again.
    4 => TcpRetransmit,
    /// TCP sent or received a reset.
    5 => TcpReset,
    /// A TCP socket changed its state.
    6 => SocketState,
    /// A process could not send.
    9 => SendError,
    /// A neighbour entry changed or failed.
    7 => Neighbour,
    /// The kernel sent an ICMP error about a packet.
    8 => IcmpSend,
    /// A netfilter hook ended a packet's way.
    10 => Verdict,
    /// A process asked for a change of links, addresses, routes, rules or neighbours.
    11 => NetlinkRequest,
    /// A flow of the node belongs to a process of a followed cgroup.
    12 => FlowOwner,
    /// NAT chose an address for a connection.
    13 => NatChoice,
    /// A pod sent or received a DNS message.
    20 => DnsHead,
}
