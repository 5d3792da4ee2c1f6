//! What happens in the pod's network namespace: the name is looked up, the connection made.

use std::{
    net::{IpAddr, SocketAddr},
    sync::mpsc::Sender,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use super::{
    attempt::{Attempt, Done},
    resolve::{self, Files, Resolved},
    target::{Endpoint, Host},
};
use crate::{
    facts::{self, Place},
    model::{
        devices::CgroupProgram,
        flow::{Flow, Proto},
    },
};

/// What the thread in the pod's namespace tells.
pub(super) enum News {
    Resolved(Resolved),
    Begun(Flow),
    Done(Done),
    /// What decides about the pod's own processes, and was not asked about ours.
    Programs(Vec<CgroupProgram>),
    Broken(anyhow::Error),
}

/// How the connection is tried.
#[derive(Clone, Copy)]
pub(super) struct Trial {
    pub(super) timeout: Duration,
    pub(super) passive: bool,
    pub(super) speaks_v6: bool,
    /// Local port; any where it is 0.
    pub(super) port: u16,
}

/// Name and connection, from inside the pod's namespace. The thread stays there.
pub(super) fn inside(
    place: &Place,
    to: &Endpoint,
    proto: Proto,
    files: &Files,
    trial: Trial,
    news: &Sender<News>,
) -> Result<()> {
    place.enter().with_context(|| format!("enter the pod's network namespace {}", place.inum()))?;
    let resolved = match &to.host {
        Host::Address(ip) => Resolved { addresses: vec![*ip], text: String::new(), asked: false },
        Host::Name(name) => resolve::resolve(name, files, trial.timeout)?,
    };
    let address = preferred(&resolved.addresses, trial.speaks_v6);
    let tell = |told: News| news.send(told).map_err(|_| anyhow!("the run is over"));
    tell(News::Resolved(resolved))?;
    let Some(address) = address.filter(|_| !trial.passive) else {
        return tell(News::Programs(facts::cgroup_programs_of_others()));
    };
    let proto = match (proto, address) {
        (Proto::Icmp, IpAddr::V6(_)) => Proto::Icmpv6,
        (proto, _) => proto,
    };
    let to = SocketAddr::new(address, to.port.unwrap_or(0));
    let attempt = Attempt::begin(proto, to, trial.port).with_context(|| format!("make a {proto} socket in the pod"))?;
    tell(News::Begun(attempt.flow))?;
    let done = attempt.finish(trial.timeout);
    // A node has hundreds of cgroups: the connection does not wait for them.
    tell(News::Programs(facts::cgroup_programs_of_others()))?;
    tell(News::Done(done))
}

/// The address that the pod's programs would try first: IPv6 where the pod has an address to speak it with (RFC 6724).
fn preferred(addresses: &[IpAddr], speaks_v6: bool) -> Option<IpAddr> {
    addresses.iter().find(|ip| ip.is_ipv6() == speaks_v6).or_else(|| addresses.first()).copied()
}
