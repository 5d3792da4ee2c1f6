//! The only writer of the ring, and of the tables of what was not written there.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_skb_load_bytes},
    },
    macros::map,
    maps::{PerCpuArray, PerCpuHashMap, RingBuf, ring_buf::RingBufEntry},
    programs::TcContext,
};
use netprobe_common::{
    config::{Count, DropKey, PlaceKey, loss},
    event::{Captured, Forms, Header, Payload, Record},
    limits::{
        BURST, CAPTURE_WAKE_BYTES, DROP_BURST, DROP_REFILL_NS, DROPS_MAX, PLACES_MAX, REFILL_NS, RING_BYTES, WAKE_BYTES,
    },
};

#[map]
static RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
/// What was lost, by kind.
#[map]
static LOST: PerCpuArray<[u64; loss::KINDS as usize]> = PerCpuArray::with_max_entries(1, 0);
/// Every flow at every place: exact counts, and the credit for single records.
#[map]
static PLACES: PerCpuHashMap<PlaceKey, Count> = PerCpuHashMap::with_max_entries(PLACES_MAX, 0);
/// Every kind of drop: exact counts, and the credit for samples.
#[map]
static DROPS: PerCpuHashMap<DropKey, Count> = PerCpuHashMap::with_max_entries(DROPS_MAX, 0);

const AVAILABLE: u64 = 0;
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;

/// Writes one record. `fill` gets its place in the ring and writes every field.
#[inline(always)]
pub(crate) fn emit<P: Payload>(now_ns: u64, fill: impl FnOnce(&mut P)) {
    emit_of::<P>(now_ns, (bpf_get_current_pid_tgid() >> 32) as u32, fill);
}

/// Writes one record of a classifier: there the current process says nothing, and older kernels (6.1) refuse to be asked.
#[inline(always)]
pub(crate) fn emit_classified<P: Payload>(now_ns: u64, fill: impl FnOnce(&mut P)) {
    emit_of::<P>(now_ns, 0, fill);
}

#[inline(always)]
fn emit_of<P: Payload>(now_ns: u64, pid: u32, fill: impl FnOnce(&mut P)) {
    if let Some(mut open) = Open::of(now_ns, pid) {
        fill(open.payload());
        open.send();
    }
}

/// A record that is being written. It must be sent: the verifier sees to it.
pub(crate) struct Open<P: Payload>(RingBufEntry<Record<P>>);

impl<P: Payload> Open<P> {
    /// Takes its place in the ring; none where the ring is full, which is counted.
    #[inline(always)]
    pub(crate) fn begin(now_ns: u64) -> Option<Self> {
        Self::of(now_ns, (bpf_get_current_pid_tgid() >> 32) as u32)
    }

    #[inline(always)]
    fn of(now_ns: u64, pid: u32) -> Option<Self> {
        let Some(mut entry) = RING.reserve::<Record<P>>(0) else {
            lost(loss::RING_FULL);
            return None;
        };
        let record = entry.as_mut_ptr();
        // SAFETY: the reservation is as long as the record.
        unsafe {
            let header = &mut (*record).header;
            header.kind = P::KIND;
            header.cpu = bpf_get_smp_processor_id();
            header.mono_ns = now_ns;
            header.pid = pid;
            header._pad = 0;
        }
        Some(Self(entry))
    }

    /// What is to be written, every field of it.
    #[inline(always)]
    pub(crate) fn payload(&mut self) -> &mut P {
        // SAFETY: the reservation is as long as the record; `P` is `Wire`, so stale bytes in it are valid values until every
        // field has been written.
        unsafe { &mut (*self.0.as_mut_ptr()).payload }
    }

    /// Hands it over.
    #[inline(always)]
    pub(crate) fn send(self) {
        let wake = if RING.query(AVAILABLE) >= WAKE_BYTES { FORCE_WAKEUP } else { NO_WAKEUP };
        self.0.submit(wake);
    }
}

/// A record with room for `N` bytes of a packet.
#[repr(C)]
struct PacketRecord<const N: usize> {
    header: Header,
    captured: Captured,
    data: [u8; N],
    /// At the end: where they are not written, their memory is not touched.
    forms: Forms,
}

