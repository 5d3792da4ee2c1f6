//! Why a segment is INVALID to conntrack: the tests of its window tracking once more, in words.
//!
//! The same order as the kernel's (`tcp_in_window`, `net/netfilter/nf_conntrack_proto_tcp.c`): the first that fails is it.

use std::fmt;

use crate::{
    explain::tcp::after,
    model::{
        invalid::{Invalid, Side},
        packet::Head,
    },
};

/// Bytes that an acknowledgement may lag behind at least (`MAXACKWINCONST`).
const LAG: u32 = 66_000;

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::explain) enum Misfit {
    /// There is no entry, and this segment opens no connection.
    NoEntry,
    /// Nothing of the other direction was seen.
    OneWay,
    /// It starts so many bytes beyond the window.
    Ahead {
        /// Bytes beyond it.
        by: u32,
        /// The largest window that the other side offered, bytes.
        window: u32,
    },
    /// It ends so many bytes before the window: all of it was acknowledged long ago.
    Behind(u32),
    /// It acknowledges so many bytes that conntrack did not see.
    Unseen(u32),
    /// It acknowledges so many bytes less than what was seen that it must be an old one.
    Old(u32),
    /// Its numbers fit. What is left are its flags in the state the connection is in, and its checksum: which, is not seen.
    Other,
}

impl Misfit {
    /// What of `head` does not fit what was seen; `None` where conntrack had not seen enough to say.
    pub(in crate::explain) fn of(held: &Invalid, head: &Head) -> Option<Self> {
        if !held.entry {
            return Some(Self::NoEntry);
        }
        let [original, reply] = held.sides;
        let (sender, receiver) = if held.reply { (reply, original) } else { (original, reply) };
        if receiver.max_window == 0 {
            return Some(Self::OneWay);
        }
        if sender.max_window == 0 {
            return None;
        }
        Some(Self::numbers(sender, receiver, head).unwrap_or(Self::Other))
    }

    /// It follows from what was seen; else it is what remains.
    pub(in crate::explain) fn is_sure(self) -> bool {
        self != Self::Other
    }

    fn numbers(sender: Side, receiver: Side, head: &Head) -> Option<Self> {
        let flags = u32::from(head.flags.syn()) + u32::from(head.flags.fin());
        let end = head.seq.wrapping_add(head.payload).wrapping_add(flags);
        if let Some(by) = beyond(head.seq, sender.max_end) {
            return Some(Self::Ahead { by, window: receiver.max_window });
        }
        let lower = sender.end.wrapping_sub(receiver.max_window);
        if let Some(by) = beyond(lower, end) {
            return Some(Self::Behind(by));
        }
        if !head.flags.ack() {
            return None;
        }
        if let Some(bytes) = beyond(head.ack, receiver.end) {
            return Some(Self::Unseen(bytes));
        }
        let lower = receiver.end.wrapping_sub(sender.max_window.max(LAG));
        beyond(lower, head.ack).map(Self::Old)
    }
}

/// By how much `a` lies behind `b` in sequence space, if it does.
fn beyond(a: u32, b: u32) -> Option<u32> {
    after(a, b).then(|| a.wrapping_sub(b))
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEntry => f.write_str("it has no entry of the connection, and this segment does not open one"),
            Self::OneWay => f.write_str("it saw no packet of the connection's other direction"),
            Self::Ahead { by, window } => {
                write!(f, "it starts {by} bytes beyond the window of {window} bytes that conntrack saw offered")
            }
            Self::Behind(by) => write!(f, "it ends {by} bytes before the window: its bytes were acknowledged long ago"),
            Self::Unseen(bytes) => {
                write!(f, "it acknowledges {bytes} bytes that conntrack did not see the other side send")
            }
            Self::Old(bytes) => write!(f, "its acknowledgement is {bytes} bytes too old"),
            Self::Other => f.write_str(
                "its numbers fit the window, so its flags do not fit the connection's state, or its checksum is wrong",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::rules::testing::syn;
    use crate::model::packet::TcpFlags;

    const PSH_ACK: TcpFlags = TcpFlags(24);

    /// The pod sent up to 1,000, the server up to 5,000; both offer 10,000 bytes.
    fn held() -> Invalid {
        let side = |end| Side { end, max_end: end + 10_000, max_window: 10_000 };
        Invalid { entry: true, state: "ESTABLISHED", reply: false, sides: [side(1_000), side(5_000)] }
    }

    fn segment(seq: u32, ack: u32, payload: u32) -> Head {
        Head { seq, ack, payload, flags: PSH_ACK, ..syn() }
    }

    #[test]
    fn the_first_test_that_fails_is_named() {
        let of = |seq, ack, payload| Misfit::of(&held(), &segment(seq, ack, payload)).expect("both sides were seen");
        assert_eq!(of(11_100, 5_000, 10), Misfit::Ahead { by: 100, window: 10_000 });
        assert_eq!(of(u32::MAX - 19_999, 5_000, 1_000), Misfit::Behind(10_000));
        assert_eq!(of(1_000, 6_500, 10), Misfit::Unseen(1_500));
        assert_eq!(of(1_000, 5_000_u32.wrapping_sub(66_500), 10), Misfit::Old(500));
        assert_eq!(of(1_000, 5_000, 10), Misfit::Other);
    }

    #[test]
    fn what_the_other_side_sent_is_asked_of_a_reply() {
        let held = Invalid { reply: true, ..held() };
        assert_eq!(Misfit::of(&held, &segment(5_000, 1_200, 10)), Some(Misfit::Unseen(200)));
    }

    #[test]
    fn without_an_entry_or_a_window_there_is_nothing_to_compare() {
        assert_eq!(Misfit::of(&Invalid { entry: false, ..held() }, &segment(1, 1, 1)), Some(Misfit::NoEntry));
        let mut half = held();
        half.sides[0].max_window = 0;
        assert_eq!(Misfit::of(&half, &segment(900_000, 1, 1)), None);
        half.sides.swap(0, 1);
        assert_eq!(Misfit::of(&half, &segment(1_000, 1, 1)), Some(Misfit::OneWay));
    }
}
