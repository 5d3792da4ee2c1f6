//! Words of a rule, and what they are compared with.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Sure;
use crate::model::flow::Proto;

/// Words of a rule; what stands in quotes is one word, with its quotes.
#[derive(Clone)]
pub(in crate::explain) struct Words<'r> {
    text: &'r str,
    at: usize,
}

impl<'r> Words<'r> {
    pub(in crate::explain) const fn of(text: &'r str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the next word begins and ends.
    pub(super) fn span(&mut self) -> Option<std::ops::Range<usize>> {
        let rest = &self.text[self.at..];
        let start = self.at + (rest.len() - rest.trim_start().len());
        let mut quoted = false;
        let mut escaped = false;
        let end = self.text[start..].find(|character: char| {
            let ends = character.is_whitespace() && !quoted;
            quoted ^= character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        self.at = end.map_or(self.text.len(), |end| start + end);
        (start < self.at).then_some(start..self.at)
    }
}

impl<'r> Iterator for Words<'r> {
    type Item = &'r str;

    fn next(&mut self) -> Option<&'r str> {
        self.span().map(|span| &self.text[span])
    }
}

/// A number as rules write it: decimal or hexadecimal.
pub(super) fn number(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
}

/// `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1-10.0.0.9`.
pub(super) fn holds_address(text: &str, ip: IpAddr) -> Sure {
    if let Some((low, high)) = text.split_once('-') {
        let (Ok(low), Ok(high)) = (low.parse::<IpAddr>(), high.parse::<IpAddr>()) else { return Sure::Maybe };
        return Sure::of(low.is_ipv4() == ip.is_ipv4() && (low..=high).contains(&ip));
    }
    text.parse::<IpNet>()
        .map(|net| net.contains(&ip))
        .or_else(|_| text.parse::<IpAddr>().map(|one| one == ip))
        .map_or(Sure::Maybe, Sure::of)
}

/// `80`, `80:90` (iptables), `80-90` (nft).
pub(super) fn holds_number(text: &str, value: u32) -> Sure {
    let parts = text.split_once([':', '-']);
    let (low, high) = parts.unwrap_or((text, text));
    let low = if low.is_empty() { Some(0) } else { number(low) };
    let high = if high.is_empty() { Some(u32::MAX) } else { number(high) };
    low.zip(high).map_or(Sure::Maybe, |(low, high)| Sure::of((low..=high).contains(&value)))
}

/// `eth0`, or with what stands for any end: `vpod+` (iptables), `vpod*` (nft).
pub(super) fn is_device(text: &str, device: Option<&str>, wild: char) -> Sure {
    let Some(device) = device else { return Sure::Maybe };
    let text = text.trim_matches('"');
    Sure::of(text.strip_suffix(wild).map_or_else(|| text == device, |start| device.starts_with(start)))
}

/// A protocol by name or number.
pub(super) fn is_protocol(text: &str, proto: Proto) -> Sure {
    let named = match text {
        "all" => return Sure::Yes,
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "icmpv6" | "ipv6-icmp" => 58,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "sctp" => 132,
        "udplite" => 136,
        _ => return text.parse().map_or(Sure::Maybe, |n: u8| Sure::of(n == proto.number())),
    };
    Sure::of(named == proto.number())
}

/// The first of several that is so, or might be.
pub(super) fn any(all: impl Iterator<Item = Sure>) -> Sure {
    all.max().unwrap_or(Sure::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        let words: Vec<_> = Words::of(r#"-m comment --comment "a \"b c" -j DROP"#).collect();
        assert_eq!(words, ["-m", "comment", "--comment", r#""a \"b c""#, "-j", "DROP"]);
    }

    #[test]
    fn ranges_and_wild_cards() {
        let ip = "10.0.0.5".parse().expect("an address");
        assert_eq!(holds_address("10.0.0.1-10.0.0.9", ip), Sure::Yes);
        assert_eq!(holds_address("10.1.0.0/16", ip), Sure::No);
        assert_eq!(holds_address("fd00::/8", ip), Sure::No);
        assert_eq!(holds_number("30000:32767", 30080), Sure::Yes);
        assert_eq!(is_device("vpod+", Some("vpod1"), '+'), Sure::Yes);
        assert_eq!(is_device("\"eth0\"", Some("eth1"), '*'), Sure::No);
        assert_eq!(is_device("eth0", None, '+'), Sure::Maybe);
    }
}