/// Writes a packet, of which `N` bytes or less are to be kept. Says whether there was room.
#[inline(always)]
pub(crate) fn emit_packet<const N: usize>(
    ctx: &TcContext,
    keep: u32,
    now_ns: u64,
    fill: impl FnOnce(&mut Captured, &mut Forms),
) -> bool {
    let Some(mut entry) = RING.reserve::<PacketRecord<N>>(0) else {
        lost(loss::RING_FULL);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation is as long as the record, in which every bit pattern is valid; the helper writes `keep`
    // bytes, which the verifier holds against the length of `data`. The context is valid for the program's run.
    unsafe {
        let header = &mut (*record).header;
        header.kind = Captured::KIND;
        header.cpu = bpf_get_smp_processor_id();
        header.mono_ns = now_ns;
        header.pid = 0;
        header._pad = 0;
        fill(&mut (*record).captured, &mut (*record).forms);
        let data = (&raw mut (*record).data).cast();
        // The verifier of Linux 6.1 forgets the bounds of a number that was on the stack meanwhile, and learns nothing from
        // "not zero". So one less is held against the room right here: one more than that is a byte at least.
        let less = core::hint::black_box(keep.wrapping_sub(1));
        let fits = less < N as u32;
        let read = if fits { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, data, less + 1) } else { -1 };
        (*record).captured.kept = if read == 0 { keep } else { 0 };
    }
    let wake = if RING.query(AVAILABLE) >= CAPTURE_WAKE_BYTES { FORCE_WAKEUP } else { NO_WAKEUP };
    entry.submit(wake);
    true
}

/// Counts one loss.
#[inline(always)]
pub(crate) fn lost(kind: u32) {
    if let Some(counters) = LOST.get_ptr_mut(0) {
        // SAFETY: a per-CPU entry, and `kind` is one of `loss`.
        unsafe { (*counters)[kind as usize] += 1 };
    }
}

/// Nanoseconds on `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Nanoseconds on `CLOCK_MONOTONIC_COARSE`: some milliseconds behind, and a tenth of the price. Classifiers may ask for it,
/// tracepoints not.
#[inline(always)]
pub(crate) fn about_now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Ticks of the kernel's timer since some beginning (jiffies). The verifier makes two instructions of it.
#[inline(always)]
pub(crate) fn tick() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() }
}

/// Counts a packet (or look-up) at its place. Gives the number so far on this CPU, and whether
/// it should be sent as a record too.
#[inline(always)]
pub(crate) fn count_place(key: &PlaceKey, bytes: u32, always: bool) -> (u64, bool) {
    if let Some(count) = PLACES.get_ptr_mut(key) {
        // SAFETY: a per-CPU value; only this CPU writes it.
        let count = unsafe { &mut *count };
        return add(count, bytes, always, BURST, REFILL_NS);
    }
    if PLACES.insert(key, first(bytes, BURST), 0).is_err() {
        lost(loss::PLACES_FULL);
    }
    (1, true)
}

/// Counts a drop in its row, likewise.
#[inline(always)]
pub(crate) fn count_drop(key: &DropKey, bytes: u32) -> (u64, bool) {
    if let Some(count) = DROPS.get_ptr_mut(key) {
        // SAFETY: a per-CPU value; only this CPU writes it.
        let count = unsafe { &mut *count };
        return add(count, bytes, false, DROP_BURST, DROP_REFILL_NS);
    }
    if DROPS.insert(key, first(bytes, DROP_BURST), 0).is_err() {
        lost(loss::DROPS_FULL);
    }
    (1, true)
}

/// `jiffies`: the verifier makes one load of it, where the clock takes tens of nanoseconds.
#[inline(always)]
fn jiffy() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() }
}

#[inline(always)]
fn first(bytes: u32, burst: u32) -> Count {
    let now_ns = now();
    Count {
        packets: 1,
        bytes: u64::from(bytes),
        last_ns: now_ns,
        refill_ns: now_ns,
        jiffy: jiffy(),
        credit: burst - 1,
        sent: 1,
    }
}

#[inline(always)]
fn add(count: &mut Count, bytes: u32, always: bool, burst: u32, refill_ns: u64) -> (u64, bool) {
    count.packets += 1;
    count.bytes += u64::from(bytes);
    let jiffy = jiffy();
    if count.jiffy != jiffy {
        count.jiffy = jiffy;
        count.last_ns = now();
        if count.credit == 0 {
            let earned = count.last_ns.wrapping_sub(count.refill_ns) / refill_ns;
            if earned != 0 {
                count.credit = if earned > u64::from(burst) { burst } else { earned as u32 };
                count.refill_ns = count.last_ns;
            }
        }
    }
    let send = always || count.credit != 0;
    if send {
        count.sent += 1;
        count.credit = count.credit.saturating_sub(1);
    }
    (count.packets, send)
}
