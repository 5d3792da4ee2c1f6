//! Loads the programs this kernel can run and attaches them; says what is missing.

use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::BtfTracePoint,
};
use netprobe_common::{
    config::{Config, MODE_DNS, MODE_DROPS, MODE_TC, NS_SHARED, NetnsSlot, Owner, TC_CAPTURE},
    flow::{mapped, spread},
    limits::{ADDRESS_BITS_WORDS, CAPTURE_RING_BYTES, NETNS_SLOTS},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    btf::{KernelBtf, SYS_BTF},
    catalog::{Hook, Need, PROBES, Probe},
    classifiers::{Classifiers, Way, load_classifiers},
    functions::{self, Functions},
    kfunc::{Filled, Known},
    tables::PodOf,
};

/// The object that `build.rs` made.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netprobe.bpf.o"));

/// A program and, where it does not run, why.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its row.
    pub probe: &'static Probe,
    /// Why it does not run here.
    pub obstacle: Option<String>,
}

/// What loading needs and takes time, but nothing of the run's: made beside the rest of start-up.
pub struct Prepared {
    loader: EbpfLoader<'static>,
    kernel: Btf,
}

/// Reads the kernel's BTF as aya needs it: once for the loader, which always does, and once to
/// find tracepoints.
///
/// # Errors
///
/// When the kernel has no BTF.
pub fn prepare() -> Result<Prepared> {
    let loader = std::thread::spawn(EbpfLoader::new);
    let kernel = Btf::from_sys_fs().context("read the kernel's BTF")?;
    Ok(Prepared { loader: loader.join().map_err(|_| anyhow!("reading the kernel's BTF failed"))?, kernel })
}

/// The attached programs. Dropping it, or dying, detaches them all: nothing is pinned, and filters have a guardian.
pub struct Attached {
    pub(super) ebpf: Ebpf,
    ring: RingBuf<MapData>,
    /// Every row of the catalogue, with what became of it.
    pub status: Vec<Status>,
    /// Programs on functions of modules that were not loaded at the start.
    waiting: Vec<&'static Probe>,
    slots: Vec<u32>,
    pub(super) classifiers: Classifiers,
    /// Programs on functions of modules; they are attached as long as it lives.
    _functions: Functions,
}

/// What each row of the catalogue can do on this kernel, without loading anything. `refused` is why no function takes a
/// program, where that is so.
#[must_use]
pub fn survey(btf: &KernelBtf, refused: Option<&str>) -> Vec<Status> {
    let obstacle = |probe: &Probe| match (probe.hook, refused) {
        (Hook::Tracepoint, _) => probe.obstacle(btf.tracepoint(probe.program).as_deref()),
        (_, Some(why)) => Some(probe.cannot(why)),
        (_, None) => probe.obstacle(btf.function(probe.program).as_ref().map(|f| f.args.as_slice())),
    };
    PROBES.iter().map(|probe| Status { probe, obstacle: obstacle(probe) }).collect()
}

impl Attached {
    /// Loads and attaches what `config`'s mode needs and the kernel has. `functions` is how programs come onto kernel
    /// functions, or why they do not.
    ///
    /// # Errors
    ///
    /// When the object cannot be loaded at all (privileges, memory), or `kfree_skb` cannot.
    pub fn new(
        config: &Config,
        btf: &KernelBtf,
        prepared: Prepared,
        functions: Result<functions::Way, String>,
    ) -> Result<Self> {
        let Prepared { loader, kernel } = prepared;
        let mut ebpf = load(config, btf, loader)?;
        let mut functions = Functions::new(OBJECT, functions);
        let mut status = Vec::new();
        for probe in PROBES.iter().filter(|probe| is_needed(config, probe)) {
            let obstacle = match probe.hook {
                Hook::Tracepoint => attach_tracepoint(&mut ebpf, probe, btf, &kernel)?,
                Hook::Entry | Hook::Exit(_) => functions.attach(&mut ebpf, probe, btf, &kernel),
            };
            status.push(Status { probe, obstacle });
        }
        functions.done();
        if config.tc != 0 {
            load_classifiers(&mut ebpf)?;
        }
        let ring = ebpf.take_map("RING").ok_or_else(|| anyhow!("the object has no map RING"))?;
        let waiting = if functions.possible() { waiting(&status) } else { Vec::new() };
        Ok(Self {
            ebpf,
            ring: RingBuf::try_from(ring)?,
            status,
            waiting,
            slots: Vec::new(),
            classifiers: Classifiers::new(Way::of(btf)?),
            _functions: functions,
        })
    }

