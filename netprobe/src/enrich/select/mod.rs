//! Whom the user means → namespaces and addresses to follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use super::names::Names;
use crate::model::{
    facts::NodeFacts,
    identity::Pod,
    inventory::{Inventory, PodEntry},
};

/// A test of a pod's labels.
pub type LabelTest<'a> = &'a dyn Fn(&[(String, String)]) -> bool;

/// Whom the user means.
#[derive(Clone, Copy)]
pub enum Whose<'a> {
    /// Every pod of the node, and the node itself.
    All,
    /// Pods: those that fit all that is given.
    Pods {
        /// Kubernetes namespace.
        namespace: Option<&'a str>,
        /// Name, or the start of it where only one fits.
        name: Option<&'a str>,
        /// Labels.
        labels: Option<LabelTest<'a>>,
    },
    /// A network namespace by its inode number.
    Netns {
        /// Inode number.
        inum: u32,
        /// What the user called it, for errors: `pid 4711`.
        asked: &'a str,
    },
}

/// Whom to follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Everybody: the sets below then hold every pod that is there now.
    pub all: bool,
    /// Inode numbers of namespaces.
    pub namespaces: BTreeSet<u32>,
    /// Their addresses, and those the inventory tells.
    pub addresses: BTreeSet<IpAddr>,
    /// The own cgroups of pods that share the node's namespace.
    pub cgroups: BTreeSet<u64>,
    /// Names of whom is followed, in order of name.
    pub pods: Vec<Arc<Pod>>,
}

/// Why nobody can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectError {
    /// No pod has that name.
    NoSuchPod {
        /// What was asked for.
        asked: String,
        /// Names like it, best first.
        closest: Vec<String>,
        /// Pods of this node.
        here: Vec<String>,
    },
    /// Several pods begin so.
    Ambiguous {
        /// What was asked for.
        asked: String,
        /// Pods it may mean.
        candidates: Vec<String>,
    },
    /// The pod runs on another node.
    Elsewhere {
        /// Pod.
        pod: String,
        /// Its node.
        node: String,
        /// This one.
        here: String,
    },
    /// The inventory has the pod, but no namespace here holds its addresses.
    NotHere {
        /// Pod.
        pod: String,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// The pod uses the node's own namespace, and its processes cannot be told from others.
    HostNetwork {
        /// Pod.
        pod: String,
        /// Why.
        lack: Option<String>,
    },
    /// No pod of this node fits the namespace and the labels.
    NonePasses {
        /// Pods of this node that were tried.
        tried: usize,
    },
    /// Labels and namespaces need an inventory.
    NeedsInventory,
    /// The network namespace is not linked to this node.
    NotLinked {
        /// What the user called it.
        asked: String,
    },
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPod { asked, closest, here } => no_such_pod(f, asked, closest, here),
            Self::Ambiguous { asked, candidates } => {
                write!(f, "`{}` may be {}: write more of the name", escape(asked), list(candidates, "or"))
            }
            Self::Elsewhere { pod, node, here } => {
                let (pod, node, here) = (escape(pod), escape(node), escape(here));
                write!(f, "pod {pod} runs on node {node}, not on {here}: run netprobe there")
            }
            Self::NotHere { pod, addresses } if addresses.is_empty() => {
                write!(f, "pod {} has no address yet: wait until it runs, or give --netns", escape(pod))
            }
            Self::NotHere { pod, addresses } => {
                let ips: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                let pod = escape(pod);
                write!(
                    f,
                    "pod {pod} is not on this node: no namespace here holds {}; is the inventory old?",
                    list(&ips, "or")
                )
            }
            Self::HostNetwork { pod, lack } => {
                let lack = lack.as_deref().unwrap_or("no cgroup of version 2 on this node is named after it");
                let (pod, lack) = (escape(pod), escape(lack));
                write!(f, "pod {pod} uses the node's own network, and {lack}: follow it with --all and a filter")
            }
            Self::NonePasses { tried: 0 } => {
                f.write_str("no pod of the inventory is on this node: is the inventory old?")
            }
            Self::NonePasses { tried } => {
                write!(
                    f,
                    "none of this node's {tried} pods fits the namespace and the labels: see `kubectl get pods -A --show-labels`"
                )
            }
            Self::NeedsInventory => f.write_str(
                "namespaces and labels come from Kubernetes: give --inventory FILE, or name a pod with --pod",
            ),
            Self::NotLinked { asked } => write!(
                f,
                "{} is in a network namespace that is not linked to this node's: run netprobe in the namespace that it is \
                 linked to (nsenter --net=..)",
                escape(asked)
            ),
        }
    }
}

impl std::error::Error for SelectError {}

