//! `netprobe check`

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::builder::NonEmptyStringValueParser;

use super::{output::Output, privileges::USED, select::Kube};
use crate::{
    enrich::kube::{Line, survey},
    probe::{attach, btf::KernelBtf, classifiers::Way, functions, host, offsets},
};

const EXAMPLES: &str = "\
Examples:
  netprobe check
      what can be seen here, what is missing, and what is lost by it
  netprobe check -o json
      the same, for a program";

/// Options of `netprobe check`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// How to show it.
    #[command(flatten)]
    pub output: Output,

    /// Which Kubernetes API to ask.
    #[command(flatten)]
    pub kube: Kube,

    /// Kubernetes' name of this node; looked up by the host name without it
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node_name: Option<String>,

    /// Read the kernel's types from here
    #[arg(long, hide = true, value_name = "PATH")]
    pub btf: Option<PathBuf>,
}

/// What netprobe can do here.
#[derive(serde::Serialize)]
struct Report {
    kind: &'static str,
    time: String,
    node: String,
    kernel: String,
    privileges: Vec<Item>,
    hooks: Vec<Item>,
    network: Vec<Item>,
    names: Vec<Item>,
}

/// One line: what, whether it is there, and what is lost without it.
#[derive(serde::Serialize)]
struct Item {
    what: String,
    ok: bool,
    note: String,
}

impl Item {
    fn new(what: impl Into<String>, ok: bool, note: impl Into<String>) -> Self {
        Self { what: what.into(), ok, note: note.into() }
    }
}

/// Runs `netprobe check`.
///
/// # Errors
///
/// A kernel without BTF, and whatever the output returns.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let btf = KernelBtf::load(args.btf.as_deref())?;
    let host = host::read(&btf, args.node_name.clone())?;
    let clock = crate::render::Clock::new(&host);
    let report = Report {
        kind: "check",
        time: clock.rfc3339(host::mono_ns()),
        node: host.node.clone(),
        kernel: host.kernel.clone(),
        privileges: privileges(),
        hooks: hooks(&btf, &host, args.btf.is_none()),
        network: network(),
        names: names(args),
    };
    let mut out = io::stdout().lock();
    match args.output.format {
        crate::render::Format::Json => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        crate::render::Format::Text => text(&mut out, &report)?,
    }
    Ok(())
}

/// What names Kubernetes would give.
fn names(args: &CheckArgs) -> Vec<Item> {
    if args.kube.no_kube {
        return Vec::new();
    }
    let lines = survey(&args.kube.options(args.node_name.as_deref()));
    lines.into_iter().map(|Line { what, ok, note }| Item { what, ok, note }).collect()
}

fn privileges() -> Vec<Item> {
    // Where /proc does not tell, nothing is there.
    let effective = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    USED.iter()
        .map(|used| Item::new(used.capability.to_string(), effective.contains(&used.capability), used.purpose))
        .collect()
}

fn hooks(btf: &KernelBtf, host: &crate::model::facts::HostFacts, is_here: bool) -> Vec<Item> {
    // The kernel of other types cannot be asked.
    let way = if is_here { functions::Way::of() } else { Ok(functions::Way::Fentry) };
    // Said once, in the row of its own.
    let refused = way.as_ref().err().map(|_| "this kernel takes no program on its functions");
    let mut items: Vec<Item> = attach::survey(btf, refused)
        .into_iter()
        .map(|row| {
            Item::new(
                row.probe.program,
                row.obstacle.is_none(),
                row.obstacle.unwrap_or_else(|| row.probe.shows.to_owned()),
            )
        })
        .collect();
    if is_here {
        let (ok, note) = match &way {
            Ok(way) => (true, format!("by {}", way.name())),
            Err(why) => (false, format!("cannot show which rule or chain it was: {why}")),
        };
        items.push(Item::new("kernel functions", ok, note));
    }
    items.push(match offsets::config(btf, way.is_ok()) {
        Ok(config) => {
            let conntrack = config.offsets.ct_orig != netprobe_common::config::ABSENT;
            let note = if conntrack {
                "NAT from the packet's own entry"
            } else {
                "cannot show NAT: nf_conntrack is not loaded"
            };
            Item::new("conntrack", conntrack, note)
        }
        Err(error) => Item::new("kernel structs", false, format!("{error:#}")),
    });
    items.push(match Way::of(btf) {
        Ok(way) => Item::new(
            "tc classifiers",
            true,
            format!("packets and bytes by pod and device (flows, nat); {}", held(way)),
        ),
        Err(error) => Item::new("tc classifiers", false, format!("{error:#}")),
    });
    let reasons = host.drop_reasons.len();
    items.push(Item::new("drop reasons", reasons > 0, format!("{reasons} known to this kernel")));
    let named = !host::symbols().is_empty();
    let note = if named {
        "functions have names"
    } else {
        "functions have no names: no netfilter hook, no look-up roles (kernel.kptr_restrict, CAP_SYSLOG)"
    };
    items.push(Item::new("kernel symbols", named, note));
    items
}

/// What holds classifiers at their devices.
const fn held(way: Way) -> &'static str {
    match way {
        Way::Tcx => "held by TCX links",
        Way::Clsact => {
            "filters of a clsact qdisc, with a guardian that removes them if netprobe is killed (TCX links: Linux 6.6)"
        }
    }
}

/// Programs of the node that name netfilter rules.
fn tools() -> impl Iterator<Item = Item> {
    crate::facts::netfilter_tools().into_iter().map(|(name, tool, what)| {
        let note = match &tool {
            Err(error) => format!("{error:#}: nothing {what}"),
            Ok(tool) if tool.is_hosts() => format!("{what} (the host's)"),
            Ok(_) => what.to_owned(),
        };
        Item::new(name, tool.is_ok(), note)
    })
}

fn network() -> Vec<Item> {
    let mut items = namespaces();
    items.extend(tools());
    items
}

fn namespaces() -> Vec<Item> {
    match crate::facts::FactsReader::start(crate::facts::Options { now_ns: host::mono_ns(), ..Default::default() }) {
        Ok((_, facts)) => {
            let pods = facts.namespaces.len().saturating_sub(1);
            let node = facts.node();
            let uplinks = node.map_or_else(Vec::new, |n| n.uplinks().iter().map(|i| n.device(*i)).collect());
            vec![
                Item::new("namespaces", true, format!("{pods} linked into this node")),
                Item::new(
                    "ways out",
                    !uplinks.is_empty(),
                    if uplinks.is_empty() { "no route has a gateway".to_owned() } else { uplinks.join(", ") },
                ),
            ]
        }
        Err(error) => vec![Item::new("namespaces", false, format!("{error:#}"))],
    }
}

fn text(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    writeln!(out, "{} (Linux {})", crate::render::escape(&report.node), crate::render::escape(&report.kernel))?;
    let Report { privileges, hooks, network, names, .. } = report;
    let all = [("privileges", privileges), ("hooks", hooks), ("network", network), ("names", names)];
    for (title, items) in all.into_iter().filter(|(_, items)| !items.is_empty()) {
        writeln!(out, "{title}")?;
        for item in items {
            let mark = if item.ok { "ok     " } else { "MISSING" };
            writeln!(out, "  {mark} {:<23} {}", item.what, crate::render::escape(&item.note))?;
        }
    }
    Ok(())
}
