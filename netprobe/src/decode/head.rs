//! Wire structs to host types.

use std::net::SocketAddr;

use netprobe_common::{
    config::{PLACE_CONSUME, PLACE_QUEUE, PLACE_RECEIVE},
    event::{self, PacketHead, Tuple},
    flow::FlowKey,
};

use crate::model::{
    flow::{Flow, Proto, address},
    packet::{Conntrack, Head, Place, TcpFlags},
};

/// TCP states as the kernel numbers them (`include/net/tcp_states.h`).
const STATES: [&str; 13] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// Name of a TCP state; empty where there is none.
pub(super) fn tcp_state(number: u32) -> &'static str {
    STATES.get(number as usize).copied().unwrap_or("")
}

/// Where a hop was seen.
pub(super) const fn place(number: u32) -> Place {
    match number {
        PLACE_RECEIVE => Place::Receive,
        PLACE_QUEUE => Place::Queue,
        PLACE_CONSUME => Place::Consume,
        _ => Place::Transmit,
    }
}

/// A five-tuple, `None` where the packet is no IP.
pub(super) fn flow(key: &FlowKey) -> Option<Flow> {
    (key.family != 0).then(|| any_flow(key))
}

/// A five-tuple that is there by contract (sockets, look-ups).
pub(super) fn any_flow(key: &FlowKey) -> Flow {
    Flow {
        proto: Proto::from_number(key.proto),
        src: SocketAddr::new(address(key.src), key.sport),
        dst: SocketAddr::new(address(key.dst), key.dport),
    }
}

/// What was read of a packet.
pub(super) fn head(h: &PacketHead) -> Head {
    let flow = flow(&h.flow);
    let is_icmp = flow.is_some_and(|f| f.proto.is_icmp());
    Head {
        flow,
        ether_type: h.flow.ether_type,
        skb: h.skb,
        in_ifindex: h.in_ifindex,
        mark: h.mark,
        hash: h.hash,
        len: h.len,
        seq: h.tcp_seq,
        ack: h.tcp_ack,
        window: h.tcp_window,
        flags: TcpFlags(h.tcp_flags),
        ttl: h.ttl,
        icmp: is_icmp.then_some((h.icmp_type, h.icmp_code)),
        payload: h.payload_len,
        ip_len: h.ip_len,
    }
}

/// A conntrack entry, `None` where the packet has none.
pub(super) fn conntrack(ct: &event::Conntrack) -> Option<Conntrack> {
    if ct.entry == 0 || ct.original.family == 0 {
        return None;
    }
    Some(Conntrack {
        original: tuple(&ct.original),
        reply: tuple(&ct.reply),
        entry: ct.entry,
        status: ct.status,
        info: ct.info,
        zone: ct.zone,
    })
}

fn tuple(t: &Tuple) -> Flow {
    Flow {
        proto: Proto::from_number(t.proto),
        src: SocketAddr::new(address(t.src), t.sport),
        dst: SocketAddr::new(address(t.dst), t.dport),
    }
}

/// NUL-padded bytes as text.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A link-layer address as text; empty where it is all zero.
pub(super) fn mac(bytes: &[u8; 8]) -> String {
    if *bytes == [0; 8] {
        return String::new();
    }
    let pairs: Vec<String> = bytes[..6].iter().map(|b| format!("{b:02x}")).collect();
    pairs.join(":")
}
