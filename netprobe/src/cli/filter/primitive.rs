//! What one primitive of the language tests: words → [`FilterTest`].

use std::net::IpAddr;

use ipnet::IpNet;
use netprobe_common::{config::FilterTest, flow::mapped, wire};

use super::{FilterError, words::Word};

/// Protocols that have a word of their own.
const PROTOCOLS: [(&str, u8); 10] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmp6", 58),
    ("icmpv6", 58),
    ("sctp", 132),
];
/// Those that have ports where the programs look for them.
pub(super) const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// `ip`, `ip6` or a protocol, in front of other words or alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Family {
    /// 4, 6, or 0.
    pub family: u8,
    /// Protocol, or 0.
    pub proto: u8,
}

/// Which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ends {
    #[default]
    Either,
    Source,
    Destination,
    Both,
}

/// What an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Proto,
}

/// The words in front of an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Qualifiers {
    pub family: Family,
    pub ends: Ends,
    pub kind: Option<Kind>,
}

/// A test that every packet passes.
pub(super) fn anything() -> FilterTest {
    FilterTest { port_high: u16::MAX, sides: 3, ..wire::zeroed() }
}

/// `ip`, `ip6`, `tcp`, ...
pub(super) fn family(word: &str) -> Option<Family> {
    match word {
        "ip" => Some(Family { family: 4, proto: 0 }),
        "ip6" => Some(Family { family: 6, proto: 0 }),
        name => protocol_name(name).map(|proto| Family { family: 0, proto }),
    }
}

pub(super) fn kind(word: &str) -> Option<Kind> {
    Some(match word {
        "host" => Kind::Host,
        "net" => Kind::Net,
        "port" => Kind::Port,
        "portrange" => Kind::PortRange,
        "proto" => Kind::Proto,
        _ => return None,
    })
}

fn protocol_name(word: &str) -> Option<u8> {
    PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number)
}

/// Words of tcpdump's that netprobe cannot test.
pub(super) fn not_ours(word: &str) -> bool {
    const WORDS: [&str; 24] = [
        "arp",
        "rarp",
        "ether",
        "link",
        "fddi",
        "wlan",
        "vlan",
        "mpls",
        "pppoed",
        "pppoes",
        "geneve",
        "vxlan",
        "decnet",
        "gateway",
        "broadcast",
        "multicast",
        "less",
        "greater",
        "len",
        "inbound",
        "outbound",
        "ifname",
        "protochain",
        "stp",
    ];
    WORDS.contains(&word)
}

/// The address or prefix of a `host` or `net`.
#[derive(Clone, Copy)]
struct Range {
    address: [u8; 16],
    mask: [u8; 16],
    family: u8,
}

impl Range {
    fn of(net: IpNet) -> Self {
        let net = net.trunc();
        let bits = u32::from(net.prefix_len()) + if net.addr().is_ipv4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes();
        match net.addr() {
            IpAddr::V4(ip) => Self { address: mapped(ip.octets()), mask, family: 4 },
            IpAddr::V6(ip) => Self { address: ip.octets(), mask, family: 6 },
        }
    }
}

/// The prefix that `text` spells: `10.0.0.0/8`, `10.1` for `10.1.0.0/16`, `fd00::/8`.
fn net(text: &str) -> Option<IpNet> {
    if let Ok(net) = text.parse() {
        return Some(net);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.into());
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let parts: Vec<u8> = address.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    let mut octets = [0; 4];
    octets.get_mut(..parts.len())?.copy_from_slice(&parts);
    let bits = bits.map_or(u8::try_from(8 * parts.len()).ok(), |bits| bits.parse().ok())?;
    IpNet::new(octets.into(), bits).ok()
}

/// The tests of which one must hold for `id` behind `qualifiers`.
pub(super) fn tests(qualifiers: Qualifiers, id: &Word<'_>) -> Result<Vec<FilterTest>, FilterError> {
    match qualifiers.kind {
        Some(Kind::Host) => host(qualifiers, id),
        Some(Kind::Net) => net_test(qualifiers, id),
        None if id.text.contains('/') => net_test(qualifiers, id),
        None => host(qualifiers, id),
        Some(Kind::Port) => {
            let port = port(id.text).ok_or_else(|| id.wrong(port_wrong(id.text)))?;
            ports(qualifiers, id, port, port)
        }
        Some(Kind::PortRange) => {
            let wrong = || id.wrong("is no range of ports: write LOW-HIGH, each 0 to 65535");
            let (low, high) = id.text.split_once('-').unwrap_or((id.text, id.text));
            let (low, high) = (port(low).ok_or_else(wrong)?, port(high).ok_or_else(wrong)?);
            if low > high {
                return Err(wrong());
            }
            ports(qualifiers, id, low, high)
        }
        Some(Kind::Proto) => proto(qualifiers, id),
    }
}

