//! One line per rule, in order of precedence.

mod asserted;
mod astray;
mod bad_checksum;
mod bridge_drop;
mod cgroup_bpf_drop;
mod connection_reset;
mod conntrack_dropped;
mod conntrack_invalid;
mod cpu_backlog_full;
mod dns_answers;
mod dns_timeout;
mod duplicate_address;
mod forwarding_off;
mod hairpin;
mod handshake;
mod idle_connection_cut;
mod ipsec_policy_drop;
mod ipv6_disabled;
mod link_down;
mod listen_overflow;
mod local_ports_exhausted;
mod martian;
mod masquerade;
mod mtu_blackhole;
mod mtu_exceeded;
mod neighbour_permanent;
mod neighbour_table_full;
mod neighbour_unresolved;
mod netfilter;
mod netfilter_drop;
mod netfilter_reject;
mod nfqueue_unread;
mod no_reply;
mod no_route;
mod overruled;
mod packet_loss_outside;
mod policy_drop;
mod port_closed;
mod qdisc_delay;
mod qdisc_drop;
mod reassembly_timeout;
mod receiver_stalled;
mod rejected_outside;
mod reply_not_translated;
mod route_refused;
mod rp_filter;
mod service_endpoints;
mod service_not_translated;
mod silent_neighbour;
mod slow;
mod socket_buffer_full;
mod socket_filter_drop;
mod stale;
mod tc_drop;
mod translated_anew;
mod translation;
mod ttl_exceeded;
mod unexplained_drop;
mod unknown_protocol;
mod unruled;
mod vanished;
mod vxlan_no_peer;
mod wrong_egress;
mod xdp_drop;

use super::Rule;

/// Every rule. What decides a packet's way stands before what happens on it, and what the kernel
/// says before what is concluded from silence.
pub const RULES: &[Rule] = &[
    hairpin::RULE,
    reply_not_translated::RULE,
    service_not_translated::RULE,
    stale::ENDPOINT,
    stale::CONNTRACK,
    wrong_egress::RULE,
    asserted::UNEXPECTED_SNAT,
    asserted::MASQUERADE_MISSING,
    route_refused::BLACKHOLE,
    route_refused::UNREACHABLE,
    route_refused::PROHIBIT,
    link_down::RULE,
    ipv6_disabled::RULE,
    no_route::RULE,
    rp_filter::RULE,
    martian::RULE,
    forwarding_off::RULE,
    ttl_exceeded::RULE,
    mtu_exceeded::RULE,
    neighbour_table_full::RULE,
    neighbour_permanent::RULE,
    duplicate_address::RULE,
    neighbour_unresolved::RULE,
    service_endpoints::NONE_HERE,
    service_endpoints::NONE,
    conntrack_dropped::FULL,
    conntrack_dropped::PORTS,
    conntrack_dropped::RACE,
    conntrack_invalid::EXPIRED,
    conntrack_invalid::INVALID,
    policy_drop::RULE,
    ipsec_policy_drop::RULE,
    tc_drop::RULE,
    xdp_drop::RULE,
    cgroup_bpf_drop::RULE,
    qdisc_drop::RULE,
    bridge_drop::RULE,
    vxlan_no_peer::RULE,
    cpu_backlog_full::RULE,
    unknown_protocol::RULE,
    bad_checksum::RULE,
    reassembly_timeout::RULE,
    socket_filter_drop::RULE,
    socket_buffer_full::RULE,
    nfqueue_unread::RULE,
    netfilter_reject::RULE,
    netfilter_drop::RULE,
    connection_reset::RULE,
    port_closed::RULE,
    local_ports_exhausted::RULE,
    listen_overflow::RULE,
    rejected_outside::RULE,
    receiver_stalled::RULE,
    idle_connection_cut::RULE,
    mtu_blackhole::RULE,
    packet_loss_outside::RULE,
    slow::NETWORK,
    slow::SERVER,
    overruled::RULE,
    dns_timeout::RULE,
    dns_answers::UNEXPECTED,
    dns_answers::SERVFAIL,
    dns_answers::NXDOMAIN,
    qdisc_delay::RULE,
    no_reply::RULE,
    unexplained_drop::RULE,
];

#[cfg(test)]
pub(in crate::explain) mod testing;
