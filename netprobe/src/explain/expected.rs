//! Which device it should have been, and how we know. Every source of that knowledge is a
//! function; the surest comes first, and the finding says which it was.

use std::net::IpAddr;

use super::{Case, case::author, intent};
use crate::model::{
    facts::{Link, NamespaceFacts, NextHop, Route, RouteKind, What, table_name},
    finding::Confidence,
    flow::Flow,
    packet::Place,
    sighting::Side,
};

/// The expected device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub device: String,
    /// Gateway behind it, where known.
    pub gateway: Option<IpAddr>,
    /// How we know, as evidence.
    pub why: String,
    /// How sure that makes it.
    pub confidence: Confidence,
}

/// What a policy table that has no route for `flow` was for. `taken` is the device in use instead.
#[must_use]
pub fn of_table(case: &Case<'_>, flow: &Flow, table: u32, taken: &str) -> Option<Expected> {
    let node = case.facts.node()?;
    let sources: [&dyn Fn() -> Option<Expected>; 6] = [
        &|| by_journal(case, node, flow, table),
        &|| by_other_routes(case, node, table, flow.is_v6(), None),
        &|| by_answers(case, flow, taken),
        &|| by_subnet(case, node, flow.src.ip(), taken),
        &|| by_spare_device(case, node, flow.is_v6(), taken),
        &|| by_convention(node, table),
    ];
    sources.iter().find_map(|source| source().filter(|e| e.device != taken))
}

/// The journal: the table's route went away while we watched.
fn by_journal(case: &Case<'_>, node: &NamespaceFacts, flow: &Flow, table: u32) -> Option<Expected> {
    let (change, route) = intent::deleted_route(case, node.inum, flow, Some(table))?;
    let hop = route.next_hops.first()?;
    let device = intent::device_name(case, node.inum, hop.ifindex)?;
    let why = format!(
        "until {} table {} had: {}",
        case.clock(change.mono_ns),
        table_name(table),
        intent::route_text(case, node.inum, route)
    );
    Some(Expected { device, gateway: hop.gateway, why, confidence: Confidence::Stated })
}

/// The table's other routes, of either family: to its gateway, to its subnet. `beside` is the one that is in question.
#[must_use]
pub fn by_other_routes<'a>(
    case: &Case<'a>,
    node: &'a NamespaceFacts,
    table: u32,
    v6: bool,
    beside: Option<&Route>,
) -> Option<Expected> {
    // A VRF's table has the ways to its pods, too.
    let asked = |r: &Route| beside.is_some_and(|beside| std::ptr::eq(r, beside));
    let of_table = node.routes.iter().filter(|r| r.table == table && r.kind == RouteKind::Unicast && !asked(r));
    let hops = of_table.flat_map(|route| route.next_hops.iter().map(move |hop| (route, hop)));
    let out = |(route, hop): (&'a Route, &'a NextHop)| {
        let link = node.links.get(&hop.ifindex).filter(|link| case.leads_out(link))?;
        Some((route, hop, link))
    };
    // The other family's routes tell the device as well, but no gateway.
    let (route, hop, link) = hops.filter_map(out).min_by_key(|(route, ..)| route.dst.addr().is_ipv6() != v6)?;
    let device = link.name.clone();
    // A route to a single address on the link is what a CNI adds for the gateway.
    let single = route.dst.prefix_len() == route.dst.max_prefix_len() && hop.gateway.is_none();
    let gateway = hop.gateway.or_else(|| single.then(|| route.dst.addr())).filter(|g| g.is_ipv6() == v6);
    let why = format!("the other routes of table {} are on {device} ({})", table_name(table), route.dst);
    Some(Expected { device, gateway, why, confidence: Confidence::Stated })
}

/// The network sends the pod's answers to another device than the one its packets leave by.
fn by_answers(case: &Case<'_>, flow: &Flow, taken: &str) -> Option<Expected> {
    let pod = case.journey.pod.as_ref().filter(|_| case.is_form(flow))?;
    let mut devices =
        case.journeys.iter().filter(|j| j.pod.as_ref() == Some(pod)).flat_map(|j| &j.steps).filter_map(|s| {
            let answer = !s.forward && s.sighting.side == Side::Node && case.is_uplink(s.sighting.packet.ifindex);
            let received =
                matches!(s.sighting.packet.what, crate::model::packet::What::Hop { place: Place::Receive, .. });
            (answer && received && &*s.sighting.device != taken).then(|| s.sighting.device.to_string())
        });
    let device = devices.next()?;
    let why = format!("the network sends answers to {pod} to {device}: packets came in by it");
    Some(Expected { device, gateway: None, why, confidence: Confidence::Likely })
}

