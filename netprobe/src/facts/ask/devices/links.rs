//! XDP programs, bridge ports and forwarding entries, from the messages about links.

use std::{io, net::IpAddr};

use super::{Names, attributes, number32};
use crate::{
    facts::{links::mac, netlink::Requests},
    model::devices::{Forwarding, Port, Xdp},
};

/// `RTM_GETLINK`, `RTM_GETNEIGH` (`include/uapi/linux/rtnetlink.h`).
const GETLINK: u16 = 18;
const GETNEIGH: u16 = 30;
/// Bytes of `struct ifinfomsg` and of `struct ndmsg`.
const LINK_BYTES: usize = 16;
const NEIGHBOUR_BYTES: usize = 12;
/// `AF_BRIDGE`.
const BRIDGE: u8 = 7;
/// `IFLA_PROTINFO`, `IFLA_XDP` (`include/uapi/linux/if_link.h`).
const PROTINFO: u16 = 12;
const XDP: u16 = 43;
/// Forwarding entries kept: an overlay has one a node, a bridge one a pod.
const KEPT: usize = 4_096;

/// XDP programs, and the indexes of all links.
pub(super) fn xdp(requests: &mut Requests, names: &Names) -> io::Result<(Vec<Xdp>, Vec<u32>)> {
    let mut indexes = Vec::new();
    let found = requests.dump_raw(GETLINK, &[0; LINK_BYTES], |frame| {
        let ifindex = number32(frame.payload, 4);
        indexes.push(ifindex);
        let (_, attached) = attributes(frame.payload.get(LINK_BYTES..)?).find(|(kind, _)| *kind == XDP)?;
        Some(programs(ifindex, &attached, names))
    })?;
    indexes.sort_unstable();
    indexes.dedup();
    Ok((found.into_iter().flatten().collect(), indexes))
}

/// `IFLA_XDP_DRV_PROG_ID`, `IFLA_XDP_SKB_PROG_ID`, `IFLA_XDP_HW_PROG_ID`.
fn programs(ifindex: u32, attached: &[u8], names: &Names) -> Vec<Xdp> {
    let mode = |kind| match kind {
        5 => Some("native"),
        6 => Some("generic"),
        7 => Some("offloaded"),
        _ => None,
    };
    let of = |(kind, value): (u16, Vec<u8>)| {
        Some(Xdp { ifindex, mode: mode(kind)?.to_owned(), program: names.program(number32(&value, 0)) })
    };
    attributes(attached).filter_map(of).collect()
}

/// Settings of the ports of all bridges.
pub(super) fn ports(requests: &mut Requests) -> io::Result<Vec<Port>> {
    let mut request = [0; LINK_BYTES];
    request[0] = BRIDGE;
    requests.dump_raw(GETLINK, &request, |frame| port(frame.payload))
}

fn port(payload: &[u8]) -> Option<Port> {
    let (_, settings) = attributes(payload.get(LINK_BYTES..)?).find(|(kind, _)| *kind == PROTINFO)?;
    let mut found = Port { ifindex: number32(payload, 4), ..Port::default() };
    for (kind, value) in attributes(&settings) {
        let value = value.first().copied().unwrap_or(0);
        // `IFLA_BRPORT_STATE`, `_MODE`, `_ISOLATED`.
        match kind {
            1 => {
                let states = ["disabled", "listening", "learning", "forwarding", "blocking"];
                found.state = states.get(usize::from(value)).map_or_else(String::new, |s| (*s).to_owned());
            }
            4 => found.hairpin = value != 0,
            33 => found.isolated = value != 0,
            _ => {}
        }
    }
    Some(found)
}

/// Forwarding entries of bridges and overlays.
pub(super) fn forwarding(requests: &mut Requests) -> io::Result<Vec<Forwarding>> {
    let mut request = [0; NEIGHBOUR_BYTES];
    request[0] = BRIDGE;
    let mut found = requests.dump_raw(GETNEIGH, &request, |frame| entry(frame.payload))?;
    found.truncate(KEPT);
    Ok(found)
}

fn entry(payload: &[u8]) -> Option<Forwarding> {
    let mut found = Forwarding { ifindex: number32(payload, 4), mac: String::new(), remote: None };
    for (kind, value) in attributes(payload.get(NEIGHBOUR_BYTES..)?) {
        // `NDA_DST`, `NDA_LLADDR`.
        match kind {
            1 => found.remote = address(&value),
            2 => found.mac = mac(&value),
            _ => {}
        }
    }
    (!found.mac.is_empty()).then_some(found)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_port_has_its_settings() {
        let settings = [attribute(1, &[3]), attribute(4, &[0]), attribute(33, &[1])].concat();
        let mut payload = vec![0; LINK_BYTES];
        payload[4] = 9;
        payload.extend(attribute(PROTINFO, &settings));
        let expected = Port { ifindex: 9, state: "forwarding".to_owned(), hairpin: false, isolated: true };
        assert_eq!(port(&payload), Some(expected));
    }

    #[test]
    fn an_overlays_entry_names_the_node() {
        let mut payload = vec![0; NEIGHBOUR_BYTES];
        payload[4] = 4;
        payload.extend(attribute(1, &[10, 0, 0, 2]));
        payload.extend(attribute(2, &[2, 0x42, 2, 0, 0, 0]));
        let found = entry(&payload).unwrap();
        assert_eq!((found.mac.as_str(), found.remote), ("02:42:02:00:00:00", Some([10, 0, 0, 2].into())));
    }
}
