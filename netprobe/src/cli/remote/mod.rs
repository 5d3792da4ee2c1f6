//! Commands from elsewhere: the agent's pod on the node runs them, by the API server's `exec`, and streams its recording;
//! it is shown here, as a run of this machine is.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use clap::builder::NonEmptyStringValueParser;

mod apart;
mod asked;
mod merge;
mod node;
mod show;
mod words;

use asked::Asked;

use super::{
    error::Silently,
    live::{Request, is_privileged},
    run::Show,
    select::{LabelSelector, Target},
    until::Until,
};
use crate::{
    enrich::{kube::agents::Gate, select::SelectError},
    model::verdict::Outcome,
    render::escape,
};

/// Where a run watches.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Which node")]
pub struct Where {
    /// Watch on this node, through the netprobe agent there; may be given again. Without it on the node of the pod
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), conflicts_with_all = ["no_kube", "inventory"])]
    pub node: Vec<String>,

    /// Watch on every node, through the agents there; where pods are named, on theirs
    #[arg(long, conflicts_with_all = ["node", "no_kube", "inventory"])]
    pub all_nodes: bool,

    /// Watch on this machine and nowhere else
    #[arg(long, conflicts_with_all = ["node", "all_nodes"])]
    pub local: bool,

    /// Look for agents in this Kubernetes namespace alone
    #[arg(long, value_name = "NS", value_parser = NonEmptyStringValueParser::new())]
    pub agent_namespace: Option<String>,
}

/// Whose packets are where.
#[derive(Clone, Debug)]
pub(super) enum There {
    /// These nodes.
    Nodes(Vec<String>),
    /// All of them.
    AllNodes,
    /// The node of the one pod of that name.
    Pod { namespace: Option<String>, name: String },
    /// The nodes of these pods.
    Pods { namespace: Option<String>, name: Option<String>, labels: Option<LabelSelector> },
}

impl There {
    /// Where those pods are; none where it is not pods that are meant.
    fn of(target: Option<Target>) -> Option<Self> {
        match target? {
            Target::Pods { namespace, name: Some(name), labels: None } => Some(Self::Pod { namespace, name }),
            Target::Pods { namespace, name, labels } => Some(Self::Pods { namespace, name, labels }),
            _ => None,
        }
    }
}

/// Where the run is not for this machine, where it is.
///
/// # Errors
///
/// Nobody may be meant so.
pub(super) fn at_once(request: &Request<'_>) -> Result<Option<There>> {
    let Some(place) = request.place.filter(|place| !place.local) else { return Ok(None) };
    if place.all_nodes {
        return Ok(There::of(request.select.target()?).or(Some(There::AllNodes)));
    }
    if !place.node.is_empty() {
        return Ok(Some(There::Nodes(place.node.clone())));
    }
    let select = request.select;
    if select.kube.no_kube || select.inventory.is_some() || is_privileged()? {
        return Ok(None);
    }
    let Some(there) = There::of(select.target()?) else { return Ok(None) };
    // Without Kubernetes nothing is left but to say what is missing here.
    let options = select.kube.options(None);
    Ok(Gate::is_known(&options)?.then_some(there))
}

/// The run is not for this machine, as it turned out: where it is.
pub(super) fn instead(request: &Request<'_>, error: &anyhow::Error) -> Option<There> {
    let place = request.place.filter(|place| !place.local)?;
    let select = request.select;
    if select.kube.no_kube || select.inventory.is_some() || place.all_nodes || !place.node.is_empty() {
        return None;
    }
    match error.downcast_ref::<SelectError>()? {
        SelectError::Elsewhere { pod, .. } => {
            let (namespace, name) = pod.split_once('/')?;
            Some(There::Pod { namespace: Some(namespace.to_owned()), name: name.to_owned() })
        }
        // This machine has no pods: it is no node, so that those of the cluster are meant.
        SelectError::NeedsInventory | SelectError::NonePasses { tried: 0 }
            if Gate::is_known(&select.kube.options(None)).is_ok_and(|is_known| is_known) =>
        {
            There::of(select.target().ok()?)
        }
        _ => None,
    }
}

/// Runs the command of this process there, and shows it here. Gives how `why` ended.
///
/// # Errors
///
/// Nobody could be asked, and whatever the output returns; not all nodes were seen.
pub(super) fn watch(there: There, request: &Request<'_>, until: &Until, show: Show) -> Result<Option<Outcome>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let shown = runtime.block_on(async {
        let options = request.select.kube.options(None);
        let Some(gate) = Gate::open(&options)? else {
            bail!("there is no kubeconfig to find the cluster by: give one with --kubeconfig FILE");
        };
        let (asked, unseen) = Asked::find(&gate, there, request).await?;
        if asked.is_empty() {
            // One line each was said.
            return Err(Silently.into());
        }
        show::run(Arc::new(gate), asked, unseen, request, until, show).await
    });
    // Credentials' plugins and aborted streams may still run.
    runtime.shutdown_background();
    shown
}

/// The exit code of a verdict that came from elsewhere.
pub(super) fn code(outcome: Option<Outcome>) -> ExitCode {
    outcome.map_or(ExitCode::SUCCESS, super::why::code)
}

/// A line on stderr.
fn tell(words: &str) {
    let _ = writeln!(io::stderr(), "{}: {}", super::error::program(), escape(words));
}
