//! The objects, field by field. What is missing is null.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::Serialize;

use crate::{
    model::{
        drops::{DropRow, DropTable, Summary},
        finding::{Confidence, Finding, Netfilter},
        flow::{Flow, Proto},
        identity::{Pod, Source},
        journey::Journey,
        sighting::Side,
        verdict::{Outcome, Verdict},
    },
    render::Clock,
};

/// What every object begins with.
#[derive(Serialize)]
pub(super) struct Object<'a, B> {
    pub kind: &'static str,
    pub time: &'a str,
    pub node: &'a str,
    #[serde(flatten)]
    pub body: B,
}

#[derive(Serialize)]
pub(super) struct PodRef<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: Option<&'a str>,
    identity: Source,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

impl<'a> PodRef<'a> {
    pub(super) fn new(pod: &'a Pod) -> Self {
        let Pod { namespace, name, uid, identity, is_ended } = pod;
        Self { namespace, name, uid: uid.as_deref(), identity: *identity, ended: *is_ended }
    }
}

#[derive(Serialize)]
pub(super) struct FlowRef {
    proto: String,
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
}

impl FlowRef {
    pub(super) fn new(flow: &Flow) -> Self {
        Self {
            proto: Self::proto(flow.proto),
            src: flow.src.ip(),
            sport: flow.src.port(),
            dst: flow.dst.ip(),
            dport: flow.dst.port(),
        }
    }

    /// The protocol's name, or its number.
    pub(super) fn proto(proto: Proto) -> String {
        match proto {
            Proto::Other(number) => number.to_string(),
            named => named.to_string(),
        }
    }
}

/// Where in the node. `namespace` is null where neither device nor socket told.
#[derive(Serialize)]
pub(super) struct At<'a> {
    namespace: Option<Side>,
    device: Option<&'a str>,
}

impl<'a> At<'a> {
    pub(super) fn new(side: Side, device: Option<&'a str>) -> Self {
        let namespace = Some(side).filter(|side| *side != Side::Unknown);
        Self { namespace, device: device.filter(|name| !name.is_empty()) }
    }
}

#[derive(Serialize)]
struct Expected<'a> {
    device: &'a str,
}

#[derive(Serialize)]
struct RouteRef {
    table: u32,
    rule: Option<u32>,
    gateway: Option<IpAddr>,
}

#[derive(Serialize)]
struct NetfilterRef<'a> {
    hook: &'a str,
    family: Option<&'a str>,
    table: Option<&'a str>,
    chain: Option<&'a str>,
    handle: Option<u64>,
    position: Option<u32>,
    rule: Option<&'a str>,
    owner: Option<&'a str>,
}

