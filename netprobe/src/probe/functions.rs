//! Programs on kernel functions: where this kernel takes them, and where it does not.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, anyhow};
use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit},
};

use super::{
    btf::{Function, KernelBtf},
    catalog::{Hook, Probe},
    raw::{self, Instructions},
};

/// Why no program can be attached to any kernel function here, or `None`. The kernel is asked once, which takes 50 us.
#[must_use]
pub fn refused() -> Option<String> {
    raw::ask().err().map(|error| format!("this kernel refuses programs on its functions (fentry): {error}"))
}

/// Attaches programs to kernel functions, and keeps them there.
pub(super) struct Functions {
    object: &'static [u8],
    refused: Option<String>,
    /// The object's instructions once more, for functions of modules.
    instructions: Option<Instructions>,
    links: Vec<OwnedFd>,
}

impl Functions {
    /// Programs of `object`. `refused` is why there can be none.
    pub(super) const fn new(object: &'static [u8], refused: Option<String>) -> Self {
        Self { object, refused, instructions: None, links: Vec::new() }
    }

    /// Whether this kernel takes programs on its functions at all.
    pub(super) const fn possible(&self) -> bool {
        self.refused.is_none()
    }

    /// Attaches the program of one row of the catalogue, or says why it cannot.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, probe: &Probe, btf: &KernelBtf, kernel: &Btf) -> Option<String> {
        if let Some(why) = &self.refused {
            return Some(probe.cannot(why));
        }
        let function = btf.function(probe.program);
        if let Some(obstacle) = probe.obstacle(function.as_ref().map(|f| f.args.as_slice())) {
            return Some(obstacle);
        }
        let function = function?;
        self.to(ebpf, probe, &function, kernel).err().map(|error| {
            log::warn!("{error:#}");
            probe.cannot(&format!("{error:#}"))
        })
    }

    fn to(&mut self, ebpf: &mut Ebpf, probe: &Probe, function: &Function, kernel: &Btf) -> Result<()> {
        let name = probe.program;
        if let Some(module) = function.module {
            let instructions = match self.instructions.take() {
                Some(known) => known,
                None => Instructions::new(self.object, ebpf)?,
            };
            let link = instructions.attach(name, module, function.id);
            self.instructions = Some(instructions);
            self.links.push(link?);
            return Ok(());
        }
        let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
        let (load, attach) = (|| format!("load {name}"), || format!("attach {name}"));
        if probe.hook == Hook::Entry {
            let program: &mut FEntry = program.try_into().with_context(|| format!("program {name}"))?;
            program.load(name, kernel).with_context(load)?;
            program.attach().with_context(attach)?;
        } else {
            let program: &mut FExit = program.try_into().with_context(|| format!("program {name}"))?;
            program.load(name, kernel).with_context(load)?;
            program.attach().with_context(attach)?;
        }
        Ok(())
    }

    /// All is attached: what only attaching needs is given back.
    pub(super) fn done(&mut self) {
        self.instructions = None;
    }
}
