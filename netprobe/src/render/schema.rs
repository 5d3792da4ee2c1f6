//! The schema of the JSON output.

/// JSON Schema (2020-12) of one line of `-o json`. It grows, and takes nothing away: a reader
/// that ignores what it does not know stays right.
#[must_use]
pub const fn schema() -> &'static str {
    include_str!("schema.json")
}
