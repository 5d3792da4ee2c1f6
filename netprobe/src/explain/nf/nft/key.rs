//! What a rule of nftables looks at, and what the packet has there.

use std::net::IpAddr;

use super::super::{
    Seen, Sure,
    values::{holds_address, holds_number, is_device, is_protocol},
};
use crate::model::flow::Proto;

/// A field of the packet, or something known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// `ip saddr` (false), `ip6 saddr` (true).
    Source(bool),
    /// `ip daddr`, `ip6 daddr`.
    Destination(bool),
    /// A field of IPv4 or IPv6 that is not known here.
    Field(bool),
    /// `meta l4proto`, `ip protocol`, `ip6 nexthdr`.
    Protocol,
    /// `tcp sport`, `th sport`.
    SourcePort(Option<Proto>),
    /// `tcp dport`, `th dport`.
    DestinationPort(Option<Proto>),
    /// Another field of that protocol.
    Within(Proto),
    /// `iif`, `iifname`.
    Input,
    /// `oif`, `oifname`.
    Output,
    /// `meta mark`.
    Mark,
    /// `ct state`.
    State,
    /// `ct status`.
    Status,
    /// `ct direction`.
    Direction,
    /// `meta nfproto`, `meta protocol`, `ether type`.
    Family,
    /// `fib daddr type` (false: of the source).
    Kind(bool),
    /// `fib saddr . iif oif`; true: by any device.
    WayBack(bool),
    /// `icmp type` (IPv4), `icmpv6 type`.
    IcmpType(bool),
    /// Something that one packet does not tell.
    Opaque,
}

/// What the packet has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// An address.
    Address(IpAddr),
    /// A number: port, mark.
    Number(u32),
    /// A protocol.
    Protocol(Proto),
    /// A device, where known.
    Device(Option<&'a str>),
    /// Its state, of several names.
    State(StateOf<'a>),
    /// One of these words is so, the others are not.
    Word(&'static str),
    /// A yes or no that nft writes as `exists` and `missing`.
    Exists(Sure),
    /// Nothing: the packet is of another protocol.
    Absent,
    /// It cannot be told.
    Unknown,
}

/// The packet, for its state: it has several names at once.
#[derive(Clone, Copy)]
pub(super) struct StateOf<'a>(&'a Seen<'a>);

impl PartialEq for StateOf<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for StateOf<'_> {}

impl std::fmt::Debug for StateOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateOf")
    }
}

impl Key {
    /// The key at the beginning of these words, and how many it takes.
    pub(super) fn read(words: &[&str]) -> Option<(Self, usize)> {
        let (word, next) = (*words.first()?, words.get(1).copied().unwrap_or_default());
        let v6 = word == "ip6";
        let port = |proto| match next {
            "sport" => Self::SourcePort(proto),
            "dport" => Self::DestinationPort(proto),
            _ => proto.map_or(Self::Opaque, Self::Within),
        };
        Some(match (word, next) {
            ("ip" | "ip6", "saddr") => (Self::Source(v6), 2),
            ("ip" | "ip6", "daddr") => (Self::Destination(v6), 2),
            ("ip", "protocol") | ("ip6", "nexthdr") | ("meta", "l4proto") => (Self::Protocol, 2),
            ("ip" | "ip6", _) => (Self::Field(v6), 2),
            ("tcp", _) => (port(Some(Proto::Tcp)), 2),
            ("udp", _) => (port(Some(Proto::Udp)), 2),
            ("sctp", _) => (port(Some(Proto::Other(132))), 2),
            ("th", _) => (port(None), 2),
            ("icmp" | "icmpv6", "type") => (Self::IcmpType(word == "icmpv6"), 2),
            ("icmp", _) => (Self::Within(Proto::Icmp), 2),
            ("icmpv6", _) => (Self::Within(Proto::Icmpv6), 2),
            ("iif" | "iifname", _) => (Self::Input, 1),
            ("oif" | "oifname", _) => (Self::Output, 1),
            ("meta", "iif" | "iifname") => (Self::Input, 2),
            ("meta", "oif" | "oifname") => (Self::Output, 2),
            ("mark", _) => (Self::Mark, 1),
            ("meta", "mark") => (Self::Mark, 2),
            ("meta", "nfproto" | "protocol") | ("ether", "type") => (Self::Family, 2),
            ("ct", "state") => (Self::State, 2),
            ("ct", "status") => (Self::Status, 2),
            ("ct", "direction") => (Self::Direction, 2),
            ("ct", "original" | "reply") => {
                // `ct original ip daddr`, `ct original proto-dst`
                let named = matches!(words.get(2), Some(&("ip" | "ip6")));
                (Self::Opaque, if named { 4 } else { 3 })
            }
            ("fib", _) => return Self::fib(words),
            ("meta" | "ct" | "ether" | "socket" | "rt" | "osf" | "exthdr" | "vlan" | "arp" | "tunnel", _) => {
                (Self::Opaque, 2)
            }
            ("pkttype" | "skuid" | "skgid" | "cgroup" | "iifgroup" | "oifgroup" | "iiftype" | "oiftype", _) => {
                (Self::Opaque, 1)
            }
            _ => return None,
        })
    }

