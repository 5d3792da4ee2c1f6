//! What the user expects of the packets, where the node's own settings do not tell.

/// Expectations.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Expectations")]
pub struct Expect {
    /// Device by which the packets should leave this node; without it the node's rules and routes
    /// say which
    #[arg(long = "expect-dev", value_name = "DEV")]
    pub device: Option<String>,
}
