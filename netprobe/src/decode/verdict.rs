//! Netfilter's numbers: hooks, families, and who judged.

use std::sync::Arc;

use netprobe_common::event::{self, VERDICT_CONFIRM, VERDICT_NFT, VERDICT_XTABLES, Verdict};

use super::head;
use crate::model::{
    invalid::{Invalid, Side},
    packet::Judge,
    ruleset,
};

/// `NFPROTO_NETDEV`: its hooks have numbers of their own.
const NETDEV: u8 = 5;
/// `enum nf_inet_hooks`; the bridge's hooks have the same numbers.
const HOOKS: [&str; 6] = ["prerouting", "input", "forward", "output", "postrouting", "ingress"];

/// `enum tcp_conntrack`, as `conntrack -L` names the states.
const TRACKED: [&str; 10] = [
    "",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

/// Name of a hook.
pub(super) fn hook(family: u8, number: u8) -> &'static str {
    match (family, number) {
        (NETDEV, 0) => "ingress",
        (NETDEV, _) => "egress",
        (_, number) => HOOKS.get(usize::from(number)).copied().unwrap_or("unknown"),
    }
}

/// Who judged, with its names.
pub(super) fn judge(verdict: &Verdict, mut name: impl FnMut(&str) -> Arc<str>) -> Judge {
    let family = ruleset::family(verdict.table_family).unwrap_or("unknown");
    let (table, chain) = (head::text(&verdict.table), head::text(&verdict.chain));
    match verdict.by {
        VERDICT_CONFIRM => Judge::Conntrack,
        // A kernel whose tables could not be read.
        VERDICT_NFT | VERDICT_XTABLES if table.is_empty() => Judge::Unknown,
        VERDICT_NFT => Judge::Nftables { family, table: name(&table), chain: name(&chain) },
        VERDICT_XTABLES => Judge::Xtables { family, table: name(&table) },
        _ => Judge::Unknown,
    }
}

/// What conntrack held against the packet.
pub(super) fn invalid(told: &event::Invalid) -> Option<Invalid> {
    let side = |seen: &event::TcpSeen| Side { end: seen.end, max_end: seen.max_end, max_window: seen.max_window };
    (told.known != 0).then(|| Invalid {
        entry: told.confirmed != 0,
        state: TRACKED.get(usize::from(told.state)).copied().unwrap_or(""),
        reply: told.reply != 0,
        sides: [side(&told.seen[0]), side(&told.seen[1])],
    })
}

#[cfg(test)]
mod tests {
    use netprobe_common::wire;

    use super::*;

    fn verdict(by: u32, table: &str, chain: &str) -> Verdict {
        let mut verdict: Verdict = wire::zeroed();
        (verdict.by, verdict.table_family) = (by, 1);
        // Bytes behind the end are what the ring held before.
        verdict.table = [b'x'; 64];
        verdict.chain = [b'x'; 64];
        for (to, text) in [(&mut verdict.table, table), (&mut verdict.chain, chain)] {
            to[..text.len()].copy_from_slice(text.as_bytes());
            to[text.len()] = 0;
        }
        verdict
    }

    #[test]
    fn a_chain_is_named_by_the_bytes_before_its_end() {
        let judge = judge(&verdict(VERDICT_NFT, "site", "guard"), |text| Arc::from(text));
        assert_eq!(judge, Judge::Nftables { family: "inet", table: "site".into(), chain: "guard".into() });
    }

    #[test]
    fn a_table_that_could_not_be_read_is_unknown() {
        assert_eq!(judge(&verdict(VERDICT_NFT, "", ""), |text| Arc::from(text)), Judge::Unknown);
    }

    #[test]
    fn nothing_is_held_against_a_packet_of_which_nothing_is_known() {
        let mut told: event::Invalid = wire::zeroed();
        assert_eq!(invalid(&told), None);
        (told.known, told.confirmed, told.state, told.reply, told.seen[1].end) = (1, 1, 3, 1, 9);
        let told = invalid(&told).expect("it is known");
        assert_eq!((told.entry, told.state, told.reply, told.sides[1].end), (true, "ESTABLISHED", true, 9));
    }

    #[test]
    fn hooks_of_devices_have_numbers_of_their_own() {
        assert_eq!(
            (hook(5, 0), hook(5, 1), hook(2, 0), hook(10, 4)),
            ("ingress", "egress", "prerouting", "postrouting")
        );
    }
}
