//! One thing the kernel said of one packet (or of the network), in host types.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{dns::Message, flow::Flow, invalid::Invalid, nat::NatChoice};

/// `Record`, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub mono_ns: u64,
    /// CPU that saw it.
    pub cpu: u32,
    /// Process that ran on that CPU; in a softirq whoever was interrupted.
    pub pid: u32,
    /// Namespace it happened in, 0 where unknown.
    pub netns: u32,
    /// Device, 0 where none.
    pub ifindex: u32,
    /// What happened.
    pub what: What,
}

/// Where on its way through a device a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A device received it.
    Receive,
    /// It was given to the device's queueing discipline.
    Queue,
    /// It was given to the driver: it left.
    Transmit,
    /// It was freed because it had arrived.
    Consume,
}

/// TCP flags, as in the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    #[must_use]
    pub const fn fin(self) -> bool {
        self.0 & 1 != 0
    }
    /// SYN.
    #[must_use]
    pub const fn syn(self) -> bool {
        self.0 & 2 != 0
    }
    /// RST.
    #[must_use]
    pub const fn rst(self) -> bool {
        self.0 & 4 != 0
    }
    /// PSH.
    #[must_use]
    pub const fn psh(self) -> bool {
        self.0 & 8 != 0
    }
    /// ACK.
    #[must_use]
    pub const fn ack(self) -> bool {
        self.0 & 16 != 0
    }
    /// SYN without ACK: opens a connection.
    #[must_use]
    pub const fn opens(self) -> bool {
        self.syn() && !self.ack()
    }
}

impl fmt::Display for TcpFlags {
    /// `SYN`, `SYN,ACK`, `RST`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            [(self.syn(), "SYN"), (self.fin(), "FIN"), (self.rst(), "RST"), (self.psh(), "PSH"), (self.ack(), "ACK")];
        let set: Vec<_> = names.iter().filter(|(on, _)| *on).map(|(_, n)| *n).collect();
        f.write_str(&set.join(","))
    }
}

/// What was read of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Five-tuple at this moment; `None` where the packet is not IP.
    pub flow: Option<Flow>,
    /// EtherType, host order.
    pub ether_type: u16,
    /// Address of the `sk_buff`: no identity alone.
    pub skb: u64,
    /// Device it came in by, 0 where it was sent here.
    pub in_ifindex: u32,
    /// Firewall mark.
    pub mark: u32,
    /// Flow hash, 0 where not computed.
    pub hash: u32,
    /// `skb->len`, bytes.
    pub len: u32,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// TCP window field, unscaled.
    pub window: u16,
    /// TCP flags.
    pub flags: TcpFlags,
    /// TTL or hop limit.
    pub ttl: u8,
    /// ICMP type and code, where it is ICMP.
    pub icmp: Option<(u8, u8)>,
    /// Payload bytes behind the TCP or UDP header.
    pub payload: u32,
    /// IP length, bytes.
    pub ip_len: u32,
}

/// A packet's conntrack entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Direction of the first packet, before translation.
    pub original: Flow,
    /// What an answer must carry.
    pub reply: Flow,
    /// Address of the entry.
    pub entry: u64,
    /// `enum ip_conntrack_status` bits.
    pub status: u32,
    /// `enum ip_conntrack_info`.
    pub info: u32,
    /// Zone.
    pub zone: u32,
}

impl Conntrack {
    /// Source address or port is translated.
    #[must_use]
    pub fn snat(&self) -> bool {
        self.reply.dst != self.original.src
    }
    /// Destination address or port is translated.
    #[must_use]
    pub fn dnat(&self) -> bool {
        self.reply.src != self.original.dst
    }
}

/// What a route look-up was for, as its callers on the stack say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LookupRole {
    /// Where does a received packet go?
    Input,
    /// By which device would an answer to the received packet's source go? (`fib_validate_source`)
    ReversePath,
    /// Where does a packet of our own go?
    Output,
    /// Something else: address type checks, ARP, netlink queries.
    Other,
}

/// Who dropped a packet in a netfilter hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judge {
    /// It could not be seen.
    Unknown,
    /// A base chain of nftables, or one that it jumped to. iptables-nft makes such chains, too.
    Nftables {
        /// Family of the table: `ip`, `ip6`, `inet`, `netdev`, `bridge`.
        family: &'static str,
        /// Table.
        table: Arc<str>,
        /// The base chain.
        chain: Arc<str>,
    },
    /// A table of x_tables (iptables-legacy), entered in its built-in chain of the hook.
    Xtables {
        /// `ip` or `ip6`.
        family: &'static str,
        /// Table.
        table: Arc<str>,
    },
    /// Conntrack: the connection could not be entered, mostly because another packet of it was faster.
    Conntrack,
}

/// A packet that a tunnel's packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its flow.
    pub flow: Flow,
    /// Number of the tunnel's network (VNI); 0 where the tunnel has none.
    pub vni: u32,
}

