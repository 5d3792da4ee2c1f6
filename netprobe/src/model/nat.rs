//! What NAT chose for a connection.

use std::{fmt, net::IpAddr};

use super::flow::Flow;

/// NAT chose an address for a connection, when its first packet came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatChoice {
    /// The connection as its first packet came.
    pub original: Flow,
    /// The same packet as NAT has it now.
    pub translated: Flow,
    /// What it chose.
    pub by: NatBy,
    /// First and last address of the range that the rule gave, where it gave one.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// First and last port of it, likewise.
    pub ports: Option<(u16, u16)>,
    /// The device that masquerading was asked for, else 0.
    pub out_ifindex: u32,
}

/// What NAT chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatBy {
    /// A source, from a range.
    Source,
    /// A destination, from a range.
    Destination,
    /// A source that masquerading took from the output device.
    Masquerade,
}

impl NatBy {
    /// What it is, in a word: `snat`, `dnat`, `masquerade`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "snat",
            Self::Destination => "dnat",
            Self::Masquerade => "masquerade",
        }
    }
}

impl fmt::Display for NatChoice {
    /// `masquerade to 10.8.0.10:41000`, `dnat to 10.9.0.30:8080, of 10.9.0.30 ports 8080`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { translated, by, addresses, ports, .. } = self;
        let to = if *by == NatBy::Destination { translated.destination() } else { translated.source() };
        write!(f, "{} to {to}", by.name())?;
        if *by == NatBy::Masquerade {
            return Ok(());
        }
        match addresses {
            Some((low, high)) if low == high => write!(f, ", from {low}")?,
            Some((low, high)) => write!(f, ", from {low}-{high}")?,
            None => {}
        }
        match ports {
            Some((low, high)) if low == high => write!(f, " port {low}"),
            Some((low, high)) => write!(f, " ports {low}-{high}"),
            None => Ok(()),
        }
    }
}
