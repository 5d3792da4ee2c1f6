use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netprobe_common::{
    filter::{self, Traits},
    flow::{FlowKey, mapped},
};
use proptest::prelude::*;

use super::{Compiled, compile};

/// What is read of a packet.
#[derive(Clone, Copy, Debug)]
struct Seen {
    flow: FlowKey,
    traits: Traits,
}

fn bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn seen(proto: u8, src: (&str, u16), dst: (&str, u16)) -> Seen {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let flow = FlowKey {
        src: bytes(ip(src.0)),
        dst: bytes(ip(dst.0)),
        sport: src.1,
        dport: dst.1,
        proto,
        family: if ip(src.0).is_ipv4() { 4 } else { 6 },
        ether_type: 0,
    };
    Seen { flow, traits: Traits { len: 60, ..Traits::default() } }
}

/// As the programs decide it.
fn passes(compiled: &Compiled, packet: &Seen) -> bool {
    let Compiled { filter, tests, clauses, .. } = compiled;
    filter::passes(filter, (*tests, *clauses), &packet.flow, false, packet.traits, |bits| bits)
}

fn pass(text: &str, packet: &Seen) -> bool {
    passes(&compile(text).unwrap_or_else(|error| panic!("{text}: {error}")), packet)
}

fn wrong(text: &str) -> String {
    compile(text).expect_err(text).to_string()
}

const WEB: (&str, u16) = ("10.0.0.1", 40_000);
const DB: (&str, u16) = ("10.0.1.2", 3306);

#[test]
fn the_words_of_tcpdump_mean_what_they_mean_there() {
    let query = seen(6, WEB, DB);
    let fits = [
        "",
        "tcp",
        "ip",
        "10.0.0.1",
        "host 10.0.1.2",
        "src 10.0.0.1",
        "src host 10.0.0.1 and dst host 10.0.1.2",
        "net 10.0.0.0/8",
        "net 10",
        "net 10.0/16",
        "dst net 10.0.1.0 mask 255.255.255.0",
        "10.0.1.0/24",
        "src and dst net 10.0.0.0/8",
        "port 3306",
        "tcp port 3306",
        "tcp dst port 3306",
        "src or dst port 3306",
        "portrange 3000-4000",
        "tcp src portrange 1024-65535",
        "port 80 or 3306",
        "port (80 or 3306)",
        "tcp and port 3306 and host 10.0.1.2",
        "not udp",
        "! udp && ! icmp",
        "proto 6",
        "ip proto \\tcp",
        "ip host 10.0.0.1",
        "not (host 10.9.9.9 or port 53)",
        "host 10.9.9.9 or 10.0.0.1",
    ];
    for text in fits {
        assert!(pass(text, &query), "{text}");
    }
    let misses = [
        "udp",
        "ip6",
        "icmp",
        "src 10.0.1.2",
        "dst port 40000",
        "udp port 3306",
        "not tcp",
        "src and dst port 3306",
        "net 192.168.0.0/16",
        "proto udp",
        "port 80 or 443",
        "not host 10.0.0.1",
    ];
    for text in misses {
        assert!(!pass(text, &query), "{text}");
    }
}

#[test]
fn and_and_or_bind_equally_strong_from_left_to_right() {
    let (dns, web) = (seen(17, WEB, ("10.0.1.2", 53)), seen(6, WEB, ("10.0.1.2", 80)));
    for packet in [dns, web] {
        assert_eq!(pass("udp or tcp and port 53", &packet), pass("(udp or tcp) and port 53", &packet), "{packet:?}");
    }
    assert!(!pass("tcp or udp and port 53", &web));
    assert!(pass("tcp or (udp and port 53)", &web));
    assert!(pass("not port 80 or 80", &web), "`not` binds to the first port only");
}