fn host(qualifiers: Qualifiers, id: &Word<'_>) -> Result<Vec<FilterTest>, FilterError> {
    match id.text.parse::<IpAddr>() {
        Ok(ip) => ranged(qualifiers, id, Range::of(ip.into())),
        Err(_) if net(id.text).is_some() && id.text.contains('/') => Err(id.wrong("is a net: write `net` before it")),
        Err(_) if port(id.text).is_some() => Err(id.wrong("is no address: write `port` before it if it is one")),
        Err(_) => Err(id.wrong("is no address: names are not looked up, write 10.0.0.1 or fd00::1")),
    }
}

fn net_test(qualifiers: Qualifiers, id: &Word<'_>) -> Result<Vec<FilterTest>, FilterError> {
    let net = net(id.text).ok_or_else(|| id.wrong("is no net: write 10.0.0.0/8 or fd00::/8"))?;
    ranged(qualifiers, id, Range::of(net))
}

/// `net A mask M`
pub(super) fn masked(qualifiers: Qualifiers, id: &Word<'_>, mask: &Word<'_>) -> Result<Vec<FilterTest>, FilterError> {
    let v4 = |word: &Word<'_>| word.text.parse::<std::net::Ipv4Addr>();
    let address = v4(id).map_err(|_| id.wrong("is no IPv4 net: `mask` is for those only"))?;
    let mask = v4(mask).map_err(|_| mask.wrong("is no mask: write 255.255.0.0"))?;
    let mut bits = [0xff; 16];
    bits[12..].copy_from_slice(&mask.octets());
    let address = mapped((address & mask).octets());
    ranged(qualifiers, id, Range { address, mask: bits, family: 4 })
}

fn ranged(qualifiers: Qualifiers, id: &Word<'_>, range: Range) -> Result<Vec<FilterTest>, FilterError> {
    let Family { family, proto } = qualifiers.family;
    if family != 0 && family != range.family {
        return Err(id.wrong(format!("is no address of {}", if family == 4 { "ip" } else { "ip6" })));
    }
    Ok(vec![FilterTest { address: range.address, mask: range.mask, family: range.family, proto, ..anything() }])
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn port_wrong(text: &str) -> &'static str {
    match text.split_once('-') {
        Some((low, high)) if port(low).is_some() && port(high).is_some() => {
            "is a range of ports: write `portrange` before it"
        }
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => "is no port: they end at 65535",
        _ => "is no port: names are not looked up, write its number",
    }
}

fn ports(qualifiers: Qualifiers, id: &Word<'_>, low: u16, high: u16) -> Result<Vec<FilterTest>, FilterError> {
    let Family { family, proto } = qualifiers.family;
    if proto != 0 && !WITH_PORTS.contains(&proto) {
        let name = PROTOCOLS.iter().find(|(_, number)| *number == proto).map_or("this protocol", |(name, _)| name);
        return Err(id.wrong(format!("is a port, and {name} has none")));
    }
    let test = FilterTest { port_low: low, port_high: high, family, proto, ..anything() };
    // To the programs, all ports are no test of ports: then the protocols must be named.
    if proto == 0 && (low, high) == (0, u16::MAX) {
        return Ok(WITH_PORTS.map(|proto| FilterTest { proto, ..test }).to_vec());
    }
    Ok(vec![test])
}

fn proto(qualifiers: Qualifiers, id: &Word<'_>) -> Result<Vec<FilterTest>, FilterError> {
    if qualifiers.ends != Ends::Either || qualifiers.family.proto != 0 {
        return Err(id.wrong("is a protocol: only `ip` or `ip6` may stand before `proto`"));
    }
    let name = id.text.trim_start_matches('\\');
    match protocol_name(name).or_else(|| name.parse().ok()) {
        Some(0) => Err(id.wrong("cannot be tested: protocol 0 is the hop-by-hop header")),
        Some(proto) => Ok(vec![FilterTest { proto, family: qualifiers.family.family, ..anything() }]),
        None => Err(id.wrong("is no protocol: write its number, or tcp, udp, icmp, icmp6, sctp, gre, esp, ah, igmp")),
    }
}

/// The number of a TCP flag or ICMP type, by its name or as a number.
pub(super) fn constant(header: &str, word: &str) -> Option<u8> {
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
    const ICMP: [(&str, u8); 11] = [
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
    ];
    const ICMP6: [(&str, u8); 11] = [
        ("icmp6-destinationunreach", 1),
        ("icmp6-packettoobig", 2),
        ("icmp6-timeexceeded", 3),
        ("icmp6-parameterproblem", 4),
        ("icmp6-echo", 128),
        ("icmp6-echoreply", 129),
        ("icmp6-routersolicit", 133),
        ("icmp6-routeradvert", 134),
        ("icmp6-neighborsolicit", 135),
        ("icmp6-neighboradvert", 136),
        ("icmp6-redirect", 137),
    ];
    let names: &[(&str, u8)] = match header {
        "tcp" => &TCP,
        "icmp" => &ICMP,
        _ => &ICMP6,
    };
    let named = names.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    named.or_else(|| match word.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    })
}
