//! A journey and all that is known beside it: what a rule looks at.

use std::{cell::OnceCell, net::IpAddr, sync::Arc};

use super::{Asked, Draft, expect::Expectations, noise, tcp::Talk};
use crate::{
    correlate::Journeys,
    model::{
        facts::{Author, Change, HostFacts, Link, NamespaceFacts, NamespaceKind, NodeFacts},
        flow::Flow,
        invalid::Invalid,
        inventory::Inventory,
        journey::{Journey, Step},
        packet::{Carried, Conntrack, Head, Judge, LookupRole, Place, What},
        sighting::{Side, Sighting},
        stack::base,
        traced::Traced,
    },
};

/// A journey and all that is known beside it.
pub struct Case<'a> {
    /// The journey.
    pub journey: &'a Journey,
    /// All journeys: the same pod's and its neighbours' other flows.
    pub journeys: &'a Journeys,
    /// The node.
    pub facts: &'a NodeFacts,
    /// The cluster.
    pub inventory: &'a Inventory,
    /// The kernel and the clock.
    pub host: &'a HostFacts,
    /// What the user says should be so.
    pub expect: &'a Expectations,
    /// Now, `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// What was asked and has no answer yet.
    pub asked: Asked,
    /// The journey as a conversation, once a rule has looked at it.
    pub talk: OnceCell<Option<Talk<'a>>>,
}

/// A dropped packet of the journey.
#[derive(Clone, Copy)]
pub struct Drop<'a> {
    /// Where it stands.
    pub step: &'a Step,
    /// The packet.
    pub head: &'a Head,
    /// Its conntrack entry.
    pub ct: Option<&'a Conntrack>,
    /// The packet inside, where it is a tunnel's.
    pub carried: Option<Carried>,
    /// The kernel's reason.
    pub reason: &'a Arc<str>,
    /// Function that freed it.
    pub site: &'a str,
    /// Callers, innermost first.
    pub stack: &'a [Arc<str>],
    /// Preference of the tc filter that dropped it, where the kernel told it.
    pub filter: Option<u16>,
}

impl Drop<'_> {
    /// The sighting.
    #[must_use]
    pub fn sighting(&self) -> &Sighting {
        &self.step.sighting
    }

    /// When, `CLOCK_MONOTONIC` nanoseconds.
    #[must_use]
    pub fn mono_ns(&self) -> u64 {
        self.step.sighting.packet.mono_ns
    }

    /// The device's name, where it was on one.
    #[must_use]
    pub fn device(&self) -> Option<String> {
        let name = &self.step.sighting.device;
        (!name.is_empty()).then(|| name.to_string())
    }
}

/// A route look-up of the journey.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// Where it stands.
    pub step: &'a Step,
    /// Table.
    pub table: u32,
    /// 0 or a negative errno.
    pub err: i32,
    /// Device of the route, 0 on a miss.
    pub out_ifindex: u32,
    /// Gateway.
    pub gateway: Option<IpAddr>,
    /// Firewall mark.
    pub mark: u32,
    /// What for.
    pub role: LookupRole,
    /// Preference of the policy rule that led to the table, where the kernel told it.
    pub rule: Option<u32>,
}

/// What netfilter said of a drop.
#[derive(Clone, Copy)]
pub struct Verdict<'a> {
    /// Where it stands.
    pub step: &'a Step,
    /// Hook.
    pub hook: &'static str,
    /// Output device, 0 where none.
    pub out_ifindex: u32,
    /// Who dropped it.
    pub judge: &'a Judge,
    /// What conntrack had held against the packet.
    pub invalid: Option<&'a Invalid>,
}

/// How long after the drop the hook may end, nanoseconds: it is one call on one CPU, which may be preempted.
const SAME_HOOK_NS: u64 = 50_000_000;

/// How far from the drop the trace of a packet of its flow may be read, nanoseconds.
const SAME_RULE_NS: u64 = 1_000_000_000;

