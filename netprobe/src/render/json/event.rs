//! A packet as an object: what happened, field by field, and in words.

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;

use super::object::{At, FlowRef, PodRef};
use crate::{
    model::{
        flow::Flow,
        invalid::Invalid,
        journey::Step,
        packet::{Conntrack, Head, Judge, LookupRole, Place, What},
    },
    render::event::words,
};

#[derive(Serialize)]
pub(super) struct Packet<'a> {
    journey: u64,
    /// It goes with the journey's flow, or is the answer.
    forward: bool,
    at: At<'a>,
    pod: Option<PodRef<'a>>,
    cpu: u32,
    pid: u32,
    text: String,
    #[serde(flatten)]
    event: Event<'a>,
}

impl<'a> Packet<'a> {
    pub(super) fn new(step: &'a Step, journey: u64) -> Self {
        let sighting = &step.sighting;
        let words = words(sighting);
        let text = if words.label.is_empty() { words.text } else { format!("{}, {}", words.text, words.label) };
        Self {
            journey,
            forward: step.forward,
            at: At::new(sighting.side, Some(&sighting.device)),
            pod: sighting.namespace_of.yes().map(|pod| PodRef::new(pod)),
            cpu: sighting.packet.cpu,
            pid: sighting.packet.pid,
            text,
            event: Event::new(&sighting.packet.what),
        }
    }
}

/// What was read of the packet.
#[derive(Serialize)]
struct HeadRef {
    flow: Option<FlowRef>,
    ether_type: u16,
    skb: String,
    mark: u32,
    length: u32,
    ttl: u8,
    payload: u32,
    flags: Option<String>,
    seq: Option<u32>,
    ack: Option<u32>,
    icmp: Option<(u8, u8)>,
}

impl HeadRef {
    fn new(head: &Head) -> Self {
        let tcp = head.flow.is_some_and(|flow| flow.proto == crate::model::flow::Proto::Tcp);
        Self {
            flow: head.flow.as_ref().map(FlowRef::new),
            ether_type: head.ether_type,
            skb: format!("{:#x}", head.skb),
            mark: head.mark,
            length: head.len,
            ttl: head.ttl,
            payload: head.payload,
            flags: tcp.then(|| head.flags.to_string()),
            seq: tcp.then_some(head.seq),
            ack: tcp.then_some(head.ack),
            icmp: head.icmp,
        }
    }
}

/// The connection as conntrack has it.
#[derive(Serialize)]
struct ConntrackRef {
    original: FlowRef,
    reply: FlowRef,
    snat: bool,
    dnat: bool,
    zone: u32,
}

impl ConntrackRef {
    fn new(ct: &Conntrack) -> Self {
        Self {
            original: FlowRef::new(&ct.original),
            reply: FlowRef::new(&ct.reply),
            snat: ct.snat(),
            dnat: ct.dnat(),
            zone: ct.zone,
        }
    }
}

/// The packet inside a tunnel's.
#[derive(Serialize)]
struct CarriedRef {
    flow: FlowRef,
    vni: u32,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Hop {
        place: Place,
        packet: HeadRef,
        conntrack: Option<ConntrackRef>,
        about: Option<FlowRef>,
        seen: u64,
    },
    Drop {
        reason: &'a str,
        site: &'a str,
        stack: &'a [Arc<str>],
        filter: Option<u16>,
        packet: HeadRef,
        conntrack: Option<ConntrackRef>,
        carries: Option<CarriedRef>,
        seen: u64,
    },
    Lookup {
        table: u32,
        role: LookupRole,
        error: i32,
        gateway: Option<IpAddr>,
        mark: u32,
        inferred: bool,
        rule: Option<u32>,
        flow: FlowRef,
    },
    Request {
        port_id: u32,
        comm: &'a str,
    },
    Nat {
        flow: FlowRef,
        translated: FlowRef,
        by: &'static str,
        addresses: Option<[IpAddr; 2]>,
        ports: Option<[u16; 2]>,
    },
    Owned {
        flow: FlowRef,
        cgroup: u64,
    },
    Verdict {
        flow: FlowRef,
        skb: String,
        hook: &'a str,
        by: &'static str,
        family: Option<&'a str>,
        table: Option<&'a str>,
        chain: Option<&'a str>,
        invalid: Option<&'a Invalid>,
    },
    Retransmit {
        flow: FlowRef,
        state: &'a str,
        timeouts: u32,
    },
    Reset {
        flow: FlowRef,
        sent: bool,
        socket: bool,
        reason: Option<&'a str>,
        state: &'a str,
    },
    State {
        flow: FlowRef,
        old: &'a str,
        new: &'a str,
        error: u32,
        comm: &'a str,
    },
    SendError {
        flow: FlowRef,
        error: u32,
        comm: &'a str,
    },
    Neighbour {
        ip: IpAddr,
        mac: Option<&'a str>,
        new_mac: Option<&'a str>,
        failed: bool,
        waiting: bool,
    },
    Dns {
        flow: FlowRef,
        place: Place,
        id: Option<u16>,
        name: Option<&'a str>,
        record: Option<&'a str>,
        code: Option<String>,
        addresses: &'a [IpAddr],
    },
    IcmpSent {
        icmp: (u8, u8),
        stack: &'a [Arc<str>],
        packet: HeadRef,
        conntrack: Option<ConntrackRef>,
    },
}

