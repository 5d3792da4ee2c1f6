//! One line per rule, in order of precedence.

mod asserted;
mod forwarding_off;
mod neighbour_unresolved;
mod netfilter;
mod netfilter_drop;
mod netfilter_reject;
mod no_reply;
mod no_route;
mod policy_drop;
mod port_closed;
mod route_refused;
mod rp_filter;
mod unexplained_drop;
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
    policy_drop::RULE,
    netfilter_reject::RULE,
    netfilter_drop::RULE,
    port_closed::RULE,
    no_reply::RULE,
    unexplained_drop::RULE,
];

#[cfg(test)]
pub(super) mod testing;
