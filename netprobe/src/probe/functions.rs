//! Programs on kernel functions: where this kernel takes them, and where it does not.

use std::{env, os::fd::OwnedFd, path::Path};

use anyhow::{Context, Result, anyhow};
use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, KProbe},
};

use super::{
    btf::{Function, KernelBtf},
    catalog::{Hook, Probe},
    raw::{self, Instructions},
};

/// The environment's wish for a [`Way`]: `fentry` or `kprobe`.
const WAY: &str = "NETPROBE_FUNCTIONS";
/// There where the kernel takes kprobes (`perf_event_open`).
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// How programs come onto kernel functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By fentry and fexit: the cheaper one.
    Fentry,
    /// By kprobes and kretprobes: arm64 has no fentry before Linux 6.4.
    Kprobe,
}

impl Way {
    /// The best way this kernel has, or the one that the environment asks for. The kernel is asked once, which takes 50 us.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn of() -> Result<Self, String> {
        let wish = env::var_os(WAY).map(|wish| wish.to_string_lossy().into_owned());
        let fentry = raw::ask().map_err(|error| error.to_string());
        Self::chosen(wish.as_deref(), fentry, Path::new(KPROBES).exists())
    }

    fn chosen(wish: Option<&str>, fentry: Result<(), String>, kprobe: bool) -> Result<Self, String> {
        match (wish, fentry, kprobe) {
            (None | Some("fentry"), Ok(()), _) => Ok(Self::Fentry),
            (None | Some("kprobe"), _, true) => Ok(Self::Kprobe),
            (Some("kprobe"), _, false) => Err(format!("{WAY}=kprobe: this kernel has no kprobes ({KPROBES})")),
            (Some("fentry"), Err(error), _) => Err(format!("{WAY}=fentry: this kernel has none: {error}")),
            (Some(other), ..) => Err(format!("{WAY}={other:?}: it is fentry or kprobe")),
            (None, Err(error), false) => {
                Err(format!("this kernel refuses programs on its functions: fentry: {error}; it has no kprobes"))
            }
        }
    }

    /// What it is, in a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

/// Attaches programs to kernel functions, and keeps them there.
pub(super) struct Functions {
    object: &'static [u8],
    way: Result<Way, String>,
    /// The object's instructions once more, for functions of modules.
    instructions: Option<Instructions>,
    links: Vec<OwnedFd>,
}

impl Functions {
    /// Programs of `object`.
    pub(super) const fn new(object: &'static [u8], way: Result<Way, String>) -> Self {
        Self { object, way, instructions: None, links: Vec::new() }
    }

    /// Whether this kernel takes programs on its functions at all.
    pub(super) const fn possible(&self) -> bool {
        self.way.is_ok()
    }

    /// Attaches the program of one row of the catalogue, or says why it cannot.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, probe: &Probe, btf: &KernelBtf, kernel: &Btf) -> Option<String> {
        let way = match &self.way {
            Ok(way) => *way,
            Err(why) => return Some(probe.cannot(why)),
        };
        let function = btf.function(probe.program);
        if let Some(obstacle) = probe.obstacle(function.as_ref().map(|f| f.args.as_slice())) {
            return Some(obstacle);
        }
        let function = function?;
        let attached = match way {
            Way::Fentry => self.to(ebpf, probe, &function, kernel),
            Way::Kprobe => by_kprobes(ebpf, probe),
        };
        attached.err().map(|error| {
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

/// The same by kprobes. The kernel finds a function by its name, a module's too.
fn by_kprobes(ebpf: &mut Ebpf, probe: &Probe) -> Result<()> {
    let function = probe.program;
    let ends = matches!(probe.hook, Hook::Exit(_)).then_some("ends");
    for side in ["begins"].into_iter().chain(ends) {
        let name = format!("{function}_{side}");
        let program = ebpf.program_mut(&name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
        let program: &mut KProbe = program.try_into().with_context(|| format!("program {name}"))?;
        program.load().with_context(|| format!("load {name}"))?;
        program.attach(function, 0).with_context(|| format!("attach {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fentry_comes_first_and_kprobes_where_there_is_none() {
        let none = || Err("EOPNOTSUPP".to_owned());
        assert_eq!(Way::chosen(None, Ok(()), true), Ok(Way::Fentry));
        assert_eq!(Way::chosen(None, none(), true), Ok(Way::Kprobe));
        assert_eq!(Way::chosen(Some("kprobe"), Ok(()), true), Ok(Way::Kprobe));
    }

    #[test]
    fn what_is_not_there_is_told() {
        let none = || Err("EOPNOTSUPP".to_owned());
        assert!(Way::chosen(None, none(), false).expect_err("there is none").contains("fentry: EOPNOTSUPP; it has no"));
        assert!(Way::chosen(Some("kprobe"), Ok(()), false).expect_err("there is none").contains("has no kprobes"));
        assert!(Way::chosen(Some("uprobe"), Ok(()), true).expect_err("no such way").contains("it is fentry or kprobe"));
    }
}
