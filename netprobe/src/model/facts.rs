//! What is true of the host and of the node's network, beside packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{asked::Readings, shared::Shared, traced::Traced};

/// What is true of the kernel; read once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Name of the node in outputs: the host name, or what `--node-name` says.
    pub node: String,
    /// `uname -r`.
    pub kernel: String,
    /// `enum skb_drop_reason` of this kernel.
    pub drop_reasons: BTreeMap<u32, String>,
    /// `enum sk_rst_reason` of this kernel; empty where it has none.
    pub reset_reasons: BTreeMap<u32, String>,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC` at start, nanoseconds.
    pub wall_offset_ns: i64,
    /// Inode number of the node's network namespace.
    pub node_netns: u32,
}

/// Links, addresses, rules, routes, neighbours and sysctls of the node's and the pods'
/// namespaces, and what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Inode number of the node's namespace.
    pub node: u32,
    /// Namespaces by inode number: the node's and the pods'.
    pub namespaces: BTreeMap<u32, NamespaceFacts>,
    /// Changes since start, oldest first, bounded.
    pub journal: Vec<Change>,
    /// Pods without a namespace of their own.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub shared: Shared,
    /// What was read on demand. A recording has the answers one by one.
    #[serde(skip)]
    pub readings: Readings,
    /// Rules of nftables that dropped packets, oldest first, bounded. A recording has them one by one.
    #[serde(skip)]
    pub traced: Vec<Traced>,
}

impl NodeFacts {
    /// The node's own namespace.
    #[must_use]
    pub fn node(&self) -> Option<&NamespaceFacts> {
        self.namespaces.get(&self.node)
    }

    /// Namespace and interface index of the other end of the node's link `ifindex`, where that end is a pod's. Both ends
    /// are asked: the kernel does not tell the one when the other moves.
    #[must_use]
    pub fn behind(&self, ifindex: u32) -> Option<(u32, u32)> {
        let link = self.node()?.links.get(&ifindex)?;
        let told = link.peer_netns.filter(|inum| *inum != self.node && self.namespaces.contains_key(inum));
        if let Some(inum) = told {
            return Some((inum, link.peer));
        }
        let mut pods = self.namespaces.values().filter(|pod| pod.inum != self.node);
        pods.find_map(|pod| {
            let ours = |l: &&Link| l.peer == ifindex && l.peer_netns == Some(self.node) && l.kind == "veth";
            pod.links.values().find(ours).map(|end| (pod.inum, end.index))
        })
    }
}

/// What a namespace is to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// The one netprobe runs in.
    #[default]
    Node,
    /// Linked into the node.
    Pod,
}

/// One network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceFacts {
    /// Inode number.
    pub inum: u32,
    /// Node or pod.
    pub kind: NamespaceKind,
    /// Name of its file in /run/netns, where it has one.
    pub name: Option<String>,
    /// Processes seen in it when it was found: a few, lowest pid first.
    pub pids: Vec<u32>,
    /// cgroup path of the first of them (cgroup v2, or the first named v1 hierarchy).
    pub cgroup: Option<String>,
    /// When it was found, `CLOCK_MONOTONIC` nanoseconds; 0 for what was there at start.
    pub since_ns: u64,
    /// Links by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of its links.
    pub addresses: Vec<Address>,
    /// Policy rules, IPv4 and IPv6, by family and then preference.
    pub rules: Vec<Rule>,
    /// Routes of all tables, IPv4 and IPv6, the local table too.
    pub routes: Vec<Route>,
    /// Neighbour entries.
    pub neighbours: Vec<Neigh>,
    /// Settings under /proc/sys/net that decide a packet's fate, by their name in dots
    /// (`net.ipv4.conf.eth0.rp_filter`); those that are there.
    pub sysctls: BTreeMap<String, String>,
}

impl NamespaceFacts {
    /// The link's name, or `if7` where the index is not known (any more).
    #[must_use]
    pub fn device(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("if{ifindex}"), |l| l.name.clone())
    }

    /// The link of that name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|l| l.name == name)
    }

    /// The table of the VRF that the link is, or belongs to.
    #[must_use]
    pub fn vrf_table(&self, link: &Link) -> Option<u32> {
        let master = self.links.get(&link.master).map_or(0, |master| master.vrf_table);
        [link.vrf_table, master].into_iter().find(|table| *table != 0)
    }

    /// A setting as a number.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<i64> {
        self.sysctls.get(name)?.trim().parse().ok()
    }

    /// Whether `ip` is one of its own addresses.
    #[must_use]
    pub fn owns(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|a| a.net.addr() == ip)
    }
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind (`veth`, `bridge`, `macvlan`, `vxlan`, ...); empty for hardware and `lo`.
    pub kind: String,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFLA_CARRIER`.
    pub carrier: bool,
    /// MTU, bytes.
    pub mtu: u32,
    /// Link-layer address as text, empty where there is none.
    pub mac: String,
    /// Index of the bridge or bond it belongs to, or 0.
    pub master: u32,
    /// Index of the peer or parent (`IFLA_LINK`), or 0.
    pub peer: u32,
    /// Inode number of the namespace the peer or parent is in, where it is another one that we know.
    pub peer_netns: Option<u32>,
    /// Queueing discipline at its root.
    pub qdisc: String,
    /// Table of a VRF (kind `vrf`); 0 for all others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vrf_table: u32,
    /// Number of the network of a VXLAN or Geneve device (VNI); 0 for all others, and where each packet's route names it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vni: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Link {
    /// A device that every new namespace gets from a module (`tunl0`, `sit0`, `gre0`, ...), and that stays down.
    #[must_use]
    pub fn is_placeholder(&self) -> bool {
        !self.up
            && matches!(
                self.name.as_str(),
                "tunl0" | "sit0" | "gre0" | "gretap0" | "erspan0" | "ip_vti0" | "ip6_vti0" | "ip6tnl0" | "ip6gre0"
            )
    }
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Interface index.
    pub ifindex: u32,
    /// Address with prefix length.
    pub net: IpNet,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Look up `Rule::table`.
    Lookup,
    /// Jump to another preference.
    Goto,
    /// Nothing.
    Nop,
    /// Drop silently.
    Blackhole,
    /// Refuse with "unreachable".
    Unreachable,
    /// Refuse with "prohibited".
    Prohibit,
}

