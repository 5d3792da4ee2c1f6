//! The network of demos and tests: a node of a cluster whose CNI gives pods a NIC of their own.
//!
//! ```text
//! web-0      10.61.7.10 -- vweb0 +------+ eth0 172.20.10.2 -- 172.20.10.1 n0 +--------+
//! web-1      10.61.7.11 -- vweb1 | node |                                    | router | n2 -- server 172.20.40.5
//! db-client  10.61.7.12 -- vdb0  +------+ eth1 172.20.20.2 -- 172.20.20.1 n1 +--------+
//! ```
//!
//! IPv6 in the same places: `fd5a:61::10`, `fd5a:10::2`, `fd5a:40::5`. On the node rule 512 keeps
//! traffic to pods in the main table, rule 1536 sends each pod to table 2, and table 2's default
//! route goes by eth1; the main table's goes by eth0. The router takes packets with a pod's address
//! from eth1 only, as clouds check the source of a NIC.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::namespace::{Namespace, tool};

/// A pod of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoPod {
    /// Name; its Kubernetes namespace is [`KUBE_NAMESPACE`].
    pub name: &'static str,
    /// The node's end of its link.
    pub device: &'static str,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
}

const fn pod(name: &'static str, device: &'static str, host: u8) -> DemoPod {
    // The IPv6 address reads as the IPv4 one: 0x10 for 10.
    let digits = ((host / 10) as u16) << 4 | (host % 10) as u16;
    DemoPod { name, device, v4: Ipv4Addr::new(10, 61, 7, host), v6: Ipv6Addr::new(0xfd5a, 0x61, 0, 0, 0, 0, 0, digits) }
}

/// Kubernetes namespace of the pods.
pub const KUBE_NAMESPACE: &str = "shop";
/// The pods.
pub const PODS: [DemoPod; 3] = [pod("web-0", "vweb0", 10), pod("web-1", "vweb1", 11), pod("db-client", "vdb0", 12)];
/// A pod that [`Network::add_pod`] makes later.
pub const LATE_POD: DemoPod = pod("late-0", "vlate0", 20);
/// The server outside.
pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 20, 40, 5));
/// The server outside.
pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd5a, 0x40, 0, 0, 0, 0, 0, 5));

const ROUTER: &str = "\
addr add 172.20.10.1/24 dev n0
addr add 172.20.20.1/24 dev n1
addr add 172.20.40.1/24 dev n2
addr add fd5a:10::1/64 dev n0 nodad
addr add fd5a:20::1/64 dev n1 nodad
addr add fd5a:40::1/64 dev n2 nodad
route add 10.61.7.0/24 via 172.20.20.2
route add fd5a:61::/64 via fd5a:20::2
rule add pref 100 iif n0 from 10.61.7.0/24 blackhole
-6 rule add pref 100 iif n0 from fd5a:61::/64 blackhole
";

const SERVER: &str = "\
addr add 172.20.40.5/24 dev eth0
addr add fd5a:40::5/64 dev eth0 nodad
route add default via 172.20.40.1
route add default via fd5a:40::1
";

const NODE: &str = "\
addr add 172.20.10.2/24 dev eth0
addr add 172.20.20.2/24 dev eth1
addr add fd5a:10::2/64 dev eth0 nodad
addr add fd5a:20::2/64 dev eth1 nodad
route add default via 172.20.10.1 dev eth0
route add default via fd5a:10::1 dev eth0
route add default via 172.20.20.1 dev eth1 table 2
route add default via fd5a:20::1 dev eth1 table 2
rule add pref 512 to 10.61.7.0/24 lookup main
-6 rule add pref 512 to fd5a:61::/64 lookup main
";

/// The network; gone when dropped.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    directory: PathBuf,
    node: Namespace,
    router: Namespace,
    server: Namespace,
    pods: Vec<(DemoPod, Namespace)>,
}

impl Network {
    /// Builds it; every namespace's name begins with `prefix`.
    ///
    /// # Errors
    ///
    /// `ip` is missing or refuses, or this process may not make namespaces.
    pub fn build(prefix: &str) -> Result<Self> {
        let create = |name: &str| {
            let namespace = Namespace::create(&format!("{prefix}{name}"))?;
            settle(&namespace)?;
            anyhow::Ok(namespace)
        };
        let directory = Path::new("/run").join(prefix.trim_end_matches('-'));
        let mut network = Self {
            node: create("node")?,
            router: create("router")?,
            server: create("server")?,
            pods: Vec::new(),
            prefix: prefix.to_owned(),
            directory,
        };
        fs::create_dir_all(&network.directory).with_context(|| format!("make {}", network.directory.display()))?;
        network.wire()?;
        for pod in PODS {
            network.add_pod(pod)?;
        }
        Ok(network)
    }

