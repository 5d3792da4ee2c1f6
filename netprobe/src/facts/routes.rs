//! Routes, from the kernel's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteProtocol, RouteType, RouteVia},
};

use crate::model::facts::{NextHop, Route, RouteKind};

/// The route a message is about; `None` for a cached route and for families other than IPv4 and IPv6.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route {
        table: header.table.into(),
        dst: IpNet::new(any, header.destination_prefix_length).ok()?,
        kind: kind(header.kind),
        next_hops: vec![],
        priority: 0,
        prefsrc: None,
        protocol: protocol(header.protocol),
    };
    let mut single = NextHop { gateway: None, ifindex: 0 };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(a) => {
                route.dst = IpNet::new(ip(a)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Priority(metric) => route.priority = *metric,
            RouteAttribute::PrefSource(a) => route.prefsrc = ip(a),
            RouteAttribute::Oif(index) => single.ifindex = *index,
            RouteAttribute::MultiPath(hops) => route.next_hops = hops.iter().map(next_hop).collect(),
            other => single.gateway = gateway(other).or(single.gateway),
        }
    }
    if route.next_hops.is_empty() && (single.ifindex != 0 || single.gateway.is_some()) {
        route.next_hops.push(single);
    }
    // The kernel gives IPv6 routes that refuse (unreachable, prohibit, ...) the loopback as device.
    if matches!(route.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw) {
        route.next_hops.clear();
    }
    Some(route)
}

fn next_hop(hop: &RouteNextHop) -> NextHop {
    NextHop { gateway: hop.attributes.iter().find_map(gateway), ifindex: hop.interface_index }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(a) => ip(a),
        RouteAttribute::Via(RouteVia::Inet(a)) => Some((*a).into()),
        RouteAttribute::Via(RouteVia::Inet6(a)) => Some((*a).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        RouteType::Unicast => RouteKind::Unicast,
        _ => RouteKind::Special,
    }
}

/// As `ip route` names it (`/usr/share/iproute2/rt_protos`).
fn protocol(protocol: RouteProtocol) -> String {
    match protocol {
        RouteProtocol::IcmpRedirect => "redirect".to_owned(),
        RouteProtocol::Dhcp => "dhcp".to_owned(),
        RouteProtocol::KeepAlived => "keepalived".to_owned(),
        RouteProtocol::Other(number) => number.to_string(),
        named => named.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_table_beyond_255_comes_from_the_attribute() {
        let mut message = message(vec![RouteAttribute::Table(1001), RouteAttribute::Oif(3)]);
        message.header.table = 252;
        assert_eq!(route(&message).unwrap().table, 1001);
    }

    #[test]
    fn an_ipv4_route_may_have_an_ipv6_gateway() {
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let route = route(&message(vec![via, RouteAttribute::Oif(2)])).unwrap();
        assert_eq!(route.next_hops, [NextHop { gateway: Some("fe80::1".parse().unwrap()), ifindex: 2 }]);
        assert_eq!(route.dst.to_string(), "0.0.0.0/0");
    }

    #[test]
    fn a_route_that_refuses_has_no_next_hop() {
        let mut message = message(vec![RouteAttribute::Oif(1)]);
        message.header.kind = RouteType::Unreachable;
        assert_eq!(route(&message).unwrap().next_hops, []);
    }

    #[test]
    fn a_cached_route_is_left_out() {
        let mut message = message(vec![RouteAttribute::Oif(1)]);
        message.header.flags = RouteFlags::Cloned;
        assert_eq!(route(&message), None);
    }

    #[test]
    fn every_next_hop_of_a_multipath_route_is_kept() {
        let mut hops = vec![RouteNextHop::default(), RouteNextHop::default()];
        hops[0].interface_index = 4;
        hops[1].interface_index = 5;
        hops[1].attributes.push(RouteAttribute::Gateway(RouteAddress::Inet("10.0.0.1".parse().unwrap())));
        let route = route(&message(vec![RouteAttribute::MultiPath(hops)])).unwrap();
        assert_eq!(route.next_hops.iter().map(|h| h.ifindex).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(route.next_hops[1].gateway, Some("10.0.0.1".parse().unwrap()));
    }
}
