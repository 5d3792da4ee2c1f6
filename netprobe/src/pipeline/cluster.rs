//! The cluster changes while the run goes on.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Leaving, Pipeline};
use crate::model::inventory::{Change, News};

impl Pipeline {
    /// What changes of the cluster take away from somebody: addresses that may be another pod's after them.
    #[must_use]
    pub fn moving(&self, news: &News) -> Option<Leaving> {
        let pods = news.changes.iter().filter_map(|change| match change {
            Change::Pod(pod) => Some(pod),
            _ => None,
        });
        let is_anothers = |ip: &IpAddr, uid: &str| {
            self.names.address(*ip).yes().is_some_and(|known| known.uid.as_deref().is_some_and(|known| known != uid))
        };
        let moving = pods.flat_map(|pod| pod.ips.iter().filter(|ip| is_anothers(ip, &pod.uid)).copied());
        let moving: BTreeSet<IpAddr> = moving.collect();
        (!moving.is_empty()).then_some(Leaving::Addresses(moving))
    }

    pub(super) fn take_news(&mut self, news: News) {
        let is_naming = news.changes.iter().any(|change| !matches!(change, Change::Stale(_)));
        let now_ns = news.mono_ns;
        self.inventory.take(news);
        self.forgets_at = self.inventory.forgets_at();
        if is_naming {
            self.rename_anew(now_ns);
        }
    }

    /// Forgets the names of pods that ended long ago.
    pub(super) fn forget_ended(&mut self, now_ns: u64) {
        if self.forgets_at.is_some_and(|at| at <= now_ns) {
            self.inventory.forget(now_ns);
            self.forgets_at = self.inventory.forgets_at();
            self.rename_anew(now_ns);
        }
    }

    /// The cluster has changed: an address may have gone from one pod to another.
    fn rename_anew(&mut self, now_ns: u64) {
        let before = std::mem::take(&mut self.names);
        self.rename();
        self.flows.moved(&before.moved(&self.names), now_ns);
    }
}