#[test]
fn ipv6_is_as_good_as_ipv4() {
    let packet = seen(6, ("fd00::1", 40_000), ("2001:db8::2", 443));
    for text in ["ip6", "host fd00::1", "dst net 2001:db8::/32", "ip6 host fd00::1", "tcp port 443", "net ::/0"] {
        assert!(pass(text, &packet), "{text}");
    }
    for text in ["ip", "host 10.0.0.1", "net 0.0.0.0/0", "src 2001:db8::2", "icmp6"] {
        assert!(!pass(text, &packet), "{text}");
    }
}

#[test]
fn flags_and_types_are_tested() {
    let with = |flags| Seen { traits: Traits { flags, ..Traits::default() }, ..seen(6, WEB, DB) };
    let (syn, syn_ack, ack, rst) = (with(2), with(18), with(16), with(4));
    let passing = |text: &str| [syn, syn_ack, ack, rst].map(|packet| pass(text, &packet));
    assert_eq!(passing("tcp[tcpflags] & (tcp-syn|tcp-ack) != 0"), [true, true, true, false]);
    assert_eq!(passing("tcp[tcpflags] == tcp-syn"), [true, false, false, false]);
    assert_eq!(passing("tcp[13] & 2 != 0"), [true, true, false, false]);
    assert_eq!(passing("tcp[13:1]=0x12"), [false, true, false, false]);
    assert_eq!(passing("tcp[tcpflags] & tcp-syn == 0"), [false, false, true, true]);
    assert_eq!(passing("tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn|tcp-ack"), [false, true, false, false]);
    assert_eq!(passing("tcp[tcpflags] != tcp-syn"), [false, true, true, true]);
    assert_eq!(passing("not tcp[tcpflags] & tcp-rst != 0"), [true, true, true, false]);
    assert!(!pass("tcp[tcpflags] != tcp-syn", &seen(17, WEB, DB)), "it is about TCP only");

    let traits = Traits { icmp_type: 8, ..Traits::default() };
    let ping = Seen { traits, ..seen(1, ("10.0.0.1", 7), ("10.0.1.2", 7)) };
    assert!(pass("icmp[icmptype] == icmp-echo", &ping) && pass("icmp[0] = 8", &ping));
    assert!(pass("icmp[icmptype] != icmp-echoreply", &ping) && !pass("icmp[icmptype] != 8", &ping));
    assert!(!pass("icmp6[icmp6type] == icmp6-echo", &ping));
    assert!(!pass("port 7", &ping), "an identifier is no port");
}

#[test]
fn all_ports_are_those_of_protocols_that_have_ports() {
    assert!(pass("portrange 0-65535", &seen(17, WEB, DB)));
    assert!(!pass("portrange 0-65535", &seen(1, WEB, DB)));
}

