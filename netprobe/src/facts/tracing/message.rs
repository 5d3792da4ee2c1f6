//! What nftables' trace tells, message by message.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::model::{
    flow::{Flow, Proto},
    ruleset,
};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_TRACE`.
const TRACE: u16 = 10 << 8 | 17;
/// `NFTA_RULE_HANDLE`.
const HANDLE: u16 = 3;
/// `NFTA_TRACE_*`.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const TYPE: u16 = 4;
const VERDICT: u16 = 5;
const ID: u16 = 6;
const NETWORK_HEADER: u16 = 8;
const TRANSPORT_HEADER: u16 = 9;
const POLICY: u16 = 16;
/// `NFT_TRACETYPE_*`: who decided.
const BY_POLICY: u32 = 1;
const BY_RULE: u32 = 3;
/// `NF_DROP`.
const DROP: u32 = 0;
/// Bytes of `struct nfgenmsg`.
const HEADER: usize = 4;
/// Length of an attribute's own header.
const ATTRIBUTE: usize = 4;
/// Packets whose headers are remembered: the kernel tells them once for each base chain, before its rules.
const PACKETS: usize = 512;

/// A rule or a policy that dropped a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) flow: Flow,
    /// `NFPROTO_*`, and its name.
    pub(super) number: u8,
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) chain: String,
    /// `None` is the chain's policy.
    pub(super) handle: Option<u64>,
}

/// Packets that were told of, by the number that the trace gives them.
#[derive(Debug, Default)]
pub(super) struct Packets {
    flows: HashMap<u32, Flow>,
    order: VecDeque<u32>,
}

impl Packets {
    /// Takes a message; `None` unless a packet ends with it.
    pub(super) fn take(&mut self, kind: u16, payload: &[u8]) -> Option<Dropped> {
        let (head, rest) = payload.split_at_checked(HEADER)?;
        if kind != TRACE {
            return None;
        }
        let all: HashMap<u16, &[u8]> = attributes(rest).collect();
        let id = number(all.get(&ID)?)?;
        if let Some(network) = all.get(&NETWORK_HEADER) {
            self.remember(id, flow(network, all.get(&TRANSPORT_HEADER).copied().unwrap_or_default())?);
        }
        let by = number(all.get(&TYPE)?)?;
        let drops = match by {
            BY_RULE => attributes(all.get(&VERDICT)?).find(|(kind, _)| *kind == 1).and_then(|(_, code)| number(code)),
            BY_POLICY => number(all.get(&POLICY)?),
            _ => None,
        };
        if drops.is_none_or(|verdict| verdict & 0xff != DROP) {
            return None;
        }
        let family = ruleset::family(head[0])?;
        let handle = all.get(&RULE_HANDLE).and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?)));
        Some(Dropped {
            flow: *self.flows.get(&id)?,
            number: head[0],
            family,
            table: text(all.get(&TABLE)?),
            chain: text(all.get(&CHAIN)?),
            handle: handle.filter(|_| by == BY_RULE),
        })
    }

    fn remember(&mut self, id: u32, flow: Flow) {
        if self.flows.insert(id, flow).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > PACKETS
            && let Some(oldest) = self.order.pop_front()
        {
            self.flows.remove(&oldest);
        }
    }
}

/// The handle of a rule that the kernel lists.
pub(super) fn handle(payload: &[u8]) -> Option<u64> {
    let (_, value) = attributes(payload.get(HEADER..)?).find(|(kind, _)| *kind == HANDLE)?;
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

/// `struct nlattr` one behind the other; what follows a damaged length is left out.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

/// Up to the zero byte that ends it.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The five-tuple of an IP header and what is behind it; `None` of what is no IP.
fn flow(network: &[u8], transport: &[u8]) -> Option<Flow> {
    let (proto, src, dst): (u8, IpAddr, IpAddr) = match network.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(Ipv4Addr::from(*network.get(at..)?.first_chunk::<4>()?));
            (*network.get(9)?, address(12)?.into(), address(16)?.into())
        }
        6 => {
            let address = |at: usize| Some(Ipv6Addr::from(*network.get(at..)?.first_chunk::<16>()?));
            (*network.get(6)?, address(8)?.into(), address(24)?.into())
        }
        _ => return None,
    };
    let half = |at: usize| transport.get(at..).and_then(|b| b.first_chunk()).map_or(0, |two| u16::from_be_bytes(*two));
    let (sport, dport) = match Proto::from_number(proto) {
        Proto::Tcp | Proto::Udp | Proto::Other(132) => (half(0), half(2)),
        // An echo's identifier is both its ports.
        Proto::Icmp if matches!(transport.first(), Some(0 | 8)) => (half(4), half(4)),
        Proto::Icmpv6 if matches!(transport.first(), Some(128 | 129)) => (half(4), half(4)),
        _ => (0, 0),
    };
    let proto = Proto::from_number(proto);
    Some(Flow { proto, src: SocketAddr::new(src, sport), dst: SocketAddr::new(dst, dport) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(id: u32, more: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        bytes.extend(attribute(TABLE, b"filter\0"));
        bytes.extend(attribute(CHAIN, b"FORWARD\0"));
        bytes.extend(attribute(ID, &id.to_be_bytes()));
        bytes.extend(more.concat());
        bytes
    }

    fn headers() -> Vec<Vec<u8>> {
        let ip = [0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        vec![attribute(NETWORK_HEADER, &ip), attribute(TRANSPORT_HEADER, &[0x12, 0x34, 0, 80])]
    }

    fn by_rule(handle: u64, verdict: u32) -> Vec<Vec<u8>> {
        vec![
            attribute(TYPE, &BY_RULE.to_be_bytes()),
            attribute(RULE_HANDLE, &handle.to_be_bytes()),
            attribute(VERDICT, &attribute(1, &verdict.to_be_bytes())),
        ]
    }

    #[test]
    fn the_rule_that_drops_is_told_with_the_packet_of_an_earlier_message() {
        let mut packets = Packets::default();
        let first = message(7, &[headers(), by_rule(3, u32::MAX)].concat());
        assert_eq!(packets.take(TRACE, &first), None, "a rule that jumps drops nothing");
        let told = packets.take(TRACE, &message(7, &by_rule(4, DROP))).expect("a rule drops it");
        assert_eq!((told.family, &*told.table, &*told.chain, told.handle), ("ip", "filter", "FORWARD", Some(4)));
        assert_eq!(told.flow.src, "10.0.0.1:4660".parse().expect("an address"));
        assert_eq!(told.flow.dst, "10.0.0.2:80".parse().expect("an address"));
    }

    #[test]
    fn a_policy_that_drops_has_no_handle_and_one_that_accepts_is_no_drop() {
        let mut packets = Packets::default();
        let policy =
            |verdict: u32| vec![attribute(TYPE, &BY_POLICY.to_be_bytes()), attribute(POLICY, &verdict.to_be_bytes())];
        assert_eq!(packets.take(TRACE, &message(1, &[headers(), policy(1)].concat())), None);
        assert_eq!(packets.take(TRACE, &message(1, &policy(DROP))).map(|told| told.handle), Some(None));
    }

    #[test]
    fn a_packet_nobody_told_of_is_no_drop_of_anybody() {
        assert_eq!(Packets::default().take(TRACE, &message(1, &by_rule(4, DROP))), None);
    }

    proptest! {
        #[test]
        fn damaged_messages_are_read_to_their_end(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packets::default().take(TRACE, &payload);
        }
    }
}
