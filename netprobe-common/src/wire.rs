//! Structs that cross the kernel boundary: `repr(C)`, no padding, every bit pattern valid.

/// A struct whose every byte is meaningful and whose every bit pattern is valid.
///
/// # Safety
///
/// Implemented by [`wire!`](crate::wire!) only, which checks what it promises: no padding, no
/// `bool`, no enum, no reference. An implementation by hand must keep the same promise.
pub unsafe trait Wire: Copy + 'static {}

macro_rules! primitive {
    ($($t:ty),+) => { $(
        // SAFETY: integers have no padding and every bit pattern is a value.
        unsafe impl Wire for $t {}
    )+ };
}
primitive!(u8, u16, u32, u64, i32, i64);
// SAFETY: an array has no bytes but those of its elements.
unsafe impl<T: Wire, const N: usize> Wire for [T; N] {}

/// Declares structs that cross the kernel boundary.
///
/// Adds `repr(C)` and refuses, at compile time, padding and any field that is not [`Wire`].
#[macro_export]
macro_rules! wire {
    ($( $(#[$meta:meta])* pub struct $name:ident { $( $(#[$fmeta:meta])* pub $field:ident : $ty:ty ),+ $(,)? } )+) => { $(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty ),+ }

        const _: () = {
            const fn is_wire<T: $crate::wire::Wire>() {}
            $( is_wire::<$ty>(); )+
            assert!(
                core::mem::size_of::<$name>() == 0 $( + core::mem::size_of::<$ty>() )+,
                concat!(stringify!($name), " has padding: reorder the fields or add `_pad`"),
            );
        };
        // SAFETY: every field is `Wire` and there is no padding between them (asserted above).
        unsafe impl $crate::wire::Wire for $name {}
    )+ };
}

/// Reads a `T` from the start of `bytes`, or `None` if they are too few. Needs no alignment.
#[must_use]
pub fn read<T: Wire>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the length was checked, `read_unaligned` needs no alignment, and every bit
    // pattern is a valid `T` (`Wire`).
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of `value`.
#[must_use]
pub fn bytes_of<T: Wire>(value: &T) -> &[u8] {
    // SAFETY: a `Wire` value has no padding, so each of its bytes is initialised.
    unsafe { core::slice::from_raw_parts((value as *const T).cast(), size_of::<T>()) }
}

/// `value` as words, in memory order. BPF has no unaligned access, so that bytes cost a load and a shift each.
#[inline(always)]
#[must_use]
pub const fn words_of<T: Wire, const N: usize>(value: &T) -> &[u64; N] {
    const { assert!(size_of::<T>() == N * 8 && align_of::<T>() >= align_of::<u64>()) };
    // SAFETY: `T` is as long and as aligned as `N` words (asserted above), and has no padding (`Wire`).
    unsafe { &*(&raw const *value).cast() }
}

/// A `T` whose every byte is zero.
#[must_use]
pub const fn zeroed<T: Wire>() -> T {
    // SAFETY: every bit pattern is a valid `T` (`Wire`), zero too.
    unsafe { core::mem::zeroed() }
}
