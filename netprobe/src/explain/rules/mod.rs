//! One line per rule, in order of precedence.

mod asserted;
mod connection_reset;
mod dns_answers;
mod dns_timeout;
mod forwarding_off;
mod idle_connection_cut;
mod listen_overflow;
mod local_ports_exhausted;
mod mtu_blackhole;
mod neighbour_unresolved;
mod netfilter;
mod netfilter_drop;
mod netfilter_reject;
mod no_reply;
mod no_route;
mod packet_loss_outside;
mod port_closed;
mod receiver_stalled;
mod rejected_outside;
mod route_refused;
mod rp_filter;
mod slow;
mod unexplained_drop;
mod vanished;
mod wrong_egress;

use super::Rule;

/// Every rule. What decides a packet's way stands before what happens on it, and what the kernel
/// says before what is concluded from silence.
pub const RULES: &[Rule] = &[
    wrong_egress::RULE,
    asserted::UNEXPECTED_SNAT,
    asserted::MASQUERADE_MISSING,
    route_refused::BLACKHOLE,
    route_refused::UNREACHABLE,
    route_refused::PROHIBIT,
    no_route::RULE,
    rp_filter::RULE,
    forwarding_off::RULE,
    neighbour_unresolved::RULE,
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
    dns_timeout::RULE,
    dns_answers::UNEXPECTED,
    dns_answers::SERVFAIL,
    dns_answers::NXDOMAIN,
    no_reply::RULE,
    unexplained_drop::RULE,
];

#[cfg(test)]
pub(in crate::explain) mod testing;
