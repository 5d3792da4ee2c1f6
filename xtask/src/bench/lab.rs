//! The network of the measurements: pods, a node and a server, each a namespace.
//!
//! ```text
//! nb-pod-client 10.77.1.2 -- 10.77.1.1 nb-node 10.77.2.1 -- 10.77.2.2 nb-server
//! nb-pod-idle   10.77.3.2 -- 10.77.3.1 nb-node
//! ```

use std::process::Command;

use anyhow::{Result, bail};

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
        // The server swallows everything as it arrives: consumed, not dropped, on the sender's CPU, and no reader whose
        // speed would show. The program is `ret #4`, which is TC_ACT_STOLEN.
        run(inside(SERVER, "tc").args(["qdisc", "add", "dev", "eth0", "clsact"]))?;
        let filter = ["filter", "add", "dev", "eth0", "ingress", "bpf", "da", "bytecode", "1,6 0 0 4,"];
        run(inside(SERVER, "tc").args(filter))?;
        Ok(lab)
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
    for name in NAMESPACES {
        let _ = Command::new("ip").args(["netns", "delete", name]).output();
    }
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
