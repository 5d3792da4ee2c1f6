//! Stories: the network is broken one way, and netprobe says how. Each needs root.
#![forbid(unsafe_code)]

mod agent;
mod bad_input;
mod broken_pipe;
mod capture;
mod clsact;
mod conntrack_race;
mod containers;
mod devices;
mod dns;
mod events;
mod expected;
mod flows;
mod forwarding_off;
mod healthy;
mod host_network;
mod kill_nine;
mod kube;
mod kube_tls;
mod lost_here;
mod modules;
mod neighbour;
mod netfilter;
mod netfilter_told;
mod network;
mod no_reply;
mod no_route;
mod pod_created_later;
mod port_closed;
mod recorded;
mod refused_routes;
mod remote;
mod rp_filter;
mod rules_traced;
mod why;
mod wrong_egress;
