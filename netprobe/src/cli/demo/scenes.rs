//! The demos: one row each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::network::{PODS, SERVER_V4, SERVER_V6};

/// A demo: what is broken, what traffic meets it, what netprobe is to find.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Name on the command line.
    pub name: &'static str,
    /// What happens, in one sentence.
    pub sentence: &'static str,
    /// The traffic flows once before anything is broken.
    pub sound_first: bool,
    /// How it is broken.
    pub steps: &'static [Step],
    /// The connection that meets it, from web-0.
    pub to: SocketAddr,
    /// How long it is tried, milliseconds.
    pub patience_ms: u64,
    /// Rule of the finding; `None` where silence is right.
    pub expect: Option<&'static str>,
}

/// One thing done to the network.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// `ip` with these words, in that namespace.
    Ip(&'static str, &'static str),
    /// The same by a process called [`DAEMON`], which stays a while as a daemon does.
    Daemon(&'static str, &'static str),
    /// A setting, in slashes, and its value.
    Set(&'static str, &'static str, &'static str),
    /// `nft -f -` with this text.
    Nft(&'static str, &'static str),
}

/// Name of the stand-in for a CNI's daemon, which owns table 2.
pub const DAEMON: &str = "ipamd";

const fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The port where the server and the pods listen.
pub const PORT: u16 = 3306;
const CLOSED_PORT: u16 = 9999;
const NEIGHBOUR_POD: Ipv4Addr = PODS[1].v4;

/// A SYN is sent again after 1 s.
const ONE_RETRY_MS: u64 = 1300;
/// Nobody answers for a neighbour: the kernel gives up after 3 s.
const NO_NEIGHBOUR_MS: u64 = 3500;

const fn scene(name: &'static str, sentence: &'static str, steps: &'static [Step], expect: &'static str) -> Scene {
    let to = at(SERVER_V4, PORT);
    Scene { name, sentence, sound_first: false, steps, to, patience_ms: ONE_RETRY_MS, expect: Some(expect) }
}

/// Every demo, in the order of the list.
pub const SCENES: [Scene; 11] = [
    Scene {
        sound_first: true,
        ..scene(
            "wrong-nic",
            "the route behind the pods' NIC is deleted while the pod is watched: its traffic leaves by eth0",
            &[Step::Daemon("node", "route del default table 2")],
            "wrong-egress",
        )
    },
    Scene {
        sound_first: true,
        to: at(SERVER_V6, PORT),
        ..scene(
            "wrong-nic-ipv6",
            "the same with IPv6, which has rules and routes of its own",
            &[Step::Daemon("node", "-6 route del default table 2")],
            "wrong-egress",
        )
    },
    Scene {
        sound_first: true,
        ..scene(
            "rule-missing",
            "the rule that sends one pod to table 2 is gone; the other pods keep theirs",
            &[Step::Daemon("node", "rule del pref 1536 from 10.61.7.10")],
            "wrong-egress",
        )
    },
    scene(
        "no-route",
        "the pod has no default route: no packet is ever made",
        &[Step::Ip("web-0", "route del default")],
        "no-route",
    ),
    scene(
        "blackhole",
        "a blackhole route covers the server",
        &[Step::Ip("node", "route add blackhole 172.20.40.5 table 2")],
        "route-blackhole",
    ),
    scene(
        "forwarding-off",
        "the node does not forward (net.ipv4.ip_forward = 0)",
        &[Step::Set("node", "ipv4/ip_forward", "0")],
        "forwarding-off",
    ),
    scene(
        "netfilter-drop",
        "an nftables rule in hook forward drops the pod's packets",
        &[Step::Nft(
            "node",
            "table inet site {\n chain guard {\n type filter hook forward priority 0;\n \
             ip saddr 10.61.7.10 tcp dport 3306 counter drop\n }\n}\n",
        )],
        "netfilter-drop",
    ),
    Scene {
        patience_ms: NO_NEIGHBOUR_MS,
        ..scene(
            "gateway-dead",
            "the gateway behind eth1 answers no ARP (takes 3 s, as the kernel asks three times)",
            &[Step::Ip("router", "addr flush dev n1 scope global")],
            "neighbour-unresolved",
        )
    },
    scene(
        "rp-filter",
        "answers come back by eth0 and the node's strict reverse-path filter drops them",
        &[
            Step::Ip("router", "route replace 10.61.7.0/24 via 172.20.10.2"),
            Step::Set("node", "ipv4/conf/eth0/rp_filter", "1"),
        ],
        "rp-filter",
    ),
    Scene {
        to: at(IpAddr::V4(NEIGHBOUR_POD), CLOSED_PORT),
        ..scene("port-closed", "nothing listens on that port of the other pod", &[], "port-closed")
    },
    Scene { expect: None, ..scene("healthy", "nothing is broken, and nothing is found", &[], "") },
];

/// The demo of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scene> {
    SCENES.iter().find(|scene| scene.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for scene in &SCENES {
            let found = find(scene.name).expect("it is in the table");
            assert!(std::ptr::eq(found, scene) || found.sentence == scene.sentence, "{} is there twice", scene.name);
        }
        assert!(find("wrong").is_none());
    }

    #[test]
    fn only_the_healthy_network_expects_silence() {
        let silent: Vec<_> = SCENES.iter().filter(|s| s.expect.is_none()).map(|s| s.name).collect();
        assert_eq!(silent, ["healthy"]);
        assert!(SCENES.iter().all(|s| s.expect != Some("")));
    }
}
