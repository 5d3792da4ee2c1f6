//! Bytes that both sides of the ring agree on: no allocation, no logic, no std.
//!
//! * [`mod@wire`]: how a struct becomes bytes, checked at compile time
//! * [`flow`]: the five-tuple
//! * [`config`]: what user space tells the programs
//! * [`counted`]: the flows that TC classifiers count
//! * [`filter`]: the user's filter, evaluated
//! * [`limits`]: map sizes and array lengths, each with its reason
//! * [`event`]: what the programs tell user space
#![no_std]

pub mod config;
pub mod counted;
pub mod event;
pub mod filter;
pub mod flow;
pub mod limits;
pub mod wire;

/// Number of this layout. Written into every recording and compared when one is opened.
/// Raise it with every change of a struct below.
pub const ABI: u32 = 5;
