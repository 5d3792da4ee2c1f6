//! The TC classifiers on the devices: TCX links where the kernel has them, else filters of a clsact qdisc.
//!
//! A link belongs to a descriptor of ours: it goes when we do, however we die. A filter stays; so a [`guardian`] removes
//! it should we be killed, and a later start what neither of us could. Devices are named in the namespace of the thread
//! that attaches, so that a thread of its own enters it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, io,
    os::fd::AsFd as _,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLinkId, TcAttachOptions},
    },
};

use self::{
    guardian::{Guardian, News},
    owner::Owner,
};
use super::{attach::Attached, btf::KernelBtf, catalog::CLASSIFIERS, host::mono_ns};

mod again;
mod check;
mod clsact;
pub mod guardian;
pub mod heir;
mod owner;

/// Environment variable that names the way to attach, for tests: `tcx` or `clsact`.
const WAY: &str = "NETPROBE_TC";
/// With links at more devices than this, they are left to an [`heir`]: to take them off these takes some 0.1 s.
const OWN_DEVICES: usize = 4;

/// A device that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Inode number of its namespace.
    pub netns: u32,
    /// Interface index.
    pub ifindex: u32,
    /// Its name there.
    pub name: String,
}

/// How classifiers are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By TCX links (Linux 6.6 and later).
    Tcx,
    /// As filters of a clsact qdisc, with a guardian.
    Clsact,
}

impl Way {
    /// The best way this kernel has, or the one that the environment asks for.
    ///
    /// # Errors
    ///
    /// When the environment asks for a way that there is not.
    pub fn of(btf: &KernelBtf) -> Result<Self> {
        let wish = env::var_os(WAY).map(|wish| wish.to_string_lossy().into_owned());
        let tcx = btf.enum_members("bpf_attach_type").iter().any(|(_, name)| name == "BPF_TCX_INGRESS");
        Self::chosen(wish.as_deref(), tcx)
    }

    fn chosen(wish: Option<&str>, tcx: bool) -> Result<Self> {
        match (wish, tcx) {
            (None | Some("tcx"), true) => Ok(Self::Tcx),
            (None | Some("clsact"), _) => Ok(Self::Clsact),
            (Some("tcx"), false) => bail!("{WAY}=tcx: this kernel has no TCX links"),
            (Some(other), _) => bail!("{WAY}={other:?}: it is tcx or clsact"),
        }
    }
}

/// The devices that have our classifiers.
#[derive(Debug)]
pub struct Classifiers {
    way: Way,
    held: BTreeMap<Device, Held>,
    /// Devices that could not be had, and why: told once.
    refused: BTreeMap<Device, String>,
    /// Devices where filters of others come first, not told yet.
    behind: Vec<Device>,
    /// From the first filter on.
    guardian: Option<Guardian>,
}

/// What a device has of ours.
#[derive(Debug)]
enum Held {
    Links(Vec<SchedClassifierLinkId>),
    Filters {
        /// When they were last seen where they belong, `CLOCK_MONOTONIC` nanoseconds.
        seen_ns: u64,
        /// Filters of others come before them, which was told.
        is_behind: bool,
    },
}

impl Classifiers {
    /// None yet.
    pub(super) const fn new(way: Way) -> Self {
        Self { way, held: BTreeMap::new(), refused: BTreeMap::new(), behind: Vec::new(), guardian: None }
    }