/// A policy rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// IPv6.
    pub v6: bool,
    /// Preference: lower is asked first.
    pub preference: u32,
    /// `from`; `None` is all.
    pub src: Option<IpNet>,
    /// `to`; `None` is all.
    pub dst: Option<IpNet>,
    /// `iif`, empty for any.
    pub iif: String,
    /// `iif` names a device that is not there.
    pub iif_detached: bool,
    /// `oif`, empty for any.
    pub oif: String,
    /// `oif` names a device that is not there.
    pub oif_detached: bool,
    /// `fwmark VALUE/MASK`.
    pub mark: Option<(u32, u32)>,
    /// `ipproto`.
    pub proto: Option<u8>,
    /// `sport LOW-HIGH`.
    pub sport: Option<(u16, u16)>,
    /// `dport LOW-HIGH`.
    pub dport: Option<(u16, u16)>,
    /// `not`.
    pub invert: bool,
    /// What it does.
    pub action: RuleAction,
    /// Table to look up.
    pub table: u32,
    /// `suppress_prefixlength`, where set.
    pub suppress_prefix: Option<u32>,
    /// It leads to the table of the VRF that the packet's device belongs to (`l3mdev`); `table` is 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_vrf: bool,
    /// It has a selector that we do not evaluate (uid range, tos, tunnel id).
    pub opaque: bool,
}

/// Kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// To a next hop or a link.
    Unicast,
    /// To this host.
    Local,
    /// Broadcast, anycast, multicast.
    Special,
    /// Drop silently.
    Blackhole,
    /// Refuse with "unreachable".
    Unreachable,
    /// Refuse with "prohibited".
    Prohibit,
    /// Go on with the next rule.
    Throw,
}

/// One next hop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NextHop {
    /// Gateway, `None` on-link.
    pub gateway: Option<IpAddr>,
    /// Device, or 0.
    pub ifindex: u32,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Table id.
    pub table: u32,
    /// Destination prefix; the default route is `0.0.0.0/0` or `::/0`.
    pub dst: IpNet,
    /// Kind.
    pub kind: RouteKind,
    /// Next hops; empty for kinds without.
    pub next_hops: Vec<NextHop>,
    /// Metric.
    pub priority: u32,
    /// Preferred source address.
    pub prefsrc: Option<IpAddr>,
    /// `RTPROT_*` as `ip route` names it (`kernel`, `boot`, `static`, `dhcp`, or the number).
    pub protocol: String,
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neigh {
    /// Interface index.
    pub ifindex: u32,
    /// Address.
    pub ip: IpAddr,
    /// Link-layer address as text, empty where unresolved.
    pub mac: String,
    /// State as `ip neigh` names it (`REACHABLE`, `FAILED`, `PERMANENT`, ...).
    pub state: String,
}

