//! The packets themselves, as they cross devices, for a capture.

use aya_ebpf::{
    macros::map,
    maps::{LruHashMap, PerCpuArray, PerCpuHashMap},
};
use netprobe_common::{
    config::{CapturePlace, NS_FOLLOWED},
    event::{CAPTURED_AFTER_NAT, CAPTURED_BEFORE_NAT, CAPTURED_EGRESS, CAPTURED_FORMS, Captured, CapturedDrop, Forms},
    flow::FlowKey,
    limits::{CAPTURE_FORMS_MAX, CAPTURE_PLACES_MAX, CAPTURE_ROOMS},
};

use crate::{
    emit::{emit, emit_packet, now},
    follow,
    kernel::{
        classified::Classified,
        config,
        conntrack::{self, TupleCopy},
        header::Headers,
    },
};

/// The devices, `namespace << 32 | index`. User space puts them in and reads what was counted.
#[map]
static CAPTURE_PLACES: PerCpuHashMap<u64, CapturePlace> = PerCpuHashMap::with_max_entries(CAPTURE_PLACES_MAX, 0);

/// What NAT makes of a flow, or made it of.
#[repr(C)]
#[derive(Clone, Copy)]
struct Form {
    other: FlowKey,
    /// `CAPTURED_BEFORE_NAT`, `CAPTURED_AFTER_NAT`, or 0 for a flow that is not followed.
    how: u32,
    _pad: u32,
}

/// Each form of a translated flow, in either direction, with the other form: where a packet comes in, conntrack has not
/// seen it yet. A flow that is not followed is remembered as such, so that its entry is read once.
#[map]
static FORMS: LruHashMap<FlowKey, Form> = LruHashMap::with_max_entries(CAPTURE_FORMS_MAX, 0);

/// Where flows are put together: too large for the stack. One per CPU and direction, and one for drops.
struct Room {
    key: FlowKey,
    original: FlowKey,
    reply: FlowKey,
    other: FlowKey,
    form: Form,
    tuple: TupleCopy,
}

#[map]
static FORM_ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(3, 0);

/// The room of `kfree_skb`.
const OF_DROPS: u32 = 2;

/// Sends the packet if it is followed and passes the user's filter. Headers are read only where something depends on them,
/// and by the program itself: reading them takes half of the stack there is.
#[inline(always)]
pub(crate) fn take(packet: &Classified<'_>) -> Option<()> {
    let (netns, ifindex) = (packet.netns(), packet.ifindex());
    let place = CAPTURE_PLACES.get_ptr_mut(u64::from(netns) << 32 | u64::from(ifindex))?;
    // SAFETY: a per-CPU value; only this CPU writes the counters, and no classifier interrupts another.
    let place = unsafe { &mut *place };
    let shared = place.shared != 0;
    let entry = translating(packet);
    let mut at = At { netns, ifindex, how: if packet.egress { CAPTURED_EGRESS } else { 0 } };
    let mut headers = None;
    if shared || entry != 0 || config!(filter_tests) != 0 {
        let read = packet.headers()?;
        at.how |= judge(packet, read, entry, shared)?;
        headers = Some(read).filter(|_| at.how & CAPTURED_FORMS != 0);
    }
    place.packets += 1;
    if !send(packet, headers, &at) {
        place.lost += 1;
    }
    Some(())
}

/// Whether the packet is followed and passes the user's filter: then how NAT changes it, with the other form in the room of
/// its direction.
#[inline(never)]
fn judge(packet: &Classified<'_>, headers: &Headers, entry: u64, shared: bool) -> Option<u32> {
    let room = FORM_ROOM.get_ptr_mut(u32::from(packet.egress))?;
    // SAFETY: a per-CPU entry of this direction's program, which does not run twice at once.
    let room = unsafe { &mut *room };
    let how = translation(entry, headers, room, shared && !packet.egress);
    if shared && !is_followed(headers, room, how) {
        return None;
    }
    let passes = follow::passes_as(headers, &headers.flow) || (how != 0 && follow::passes_as(headers, &room.other));
    if !passes {
        return None;
    }
    Some(if shared || how != 0 { how | CAPTURED_FORMS } else { 0 })
}

