//! What is attached to the devices of the calling thread's namespace, and to cgroups.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use netlink_packet_core::{NlaBuffer, NlasIterator};

use crate::{
    facts::netlink::Requests,
    model::devices::{CgroupProgram, Devices, Program},
    probe::query,
};

mod cgroups;
mod links;
mod tc;

pub(in crate::facts) use cgroups::mount as cgroup_mount;

/// Reads all of it. What this kernel does not have is left out.
pub(super) fn read() -> Result<Devices> {
    let mut requests = Requests::open().context("open a socket to the namespace's links")?;
    let names = Names(query::names());
    let qdiscs = tc::qdiscs(&mut requests).context("list the queueing disciplines")?;
    let (xdp, indexes) = links::xdp(&mut requests, &names).context("list the links")?;
    let mut filters = tc::filters(&mut requests, &qdiscs, &names);
    filters.extend(tc::programs(&indexes, &names));
    Ok(Devices {
        filters,
        xdp,
        qdiscs,
        ports: links::ports(&mut requests).unwrap_or_default(),
        fdb: links::forwarding(&mut requests).unwrap_or_default(),
        cgroups: cgroups::programs(&names),
    })
}

/// Programs on the cgroups of the calling thread's namespace, of which this process's own connections are not asked.
#[must_use]
pub fn cgroup_programs_of_others() -> Vec<CgroupProgram> {
    cgroups::not_ours(&Names(query::names()))
}

/// Names of the loaded programs.
struct Names(BTreeMap<u32, String>);

impl Names {
    fn program(&self, id: u32) -> Program {
        Program { id, name: self.0.get(&id).cloned().unwrap_or_default() }
    }
}

/// The attributes in `bytes`, up to the first that is damaged.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> + use<'_> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
        Some((attribute.kind(), attribute.value().to_vec()))
    })
}

/// The number at `at`, host order; 0 where there are too few bytes.
fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_ne_bytes(*chunk))
}

/// A NUL-terminated word.
fn word(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_namespace_can_be_read() {
        let devices = read().expect("links and qdiscs are readable by anybody");
        assert!(devices.qdiscs.iter().all(|q| !q.kind.is_empty()), "{devices:?}");
    }

    #[test]
    fn damaged_attributes_end_the_list() {
        assert_eq!(attributes(&[9, 0, 1, 0, 7]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 7, 0, 0, 0]).collect::<Vec<_>>(), [(1, vec![7])]);
        assert_eq!(number32(&[1], 0), 0);
    }
}
