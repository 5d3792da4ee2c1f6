//! Whether findings become Kubernetes Events.

use std::{sync::Arc, time::Duration};

use crate::{
    cli::{live::warn, select::Select, until::duration},
    enrich::kube::events::{Counts, Events, Setup},
};

/// Options about Events.
#[derive(Debug, clap::Args)]
pub struct EventArgs {
    /// Write findings about pods as Kubernetes Events also where the API is known by a kubeconfig; in a pod they are written
    /// anyway
    #[arg(long, conflicts_with_all = ["no_kube", "inventory", "no_events"])]
    pub events: bool,

    /// Write no Kubernetes Events
    #[arg(long)]
    pub no_events: bool,

    /// How often an Event is changed at most, while its fault goes on
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub events_every: Duration,
}

impl EventArgs {
    /// Begins to write Events, where that is wanted and there is an API. `asked` is what the user calls this node.
    pub(super) fn start(
        &self,
        select: &Select,
        asked: Option<&str>,
        node: &str,
        counts: &Arc<Counts>,
    ) -> Option<Events> {
        if self.no_events || select.kube.no_kube || select.inventory.is_some() {
            return None;
        }
        let setup = Setup { node: node.to_owned(), every: self.events_every, is_asked: self.events, say: warn };
        match Events::start(&select.kube.options(asked), setup, counts) {
            Ok(Some(events)) => Some(events),
            Ok(None) if self.events => {
                warn("no kubeconfig and no service account: findings are no Events");
                None
            }
            Ok(None) => None,
            Err(error) => {
                warn(&format!("{error}; findings are no Events"));
                None
            }
        }
    }
}
