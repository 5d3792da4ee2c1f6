//! All reads of kernel memory. Offsets come from the running kernel's BTF, by user space.

pub(crate) mod classified;
pub(crate) mod conntrack;
pub(crate) mod device;
pub(crate) mod header;
pub(crate) mod hook;
pub(crate) mod nat;
pub(crate) mod neighbour;
pub(crate) mod port;
pub(crate) mod route;
pub(crate) mod rule;
pub(crate) mod skb;
pub(crate) mod sock;

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use netprobe_common::{config::Config, wire};

/// What user space found out before loading. Lives in frozen read-only data, so the verifier
/// knows every word and removes what this kernel or this run does not need.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Config = wire::zeroed();

/// One field of [`CONFIG`], as the verifier knows it.
macro_rules! config {
    ($($field:tt)+) => {
        // SAFETY: `CONFIG` is a live static; the read is volatile because user space replaces its
        // bytes before the program is loaded, which the compiler cannot know.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::CONFIG.$($field)+) }
    };
}
pub(crate) use config;

/// Offset of one field of a kernel struct.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::config!(offsets.$field) as usize
    };
}
pub(crate) use offset;

/// Whether this kernel has a field.
macro_rules! has {
    ($field:ident) => {
        $crate::kernel::config!(offsets.$field) != netprobe_common::config::ABSENT
    };
}
pub(crate) use has;

/// Reads a field through a pointer whose type the verifier knows. It checks offset and size
/// against BTF when the program is loaded, and a fault reads as zero.
#[inline(always)]
pub(crate) fn typed<T: Copy>(base: *const u8, offset: usize) -> T {
    // SAFETY: the verifier only accepts this load if `base` is a checked pointer to a kernel
    // struct and `offset` is a field of that size in it.
    unsafe { core::ptr::read_volatile(base.add(offset).cast()) }
}

/// Copies from any kernel address; zeroes where it cannot be read.
#[inline(always)]
pub(crate) fn probe<T: Copy>(address: u64, offset: usize) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of `value` (zeroes on a fault), and every `T` read here is
    // plain bytes.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            (address as usize + offset) as *const _,
        );
        value.assume_init()
    }
}

/// Copies `size_of::<T>()` bytes from a kernel address to `to`; zeroes where it cannot be read.
#[inline(always)]
pub(crate) fn probe_into<T>(to: *mut T, address: u64, offset: usize) {
    // SAFETY: `to` points at a whole `T` (callers pass a field of a ring record); the helper
    // checks the source.
    unsafe {
        bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, (address as usize + offset) as *const _);
    }
}
