//! A namespace's facts, read whole.

use std::{collections::BTreeMap, io};

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::AddressMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::NeighbourMessage,
    route::RouteMessage,
    rule::RuleMessage,
};

use super::{
    links::{self, Seen},
    neighbours,
    netlink::Requests,
    routes, rules,
    sysctls::{self, Sysctls},
};
use crate::model::facts::{Address, Neigh, Route, Rule};

/// What one namespace's kernel tables hold.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) links: BTreeMap<u32, Seen>,
    pub(super) addresses: Vec<Address>,
    pub(super) rules: Vec<Rule>,
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<Neigh>,
    /// Settings of the devices; the namespace's own are added by who is inside it.
    pub(super) sysctls: Sysctls,
}

/// Reads all tables of the namespace the socket is bound to.
pub(super) fn tables(requests: &mut Requests) -> io::Result<Tables> {
    let (links, sysctls) = links(requests)?;
    Ok(Tables {
        links,
        sysctls,
        addresses: addresses(requests)?,
        rules: rules(requests)?,
        routes: routes(requests)?,
        neighbours: neighbours(requests)?,
    })
}

/// Links by index, and their settings.
pub(super) fn links(requests: &mut Requests) -> io::Result<(BTreeMap<u32, Seen>, Sysctls)> {
    let mut settings = Sysctls::new();
    let mut links = BTreeMap::new();
    for message in requests.dump(&every_link())? {
        let Message::NewLink(message) = message else { continue };
        let Some(seen) = links::link(&message) else { continue };
        sysctls::of_device(&seen.link.name, &message, &mut settings);
        links.insert(seen.link.index, seen);
    }
    Ok((links, settings))
}

/// The numbers of the namespaces that links have a peer or parent in. Cheaper than [`links`]: most namespaces of a machine are
/// none of ours, and this is all we ask them.
pub(super) fn peer_nsids(requests: &mut Requests) -> io::Result<Vec<i32>> {
    requests.dump_as(&every_link(), |frame| {
        let attributes = NlasIterator::new(frame.payload.get(LINK_HEADER_BYTES..)?);
        let id = attributes.flatten().find(|a: &NlaBuffer<&[u8]>| a.kind() == libc::IFLA_LINK_NETNSID)?;
        Some(i32::from_ne_bytes(id.value().try_into().ok()?))
    })
}

/// `struct ifinfomsg`, bytes.
const LINK_HEADER_BYTES: usize = 16;

/// A request for all links without their counters, which are most of the answer.
fn every_link() -> Message {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Message::GetLink(request)
}

fn addresses(requests: &mut Requests) -> io::Result<Vec<Address>> {
    let dump = requests.dump(&Message::GetAddress(AddressMessage::default()))?;
    let of = |message| if let Message::NewAddress(m) = message { links::address(&m) } else { None };
    Ok(dump.into_iter().filter_map(of).collect())
}

fn rules(requests: &mut Requests) -> io::Result<Vec<Rule>> {
    let mut rules = vec![];
    // The kernel lists each family in the order in which it asks the rules.
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let dump = supported(requests.dump(&Message::GetRule(request)))?;
        let of = |message| if let Message::NewRule(m) = message { rules::rule(&m) } else { None };
        rules.extend(dump.into_iter().filter_map(of));
    }
    Ok(rules)
}

/// Routes of all tables.
pub(super) fn routes(requests: &mut Requests) -> io::Result<Vec<Route>> {
    let mut routes = vec![];
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let dump = supported(requests.dump(&Message::GetRoute(request)))?;
        let of = |message| if let Message::NewRoute(m) = message { routes::route(&m) } else { None };
        routes.extend(dump.into_iter().filter_map(of));
    }
    Ok(routes)
}

fn neighbours(requests: &mut Requests) -> io::Result<Vec<Neigh>> {
    let dump = requests.dump(&Message::GetNeighbour(NeighbourMessage::default()))?;
    let of = |message| if let Message::NewNeighbour(m) = message { neighbours::neighbour(&m) } else { None };
    Ok(dump.into_iter().filter_map(of).collect())
}

/// A kernel without IPv6, or without policy rules, has none of them.
fn supported(dump: io::Result<Vec<Message>>) -> io::Result<Vec<Message>> {
    match dump {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Ok(vec![]),
        other => other,
    }
}