/// "No match in this table" of IPv4 and IPv6 (`EAGAIN`, `ENETUNREACH`).
pub(super) const MISS: [i32; 2] = [-11, -101];

impl<'a> Case<'a> {
    /// Steps of the journey, oldest first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &'a Step> + use<'a> {
        self.journey.steps.iter()
    }

    /// The journey as a TCP conversation, if it is one.
    #[must_use]
    pub fn talk(&self) -> Option<&Talk<'a>> {
        self.talk.get_or_init(|| Talk::of(self)).as_ref()
    }

    /// Dropped packets, noise of a healthy node left out.
    pub fn drops(&self) -> impl DoubleEndedIterator<Item = Drop<'a>> + use<'a> {
        self.all_drops().filter(|d| noise::of(d.reason, d.site, Some(d.head), d.step.forward).is_none())
    }

    /// Dropped packets, also those that a healthy node drops.
    pub fn all_drops(&self) -> impl DoubleEndedIterator<Item = Drop<'a>> + use<'a> {
        self.journey.steps.iter().filter_map(|step| match &step.sighting.packet.what {
            What::Dropped { head, ct, reason, site, stack, filter, carried, .. } => {
                let (ct, site) = (ct.as_ref(), base(site));
                Some(Drop { step, head, ct, carried: *carried, reason, site, stack, filter: *filter })
            }
            _ => None,
        })
    }

    /// Who dropped a packet in a netfilter hook, where the kernel told it.
    #[must_use]
    pub fn verdict(&self, drop: &Drop<'_>) -> Option<Verdict<'a>> {
        let dropped = &drop.sighting().packet;
        self.journey.steps.iter().find_map(|step| {
            let packet = &step.sighting.packet;
            let What::Verdict { skb, hook, out_ifindex, judge, invalid, .. } = &packet.what else { return None };
            let after = packet.mono_ns.checked_sub(dropped.mono_ns)?;
            let same = *skb == drop.head.skb && packet.cpu == dropped.cpu && after <= SAME_HOOK_NS;
            let (out_ifindex, invalid) = (*out_ifindex, invalid.as_ref());
            same.then_some(Verdict { step, hook, out_ifindex, judge, invalid })
        })
    }

    /// The rule that nftables itself names as the one that dropped the packet, or one of its flow's in that second.
    #[must_use]
    pub fn traced(&self, drop: &Drop<'_>) -> Option<&'a Traced> {
        let (packet, flow) = (&drop.sighting().packet, drop.head.flow?);
        let same = |traced: &&Traced| traced.netns == packet.netns && traced.flow == flow;
        let apart = |traced: &&Traced| traced.mono_ns.abs_diff(packet.mono_ns);
        self.facts.traced.iter().filter(same).filter(|traced| apart(traced) <= SAME_RULE_NS).min_by_key(apart)
    }

    /// Look-ups for the journey's packets, reverse-path ones included; those for a tunnel's packets around them are not.
    pub fn lookups(&self) -> impl DoubleEndedIterator<Item = Lookup<'a>> + use<'a> {
        let around = self.around().map(|(_, flow)| flow);
        self.all_lookups()
            .filter(move |(_, asked)| !around.is_some_and(|around| is_for(asked, &around)))
            .map(|(l, _)| l)
    }

    /// Look-ups of the node for a tunnel's packets of that flow.
    pub fn lookups_around(&self, around: Flow) -> impl DoubleEndedIterator<Item = Lookup<'a>> + use<'a> {
        self.all_lookups().filter(move |(_, asked)| is_for(asked, &around)).map(|(l, _)| l)
    }

    fn all_lookups(&self) -> impl DoubleEndedIterator<Item = (Lookup<'a>, Flow)> + use<'a> {
        self.journey.steps.iter().filter_map(|step| match step.sighting.packet.what {
            What::Lookup { flow, table, err, out_ifindex, gateway, mark, role, rule, .. } => {
                Some((Lookup { step, table, err, out_ifindex, gateway, mark, role, rule }, flow))
            }
            _ => None,
        })
    }

    /// A tunnel's packet around the journey's, where it left the node, and its flow.
    #[must_use]
    pub fn around(&self) -> Option<(&'a Step, Flow)> {
        let (inner, outer) = self.exits()?;
        let head = |step: &'a Step| match &step.sighting.packet.what {
            What::Hop { head, .. } => Some(head),
            _ => None,
        };
        let (carried, head) = (head(inner)?, head(outer)?);
        let is_around = outer.sighting.packet.ifindex != inner.sighting.packet.ifindex && head.ip_len > carried.ip_len;
        head.flow.filter(|_| is_around).map(|flow| (outer, flow))
    }

    /// The last look-up that decided where a packet goes, in `netns`, in that direction, at or
    /// before `until_ns`.
    #[must_use]
    pub fn decision(&self, netns: u32, forward: bool, until_ns: u64) -> Option<Lookup<'a>> {
        self.lookups().rev().find(|l| {
            l.step.forward == forward
                && l.role != LookupRole::ReversePath
                && l.step.sighting.packet.netns == netns
                && l.step.sighting.packet.mono_ns <= until_ns
        })
    }

    /// Packets at devices.
    pub fn hops(&self) -> impl DoubleEndedIterator<Item = (&'a Step, Place, &'a Head)> + use<'a> {
        self.journey.steps.iter().filter_map(|step| match &step.sighting.packet.what {
            What::Hop { place, head, inner: None, .. } => Some((step, *place, head)),
            _ => None,
        })
    }

    /// Where the flow's packets leave the node: the first and the last uplink that transmitted
    /// one. They differ where a tunnel lies in between.
    #[must_use]
    pub fn exits(&self) -> Option<(&'a Step, &'a Step)> {
        let mut exits = self.hops().filter(|(step, place, _)| {
            step.forward
                && *place == Place::Transmit
                && step.sighting.side == Side::Node
                && self.is_uplink(step.sighting.packet.ifindex)
        });
        let first = exits.next()?.0;
        Some((first, exits.next_back().map_or(first, |(step, ..)| step)))
    }

    /// Anything of the answer was seen on the node or in the pod.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.journey.steps.iter().any(|s| {
            !s.forward
                && matches!(s.sighting.packet.what, What::Hop { .. } | What::Dropped { .. } | What::IcmpSent { .. })
        })
    }

    /// The node's device leads out of the node: it is neither a pod's, nor `lo`, nor one that sends nothing itself.
    #[must_use]
    pub fn is_uplink(&self, ifindex: u32) -> bool {
        self.facts.node().and_then(|n| n.links.get(&ifindex)).is_some_and(|link| self.leads_out(link))
    }

    /// The same, of a link.
    #[must_use]
    pub fn leads_out(&self, link: &Link) -> bool {
        let to_pod = link.peer_netns.is_some_and(|n| {
            self.facts.namespaces.get(&n).is_some_and(|ns| ns.kind == NamespaceKind::Pod) && link.kind == "veth"
        });
        !to_pod && link.name != "lo" && !matches!(link.kind.as_str(), "bridge" | "vrf" | "dummy")
    }

    /// Facts of the namespace a sighting was in.
    #[must_use]
    pub fn namespace(&self, inum: u32) -> Option<&'a NamespaceFacts> {
        self.facts.namespaces.get(&inum)
    }

    /// Whose traffic, in words.
    #[must_use]
    pub fn who(&self) -> String {
        self.journey.pod.as_ref().map_or_else(
            || {
                let source = self.journey.flow.src.ip();
                if self.facts.node().is_some_and(|n| n.owns(source)) {
                    "this node".to_owned()
                } else {
                    source.to_string()
                }
            },
            |pod| pod.to_string(),
        )
    }

    /// Who opened the flow, in words: its pod, the node, or its address. [`who`](Self::who) is the pod it is told
    /// about, which may be the other end.
    #[must_use]
    pub fn client(&self) -> String {
        let source = self.journey.flow.src.ip();
        // A masqueraded packet has another source: only one with the flow's own tells whose it is.
        let sends = |s: &&Step| s.sighting.packet.what.ends().is_some_and(|f| f.src.ip() == source);
        let pod = self.journey.steps.iter().filter(sends).find_map(|s| s.sighting.source.yes());
        match pod.or(self.journey.pod.as_ref().filter(|_| source.is_loopback())) {
            Some(pod) => pod.to_string(),
            None if self.facts.node().is_some_and(|n| n.owns(source)) => "this node".to_owned(),
            None => source.to_string(),
        }
    }

    /// The flow's destination, in words: with the pod's name where it is one of ours.
    #[must_use]
    pub fn whither(&self) -> String {
        let target = self.journey.flow.destination();
        // An ICMP error that belongs to the flow has another destination.
        let goes_there = |s: &&Step| {
            s.forward
                && s.sighting.packet.what.ends().is_some_and(|f| self.is_form(&f) && f.proto == self.journey.flow.proto)
        };
        let pod = self.journey.steps.iter().filter(goes_there).find_map(|s| s.sighting.destination.yes());
        pod.map_or_else(|| target.clone(), |pod| format!("{target} ({pod})"))
    }

    /// Where, in words: "the node" or the pod.
    #[must_use]
    pub fn place(&self, sighting: &Sighting) -> String {
        match sighting.side {
            Side::Pod => sighting.namespace_of.yes().map_or_else(|| "the pod".to_owned(), ToString::to_string),
            _ => "the node".to_owned(),
        }
    }

    /// A time as people read it on a clock: `14:03:22 UTC`.
    #[must_use]
    pub fn clock(&self, mono_ns: u64) -> String {
        let wall = i128::from(mono_ns) + i128::from(self.host.wall_offset_ns);
        jiff::Timestamp::from_nanosecond(wall)
            .map_or_else(|_| "?".to_owned(), |t| t.strftime("%H:%M:%S UTC").to_string())
    }

    /// The last change in a namespace that fits.
    pub fn last_change(&self, netns: u32, fits: impl Fn(&Change) -> bool) -> Option<&'a Change> {
        self.facts.journal.iter().rev().find(|c| c.netns == netns && fits(c))
    }

    /// The last forward packet's destination that routing saw: after DNAT.
    #[must_use]
    pub fn routed_flow(&self) -> Flow {
        let from_pod = self.journey.flow.src;
        let translated = self.journey.translated.iter().rev().find(|f| f.src == from_pod);
        translated.copied().unwrap_or(self.journey.flow)
    }

    /// Starts a draft about a dropped packet.
    #[must_use]
    pub fn about_drop(&self, drop: &Drop<'_>, claim: String) -> Draft {
        let mut draft = Draft::new(self, drop.sighting().side, drop.device(), claim).proof(
            drop.mono_ns(),
            format!(
                "kfree_skb {} in {}{}",
                drop.reason,
                drop.site,
                drop.device().map_or_else(String::new, |d| format!(" on {d}"))
            ),
        );
        draft.reason = Some(Arc::clone(drop.reason));
        let same = |d: &Drop<'_>| d.reason == drop.reason && d.site == drop.site;
        draft.count = self.all_drops().filter(same).count() as u64;
        draft.last_ns = self.all_drops().filter(same).map(|d| d.mono_ns()).max().unwrap_or(draft.last_ns);
        draft
    }
}

/// Whether a look-up was for the packets of `flow`, or for the way back.
fn is_for(asked: &Flow, flow: &Flow) -> bool {
    asked.dst.ip() == flow.dst.ip() && (asked.src.ip() == flow.src.ip() || asked.src.ip().is_unspecified())
}

/// Who made a change, in words.
#[must_use]
pub(super) fn author(by: &Author) -> String {
    match (&by.process, by.port_id) {
        (Some((pid, name)), _) => format!("by {name} (pid {pid})"),
        (None, 0) => "by the kernel".to_owned(),
        (None, port) => format!("by netlink port {port} (its process is gone)"),
    }
}
