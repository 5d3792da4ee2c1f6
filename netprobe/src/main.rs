//! Parse, run, print the error and advice, exit code.
fn main() {}