fn no_such_pod(f: &mut fmt::Formatter<'_>, asked: &str, closest: &[String], here: &[String]) -> fmt::Result {
    write!(f, "no pod `{}`: ", escape(asked))?;
    if !closest.is_empty() {
        return write!(f, "is {} meant?", list(closest, "or"));
    }
    match here.split_at_checked(OFFERED) {
        Some((some, more)) if !more.is_empty() => {
            write!(f, "this node has {} and {} more", list(some, ","), more.len())
        }
        _ if here.is_empty() => f.write_str("this node has no pods; give --inventory FILE or --netns NAME"),
        _ => write!(f, "this node has {}", list(here, "and")),
    }
}

fn escape(text: &str) -> impl fmt::Display {
    text.escape_debug()
}

fn list(words: &[String], last: &str) -> String {
    let words: Vec<_> = words.iter().map(|w| escape(w).to_string()).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [init @ .., end] if last == "," => format!("{}, {end}", init.join(", ")),
        [init @ .., end] => format!("{} {last} {end}", init.join(", ")),
    }
}

/// Finds whom `whose` means.
///
/// # Errors
///
/// Nobody, or nobody on this node, or several where one is meant.
pub fn resolve(
    whose: Whose<'_>,
    inventory: &Inventory,
    facts: &NodeFacts,
    here: &str,
) -> Result<Followed, SelectError> {
    let names = Names::build(inventory, facts);
    let mut followed = match whose {
        Whose::All => Followed {
            all: true,
            cgroups: names.sharing().map(|(own, _)| own).collect(),
            ..follow(names.pods().map(|(inum, _)| inum), facts)
        },
        Whose::Netns { inum, .. } if facts.namespaces.contains_key(&inum) => follow([inum], facts),
        Whose::Netns { asked, .. } => return Err(SelectError::NotLinked { asked: asked.to_owned() }),
        Whose::Pods { namespace, name: Some(name), labels: None } => {
            let candidates = Candidate::all(inventory, &names);
            let pod = one(&candidates, namespace, name)?;
            pod.follow(facts, here)?
        }
        Whose::Pods { .. } if inventory.pods.is_empty() => return Err(SelectError::NeedsInventory),
        Whose::Pods { namespace, name, labels } => {
            many(&Candidate::all(inventory, &names), namespace, name, labels, facts)?
        }
    };
    followed.pods = followed.namespaces.iter().filter_map(|inum| names.namespace(*inum).yes().cloned()).collect();
    followed.pods.extend(followed.cgroups.iter().filter_map(|own| names.cgroup(*own)).map(|(_, pod)| Arc::clone(pod)));
    followed.pods.sort();
    Ok(followed)
}

/// The pod of that name among those of a cluster, or the only one whose name begins so.
///
/// # Errors
///
/// None, or several.
pub fn pod(inventory: &Inventory, namespace: Option<&str>, name: &str) -> Result<PodEntry, SelectError> {
    // Without a node there are no candidates but those of the inventory.
    let names = Names::build(inventory, &NodeFacts::default());
    let candidates = Candidate::all(inventory, &names);
    let nobody = || SelectError::NoSuchPod { asked: name.to_owned(), closest: Vec::new(), here: Vec::new() };
    one(&candidates, namespace, name)?.entry.cloned().ok_or_else(nobody)
}

fn follow(inums: impl IntoIterator<Item = u32>, facts: &NodeFacts) -> Followed {
    let namespaces: BTreeSet<u32> = inums.into_iter().collect();
    let held = namespaces.iter().filter_map(|inum| facts.namespaces.get(inum)).flat_map(|ns| &ns.addresses);
    let addresses = held.map(|a| a.net.addr()).filter(|ip| !ip.is_loopback()).collect();
    Followed { namespaces, addresses, ..Followed::default() }
}

/// A pod that may be meant.
struct Candidate<'a> {
    namespace: &'a str,
    name: &'a str,
    inums: Vec<u32>,
    /// Its own cgroup, where it shares the node's namespace.
    cgroup: Option<u64>,
    entry: Option<&'a PodEntry>,
}

impl<'a> Candidate<'a> {
    /// Pods of the inventory, and namespaces of this node that it does not name.
    fn all(inventory: &'a Inventory, names: &'a Names) -> Vec<Self> {
        let mut by_name: BTreeMap<(&str, &str), Self> = BTreeMap::new();
        let blank = |namespace, name| Self { namespace, name, inums: Vec::new(), cgroup: None, entry: None };
        for pod in &inventory.pods {
            let key = (pod.namespace.as_str(), pod.name.as_str());
            by_name.entry(key).or_insert_with(|| blank(key.0, key.1)).entry = Some(pod);
        }
        for (inum, pod) in names.pods() {
            let key = (pod.namespace.as_str(), pod.name.as_str());
            by_name.entry(key).or_insert_with(|| blank(key.0, key.1)).inums.push(inum);
        }
        for (own, pod) in names.sharing() {
            let key = (pod.namespace.as_str(), pod.name.as_str());
            by_name.entry(key).or_insert_with(|| blank(key.0, key.1)).cgroup = Some(own);
        }
        by_name.into_values().collect()
    }

