//! The TC classifiers on the devices: TCX links where the kernel has them.
//!
//! A link belongs to a descriptor of ours: it goes when we do, however we die. Devices are named in the namespace of the
//! thread that attaches, so that a thread of its own enters it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, thread,
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLinkId, TcAttachOptions},
    },
};

use super::{attach::Attached, btf::KernelBtf, catalog::CLASSIFIERS};

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

/// The devices that have our classifiers.
#[derive(Debug, Default)]
pub struct Classifiers {
    links: BTreeMap<Device, Vec<SchedClassifierLinkId>>,
    /// Devices that could not be had, and why: told once.
    refused: BTreeMap<Device, String>,
}

impl Classifiers {
    /// The devices that are looked at.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.links.keys()
    }

    /// Devices that could not be had, and why.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<Device, String> {
        &self.refused
    }
}

/// Whether the kernel has TCX links (6.6 and later).
#[must_use]
pub fn has_tcx(btf: &KernelBtf) -> bool {
    btf.enum_members("bpf_attach_type").iter().any(|(_, name)| name == "BPF_TCX_INGRESS")
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
        let gone: Vec<Device> = self.classifiers.links.keys().filter(|d| !wanted.contains(d)).cloned().collect();
        for device in gone {
            self.let_go(&device);
        }
        self.classifiers.refused.retain(|device, _| wanted.contains(device));
        let known = |d: &&Device| self.classifiers.links.contains_key(d) || self.classifiers.refused.contains_key(d);
        let fresh: Vec<Device> = wanted.iter().filter(|d| !known(d)).cloned().collect();
        let mut refused = Vec::new();
        for device in fresh {
            let attached = open(device.netns)
                .context("open its network namespace")
                .and_then(|enter| attach_inside(&mut self.ebpf, &device, enter));
            match attached {
                Ok(links) => {
                    self.classifiers.links.insert(device, links);
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    self.classifiers.refused.insert(device.clone(), why.clone());
                    refused.push((device, why));
                }
            }
        }
        refused
    }

    /// Closes a device's links. Those of a device that is gone are closed already.
    fn let_go(&mut self, device: &Device) {
        let links = self.classifiers.links.remove(device).unwrap_or_default();
        for (row, link) in CLASSIFIERS.iter().zip(links) {
            let name = row.program;
            let detached = classifier(&mut self.ebpf, name).and_then(|program| Ok(program.detach(link)?));
            if let Err(error) = detached {
                log::debug!("detach {name} from {}: {error:#}", device.name);
            }
        }
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

/// Attaches both programs on a thread that is in the device's namespace.
fn attach_inside(
    ebpf: &mut Ebpf,
    device: &Device,
    enter: impl FnOnce() -> io::Result<()> + Send,
) -> Result<Vec<SchedClassifierLinkId>> {
    let work = || -> Result<Vec<SchedClassifierLinkId>> {
        enter().context("enter its network namespace")?;
        let mut links = Vec::new();
        for row in CLASSIFIERS {
            let attached = attach(classifier(ebpf, row.program)?, &device.name, row.egress);
            links.push(attached.with_context(|| format!("attach {}", row.program))?);
        }
        Ok(links)
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// At ingress before all others: what comes in is seen, also what another program redirects or drops. At egress behind all
/// others: what is seen leaves. Either way ours decides nothing, so that the others stay as they are.
fn attach(program: &mut SchedClassifier, device: &str, egress: bool) -> Result<SchedClassifierLinkId, ProgramError> {
    let (direction, order) =
        if egress { (TcAttachType::Egress, LinkOrder::last()) } else { (TcAttachType::Ingress, LinkOrder::first()) };
    program.attach_with_options(device, direction, TcAttachOptions::TcxOrder(order))
}
