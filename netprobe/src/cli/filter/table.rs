//! What tcpdump's filters pass, of a few packets: as `tcpdump -r` does.

use netprobe_common::{
    filter::{self, Traits},
    flow::{FlowKey, mapped},
};

use super::compile;

/// The packets, each with the letter that stands for it in [`PASSING`].
fn packets() -> Vec<(char, FlowKey, Traits)> {
    let ip = |text: &str| match text.parse().expect("an address") {
        std::net::IpAddr::V4(ip) => (mapped(ip.octets()), 4, 0x800),
        std::net::IpAddr::V6(ip) => (ip.octets(), 6, 0x86dd),
    };
    let flow = |proto, src, sport, dst, dport| {
        let ((src, family, ether_type), (dst, ..)) = (ip(src), ip(dst));
        FlowKey { src, dst, sport, dport, proto, family, ether_type }
    };
    let of = |len, flags, icmp_type, icmp_code| Traits { len, flags, icmp_type, icmp_code };
    let (pod, web, pod6, web6) = ("10.1.0.1", "10.2.0.80", "fd00::1", "fd00::80");
    vec![
        ('a', FlowKey { ether_type: 0x806, ..FlowKey::EMPTY }, Traits::default()),
        ('q', flow(17, pod, 40_000, "10.96.0.10", 53), of(75, 0, 0, 0)),
        ('Q', flow(17, "10.96.0.10", 53, pod, 40_000), of(120, 0, 0, 0)),
        ('s', flow(6, pod, 50_000, web, 80), of(74, 0x02, 0, 0)),
        ('S', flow(6, web, 80, pod, 50_000), of(74, 0x12, 0, 0)),
        ('d', flow(6, pod, 50_000, web, 80), of(1514, 0x18, 0, 0)),
        ('r', flow(6, web, 443, pod, 50_001), of(60, 0x14, 0, 0)),
        ('x', flow(17, pod6, 50_002, web6, 443), of(1294, 0, 0, 0)),
        ('p', flow(1, pod, 7, web, 7), of(98, 0, 8, 0)),
        ('P', flow(1, web, 7, pod, 7), of(98, 0, 0, 0)),
        ('u', flow(1, "192.0.2.1", 0, pod, 0), of(590, 0, 3, 4)),
        ('n', flow(58, pod6, 0, "ff02::1:ff00:80", 0), of(86, 0, 135, 0)),
        ('e', flow(58, pod6, 9, web6, 9), of(118, 0, 128, 0)),
    ]
}

/// A filter, and the packets that tcpdump 4.99 lets through.
const PASSING: &[(&str, &str)] = &[
    ("", "aqQsSdrxpPune"),
    ("ip", "qQsSdrpPu"),
    ("ip6", "xne"),
    ("arp", "a"),
    ("not arp", "qQsSdrxpPune"),
    ("arp or icmp", "apPu"),
    ("tcp", "sSdr"),
    ("udp", "qQx"),
    ("icmp6", "ne"),
    ("ip proto 17", "qQ"),
    ("ip proto \\tcp", "sSdr"),
    ("ip6 proto 17", "x"),
    ("src host 10.1.0.1", "qsdp"),
    ("dst 10.1.0.1", "QSrPu"),
    ("ip host 10.2.0.80", "sSdrpP"),
    ("src 10.1.0.1 or 10.96.0.10", "qQsdp"),
    ("src or dst host 10.96.0.10", "qQ"),
    ("src and dst net 10.0.0.0/8", "qQsSdrpP"),
    ("net 10.2", "sSdrpP"),
    ("net 10.2.0.0/16", "sSdrpP"),
    ("net 10.1.0.0 mask 255.255.0.0", "qQsSdrpPu"),
    ("net 10.2 mask 255.255.0.0", "sSdrpP"),
    ("dst net 10.96.0.0/12", "q"),
    ("ip6 net fd00::/8", "xne"),
    ("dst net ff00::/8", "n"),
    ("port 53", "qQ"),
    ("port domain", "qQ"),
    ("udp port domain", "qQ"),
    ("port http", "sSd"),
    ("port www", "sSd"),
    ("port https", "rx"),
    ("tcp port https", "r"),
    ("port http or https", "sSdrx"),
    ("tcp dst port 80", "sd"),
    ("port 80 or 443", "sSdrx"),
    ("portrange 80-443", "sSdrx"),
    ("portrange http-https", "sSdrx"),
    ("tcp src portrange 50000-50001", "sd"),
    ("not port 80 and not port 443", "aqQpPune"),
    ("! port 80 && ! icmp", "aqQrxne"),
    ("host 10.1.0.1 and not (port domain or icmp)", "sSdr"),
    ("udp or tcp and port 53", "qQ"),
    ("tcp[tcpflags] & (tcp-syn|tcp-ack) != 0", "sSdr"),
    ("tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)", "S"),
    ("(tcp[tcpflags] & tcp-syn) != 0", "sS"),
    ("(tcp[tcpflags] & (tcp-rst|tcp-fin)) != 0 or icmp", "rpPu"),
    ("tcp[tcpflags] == tcp-syn", "s"),
    ("tcp[13] & 2 != 0", "sS"),
    ("(tcp[13]) = 18", "S"),
    ("icmp[icmptype] == icmp-echo", "p"),
    ("icmp[0] == 8", "p"),
    ("icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply", "u"),
    ("icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 4", "u"),
    ("icmp[1] == 4", "u"),
    ("icmp6[icmp6type] == icmp6-neighborsolicit", "n"),
    ("icmp6[0] == 128", "e"),
    ("less 98", "aqsSrpPn"),
    ("greater 590", "dxu"),
    ("len <= 74", "asSr"),
    ("len > 590", "dx"),
    ("len == 75", "q"),
    ("len != 98 and icmp", "u"),
    ("tcp and greater 100", "d"),
];

/// What tcpdump does not take, and what it must mean.
const OURS: &[(&str, &str)] = &[
    ("host 10.2.0.80 port 80", "host 10.2.0.80 and port 80"),
    ("tcp not port 80", "tcp and not port 80"),
    ("src 10.1.0.1 (udp or icmp)", "src 10.1.0.1 and (udp or icmp)"),
    ("udp less 100", "udp and less 100"),
];

fn passing(text: &str) -> String {
    let compiled = compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let in_use = (compiled.tests, compiled.clauses);
    let passes = |flow: &FlowKey, traits| filter::passes(&compiled.filter, in_use, flow, false, traits, |bits| bits);
    packets().into_iter().filter(|(_, flow, traits)| passes(flow, *traits)).map(|(letter, ..)| letter).collect()
}

#[test]
fn a_filter_passes_what_it_passes_in_tcpdump() {
    for (text, letters) in PASSING {
        assert_eq!(&passing(text), letters, "{text}");
    }
}

#[test]
fn and_may_be_left_out_before_a_word_that_begins_a_test() {
    for (text, meant) in OURS {
        assert_eq!(compile(text), compile(meant), "{text}");
        assert_ne!(passing(meant), "", "{meant}");
    }
}

#[test]
fn a_filter_that_only_arp_can_pass_is_known() {
    let only = |text: &str| compile(text).expect("it is right").is_arp_only();
    assert!(only("arp") && only("arp and not len > 100"));
    assert!(!only("") && !only("arp or icmp") && !only("not arp") && !only("tcp"));
}