#[test]
fn an_error_names_the_word_and_where_it_is() {
    let cases = [
        ("tcp adn port 80", "filter: `adn` (character 5) does not belong here: write `and` or `or` before it"),
        (
            "host web-0",
            "filter: `web-0` (character 6) is no address: names are not looked up, write 10.0.0.1 or fd00::1",
        ),
        ("port htpp", "filter: `htpp` (character 6) is no port that /etc/services names: write its number"),
        ("udp port http", "filter: `http` (character 10) is a port of tcp"),
        ("port 70000", "filter: `70000` (character 6) is no port: they end at 65535"),
        ("port 1-1023", "filter: `1-1023` (character 6) is a range of ports: write `portrange` before it"),
        ("portrange 9-3", "filter: `9-3` (character 11) is no range of ports: write LOW-HIGH, each 0 to 65535"),
        ("host 10.0.0.0/8", "filter: `10.0.0.0/8` (character 6) is a net: write `net` before it"),
        ("ip host fd00::1", "filter: `fd00::1` (character 9) is no address of ip"),
        ("icmp port 80", "filter: `80` (character 11) is a port, and icmp has none"),
        ("tcp and", "filter: it ends where an address, a protocol or `port` is expected"),
        ("(tcp or udp", "filter: it ends where `)` is expected"),
        ("tcp)", "filter: `)` (character 4) has no `(` before it"),
        ("80", "filter: `80` (character 1) is only a number: write `port` or `proto` before it"),
        ("port 80 443", "filter: `443` (character 9) does not belong here: write `and` or `or` before it"),
        ("len ~ 5", "filter: `5` (character 7) needs `<=`, `>=`, `<`, `>`, `==` or `!=` between `len` and it"),
        ("len < 0", "filter: `0` (character 7) leaves no length that a packet can have"),
        ("less big", "filter: `big` (character 6) is no number of bytes"),
        ("icmp[icmpcode] == icmp-echo", "filter: `icmp-echo` (character 19) is no ICMP code: write its number"),
        ("ip and arp", "filter: no packet can pass it: it asks for two things that exclude each other"),
        (
            "tcp[tcpflags] & tcp-syn|tcp-ack != 0",
            "filter: `|` (character 24) needs parentheses around the flags: tcp[tcpflags] & (A|B) != 0",
        ),
        ("tcp[tcpflags] & tcp-syn", "filter: it ends where `==` or `!=` is expected"),
        ("tcp[tcpflags] & tcp-syn > 0", "filter: `>` (character 25) stands where `==` or `!=` is expected"),
        (
            "größe",
            "filter: `größe` (character 1) is no word of the filter language: write an address, host, net, port, \
             portrange, proto, src, dst, tcp, udp, icmp, icmp6, ip, ip6, arp or len",
        ),
        ("tcp and udp", "filter: no packet can pass it: it asks for two things that exclude each other"),
    ];
    for (text, message) in cases {
        assert_eq!(wrong(text), message);
    }
}