    /// What modules that were loaded since the start would show, each told once: a program can be attached to them only by
    /// a new start.
    pub fn loaded_since(&mut self) -> Vec<String> {
        let loaded = |module: &str| Path::new(SYS_BTF).join(module).exists();
        let mut told = Vec::new();
        self.waiting.retain(|probe| {
            let Hook::Exit(Some(module)) = probe.hook else { return false };
            if !loaded(module) {
                return true;
            }
            told.push(probe.cannot(&format!("module {module} was loaded after the start; start netprobe again")));
            false
        });
        told
    }

    /// Becomes readable when a program wakes us.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left, or no runtime.
    pub fn ring_ready(&self) -> Result<AsyncFd<OwnedFd>> {
        readable(self.ring.as_fd().try_clone_to_owned().context("watch the ring")?)
    }

    /// Takes up to `most` records out of the ring.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        for taken in 0..most {
            let Some(item) = self.ring.next() else { return taken };
            take(&item);
        }
        most
    }

    /// Says which namespaces are whose, as `(inode number, NS_* bits)`; replaces what was said before.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn set_namespaces(&mut self, roles: &[(u32, u32)]) -> Result<()> {
        let mut slots: std::collections::BTreeMap<u32, NetnsSlot> = std::collections::BTreeMap::new();
        let mut shared = Vec::new();
        for &(inum, role) in roles {
            let index = inum & (NETNS_SLOTS - 1);
            let slot = slots.entry(index).or_insert(NetnsSlot { inum, role });
            if slot.inum != inum {
                slot.role |= NS_SHARED;
                shared.push((inum, role));
            }
        }
        // The first tenant of a shared slot is found by its number; only the others ask the map.
        if !shared.is_empty() {
            let map = self.ebpf.map_mut("NETNS_SHARED").ok_or_else(|| anyhow!("no map NETNS_SHARED"))?;
            let mut map: HashMap<_, u32, u32> = HashMap::try_from(map)?;
            for (inum, role) in shared {
                map.insert(inum, role, 0)?;
            }
        }
        let map = self.ebpf.map_mut("NETNS").ok_or_else(|| anyhow!("no map NETNS"))?;
        let mut map: Array<_, PodOf<NetnsSlot>> = Array::try_from(map)?;
        for (index, slot) in &slots {
            map.set(*index, PodOf(*slot), 0)?;
        }
        for index in self.slots.iter().filter(|index| !slots.contains_key(index)) {
            map.set(*index, PodOf(NetnsSlot { inum: 0, role: 0 }), 0)?;
        }
        self.slots = slots.into_keys().collect();
        Ok(())
    }

    /// Says behind which of the node's devices followed pods are, as `(namespace, index)`; replaces what was said before.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn set_ports(&mut self, ports: &[(u32, u32)]) -> Result<()> {
        let map = self.ebpf.map_mut("PORTS").ok_or_else(|| anyhow!("no map PORTS"))?;
        let mut map: HashMap<_, u64, u32> = HashMap::try_from(map)?;
        let wanted: std::collections::BTreeSet<u64> =
            ports.iter().map(|(netns, ifindex)| u64::from(*netns) << 32 | u64::from(*ifindex)).collect();
        let known: Vec<u64> = map.keys().flatten().collect();
        for key in known.iter().filter(|key| !wanted.contains(key)) {
            map.remove(key)?;
        }
        for key in wanted.iter().filter(|key| !known.contains(key)) {
            map.insert(key, 1, 0)?;
        }
        Ok(())
    }

    /// Says whose addresses are whose, as `(address, owner, followed)`; replaces what was said before.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn set_addresses(&mut self, addresses: &[(IpAddr, u32, bool)]) -> Result<()> {
        let mut bits = [0u64; ADDRESS_BITS_WORDS as usize];
        let map = self.ebpf.map_mut("ADDRESSES").ok_or_else(|| anyhow!("no map ADDRESSES"))?;
        let mut map: HashMap<_, [u8; 16], PodOf<Owner>> = HashMap::try_from(map)?;
        let wanted: std::collections::BTreeSet<[u8; 16]> = addresses.iter().map(|(ip, ..)| wire_address(*ip)).collect();
        let old: Vec<[u8; 16]> = map.keys().flatten().filter(|key| !wanted.contains(key)).collect();
        for key in old {
            map.remove(&key)?;
        }
        for &(ip, owner, followed) in addresses {
            let key = wire_address(ip);
            map.insert(key, PodOf(Owner { owner, followed: u32::from(followed) }), 0)?;
            if followed {
                let bit = spread(&key) % (ADDRESS_BITS_WORDS * 64);
                bits[(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
        let map = self.ebpf.map_mut("ADDRESS_BITS").ok_or_else(|| anyhow!("no map ADDRESS_BITS"))?;
        let mut map: Array<_, PodOf<[u64; ADDRESS_BITS_WORDS as usize]>> = Array::try_from(map)?;
        map.set(0, PodOf(bits), 0)?;
        Ok(())
    }

    /// Tells the programs that nothing followed is on its way: until the next sign they look at
    /// the namespace of a packet and no further.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn rest(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("IN_FLIGHT").ok_or_else(|| anyhow!("no map IN_FLIGHT"))?;
        let mut map: Array<_, u32> = Array::try_from(map)?;
        map.set(0, 0, 0)?;
        Ok(())
    }
}

/// Programs and links close with their fields; many links take seconds.
impl Drop for Attached {
    fn drop(&mut self) {
        self.classifiers.leave();
    }
}

/// Watches a descriptor that the watcher owns.
///
/// # Errors
///
/// When there is no runtime, or the descriptor cannot be watched.
pub fn readable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, so it stays open and the same as long as it is
    // watched.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(|error| anyhow!("watch a descriptor: {error}"))
}