/// Where a packet is, and how.
struct At {
    netns: u32,
    ifindex: u32,
    how: u32,
}

/// Address of its conntrack entry, where that translates; else 0.
#[inline(always)]
fn translating(packet: &Classified<'_>) -> u64 {
    match packet.conntrack() {
        Some((entry, _)) if conntrack::is_nat(conntrack::status(entry)) => entry,
        _ => 0,
    }
}

/// Writes the packet into the smallest record that has room for it; with its forms where there are headers.
#[inline(never)]
fn send(packet: &Classified<'_>, headers: Option<&Headers>, at: &At) -> bool {
    const MOST: u32 = CAPTURE_ROOMS[5] as u32;
    let (len, now_ns) = (packet.len(), now());
    let fill = |captured: &mut Captured, end: &mut Forms| {
        captured.skb = packet.address();
        captured.netns = at.netns;
        captured.ifindex = at.ifindex;
        captured.len = len;
        captured.how = at.how;
        captured.vlan = packet.vlan();
        if let Some(headers) = headers {
            end.flow = headers.flow.copied();
            store_other(packet, at, &mut end.other);
        }
    };
    let snap = config!(snap);
    let keep = if len > snap { snap } else { len };
    if keep == 0 {
        return true;
    }
    let ctx = packet.context();
    if keep <= CAPTURE_ROOMS[0] as u32 {
        emit_packet::<{ CAPTURE_ROOMS[0] }>(ctx, keep, now_ns, fill)
    } else if keep <= CAPTURE_ROOMS[1] as u32 {
        emit_packet::<{ CAPTURE_ROOMS[1] }>(ctx, keep, now_ns, fill)
    } else if keep <= CAPTURE_ROOMS[2] as u32 {
        emit_packet::<{ CAPTURE_ROOMS[2] }>(ctx, keep, now_ns, fill)
    } else if keep <= CAPTURE_ROOMS[3] as u32 {
        emit_packet::<{ CAPTURE_ROOMS[3] }>(ctx, keep, now_ns, fill)
    } else if keep <= CAPTURE_ROOMS[4] as u32 {
        emit_packet::<{ CAPTURE_ROOMS[4] }>(ctx, keep, now_ns, fill)
    } else {
        emit_packet::<{ CAPTURE_ROOMS[5] }>(ctx, if keep > MOST { MOST } else { keep }, now_ns, fill)
    }
}

/// Writes the other form of a translated packet, from the room of its direction.
#[inline(always)]
fn store_other(packet: &Classified<'_>, at: &At, to: &mut FlowKey) {
    match FORM_ROOM.get_ptr_mut(u32::from(packet.egress)) {
        // SAFETY: a per-CPU entry of this direction's program, which does not run twice at once.
        Some(room) if at.how & (CAPTURED_BEFORE_NAT | CAPTURED_AFTER_NAT) != 0 => unsafe {
            *to = (*room).other.copied()
        },
        _ => to.put([0; 5]),
    }
}

/// Whether the packet is the followed pod's: by an address, in one of its forms; or it is an error about such a packet.
#[inline(always)]
fn is_followed(headers: &Headers, room: &mut Room, how: u32) -> bool {
    if follow::has_followed_address(&headers.flow) || how != 0 {
        return true;
    }
    if headers.inner.family == 0 {
        return false;
    }
    follow::has_followed_address(&headers.inner) || {
        room.key = bare(&headers.inner);
        known(room) != 0
    }
}

/// How NAT changes the packet, with the other form in `room.other`; 0 where it does not, or that is not known. `entry` is
/// its translating conntrack entry, or 0; `arriving` that conntrack will see it later.
#[inline(always)]
fn translation(entry: u64, headers: &Headers, room: &mut Room, arriving: bool) -> u32 {
    if entry == 0 && !arriving {
        return 0;
    }
    room.key = bare(&headers.flow);
    let mut how = remembered(room);
    if how == UNKNOWN && entry != 0 {
        remember(entry, room);
        how = remembered(room);
    }
    if how == UNKNOWN {
        how = 0;
    }
    room.other.ether_type = headers.flow.ether_type;
    how
}