    /// `fib daddr type`, `fib saddr . mark . iif oif`.
    fn fib(words: &[&str]) -> Option<(Self, usize)> {
        let end = words.iter().position(|word| matches!(*word, "type" | "oif" | "oifname"))?;
        let asked = &words[1..end];
        let key = match (words[end], asked.first()) {
            ("type", Some(&"daddr")) => Self::Kind(true),
            ("type", Some(&"saddr")) => Self::Kind(false),
            ("oif", Some(&"saddr")) => Self::WayBack(!asked.contains(&"iif")),
            _ => Self::Opaque,
        };
        Some((key, end + 1))
    }

    /// What the packet has there.
    pub(super) fn value<'a>(self, seen: &'a Seen<'a>) -> Value<'a> {
        let flow = &seen.flow;
        let is = |proto: Option<Proto>| proto.map_or(flow.has_ports(), |proto| proto == flow.proto);
        match self {
            Self::Source(v6) if v6 == flow.is_v6() => Value::Address(flow.src.ip()),
            Self::Destination(v6) if v6 == flow.is_v6() => Value::Address(flow.dst.ip()),
            Self::Field(v6) if v6 == flow.is_v6() => Value::Unknown,
            Self::Source(_) | Self::Destination(_) | Self::Field(_) => Value::Absent,
            Self::Protocol => Value::Protocol(flow.proto),
            Self::SourcePort(proto) if is(proto) => Value::Number(flow.src.port().into()),
            Self::DestinationPort(proto) if is(proto) => Value::Number(flow.dst.port().into()),
            Self::Within(proto) if is(Some(proto)) => Value::Unknown,
            Self::SourcePort(_) | Self::DestinationPort(_) | Self::Within(_) => Value::Absent,
            Self::Input => Value::Device(seen.iif),
            Self::Output => Value::Device(seen.oif),
            Self::Mark => seen.mark.map_or(Value::Unknown, Value::Number),
            Self::State | Self::Status => Value::State(StateOf(seen)),
            Self::Direction => match seen.is_reply() {
                Some(true) => Value::Word("reply"),
                Some(false) => Value::Word("original"),
                None => Value::Unknown,
            },
            Self::Family => Value::Word(if flow.is_v6() { "ipv6" } else { "ipv4" }),
            Self::Kind(destination) => {
                let ip = if destination { flow.dst.ip() } else { flow.src.ip() };
                match seen.is_local(ip) {
                    Sure::Yes => Value::Word("local"),
                    Sure::No if ip.is_multicast() => Value::Word("multicast"),
                    Sure::No => Value::Word("unicast"),
                    Sure::Maybe => Value::Unknown,
                }
            }
            Self::WayBack(loose) => Value::Exists(seen.way_back(loose)),
            Self::IcmpType(v6) => match seen.icmp {
                Some((kind, _)) if flow.is_v6() == v6 && flow.proto.is_icmp() => Value::Number(kind.into()),
                _ => Value::Absent,
            },
            Self::Opaque => Value::Unknown,
        }
    }
}

impl Value<'_> {
    /// Whether it is what the rule wrote.
    pub(super) fn is(self, text: &str) -> Sure {
        match self {
            Self::Address(ip) => holds_address(text, ip),
            Self::Number(value) => holds_number(text, value),
            Self::Protocol(proto) => is_protocol(text, proto),
            Self::Device(device) => is_device(text, device, '*'),
            Self::State(of) => of.0.state(text),
            Self::Word(word) => Sure::of(word == if word.starts_with("ipv") { long_family(text) } else { text }),
            Self::Exists(sure) => match text {
                "exists" | "1" => sure,
                "missing" | "0" => sure.not(),
                _ => Sure::Maybe,
            },
            Self::Absent => Sure::No,
            Self::Unknown => Sure::Maybe,
        }
    }
}

/// `meta protocol ip` and `meta nfproto ipv4` say the same.
fn long_family(text: &str) -> &str {
    match text {
        "ip" => "ipv4",
        "ip6" => "ipv6",
        other => other,
    }
}
