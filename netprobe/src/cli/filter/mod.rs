//! Which packets: tcpdump's language (pcap-filter(7)), as far as it is about addresses, ports,
//! protocols, TCP flags and ICMP types, for IPv4 and IPv6.
//!
//! As in tcpdump, `and` and `or` bind equally strong, from left to right, and `not` binds
//! stronger; `port 80 or 443` repeats `port`. Other than in tcpdump, `tcp[tcpflags]` is for IPv6
//! too, names of hosts and services are not looked up, and what cannot be tested is an error.

use std::fmt;

use netprobe_common::{
    config::{Config, Filter},
    wire,
};

mod lower;
mod parse;
mod primitive;
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
