//! What a live run is asked.

use super::DeviceName;
use crate::{
    cli::{
        output::{Output, Ready, Record},
        remote::Where,
        select::{Select, Target},
    },
    explain::Expectations,
    pipeline::DnsView,
};

/// What a command lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Followed packets, on all tracepoints.
    Packets,
    /// Drops alone.
    Drops,
    /// Flows counted by TC classifiers, with names from DNS.
    Flows,
    /// The same for what NAT makes of them, without names.
    Translations,
    /// The packets themselves, so many bytes of each, and what becomes of them.
    Capture(u32),
    /// Drops, and flows at these devices, without names: what costs little enough for a run that never ends.
    Agent(FlowsAt),
}

/// Where a run that never ends counts flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FlowsAt {
    /// At the node's ways out: which device each pod's packets leave by.
    Uplinks,
    /// There and at the pods' links: also what stays on the node.
    All,
    /// Nowhere.
    Off,
}

impl Watch {
    /// TC classifiers count flows.
    pub(super) const fn counts_flows(self) -> bool {
        matches!(self, Self::Flows | Self::Translations | Self::Agent(FlowsAt::Uplinks | FlowsAt::All))
    }

    /// It has no tracepoints at all.
    pub(super) const fn lives_on_classifiers(self) -> bool {
        matches!(self, Self::Flows | Self::Translations)
    }

    /// Drops are counted.
    pub(super) const fn counts_drops(self) -> bool {
        !matches!(self, Self::Flows | Self::Translations)
    }
}

/// What a live run is asked.
pub struct Request<'a> {
    /// Name of the command, as recordings have it.
    pub command: &'static str,
    /// What it lives on.
    pub watch: Watch,
    /// Filter words.
    pub filter: &'a [String],
    /// Whose packets.
    pub select: &'a Select,
    /// Whom, where nobody is named; an error where that is none.
    pub default: Option<Target>,
    /// DNS exchanges are shown, in this way.
    pub dns: Option<DnsView>,
    /// `nat`: the table is shown, else the translations one by one.
    pub nat_table: bool,
    /// `capture`: the devices at which packets are taken; all where none is named.
    pub at: &'a [DeviceName],
    /// What should be so.
    pub expect: Expectations,
    /// nftables is let tell which of its rules drop packets; that changes the node.
    pub traces_rules: bool,
    /// Format.
    pub output: &'a Output,
    /// Recording and node name.
    pub record: &'a Record,
    /// Readiness and BTF.
    pub ready: &'a Ready,
    /// Where to watch; none where that is always here.
    pub place: Option<&'a Where>,
}

impl<'a> Request<'a> {
    /// A run that follows nobody but whom `select` names, all their packets, and expects nothing.
    #[must_use]
    pub fn new(
        command: &'static str,
        watch: Watch,
        select: &'a Select,
        (output, record, ready): (&'a Output, &'a Record, &'a Ready),
    ) -> Self {
        Self {
            command,
            watch,
            filter: &[],
            select,
            default: None,
            dns: None,
            nat_table: false,
            at: &[],
            expect: Expectations::default(),
            traces_rules: false,
            output,
            record,
            ready,
            place: None,
        }
    }
}
