//! Packets are held for a moment: so that those of several CPUs come in order, and so that a drop that follows a packet
//! is told with it.

use hashbrown::HashMap;
use netprobe_common::{
    event::{CAPTURED_FORMS, Captured, CapturedDrop, Forms, Header, Payload},
    wire,
};

use crate::decode;

/// How long a packet is held, nanoseconds: twice the time after which the ring is read in any case.
pub(super) const HOLD_NS: u64 = 100_000_000;
/// Most bytes held; what is older goes at once. 100 ms at 5 Gbit/s.
const HELD_MAX: usize = 64 << 20;
/// Bytes of one buffer, of which more are taken as they are needed.
const BUFFER: usize = 1 << 20;
/// Bytes of the MAC addresses, behind which a VLAN tag belongs.
const MACS: usize = 12;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Blame {
    /// Instruction address that freed it.
    pub location: u64,
    /// Drop reason of this kernel.
    pub reason: u32,
}

/// A packet in its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Released<'a> {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub mono_ns: u64,
    /// What the kernel says of it.
    pub captured: &'a Captured,
    /// Its flow and what NAT makes of it, where the kernel looked.
    pub forms: Option<&'a Forms>,
    /// The packet.
    pub data: &'a [u8],
    /// It was dropped right after.
    pub dropped: Option<Blame>,
}

struct Held {
    mono_ns: u64,
    captured: Captured,
    /// Where its bytes are: [`Forms`] where it has them, then the packet.
    buffer: usize,
    at: usize,
    dropped: Option<Blame>,
}

impl Held {
    const fn has_forms(&self) -> bool {
        self.captured.how & CAPTURED_FORMS != 0
    }

    /// Bytes in the buffer.
    const fn length(&self) -> usize {
        (if self.has_forms() { size_of::<Forms>() } else { 0 }) + self.captured.kept as usize
    }

    /// Its forms and the packet.
    fn parts<'a>(&self, buffers: &'a [Buffer]) -> (Option<Forms>, &'a [u8]) {
        let bytes = &buffers[self.buffer].bytes[self.at..self.at + self.length()];
        if !self.has_forms() {
            return (None, bytes);
        }
        (wire::read(bytes), &bytes[size_of::<Forms>()..])
    }

    /// Whether it is, or NAT makes it, a packet of the drop's flow.
    fn is_of(&self, drop: &CapturedDrop, buffers: &[Buffer]) -> bool {
        let (forms, data) = self.parts(buffers);
        decode::is_of_flow(data, &drop.flow)
            || forms.is_some_and(|forms| [forms.flow, forms.other].contains(&drop.flow))
    }
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Packets in it that are still held.
    live: usize,
}

/// The packets that are held.
#[derive(Default)]
pub(super) struct Window {
    held: Vec<Held>,
    drops: Vec<(u64, CapturedDrop)>,
    buffers: Vec<Buffer>,
    /// The buffer that is being filled.
    filling: usize,
    /// Where each `sk_buff` was last seen.
    last: HashMap<u64, usize>,
}

impl Window {
    /// Takes in a record of the ring. What is no record of a capture is passed over.
    pub(super) fn take(&mut self, record: &[u8]) {
        let Some(header) = wire::read::<Header>(record) else { return };
        let payload = &record[size_of::<Header>()..];
        match header.kind {
            Captured::KIND => {
                if let Some(captured) = wire::read::<Captured>(payload) {
                    self.hold(header.mono_ns, captured, &payload[size_of::<Captured>()..]);
                }
            }
            CapturedDrop::KIND => self.drops.extend(wire::read(payload).map(|drop| (header.mono_ns, drop))),
            _ => {}
        }
    }

    /// `rest` is what follows in the record: the packet, and in the end its forms.
    fn hold(&mut self, mono_ns: u64, mut captured: Captured, rest: &[u8]) {
        let Some((data, end)) = rest.len().checked_sub(size_of::<Forms>()).map(|at| rest.split_at(at)) else { return };
        let data = &data[..data.len().min(captured.kept as usize)];
        let (before, tag) = match captured.vlan {
            tag if tag != 0 && data.len() >= MACS => (MACS, tag.to_be_bytes()),
            _ => (0, [0; 4]),
        };
        let tag = if before == 0 { &[][..] } else { &tag[..] };
        captured.len += tag.len() as u32;
        captured.kept = (data.len() + tag.len()) as u32;
        let mut held = Held { mono_ns, captured, buffer: 0, at: 0, dropped: None };
        held.buffer = self.buffer(held.length());
        let buffer = &mut self.buffers[held.buffer];
        held.at = buffer.bytes.len();
        if held.has_forms() {
            buffer.bytes.extend_from_slice(end);
        }
        for part in [&data[..before], tag, &data[before..]] {
            buffer.bytes.extend_from_slice(part);
        }
        buffer.live += 1;
        self.held.push(held);
    }

