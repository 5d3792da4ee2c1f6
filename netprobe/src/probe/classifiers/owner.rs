//! Whose filter it is: netprobe's carry the process that added them in their handle.

use std::{fs, io, os::unix::fs::MetadataExt as _, process};

use crate::probe::catalog::CLASSIFIERS;

/// Bits of a process id: Linux gives none above (`PID_MAX_LIMIT`, `include/linux/threads.h`).
const PID_BITS: u32 = 22;
/// Bits that tell namespaces of process ids apart.
const NAMESPACE_BITS: u32 = 9;
/// The clsact qdisc is there because of netprobe.
const QDISC: u32 = 1 << (PID_BITS + NAMESPACE_BITS);

/// The process that added a filter, as the filter's handle has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(u32);

/// Whether the process that added a filter still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Lives,
    Dead,
    /// It cannot be known from here: the process is in another namespace of process ids, or may not be looked at.
    Unknown,
}

impl Owner {
    /// This process.
    pub(super) fn own() -> Self {
        Self::new(process::id(), pid_namespace())
    }

    const fn new(pid: u32, namespace: u64) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
        let namespace = namespace as u32 & ((1 << NAMESPACE_BITS) - 1);
        Self(pid & ((1 << PID_BITS) - 1) | namespace << PID_BITS)
    }

    /// Who is named by the filter `name` with this handle; nobody where it is none of netprobe's.
    pub(super) fn of(name: &str, handle: u32) -> Option<Self> {
        let ours = CLASSIFIERS.iter().any(|row| row.program == name);
        let owner = Self(handle & !QDISC);
        (ours && owner.pid() != 0).then_some(owner)
    }

    /// The handle of its filters. `qdisc`: the qdisc is there because of netprobe.
    pub(super) const fn handle(self, qdisc: bool) -> u32 {
        self.0 | if qdisc { QDISC } else { 0 }
    }

    /// Whether a handle says that the qdisc is there because of netprobe.
    pub(super) const fn has_qdisc(handle: u32) -> bool {
        handle & QDISC != 0
    }

    const fn pid(self) -> u32 {
        self.0 & ((1 << PID_BITS) - 1)
    }

    /// Whether the process lives, told by the program that the filter runs: who added it holds its descriptor. A process
    /// that only has the same id does not.
    pub(super) fn life(self, program: u32) -> Life {
        if Self::new(self.pid(), pid_namespace()) != self {
            return Life::Unknown;
        }
        match holds(self.pid(), program) {
            Ok(true) => Life::Lives,
            Ok(false) => Life::Dead,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Life::Dead,
            Err(_) => Life::Unknown,
        }
    }
}

/// Inode number of our namespace of process ids; 0 where /proc does not tell.
fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |file| file.ino())
}

/// Whether the process has a descriptor of the BPF program.
fn holds(pid: u32, program: u32) -> io::Result<bool> {
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor closed meanwhile is none.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        if names_program(&text, program) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `prog_id:` of `/proc/PID/fdinfo/FD` (`bpf_prog_show_fdinfo`, `kernel/bpf/syscall.c`).
fn names_program(text: &str, program: u32) -> bool {
    let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
    id.is_some_and(|id| id.trim().parse() == Ok(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_has_the_process_and_the_qdisc() {
        let owner = Owner::new(4_194_303, 4_026_531_836);
        assert_eq!(owner.pid(), 4_194_303);
        for qdisc in [false, true] {
            let handle = owner.handle(qdisc);
            assert_eq!(Owner::has_qdisc(handle), qdisc);
            assert_eq!(Owner::of("netprobe_in", handle), Some(owner));
        }
        assert_ne!(owner.handle(false), owner.handle(true));
        assert_ne!(Owner::new(7, 1), Owner::new(7, 2), "process 7 of another namespace is another process");
    }

    #[test]
    fn a_filter_of_another_name_is_not_ours() {
        let handle = Owner::own().handle(true);
        assert_eq!(Owner::of("netprobe_out", handle), Some(Owner::own()));
        assert_eq!(Owner::of("cil_from_container", handle), None);
        assert_eq!(Owner::of("netprobe_in", 0), None);
        assert_eq!(Owner::of("", handle), None);
    }

    #[test]
    fn a_process_lives_by_the_program_it_holds() {
        assert_eq!(Owner::own().life(u32::MAX), Life::Dead, "a process of that id, but not with that program");
        assert_eq!(Owner::new(process::id(), pid_namespace() + 1).life(1), Life::Unknown);
        assert_eq!(Owner::new((1 << PID_BITS) - 1, pid_namespace()).life(1), Life::Dead, "nobody has that id");
    }

    #[test]
    fn fdinfo_names_a_program() {
        let text = "pos:\t0\nflags:\t02000002\nprog_type:\t3\nprog_id:\t57\nrun_cnt:\t0\n";
        assert!(names_program(text, 57));
        assert!(!names_program(text, 5));
        assert!(!names_program("pos:\t0\nlink_type:\ttcx\n", 0));
    }
}