impl<'a> NetfilterRef<'a> {
    fn new(netfilter: &'a Netfilter) -> Self {
        let Netfilter { hook, family, table, chain, handle, position, rule, owner } = netfilter;
        Self {
            hook,
            family: family.as_deref(),
            table: table.as_deref(),
            chain: chain.as_deref(),
            handle: *handle,
            position: *position,
            rule: rule.as_deref(),
            owner: owner.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct Proof<'a> {
    time: String,
    text: &'a str,
}

#[derive(Serialize)]
pub(super) struct FindingBody<'a> {
    id: &'a str,
    rule: &'a str,
    confidence: Confidence,
    pod: Option<PodRef<'a>>,
    flow: Option<FlowRef>,
    at: At<'a>,
    expected: Option<Expected<'a>>,
    route: Option<RouteRef>,
    reason: Option<&'a str>,
    netfilter: Option<NetfilterRef<'a>>,
    count: u64,
    first: String,
    last: String,
    claim: &'a str,
    since: Option<&'a str>,
    fix: &'a [String],
    evidence: Vec<Proof<'a>>,
}

impl<'a> FindingBody<'a> {
    pub(super) fn new(finding: &'a Finding, clock: &Clock) -> Self {
        Self {
            id: &finding.id,
            rule: finding.rule,
            confidence: finding.confidence,
            pod: finding.pod.as_deref().map(PodRef::new),
            flow: finding.flow.as_ref().map(FlowRef::new),
            at: At::new(finding.side, finding.device.as_deref()),
            expected: finding.expected_device.as_deref().map(|device| Expected { device }),
            route: finding.route.as_ref().map(|route| RouteRef {
                table: route.table,
                rule: route.rule,
                gateway: route.gateway,
            }),
            reason: finding.reason.as_deref(),
            netfilter: finding.netfilter.as_ref().map(NetfilterRef::new),
            count: finding.count,
            first: clock.rfc3339(finding.first_ns),
            last: clock.rfc3339(finding.last_ns),
            claim: &finding.claim,
            since: finding.since.as_deref(),
            fix: &finding.fix,
            evidence: finding
                .evidence
                .iter()
                .map(|proof| Proof { time: clock.rfc3339(proof.mono_ns), text: &proof.text })
                .collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct JourneyBody<'a> {
    journey: u64,
    pod: Option<PodRef<'a>>,
    flow: FlowRef,
    translated: Vec<FlowRef>,
    first: String,
    last: String,
    steps: usize,
    omitted: u64,
    packets: u64,
    closed: bool,
    findings: Vec<&'a str>,
}

impl<'a> JourneyBody<'a> {
    pub(super) fn new(journey: &'a Journey, findings: &'a [Arc<Finding>], clock: &Clock) -> Self {
        let Journey { id, pod, flow, translated, first_ns, last_ns, steps, omitted, packets, closed } = journey;
        Self {
            journey: *id,
            pod: pod.as_deref().map(PodRef::new),
            flow: FlowRef::new(flow),
            translated: translated.iter().map(FlowRef::new).collect(),
            first: clock.rfc3339(*first_ns),
            last: clock.rfc3339(*last_ns),
            steps: steps.len(),
            omitted: *omitted,
            packets: *packets,
            closed: *closed,
            findings: findings.iter().map(|finding| finding.id.as_str()).collect(),
        }
    }
}

#[derive(Serialize)]
struct DropRef<'a> {
    pod: Option<PodRef<'a>>,
    at: At<'a>,
    reason: &'a str,
    site: &'a str,
    packets: u64,
    bytes: u64,
    fresh: u64,
    last: String,
    noise: Option<&'a str>,
    example: Option<FlowRef>,
}

impl<'a> DropRef<'a> {
    fn new(row: &'a DropRow, clock: &Clock) -> Self {
        let DropRow { node: _, pod, side, device, reason, site, packets, bytes, fresh, last_ns, noise, example } = row;
        Self {
            pod: pod.as_deref().map(PodRef::new),
            at: At::new(*side, Some(device)),
            reason,
            site,
            packets: *packets,
            bytes: *bytes,
            fresh: *fresh,
            last: clock.rfc3339(*last_ns),
            noise: *noise,
            example: example.as_ref().map(FlowRef::new),
        }
    }
}

#[derive(Serialize)]
pub(super) struct DropsBody<'a> {
    interval_ns: u64,
    rows: Vec<DropRef<'a>>,
}

impl<'a> DropsBody<'a> {
    pub(super) fn new(table: &'a DropTable, clock: &Clock) -> Self {
        let rows = table.rows.iter().map(|row| DropRef::new(row, clock)).collect();
        Self { interval_ns: table.interval_ns, rows }
    }
}

#[derive(Serialize)]
pub(super) struct LossBody<'a> {
    pub lost: u64,
    pub what: &'a str,
    pub hole: Option<HoleBody<'a>>,
}

/// A time in which packets at a device were not seen.
#[derive(Serialize)]
pub(super) struct HoleBody<'a> {
    pub device: &'a str,
    pub netns: u32,
    pub from: String,
    pub to: Option<String>,
    pub why: &'a str,
}

#[derive(Serialize)]
pub(super) struct SummaryBody {
    from: String,
    to: String,
    records: u64,
    lost: u64,
    journeys: u64,
    dropped: u64,
    findings: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    names_stale_since: Option<String>,
}

impl SummaryBody {
    pub(super) fn new(summary: &Summary, clock: &Clock) -> Self {
        let Summary { from_ns, to_ns, records, lost, journeys, dropped, findings, stale_since_ns } = summary;
        Self {
            from: clock.rfc3339(*from_ns),
            to: clock.rfc3339(*to_ns),
            records: *records,
            lost: *lost,
            journeys: *journeys,
            dropped: *dropped,
            findings: findings.iter().copied().collect(),
            names_stale_since: stale_since_ns.map(|since_ns| clock.rfc3339(since_ns)),
        }
    }
}

#[derive(Serialize)]
struct PassedRef<'a> {
    ok: bool,
    part: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
pub(super) struct VerdictBody<'a> {
    pod: Option<PodRef<'a>>,
    to: &'a str,
    proto: String,
    outcome: &'static str,
    claim: &'a str,
    findings: Vec<&'a str>,
    way: Vec<PassedRef<'a>>,
}

impl<'a> VerdictBody<'a> {
    pub(super) fn new(verdict: &'a Verdict) -> Self {
        let Verdict { mono_ns: _, pod, to, proto, outcome, way, findings, claim } = verdict;
        Self {
            pod: pod.as_deref().map(PodRef::new),
            to,
            proto: proto.to_string(),
            outcome: match outcome {
                Outcome::Fine => "fine",
                Outcome::Finding => "finding",
                Outcome::Unknown => "unknown",
            },
            claim,
            findings: findings.iter().map(|finding| finding.id.as_str()).collect(),
            way: way.iter().map(|p| PassedRef { ok: p.ok, part: &p.part, text: &p.text }).collect(),
        }
    }
}
