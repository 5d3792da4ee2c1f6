//! Builds, tests and measures netprobe.
fn main() {}
