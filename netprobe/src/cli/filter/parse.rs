//! Words → a tree of tests.

use netprobe_common::config::FilterTest;

use super::{
    FilterError,
    primitive::{self, Ends, Family, Kind, Qualifiers, anything},
    words::Word,
};

/// A filter as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    Test(FilterTest),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

impl Expr {
    pub(super) fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
    pub(super) fn and(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }
    fn or(self, other: Self) -> Self {
        Self::Or(Box::new(self), Box::new(other))
    }
}

/// The tree that `words` spell.
pub(super) fn parse(words: &[Word<'_>]) -> Result<Expr, FilterError> {
    let mut parser = Parser { words, last: None };
    let expr = parser.expr()?;
    match parser.words.first() {
        None => Ok(expr),
        Some(word) if word.text == ")" => Err(word.wrong("has no `(` before it")),
        Some(word) => Err(word.wrong("does not belong here: write `and` or `or` before it")),
    }
}

pub(super) struct Parser<'a> {
    /// What is left.
    pub(super) words: &'a [Word<'a>],
    /// Qualifiers of the id before, for one that has none: `port 80 or 443`.
    pub(super) last: Option<Qualifiers>,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Option<&'a str> {
        self.words.first().map(|word| word.text)
    }

    /// The next word; `expected` is said where there is none.
    pub(super) fn next(&mut self, expected: &str) -> Result<&'a Word<'a>, FilterError> {
        let (word, rest) = self
            .words
            .split_first()
            .ok_or_else(|| FilterError::whole(format!("it ends where {expected} is expected")))?;
        self.words = rest;
        Ok(word)
    }

    /// Goes on if the next word is one of `words`.
    pub(super) fn eat(&mut self, words: &[&str]) -> bool {
        let fits = self.peek().is_some_and(|word| words.contains(&word));
        if fits {
            self.words = &self.words[1..];
        }
        fits
    }

    pub(super) fn close(&mut self, sign: &str) -> Result<(), FilterError> {
        let word = self.next(&format!("`{sign}`"))?;
        if word.text == sign { Ok(()) } else { Err(word.wrong(format!("stands where `{sign}` is expected"))) }
    }

    /// `and` and `or` bind equally strong, from left to right. A word that begins a test needs none before it.
    fn expr(&mut self) -> Result<Expr, FilterError> {
        let mut expr = self.term()?;
        loop {
            if self.eat(&["and", "&&"]) {
                expr = expr.and(self.term()?);
            } else if self.eat(&["or", "||"]) {
                expr = expr.or(self.term()?);
            } else if self.peek().is_some_and(begins) {
                expr = expr.and(self.term()?);
            } else {
                return Ok(expr);
            }
        }
    }

    fn term(&mut self) -> Result<Expr, FilterError> {
        if self.eat(&["not", "!"]) {
            return Ok(self.term()?.not());
        }
        if let [bracket, header, field, ..] = self.words
            && (bracket.text, field.text) == ("(", "[")
        {
            let before = self.words;
            self.words = &self.words[2..];
            if let Ok(expr) = self.header_test(header, true) {
                return Ok(expr);
            }
            self.words = before;
        }
        if self.eat(&["("]) {
            let expr = self.expr()?;
            self.close(")")?;
            return Ok(expr);
        }
        self.primitive()
    }

    fn primitive(&mut self) -> Result<Expr, FilterError> {
        let begin = self.words;
        if self.eat(&["len", "less", "greater"]) {
            self.last = None;
            return self.length_test(begin[0].text);
        }
        let family = self.peek().and_then(primitive::family);
        if family.is_some() {
            self.words = &self.words[1..];
            if self.peek() == Some("[") {
                self.last = None;
                return self.header_test(&begin[0], false);
            }
        }
        let ends = self.ends();
        let kind = self.peek().and_then(primitive::kind);
        if kind.is_some() {
            self.words = &self.words[1..];
        }
        if let (Some(family), None, None) = (family, ends, kind) {
            self.last = None;
            return self.alone(family);
        }
        let bare = begin.len() == self.words.len();
        let qualifiers = Qualifiers { family: family.unwrap_or_default(), ends: ends.unwrap_or_default(), kind };
        if qualifiers.family.ether_type != 0 {
            return Err(begin[1].wrong("cannot be tested behind arp: netprobe does not read the addresses in ARP"));
        }
        if !bare && self.eat(&["("]) {
            self.last = Some(qualifiers);
            let expr = self.expr()?;
            self.close(")")?;
            return Ok(expr);
        }
        let id = self.next(expected(kind))?;
        if let Some(why) = primitive::obstacle(id.text) {
            return Err(id.wrong(format!("cannot be tested: {why}")));
        }
        if bare { self.bare(id) } else { self.id(qualifiers, id) }
    }

    /// `tcp`, `ip6`, `arp` with nothing behind it.
    fn alone(&self, family: Family) -> Result<Expr, FilterError> {
        let Family { family, proto, ether_type } = family;
        match self.words.first().map(|word| (word, primitive::obstacle(word.text))) {
            Some((word, Some(why))) => Err(word.wrong(format!("cannot be tested: {why}"))),
            _ => Ok(Expr::Test(FilterTest { family, proto, ether_type, ..anything() })),
        }
    }

    /// `src`, `dst`, `src or dst`, `src and dst`
    fn ends(&mut self) -> Option<Ends> {
        let texts: Vec<_> = self.words.iter().take(3).map(|word| word.text).collect();
        let (ends, length) = match texts.as_slice() {
            ["src", "or" | "||", "dst"] | ["dst", "or" | "||", "src"] => (Ends::Either, 3),
            ["src", "and" | "&&", "dst"] | ["dst", "and" | "&&", "src"] => (Ends::Both, 3),
            ["src", ..] => (Ends::Source, 1),
            ["dst", ..] => (Ends::Destination, 1),
            _ => return None,
        };
        self.words = &self.words[length..];
        Some(ends)
    }

    /// An id with nothing before it: as the one before, else an address.
    fn bare(&mut self, id: &'a Word<'a>) -> Result<Expr, FilterError> {
        if matches!(id.text, "and" | "or" | "&&" | "||" | ")" | "]" | "[") {
            return Err(id.wrong("stands where an address, a protocol or `port` is expected"));
        }
        let plain = Qualifiers::default();
        let is_address = primitive::tests(plain, id).is_ok();
        match self.last {
            Some(last) if !is_address || matches!(last.kind, None | Some(Kind::Host | Kind::Net)) => self.id(last, id),
            _ if is_address => self.id(plain, id),
            _ if id.text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(id.wrong("is only a number: write `port` or `proto` before it"))
            }
            _ => Err(id.wrong(
                "is no word of the filter language: write an address, host, net, port, portrange, proto, src, dst, \
                 tcp, udp, icmp, icmp6, ip, ip6, arp or len",
            )),
        }
    }

    /// `id` behind `qualifiers`.
    fn id(&mut self, qualifiers: Qualifiers, id: &'a Word<'a>) -> Result<Expr, FilterError> {
        let tests = if qualifiers.kind == Some(Kind::Net) && self.eat(&["mask"]) {
            let mask = self.next("a mask")?;
            primitive::masked(qualifiers, id, mask)?
        } else {
            primitive::tests(qualifiers, id)?
        };
        self.last = Some(qualifiers);
        let any = |sides: u8| {
            let tests = tests.iter().map(|test| Expr::Test(FilterTest { sides, ..*test }));
            tests.reduce(Expr::or).ok_or_else(|| id.wrong("tests nothing"))
        };
        match qualifiers.ends {
            Ends::Either => any(3),
            Ends::Source => any(1),
            Ends::Destination => any(2),
            Ends::Both => Ok(any(1)?.and(any(2)?)),
        }
    }
}

/// Whether a word can only begin a test.
fn begins(word: &str) -> bool {
    primitive::family(word).is_some()
        || primitive::kind(word).is_some()
        || matches!(word, "src" | "dst" | "len" | "less" | "greater" | "not" | "!" | "(")
}

/// What an id must be.
const fn expected(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Host) => "an address",
        Some(Kind::Net) => "a net",
        Some(Kind::Port) => "a port",
        Some(Kind::PortRange) => "a range of ports",
        Some(Kind::Proto) => "a protocol",
        None => "an address, a protocol or `port`",
    }
}
