//! netprobe's BPF programs: one file per family of hooks.
//!
//! Every program reads as one sentence: `kernel/` reads, `follow` decides, `emit` writes and counts.
#![no_std]
#![no_main]
// The atomic addition of `flows`.
#![feature(asm_experimental_arch)]

mod call;
mod capture;
mod cgroups;
mod dns;
mod drops;
mod emit;
mod filters;
mod flows;
mod follow;
mod kernel;
mod nat;
mod neighbours;
mod netfilter;
mod path;
mod requests;
mod routes;
mod rules;
mod tc;
mod tcp;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `bpf_get_stack` and friends are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
