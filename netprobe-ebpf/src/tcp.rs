//! What sockets say: retransmits, resets and states of TCP, and what could not be sent.

use aya_ebpf::{helpers::bpf_get_current_comm, macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::{
    config::NS_FOLLOWED,
    event::{SendError, SocketState, SocketView, TcpReset, TcpRetransmit},
};

use crate::{
    cgroups,
    emit::{emit, now},
    follow,
    kernel::{config, header::Slot, skb::Skb, sock::Sock},
};

const SENT: u32 = 1;
const RECEIVED: u32 = 2;

#[inline(always)]
fn followed(sock: Sock, view: &SocketView) -> bool {
    let role = follow::role(view.netns);
    let held = if cgroups::shared(role) { cgroups::of_socket(sock) } else { None };
    // One that has no port yet, or no peer, is no flow.
    if let Some(held) = held
        && view.flow.sport != 0
        && view.flow.dport != 0
    {
        cgroups::tell(&view.flow, held, view.netns);
    }
    let whole = role & NS_FOLLOWED != 0 || held.is_some();
    (whole && follow::asked_for(&view.flow)) || (role != 0 && follow::flow(&view.flow))
}

/// `tcp:tcp_retransmit_skb(sk, skb[, err])`.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> Option<()> {
    let sock = Sock::new(ctx.arg(0))?;
    let view = sock.view();
    if !followed(sock, &view) {
        return None;
    }
    let skb: *const u8 = ctx.arg(1);
    let len = if skb.is_null() { 0 } else { Skb::new(skb).len() };
    emit::<TcpRetransmit>(now(), |record| {
        record.socket = view;
        record.len = len;
        record.timeouts = sock.timeouts();
    });
    Some(())
}

/// `tcp:tcp_send_reset(sk, skb[, reason])`: `sk` is null where nothing listens, `skb` where the
/// application aborts.
#[btf_tracepoint(function = "tcp_send_reset")]
pub(crate) fn tcp_send_reset(ctx: BtfTracePointContext) -> Option<()> {
    let reason = if config!(has_reset_reason) != 0 { ctx.arg::<u64>(2) as u32 } else { 0 };
    if let Some(sock) = Sock::new(ctx.arg(0)) {
        return of_socket(sock, SENT, reason);
    }
    let skb: *const u8 = ctx.arg(1);
    if skb.is_null() {
        return None;
    }
    let skb = Skb::new(skb);
    let netns = skb.at().netns;
    let role = follow::role(netns);
    let flow = &skb.headers(Slot::Reset, skb.network())?.flow;
    let whole = role & NS_FOLLOWED != 0 && follow::asked_for(flow);
    if !whole && (role == 0 || !follow::flow(flow)) {
        return None;
    }
    emit::<TcpReset>(now(), |record| {
        record.socket = SocketView { flow: flow.reversed(), netns, state: 0 };
        store(record, SENT, 0, reason);
    });
    Some(())
}

/// `tcp:tcp_receive_reset(sk)`.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub(crate) fn tcp_receive_reset(ctx: BtfTracePointContext) -> Option<()> {
    of_socket(Sock::new(ctx.arg(0))?, RECEIVED, 0)
}

#[inline(always)]
fn of_socket(sock: Sock, direction: u32, reason: u32) -> Option<()> {
    let view = sock.view();
    if !followed(sock, &view) {
        return None;
    }
    emit::<TcpReset>(now(), |record| {
        record.socket = view;
        store(record, direction, 1, reason);
    });
    Some(())
}

#[inline(always)]
fn store(record: &mut TcpReset, direction: u32, has_socket: u32, reason: u32) {
    record.direction = direction;
    record.has_socket = has_socket;
    record.reason = reason;
    record._pad = 0;
}

/// `sock:inet_sock_set_state(sk, oldstate, newstate)`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state(ctx: BtfTracePointContext) -> Option<()> {
    let sock = Sock::new(ctx.arg(0))?;
    let view = sock.view();
    if !followed(sock, &view) {
        return None;
    }
    let comm = bpf_get_current_comm().unwrap_or([0; 16]);
    emit::<SocketState>(now(), |record| {
        record.socket = view;
        record.old = ctx.arg::<u64>(1) as u32;
        record.new = ctx.arg::<u64>(2) as u32;
        record.err = sock.error();
        record._pad = 0;
        record.comm = comm;
    });
    Some(())
}

/// `sock:sock_send_length(sk, ret, flags)`: the end of every `send()`; all but failures end here at once.
#[btf_tracepoint(function = "sock_send_length")]
pub(crate) fn sock_send_length(ctx: BtfTracePointContext) -> Option<()> {
    let result = ctx.arg::<u64>(1) as i32;
    if result >= 0 {
        return None;
    }
    let sock = Sock::new(ctx.arg(0))?;
    let view = sock.datagram_view()?;
    if !followed(sock, &view) {
        return None;
    }
    let comm = bpf_get_current_comm().unwrap_or([0; 16]);
    emit::<SendError>(now(), |record| {
        record.socket = view;
        record.err = result.unsigned_abs();
        record._pad = 0;
        record.comm = comm;
    });
    Some(())
}
