//! Drops of a healthy node: never findings, shown folded.

use crate::model::packet::Head;

/// Why a drop is noise, or `None`. `head` is missing where only counts are known; `forward` says
/// whether the packet goes with its flow.
#[must_use]
pub fn of(reason: &str, site: &str, head: Option<&Head>, forward: bool) -> Option<&'static str> {
    let listed = NOISE.iter().find(|(r, s, _)| *r == reason && (s.is_empty() || *s == site)).map(|(.., why)| *why);
    listed.or_else(|| {
        let head = head?;
        let flow = head.flow?;
        // A socket that was closed meanwhile: the end of a connection, or an answer nobody waits for.
        // Hosts speak to whoever listens (MLD, router solicitations): only a rule or a program that forbids it is news.
        if flow.dst.ip().is_multicast() && !DELIBERATE.contains(&reason) && !site.contains("xdp") {
            return Some("multicast, which nobody waits for");
        }
        // NAT translates no redirects (nf_nat_icmp_reply_translation), and they only advise.
        if reason == "NETFILTER_DROP" && matches!(head.icmp, Some((5 | 137, _))) {
            return Some("an ICMP redirect, which NAT does not translate");
        }
        // What it tells of has its own cause; only "too big" is waited for.
        if reason == "NETFILTER_DROP" && is_error(flow.is_v6(), head.icmp) {
            return Some("an ICMP error, which tells of another fault");
        }
        // Nobody waits for a reset; what it was the answer to has its own cause.
        if reason == "NETFILTER_DROP" && head.flags.rst() {
            return Some("a reset, which nobody waits for");
        }
        let late =
            reason == "NO_SOCKET" && ((flow.has_ports() && !forward) || (head.flags.0 != 0 && !head.flags.opens()));
        // A reset by who opened the connection: it ends what is over, and nobody waits for it.
        let kept_back = reason == "NETFILTER_DROP" && head.flags.rst() && forward;
        late.then_some("a packet came after its socket was closed")
            .or_else(|| kept_back.then_some("a rule keeps back the reset of who opened the connection"))
    })
}

/// An ICMP error that is no advice about the size.
const fn is_error(v6: bool, icmp: Option<(u8, u8)>) -> bool {
    match icmp {
        Some((3, 4)) if !v6 => false,
        Some((3 | 11 | 12, _)) if !v6 => true,
        Some((1 | 3 | 4, _)) => v6,
        _ => false,
    }
}

/// What drops because somebody wants it so.
const DELIBERATE: &[&str] = &["NETFILTER_DROP", "TC_INGRESS", "TC_EGRESS", "XDP", "BPF_CGROUP_EGRESS", "XFRM_POLICY"];

