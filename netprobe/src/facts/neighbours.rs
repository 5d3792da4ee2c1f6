//! Neighbour entries, from the kernel's messages.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};

use super::links::mac;
use crate::model::facts::Neigh;

/// The entry a message is about; `None` for what is not IPv4 or IPv6 (a bridge's forwarding table).
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neigh> {
    let mut ip: Option<IpAddr> = None;
    let mut lladdr = String::new();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => ip = Some((*a).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => ip = Some((*a).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    let state = state(message.header.state);
    // A failed entry keeps the address that no longer answers; it is not resolved.
    if matches!(message.header.state, NeighbourState::Failed | NeighbourState::Incomplete) {
        lladdr.clear();
    }
    Some(Neigh { ifindex: message.header.ifindex, ip: ip?, mac: lladdr, state })
}

fn state(state: NeighbourState) -> String {
    match state {
        NeighbourState::Incomplete => "INCOMPLETE".to_owned(),
        NeighbourState::Reachable => "REACHABLE".to_owned(),
        NeighbourState::Stale => "STALE".to_owned(),
        NeighbourState::Delay => "DELAY".to_owned(),
        NeighbourState::Probe => "PROBE".to_owned(),
        NeighbourState::Failed => "FAILED".to_owned(),
        NeighbourState::Noarp => "NOARP".to_owned(),
        NeighbourState::Permanent => "PERMANENT".to_owned(),
        NeighbourState::None => "NONE".to_owned(),
        other => format!("{:#x}", u16::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_entry_has_no_link_layer_address() {
        let mut message = NeighbourMessage::default();
        message.header.state = NeighbourState::Failed;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet("10.0.0.1".parse().unwrap())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        let entry = neighbour(&message).unwrap();
        assert_eq!((entry.mac.as_str(), entry.state.as_str()), ("", "FAILED"));
        message.header.state = NeighbourState::Reachable;
        assert_eq!(neighbour(&message).unwrap().mac, "02:00:00:00:00:01");
    }

    #[test]
    fn an_entry_of_a_bridges_forwarding_table_is_left_out() {
        let mut message = NeighbourMessage::default();
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2; 6]));
        assert_eq!(neighbour(&message), None);
    }
}
