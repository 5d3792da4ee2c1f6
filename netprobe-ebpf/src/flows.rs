//! Counts every flow at every device: exact, also after NAT.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use netprobe_common::{
    config::loss,
    counted::{COUNTED_CONNTRACK, COUNTED_EGRESS, COUNTED_REPLY, FlowCount, FlowCountKey},
    limits::COUNTED_MAX,
};

use crate::{
    emit::{about_now, lost, now, tick},
    kernel::{
        classified::Classified,
        conntrack::{self, TupleCopy},
        header::Headers,
    },
};

/// The counted flows. User space takes quiet ones out.
#[map]
static COUNTED: HashMap<FlowCountKey, FlowCount> = HashMap::with_max_entries(COUNTED_MAX, BPF_F_NO_PREALLOC);

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;

/// Where a key and a new row are put together: too large for the stack. One per CPU and direction.
struct Room {
    key: FlowCountKey,
    row: FlowCount,
    tuple: TupleCopy,
}

#[map]
static ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(2, 0);

/// Counts a packet in the row of its flow. A function of its own, for its stack.
#[inline(never)]
pub(crate) fn count(packet: &Classified<'_>, headers: &Headers) {
    let Some(room) = ROOM.get_ptr_mut(u32::from(packet.egress)) else { return };
    // SAFETY: a per-CPU entry of this direction's program, which does not run twice at once.
    let room = unsafe { &mut *room };
    let entry = packet.conntrack();
    set_key(room, packet, headers, entry);
    let (packets, bytes) = packet.on_the_wire(headers);
    let seen = Seen { packets, bytes };
    let key: &FlowCountKey = &room.key;
    match COUNTED.get_ptr_mut(key) {
        Some(row) => add(row, headers, &seen),
        None => insert(room, packet, headers, entry, &seen),
    }
}

/// A packet, as it counts.
struct Seen {
    packets: u64,
    bytes: u64,
}

#[inline(always)]
fn set_key(room: &mut Room, packet: &Classified<'_>, headers: &Headers, entry: Option<(u64, bool)>) {
    let Room { key, tuple, .. } = room;
    key.device = packet.device();
    key.ifindex = packet.ifindex();
    key.how = if packet.egress { COUNTED_EGRESS } else { 0 };
    match entry {
        Some((entry, reply)) => {
            conntrack::original(entry, tuple, &mut key.flow);
            key.how |= if reply { COUNTED_CONNTRACK | COUNTED_REPLY } else { COUNTED_CONNTRACK };
        }
        None => key.flow = headers.flow.copied(),
    }
}

/// Makes the row.
#[inline(always)]
fn insert(room: &mut Room, packet: &Classified<'_>, headers: &Headers, entry: Option<(u64, bool)>, seen: &Seen) {
    let Room { key, row, tuple } = room;
    let now_ns = now();
    row.packets = seen.packets;
    row.bytes = seen.bytes;
    row.first_ns = now_ns;
    row.last_ns = now_ns;
    row.tick = tick();
    row.syn_ns = if headers.flags & SYN != 0 { now_ns } else { 0 };
    row.netns = packet.netns();
    row.next_seq = end_of(headers);
    row.retransmits = 0;
    (row.hole_from, row.hole_to, row.hole_ns) = (0, 0, 0);
    row.flags = u32::from(headers.flags);
    row.cgroup = packet.cgroup();
    row.reply.put([0; 5]);
    (row.status, row.zone) = (0, 0);
    if let Some((entry, _)) = entry {
        conntrack::reply(entry, tuple, &mut row.reply);
        (row.status, row.zone) = (conntrack::status(entry), conntrack::zone(entry));
    }
    // By reference: the stack has no room for copies.
    let (key, row): (&FlowCountKey, &FlowCount) = (key, row);
    if COUNTED.insert(key, row, BPF_NOEXIST.into()).is_ok() {
        return;
    }
    // Another CPU was faster, or there is no room.
    match COUNTED.get_ptr_mut(key) {
        Some(row) => add(row, headers, seen),
        None => lost(loss::COUNTED_FULL),
    }
}

/// Sequence number after the segment's last byte; SYN and FIN count as one each (RFC 9293, 3.4).
#[inline(always)]
fn end_of(headers: &Headers) -> u32 {
    let extra = u32::from(headers.flags & (SYN | FIN) != 0);
    headers.seq.wrapping_add(headers.payload_len).wrapping_add(extra)
}

#[inline(always)]
fn add(row: *mut FlowCount, headers: &Headers, seen: &Seen) {
    // SAFETY: the row stays allocated while the program runs. Counters that several CPUs raise are raised atomically; of
    // the others (the time of the last packet, flags) the last writer is right enough, and so is the number of segments sent again.
    unsafe {
        raise(&raw mut (*row).packets, seen.packets);
        raise(&raw mut (*row).bytes, seen.bytes);
        // The clock stands still from one tick to the next: asking it once a tick gives the same, at a tenth of the cost.
        let tick = tick();
        if (*row).tick != tick {
            (*row).tick = tick;
            (*row).last_ns = about_now();
        }
        if headers.flow.proto == TCP {
            segment(row, headers, seen);
        }
    }
}

/// Adds to a counter that several CPUs raise at once: one instruction, of which Rust's library has none for this target.
///
/// # Safety
///
/// `counter` lies in a row of the table.
#[inline(always)]
unsafe fn raise(counter: *mut u64, by: u64) {
    // SAFETY: the caller's promise; the instruction adds to eight bytes at `counter` and does nothing else.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) by) }
}

/// How late a segment may come and still count as overtaken and not as sent again, nanoseconds: a sender that moves to
/// another CPU overtakes itself by less than a millisecond, and Linux waits for a quarter of the round trip at least.
const OVERTAKEN_NS: u64 = 2_000_000;

/// Whether a sequence number lies behind another: they wrap.
#[inline(always)]
const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

/// Whether a segment that comes late was only overtaken: its bytes never passed before, and were missed a moment ago.
#[inline(always)]
const fn is_reordered(row: &FlowCount, start: u32, end: u32, now_ns: u64) -> bool {
    !after(row.hole_from, start) && !after(end, row.hole_to) && now_ns.wrapping_sub(row.hole_ns) < OVERTAKEN_NS
}

/// What a TCP segment tells.
///
/// # Safety
///
/// `row` is a row of the table.
#[inline(always)]
unsafe fn segment(row: *mut FlowCount, headers: &Headers, seen: &Seen) {
    // SAFETY: the caller's promise; see `add` for races.
    unsafe {
        let flags = u32::from(headers.flags);
        let known = (*row).flags;
        if known & flags != flags {
            (*row).flags = known | flags;
        }
        if headers.flags & SYN != 0 && (*row).syn_ns == 0 {
            (*row).syn_ns = now();
            (*row).next_seq = end_of(headers);
            return;
        }
        // A keep-alive probe repeats one byte at most, and a reset counts nothing.
        if headers.flags & RST != 0 || (headers.payload_len <= 1 && headers.flags & (SYN | FIN) == 0) {
            return;
        }
        let (start, end, next) = (headers.seq, end_of(headers), (*row).next_seq);
        if next == 0 || after(end, next) {
            if next != 0 && after(start, next) {
                ((*row).hole_from, (*row).hole_to, (*row).hole_ns) = (next, start, now());
            }
            (*row).next_seq = end;
        } else if is_reordered(&*row, start, end, now()) {
            if start == (*row).hole_from {
                (*row).hole_from = end;
            }
        } else {
            (*row).retransmits = (*row).retransmits.wrapping_add(seen.packets as u32);
        }
    }
}
