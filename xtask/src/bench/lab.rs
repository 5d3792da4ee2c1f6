//! The network of the measurements: pods, a node and a server, each a namespace.
//!
//! ```text
//! nb-pod-client 10.77.1.2 -- 10.77.1.1 nb-node 10.77.2.1 -- 10.77.2.2 nb-server
//! nb-pod-idle   10.77.3.2 -- 10.77.3.1 nb-node
//! nb-crowd-N    10.80.x.y -- 169.254.1.1 nb-node    (where a measurement asks for them)
//! ```

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{ask, run};

/// Where netprobe runs.
pub(crate) const NODE: &str = "nb-node";
/// The pod that sends.
pub(crate) const CLIENT: &str = "nb-pod-client";
/// A pod that is silent unless told otherwise.
pub(crate) const IDLE: &str = "nb-pod-idle";
/// The world outside.
pub(crate) const SERVER: &str = "nb-server";
/// A packet to here is forwarded, and ends well at the server.
pub(crate) const OPEN: &str = "10.77.2.2:9000";
/// What [`Lab::drop_all`] drops.
pub(crate) const DROPPED: &str = "10.77.2.2:9999";

/// How namespaces of pods begin that a measurement asks for.
const CROWD: &str = "nb-crowd-";
const NAMESPACES: [&str; 4] = [NODE, CLIENT, IDLE, SERVER];
/// Namespace, its device, its address; the node's device, the node's address.
const LINKS: [(&str, &str, &str, &str, &str); 3] = [
    (CLIENT, "eth0", "10.77.1.2", "client0", "10.77.1.1"),
    (IDLE, "eth0", "10.77.3.2", "idle0", "10.77.3.1"),
    (SERVER, "eth0", "10.77.2.2", "uplink0", "10.77.2.1"),
];

/// The network; it is removed with this value.
pub(crate) struct Lab(());

