//! What one primitive of the language tests: words → [`FilterTest`].

use std::net::IpAddr;

use ipnet::IpNet;
use netprobe_common::{config::FilterTest, flow::mapped, wire};

use super::{FilterError, services, words::Word};

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
/// EtherType of ARP (`ETH_P_ARP`).
const ARP: u16 = 0x806;
/// Those that have ports where the programs look for them.
pub(super) const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// `ip`, `ip6`, `arp` or a protocol, in front of other words or alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Family {
    /// 4, 6, or 0.
    pub family: u8,
    /// Protocol, or 0.
    pub proto: u8,
    /// EtherType of what is no IP, or 0.
    pub ether_type: u16,
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
    FilterTest { port_high: u16::MAX, len_high: u32::MAX, sides: 3, ..wire::zeroed() }
}

/// `ip`, `ip6`, `tcp`, ...
pub(super) fn family(word: &str) -> Option<Family> {
    match word {
        "ip" => Some(Family { family: 4, ..Family::default() }),
        "ip6" => Some(Family { family: 6, ..Family::default() }),
        "arp" => Some(Family { ether_type: ARP, ..Family::default() }),
        name => protocol_name(name).map(|proto| Family { proto, ..Family::default() }),
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

/// Why a word of tcpdump's cannot be tested; `None` for the others.
pub(super) fn obstacle(word: &str) -> Option<&'static str> {
    Some(match word {
        "ether" | "link" | "fddi" | "tr" | "wlan" => "netprobe does not read link-layer addresses",
        "broadcast" | "multicast" => {
            "netprobe does not read link-layer addresses; by IP it is dst host 255.255.255.255, dst net 224.0.0.0/4 or \
             dst net ff00::/8"
        }
        "vlan" | "mpls" | "pppoed" | "pppoes" => "netprobe reads packets from the IP header on, not what is before it",
        "geneve" | "vxlan" => "netprobe does not look into tunnels; the packets around have udp port 6081 or 4789",
        "gateway" => "netprobe does not read link-layer addresses; write host or net",
        "inbound" | "outbound" => "every device has its own inbound; write src host or dst host",
        "ifname" | "on" => "a pod's packets are seen at all their devices",
        "protochain" => "only the last header counts; write proto",
        "rarp" | "decnet" | "atalk" | "aarp" | "iso" | "stp" | "ipx" | "netbeui" | "lat" => "it is not IP or ARP",
        _ => return None,
    })
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
        Some(Kind::Port) => match port(id.text) {
            Some(port) => ports(qualifiers, id, port, port),
            None => service(qualifiers, id),
        },
        Some(Kind::PortRange) => {
            let wrong = "is no range of ports: write LOW-HIGH, each 0 to 65535";
            let (low, high) = range(id.text).filter(|(low, high)| low <= high).ok_or_else(|| id.wrong(wrong))?;
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
    let net = net(id.text).filter(|_| !id.text.contains('/')).map(|net| net.addr());
    let Some(IpAddr::V4(address)) = net else { return Err(id.wrong("is no IPv4 net: `mask` is for those only")) };
    let mask: std::net::Ipv4Addr = mask.text.parse().map_err(|_| mask.wrong("is no mask: write 255.255.0.0"))?;
    let mut bits = [0xff; 16];
    bits[12..].copy_from_slice(&mask.octets());
    let address = mapped((address & mask).octets());
    ranged(qualifiers, id, Range { address, mask: bits, family: 4 })
}

fn ranged(qualifiers: Qualifiers, id: &Word<'_>, range: Range) -> Result<Vec<FilterTest>, FilterError> {
    let Family { family, proto, .. } = qualifiers.family;
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
        _ => "is no port that /etc/services names: write its number",
    }
}

/// `LOW-HIGH`; names of ports may have a hyphen too.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| port(text).or_else(|| services::find(text).first().map(|(port, _)| *port));
    let hyphens = text.match_indices('-').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let mut ranges = hyphens.filter_map(|(low, high)| Some((number(low)?, number(high)?)));
    ranges.next().or_else(|| number(text).map(|port| (port, port)))
}

/// The ports of that name, each of its protocol.
fn service(qualifiers: Qualifiers, id: &Word<'_>) -> Result<Vec<FilterTest>, FilterError> {
    let proto = qualifiers.family.proto;
    let all = services::find(id.text);
    let fitting: Vec<_> = all.iter().copied().filter(|(_, of)| proto == 0 || *of == proto).collect();
    match fitting.as_slice() {
        [] => Err(match all.first() {
            Some((_, other)) => id.wrong(format!("is a port of {}", protocol_word(*other))),
            None => id.wrong(port_wrong(id.text)),
        }),
        [(port, _), others @ ..] if !others.is_empty() && others.iter().all(|(other, _)| other == port) => {
            ports(qualifiers, id, *port, *port)
        }
        each => {
            let of = |(port, proto): &(u16, u8)| {
                let family = Family { proto: *proto, ..qualifiers.family };
                ports(Qualifiers { family, ..qualifiers }, id, *port, *port)
            };
            Ok(each.iter().map(of).collect::<Result<Vec<_>, _>>()?.concat())
        }
    }
}

fn protocol_word(number: u8) -> &'static str {
    PROTOCOLS.iter().find(|(_, known)| *known == number).map_or("this protocol", |(name, _)| name)
}

fn ports(qualifiers: Qualifiers, id: &Word<'_>, low: u16, high: u16) -> Result<Vec<FilterTest>, FilterError> {
    let Family { family, proto, .. } = qualifiers.family;
    if proto != 0 && !WITH_PORTS.contains(&proto) {
        return Err(id.wrong(format!("is a port, and {} has none", protocol_word(proto))));
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