#[test]
fn what_cannot_be_tested_says_why() {
    let cases = [
        (
            "vlan 5",
            "filter: `vlan` (character 1) cannot be tested: netprobe reads packets from the IP header on, not what is \
             before it",
        ),
        (
            "tcp and inbound",
            "filter: `inbound` (character 9) cannot be tested: every device has its own inbound; write src host or \
             dst host",
        ),
        (
            "ip broadcast",
            "filter: `broadcast` (character 4) cannot be tested: netprobe does not read link-layer addresses; by IP it \
             is dst host 255.255.255.255, dst net 224.0.0.0/4 or dst net ff00::/8",
        ),
        (
            "arp host 10.0.0.1",
            "filter: `host` (character 5) cannot be tested behind arp: netprobe does not read the addresses in ARP",
        ),
        (
            "arp src host (10.0.0.1 or 10.0.0.2)",
            "filter: `src` (character 5) cannot be tested behind arp: netprobe does not read the addresses in ARP",
        ),
        (
            "tcp[4] == 0",
            "filter: `4` (character 5) cannot be tested: only tcp[tcpflags], icmp[icmptype], icmp[icmpcode], \
             icmp6[icmp6type] and icmp6[icmp6code] can, no other bytes of a packet",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(wrong(text), message);
    }
}

#[test]
fn a_filter_that_is_too_large_says_so() {
    let ports = |n: u16| (1..=n).map(|port| format!("port {port}")).collect::<Vec<_>>();
    assert!(compile(&ports(16).join(" or ")).is_ok());
    assert_eq!(
        wrong(&ports(17).join(" or ")),
        "filter: it is too large: more than 16 different tests; leave something out"
    );
    let pairs: Vec<_> = ports(16).chunks(2).map(|pair| format!("({})", pair.join(" or "))).collect();
    assert!(compile(&pairs[..4].join(" and ")).is_ok());
    assert!(wrong(&pairs.join(" and ")).ends_with("16 are possible; leave something out"));
    assert!(wrong(&"not ".repeat(5000)).contains("is one word too many"));
}

/// An expression that says itself what it means, without the parser and the normal form.
#[derive(Clone, Debug)]
enum Said {
    Host(u8, IpAddr),
    Net(u8, Ipv4Addr, u8),
    Ports(u8, u8, u16, u16),
    Proto(u8),
    Family(u8),
    AnyFlag(u8),
    Flags(u8, u8),
    Type(u8),
    Code(u8),
    Length(u32),
    Arp,
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

const SIDES: [&str; 4] = ["", "src ", "dst ", "src or dst "];

impl Said {
    fn text(&self) -> String {
        let side = |side: &u8| SIDES[usize::from(*side)];
        match self {
            Self::Host(s, ip) => format!("{}host {ip}", side(s)),
            Self::Net(s, ip, bits) => format!("{}net {ip}/{bits}", side(s)),
            Self::Ports(s, proto, low, high) => {
                let proto = ["", "tcp ", "udp "][usize::from(*proto)];
                if low == high {
                    format!("{proto}{}port {low}", side(s))
                } else {
                    format!("{proto}{}portrange {low}-{high}", side(s))
                }
            }
            Self::Proto(number) => format!("proto {number}"),
            Self::Family(4) => "ip".to_owned(),
            Self::Family(_) => "ip6".to_owned(),
            Self::AnyFlag(mask) => format!("tcp[tcpflags] & {mask} != 0"),
            Self::Flags(mask, value) => format!("tcp[13]&{mask}=={}", value & mask),
            Self::Type(number) => format!("icmp[icmptype] != {number}"),
            Self::Code(number) => format!("(icmp[1]) = {number}"),
            Self::Length(bytes) => format!("len > {bytes}"),
            Self::Arp => "arp".to_owned(),
            Self::Not(inner) => format!("not ({})", inner.text()),
            Self::And(a, b) => format!("({}) && ({})", a.text(), b.text()),
            Self::Or(a, b) => format!("({}) or ({})", a.text(), b.text()),
        }
    }

    fn holds(&self, packet: &Seen) -> bool {
        let flow = &packet.flow;
        let ends = |side: &u8, fits: &dyn Fn(IpAddr, u16) -> bool| {
            let ip = |bytes| IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical();
            (*side != 2 && fits(ip(flow.src), flow.sport)) || (*side != 1 && fits(ip(flow.dst), flow.dport))
        };
        match self {
            Self::Host(s, ip) => ends(s, &|at, _| at == *ip),
            Self::Net(s, ip, bits) => {
                let net = ipnet::Ipv4Net::new(*ip, *bits).expect("up to 32 bits");
                ends(s, &|at, _| matches!(at, IpAddr::V4(at) if net.contains(&at)))
            }
            Self::Ports(s, proto, low, high) => {
                let protos: &[u8] = [&[6, 17, 132][..], &[6], &[17]][usize::from(*proto)];
                protos.contains(&flow.proto) && ends(s, &|_, port| (low..=high).contains(&&port))
            }
            Self::Proto(number) => flow.proto == *number,
            Self::Family(family) => flow.family == *family,
            Self::AnyFlag(mask) => flow.proto == 6 && packet.traits.flags & mask != 0,
            Self::Flags(mask, value) => flow.proto == 6 && packet.traits.flags & mask == value & mask,
            Self::Type(number) => flow.proto == 1 && packet.traits.icmp_type != *number,
            Self::Code(number) => flow.proto == 1 && packet.traits.icmp_code == *number,
            Self::Length(bytes) => packet.traits.len > *bytes,
            Self::Arp => flow.ether_type == 0x806,
            Self::Not(inner) => !inner.holds(packet),
            Self::And(a, b) => a.holds(packet) && b.holds(packet),
            Self::Or(a, b) => a.holds(packet) || b.holds(packet),
        }
    }
}

/// Few values, so that packets and tests meet.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..2, 0u8..3).prop_map(|(a, b)| IpAddr::from([10, 0, a, b])),
        (0u16..3).prop_map(|a| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, a])),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(53), Just(80), Just(u16::MAX)]
}

