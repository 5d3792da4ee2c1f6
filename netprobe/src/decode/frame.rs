//! Packets as they are on the wire: as much as ties one to a five-tuple.

use netprobe_common::flow::{FlowKey, mapped};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad.
const VLAN: [u16; 2] = [0x8100, 0x88a8];

/// Whether a packet, which begins with its Ethernet header or, from a device that has none, with its IP header, is of the
/// flow. What is cut off is not held against it.
#[must_use]
pub fn is_of_flow(packet: &[u8], flow: &FlowKey) -> bool {
    let (ether_type, behind) = network(packet);
    // Without an Ethernet header there is no EtherType either; the addresses tell then.
    let ip = if matches!(ether_type, IPV4 | IPV6) { behind } else { packet };
    match (flow.family, ip.first().map(|first| first >> 4)) {
        (4, Some(4)) => is_of_ipv4(ip, flow),
        (6, Some(6)) => is_of_ipv6(ip, flow),
        (0, _) => ether_type == flow.ether_type,
        _ => false,
    }
}

/// EtherType, and what is behind the link-layer header.
fn network(packet: &[u8]) -> (u16, &[u8]) {
    let mut at = ETHERNET;
    while VLAN.contains(&half(packet, at - 2)) {
        at += 4;
    }
    (half(packet, at - 2), packet.get(at..).unwrap_or_default())
}

fn is_of_ipv4(ip: &[u8], flow: &FlowKey) -> bool {
    let Some(header) = ip.first_chunk::<20>() else { return false };
    let address = |at: usize| mapped([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let later_fragment = half(ip, 6) & 0x1fff != 0;
    let ports = ip.get(usize::from(header[0] & 15) * 4..).filter(|_| !later_fragment);
    header[9] == flow.proto && address(12) == flow.src && address(16) == flow.dst && has_ports(ports, flow)
}

fn is_of_ipv6(ip: &[u8], flow: &FlowKey) -> bool {
    let Some(header) = ip.first_chunk::<40>() else { return false };
    // Behind extension headers the ports are not looked for.
    let ports = ip.get(40..).filter(|_| header[6] == flow.proto);
    header[8..24] == flow.src && header[24..40] == flow.dst && has_ports(ports, flow)
}

/// Ports of TCP, UDP and SCTP; other protocols have none that a flow would have too.
fn has_ports(transport: Option<&[u8]>, flow: &FlowKey) -> bool {
    match transport {
        Some(bytes) if matches!(flow.proto, 6 | 17 | 132) && bytes.len() >= 4 => {
            (half(bytes, 0), half(bytes, 2)) == (flow.sport, flow.dport)
        }
        _ => true,
    }
}

/// Two bytes in network order; 0 where they are not there.
fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: FlowKey = FlowKey {
        src: mapped([10, 0, 0, 1]),
        dst: mapped([10, 0, 0, 2]),
        sport: 0x1234,
        dport: 53,
        proto: 17,
        family: 4,
        ether_type: IPV4,
    };

    fn ipv4() -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        ip
    }

    fn framed(ether_type: &[u8], ip: &[u8]) -> Vec<u8> {
        [&[2; 12], ether_type, ip].concat()
    }

    #[test]
    fn a_packet_is_of_its_flow_and_of_no_other() {
        let packet = framed(&[8, 0], &ipv4());
        assert!(is_of_flow(&packet, &FLOW));
        let others = [
            FLOW.reversed(),
            FlowKey { dport: 54, ..FLOW },
            FlowKey { proto: 6, ..FLOW },
            FlowKey { src: mapped([10, 0, 0, 3]), ..FLOW },
            FlowKey { family: 6, ..FLOW },
            FlowKey { ether_type: 0x806, ..FlowKey::EMPTY },
        ];
        for other in others {
            assert!(!is_of_flow(&packet, &other), "{other:?}");
        }
    }

    #[test]
    fn tags_options_and_devices_without_ethernet_are_no_obstacle() {
        assert!(is_of_flow(&framed(&[0x81, 0, 0, 5, 8, 0], &ipv4()), &FLOW));
        assert!(is_of_flow(&ipv4(), &FLOW));
        let mut options = ipv4();
        options[0] = 0x46;
        options.splice(20..20, [1; 4]);
        assert!(is_of_flow(&framed(&[8, 0], &options), &FLOW));
        assert!(!is_of_flow(&framed(&[8, 0], &options), &FlowKey { dport: 54, ..FLOW }));
    }

    #[test]
    fn a_later_fragment_and_one_cut_short_have_no_ports_to_differ() {
        let mut fragment = ipv4();
        fragment[7] = 1;
        assert!(is_of_flow(&framed(&[8, 0], &fragment), &FlowKey { sport: 0, dport: 0, ..FLOW }));
        assert!(is_of_flow(&framed(&[8, 0], &ipv4()[..20]), &FLOW));
        for length in 0..34 {
            assert!(!is_of_flow(&framed(&[8, 0], &ipv4())[..length], &FLOW), "{length}");
        }
    }

    #[test]
    fn ipv6_is_as_good_as_ipv4() {
        let (src, dst) = ([0xfd; 16], [0xfc; 16]);
        let mut ip = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        ip.extend(src.iter().chain(&dst));
        ip.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        let flow = FlowKey { src, dst, family: 6, ether_type: IPV6, ..FLOW };
        assert!(is_of_flow(&framed(&[0x86, 0xdd], &ip), &flow) && is_of_flow(&ip, &flow));
        assert!(!is_of_flow(&framed(&[0x86, 0xdd], &ip), &flow.reversed()));
        assert!(!is_of_flow(&framed(&[0x86, 0xdd], &ip), &FlowKey { dport: 54, ..flow }));
    }

    #[test]
    fn a_frame_is_of_its_ether_type() {
        let arp = FlowKey { ether_type: 0x806, ..FlowKey::EMPTY };
        assert!(is_of_flow(&framed(&[8, 6], &[0; 28]), &arp));
        assert!(!is_of_flow(&framed(&[8, 0], &ipv4()), &arp));
    }
}