/// Allocations from here on are the system's own, bytes.
const LARGE: i32 = 1 << 20;

/// Has the allocator take large allocations from the system one by one, and give each back as soon as it is freed. Left to
/// itself it keeps them from the second time on (`M_MMAP_THRESHOLD` rises, mallopt(3)), and copies them to let them grow: a
/// table of 50,000 flows then took 15 MiB more.
pub fn keep_large_apart() {
    // SAFETY: `mallopt` has no preconditions.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Gives memory that start-up needed back to the system: parsing BTF and loading the object take
/// some 25 MiB for a moment, and the allocator would keep them for the whole run.
pub fn give_memory_back() {
    // SAFETY: `malloc_trim` has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

fn load(config: &Config, btf: &KernelBtf, loader: EbpfLoader<'static>) -> Result<Ebpf> {
    let mut config = PodOf(*config);
    let has_classifiers = config.0.tc != 0 || config.0.mode & MODE_DNS != 0;
    let known = if has_classifiers { Known::new(btf) } else { Known::default() };
    let filled = has_classifiers.then(|| Filled::new(OBJECT, known));
    known.tell(&mut config.0);
    let mut loader: EbpfLoader<'_> = loader;
    // No CO-RE in the object: its offsets are data.
    loader.btf(None).override_global("CONFIG", &config, true);
    if config.0.mode & (MODE_DROPS | MODE_TC) != 0 {
        for map in ["PLACES", "FLOWS", "FLOW_MARKS"] {
            loader.map_max_entries(map, 1);
        }
    }
    if config.0.mode & MODE_TC != 0 || config.0.has_cgroups == 0 {
        loader.map_max_entries("OWNED", 1);
    }
    if config.0.tc & TC_CAPTURE != 0 {
        loader.map_max_entries("RING", CAPTURE_RING_BYTES);
    } else {
        for map in ["CAPTURE_PLACES", "FORMS"] {
            loader.map_max_entries(map, 1);
        }
    }
    loader.load(filled.as_ref().map_or(OBJECT, Filled::object)).context("load the BPF object")
}

/// Those that lack their module.
fn waiting(status: &[Status]) -> Vec<&'static Probe> {
    let lacks = |row: &&Status| match row.probe.hook {
        Hook::Exit(Some(module)) => row.obstacle.is_some() && !Path::new(SYS_BTF).join(module).exists(),
        _ => false,
    };
    status.iter().filter(lacks).map(|row| row.probe).collect()
}

/// Whether the run lives on that program.
fn is_needed(config: &Config, probe: &Probe) -> bool {
    match config.mode & (MODE_DROPS | MODE_TC | MODE_DNS) {
        0 => true,
        MODE_DNS => probe.need != Need::EveryPacket,
        MODE_DROPS => probe.need == Need::Always,
        _ => false,
    }
}

/// Attaches a program to its tracepoint, or says why it cannot: an error only where nothing goes without it.
fn attach_tracepoint(ebpf: &mut Ebpf, probe: &Probe, btf: &KernelBtf, kernel: &Btf) -> Result<Option<String>> {
    let obstacle = probe.obstacle(btf.tracepoint(probe.program).as_deref());
    if obstacle.is_some() {
        return Ok(obstacle);
    }
    match attach(ebpf, probe.program, kernel) {
        Err(error) if probe.need == Need::Always => Err(error),
        Err(error) => {
            log::warn!("{error:#}");
            Ok(Some(probe.cannot(&format!("{error:#}"))))
        }
        Ok(()) => Ok(None),
    }
}

fn attach(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<()> {
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
    let program: &mut BtfTracePoint = program.try_into().with_context(|| format!("program {name}"))?;
    program.load(name, btf).with_context(|| format!("load {name}"))?;
    program.attach().with_context(|| format!("attach {name}"))?;
    Ok(())
}

/// The sixteen bytes of an address as the wire carries it.
#[must_use]
pub const fn wire_address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_its_program_and_every_program_its_row() {
        let object = aya_obj_names(OBJECT);
        let rows: BTreeSet<String> = PROBES.iter().map(|p| p.program.to_owned()).collect();
        assert_eq!(object, rows);
    }

    #[test]
    fn every_row_of_a_function_has_its_kprobes() {
        let in_object = |name: &str| {
            let name = format!("\0{name}\0");
            OBJECT.windows(name.len()).any(|bytes| bytes == name.as_bytes())
        };
        for probe in PROBES {
            let program = probe.program;
            let (begins, ends) = (in_object(&format!("{program}_begins")), in_object(&format!("{program}_ends")));
            let wanted = match probe.hook {
                Hook::Tracepoint => (false, false),
                Hook::Entry => (true, false),
                Hook::Exit(_) => (true, true),
            };
            assert_eq!((begins, ends), wanted, "{program}");
        }
    }

    #[test]
    fn every_classifier_is_in_the_object() {
        for row in crate::probe::catalog::CLASSIFIERS {
            let name = format!("\0{}\0", row.program);
            assert!(OBJECT.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "{}", row.program);
        }
    }

    /// Programs of the object: sections are named `tp_btf/<tracepoint>`, `fentry/<function>` and `fexit/<function>`.
    fn aya_obj_names(object: &[u8]) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for prefix in [b"\0tp_btf/".as_slice(), b"\0fentry/", b"\0fexit/"] {
            for at in 0..object.len() - prefix.len() {
                if &object[at..at + prefix.len()] == prefix {
                    let rest = &object[at + prefix.len()..];
                    let end = rest.iter().position(|b| *b == 0).expect("a section name ends");
                    names.insert(String::from_utf8_lossy(&rest[..end]).into_owned());
                }
            }
        }
        names
    }
}
