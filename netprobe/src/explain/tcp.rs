//! A journey as a TCP conversation: who said what, when, and what was heard of it.

use std::cmp::Ordering;

use super::Case;
use crate::model::{
    flow::Proto,
    journey::Step,
    packet::{Head, Place, What},
    sighting::Side,
};

/// A time-out of TCP, and not an early guess at a loss: Linux waits at least 200 ms (`TCP_RTO_MIN`), and 150 leave
/// room for the path to the device where it is seen.
pub const TIMEOUT_NS: u64 = 150_000_000;

/// After how long an opening segment is sent again (RFC 6298, `TCP_TIMEOUT_INIT`): what is not answered by then is told.
pub const FIRST_TIMEOUT_NS: u64 = 1_000_000_000;

/// A segment, where it was seen.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The step of the journey.
    pub step: &'a Step,
    /// The packet.
    pub head: &'a Head,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub ns: u64,
    /// It goes with the flow.
    pub forward: bool,
}

impl Segment<'_> {
    /// Sequence number behind it: a SYN and a FIN take one each.
    #[must_use]
    pub fn end(&self) -> u32 {
        let flags = self.head.flags;
        self.head.seq.wrapping_add(self.head.payload + u32::from(flags.syn()) + u32::from(flags.fin()))
    }

    /// It takes a place in the stream, so that it must be acknowledged.
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.head.flags.rst() && self.end() != self.head.seq
    }
}

/// Whether a sequence number lies behind another: they wrap.
#[must_use]
pub const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// A device where both directions pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Namespace inode number.
    pub netns: u32,
    /// Device.
    pub ifindex: u32,
}

/// A segment that was sent again.
#[derive(Clone, Copy, Debug)]
pub struct Repeat<'a> {
    /// The copy.
    pub copy: Segment<'a>,
    /// When it, or what it is a part of, was sent first.
    pub first_ns: u64,
}

impl Repeat<'_> {
    /// TCP waited for the acknowledgement in vain.
    #[must_use]
    pub const fn timed_out(&self) -> bool {
        self.copy.ns.saturating_sub(self.first_ns) >= TIMEOUT_NS
    }
}

/// A piece of the stream that was missing when what comes after it had passed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// When what comes after it passed, `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// When it passed itself; none where it never did.
    pub filled_ns: Option<u64>,
}

/// What one end sent and the other never acknowledged.
#[derive(Clone, Debug)]
pub struct Stuck<'a> {
    /// The first segment of it, as it was sent first.
    pub first: Segment<'a>,
    /// Copies of it.
    pub copies: Vec<Segment<'a>>,
}

/// The conversation.
pub struct Talk<'a> {
    /// Segments that crossed a device, oldest first.
    segments: Vec<Segment<'a>>,
    /// Where the packets that go with the flow leave their sender, or come in to us.
    pub client: Option<Point>,
    /// Where they arrive, or leave us.
    pub server: Option<Point>,
    /// The uplink they cross, and whether those that go with the flow leave by it.
    pub uplink: Option<(Point, bool)>,
}

impl<'a> Talk<'a> {
    /// The journey's, if it is TCP.
    #[must_use]
    pub fn of(case: &Case<'a>) -> Option<Self> {
        if case.journey.flow.proto != Proto::Tcp {
            return None;
        }
        let is_tcp = |head: &Head| head.flow.is_some_and(|f| f.proto == Proto::Tcp);
        let mut segments: Vec<Segment<'a>> = case
            .hops()
            // Everything passes `lo` twice.
            .filter(|(step, place, head)| {
                let crosses = *place == Place::Transmit || (*place == Place::Receive && &*step.sighting.device != "lo");
                crosses && is_tcp(head)
            })
            .map(|(step, _, head)| Segment { step, head, ns: step.sighting.packet.mono_ns, forward: step.forward })
            .collect();
        segments.sort_by_key(|s| s.ns);
        let find = |forward: bool, place: Place, side: Side| {
            segments.iter().find(|s| {
                s.forward == forward
                    && place_of(s.step) == Some(place)
                    && s.step.sighting.side == side
                    && (side == Side::Pod || case.is_uplink(s.step.sighting.packet.ifindex))
            })
        };
        let point = |found: Option<&Segment<'a>>| found.map(point_of);
        let (out, back) =
            (point(find(true, Place::Transmit, Side::Node)), point(find(false, Place::Transmit, Side::Node)));
        let (into, home) =
            (point(find(true, Place::Receive, Side::Node)), point(find(false, Place::Receive, Side::Node)));
        let uplink = out.or(home).map(|p| (p, true)).or_else(|| back.or(into).map(|p| (p, false)));
        let client =
            point(find(true, Place::Transmit, Side::Pod)).or_else(|| point(find(false, Place::Receive, Side::Pod)));
        let server =
            point(find(true, Place::Receive, Side::Pod)).or_else(|| point(find(false, Place::Transmit, Side::Pod)));
        let outside = |with: bool| uplink.filter(|(_, out)| *out == with).map(|(point, _)| point);
        Some(Self {
            client: client.or_else(|| outside(false)),
            server: server.or_else(|| outside(true)),
            uplink,
            segments,
        })
    }

