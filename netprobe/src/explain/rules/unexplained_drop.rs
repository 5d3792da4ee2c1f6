//! The last resort: a drop that no other rule knows, by the kernel's reason and place.

use super::neighbour_unresolved;
use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule = Rule {
    id: "unexplained-drop",
    means: "the kernel dropped the packet for a reason that no rule explains yet",
    check,
};

/// How long it waits, nanoseconds: what a better rule needs (the answer, the neighbour's failure)
/// follows the drop within a few milliseconds.
const WAIT_NS: u64 = 300_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_loss)?;
    let at = drop.device().map_or_else(String::new, |d| format!(" on {d}"));
    let what = if drop.step.forward { "a packet" } else { "an answer" };
    let meaning = meaning(drop.reason).map_or_else(String::new, |text| format!(": {text}"));
    let claim = format!(
        "{} dropped {what} of {} to {}{at}: the kernel says {} in {}{meaning}",
        case.place(drop.sighting()),
        case.who(),
        case.whither(),
        drop.reason,
        drop.site
    );
    let callers: Vec<&str> = drop.stack.iter().take(4).map(|f| &**f).collect();
    let mut draft = case.about_drop(&drop, claim).detail(format!("{} {}", drop.reason, drop.site));
    if !callers.is_empty() {
        draft = draft.proof(drop.mono_ns(), format!("called by {}", callers.join(" < ")));
    }
    draft =
        draft.fix(format!("see what the kernel means by it: grep -rn {} include/net/dropreason-core.h", drop.reason));
    draft.ready_ns = drop.mono_ns() + WAIT_NS;
    Some(draft)
}

/// What the kernel means by a reason, where its name does not say.
fn meaning(reason: &str) -> Option<&'static str> {
    MEANINGS.iter().find(|(name, _)| *name == reason).map(|(_, text)| *text)
}

const MEANINGS: &[(&str, &str)] = &[
    ("TCP_MD5NOTFOUND", "the socket expects a TCP MD5 signature (a BGP password), and the segment has none"),
    ("TCP_MD5UNEXPECTED", "the segment has a TCP MD5 signature (a BGP password), and the socket expects none"),
    ("TCP_MD5FAILURE", "the TCP MD5 signature is wrong: the two sides have different BGP passwords"),
    ("TCP_AONOTFOUND", "the socket expects TCP-AO, and the segment has none"),
    ("TCP_AOUNEXPECTED", "the segment has TCP-AO, and the socket expects none"),
    ("TCP_AOKEYNOTFOUND", "the segment's TCP-AO key is not known here"),
    ("TCP_AOFAILURE", "the TCP-AO signature is wrong"),
    ("TCP_RFC7323_PAWS", "its TCP timestamp is older than the connection's last one (PAWS)"),
    ("TCP_RFC7323_PAWS_ACK", "its TCP timestamp is older than the connection's last one (PAWS)"),
    (
        "TCP_RFC7323_TW_PAWS",
        "its TCP timestamp is older than that of the connection before it (PAWS): clients share an address",
    ),
    ("TCP_MINTTL", "its TTL is below what the socket demands (IP_MINTTL, BGP's TTL security)"),
    ("TCP_OVERWINDOW", "it lies beyond the receiver's window"),
    ("TCP_INVALID_SEQUENCE", "its sequence number is outside the receiver's window"),
    ("VXLAN_VNI_NOT_FOUND", "no VXLAN device of this node has the packet's network identifier (VNI)"),
    ("VXLAN_INVALID_HDR", "its VXLAN header is broken, or asks for what the device was not made for"),
    ("IP_INHDR", "its IP header is broken"),
    ("IPV6_BAD_EXTHDR", "an IPv6 extension header is broken"),
    ("HDR_TRUNC", "it is shorter than its headers say"),
    ("PKT_TOO_SMALL", "it is shorter than its headers say"),
    ("SECURITY_HOOK", "a security module (SELinux, Smack) forbids it"),
    ("NOMEM", "there was no memory for it"),
    ("FULL_RING", "the program behind the tun or tap device does not read fast enough"),
    ("DEV_READY", "the device is not ready"),
    ("DEV_HDR", "its link-layer header could not be made"),
    ("IP_TUNNEL_ECN", "its tunnel's congestion marks contradict those inside"),
    ("TUNNEL_TXINFO", "the tunnel device has no peer configured, and the route names none"),
    ("RECURSION_LIMIT", "devices pass it on to each other in a circle"),
    ("LOCAL_MAC", "it came back with the bridge's or overlay's own link-layer address: a loop"),
];

/// An IP packet with an addressee: multicast and broadcast that nobody wants is no loss.
fn is_loss(drop: &Drop<'_>) -> bool {
    // What waited for a neighbour is explained with the neighbour.
    !neighbour_unresolved::is_given_up(drop)
        && drop.head.flow.is_some_and(|flow| !flow.dst.ip().is_multicast() && !is_broadcast(flow.dst.ip()))
}

fn is_broadcast(ip: std::net::IpAddr) -> bool {
    matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    #[test]
    fn states_reason_and_place() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "LOCAL_RULE", "sk_filter_trim_cap", &["tcp_v4_rcv"]), "eth0");
        let draft = check(&scene.case()).expect("a drop");
        assert!(draft.claim.ends_with("the kernel says LOCAL_RULE in sk_filter_trim_cap"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_noise() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "QUEUE_PURGE", "sk_stream_kill_queues", &[]), "");
        assert_eq!(check(&scene.case()), None);
    }
}
