//! Who did not answer ARP or NDP.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::model::{packet::What, sighting::Sighting};

/// What is known of one neighbour entry from the kernel's own events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeighbourState {
    /// When it failed last, `CLOCK_MONOTONIC` nanoseconds; 0 never.
    pub failed_ns: u64,
    /// When its link-layer address changed last, `CLOCK_MONOTONIC` nanoseconds; 0 never.
    pub changed_ns: u64,
    /// Last link-layer addresses, oldest first, without repeats in a row.
    pub macs: Vec<String>,
}

/// Link-layer addresses remembered of one neighbour.
const MACS_MAX: usize = 8;
/// Neighbours remembered.
const NEIGHBOURS_MAX: usize = 4_096;

/// Neighbour entries by namespace, device and address.
#[derive(Default)]
pub struct Neighbours(HashMap<(u32, u32, IpAddr), NeighbourState>);

impl Neighbours {
    /// Notes a neighbour event; other sightings are none of its business.
    pub fn note(&mut self, sighting: &Sighting) {
        let What::Neighbour { ip, mac, new_mac, failed, .. } = &sighting.packet.what else { return };
        let key = (sighting.packet.netns, sighting.packet.ifindex, *ip);
        if self.0.len() >= NEIGHBOURS_MAX && !self.0.contains_key(&key) {
            return;
        }
        let state = self.0.entry(key).or_default();
        if *failed {
            state.failed_ns = sighting.packet.mono_ns;
        }
        // What it was before we watched counts too: back to it is the second change.
        if new_mac.is_some() && state.macs.is_empty() && !mac.is_empty() {
            state.macs.push(mac.clone());
        }
        if let Some(mac) = new_mac
            && state.macs.last() != Some(mac)
        {
            if state.macs.len() >= MACS_MAX {
                state.macs.remove(0);
            }
            if !state.macs.is_empty() {
                state.changed_ns = sighting.packet.mono_ns;
            }
            state.macs.push(mac.clone());
        }
    }

    /// What is known of a neighbour.
    #[must_use]
    pub fn get(&self, netns: u32, ifindex: u32, ip: IpAddr) -> Option<&NeighbourState> {
        self.0.get(&(netns, ifindex, ip))
    }

    /// The neighbour on that device that failed last, between two times.
    #[must_use]
    pub fn failed(&self, netns: u32, ifindex: u32, from_ns: u64, to_ns: u64) -> Option<IpAddr> {
        let here = self.0.iter().filter(|((n, i, _), s)| {
            *n == netns && *i == ifindex && s.failed_ns >= from_ns && s.failed_ns <= to_ns && s.failed_ns != 0
        });
        here.max_by_key(|(key, s)| (s.failed_ns, key.2)).map(|((.., ip), _)| *ip)
    }
}
