//! Words → a tree of tests.

use netprobe_common::config::FilterTest;

use super::{
    FilterError,
    primitive::{self, Ends, Family, Kind, Qualifiers, anything, constant},
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
    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
    fn and(self, other: Self) -> Self {
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

struct Parser<'a> {
    /// What is left.
    words: &'a [Word<'a>],
    /// Qualifiers of the id before, for one that has none: `port 80 or 443`.
    last: Option<Qualifiers>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.first().map(|word| word.text)
    }

    /// The next word; `expected` is said where there is none.
    fn next(&mut self, expected: &str) -> Result<&'a Word<'a>, FilterError> {
        let (word, rest) = self
            .words
            .split_first()
            .ok_or_else(|| FilterError::whole(format!("it ends where {expected} is expected")))?;
        self.words = rest;
        Ok(word)
    }

    /// Goes on if the next word is one of `words`.
    fn eat(&mut self, words: &[&str]) -> bool {
        let fits = self.peek().is_some_and(|word| words.contains(&word));
        if fits {
            self.words = &self.words[1..];
        }
        fits
    }

    fn close(&mut self, sign: &str) -> Result<(), FilterError> {
        let word = self.next(&format!("`{sign}`"))?;
        if word.text == sign { Ok(()) } else { Err(word.wrong(format!("stands where `{sign}` is expected"))) }
    }

    /// `and` and `or` bind equally strong, from left to right.
    fn expr(&mut self) -> Result<Expr, FilterError> {
        let mut expr = self.term()?;
        loop {
            if self.eat(&["and", "&&"]) {
                expr = expr.and(self.term()?);
            } else if self.eat(&["or", "||"]) {
                expr = expr.or(self.term()?);
            } else {
                return Ok(expr);
            }
        }
    }

    fn term(&mut self) -> Result<Expr, FilterError> {
        if self.eat(&["not", "!"]) {
            return Ok(self.term()?.not());
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
        let family = self.peek().and_then(primitive::family);
        if family.is_some() {
            self.words = &self.words[1..];
            if self.peek() == Some("[") {
                self.last = None;
                return self.header_test(&begin[0]);
            }
        }
        let ends = self.ends();
        let kind = self.peek().and_then(primitive::kind);
        if kind.is_some() {
            self.words = &self.words[1..];
        }
        if let (Some(family), None, None) = (family, ends, kind) {
            self.last = None;
            let Family { family, proto } = family;
            return Ok(Expr::Test(FilterTest { family, proto, ..anything() }));
        }
        let bare = begin.len() == self.words.len();
        let qualifiers = Qualifiers { family: family.unwrap_or_default(), ends: ends.unwrap_or_default(), kind };
        if !bare && self.eat(&["("]) {
            self.last = Some(qualifiers);
            let expr = self.expr()?;
            self.close(")")?;
            return Ok(expr);
        }
        let id = self.next(expected(kind))?;
        if bare { self.bare(id) } else { self.id(qualifiers, id) }
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
        if primitive::not_ours(id.text) {
            return Err(id.wrong("cannot be tested: netprobe tests addresses, ports, protocols, flags and ICMP types"));
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
                 tcp, udp, icmp, icmp6, ip or ip6",
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

    /// `tcp[tcpflags] & (tcp-syn|tcp-ack) != 0`, `icmp[icmptype] == icmp-echo`
    fn header_test(&mut self, header: &'a Word<'a>) -> Result<Expr, FilterError> {
        self.close("[")?;
        let field = self.next("a field")?;
        match (header.text, field.text.strip_suffix(":1").unwrap_or(field.text)) {
            ("tcp", "tcpflags" | "13") => {
                self.close("]")?;
                self.flags_test()
            }
            ("icmp", "icmptype" | "0") | ("icmp6" | "icmpv6", "icmp6type" | "0") => {
                self.close("]")?;
                self.type_test(if header.text == "icmp" { "icmp" } else { "icmp6" })
            }
            _ => Err(field.wrong("cannot be tested: only tcp[tcpflags], icmp[icmptype] and icmp6[icmp6type] can")),
        }
    }

    fn flags_test(&mut self) -> Result<Expr, FilterError> {
        let tcp = FilterTest { proto: 6, ..anything() };
        let mask = if self.eat(&["&"]) {
            let (at, mask) = (self.words.first(), self.flags(false)?);
            match at {
                Some(word) if mask == 0 => return Err(word.wrong("leaves no flag to test")),
                _ => mask,
            }
        } else {
            u8::MAX
        };
        let equal = self.relation()?;
        let (at, value) = (self.words.first(), self.flags(true)?);
        if let Some(word) = at.filter(|_| value & !mask != 0) {
            return Err(word.wrong("can never be: it has flags that were masked out"));
        }
        let exact = Expr::Test(FilterTest { flags_mask: mask, flags_value: value, ..tcp });
        Ok(match (equal, value) {
            (true, _) => exact,
            (false, 0) => Expr::Test(FilterTest { flags_mask: mask, flags_any: 1, ..tcp }),
            (false, _) => Expr::Test(tcp).and(exact.not()),
        })
    }

    /// Flags joined by `|`. In tcpdump `a & b|c` is `(a & b)|c`: there, more than one flag needs
    /// parentheses.
    fn flags(&mut self, may_join: bool) -> Result<u8, FilterError> {
        let mut flags = if self.eat(&["("]) {
            let inner = self.flags(true)?;
            self.close(")")?;
            inner
        } else {
            let word = self.next("a TCP flag")?;
            let wrong = "is no TCP flag: write tcp-syn, tcp-ack, tcp-fin, tcp-rst, tcp-push, tcp-urg, or a number";
            constant("tcp", word.text).ok_or_else(|| word.wrong(wrong))?
        };
        if self.peek() == Some("|") && !may_join {
            return Err(self.words[0].wrong("needs parentheses around the flags: tcp[tcpflags] & (A|B) != 0"));
        }
        while may_join && self.eat(&["|"]) {
            flags |= self.flags(false)?;
        }
        Ok(flags)
    }

    fn type_test(&mut self, header: &str) -> Result<Expr, FilterError> {
        let proto = FilterTest { proto: if header == "icmp" { 1 } else { 58 }, ..anything() };
        let equal = self.relation()?;
        let word = self.next("an ICMP type")?;
        let icmp_type = constant(header, word.text)
            .ok_or_else(|| word.wrong(format!("is no type of {header}: write its number, or {header}-echo")))?;
        let exact = Expr::Test(FilterTest { has_icmp_type: 1, icmp_type, ..proto });
        Ok(if equal { exact } else { Expr::Test(proto).and(exact.not()) })
    }

    /// `==` (`true`) or `!=`
    fn relation(&mut self) -> Result<bool, FilterError> {
        let word = self.next("`==` or `!=`")?;
        match word.text {
            "==" | "=" => Ok(true),
            "!=" => Ok(false),
            _ => Err(word.wrong("stands where `==` or `!=` is expected")),
        }
    }
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
