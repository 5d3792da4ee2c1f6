//! A packet as netfilter sees it in one hook.

use std::net::IpAddr;

use crate::{
    explain::{Case, Drop},
    facts::policy,
    model::{
        facts::NamespaceFacts,
        finding::Netfilter,
        flow::Flow,
        packet::{Conntrack, TcpFlags},
    },
};

use super::Sure;

/// `enum ip_conntrack_info`: from here on the packet goes against its entry's first one.
const IS_REPLY: u32 = 3;
/// `IP_CT_RELATED`.
const RELATED: u32 = 1;
/// `IP_CT_NEW`.
const NEW: u32 = 2;

/// A packet in a hook.
#[derive(Clone, Copy)]
pub(in crate::explain) struct Seen<'a> {
    /// Its tuple there.
    pub(in crate::explain) flow: Flow,
    /// Hook.
    pub(in crate::explain) hook: &'a str,
    /// Device it came in by; empty where it was sent here, `None` where not known.
    pub(in crate::explain) iif: Option<&'a str>,
    /// Device it will leave by; empty where it stays, `None` where not known.
    pub(in crate::explain) oif: Option<&'a str>,
    /// Firewall mark.
    pub(in crate::explain) mark: Option<u32>,
    /// TCP flags.
    pub(in crate::explain) flags: TcpFlags,
    /// ICMP type and code.
    pub(in crate::explain) icmp: Option<(u8, u8)>,
    /// Its conntrack entry.
    pub(in crate::explain) ct: Option<&'a Conntrack>,
    /// The namespace, for its addresses and routes.
    pub(in crate::explain) facts: Option<&'a NamespaceFacts>,
}

impl<'a> Seen<'a> {
    /// The packet of a drop, in the hook that its call stack names.
    pub(in crate::explain) fn of<'c: 'a>(case: &Case<'c>, drop: &Drop<'c>, netfilter: &'a Netfilter) -> Option<Self> {
        let (flow, hook) = (drop.head.flow?, netfilter.hook.as_str());
        let netns = drop.sighting().packet.netns;
        let facts = case.namespace(netns);
        let name = |ifindex: u32| facts?.links.get(&ifindex).map(|link| link.name.as_str());
        let device = Some(&*drop.step.sighting.device).filter(|device| !device.is_empty());
        let leaves = || {
            let decision = case.decision(netns, drop.step.forward, drop.mono_ns())?;
            name(decision.out_ifindex)
        };
        let came_in = if drop.head.in_ifindex == 0 { Some("") } else { name(drop.head.in_ifindex) };
        let of_bridge = netfilter.family.as_deref() == Some("bridge");
        // skb->dev is the input device up to FORWARD, the output device after it, and unset in OUTPUT. On a bridge it is the
        // port ahead from FORWARD on, and the bridge itself in INPUT.
        let (iif, oif) = match hook {
            "input" if of_bridge => (came_in, Some("")),
            "forward" | "postrouting" if of_bridge => (came_in, device),
            "output" if of_bridge => (Some(""), device),
            "prerouting" | "input" | "ingress" => (device, Some("")),
            "forward" => (device, leaves()),
            "output" => (Some(""), leaves()),
            _ => (came_in, device),
        };
        let (mark, flags, icmp) = (Some(drop.head.mark), drop.head.flags, drop.head.icmp);
        Some(Self { flow, hook, iif, oif, mark, flags, icmp, ct: drop.ct, facts })
    }

    /// Whether its connection is in that state, as `ct state` and `--ctstate` name it.
    pub(super) fn state(&self, name: &str) -> Sure {
        let Some(ct) = self.ct else {
            // No entry at all: invalid, unless a rule took it out of conntrack's hands.
            return match name.to_ascii_lowercase().as_str() {
                "invalid" | "untracked" => Sure::Maybe,
                _ => Sure::No,
            };
        };
        Sure::of(match name.to_ascii_lowercase().as_str() {
            "new" => ct.info == NEW,
            "established" => matches!(ct.info, 0 | IS_REPLY),
            "related" => ct.info == RELATED || ct.info == IS_REPLY + RELATED,
            "dnat" => ct.dnat(),
            "snat" => ct.snat(),
            "invalid" | "untracked" => false,
            _ => return Sure::Maybe,
        })
    }

    /// It is the answer of its connection.
    pub(super) fn is_reply(&self) -> Option<bool> {
        self.ct.map(|ct| ct.info >= IS_REPLY)
    }

    /// The address is one of the namespace's own (`--dst-type LOCAL`, `fib daddr type local`).
    pub(super) fn is_local(&self, ip: IpAddr) -> Sure {
        self.facts.map_or(Sure::Maybe, |facts| Sure::of(ip.is_loopback() || facts.owns(ip)))
    }

    /// An answer to its source would leave by the device it came in by (`rpfilter`, `fib saddr . iif oif`).
    pub(super) fn way_back(&self, loose: bool) -> Sure {
        let Some((facts, iif)) = self.facts.zip(self.iif) else { return Sure::Maybe };
        let question = policy::Question {
            src: Some(self.flow.dst.ip()),
            dst: self.flow.src.ip(),
            iif: None,
            mark: 0,
            proto: Some(self.flow.proto.number()),
            ports: None,
        };
        let decision = policy::evaluate(facts, &question);
        match decision.route() {
            Some(_) if loose => Sure::Yes,
            Some((_, route)) => Sure::of(route.next_hops.iter().any(|hop| facts.device(hop.ifindex) == iif)),
            None if decision.may_have_route() => Sure::Maybe,
            None => Sure::No,
        }
    }
}
