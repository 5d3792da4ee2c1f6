//! A table of ours that marks packets for nftables' trace, as one batch of netlink messages.
//!
//! Numbers and layouts: `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`. Attributes are in network order,
//! message headers in the host's.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};

use super::attribute;

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const GET_RULE: u16 = NFTABLES << 8 | 7;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NFT_TABLE_F_OWNER`: the kernel removes the table when the socket that made it is closed, however its process ends.
const OWNER: u32 = 2;
/// `NFT_REG_1`.
const REGISTER: u32 = 1;
/// Before every other chain of the hook; nft's own `raw` is at -300, defragmentation at -400.
const FIRST: i32 = -450;
/// Hooks where a packet enters the stack: prerouting, and output for the node's own.
const HOOKS: [(&str, u32); 2] = [("prerouting", 0), ("output", 3)];

/// Packets marked in a second: as many that open a TCP connection, and as many others.
const PER_SECOND: u64 = 100;

/// The messages that make the table named `table`, or make it anew, so that it marks the packets of these addresses; of
/// everybody where it is `None`. The table's asks for the kernel's word: before 6.10 the end of a batch has none.
pub(super) fn batch(table: &str, addresses: Option<&BTreeSet<IpAddr>>) -> Vec<u8> {
    let mut to = Messages::default();
    to.message(BEGIN, 0, (0, NFTABLES), |_| {});
    to.message(NEW_TABLE, NLM_F_CREATE, (INET, 0), |at| {
        at.text(attribute::TABLE_NAME, table);
        at.number(attribute::TABLE_FLAGS, OWNER);
    });
    to.message(DELETE_TABLE, 0, (INET, 0), |at| at.text(attribute::TABLE_NAME, table));
    to.message(NEW_TABLE, NLM_F_CREATE | NLM_F_ACK, (INET, 0), |at| {
        at.text(attribute::TABLE_NAME, table);
        at.number(attribute::TABLE_FLAGS, OWNER);
    });
    for (chain, hook) in HOOKS {
        to.message(NEW_CHAIN, NLM_F_CREATE, (INET, 0), |at| {
            at.text(attribute::CHAIN_TABLE, table);
            at.text(attribute::CHAIN_NAME, chain);
            at.nested(attribute::CHAIN_HOOK, |at| {
                at.number(attribute::HOOK_NUMBER, hook);
                at.number(attribute::HOOK_PRIORITY, FIRST.cast_unsigned());
            });
            at.text(attribute::CHAIN_TYPE, "filter");
        });
        for opens in [true, false] {
            let mut rule = |address: Option<(IpAddr, bool)>| {
                to.message(NEW_RULE, NLM_F_CREATE, (INET, 0), |at| {
                    at.text(attribute::RULE_TABLE, table);
                    at.text(attribute::RULE_CHAIN, chain);
                    at.nested(attribute::RULE_EXPRESSIONS, |at| expressions(at, address, opens));
                });
            };
            if addresses.is_none() {
                rule(None);
            }
            for address in addresses.into_iter().flatten() {
                rule(Some((*address, true)));
                rule(Some((*address, false)));
            }
        }
    }
    to.message(END, 0, (0, NFTABLES), |_| {});
    to.0
}

/// What asks for the rules of a chain, in their order: kind and payload of a dump.
pub(super) fn list(family: u8, table: &str, chain: &str) -> (u16, Vec<u8>) {
    let mut payload = vec![family, 0, 0, 0];
    let mut at = Attributes(&mut payload);
    at.text(attribute::RULE_TABLE, table);
    at.text(attribute::RULE_CHAIN, chain);
    (GET_RULE, payload)
}

/// `ip saddr A tcp flags & syn == syn limit rate 100/second meta nftrace set 1`.
fn expressions(at: &mut Attributes<'_>, address: Option<(IpAddr, bool)>, opens: bool) {
    if let Some((address, is_source)) = address {
        let (family, offset, bytes) = match address {
            IpAddr::V4(ip) => (2, if is_source { 12 } else { 16 }, ip.octets().to_vec()),
            IpAddr::V6(ip) => (10, if is_source { 8 } else { 24 }, ip.octets().to_vec()),
        };
        load_meta(at, NFPROTO);
        is(at, &[family]);
        load(at, NETWORK, offset, bytes.len());
        is(at, &bytes);
    }
    if opens {
        load_meta(at, L4PROTO);
        is(at, &[TCP]);
        load(at, TRANSPORT, TCP_FLAGS, 1);
        at.expression("bitwise", |at| {
            at.number(attribute::BITWISE_SOURCE, REGISTER);
            at.number(attribute::BITWISE_TARGET, REGISTER);
            at.number(attribute::BITWISE_LENGTH, 1);
            at.nested(attribute::BITWISE_MASK, |at| at.bytes(attribute::DATA_VALUE, &[SYN]));
            at.nested(attribute::BITWISE_XOR, |at| at.bytes(attribute::DATA_VALUE, &[0]));
        });
        is(at, &[SYN]);
    }
    at.expression("limit", |at| {
        at.bytes(attribute::LIMIT_RATE, &PER_SECOND.to_be_bytes());
        at.bytes(attribute::LIMIT_SECONDS, &1_u64.to_be_bytes());
        at.number(attribute::LIMIT_BURST, PER_SECOND as u32);
    });
    at.expression("immediate", |at| {
        at.number(attribute::IMMEDIATE_TARGET, REGISTER);
        at.nested(attribute::IMMEDIATE_DATA, |at| at.bytes(attribute::DATA_VALUE, &[1]));
    });
    at.expression("meta", |at| {
        at.number(attribute::META_KEY, NFTRACE);
        at.number(attribute::META_SOURCE, REGISTER);
    });
}

/// `IPPROTO_TCP`; where its header has the flags, bytes from its beginning; the flag of a first segment.
const TCP: u8 = 6;
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 2;
/// `NFT_CMP_EQ`.
const EQUAL: u32 = 0;
/// `enum nft_meta_keys`.
const NFTRACE: u32 = 12;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
/// `enum nft_payload_bases`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

fn load_meta(at: &mut Attributes<'_>, key: u32) {
    at.expression("meta", |at| {
        at.number(attribute::META_TARGET, REGISTER);
        at.number(attribute::META_KEY, key);
    });
}

fn load(at: &mut Attributes<'_>, base: u32, offset: u32, length: usize) {
    at.expression("payload", |at| {
        at.number(attribute::PAYLOAD_TARGET, REGISTER);
        at.number(attribute::PAYLOAD_BASE, base);
        at.number(attribute::PAYLOAD_OFFSET, offset);
        at.number(attribute::PAYLOAD_LENGTH, length as u32);
    });
}

/// The register holds these bytes, or the rule ends.
fn is(at: &mut Attributes<'_>, value: &[u8]) {
    at.expression("cmp", |at| {
        at.number(attribute::COMPARE_SOURCE, REGISTER);
        at.number(attribute::COMPARE_HOW, EQUAL);
        at.nested(attribute::COMPARE_DATA, |at| at.bytes(attribute::DATA_VALUE, value));
    });
}

/// Netlink messages one behind the other.
#[derive(Default)]
struct Messages(Vec<u8>);

impl Messages {
    /// Appends a message: `struct nlmsghdr`, `struct nfgenmsg` (family and resource), attributes.
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        (family, resource): (u8, u16),
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.0.extend([0; 8]);
        self.0.extend([family, 0]);
        self.0.extend(resource.to_be_bytes());
        fill(&mut Attributes(&mut self.0));
        let length = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Attributes of a message (`struct nlattr`), each padded to four bytes.
struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// One of a rule's expressions: `NFTA_LIST_ELEM` with its name and what it needs.
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.nested(attribute::LIST_ELEMENT, |at| {
            at.text(attribute::EXPRESSION_NAME, name);
            at.nested(attribute::EXPRESSION_DATA, fill);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::netlink::{Notification, messages};

    #[test]
    fn the_batch_is_whole_messages_between_begin_and_end() {
        let addresses = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().expect("an address")).into();
        let bytes = batch("netprobe", Some(&addresses));
        let kinds: Vec<u16> = messages(&bytes).filter_map(|m| Some(Notification::new(m)?.kind)).collect();
        assert_eq!(bytes.len(), messages(&bytes).map(<[u8]>::len).sum::<usize>());
        assert_eq!((kinds[0], kinds[kinds.len() - 1]), (BEGIN, END));
        // Two hooks, each with two addresses in two places, TCP's first packets and others.
        assert_eq!(kinds.iter().filter(|kind| **kind == NEW_RULE).count(), 2 * 2 * 2 * 2);
        assert_eq!(kinds.iter().filter(|kind| **kind == NEW_CHAIN).count(), 2);
    }

    #[test]
    fn nobody_is_not_everybody() {
        let rules = |addresses: Option<&BTreeSet<IpAddr>>| {
            let kinds =
                |bytes: &[u8]| messages(bytes).filter_map(|m| Some(Notification::new(m)?.kind)).collect::<Vec<_>>();
            kinds(&batch("netprobe", addresses)).iter().filter(|kind| **kind == NEW_RULE).count()
        };
        assert_eq!(rules(Some(&BTreeSet::new())), 0);
        assert_eq!(rules(None), 4);
    }
}
