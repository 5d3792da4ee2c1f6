//! A drop in words: what was dropped, whose it was, and where.

use super::{Case, Draft, Drop};
use crate::model::{
    flow::Flow,
    packet::{LookupRole, What},
    sighting::Sighting,
};

impl Case<'_> {
    /// Who sends the flow's packets, in words: a pod, this node, or an address.
    #[must_use]
    pub fn sender(&self) -> String {
        let ip = self.journey.flow.src.ip();
        let sends = |s: &Sighting| s.packet.what.ends().is_some_and(|f| f.src.ip() == ip);
        let pod = self.steps().filter(|s| sends(&s.sighting)).find_map(|s| s.sighting.source.yes());
        // Before the kernel has chosen a source it asks for none.
        let own = ip.is_loopback() || ip.is_unspecified();
        let is_local = own || self.facts.node().is_some_and(|n| n.owns(ip));
        // Of a flow that came from elsewhere only answers may have been seen.
        let gets = |s: &Sighting| s.packet.what.ends().is_some_and(|f| f.dst.ip() == ip);
        let addressed = || self.steps().filter(|s| gets(&s.sighting)).find_map(|s| s.sighting.destination.yes());
        match pod.or_else(addressed).or(self.journey.pod.as_ref().filter(|_| own)) {
            Some(pod) => pod.to_string(),
            None if is_local => "this node".to_owned(),
            None => ip.to_string(),
        }
    }

    /// The dropped packet, in words: `the packet of shop/web-0 to 10.20.0.4:3306`.
    #[must_use]
    pub fn packet(&self, drop: &Drop<'_>) -> String {
        let (sender, target) = (self.sender(), self.whither());
        let (flow, journey) = (drop.head.flow, &self.journey.flow);
        match flow {
            Some(flow) if self.is_form(&flow) => format!("the packet of {sender} to {target}"),
            Some(flow) if self.is_form(&flow.reversed()) => format!("the answer of {target} to {sender}"),
            Some(flow) if flow.proto.is_icmp() && !journey.proto.is_icmp() => {
                format!("an ICMP error about the packets of {sender} to {target}")
            }
            Some(flow) if !drop.step.forward => {
                format!("the packet {flow}, which carries an answer of {target} to {sender},")
            }
            Some(flow) => format!("the packet {flow}, which carries one of {sender} to {target},"),
            None => format!("a frame of {}", self.who()),
        }
    }

    /// The whole of it: `the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on vpod1`.
    #[must_use]
    pub fn dropped(&self, drop: &Drop<'_>) -> String {
        let at = drop.device().map_or_else(String::new, |device| format!(" on {device}"));
        format!("{} dropped {}{at}", self.place(drop.sighting()), self.packet(drop))
    }

    /// Starts a draft that says so, and why: `because` ends the sentence.
    #[must_use]
    pub fn dropped_because(&self, drop: &Drop<'_>, because: &str) -> Draft {
        self.about_drop(drop, format!("{}: {because}", self.dropped(drop)))
    }

    /// The flow is the journey's, in one of its dresses.
    #[must_use]
    pub fn is_form(&self, flow: &Flow) -> bool {
        self.journey.flow == *flow || self.journey.translated.contains(flow)
    }

    /// The device that routing chose for the dropped packet: its index, name and MTU.
    #[must_use]
    pub fn device_ahead(&self, drop: &Drop<'_>) -> Option<(u32, String, u32)> {
        let packet = &drop.sighting().packet;
        let chosen = self.lookups().rev().find(|l| {
            let role = l.role == LookupRole::Input || l.role == LookupRole::Output;
            let asked = |what: &What| matches!(what, What::Lookup { flow, .. } if same_addressee(flow, drop));
            role && l.err == 0
                && l.step.sighting.packet.netns == packet.netns
                && l.step.sighting.packet.mono_ns <= packet.mono_ns
                && asked(&l.step.sighting.packet.what)
        })?;
        let link = self.namespace(packet.netns)?.links.get(&chosen.out_ifindex)?;
        Some((link.index, link.name.clone(), link.mtu))
    }
}

fn same_addressee(asked: &Flow, drop: &Drop<'_>) -> bool {
    drop.head.flow.is_some_and(|flow| flow.dst.ip() == asked.dst.ip())
}

/// The packet's size at the IP layer, bytes: a segment still to be cut has no length of its own.
#[must_use]
pub(super) fn size(drop: &Drop<'_>) -> u32 {
    if drop.head.ip_len > 40 { drop.head.ip_len } else { drop.head.len }
}