fn packet() -> impl Strategy<Value = Seen> {
    let proto = prop_oneof![Just(1u8), Just(6), Just(17), Just(58), Just(132)];
    let v6 = |a: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, a]);
    let v4 = |a: u8| IpAddr::from([10, 0, a / 3, a % 3]);
    let ends = prop_oneof![
        (0u8..6, 0u8..6).prop_map(move |(a, b)| (v4(a), v4(b))),
        (0u16..3, 0u16..3).prop_map(move |(a, b)| (v6(a), v6(b))),
    ];
    let traits = (any::<u8>(), 0u8..10, 0u8..3, 40u32..50).prop_map(|(flags, icmp_type, icmp_code, len)| Traits {
        len,
        flags,
        icmp_type,
        icmp_code,
    });
    (ends, port(), port(), proto, traits, any::<bool>()).prop_map(|((src, dst), sport, dport, proto, traits, arp)| {
        if arp {
            let traits = Traits::default();
            return Seen { flow: FlowKey { ether_type: 0x806, ..FlowKey::EMPTY }, traits };
        }
        let (family, ether_type) = if src.is_ipv4() { (4, 0x800) } else { (6, 0x86dd) };
        let flow = FlowKey { src: bytes(src), dst: bytes(dst), sport, dport, proto, family, ether_type };
        Seen { flow, traits }
    })
}

fn said() -> impl Strategy<Value = Said> {
    let leaf = prop_oneof![
        (0u8..4, address()).prop_map(|(s, ip)| Said::Host(s, ip)),
        (0u8..4, 0u8..2, 0u8..33).prop_map(|(s, a, bits)| Said::Net(s, Ipv4Addr::new(10, 0, a, 1), bits)),
        (0u8..4, 0u8..3, port(), port()).prop_map(|(s, p, a, b)| Said::Ports(s, p, a.min(b), a.max(b))),
        prop_oneof![Just(1u8), Just(6), Just(17)].prop_map(Said::Proto),
        prop_oneof![Just(4u8), Just(6)].prop_map(Said::Family),
        (1u8..32).prop_map(Said::AnyFlag),
        (1u8..32, 0u8..32).prop_map(|(mask, value)| Said::Flags(mask, value)),
        (0u8..10).prop_map(Said::Type),
        (0u8..3).prop_map(Said::Code),
        (39u32..50).prop_map(Said::Length),
        Just(Said::Arp),
    ];
    leaf.prop_recursive(5, 12, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| Said::Not(Box::new(a))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Said::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Said::Or(Box::new(a), Box::new(b))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_compiled_filter_passes_what_was_said(said in said(), packets in prop::collection::vec(packet(), 32)) {
        match compile(&said.text()) {
            Ok(compiled) => for packet in &packets {
                prop_assert_eq!(passes(&compiled, packet), said.holds(packet), "{}: {:?}", said.text(), packet);
            },
            Err(error) => {
                prop_assert!(error.why.contains("too large") || error.why.contains("exclude"), "{}: {}", said.text(), error);
                if error.why.contains("exclude") {
                    prop_assert!(!packets.iter().any(|packet| said.holds(packet)), "{}", said.text());
                }
            }
        }
    }

    #[test]
    fn no_text_makes_the_compiler_panic(text in any::<String>()) {
        let _ = compile(&text);
    }

    #[test]
    fn no_words_make_the_compiler_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "tcp", "udp", "icmp", "ip", "ip6", "host", "net", "port", "portrange", "proto", "src", "dst", "and", "or",
            "not", "(", ")", "[", "]", "&", "|", "==", "!=", "10.0.0.1", "fd00::1", "10.0.0.0/8", "80", "1-9",
            "tcpflags", "tcp-syn", "icmptype", "arp", "len", "less", "<=", ">", "http", "domain", "mask", "255.0.0.0", "0", "/", "-", ":", "\\",
        ]), 0..24),
    ) {
        let _ = compile(&words.join(" "));
    }
}