    /// A buffer with room for so many bytes.
    fn buffer(&mut self, length: usize) -> usize {
        let fits = |buffer: &Buffer| buffer.bytes.len() + length <= BUFFER.max(length) && buffer.bytes.capacity() > 0;
        if self.buffers.get(self.filling).is_some_and(fits) {
            return self.filling;
        }
        self.filling = match self.buffers.iter().position(|buffer| buffer.live == 0) {
            Some(free) => free,
            None => {
                self.buffers.push(Buffer::default());
                self.buffers.len() - 1
            }
        };
        let buffer = &mut self.buffers[self.filling];
        buffer.bytes.clear();
        buffer.bytes.reserve(BUFFER.max(length));
        self.filling
    }

    /// Gives those seen until `until_ns`, in order, and the oldest beyond that where too much is held.
    ///
    /// # Errors
    ///
    /// What `take` returns.
    pub(super) fn release<E>(
        &mut self,
        until_ns: u64,
        mut take: impl FnMut(Released<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Stable; with one CPU at work they are in order already.
        if !self.held.is_sorted_by_key(|held| held.mono_ns) {
            self.held.sort_by_key(|held| held.mono_ns);
        }
        self.blame();
        let mut count = self.held.partition_point(|held| held.mono_ns <= until_ns);
        let mut kept: usize = self.held[count..].iter().map(Held::length).sum();
        while kept > HELD_MAX {
            kept -= self.held[count].length();
            count += 1;
        }
        let mut result = Ok(());
        for held in self.held.drain(..count) {
            self.buffers[held.buffer].live -= 1;
            if result.is_err() {
                continue;
            }
            let (forms, data) = held.parts(&self.buffers);
            let Held { mono_ns, captured, dropped, .. } = &held;
            result = take(Released { mono_ns: *mono_ns, captured, forms: forms.as_ref(), data, dropped: *dropped });
        }
        result
    }

    /// Gives each drop to the last packet before it that had the same `sk_buff` and the same flow, in one of its forms.
    fn blame(&mut self) {
        if self.drops.is_empty() {
            return;
        }
        self.drops.sort_by_key(|(mono_ns, _)| *mono_ns);
        self.last.clear();
        let mut next = 0;
        for (mono_ns, drop) in self.drops.drain(..) {
            while let Some(held) = self.held.get(next).filter(|held| held.mono_ns <= mono_ns) {
                self.last.insert(held.captured.skb, next);
                next += 1;
            }
            // Once: the address is given to another packet now.
            let found = self.last.remove(&drop.skb).map(|index| &mut self.held[index]);
            if let Some(held) = found.filter(|held| held.is_of(&drop, &self.buffers)) {
                held.dropped = Some(Blame { location: drop.location, reason: drop.reason });
            }
        }
    }

    /// Bytes that are held.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.held.iter().map(Held::length).sum()
    }
}

#[cfg(test)]
mod tests {
    use netprobe_common::flow::FlowKey;

    use super::*;

    const FLOW: FlowKey = FlowKey { sport: 40_000, dport: 53, proto: 17, family: 4, ..FlowKey::EMPTY };

    fn record<P: Payload>(mono_ns: u64, payload: P, data: &[u8]) -> Vec<u8> {
        let header = Header { kind: P::KIND, mono_ns, ..wire::zeroed() };
        [wire::bytes_of(&header), wire::bytes_of(&payload), data].concat()
    }

    fn packet(mono_ns: u64, skb: u64, data: &[u8]) -> Vec<u8> {
        translated(mono_ns, skb, data, FlowKey::EMPTY)
    }

    fn translated(mono_ns: u64, skb: u64, data: &[u8], other: FlowKey) -> Vec<u8> {
        let kept = data.len() as u32;
        let captured = Captured { skb, len: kept, kept, how: CAPTURED_FORMS, ..wire::zeroed() };
        let forms = Forms { flow: FLOW, other };
        // Between the packet and the end of the record is what was there before.
        record(mono_ns, captured, &[data, &[0xee; 40], wire::bytes_of(&forms)].concat())
    }

    fn drop_of(mono_ns: u64, skb: u64, flow: FlowKey) -> Vec<u8> {
        record(mono_ns, CapturedDrop { flow, skb, location: 0xff, reason: 7, ..wire::zeroed() }, &[])
    }

