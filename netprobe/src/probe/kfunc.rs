//! Functions of the kernel that BPF programs may call by name (kfuncs): aya does not know them, so the object's one such call
//! is filled in here.

use netprobe_common::config::KERNEL_CTX_CALL;

use super::btf::KernelBtf;

/// Bytes of a BPF instruction. Sections of instructions begin at a multiple of it.
const INSTRUCTION: usize = 8;
/// The alignment of the structs of an ELF file.
const ALIGNMENT: usize = 8;

/// The BTF number of `bpf_cast_to_kern_ctx`; older kernels than Linux 6.2 have none.
pub(super) fn kernel_ctx(btf: &KernelBtf) -> Option<u32> {
    btf.function("bpf_cast_to_kern_ctx").filter(|function| function.module.is_none()).map(|function| function.id)
}

/// A copy of an object whose calls of [`KERNEL_CTX_CALL`] call the function of that number; without one they call none, and
/// must not be reached.
pub(super) struct Filled {
    bytes: Vec<u8>,
    /// Where the copy begins: objects are read in place, by aligned words.
    at: usize,
}

impl Filled {
    pub(super) fn new(object: &[u8], id: Option<u32>) -> Self {
        let id = id.unwrap_or(0);
        let mut bytes: Vec<u8> = Vec::with_capacity(object.len() + ALIGNMENT);
        // Where the allocator gives aligned memory, as all do, this is nothing.
        let at = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes.resize(at, 0);
        bytes.extend_from_slice(object);
        let marked = KERNEL_CTX_CALL.to_le_bytes();
        for instruction in bytes[at..].chunks_exact_mut(INSTRUCTION).filter(|instruction| **instruction == marked) {
            instruction[4..].copy_from_slice(&id.to_le_bytes());
        }
        Self { bytes, at }
    }

    pub(super) fn object(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::attach::OBJECT;

    fn count(object: &[u8], instruction: u64) -> usize {
        object.chunks_exact(INSTRUCTION).filter(|bytes| **bytes == instruction.to_le_bytes()).count()
    }

    #[test]
    fn every_call_is_filled_in_and_nothing_else_changes() {
        let calls = count(OBJECT, KERNEL_CTX_CALL);
        assert!(calls >= 2, "each classifier calls it");
        for id in [Some(77), None] {
            let filled = Filled::new(OBJECT, id);
            let object = filled.object();
            assert_eq!((object.len(), object.as_ptr().align_offset(ALIGNMENT)), (OBJECT.len(), 0));
            let call = KERNEL_CTX_CALL & 0xffff_ffff | u64::from(id.unwrap_or(0)) << 32;
            assert_eq!((count(object, call), count(object, KERNEL_CTX_CALL)), (calls, 0));
            let differ = object.iter().zip(OBJECT).filter(|(now, was)| now != was).count();
            assert!(differ <= 4 * calls, "{differ} bytes");
        }
    }
}