    /// Every segment of a direction at a point, oldest first.
    pub fn at(&self, point: Point, forward: bool) -> impl DoubleEndedIterator<Item = &Segment<'a>> {
        self.segments.iter().filter(move |s| s.forward == forward && point_of(s) == point)
    }

    /// Every segment of a direction, wherever seen.
    pub fn all(&self, forward: bool) -> impl DoubleEndedIterator<Item = &Segment<'a>> {
        self.segments.iter().filter(move |s| s.forward == forward)
    }

    /// More segments passed that point than are all seen.
    #[must_use]
    pub fn is_sampled(&self, point: Point) -> bool {
        let many = |s: &Segment<'_>| match s.step.sighting.packet.what {
            What::Hop { seen, .. } => seen > u64::from(netprobe_common::limits::BURST),
            _ => false,
        };
        self.segments.iter().any(|s| point_of(s) == point && many(s))
    }

    /// A SYN of that direction was answered with a SYN, or segments of an open connection went both ways.
    #[must_use]
    pub fn established(&self) -> bool {
        let open = |forward| self.all(forward).any(|s| s.head.flags.ack() && !s.head.flags.rst());
        open(true) && open(false)
    }

    /// The highest acknowledgement that the other end sent for a direction, seen at that point.
    #[must_use]
    pub fn acked(&self, point: Point, forward: bool) -> Option<u32> {
        let acks = self.at(point, !forward).filter(|s| s.head.flags.ack()).map(|s| s.head.ack);
        acks.reduce(|best, ack| if after(ack, best) { ack } else { best })
    }

    /// Segments of a direction that passed a point more than once.
    #[must_use]
    pub fn repeats(&self, point: Point, forward: bool) -> Vec<Repeat<'a>> {
        let mut sent: Vec<Segment<'a>> = Vec::new();
        let mut repeats = Vec::new();
        for segment in self.at(point, forward).filter(|s| s.counts()) {
            let first = sent.iter().rev().find(|old| covers(old, segment));
            if let Some(first) = first {
                repeats.push(Repeat { copy: *segment, first_ns: first.ns });
            }
            sent.push(*segment);
        }
        repeats
    }

    /// Pieces of a direction that were missing at a point, and that the other end asked for again. Where packets were
    /// left out of the samples nothing can be said, and is not.
    #[must_use]
    pub fn holes(&self, point: Point, forward: bool) -> Vec<Hole> {
        let mut holes = Vec::new();
        let (mut before, mut end): (Option<&Segment<'a>>, Option<u32>) = (None, None);
        for segment in self.at(point, forward) {
            let next = before.is_some_and(|before| is_next(before, segment));
            before = Some(segment);
            if !segment.counts() {
                continue;
            }
            if let Some(missing) = end.filter(|end| next && after(segment.head.seq, *end)) {
                let asked = |s: &Segment<'_>| s.ns > segment.ns && s.head.flags.ack() && s.head.ack == missing;
                let fills =
                    |s: &&Segment<'_>| s.ns > segment.ns && !after(s.head.seq, missing) && after(s.end(), missing);
                if self.at(point, !forward).any(asked) {
                    let filled_ns = self.at(point, forward).find(fills).map(|s| s.ns);
                    holes.push(Hole { since_ns: segment.ns, filled_ns });
                }
            }
            end = Some(end.map_or(segment.end(), |end| if after(segment.end(), end) { segment.end() } else { end }));
        }
        holes
    }

    /// Segments that were sent again because the other end asked for them, before any time-out: it had what came after.
    #[must_use]
    pub fn asked_again(&self, point: Point, forward: bool) -> Vec<Repeat<'a>> {
        let asked = |repeat: &Repeat<'_>| {
            let same = |s: &&Segment<'_>| {
                s.head.flags.ack()
                    && s.head.payload == 0
                    && s.head.ack == repeat.copy.head.seq
                    && s.ns > repeat.first_ns
                    && s.ns < repeat.copy.ns
            };
            // The first one may have been on its way.
            self.at(point, !forward).filter(same).count() > 1
        };
        self.repeats(point, forward).into_iter().filter(|r| !r.timed_out() && asked(r)).collect()
    }

    /// What left at that point and was not acknowledged there, though its acknowledgement was waited for.
    #[must_use]
    pub fn stuck(&self, point: Point, forward: bool) -> Option<Stuck<'a>> {
        let acked = self.acked(point, forward);
        let open = |s: &&Segment<'a>| s.counts() && acked.is_none_or(|acked| after(s.end(), acked));
        let from = |s: &Segment<'a>| {
            acked.map_or(s.head.seq, |acked| if after(acked, s.head.seq) { acked } else { s.head.seq })
        };
        let order = |a: &&Segment<'a>, b: &&Segment<'a>| match (from(a), from(b)) {
            (x, y) if x == y => a.ns.cmp(&b.ns),
            (x, y) if after(x, y) => Ordering::Greater,
            _ => Ordering::Less,
        };
        let first = *self.at(point, forward).filter(open).min_by(order)?;
        let start = from(&first);
        let same = |s: &&Segment<'a>| s.ns > first.ns && !after(s.head.seq, start) && after(s.end(), start);
        let copies: Vec<Segment<'a>> = self.at(point, forward).filter(|s| s.counts()).filter(same).copied().collect();
        (!copies.is_empty()).then_some(Stuck { first, copies })
    }

    /// The last segment of either direction before a time.
    #[must_use]
    pub fn before(&self, ns: u64) -> Option<&Segment<'a>> {
        self.segments.iter().rev().find(|s| s.ns < ns)
    }

    /// How long nothing was said at that point before a time, nanoseconds.
    #[must_use]
    pub fn pause(&self, point: Point, ns: u64) -> u64 {
        let last = self.segments.iter().rev().find(|s| point_of(s) == point && s.ns < ns);
        last.map_or(0, |s| ns - s.ns)
    }

    /// That end said it would send no more, before a time.
    #[must_use]
    pub fn finished(&self, forward: bool, before_ns: u64) -> bool {
        self.all(forward).any(|s| s.head.flags.fin() && s.ns < before_ns)
    }

    /// The last segment with payload of a direction before a time.
    #[must_use]
    pub fn last_words(&self, forward: bool, before_ns: u64) -> Option<&Segment<'a>> {
        self.all(forward).rev().find(|s| s.head.payload > 0 && s.ns < before_ns)
    }
}