/// Reason, site (empty for any) and why it is noise.
const NOISE: &[(&str, &str, &str)] = &[
    ("QUEUE_PURGE", "", "a socket or queue was closed with packets in it"),
    // The same before Linux 6.2, which has no reason of that name.
    ("NOT_SPECIFIED", "sk_stream_kill_queues", "a socket or queue was closed with packets in it"),
    ("NOT_SPECIFIED", "inet_sock_destruct", "a socket or queue was closed with packets in it"),
    ("NOT_SPECIFIED", "skb_queue_purge", "a socket or queue was closed with packets in it"),
    ("NOT_SPECIFIED", "tcp_v4_rcv", "the last segments of a connection that is closing"),
    ("NOT_SPECIFIED", "tcp_v6_rcv", "the last segments of a connection that is closing"),
    ("NOT_SPECIFIED", "ip6_mc_input", "multicast nobody joined (MLD)"),
    ("NOT_SPECIFIED", "ip_rcv_finish_core", "multicast nobody joined (IGMP)"),
    // Linux 6.12 names the caller.
    // Linux 6.1 frees what it has handled (neighbour discovery, echo) as it frees what it drops.
    ("NOT_SPECIFIED", "icmpv6_rcv", "an ICMPv6 message that the kernel handled itself"),
    ("NO_SOCKET", "icmp_rcv", "a copy of an ICMP message that no ping socket waits for"),
    ("NO_SOCKET", "icmpv6_rcv", "a copy of an ICMP message that no ping socket waits for"),
    ("NO_SOCKET", "ping_rcv", "a copy of an ICMP message that no ping socket waits for"),
    ("TCP_OLD_DATA", "", "a segment that had arrived already"),
    ("TCP_OLD_SEQUENCE", "", "a segment that had arrived already"),
    ("TCP_OLD_ACK", "", "an acknowledgement that had arrived already"),
    ("TCP_TOO_OLD_ACK", "", "an acknowledgement that had arrived already"),
    ("TCP_OFOMERGE", "", "segments merged in the out-of-order queue"),
    ("TCP_CLOSE", "", "a segment for a connection that is closing"),
    ("TCP_RESET", "", "the connection was reset"),
    ("TCP_FASTOPEN", "", "the SYN of a fast-open connection"),
    ("NOT_SPECIFIED", "ip_do_fragment", "the rest of a packet of which a fragment was dropped already"),
    ("NOT_SPECIFIED", "ip6_fragment", "the rest of a packet of which a fragment was dropped already"),
    ("DUP_FRAG", "", "a fragment that had arrived already"),
    ("UNICAST_IN_L2_MULTICAST", "", "a unicast packet in a multicast frame"),
    ("OTHERHOST", "", "a frame for another host"),
    ("IPV6_NDISC_NS_OTHERHOST", "", "a neighbour solicitation for another host"),
    ("PACKET_SOCK_ERROR", "", "a packet socket's own queue"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::flow::Flow;

    #[test]
    fn knows_the_background_of_a_healthy_node() {
        assert!(of("QUEUE_PURGE", "sk_stream_kill_queues", None, true).is_some());
        assert!(of("NOT_SPECIFIED", "sk_stream_kill_queues", None, true).is_some());
        assert!(of("NOT_SPECIFIED", "tcp_v4_rcv", None, true).is_some());
    }

    #[test]
    fn multicast_is_missed_by_nobody_unless_it_is_forbidden() {
        let mut head = crate::explain::rules::testing::syn();
        let dst = "[ff02::16]:0".parse().expect("an address");
        head.flow = head.flow.map(|flow| Flow { dst, ..flow });
        assert!(of("IPV6DISABLED", "ip6_rcv_core", Some(&head), true).is_some());
        assert_eq!(of("NETFILTER_DROP", "nft_do_chain", Some(&head), true), None);
    }

    #[test]
    fn a_reset_is_missed_by_nobody() {
        let mut head = crate::explain::rules::testing::syn();
        assert_eq!(of("NETFILTER_DROP", "nft_do_chain", Some(&head), true), None);
        head.flags = crate::model::packet::TcpFlags(4);
        assert!(of("NETFILTER_DROP", "nft_do_chain", Some(&head), true).is_some());
    }

    #[test]
    fn an_icmp_error_is_missed_by_nobody_unless_it_tells_of_the_size() {
        let error = |icmp| Head { icmp: Some(icmp), ..crate::explain::rules::testing::syn() };
        assert!(of("NETFILTER_DROP", "nft_do_chain", Some(&error((3, 1))), true).is_some());
        assert_eq!(of("NETFILTER_DROP", "nft_do_chain", Some(&error((3, 4))), true), None);
        assert_eq!(of("NETFILTER_DROP", "nft_do_chain", Some(&error((8, 0))), true), None);
    }

    #[test]
    fn does_not_swallow_a_real_drop() {
        assert_eq!(of("NETFILTER_DROP", "nft_do_chain", None, true), None);
        assert_eq!(of("NOT_SPECIFIED", "ip_error", None, true), None);
        assert_eq!(of("NO_SOCKET", "tcp_v4_rcv", None, true), None);
    }
}