    /// The devices that are looked at.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.held.keys()
    }

    /// Devices that could not be had, and why.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<Device, String> {
        &self.refused
    }

    /// The guardian, started where there is none yet. It shares the calling thread's namespace, so none that we entered.
    fn guardian(&mut self) -> Result<&mut Guardian> {
        if self.guardian.as_mut().is_none_or(Guardian::is_gone) {
            self.guardian = None;
            let start = Guardian::start().context("start a guardian, which removes filters if netprobe is killed");
            let guardian = self.guardian.insert(start?);
            // One that was killed knew of these.
            let filters = self.held.iter().filter(|(_, held)| matches!(held, Held::Filters { .. }));
            for (device, _) in filters {
                guardian.tell((device.netns, device.ifindex), News::Held { qdisc: false })?;
            }
        }
        self.guardian.as_mut().context("there is a guardian")
    }

    /// Removes our filters from a device. Where that fails the guardian tries again when we end.
    fn remove(&mut self, device: &Device) -> Result<()> {
        let key = (device.netns, device.ifindex);
        guardian::detach(key, Owner::own(), false)?;
        // One that is gone need not hear it.
        Ok(self.guardian.as_mut().map_or(Ok(()), |guardian| guardian.tell(key, News::Left))?)
    }

    /// The run ends: where there are many links, somebody else is to take the time that closing them takes.
    pub(super) fn leave(&self) {
        let links = self.held.values().filter(|held| matches!(held, Held::Links(_))).count();
        if links > OWN_DEVICES
            && let Err(error) = heir::leave_links()
        {
            log::debug!("leave the links of {links} devices to a process: {error:#}; closing them takes a while");
        }
    }
}

/// Links close with their programs; filters do not.
impl Drop for Classifiers {
    fn drop(&mut self) {
        for (device, held) in std::mem::take(&mut self.held) {
            if matches!(held, Held::Filters { .. })
                && let Err(error) = self.remove(&device)
            {
                log::debug!("remove filters from {}: {error:#}", device.name);
            }
        }
    }
}

/// Loads the classifiers.
pub(super) fn load_classifiers(ebpf: &mut Ebpf) -> Result<()> {
    for row in CLASSIFIERS {
        classifier(ebpf, row.program)?.load().with_context(|| format!("load {}", row.program))?;
    }
    Ok(())
}

impl Attached {
    /// Makes the devices that are looked at those that are `wanted`. `open` gives what takes a thread into a namespace.
    /// Says which could not be had, and why: once, until they come anew.
    pub fn classify<E>(
        &mut self,
        wanted: &BTreeSet<Device>,
        open: impl Fn(u32) -> io::Result<E>,
    ) -> Vec<(Device, String)>
    where
        E: FnOnce() -> io::Result<()> + Send,
    {
        let gone: Vec<Device> = self.classifiers.held.keys().filter(|d| !wanted.contains(d)).cloned().collect();
        for device in gone {
            self.let_go(&device);
        }
        self.classifiers.refused.retain(|device, _| wanted.contains(device));
        let known = |d: &&Device| self.classifiers.held.contains_key(d) || self.classifiers.refused.contains_key(d);
        let fresh: Vec<Device> = wanted.iter().filter(|d| !known(d)).cloned().collect();
        let mut refused = Vec::new();
        for device in fresh {
            let attached =
                open(device.netns).context("open its network namespace").and_then(|enter| self.hold(&device, enter));
            match attached {
                Ok(held) => {
                    self.classifiers.held.insert(device, held);
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    self.classifiers.refused.insert(device.clone(), why.clone());
                    // Its going is told by the node in a moment, and costs nothing.
                    if !is_gone(&error) {
                        refused.push((device, why));
                    }
                }
            }
        }
        refused
    }

    /// Attaches both programs to a device.
    fn hold(&mut self, device: &Device, enter: impl FnOnce() -> io::Result<()> + Send) -> Result<Held> {
        match self.classifiers.way {
            Way::Tcx => link(&mut self.ebpf, device, enter).map(Held::Links),
            Way::Clsact => {
                let guardian = self.classifiers.guardian()?;
                let is_behind = add_filters(&self.ebpf, device, enter, guardian)?;
                if is_behind {
                    self.classifiers.behind.push(device.clone());
                }
                Ok(Held::Filters { seen_ns: mono_ns(), is_behind })
            }
        }
    }

    /// Takes our programs off a device. One that is gone has none.
    fn let_go(&mut self, device: &Device) {
        let detached = match self.classifiers.held.remove(device) {
            Some(Held::Links(links)) => self.unlink(links),
            Some(Held::Filters { .. }) => self.classifiers.remove(device),
            None => Ok(()),
        };
        if let Err(error) = detached {
            log::debug!("detach from {}: {error:#}", device.name);
        }
    }

