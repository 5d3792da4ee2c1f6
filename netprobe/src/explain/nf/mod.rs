//! Which netfilter rule: does it match this packet, does a packet come to it, whose is it?
//!
//! Rules are asked in three values: what they test and cannot be known from one packet (a set of another tool, a rate)
//! is `Maybe`, never a guess.

mod guilty;
mod iptables;
mod nft;
pub(super) mod owner;
mod packet;
#[cfg(test)]
mod testing;
mod values;
mod walk;
mod window;

pub(super) use guilty::{Guilty, Suspects, named, suspects, translating};
pub(super) use packet::Seen;
pub(super) use values::Words;
pub(super) use window::Misfit;

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sure {
    /// It is not.
    No,
    /// It cannot be told.
    Maybe,
    /// It is.
    Yes,
}

impl Sure {
    const fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }

    const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }

    const fn inverted_if(self, inverted: bool) -> Self {
        if inverted { self.not() } else { self }
    }
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act<'r> {
    /// Goes on with the next rule.
    Continue,
    /// The packet passes this base chain.
    Accept,
    /// It is dropped.
    Drop,
    /// It is dropped and answered.
    Reject,
    /// Back to the chain it came from.
    Return,
    /// On with that chain, and back.
    Jump(&'r str),
    /// On with that chain.
    Goto(&'r str),
}

/// What a rule says to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said<'r> {
    /// What may become of it, each with how sure it is. Empty: it does not match.
    pub(super) acts: Vec<(Sure, Act<'r>)>,
    /// What it does to the firewall mark: the bits it keeps, and those it flips then.
    pub(super) mark: Option<(u32, u32)>,
}

impl<'r> Said<'r> {
    const fn nothing() -> Self {
        Self { acts: Vec::new(), mark: None }
    }

    fn one(sure: Sure, act: Act<'r>) -> Self {
        if sure == Sure::No { Self::nothing() } else { Self { acts: vec![(sure, act)], mark: None } }
    }
}
