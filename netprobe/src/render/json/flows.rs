//! `flows` and `nat`.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::object::{At, FlowRef, PodRef};
use crate::{
    model::{
        flow::Proto,
        flows::{Amounts, DeviceRow, FlowLine, FlowTable, NameSource, State, Translation},
    },
    render::Clock,
};

#[derive(Serialize)]
pub(super) struct TableBody<'a> {
    since: String,
    devices: Vec<DeviceRef<'a>>,
    flows: Vec<LineRef<'a>>,
    more: u64,
}

impl<'a> TableBody<'a> {
    pub(super) fn new(table: &'a FlowTable, clock: &Clock) -> Self {
        Self {
            since: clock.rfc3339(table.since_ns),
            devices: table.devices.iter().map(DeviceRef::new).collect(),
            flows: table.lines.iter().map(|line| LineRef::new(line, clock)).collect(),
            more: table.more,
        }
    }
}

#[derive(Serialize)]
struct DeviceRef<'a> {
    pod: Option<PodRef<'a>>,
    ended: bool,
    at: At<'a>,
    uplink: bool,
    #[serde(flatten)]
    amounts: Amounts,
}

impl<'a> DeviceRef<'a> {
    fn new(row: &'a DeviceRow) -> Self {
        Self {
            pod: row.pod.as_deref().map(PodRef::new),
            ended: row.is_ended,
            at: At::new(row.side, Some(&row.device)),
            uplink: row.is_uplink,
            amounts: row.amounts,
        }
    }
}

#[derive(Serialize)]
struct LineRef<'a> {
    pod: Option<PodRef<'a>>,
    ended: bool,
    proto: String,
    initiated: bool,
    peer: IpAddr,
    peer_name: Option<&'a str>,
    peer_name_source: Option<NameSource>,
    port: u16,
    devices: &'a [String],
    connections: u64,
    #[serde(flatten)]
    amounts: Amounts,
    handshake_ns: Option<u64>,
    retransmits: Option<u64>,
    states: BTreeMap<State, u64>,
    nat: Option<TranslationBody<'a>>,
    first: String,
    last: String,
}

impl<'a> LineRef<'a> {
    fn new(line: &'a FlowLine, clock: &Clock) -> Self {
        Self {
            pod: line.pod.as_deref().map(PodRef::new),
            ended: line.is_ended,
            proto: FlowRef::proto(line.proto),
            initiated: line.initiated,
            peer: line.peer.ip(),
            peer_name: line.name.as_ref().map(|name| name.text.as_str()),
            peer_name_source: line.name.as_ref().map(|name| name.source),
            port: if line.initiated { line.peer.port() } else { line.served_port },
            devices: &line.devices,
            connections: line.connections,
            amounts: line.amounts,
            handshake_ns: line.handshake_ns,
            retransmits: (line.proto == Proto::Tcp).then_some(line.retransmits),
            states: line.states.iter().copied().collect(),
            nat: line.nat.as_deref().map(TranslationBody::new),
            first: clock.rfc3339(line.first_ns),
            last: clock.rfc3339(line.last_ns),
        }
    }
}

#[derive(Serialize)]
pub(super) struct TranslationBody<'a> {
    pod: Option<PodRef<'a>>,
    ended: bool,
    before: FlowRef,
    after: FlowRef,
    dnat: Option<&'a str>,
    snat: Option<&'a str>,
    snat_device: Option<&'a str>,
    service: Option<&'a str>,
    devices: &'a [String],
}

impl<'a> TranslationBody<'a> {
    pub(super) fn new(translation: &'a Translation) -> Self {
        Self {
            pod: translation.pod.as_deref().map(PodRef::new),
            ended: translation.is_ended,
            before: FlowRef::new(&translation.before),
            after: FlowRef::new(&translation.after),
            dnat: translation.dnat,
            snat: translation.snat,
            snat_device: translation.snat_device.as_deref(),
            service: translation.service.as_deref(),
            devices: &translation.devices,
        }
    }
}
