//! The connection's journey among all the pod has.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use crate::{
    model::{
        finding::Finding,
        flow::{Flow, Proto},
        journey::Journey,
    },
    pipeline::Pipeline,
};

/// DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// Protocol.
    pub(super) proto: Proto,
    /// Addresses and port, as the pod uses them.
    pub(super) to: Vec<SocketAddr>,
    /// Our own attempt, where we make one: other connections of the pod to the same place are not meant.
    pub(super) own: Option<Flow>,
    /// Namespaces and addresses of the pod.
    pub(super) pod: BTreeSet<std::net::IpAddr>,
    /// What was before is not meant, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) since_ns: u64,
}

impl Watched {
    /// The journeys that are meant, oldest first.
    pub(super) fn journeys<'a>(&'a self, pipeline: &'a Pipeline) -> impl Iterator<Item = &'a Journey> {
        pipeline.journeys().iter().filter(|journey| self.is(journey))
    }

    fn is(&self, journey: &Journey) -> bool {
        let flow = journey.flow;
        let port = |to: &SocketAddr| !flow.has_ports() || flow.dst.port() == to.port() || flow.dst.port() == 0;
        let target = self.to.iter().any(|to| to.ip() == flow.dst.ip() && port(to));
        // A connection that got no port was never given a packet: only its look-ups were seen.
        let own = self.own.is_none_or(|own| flow.src.port() == own.src.port() || flow.src.port() == 0);
        // A look-up without a packet has not always a protocol.
        let proto = flow.proto == self.proto || flow.proto == Proto::Other(0);
        target && own && proto && journey.last_ns >= self.since_ns && self.is_pods(flow)
    }

    fn is_pods(&self, flow: Flow) -> bool {
        self.pod.contains(&flow.src.ip()) || flow.src.ip().is_unspecified() || flow.src.ip().is_loopback()
    }

    /// Findings about the connection.
    pub(super) fn findings(&self, pipeline: &Pipeline) -> Vec<Arc<Finding>> {
        let found = self.journeys(pipeline).filter_map(|journey| pipeline.finding_of(journey.id));
        unique(found.cloned())
    }

    /// Findings about the pod's DNS since we began.
    pub(super) fn dns_findings(&self, pipeline: &Pipeline) -> Vec<Arc<Finding>> {
        let dns = |journey: &&Journey| {
            journey.flow.dst.port() == DNS_PORT
                && journey.flow.has_ports()
                && journey.last_ns >= self.since_ns
                && self.is_pods(journey.flow)
        };
        let found = pipeline.journeys().iter().filter(dns).filter_map(|journey| pipeline.finding_of(journey.id));
        unique(found.cloned())
    }
}

fn unique(found: impl Iterator<Item = Arc<Finding>>) -> Vec<Arc<Finding>> {
    let mut seen = BTreeSet::new();
    found.filter(|finding| seen.insert(finding.id.clone())).collect()
}