/// Who made a change, as far as the kernel tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Netlink port id of the request that made it; 0 for the kernel itself.
    pub port_id: u32,
    /// The process of that number and its name, where one was there when we looked.
    pub process: Option<(u32, String)>,
    /// Inode number of that process's network namespace, where it could be read.
    pub netns: Option<u32>,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A route was added or replaced.
    RouteAdded(Route),
    /// A route was deleted; with its link where the kernel did it.
    RouteDeleted(Route),
    /// A rule was added.
    RuleAdded(Rule),
    /// A rule was deleted.
    RuleDeleted(Rule),
    /// A link appeared.
    LinkAdded(Link),
    /// A link's state changed: before, after.
    LinkChanged(Link, Link),
    /// A link went away.
    LinkDeleted(Link),
    /// An address was added.
    AddressAdded(Address),
    /// An address was deleted.
    AddressDeleted(Address),
    /// A setting changed: name, before, after.
    Sysctl(String, String, String),
    /// The namespace appeared.
    NamespaceAdded,
    /// The namespace went away.
    NamespaceDeleted,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When we were told, `CLOCK_MONOTONIC` nanoseconds.
    pub mono_ns: u64,
    /// Namespace it happened in.
    pub netns: u32,
    /// What.
    pub what: What,
    /// Who.
    pub by: Author,
}

impl Rule {
    /// The rule as `ip rule` would print its selector: `from 10.0.0.1 fwmark 0x4 lookup 2`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut words = Vec::new();
        if self.invert {
            words.push("not".to_owned());
        }
        let net = |n: &IpNet| {
            if n.prefix_len() == n.max_prefix_len() { n.addr().to_string() } else { n.to_string() }
        };
        words.push(format!("from {}", self.src.as_ref().map_or_else(|| "all".to_owned(), net)));
        if let Some(dst) = &self.dst {
            words.push(format!("to {}", net(dst)));
        }
        if let Some((value, mask)) = self.mark {
            words.push(if mask == u32::MAX {
                format!("fwmark {value:#x}")
            } else {
                format!("fwmark {value:#x}/{mask:#x}")
            });
        }
        if !self.iif.is_empty() {
            words.push(format!("iif {}{}", self.iif, if self.iif_detached { " [detached]" } else { "" }));
        }
        if !self.oif.is_empty() {
            words.push(format!("oif {}{}", self.oif, if self.oif_detached { " [detached]" } else { "" }));
        }
        words.push(match self.action {
            RuleAction::Lookup if self.by_vrf => "lookup [l3mdev-table]".to_owned(),
            RuleAction::Lookup => format!("lookup {}", table_name(self.table)),
            RuleAction::Goto => "goto".to_owned(),
            RuleAction::Nop => "nop".to_owned(),
            RuleAction::Blackhole => "blackhole".to_owned(),
            RuleAction::Unreachable => "unreachable".to_owned(),
            RuleAction::Prohibit => "prohibit".to_owned(),
        });
        words.join(" ")
    }

    /// It picks out some traffic by source, mark, input device or VRF, or by its destination for a table of its own; not
    /// all of it.
    #[must_use]
    pub fn is_selective(&self) -> bool {
        self.by_vrf
            || self.src.is_some_and(|n| n.prefix_len() > 0)
            || self.mark.is_some()
            || (self.dst.is_some() && !matches!(self.table, 253..=255))
            || (!self.iif.is_empty() && self.iif != "lo")
    }
}

/// `main`, `local`, `default`, or the number.
#[must_use]
pub fn table_name(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        other => other.to_string(),
    }
}

impl NamespaceFacts {
    /// Interface indexes that carry a route with a gateway: the ways out of this namespace.
    #[must_use]
    pub fn uplinks(&self) -> BTreeSet<u32> {
        self.uplinks_of(false).union(&self.uplinks_of(true)).copied().collect()
    }

    /// The same of one family.
    #[must_use]
    pub fn uplinks_of(&self, v6: bool) -> BTreeSet<u32> {
        self.routes
            .iter()
            .filter(|r| r.dst.addr().is_ipv6() == v6)
            .flat_map(|r| &r.next_hops)
            .filter(|h| h.gateway.is_some() && h.ifindex != 0)
            .map(|h| h.ifindex)
            .collect()
    }
}
