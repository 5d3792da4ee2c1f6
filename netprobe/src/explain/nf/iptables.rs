//! A rule as `iptables-save` writes it.

use super::{
    Act, Said, Seen, Sure, Words,
    values::{any, holds_address, holds_number, is_device, is_protocol, number},
};
use crate::model::{flow::Proto, ruleset::Table};

/// What the rule says to the packet.
pub(super) fn ask<'r>(text: &'r str, seen: &Seen<'_>, table: &'r Table) -> Said<'r> {
    let mut words = Words::of(text);
    let mut sure = Sure::Yes;
    let mut module = "";
    let mut inverted = false;
    while let Some(word) = words.next() {
        match word {
            "!" => {
                inverted = true;
                continue;
            }
            "-j" => return target(sure, words, table),
            "-g" => return words.next().map_or_else(Said::nothing, |chain| Said::one(sure, Act::Goto(chain))),
            "-m" => {
                module = words.next().unwrap_or_default();
                if module == "rpfilter" {
                    // It matches what has a way back; `--invert` is its own, and stands behind it.
                    let back = seen.way_back(text.contains("--loose"));
                    sure = sure.min(back.inverted_if(text.contains("--invert")));
                } else if !MODULES.contains(&module) {
                    sure = sure.min(Sure::Maybe);
                }
            }
            _ => sure = sure.min(option(word, module, &mut words, seen).inverted_if(inverted)),
        }
        if sure == Sure::No {
            return Said::nothing();
        }
        inverted = false;
    }
    Said::one(sure, Act::Continue)
}

/// Modules whose options are understood, or that decide nothing.
const MODULES: [&str; 14] = [
    "tcp",
    "udp",
    "sctp",
    "comment",
    "conntrack",
    "state",
    "mark",
    "multiport",
    "addrtype",
    "icmp",
    "icmp6",
    "ipv6-icmp",
    "iprange",
    "set",
];

/// Whether the packet has what an option asks for.
fn option<'r>(word: &str, module: &str, words: &mut Words<'r>, seen: &Seen<'_>) -> Sure {
    let (source, destination) = (seen.flow.src, seen.flow.dst);
    let mut argument = || words.next().unwrap_or_default();
    let port = |port: u16, list: &str| {
        if seen.flow.has_ports() { any(list.split(',').map(|one| holds_number(one, port.into()))) } else { Sure::No }
    };
    match word {
        "-s" => holds_address(argument(), source.ip()),
        "-d" => holds_address(argument(), destination.ip()),
        "-i" => is_device(argument(), seen.iif, '+'),
        "-o" => is_device(argument(), seen.oif, '+'),
        "-p" => is_protocol(argument(), seen.flow.proto),
        "--sport" | "--sports" => port(source.port(), argument()),
        "--dport" | "--dports" => port(destination.port(), argument()),
        "--ports" => {
            let list = argument();
            port(source.port(), list).max(port(destination.port(), list))
        }
        "--ctstate" | "--state" => any(argument().split(',').map(|state| seen.state(state))),
        "--mark" if module == "mark" => is_marked(argument(), seen.mark),
        "--src-range" => holds_address(argument(), source.ip()),
        "--dst-range" => holds_address(argument(), destination.ip()),
        "--dst-type" => is_type(argument(), seen, destination.ip()),
        "--src-type" => is_type(argument(), seen, source.ip()),
        "--icmp-type" | "--icmpv6-type" => is_icmp(argument(), seen),
        "--tcp-flags" => {
            let (among, set) = (argument(), argument());
            has_flags(among, set, seen)
        }
        "--syn" => has_flags("FIN,SYN,RST,ACK", "SYN", seen),
        "--comment" => {
            argument();
            Sure::Yes
        }
        // Its other words, and the arguments of options nobody knows here.
        "--invert" | "--loose" | "--validmark" | "--accept-local" => Sure::Yes,
        _ if word.starts_with('-') => Sure::Maybe,
        _ => Sure::Yes,
    }
}

/// `VALUE/MASK`, or `VALUE` of all bits.
fn masked(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask)));
    Some((number(value)?, mask.map_or(Some(u32::MAX), number)?))
}

fn is_marked(text: &str, mark: Option<u32>) -> Sure {
    let known = masked(text).zip(mark);
    known.map_or(Sure::Maybe, |((value, mask), mark)| Sure::of(mark & mask == value))
}

