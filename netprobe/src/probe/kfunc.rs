//! Functions of the kernel that BPF programs may call by name (kfuncs): aya does not know them, so the calls in the object
//! are filled in here.

use netprobe_common::config::{Config, KERNEL_CTX, READ_AS};

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

    /// The functions that there are: the number that the object calls, and the function's own.
    fn calls(self) -> impl Iterator<Item = (u32, u32)> {
        let kernel_ctx = self.kernel_ctx.map(|function| (KERNEL_CTX, function));
        let read_as = self.nf_conn.map(|(function, _)| (READ_AS, function));
        kernel_ctx.into_iter().chain(read_as)
    }
}

/// `BPF_JMP | BPF_CALL`, of a helper, and of a function of the kernel (`BPF_PSEUDO_KFUNC_CALL` in the upper half of the second
/// byte); the number follows in the last four bytes.
const HELPER_CALL: [u8; 4] = [0x85, 0, 0, 0];
const FUNCTION_CALL: [u8; 4] = [0x85, 0x20, 0, 0];

fn call(how: [u8; 4], number: u32) -> [u8; INSTRUCTION] {
    let ([a, b, c, d], [e, f, g, h]) = (how, number.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// A copy of an object whose marked calls call the kernel's functions.
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
        let calls = known.calls().map(|(marked, id)| (call(HELPER_CALL, marked), call(FUNCTION_CALL, id)));
        let calls: Vec<_> = calls.collect();
        for instruction in bytes[at..].chunks_exact_mut(INSTRUCTION) {
            if let Some((_, filled)) = calls.iter().find(|(marked, _)| instruction == marked) {
                instruction.copy_from_slice(filled);
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

    fn count(object: &[u8], instruction: [u8; INSTRUCTION]) -> usize {
        object.chunks_exact(INSTRUCTION).filter(|bytes| **bytes == instruction).count()
    }

    #[test]
    fn every_call_is_filled_in_and_nothing_else_changes() {
        let marked = [KERNEL_CTX, READ_AS].map(|number| call(HELPER_CALL, number));
        let calls = marked.map(|marked| count(OBJECT, marked));
        assert!(calls[0] >= 2 && calls[1] >= 1, "the classifiers call them: {calls:?}");
        let filled = Filled::new(OBJECT, Known { kernel_ctx: Some(77), nf_conn: Some((78, 5)) });
        let object = filled.object();
        assert_eq!((object.len(), object.as_ptr().align_offset(ALIGNMENT)), (OBJECT.len(), 0));
        for ((id, marked), calls) in [77, 78].into_iter().zip(marked).zip(calls) {
            assert!(count(object, call(FUNCTION_CALL, id)) >= calls && count(object, marked) == 0, "{id}");
        }
        let differ = object.iter().zip(OBJECT).filter(|(now, was)| now != was).count();
        assert!(differ <= 5 * (calls[0] + calls[1]), "{differ} bytes");
        assert_eq!(Filled::new(OBJECT, Known::default()).object(), OBJECT, "a kernel without them");
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