impl<'a> Event<'a> {
    #[allow(clippy::too_many_lines, reason = "one arm an event; a second list of events would be worse")]
    fn new(what: &'a What) -> Self {
        let flow_of = |flow: &Flow| FlowRef::new(flow);
        let ct_of = |ct: &Option<Conntrack>| ct.as_ref().map(ConntrackRef::new);
        match what {
            What::Hop { place, head, ct, inner, seen } => Self::Hop {
                place: *place,
                packet: HeadRef::new(head),
                conntrack: ct_of(ct),
                about: inner.as_ref().map(FlowRef::new),
                seen: *seen,
            },
            What::Dropped { head, ct, reason, site, stack, filter, seen, carried } => Self::Drop {
                reason,
                site,
                stack,
                filter: *filter,
                packet: HeadRef::new(head),
                conntrack: ct_of(ct),
                carries: carried
                    .as_ref()
                    .map(|inside| CarriedRef { flow: FlowRef::new(&inside.flow), vni: inside.vni }),
                seen: *seen,
            },
            What::Lookup { flow, table, err, gateway, mark, role, inferred, rule, .. } => Self::Lookup {
                table: *table,
                role: *role,
                error: *err,
                gateway: *gateway,
                mark: *mark,
                inferred: *inferred,
                rule: *rule,
                flow: flow_of(flow),
            },
            What::Request { port_id, comm } => Self::Request { port_id: *port_id, comm },
            What::Nat(choice) => Self::Nat {
                flow: flow_of(&choice.original),
                translated: flow_of(&choice.translated),
                by: choice.by.name(),
                addresses: choice.addresses.map(|(low, high)| [low, high]),
                ports: choice.ports.map(|(low, high)| [low, high]),
            },
            What::Owned { flow, cgroup, .. } => Self::Owned { flow: flow_of(flow), cgroup: *cgroup },
            What::Verdict { flow, skb, hook, out_ifindex: _, judge, invalid } => {
                let (by, family, table, chain) = judged(judge);
                let (skb, invalid) = (format!("{skb:#x}"), invalid.as_ref());
                Self::Verdict { flow: flow_of(flow), skb, hook, by, family, table, chain, invalid }
            }
            What::Retransmit { flow, state, timeouts } => {
                Self::Retransmit { flow: flow_of(flow), state, timeouts: *timeouts }
            }
            What::Reset { flow, sent, socket, reason, state } => Self::Reset {
                flow: flow_of(flow),
                sent: *sent,
                socket: *socket,
                reason: Some(reason.as_ref()).filter(|reason| !reason.is_empty()),
                state,
            },
            What::State { flow, old, new, err, comm } => {
                Self::State { flow: flow_of(flow), old, new, error: *err, comm }
            }
            What::SendError { flow, err, comm } => Self::SendError { flow: flow_of(flow), error: *err, comm },
            What::Neighbour { ip, mac, new_mac, failed, waiting } => Self::Neighbour {
                ip: *ip,
                mac: Some(mac.as_str()).filter(|mac| !mac.is_empty()),
                new_mac: new_mac.as_deref(),
                failed: *failed,
                waiting: *waiting,
            },
            What::Dns { flow, place, message, seen: _ } => {
                let answer = message.as_ref().and_then(|m| m.answer.as_ref());
                Self::Dns {
                    flow: flow_of(flow),
                    place: *place,
                    id: message.as_ref().map(|m| m.id),
                    name: message.as_ref().map(|m| &*m.name),
                    record: message.as_ref().map(|m| &*m.kind),
                    code: answer.map(|a| a.code.to_string()),
                    addresses: answer.map_or(&[], |a| &a.addresses),
                }
            }
            What::IcmpSent { head, ct, icmp, stack } => {
                Self::IcmpSent { icmp: *icmp, stack, packet: HeadRef::new(head), conntrack: ct_of(ct) }
            }
        }
    }
}

/// Who judged, and family, table and chain as far as they are known.
fn judged(judge: &Judge) -> (&'static str, Option<&str>, Option<&str>, Option<&str>) {
    match judge {
        Judge::Unknown => ("unknown", None, None, None),
        Judge::Nftables { family, table, chain } => ("nftables", Some(*family), Some(&**table), Some(&**chain)),
        Judge::Xtables { family, table } => ("xtables", Some(*family), Some(&**table), None),
        Judge::Conntrack => ("conntrack", None, None, None),
    }
}