/// The device whose subnet holds the source, or lies nearest to it: nearer than the one taken.
#[must_use]
pub fn by_subnet(case: &Case<'_>, node: &NamespaceFacts, src: IpAddr, taken: &str) -> Option<Expected> {
    let near = |link: &Link| {
        let of_link = node.addresses.iter().filter(|a| a.ifindex == link.index);
        of_link.map(|a| (common_bits(a.net.addr(), src), a.net)).max_by_key(|(bits, _)| *bits)
    };
    let taken_bits = node.link(taken).and_then(near).map_or(0, |(bits, _)| bits);
    let uplinks = node.links.values().filter(|l| case.leads_out(l) && l.name != taken);
    let (link, bits, net) =
        uplinks.filter_map(|l| near(l).map(|(bits, net)| (l, bits, net))).max_by_key(|(_, bits, _)| *bits)?;
    // Two NICs whose subnets are equally far say nothing.
    if bits <= taken_bits || bits < MEANINGFUL_BITS {
        return None;
    }
    let device = link.name.clone();
    let relation = if net.contains(&src) { "holds" } else { "is next to" };
    let why = format!("the subnet of {device} ({}) {relation} {src}, that of {taken} does not", net.trunc());
    Some(Expected { device, gateway: None, why, confidence: Confidence::Likely })
}

/// Leading bits that two addresses share by more than chance: two octets of IPv4, the registry's
/// part of IPv6.
const MEANINGFUL_BITS: u32 = 16;

fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

/// The node has just one other NIC, with an address, or down, and no way out leads over it.
fn by_spare_device(case: &Case<'_>, node: &NamespaceFacts, v6: bool, taken: &str) -> Option<Expected> {
    let used = node.uplinks_of(v6);
    let has_address = |l: &Link| node.addresses.iter().any(|a| a.ifindex == l.index && a.net.addr().is_ipv6() == v6);
    let spare = |l: &&Link| {
        case.leads_out(l)
            && l.name != taken
            && !used.contains(&l.index)
            && l.kind != "vxlan"
            && !l.is_placeholder()
            && (has_address(l) || !l.up)
    };
    let mut spares = node.links.values().filter(spare);
    let (only, another) = (spares.next()?, spares.next());
    if another.is_some() {
        return None;
    }
    let why = format!("{} is the only other NIC, and no route leads over it", only.name);
    Some(Expected { device: only.name.clone(), gateway: None, why, confidence: Confidence::Likely })
}

/// CNIs that give pods a secondary NIC number its table after it: table N+1 belongs to ethN (the
/// device number plus one). Used only where that device is not there at all.
fn by_convention(node: &NamespaceFacts, table: u32) -> Option<Expected> {
    let number = table.checked_sub(1).filter(|n| (1..=15).contains(n))?;
    let named_so = node.links.values().any(|l| l.name == "eth0");
    let device = format!("eth{number}");
    if !named_so || node.link(&device).is_some() {
        return None;
    }
    let why = format!(
        "CNIs with secondary NICs give table {table} to {device} (device number plus one), and this node has no {device}"
    );
    Some(Expected { device, gateway: None, why, confidence: Confidence::Possible })
}

/// The device went away or down while we watched: when and by whom.
#[must_use]
pub fn device_lost(case: &Case<'_>, node: &NamespaceFacts, device: &str) -> Option<String> {
    let change = case.last_change(node.inum, |c| match &c.what {
        What::LinkDeleted(l) => l.name == device,
        What::LinkChanged(before, after) => after.name == device && before.up && !after.up,
        _ => false,
    })?;
    let what = if matches!(change.what, What::LinkDeleted(_)) { "was deleted" } else { "went down" };
    // The kernel does not say who took a link away: its notifications carry no sender.
    let by = if change.by.process.is_some() { format!(" {}", author(&change.by)) } else { String::new() };
    Some(format!("{} {device} {what}{by}", case.clock(change.mono_ns)))
}