fn is_type(text: &str, seen: &Seen<'_>, ip: std::net::IpAddr) -> Sure {
    any(text.split(',').map(|kind| match kind {
        "LOCAL" => seen.is_local(ip),
        "UNICAST" if seen.is_local(ip) == Sure::Yes || ip.is_multicast() => Sure::No,
        "MULTICAST" => Sure::of(ip.is_multicast()),
        _ => Sure::Maybe,
    }))
}

/// `8`, `3/1`; iptables-save writes numbers.
fn is_icmp(text: &str, seen: &Seen<'_>) -> Sure {
    let Some((kind, code)) = seen.icmp.filter(|_| seen.flow.proto.is_icmp()) else { return Sure::No };
    let (wanted, detail) = text.split_once('/').map_or((text, None), |(kind, code)| (kind, Some(code)));
    let same = |text: &str, value: u8| text.parse().map_or(Sure::Maybe, |n: u8| Sure::of(n == value));
    same(wanted, kind).min(detail.map_or(Sure::Yes, |detail| same(detail, code)))
}

fn has_flags(among: &str, set: &str, seen: &Seen<'_>) -> Sure {
    if seen.flow.proto != Proto::Tcp {
        return Sure::No;
    }
    let bits = |names: &str| {
        names.split(',').fold(0_u8, |bits, name| {
            bits | match name {
                "FIN" => 1,
                "SYN" => 2,
                "RST" => 4,
                "PSH" => 8,
                "ACK" => 16,
                "URG" => 32,
                "ALL" => 63,
                _ => 0,
            }
        })
    };
    Sure::of(seen.flags.0 & bits(among) == bits(set))
}

fn target<'r>(sure: Sure, mut words: Words<'r>, table: &'r Table) -> Said<'r> {
    let name = words.next().unwrap_or_default();
    let act = match name {
        "ACCEPT" | "DNAT" | "SNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" | "TPROXY" | "NFQUEUE" => Act::Accept,
        "DROP" => Act::Drop,
        "REJECT" => Act::Reject,
        "RETURN" => Act::Return,
        chain if table.chains.contains_key(chain) => Act::Jump(chain),
        _ => Act::Continue,
    };
    let mut said = Said::one(sure, act);
    if name == "MARK" {
        let mark = words.clone().zip(words.skip(1)).find(|(option, _)| option.starts_with("--set-"));
        // iptables-save writes every change as this one: clear the mask's bits, flip the value's.
        said.mark = mark.and_then(|(_, text)| masked(text)).map(|(value, mask)| (!mask, value));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::testing::{seen, table};
    use super::*;

    fn says(text: &str) -> Option<(Sure, Act<'_>)> {
        let table = Box::leak(Box::new(table(&["KUBE-FORWARD"])));
        ask(text, &seen(), table).acts.first().copied()
    }

    #[test]
    fn addresses_ports_and_devices_decide() {
        assert_eq!(says("-s 10.9.0.29/32 -p tcp -m tcp --dport 3306 -j DROP"), Some((Sure::Yes, Act::Drop)));
        assert_eq!(says("-s 10.9.0.30/32 -j DROP"), None);
        assert_eq!(says("! -s 10.9.0.30/32 -i vpod+ -j DROP"), Some((Sure::Yes, Act::Drop)));
        assert_eq!(says("-p udp -j DROP"), None);
        assert_eq!(says("-p tcp -m multiport --dports 80,3306 -j REJECT"), Some((Sure::Yes, Act::Reject)));
        assert_eq!(says("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"), Some((Sure::Yes, Act::Drop)));
    }

    #[test]
    fn what_cannot_be_known_is_left_open() {
        assert_eq!(says("-m set --match-set KUBE-SRC-1 src -j DROP"), Some((Sure::Maybe, Act::Drop)));
        assert_eq!(says("-m limit --limit 5/sec -j DROP"), Some((Sure::Maybe, Act::Drop)));
        assert_eq!(says("-d 10.1.1.1/32 -m limit --limit 5/sec -j DROP"), None);
    }

    #[test]
    fn chains_marks_and_states() {
        assert_eq!(
            says("-m comment --comment \"kubernetes\" -j KUBE-FORWARD"),
            Some((Sure::Yes, Act::Jump("KUBE-FORWARD")))
        );
        assert_eq!(says("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"), None);
        assert_eq!(says("-m conntrack --ctstate INVALID -j DROP"), None);
        assert_eq!(says("-m mark ! --mark 0x4000/0x4000 -j RETURN"), Some((Sure::Yes, Act::Return)));
        let table = table(&[]);
        assert_eq!(ask("-j MARK --set-xmark 0x4000/0x4000", &seen(), &table).mark, Some((!0x4000, 0x4000)));
    }
}