impl Lab {
    /// Builds it, in place of what an earlier run may have left.
    pub(crate) fn new() -> Result<Self> {
        remove();
        let lab = Self(());
        for name in NAMESPACES {
            ip(&["netns", "add", name])?;
            run(inside(name, "sysctl").args([
                "-qw",
                "net.ipv6.conf.all.disable_ipv6=1",
                "net.ipv6.conf.default.disable_ipv6=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
            ]))?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        run(inside(NODE, "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
        for (name, device, address, gate, gateway) in LINKS {
            ip(&["link", "add", device, "netns", name, "type", "veth", "peer", "name", gate, "netns", NODE])?;
            for (name, device, address) in [(name, device, address), (NODE, gate, gateway)] {
                ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", device])?;
                ip(&["-n", name, "link", "set", device, "up"])?;
            }
            ip(&["-n", name, "route", "add", "default", "via", gateway])?;
            // No ARP among the packets that are measured.
            neighbour((name, device), gateway, (NODE, gate))?;
            neighbour((NODE, gate), address, (name, device))?;
        }
        ip(&["-n", NODE, "route", "add", "default", "via", "10.77.2.2"])?;
        // The server swallows everything as it arrives: consumed, not dropped, on the sender's CPU, and no reader whose
        // speed would show. The program is `ret #4`, which is TC_ACT_STOLEN.
        run(inside(SERVER, "tc").args(["qdisc", "add", "dev", "eth0", "clsact"]))?;
        let filter = ["filter", "add", "dev", "eth0", "ingress", "bpf", "da", "bytecode", "1,6 0 0 4,"];
        run(inside(SERVER, "tc").args(filter))?;
        Ok(lab)
    }

    /// Adds so many pods more, each with a device and an address of its own, routed as Calico does.
    pub(crate) fn crowd(&self, count: usize) -> Result<()> {
        let (mut links, mut node) = (String::new(), String::new());
        for number in 0..count {
            let (name, address) = (crowd_name(number), crowd_address(number));
            let mac = |side: u8| format!("02:{side:02x}:00:00:{:02x}:{:02x}", number / 256, number % 256);
            let (inner, outer) = (mac(1), mac(2));
            writeln!(links, "netns add {name}")?;
            write!(links, "link add crowd{number} netns {NODE} address {outer} type veth ")?;
            writeln!(links, "peer name eth0 netns {name} address {inner}")?;
            writeln!(node, "link set crowd{number} up")?;
            writeln!(node, "route add {address} dev crowd{number}")?;
            writeln!(node, "neighbour replace {address} lladdr {inner} dev crowd{number} nud permanent")?;
        }
        batch(&[], &links)?;
        batch(&["-n", NODE], &node)?;
        for number in 0..count {
            let (name, address) = (crowd_name(number), crowd_address(number));
            let outer = format!("02:02:00:00:{:02x}:{:02x}", number / 256, number % 256);
            run(inside(&name, "sysctl").args(["-qw", "net.ipv6.conf.all.disable_ipv6=1"]))?;
            let inner = format!(
                "link set lo up\nlink set eth0 up\naddress add {address}/32 dev eth0\n\
                 route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1\n\
                 neighbour replace 169.254.1.1 lladdr {outer} dev eth0 nud permanent\n"
            );
            batch(&["-n", &name], &inner)?;
        }
        Ok(())
    }

    /// Drops every UDP packet to port 9999 where the node forwards it.
    pub(crate) fn drop_all(&self) -> Result<()> {
        nft("add table ip bench")?;
        nft("add chain ip bench forward { type filter hook forward priority 0; }")?;
        nft("add rule ip bench forward udp dport 9999 counter drop")
    }

    /// Adds a second uplink, and a policy rule that sends the client's packets to it by a table without a route there.
    pub(crate) fn wrong_egress(&self) -> Result<()> {
        ip(&["link", "add", "uplink1", "netns", NODE, "type", "veth", "peer", "name", "eth1", "netns", SERVER])?;
        ip(&["-n", NODE, "address", "add", "10.77.4.1/24", "dev", "uplink1"])?;
        ip(&["-n", NODE, "link", "set", "uplink1", "up"])?;
        ip(&["-n", SERVER, "link", "set", "eth1", "up"])?;
        ip(&["-n", NODE, "route", "add", "10.77.4.0/24", "dev", "uplink1", "table", "2"])?;
        ip(&["-n", NODE, "rule", "add", "priority", "1536", "from", "10.77.1.2", "lookup", "2"])
    }

    /// What the rule of [`drop_all`](Self::drop_all) counted.
    pub(crate) fn dropped(&self) -> Result<u64> {
        let said = ask(inside(NODE, "nft").args(["-j", "list", "chain", "ip", "bench", "forward"]))?;
        let json: serde_json::Value = serde_json::from_str(&said)?;
        let rules = json["nftables"].as_array().into_iter().flatten();
        let mut counters = rules.flat_map(|item| item["rule"]["expr"].as_array().into_iter().flatten());
        match counters.find_map(|expression| expression["counter"]["packets"].as_u64()) {
            Some(packets) => Ok(packets),
            None => bail!("nft shows no counter in the rule that drops: {said}"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove();
    }
}

/// Removes the namespaces, where there are any.
pub(crate) fn remove() {
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let crowd = named.filter_map(|file| file.file_name().into_string().ok()).filter(|name| name.starts_with(CROWD));
    for name in NAMESPACES.map(str::to_owned).into_iter().chain(crowd) {
        let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    }
}

/// Namespace of a pod of the crowd.
pub(crate) fn crowd_name(number: usize) -> String {
    format!("{CROWD}{number}")
}

/// Address of a pod of the crowd, or of one on another node.
pub(crate) fn crowd_address(number: usize) -> Ipv4Addr {
    let [third, fourth] = [number / 250, number % 250 + 1].map(|part| u8::try_from(part).unwrap_or(u8::MAX));
    Ipv4Addr::new(10, 80, third, fourth)
}

/// `program` inside the namespace `name`. Unlike `ip netns exec` this leaves /sys as it is.
pub(crate) fn inside(name: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{name}")).arg(program);
    command
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

/// `ip` with these options on each of these lines.
fn batch(options: &[&str], lines: &str) -> Result<()> {
    let mut child = Command::new("ip").args(options).args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin is a pipe")?.write_all(lines.as_bytes()).context("write to ip")?;
    if !child.wait()?.success() {
        bail!("ip {} -batch failed; it said why above", options.join(" "));
    }
    Ok(())
}

fn nft(statement: &str) -> Result<()> {
    run(inside(NODE, "nft").arg(statement))
}

/// Tells `at` that `address` is the device `of`.
fn neighbour(at: (&str, &str), address: &str, of: (&str, &str)) -> Result<()> {
    let said = ask(Command::new("ip").args(["-json", "-n", of.0, "link", "show", of.1]))?;
    let json: serde_json::Value = serde_json::from_str(&said)?;
    let Some(mac) = json[0]["address"].as_str() else { bail!("ip shows no address of {}: {said}", of.1) };
    ip(&["-n", at.0, "neighbour", "replace", address, "lladdr", mac, "dev", at.1, "nud", "permanent"])
}
