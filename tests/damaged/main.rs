//! Whatever comes in, no stage panics, output stays readable, and memory stays bounded. Needs no root.
#![forbid(unsafe_code)]

mod decoding;
mod material;
mod pipeline;
mod replay;
