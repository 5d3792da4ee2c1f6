//! Policy rules, from the kernel's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    rule::{RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage},
};

use crate::model::facts::{Rule, RuleAction};

/// The rule a message is about; `None` for families other than IPv4 and IPv6.
pub(super) fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let v6 = match header.family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    let flags = header.flags;
    let mut rule = Rule {
        v6,
        preference: 0,
        src: prefix_alone(v6, header.src_len),
        dst: prefix_alone(v6, header.dst_len),
        iif: String::new(),
        iif_detached: flags.contains(RuleFlags::IifDetached),
        oif: String::new(),
        oif_detached: flags.contains(RuleFlags::OifDetached),
        mark: None,
        proto: None,
        sport: None,
        dport: None,
        invert: flags.contains(RuleFlags::Invert),
        action: action(header.action),
        table: header.table.into(),
        suppress_prefix: None,
        by_vrf: false,
        opaque: header.tos != 0 || matches!(header.action, Action::Other(_)),
    };
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            other => read(&mut rule, other, header.src_len, header.dst_len),
        }
    }
    // The kernel sends the mask alone for `fwmark 0/0xff`.
    rule.mark = match (mark, mask) {
        (None, None | Some(0)) => None,
        (value, mask) => Some((value.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    Some(rule)
}

fn read(rule: &mut Rule, attribute: &RuleAttribute, src_len: u8, dst_len: u8) {
    match attribute {
        RuleAttribute::Priority(preference) => rule.preference = *preference,
        RuleAttribute::Source(ip) => rule.src = IpNet::new(*ip, src_len).ok(),
        RuleAttribute::Destination(ip) => rule.dst = IpNet::new(*ip, dst_len).ok(),
        RuleAttribute::Iifname(name) => rule.iif.clone_from(name),
        RuleAttribute::Oifname(name) => rule.oif.clone_from(name),
        RuleAttribute::Table(table) => rule.table = *table,
        RuleAttribute::IpProtocol(proto) => rule.proto = Some(u8::from(*proto)),
        RuleAttribute::SourcePortRange(range) => rule.sport = Some((range.start, range.end)),
        RuleAttribute::DestinationPortRange(range) => rule.dport = Some((range.start, range.end)),
        // All ones is "no suppressor" (net/core/fib_rules.c).
        RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => rule.suppress_prefix = Some(*length),
        RuleAttribute::SuppressIfGroup(group) if *group != u32::MAX => rule.opaque = true,
        RuleAttribute::TunId(id) if *id != 0 => rule.opaque = true,
        RuleAttribute::L3MDev(true) => rule.by_vrf = true,
        RuleAttribute::UidRange(_) => rule.opaque = true,
        // What this library does not know the kernel may select by: FRA_DSCP (25), FRA_FLOWLABEL (26) and later.
        RuleAttribute::Other(unknown) if netlink_packet_core::Nla::kind(unknown) >= 25 => rule.opaque = true,
        _ => {}
    }
}

/// `from 0.0.0.0/8`: the kernel leaves the address out if it is all zeros and the length is not.
fn prefix_alone(v6: bool, length: u8) -> Option<IpNet> {
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    if length == 0 { None } else { IpNet::new(any, length).ok() }
}

fn action(action: Action) -> RuleAction {
    match action {
        Action::Goto => RuleAction::Goto,
        Action::Nop => RuleAction::Nop,
        Action::Blackhole => RuleAction::Blackhole,
        Action::Unreachable => RuleAction::Unreachable,
        Action::Prohibit => RuleAction::Prohibit,
        _ => RuleAction::Lookup,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = Action::ToTable;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_pods_rule_reads_as_ip_rule_prints_it() {
        let mut message = message(vec![
            RuleAttribute::Priority(1536),
            RuleAttribute::Source("10.176.98.29".parse().unwrap()),
            RuleAttribute::Table(2),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
        ]);
        message.header.src_len = 32;
        let rule = rule(&message).unwrap();
        assert_eq!((rule.preference, rule.text().as_str()), (1536, "from 10.176.98.29 lookup 2"));
        assert_eq!(rule.suppress_prefix, None);
    }

    #[test]
    fn a_mark_without_a_mask_is_compared_whole() {
        assert_eq!(rule(&message(vec![RuleAttribute::FwMark(4)])).unwrap().mark, Some((4, u32::MAX)));
        let both = vec![RuleAttribute::FwMark(4), RuleAttribute::FwMask(0xff)];
        assert_eq!(rule(&message(both)).unwrap().mark, Some((4, 0xff)));
    }

    #[test]
    fn a_mask_without_a_mark_selects_unmarked_packets() {
        assert_eq!(rule(&message(vec![RuleAttribute::FwMask(0xff)])).unwrap().mark, Some((0, 0xff)));
        assert_eq!(rule(&message(vec![])).unwrap().mark, None);
    }

    #[test]
    fn a_selector_we_do_not_evaluate_makes_the_rule_opaque() {
        assert!(rule(&message(vec![RuleAttribute::TunId(7)])).unwrap().opaque);
        let by_vrf = rule(&message(vec![RuleAttribute::L3MDev(true)])).unwrap();
        assert_eq!((by_vrf.by_vrf, by_vrf.opaque), (true, false));
        assert!(!rule(&message(vec![RuleAttribute::Priority(5)])).unwrap().opaque);
    }
}