    fn wire(&self) -> Result<()> {
        let Self { node, router, server, .. } = self;
        link((node, "eth0"), (router, "n0"), "02:5a:10:00:00")?;
        link((node, "eth1"), (router, "n1"), "02:5a:20:00:00")?;
        link((server, "eth0"), (router, "n2"), "02:5a:40:00:00")?;
        for namespace in [node, router] {
            namespace.set("ipv4/ip_forward", "1")?;
            namespace.set("ipv6/conf/all/forwarding", "1")?;
        }
        router.ip_batch(ROUTER)?;
        server.ip_batch(SERVER)?;
        node.ip_batch(NODE)
    }

    /// Makes a pod as a CNI does: namespace, link, addresses, routes, rules.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn add_pod(&mut self, pod: DemoPod) -> Result<()> {
        let DemoPod { name, device, v4, v6 } = pod;
        let namespace = Namespace::create(&format!("{}{name}", self.prefix))?;
        settle(&namespace)?;
        let mac = format!("ee:ee:ee:ee:{:02x}", v4.octets()[3]);
        link((&namespace, "eth0"), (&self.node, device), &mac)?;
        self.node.ip_batch(&format!(
            "addr add fe80::1/64 dev {device} nodad\n\
             route add {v4}/32 dev {device} scope link\n\
             route add {v6}/128 dev {device}\n\
             rule add pref 1536 from {v4} lookup 2\n\
             -6 rule add pref 1536 from {v6} lookup 2\n"
        ))?;
        namespace.ip_batch(&format!(
            "addr add {v4}/32 dev eth0\n\
             addr add {v6}/128 dev eth0 nodad\n\
             neigh replace 169.254.1.1 lladdr {mac}:02 dev eth0 nud permanent\n\
             neigh replace fe80::1 lladdr {mac}:02 dev eth0 nud permanent\n\
             route add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n\
             route add default via fe80::1 dev eth0\n"
        ))?;
        self.pods.push((pod, namespace));
        Ok(())
    }

    /// Takes a pod away as a CNI does: its namespace, and what leads to it.
    ///
    /// # Errors
    ///
    /// There is none of that name, or `ip` refuses.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let at = self.pods.iter().position(|(pod, _)| pod.name == name);
        let (DemoPod { v4, v6, .. }, mut namespace) =
            self.pods.remove(at.with_context(|| format!("the network has no `{name}`"))?);
        namespace.delete()?;
        self.node.ip_batch(&format!(
            "rule del pref 1536 from {v4} lookup 2\n\
             -6 rule del pref 1536 from {v6} lookup 2\n"
        ))
    }

    /// A namespace by the name that the drawing above gives it.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn on(&self, name: &str) -> Result<&Namespace> {
        match name {
            "node" => Ok(&self.node),
            "router" => Ok(&self.router),
            "server" => Ok(&self.server),
            pod => {
                let found = self.pods.iter().find(|(p, _)| p.name == pod).map(|(_, ns)| ns);
                found.with_context(|| format!("the network has no `{pod}`"))
            }
        }
    }

    /// A directory for files of this run; gone with the network.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes what `kubectl get pods,services,.. -A -o json` would print here, [`LATE_POD`] included,
    /// and returns the file's path.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn inventory(&self) -> Result<PathBuf> {
        let path = self.directory.join("inventory.json");
        let items: Vec<Value> = PODS.iter().chain([&LATE_POD]).map(pod_object).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(&path, list.to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            log::warn!("remove {}: {error}", self.directory.display());
        }
    }
}

fn pod_object(pod: &DemoPod) -> Value {
    let DemoPod { name, v4, v6, .. } = pod;
    let host = v4.octets()[3];
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": KUBE_NAMESPACE, "name": name, "uid": format!("5a61a000-0000-4000-8000-0000000000{host:02}"),
            "labels": {"app": name.rsplit_once('-').map_or(*name, |(app, _)| app)},
        },
        "spec": {"nodeName": hostname.trim()},
        "status": {"phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]},
    })
}

/// Settings of a fresh namespace, so that nothing of the host's defaults shows and nobody waits.
fn settle(namespace: &Namespace) -> Result<()> {
    for family in ["all", "default"] {
        namespace.set(&format!("ipv4/conf/{family}/rp_filter"), "0")?;
        namespace.set(&format!("ipv6/conf/{family}/disable_ipv6"), "0")?;
    }
    for setting in ["accept_dad", "accept_ra", "router_solicitations"] {
        namespace.set(&format!("ipv6/conf/default/{setting}"), "0")?;
    }
    Ok(())
}

/// A veth pair; MACs are `mac` and 01 or 02.
fn link(a: (&Namespace, &str), b: (&Namespace, &str), mac: &str) -> Result<()> {
    let [(a, a_device), (b, b_device)] = [a, b];
    let line = format!(
        "link add name {a_device} netns {} address {mac}:01 type veth peer name {b_device} netns {} address {mac}:02",
        a.name(),
        b.name()
    );
    tool("ip", &line.split(' ').collect::<Vec<_>>(), None)?;
    a.ip(&format!("link set {a_device} up"))?;
    b.ip(&format!("link set {b_device} up"))
}