/// Whether a segment holds the beginning of another, and was sent earlier.
fn covers(old: &Segment<'_>, segment: &Segment<'_>) -> bool {
    !after(old.head.seq, segment.head.seq) && after(old.end(), segment.head.seq)
}

/// Whether a segment is the packet right after another at the same device: none between them was left out.
fn is_next(before: &Segment<'_>, segment: &Segment<'_>) -> bool {
    let number = |s: &Segment<'_>| match s.step.sighting.packet.what {
        What::Hop { seen, .. } => Some((s.step.sighting.packet.cpu, seen)),
        _ => None,
    };
    number(before).zip(number(segment)).is_some_and(|((cpu, n), (other, m))| cpu == other && m == n + 1)
}

fn point_of(segment: &Segment<'_>) -> Point {
    let packet = &segment.step.sighting.packet;
    Point { netns: packet.netns, ifindex: packet.ifindex }
}

fn place_of(step: &Step) -> Option<Place> {
    match step.sighting.packet.what {
        What::Hop { place, .. } => Some(place),
        _ => None,
    }
}

/// How often, in words: `once`, `3 times`.
#[must_use]
pub fn often(times: usize) -> String {
    if times == 1 { "once".to_owned() } else { format!("{times} times") }
}

/// A time in words: `0.4 ms`, `430 ms`, `4.0 s`
#[must_use]
pub fn duration(ns: u64) -> String {
    let ms = ns / 1_000_000;
    match ms {
        0..10 => format!("{ms}.{} ms", ns % 1_000_000 / 100_000),
        10..1_000 => format!("{ms} ms"),
        _ => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rules::testing::{Scene, hop, segment, syn, syn_ack},
        *,
    };

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.back(2, hop(Place::Receive, syn_ack()), "eth1");
        scene.step(3, hop(Place::Transmit, segment(true, 2, 100, 2)), "eth1");
        scene
    }

    #[test]
    fn what_was_acknowledged_is_not_stuck() {
        let mut scene = scene();
        scene.step(300, hop(Place::Transmit, segment(true, 2, 100, 2)), "eth1");
        let case = scene.case();
        let talk = Talk::of(&case).expect("it is TCP");
        let (point, out) = talk.uplink.expect("it left");
        assert!(out && talk.established());
        assert_eq!(talk.stuck(point, true).map(|s| s.copies.len()), Some(1));
        assert!(talk.repeats(point, true)[0].timed_out());
        scene.back(301, hop(Place::Receive, segment(false, 2, 0, 102)), "eth1");
        let case = scene.case();
        let talk = Talk::of(&case).expect("it is TCP");
        assert!(talk.stuck(point, true).is_none());
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(after(5, u32::MAX - 5) && !after(u32::MAX - 5, 5) && !after(7, 7));
    }

    #[test]
    fn a_pause_is_counted_from_the_last_word() {
        let scene = scene();
        let case = scene.case();
        let talk = Talk::of(&case).expect("it is TCP");
        let (point, _) = talk.uplink.expect("it left");
        assert_eq!(talk.pause(point, 4_000_000_000), 3_997_000_000);
    }
}
