//! Links and their addresses, from the kernel's messages.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoGeneve, InfoVrf, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use crate::model::facts::{Address, Link};

/// A link, and in whose namespace its peer or parent is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The link; `peer_netns` is not filled in.
    pub(super) link: Link,
    /// `IFLA_LINK_NETNSID`: a name for the peer's namespace that only this namespace understands.
    pub(super) peer_nsid: Option<i32>,
}

/// The link a message is about; `None` for what a bridge says about its ports.
pub(super) fn link(message: &LinkMessage) -> Option<Seen> {
    // A bridge sends RTM_NEWLINK and RTM_DELLINK of its own family: a port joined or left, the link stays.
    if message.header.interface_family == AddressFamily::Bridge {
        return None;
    }
    let mut seen = Seen::default();
    let link = &mut seen.link;
    link.index = message.header.index;
    link.up = message.header.flags.contains(LinkFlags::Up);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkInfo(infos) => {
                (link.kind, link.vrf_table, link.vni) = (kind(infos), vrf_table(infos), vni(infos));
            }
            LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::Controller(index) => link.master = *index,
            LinkAttribute::Link(index) => link.peer = *index,
            LinkAttribute::Qdisc(name) => link.qdisc.clone_from(name),
            LinkAttribute::LinkNetNsId(id) => seen.peer_nsid = Some(*id),
            _ => {}
        }
    }
    Some(seen)
}

fn kind(infos: &[LinkInfo]) -> String {
    infos.iter().find_map(|i| if let LinkInfo::Kind(k) = i { Some(k.to_string()) } else { None }).unwrap_or_default()
}

/// The network's number of a VXLAN or Geneve device.
fn vni(infos: &[LinkInfo]) -> u32 {
    let number = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => {
            data.iter().find_map(|one| if let InfoVxlan::Id(vni) = one { Some(*vni) } else { None })
        }
        LinkInfo::Data(InfoData::Geneve(data)) => {
            data.iter().find_map(|one| if let InfoGeneve::Id(vni) = one { Some(*vni) } else { None })
        }
        _ => None,
    });
    number.unwrap_or(0)
}

fn vrf_table(infos: &[LinkInfo]) -> u32 {
    let table = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vrf(data)) => data.iter().find_map(|one| match one {
            InfoVrf::TableId(table) => Some(*table),
            InfoVrf::Other(_) | _ => None,
        }),
        _ => None,
    });
    table.unwrap_or(0)
}

/// `02:00:32:00:00:10`; empty for no address.
pub(super) fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// The address a message is about.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let (mut near, mut far) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the far end's and IFA_LOCAL ours.
            AddressAttribute::Local(ip) => near = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            _ => {}
        }
    }
    let ip: IpAddr = near.or(far)?;
    let net = IpNet::new(ip, message.header.prefix_len).ok()?;
    Some(Address { ifindex: message.header.index, net })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_leaves_a_bridge_is_no_link_that_goes() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        assert_eq!(link(&message).map(|seen| seen.link.index), Some(7));
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(link(&message), None);
    }

    #[test]
    fn on_a_point_to_point_link_our_own_end_is_the_address() {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 32;
        message.attributes.push(AddressAttribute::Address("10.0.0.2".parse().unwrap()));
        message.attributes.push(AddressAttribute::Local("10.0.0.1".parse().unwrap()));
        assert_eq!(address(&message).unwrap().net.to_string(), "10.0.0.1/32");
    }

    #[test]
    fn a_prefix_longer_than_its_address_is_refused() {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 33;
        message.attributes.push(AddressAttribute::Local("10.0.0.1".parse().unwrap()));
        assert_eq!(address(&message), None);
    }
}
