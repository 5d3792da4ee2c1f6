//! Which cgroups are followed, and where sockets of theirs wait.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, anyhow};
use aya::maps::HashMap;
use netprobe_common::{
    config::Listening,
    limits::{CGROUPS_MAX, LISTENING_MAX},
    wire::Wire,
};

use super::{
    attach::{Attached, wire_address},
    tables::PodOf,
};
use crate::model::flow::Proto;

/// Where a socket waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    /// TCP or UDP.
    pub proto: Proto,
    /// An address of the node's, and a port.
    pub at: SocketAddr,
}

impl Waiting {
    fn key(self) -> Listening {
        let proto = if self.proto == Proto::Tcp { 6 } else { 17 };
        Listening { address: wire_address(self.at.ip()), port: self.at.port(), proto, _pad: 0 }
    }
}

impl Attached {
    /// Says which cgroups are followed, each with the number of its pod; replaces what was said before. Those that find no
    /// room are left out.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn set_cgroups(&mut self, cgroups: &BTreeMap<u64, u32>) -> Result<()> {
        let wanted = cgroups.iter().take(CGROUPS_MAX as usize).map(|(cgroup, number)| (*cgroup, *number));
        self.replace("CGROUPS", wanted.map(|(cgroup, number)| (PodOf(cgroup), number)).collect())
    }

    /// Says where sockets wait, each with its cgroup, likewise.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn set_waiting(&mut self, waiting: &BTreeMap<Waiting, u64>) -> Result<()> {
        let wanted = waiting.iter().take(LISTENING_MAX as usize);
        self.replace("LISTENING", wanted.map(|(at, cgroup)| (PodOf(at.key()), *cgroup)).collect())
    }

    fn replace<K: Wire + PartialEq, V: aya::Pod>(&mut self, name: &str, rows: Vec<(PodOf<K>, V)>) -> Result<()> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| anyhow!("no map {name}"))?;
        let mut map: HashMap<_, PodOf<K>, V> = HashMap::try_from(map)?;
        let known: Vec<PodOf<K>> = map.keys().flatten().collect();
        for key in known.iter().filter(|key| !rows.iter().any(|(wanted, _)| wanted.0 == key.0)) {
            map.remove(key)?;
        }
        for (key, value) in &rows {
            map.insert(key, value, 0)?;
        }
        Ok(())
    }
}
