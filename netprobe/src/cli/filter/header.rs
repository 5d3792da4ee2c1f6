//! Tests of header fields and of the length: `tcp[tcpflags] & tcp-syn != 0`, `len <= 100`.

use netprobe_common::config::FilterTest;

use super::{
    FilterError,
    parse::{Expr, Parser},
    primitive::anything,
    words::Word,
};

/// What one packet's field is compared with.
const FIELDS: &str = "only tcp[tcpflags], icmp[icmptype], icmp[icmpcode], icmp6[icmp6type] and icmp6[icmp6code] can, \
                      no other bytes of a packet";

impl<'a> Parser<'a> {
    /// `tcp[tcpflags] & (tcp-syn|tcp-ack) != 0`, `icmp[icmptype] == icmp-echo`
    ///
    /// `enclosed`: the left side stands in parentheses, of which the first is read.
    pub(super) fn header_test(&mut self, header: &'a Word<'a>, enclosed: bool) -> Result<Expr, FilterError> {
        self.close("[")?;
        let field = self.next("a field")?;
        match (header.text, field.text.strip_suffix(":1").unwrap_or(field.text)) {
            ("tcp", "tcpflags" | "13") => {
                self.close("]")?;
                self.flags_test(enclosed)
            }
            ("icmp", "icmptype" | "0") => self.icmp_test("icmp", false, enclosed),
            ("icmp", "icmpcode" | "1") => self.icmp_test("icmp", true, enclosed),
            ("icmp6" | "icmpv6", "icmp6type" | "0") => self.icmp_test("icmp6", false, enclosed),
            ("icmp6" | "icmpv6", "icmp6code" | "1") => self.icmp_test("icmp6", true, enclosed),
            _ => Err(field.wrong(format!("cannot be tested: {FIELDS}"))),
        }
    }

    /// `len <= 100`, `less 100`, `greater 100`, of which the first word is read.
    pub(super) fn length_test(&mut self, word: &str) -> Result<Expr, FilterError> {
        let relation = match word {
            "less" => "<=",
            "greater" => ">=",
            _ => self.next("`<=` or `>=`")?.text,
        };
        let number = self.next("a number of bytes")?;
        let bytes: u32 = number.text.parse().map_err(|_| number.wrong("is no number of bytes"))?;
        let (low, high) = match relation {
            "<=" => (Some(0), Some(bytes)),
            "<" => (Some(0), bytes.checked_sub(1)),
            ">=" => (Some(bytes), Some(u32::MAX)),
            ">" => (bytes.checked_add(1), Some(u32::MAX)),
            "=" | "==" | "!=" => (Some(bytes), Some(bytes)),
            _ => return Err(number.wrong("needs `<=`, `>=`, `<`, `>`, `==` or `!=` between `len` and it")),
        };
        let (Some(len_low), Some(len_high)) = (low, high) else {
            return Err(number.wrong("leaves no length that a packet can have"));
        };
        let test = Expr::Test(FilterTest { len_low, len_high, ..anything() });
        Ok(if relation == "!=" { test.not() } else { test })
    }

    fn flags_test(&mut self, enclosed: bool) -> Result<Expr, FilterError> {
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
        let equal = self.relation(enclosed)?;
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

    fn icmp_test(&mut self, header: &str, is_code: bool, enclosed: bool) -> Result<Expr, FilterError> {
        self.close("]")?;
        let proto = FilterTest { proto: if header == "icmp" { 1 } else { 58 }, ..anything() };
        let equal = self.relation(enclosed)?;
        let word = self.next(if is_code { "an ICMP code" } else { "an ICMP type" })?;
        let exact = if is_code {
            let code = constant("", word.text).ok_or_else(|| word.wrong("is no ICMP code: write its number"))?;
            FilterTest { has_icmp_code: 1, icmp_code: code, ..proto }
        } else {
            let wrong = || word.wrong(format!("is no type of {header}: write its number, or {header}-echo"));
            FilterTest { has_icmp_type: 1, icmp_type: constant(header, word.text).ok_or_else(wrong)?, ..proto }
        };
        let exact = Expr::Test(exact);
        Ok(if equal { exact } else { Expr::Test(proto).and(exact.not()) })
    }

    /// `==` (`true`) or `!=`, behind the parenthesis that ends the left side.
    fn relation(&mut self, enclosed: bool) -> Result<bool, FilterError> {
        if enclosed {
            self.close(")")?;
        }
        let word = self.next("`==` or `!=`")?;
        match word.text {
            "==" | "=" => Ok(true),
            "!=" => Ok(false),
            _ => Err(word.wrong("stands where `==` or `!=` is expected")),
        }
    }
}

/// The number of a TCP flag or ICMP type, by its name or as a number; a `header` without names has numbers only.
fn constant(header: &str, word: &str) -> Option<u8> {
    const TCP: [(&str, u8); 8] = [
        ("tcp-fin", 1),
        ("tcp-syn", 2),
        ("tcp-rst", 4),
        ("tcp-push", 8),
        ("tcp-ack", 16),
        ("tcp-urg", 32),
        ("tcp-ece", 64),
        ("tcp-cwr", 128),
    ];
    const ICMP: [(&str, u8); 15] = [
        ("icmp-echoreply", 0),
        ("icmp-unreach", 3),
        ("icmp-sourcequench", 4),
        ("icmp-redirect", 5),
        ("icmp-echo", 8),
        ("icmp-routeradvert", 9),
        ("icmp-routersolicit", 10),
        ("icmp-timxceed", 11),
        ("icmp-paramprob", 12),
        ("icmp-tstamp", 13),
        ("icmp-tstampreply", 14),
        ("icmp-ireq", 15),
        ("icmp-ireqreply", 16),
        ("icmp-maskreq", 17),
        ("icmp-maskreply", 18),
    ];
    const ICMP6: [(&str, u8); 16] = [
        ("icmp6-destinationunreach", 1),
        ("icmp6-packettoobig", 2),
        ("icmp6-timeexceeded", 3),
        ("icmp6-parameterproblem", 4),
        ("icmp6-echo", 128),
        ("icmp6-echoreply", 129),
        ("icmp6-multicastlistenerquery", 130),
        ("icmp6-multicastlistenerreportv1", 131),
        ("icmp6-multicastlistenerdone", 132),
        ("icmp6-routersolicit", 133),
        ("icmp6-routeradvert", 134),
        ("icmp6-neighborsolicit", 135),
        ("icmp6-neighboradvert", 136),
        ("icmp6-redirect", 137),
        ("icmp6-routerrenum", 138),
        ("icmp6-multicastlistenerreportv2", 143),
    ];
    let names: &[(&str, u8)] = match header {
        "tcp" => &TCP,
        "icmp" => &ICMP,
        "icmp6" => &ICMP6,
        _ => &[],
    };
    let named = names.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    named.or_else(|| match word.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    })
}