/// What the kernel did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The packet crossed a device, or arrived.
    Hop {
        /// Where.
        place: Place,
        /// The packet.
        head: Head,
        /// Its conntrack entry.
        ct: Option<Conntrack>,
        /// For ICMP errors: the flow they are about.
        inner: Option<Flow>,
        /// Packets of this flow seen here on this CPU so far.
        seen: u64,
    },
    /// The packet was dropped.
    Dropped {
        /// The packet.
        head: Head,
        /// Its conntrack entry.
        ct: Option<Conntrack>,
        /// The kernel's drop reason (`NETFILTER_DROP`), without `SKB_DROP_REASON_`.
        reason: Arc<str>,
        /// Function that freed it.
        site: Arc<str>,
        /// Callers, innermost first, functions only.
        stack: Vec<Arc<str>>,
        /// Preference of the tc filter that dropped it, where the kernel told it.
        filter: Option<u16>,
        /// Drops of this row (namespace, device, reason, place, owner) so far on this CPU.
        seen: u64,
        /// The packet inside, where it is a tunnel's.
        carried: Option<Carried>,
    },
    /// A routing table was asked.
    Lookup {
        /// What was asked.
        flow: Flow,
        /// The packet it is about, where it is being received.
        skb: u64,
        /// Table id.
        table: u32,
        /// 0 or an errno (negative).
        err: i32,
        /// Input device asked for, 1 for output.
        in_ifindex: u32,
        /// Device of the route found, 0 on a miss. The packet's `ifindex` is this too.
        out_ifindex: u32,
        /// Gateway, `None` on-link or on a miss.
        gateway: Option<IpAddr>,
        /// Firewall mark.
        mark: u32,
        /// What it was for.
        role: LookupRole,
        /// The namespace is inferred, not told by the kernel.
        inferred: bool,
        /// Preference of the policy rule that led to this table, where the kernel told it.
        rule: Option<u32>,
    },
    /// A netfilter hook dropped the packet that was just told of as dropped.
    Verdict {
        /// The packet as it was dropped.
        flow: Flow,
        /// Address of the `sk_buff`, as the drop has it.
        skb: u64,
        /// `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
        hook: &'static str,
        /// Output device, 0 where none. The packet's `ifindex` is the input device, where there is one.
        out_ifindex: u32,
        /// Who said so.
        judge: Judge,
        /// What conntrack had held against it, where it called the segment INVALID and the kernel told.
        invalid: Option<Invalid>,
    },
    /// A process asked for a change of links, addresses, routes, rules or neighbours; it is the packet's `pid`.
    Request {
        /// Netlink port id, which the notification of the change has too.
        port_id: u32,
        /// Its name.
        comm: Arc<str>,
    },
    /// A flow of the node belongs to a process of a followed cgroup.
    Owned {
        /// The flow; the process's end is its source.
        flow: Flow,
        /// Number of the cgroup (version 2).
        cgroup: u64,
        /// The process was only running when a route was looked up for it.
        by_task: bool,
    },
    /// NAT chose an address for a connection.
    Nat(NatChoice),
    /// TCP sent a segment again.
    Retransmit {
        /// The sender's flow.
        flow: Flow,
        /// Socket state, as the kernel names it (`SYN_SENT`).
        state: &'static str,
        /// Time-outs in a row so far; 0 where it was sent again on an early guess, or where that is unknown.
        timeouts: u32,
    },
    /// TCP sent or received a reset.
    Reset {
        /// The flow of the end that sends or receives it.
        flow: Flow,
        /// It was sent (else received).
        sent: bool,
        /// A socket was there.
        socket: bool,
        /// The kernel's reset reason, empty where it has none.
        reason: Arc<str>,
        /// Socket state.
        state: &'static str,
    },
    /// A process could not send, and there may be no packet.
    SendError {
        /// The socket's flow; a destination that only the call named comes from the look-up before it.
        flow: Flow,
        /// What the process got, a positive errno.
        err: u32,
        /// Current task's name.
        comm: Arc<str>,
    },
    /// A TCP socket changed its state.
    State {
        /// The socket's flow.
        flow: Flow,
        /// Before.
        old: &'static str,
        /// After.
        new: &'static str,
        /// Error the process will get, a positive errno or 0.
        err: u32,
        /// Current task's name.
        comm: Arc<str>,
    },
    /// A neighbour entry changed or failed.
    Neighbour {
        /// The neighbour.
        ip: IpAddr,
        /// Its link-layer address, empty where unresolved.
        mac: String,
        /// Its new link-layer address, where it is about to change.
        new_mac: Option<String>,
        /// The entry has failed: nobody answered.
        failed: bool,
        /// A packet waits for it.
        waiting: bool,
    },
    /// A pod sent or received a DNS message.
    Dns {
        /// The packet's flow.
        flow: Flow,
        /// Received or transmitted.
        place: Place,
        /// The message; `None` where its beginning made no sense.
        message: Option<Message>,
        /// Packets of this flow seen here on this CPU so far: of many some are left out. 0 where none is.
        seen: u64,
    },
    /// The kernel sends an ICMP error about the packet.
    IcmpSent {
        /// The packet it is about.
        head: Head,
        /// Its conntrack entry.
        ct: Option<Conntrack>,
        /// ICMP type and code.
        icmp: (u8, u8),
        /// Callers, innermost first.
        stack: Vec<Arc<str>>,
    },
}

impl What {
    /// The five-tuple whose ends it is between: of a tunnel's packet, that of the one inside.
    #[must_use]
    pub const fn ends(&self) -> Option<Flow> {
        match self {
            Self::Dropped { carried: Some(carried), .. } => Some(carried.flow),
            _ => self.flow(),
        }
    }

    /// The five-tuple it is about, where it has one.
    #[must_use]
    pub const fn flow(&self) -> Option<Flow> {
        match self {
            Self::Hop { head, .. } | Self::Dropped { head, .. } | Self::IcmpSent { head, .. } => head.flow,
            Self::Lookup { flow, .. }
            | Self::Verdict { flow, .. }
            | Self::Retransmit { flow, .. }
            | Self::Reset { flow, .. }
            | Self::State { flow, .. }
            | Self::SendError { flow, .. }
            | Self::Dns { flow, .. } => Some(*flow),
            Self::Nat(choice) => Some(choice.original),
            Self::Neighbour { .. } | Self::Request { .. } | Self::Owned { .. } => None,
        }
    }
}