/// The flow without its EtherType, as [`FORMS`] has it.
#[inline(always)]
fn bare(flow: &FlowKey) -> FlowKey {
    let mut flow = flow.copied();
    flow.ether_type = 0;
    flow
}

/// No value of `Form::how`. A number, because of an `Option` the compiler reads the value also where there is none, which
/// the verifier refuses.
const UNKNOWN: u32 = u32::MAX;

/// Looks `room.key` up, and puts the other form into `room.other`. [`UNKNOWN`] where it was never looked at.
#[inline(always)]
fn remembered(room: &mut Room) -> u32 {
    let key: &FlowKey = &room.key;
    // SAFETY: a row that is being replaced may be read half old, half new; both halves are of the same key.
    let Some(form) = (unsafe { FORMS.get(key) }) else { return UNKNOWN };
    room.other = form.other.copied();
    form.how
}

#[inline(always)]
fn known(room: &mut Room) -> u32 {
    let how = remembered(room);
    if how == UNKNOWN { 0 } else { how }
}

/// Remembers all forms of the entry's flow, or that `room.key` is none of ours.
#[inline(always)]
fn remember(entry: u64, room: &mut Room) {
    conntrack::original(entry, &mut room.tuple, &mut room.original);
    conntrack::reply(entry, &mut room.tuple, &mut room.reply);
    if !has_followed_end(room) {
        (room.form.how, room.form._pad) = (0, 0);
        keep(&room.key, &room.form);
        return;
    }
    let Room { original, reply, form, .. } = room;
    form._pad = 0;
    // `original` is translated to the opposite of `reply`, and `reply` to the opposite of `original`.
    form.how = CAPTURED_BEFORE_NAT;
    turn(reply, &mut form.other);
    keep(original, form);
    turn(original, &mut form.other);
    keep(reply, form);
    form.how = CAPTURED_AFTER_NAT;
    room.other = form.other;
    form.other = *reply;
    keep(&room.other, form);
    turn(reply, &mut room.other);
    form.other = *original;
    keep(&room.other, form);
}

/// By reference: the stack has no room for copies. A form that finds no room is not known where it comes in.
#[inline(always)]
fn keep(key: &FlowKey, form: &Form) {
    let _ = FORMS.insert(key, form, 0);
}

/// A function of its own, for its stack.
#[inline(never)]
fn has_followed_end(room: &Room) -> bool {
    follow::has_followed_address(&room.original) || follow::has_followed_address(&room.reply)
}

/// Writes the flow as the answer carries it, without a copy on the stack.
#[inline(always)]
fn turn(from: &FlowKey, to: &mut FlowKey) {
    to.src = from.dst;
    to.dst = from.src;
    to.sport = from.dport;
    to.dport = from.sport;
    to.proto = from.proto;
    to.family = from.family;
    to.ether_type = from.ether_type;
}

/// A dropped packet.
pub(crate) struct Dropped {
    pub(crate) skb: u64,
    pub(crate) location: u64,
    pub(crate) netns: u32,
    pub(crate) ifindex: u32,
    pub(crate) reason: u32,
}

/// Sends what became of a followed packet.
#[inline(always)]
pub(crate) fn dropped(role: u32, headers: &Headers, at: &Dropped) -> Option<()> {
    let room = FORM_ROOM.get_ptr_mut(OF_DROPS)?;
    // SAFETY: a per-CPU entry that only `kfree_skb` uses, which does not run twice at once.
    let room = unsafe { &mut *room };
    room.key = bare(&headers.flow);
    let how = known(room);
    let ours = role & NS_FOLLOWED != 0 || how != 0 || follow::has_followed_address(&headers.flow);
    if !ours || !(follow::passes_as(headers, &headers.flow) || (how != 0 && follow::passes_as(headers, &room.other))) {
        return None;
    }
    emit::<CapturedDrop>(now(), |drop| {
        drop.flow = headers.flow;
        drop.skb = at.skb;
        drop.location = at.location;
        drop.netns = at.netns;
        drop.ifindex = at.ifindex;
        drop.reason = at.reason;
        drop._pad = 0;
    });
    Some(())
}
