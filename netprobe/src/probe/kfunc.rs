//! Functions of the kernel that BPF programs may call by name (kfuncs): aya does not know them, so the calls in the object
//! are filled in here.

use netprobe_common::config::{Config, KERNEL_CTX_CALL, READ_AS_CALL};

use super::btf::KernelBtf;

/// Bytes of a BPF instruction. Sections of instructions begin at a multiple of it.
const INSTRUCTION: usize = 8;
/// The alignment of the structs of an ELF file.
const ALIGNMENT: usize = 8;

/// What of this the classifiers may use on a kernel.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// The BTF number of `bpf_cast_to_kern_ctx` (Linux 6.2).
    kernel_ctx: Option<u32>,
    /// Those of `bpf_rdonly_cast` (Linux 6.2) and of `struct nf_conn`, where the kernel itself has it and not its module.
    nf_conn: Option<(u32, u32)>,
}

impl Known {
    pub(super) fn new(btf: &KernelBtf) -> Self {
        let function = |name: &str| btf.function(name).filter(|found| found.module.is_none()).map(|found| found.id);
        let nf_conn = function("bpf_rdonly_cast").zip(btf.own_struct("nf_conn"));
        Self { kernel_ctx: function("bpf_cast_to_kern_ctx"), nf_conn }
    }

    /// Tells the programs.
    pub(super) fn tell(self, config: &mut Config) {
        config.kernel_ctx = u32::from(self.kernel_ctx.is_some());
        config.nf_conn = self.nf_conn.map_or(0, |(_, id)| id);
    }

    /// The numbers of the functions that are called, each with the call as the object has it.
    fn calls(self) -> [(u64, u32); 2] {
        let read_as = self.nf_conn.map_or(0, |(function, _)| function);
        [(KERNEL_CTX_CALL, self.kernel_ctx.unwrap_or(0)), (READ_AS_CALL, read_as)]
    }
}

/// A copy of an object whose marked calls call the kernel's functions; where it lacks one they call none, and must not be
/// reached.
pub(super) struct Filled {
    bytes: Vec<u8>,
    /// Where the copy begins: objects are read in place, by aligned words.
    at: usize,
}

impl Filled {
    pub(super) fn new(object: &[u8], known: Known) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(object.len() + ALIGNMENT);
        // Where the allocator gives aligned memory, as all do, this is nothing.
        let at = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes.resize(at, 0);
        bytes.extend_from_slice(object);
        let calls = known.calls().map(|(marked, id)| (marked.to_le_bytes(), id.to_le_bytes()));
        for instruction in bytes[at..].chunks_exact_mut(INSTRUCTION) {
            if let Some((_, id)) = calls.iter().find(|(marked, _)| instruction == marked) {
                instruction[4..].copy_from_slice(id);
            }
        }
        Self { bytes, at }
    }

    pub(super) fn object(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

#[cfg(test)]
mod tests {
    use netprobe_common::wire;

    use super::*;
    use crate::probe::attach::OBJECT;

    fn count(object: &[u8], instruction: u64) -> usize {
        object.chunks_exact(INSTRUCTION).filter(|bytes| **bytes == instruction.to_le_bytes()).count()
    }

    #[test]
    fn every_call_is_filled_in_and_nothing_else_changes() {
        let calls = [count(OBJECT, KERNEL_CTX_CALL), count(OBJECT, READ_AS_CALL)];
        assert!(calls[0] >= 2 && calls[1] >= 1, "the classifiers call them: {calls:?}");
        for known in [Known { kernel_ctx: Some(77), nf_conn: Some((78, 5)) }, Known::default()] {
            let filled = Filled::new(OBJECT, known);
            let object = filled.object();
            assert_eq!((object.len(), object.as_ptr().align_offset(ALIGNMENT)), (OBJECT.len(), 0));
            for ((marked, id), calls) in known.calls().into_iter().zip(calls) {
                let call = marked & 0xffff_ffff | u64::from(id) << 32;
                assert!(count(object, call) >= calls && count(object, marked) == 0, "{id}");
            }
            let differ = object.iter().zip(OBJECT).filter(|(now, was)| now != was).count();
            assert!(differ <= 4 * (calls[0] + calls[1]), "{differ} bytes");
        }
    }

    #[test]
    fn the_programs_are_told_what_they_may_call() {
        let mut config: Config = wire::zeroed();
        Known { kernel_ctx: Some(77), nf_conn: Some((78, 5)) }.tell(&mut config);
        assert_eq!((config.kernel_ctx, config.nf_conn), (1, 5));
        Known::default().tell(&mut config);
        assert_eq!((config.kernel_ctx, config.nf_conn), (0, 0));
    }
}
