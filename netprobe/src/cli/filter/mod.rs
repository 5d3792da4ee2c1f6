//! Which packets: tcpdump's language (pcap-filter(7)), as far as it is about addresses, ports,
//! protocols, lengths, TCP flags, ICMP types and codes, for IPv4 and IPv6, and ARP as a whole.
//!
//! As in tcpdump, `and` and `or` bind equally strong, from left to right, and `not` binds
//! stronger; `port 80 or 443` repeats `port`, and `port domain` is port 53. Other than in tcpdump,
//! `tcp[tcpflags]` is for IPv6 too, `and` may be left out before a word that begins a test, `host`
//! and `net` are not about ARP, names of hosts are not looked up, `len` is the length on Ethernet,
//! and what cannot be tested is an error.

use std::fmt;

use netprobe_common::{
    config::{Config, Filter},
    wire,
};

mod header;
mod lower;
mod parse;
mod primitive;
mod services;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
mod words;

/// A filter as the programs take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Tests and clauses; what is not in use is zero.
    pub filter: Filter,
    /// Tests in use; 0 lets everything pass.
    pub tests: u32,
    /// Clauses in use.
    pub clauses: u32,
}

impl Compiled {
    /// Puts the filter into `config`.
    pub const fn apply(&self, config: &mut Config) {
        config.filter = self.filter;
        config.filter_tests = self.tests;
        config.filter_clauses = self.clauses;
    }

    /// Whether nothing but ARP can pass: frames that no connection has.
    #[must_use]
    pub fn is_arp_only(&self) -> bool {
        let tests = &self.filter.tests;
        let asks = |need: u32| tests.iter().enumerate().any(|(i, test)| need >> i & 1 != 0 && test.ether_type != 0);
        self.clauses > 0 && self.filter.clauses[..self.clauses as usize].iter().all(|clause| asks(clause.need))
    }
}

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The word and its first character, counted from 1; nothing where the filter ends too early
    /// or is wrong as a whole.
    pub word: Option<(String, usize)>,
    /// What is wrong with it, and what to write.
    pub why: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.word {
            Some((word, at)) => write!(f, "filter: `{word}` (character {at}) {}", self.why),
            None => write!(f, "filter: {}", self.why),
        }
    }
}

impl std::error::Error for FilterError {}

impl FilterError {
    fn whole(why: impl Into<String>) -> Self {
        Self { word: None, why: why.into() }
    }
}

/// The filter that the words on a command line spell.
///
/// # Errors
///
/// The word that is wrong, or that the filter is too large or can never hold.
pub fn compile_words(words: &[String]) -> Result<Compiled, FilterError> {
    compile(&words.join(" "))
}

/// The filter that `text` spells; an empty one lets everything pass.
///
/// # Errors
///
/// As [`compile_words`].
pub fn compile(text: &str) -> Result<Compiled, FilterError> {
    let words = words::split(text)?;
    if words.is_empty() {
        return Ok(Compiled { filter: wire::zeroed(), tests: 0, clauses: 0 });
    }
    lower::lower(&parse::parse(&words)?)
}