    const fn is_here(&self) -> bool {
        !self.inums.is_empty() || self.cgroup.is_some()
    }

    fn title(&self) -> String {
        if self.namespace.is_empty() { self.name.to_owned() } else { format!("{}/{}", self.namespace, self.name) }
    }

    fn follow(&self, facts: &NodeFacts, here: &str) -> Result<Followed, SelectError> {
        let pod = self.title();
        let Some(entry) = self.entry.filter(|_| !self.is_here()) else {
            return Ok(Followed {
                cgroups: self.cgroup.into_iter().collect(),
                ..follow(self.inums.iter().copied(), facts)
            });
        };
        if !entry.node.is_empty() && entry.node != here {
            return Err(SelectError::Elsewhere { pod, node: entry.node.clone(), here: here.to_owned() });
        }
        if entry.host_network {
            return Err(SelectError::HostNetwork { pod, lack: facts.shared.lack.clone() });
        }
        Err(SelectError::NotHere { pod, addresses: entry.ips.clone() })
    }
}

/// The pod of that name, or the only one whose name begins so. A pod of this node goes before one elsewhere.
fn one<'a>(all: &'a [Candidate<'_>], namespace: Option<&str>, name: &str) -> Result<&'a Candidate<'a>, SelectError> {
    let asked = namespace.map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"));
    let inside = |c: &&Candidate<'_>| namespace.is_none_or(|ns| c.namespace == ns);
    let exact: Vec<_> = all.iter().filter(inside).filter(|c| c.name == name).collect();
    let begins: Vec<_> = all.iter().filter(inside).filter(|c| c.name.starts_with(name)).collect();
    for fits in [exact, begins] {
        let here: Vec<_> = fits.iter().copied().filter(|c| c.is_here()).collect();
        match (here.as_slice(), fits.as_slice()) {
            ([one], _) | ([], [one]) => return Ok(one),
            ([], []) => {}
            ([], several) | (several, _) => {
                let candidates = several.iter().map(|c| c.title()).collect();
                return Err(SelectError::Ambiguous { asked, candidates });
            }
        }
    }
    let closest = closest(all, namespace, name);
    let here = all.iter().filter(|c| c.is_here()).map(Candidate::title).collect();
    Err(SelectError::NoSuchPod { asked, closest, here })
}

/// How many names an error offers.
const OFFERED: usize = 3;

/// Names like the one that is not there.
fn closest(all: &[Candidate<'_>], namespace: Option<&str>, name: &str) -> Vec<String> {
    let asked = namespace.map(|ns| format!("{ns}/{name}"));
    let mut near: Vec<(usize, String)> = all
        .iter()
        .map(|c| {
            let alone = strsim::damerau_levenshtein(c.name, name);
            let whole = asked.as_ref().map_or(alone, |asked| strsim::damerau_levenshtein(&c.title(), asked));
            (whole.min(alone), c.title())
        })
        .filter(|(distance, _)| *distance <= 2.max(name.chars().count() / 2))
        .collect();
    near.sort();
    near.into_iter().map(|(_, title)| title).take(OFFERED).collect()
}

/// Every pod of this node that fits.
fn many(
    all: &[Candidate<'_>],
    namespace: Option<&str>,
    name: Option<&str>,
    labels: Option<LabelTest<'_>>,
    facts: &NodeFacts,
) -> Result<Followed, SelectError> {
    let here: Vec<_> = all.iter().filter(|c| c.is_here() && c.entry.is_some()).collect();
    let fits = |c: &&&Candidate<'_>| {
        namespace.is_none_or(|ns| c.namespace == ns)
            && name.is_none_or(|name| c.name == name)
            && labels.is_none_or(|test| c.entry.is_some_and(|pod| test(&pod.labels)))
    };
    let fitting: Vec<_> = here.iter().filter(fits).collect();
    if fitting.is_empty() {
        return Err(SelectError::NonePasses { tried: here.len() });
    }
    let cgroups = fitting.iter().filter_map(|c| c.cgroup).collect();
    Ok(Followed { cgroups, ..follow(fitting.iter().flat_map(|c| &c.inums).copied(), facts) })
}

#[cfg(test)]
mod tests;