    /// Time, bytes and drop reason of each packet until then.
    fn released(window: &mut Window, until_ns: u64) -> Vec<(u64, Vec<u8>, Option<u32>)> {
        let mut all = Vec::new();
        let take = |r: Released<'_>| {
            assert_eq!(r.captured.kept as usize, r.data.len());
            all.push((r.mono_ns, r.data.to_vec(), r.dropped.map(|blame| blame.reason)));
            Ok(())
        };
        window.release::<()>(until_ns, take).expect("nothing fails");
        all
    }

    #[test]
    fn packets_come_in_the_order_of_their_times() {
        let mut window = Window::default();
        for (ns, data) in [(3, b"c"), (1, b"a"), (2, b"b"), (9, b"z")] {
            window.take(&packet(ns, ns, data));
        }
        let texts: Vec<_> = released(&mut window, 5).into_iter().map(|(ns, data, _)| (ns, data)).collect();
        assert_eq!(texts, [(1, b"a".to_vec()), (2, b"b".to_vec()), (3, b"c".to_vec())]);
        assert_eq!(window.bytes(), size_of::<Forms>() + 1);
        assert_eq!(released(&mut window, u64::MAX).len(), 1);
        assert_eq!(window.bytes(), 0);
    }

    #[test]
    fn a_drop_belongs_to_the_last_packet_before_it_with_its_address_and_flow() {
        let mut window = Window::default();
        for bytes in [packet(1, 0xa, b"1"), packet(2, 0xa, b"2"), packet(3, 0xb, b"3"), drop_of(4, 0xa, FLOW)] {
            window.take(&bytes);
        }
        window.take(&packet(5, 0xa, b"5"));
        let reasons: Vec<_> = released(&mut window, u64::MAX).into_iter().map(|(.., why)| why).collect();
        assert_eq!(reasons, [None, Some(7), None, None]);
    }

    #[test]
    fn a_drop_of_another_packet_at_the_same_address_is_not_its_own() {
        let mut window = Window::default();
        window.take(&packet(1, 0xa, b"1"));
        window.take(&drop_of(2, 0xa, FlowKey { dport: 54, ..FLOW }));
        window.take(&drop_of(3, 0xc, FLOW));
        assert_eq!(released(&mut window, u64::MAX)[0].2, None);
    }

    #[test]
    fn a_drop_finds_its_packet_also_by_the_other_form_of_its_flow() {
        let mut window = Window::default();
        let other = FlowKey { sport: 1, ..FLOW };
        window.take(&translated(1, 0xa, b"1", other));
        window.take(&drop_of(2, 0xa, other));
        assert_eq!(released(&mut window, u64::MAX)[0].2, Some(7));
    }

    #[test]
    fn a_drop_waits_for_nobody_and_a_packet_for_its_drop() {
        let mut window = Window::default();
        window.take(&packet(1, 0xa, b"1"));
        assert_eq!(released(&mut window, 0), []);
        window.take(&drop_of(2, 0xa, FLOW));
        assert_eq!(released(&mut window, 1)[0].2, Some(7));
    }

    #[test]
    fn a_tag_that_the_kernel_keeps_beside_the_packet_is_put_back() {
        let mut window = Window::default();
        let captured = Captured { vlan: 0x8100_0005, len: 100, kept: 16, ..wire::zeroed() };
        window.take(&record(1, captured, &[b"ddddddssssss\x08\x00hi".as_slice(), &[0xee; 100]].concat()));
        let mut seen = Vec::new();
        let take = |r: Released<'_>| {
            seen.push((r.captured.len, r.data.to_vec()));
            Ok(())
        };
        window.release::<()>(1, take).expect("nothing fails");
        assert_eq!(seen, [(104, b"ddddddssssss\x81\x00\x00\x05\x08\x00hi".to_vec())]);
    }

    #[test]
    fn buffers_are_used_again_and_what_is_too_much_goes_early() {
        let mut window = Window::default();
        let large = vec![1; 60_000];
        for round in 0..2_000 {
            window.take(&packet(round, round, &large));
            if round % 500 == 0 {
                released(&mut window, round);
            }
        }
        assert!(window.buffers.len() < 60, "{}", window.buffers.len());
        for round in 2_000..4_000 {
            window.take(&packet(round, round, &large));
        }
        let early = released(&mut window, 0);
        assert_eq!(early.first().map(|(ns, ..)| *ns), Some(1_501));
        assert!(window.bytes() <= HELD_MAX && window.bytes() > HELD_MAX / 2);
    }

    #[test]
    fn damaged_records_are_passed_over() {
        let mut window = Window::default();
        let whole = packet(1, 1, b"abc");
        for length in 0..whole.len() {
            window.take(&whole[..length]);
        }
        let damaged = Captured { kept: u32::MAX, ..wire::zeroed() };
        window.take(&record(1, damaged, &[0xee; size_of::<Forms>() + 3]));
        assert!(released(&mut window, u64::MAX).iter().all(|(_, data, _)| data.len() <= 43));
    }

    #[test]
    fn a_failure_ends_the_release_and_loses_no_place() {
        let mut window = Window::default();
        for ns in 0..3 {
            window.take(&packet(ns, ns, b"x"));
        }
        let mut seen = 0;
        let failed = window.release(u64::MAX, |_| {
            seen += 1;
            Err("full")
        });
        assert_eq!((failed.is_err(), seen, window.bytes()), (true, 1, 0));
    }
}
