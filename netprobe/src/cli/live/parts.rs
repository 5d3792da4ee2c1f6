//! What is read and attached at start, side by side.

use anyhow::{Context, Result, anyhow, bail};
use caps::{CapSet, Capability};
use netprobe_common::config::{Config, MODE_ALL, MODE_DNS, MODE_DROPS, MODE_TC, TC_CAPTURE, TC_DNS, TC_FLOWS};

use super::{
    FlowsAt, Request, Watch,
    cluster::Cluster,
    sharing::{self, Sharing},
    whom::whom,
};
use crate::{
    cli::select::Target,
    enrich::select::Followed,
    facts::{FactsReader, Options as FactsOptions},
    model::{
        facts::{HostFacts, NodeFacts},
        inventory::Inventory,
        symbols::Symbols,
    },
    probe::{
        attach::{self, Attached},
        btf::KernelBtf,
        functions, host, offsets,
    },
};

/// What is read and attached at start, side by side.
pub(super) struct Parts {
    pub(super) attached: Attached,
    pub(super) host: HostFacts,
    pub(super) symbols: Symbols,
    pub(super) facts: FactsReader,
    pub(super) node: NodeFacts,
    pub(super) inventory: Inventory,
    pub(super) sharing: Sharing,
}

impl Parts {
    pub(super) fn gather(
        request: &Request<'_>,
        target: &Target,
        cluster: &mut Cluster,
        watch: Watch,
        filter: Config,
    ) -> Result<(Self, Followed)> {
        let here = request.record.node_name.clone();
        std::thread::scope(|scope| {
            let prepared = scope.spawn(attach::prepare);
            let facts = scope.spawn(|| facts(cluster, target));
            let btf = KernelBtf::load(request.ready.btf.as_deref())?;
            let mut host = host::read(&btf, here)?;
            let Facts { reader: facts, node, inventory, name, sharing, has_names } =
                facts.join().map_err(|_| anyhow!("reading the node's network failed"))??;
            host.node = name.unwrap_or(host.node);
            let followed = whom(target, &inventory, &node, &host.node)?;
            if !followed.cgroups.is_empty() && !followed.all && followed.namespaces.is_empty() {
                sharing::must_serve(request, watch, &followed)?;
            }
            let way = functions::Way::of();
            let follows = watch == Watch::Packets;
            let mut config = Config { ..offsets::config(&btf, follows && way.is_ok())? };
            (config.filter, config.filter_tests, config.filter_clauses) =
                (filter.filter, filter.filter_tests, filter.filter_clauses);
            let (mode, tc) = match watch {
                Watch::Packets if request.dns.is_some() => (MODE_DNS, TC_DNS),
                Watch::Packets => (0, 0),
                Watch::Drops => (MODE_DROPS, 0),
                Watch::Flows => (MODE_TC, TC_FLOWS | TC_DNS),
                Watch::Translations => (MODE_TC, TC_FLOWS),
                // Of the tracepoints `kfree_skb` alone, as for drops.
                Watch::Capture(_) => (MODE_DROPS, TC_CAPTURE),
                Watch::Agent(FlowsAt::Off) => (MODE_DROPS, 0),
                Watch::Agent(_) => (MODE_DROPS, TC_FLOWS),
            };
            if let Watch::Capture(snap) = watch {
                config.snap = snap;
            }
            config.mode = if followed.all { MODE_ALL } else { 0 } | mode;
            config.tc = tc;
            let prepared = prepared.join().map_err(|_| anyhow!("reading the kernel's BTF failed"))??;
            config.has_cgroups &= u32::from(has_names);
            let attached = Attached::new(&config, &btf, prepared, way)?;
            Ok((Self { attached, host, symbols: host::symbols(), facts, node, inventory, sharing }, followed))
        })
    }
}

/// The node's network, and who is who in it.
struct Facts {
    reader: FactsReader,
    node: NodeFacts,
    inventory: Inventory,
    /// Kubernetes' name of this node.
    name: Option<String>,
    sharing: Sharing,
    /// Pods have names, or will have.
    has_names: bool,
}

/// Who is who comes first: by it pods are told from the world outside.
fn facts(cluster: &mut Cluster, target: &Target) -> Result<Facts> {
    let inventory = cluster.first(target)?;
    let pod_addresses = cluster.near(&inventory).unwrap_or_default();
    let now_ns = host::mono_ns();
    let (reader, mut node) = FactsReader::start(FactsOptions { pod_addresses, now_ns })?;
    let name = cluster.node().map(str::to_owned);
    let mut sharing = Sharing::default();
    node.shared = sharing.look(&inventory, name.as_deref(), now_ns).unwrap_or_default();
    let has_names = !inventory.pods.is_empty() || cluster.has_source();
    Ok(Facts { reader, node, inventory, name, sharing, has_names })
}

/// To load programs, to look into the pods' namespaces, and to hear of their changes.
const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN, Capability::CAP_NET_BROADCAST];

/// Whether this process may do what a live run does.
///
/// # Errors
///
/// There is no /proc.
pub fn is_privileged() -> Result<bool> {
    let effective = caps::read(None, CapSet::Effective).context("read our capabilities")?;
    Ok(NEEDED.iter().all(|needed| effective.contains(needed)))
}

/// Says what is missing where it may not.
///
/// # Errors
///
/// It may not.
pub fn must_be_privileged() -> Result<()> {
    if !is_privileged()? {
        bail!(
            "not enough privileges to load BPF programs and to look into pods' namespaces: run it with sudo, \
             or grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_NET_BROADCAST"
        );
    }
    Ok(())
}