    fn unlink(&mut self, links: Vec<SchedClassifierLinkId>) -> Result<()> {
        let detached: Vec<Result<()>> = CLASSIFIERS
            .iter()
            .zip(links)
            .map(|(row, link)| Ok(classifier(&mut self.ebpf, row.program)?.detach(link)?))
            .collect();
        detached.into_iter().collect()
    }

    /// Devices where filters of others come before ours, since this was asked last.
    pub fn take_behind(&mut self) -> Vec<Device> {
        std::mem::take(&mut self.classifiers.behind)
    }

    /// The devices that are looked at.
    #[must_use]
    pub const fn classifiers(&self) -> &Classifiers {
        &self.classifiers
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
    program.try_into().with_context(|| format!("program {name}"))
}

/// The device went away while we looked.
fn is_gone(error: &anyhow::Error) -> bool {
    let gone = |error: &io::Error| error.raw_os_error() == Some(libc::ENODEV);
    error.chain().any(|cause| cause.downcast_ref().is_some_and(gone))
}

/// Does `work` on a thread that is in the device's namespace.
fn inside<T: Send>(
    enter: impl FnOnce() -> io::Result<()> + Send,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let work = || {
        enter().context("enter its network namespace")?;
        work()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Attaches both programs by TCX links.
fn link(
    ebpf: &mut Ebpf,
    device: &Device,
    enter: impl FnOnce() -> io::Result<()> + Send,
) -> Result<Vec<SchedClassifierLinkId>> {
    inside(enter, || {
        let mut links = Vec::new();
        for row in CLASSIFIERS {
            let attached = attach(classifier(ebpf, row.program)?, &device.name, row.egress);
            links.push(attached.with_context(|| format!("attach {}", row.program))?);
        }
        Ok(links)
    })
}

/// Attaches both programs as filters, of which the guardian hears first. Says whether filters of others come before them.
fn add_filters(
    ebpf: &Ebpf,
    device: &Device,
    enter: impl FnOnce() -> io::Result<()> + Send,
    guardian: &mut Guardian,
) -> Result<bool> {
    let mut programs = Vec::new();
    for row in CLASSIFIERS {
        let program = ebpf.program(row.program).ok_or_else(|| anyhow!("the object has no program {}", row.program))?;
        let program: &SchedClassifier = program.try_into().with_context(|| format!("program {}", row.program))?;
        programs.push(clsact::Program { name: row.program, fd: program.fd()?.as_fd(), egress: row.egress });
    }
    let key = (device.netns, device.ifindex);
    let mut tell = |qdisc| guardian.tell(key, News::Held { qdisc });
    let added = inside(enter, || clsact::attach(device.ifindex, &programs, Owner::own(), &mut tell));
    // From now on our filters say themselves whose the qdisc is.
    guardian.tell(key, if added.is_ok() { News::Held { qdisc: false } } else { News::Left })?;
    added
}

/// At ingress before all others: what comes in is seen, also what another program redirects or drops. At egress behind all
/// others: what is seen leaves. Either way ours decides nothing, so that the others stay as they are.
fn attach(program: &mut SchedClassifier, device: &str, egress: bool) -> Result<SchedClassifierLinkId, ProgramError> {
    let (direction, order) =
        if egress { (TcAttachType::Egress, LinkOrder::last()) } else { (TcAttachType::Ingress, LinkOrder::first()) };
    program.attach_with_options(device, direction, TcAttachOptions::TcxOrder(order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_taken_where_there_are_any() {
        assert_eq!(Way::chosen(None, true).expect("a way"), Way::Tcx);
        assert_eq!(Way::chosen(None, false).expect("a way"), Way::Clsact);
        assert_eq!(Way::chosen(Some("clsact"), true).expect("a way"), Way::Clsact);
        assert!(Way::chosen(Some("tcx"), false).is_err());
        assert!(Way::chosen(Some("xdp"), true).is_err());
    }
}
