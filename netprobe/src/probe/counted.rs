//! The flows that the classifiers counted.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context, Result, anyhow};
use aya::maps::HashMap;
use netprobe_common::{
    counted::{FlowCount, FlowCountKey},
    wire,
};

use super::{attach::Attached, tables::PodOf};

/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` (`include/uapi/linux/bpf.h`; for hashes since 5.14).
const LOOKUP_AND_DELETE: libc::c_long = 21;

/// The part of `union bpf_attr` that it uses.
#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Attached {
    /// Reads every row.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn counted(&self, mut each: impl FnMut(&FlowCountKey, &FlowCount)) -> Result<()> {
        let map = self.ebpf.map("COUNTED").ok_or_else(|| anyhow!("no map COUNTED"))?;
        let map: HashMap<_, PodOf<FlowCountKey>, PodOf<FlowCount>> = HashMap::try_from(map)?;
        map.iter().flatten().for_each(|(key, row)| each(&key.0, &row.0));
        Ok(())
    }

    /// Takes a row out of the table, with what it counted to the last: none where it is gone already.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn take_counted(&mut self, key: &FlowCountKey) -> Result<Option<FlowCount>> {
        let map = self.ebpf.map("COUNTED").ok_or_else(|| anyhow!("no map COUNTED"))?;
        let aya::maps::Map::HashMap(data) = map else { return Err(anyhow!("COUNTED is no hash")) };
        let mut row: FlowCount = wire::zeroed();
        let element = Element {
            map: u32::try_from(data.fd().as_fd().as_raw_fd())?,
            _pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value: (&raw mut row) as u64,
            flags: 0,
        };
        // SAFETY: `element` is as long as said, and holds the addresses of a whole key and a whole value of the map,
        // which live until the call returns.
        let done = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_AND_DELETE, &raw const element, size_of::<Element>()) };
        match done {
            0 => Ok(Some(row)),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                error => Err(error).context("take a row out of the table of counted flows"),
            },
        }
    }
}
