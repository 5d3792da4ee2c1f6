//! Devices that nodes have beside plain NICs: what goes wrong over them ends in the same rules, and what is sound in none.

use netprobe_tests::{Finding, Lab, PORT, SERVER, WEB_0, open};

/// Lays the network out with such devices, or says that this kernel has none.
fn laid_out(lab: &Lab, what: &str, lines: &[(&str, &str)]) -> bool {
    for (number, (place, line)) in lines.iter().enumerate() {
        let result = lab.on(place).tries(line);
        match result {
            Err(why)
                if number == 0
                    && ["Unknown device type", "qdisc kind is unknown", "Protocol not available"]
                        .iter()
                        .any(|text| why.contains(text)) =>
            {
                println!("not on this kernel: {what}");
                return false;
            }
            result => result.unwrap_or_else(|why| panic!("{place}: {line}: {why}")),
        };
    }
    true
}

/// The pod connects while it is traced, and there is nothing to say.
fn is_sound(lab: &Lab, pod: &str) {
    let probe = lab.trace(pod);
    lab.on(pod).connects(SERVER);
    lab.on(pod).exchanges(SERVER);
    probe.settled().silent();
}

fn left_by_eth0(lab: &Lab, meant: &str) -> Finding {
    let finding = lab.finding("web-0", "wrong-egress", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "eth0");
    assert_eq!(finding.text("/expected/device"), meant);
    finding
}

/// The pods' NIC is a VLAN of eth1.
const VLAN: &[(&str, &str)] = &[
    ("node", "ip link add link eth1 name eth1.20 type vlan id 20"),
    ("node", "ip addr flush dev eth1; ip addr add 172.20.20.2/24 dev eth1.20; ip link set eth1.20 up"),
    ("node", "ip -6 route flush table 2; ip route replace default via 172.20.20.1 dev eth1.20 table 2"),
    ("router", "ip link add link n1 name n1.20 type vlan id 20; ip addr flush dev n1"),
    ("router", "ip addr add 172.20.20.1/24 dev n1.20; ip link set n1.20 up"),
    ("router", "ip route replace 10.61.7.0/24 via 172.20.20.2 dev n1.20"),
];

#[test]
fn a_sound_vlan_is_silent() {
    let Some(lab) = Lab::start("a_sound_vlan_is_silent") else { return };
    if laid_out(&lab, "VLAN devices", VLAN) {
        is_sound(&lab, "web-0");
    }
}

#[test]
fn an_empty_table_names_the_vlan_that_was_meant() {
    let Some(lab) = Lab::start("an_empty_table_names_the_vlan_that_was_meant") else { return };
    if laid_out(&lab, "VLAN devices", VLAN) {
        lab.on("node").run("ip route flush table 2");
        left_by_eth0(&lab, "eth1.20").says("table 2 (eth1.20), which is empty");
    }
}

#[test]
fn a_vlan_that_goes_down_is_named() {
    let Some(lab) = Lab::start("a_vlan_that_goes_down_is_named") else { return };
    if laid_out(&lab, "VLAN devices", VLAN) {
        let probe = lab.trace("web-0");
        lab.on("node").run("ip link set eth1.20 down");
        drop(lab.on("web-0").cannot_connect(SERVER));
        let finding = probe.one("wrong-egress");
        finding.is_at("web-0", "node", "eth0");
        assert_eq!(finding.text("/expected/device"), "eth1.20");
        finding.says("eth1.20 is down");
    }
}

/// The pods' NIC is a bond with eth1 as its one member.
const BOND: &[(&str, &str)] = &[
    ("node", "ip link add bond0 type bond mode active-backup miimon 50"),
    ("node", "ip link set eth1 down; ip addr flush dev eth1; ip link set eth1 master bond0; ip link set bond0 up"),
    ("node", "ip addr add 172.20.20.2/24 dev bond0; ip route replace default via 172.20.20.1 dev bond0 table 2"),
    ("router", "ip neigh flush all"),
    (
        "node",
        "for i in 1 2 3 4 5 6 7 8 9 10; do ip link show bond0 | grep -q 'state UP' && exit; sleep 0.2; done; exit 1",
    ),
];

#[test]
fn a_sound_bond_is_silent() {
    let Some(lab) = Lab::start("a_sound_bond_is_silent") else { return };
    if laid_out(&lab, "bonds", BOND) {
        is_sound(&lab, "web-0");
    }
}

#[test]
fn an_empty_table_names_the_bond_that_was_meant() {
    let Some(lab) = Lab::start("an_empty_table_names_the_bond_that_was_meant") else { return };
    if laid_out(&lab, "bonds", BOND) {
        lab.on("node").run("ip route flush table 2");
        left_by_eth0(&lab, "bond0");
    }
}

#[test]
fn a_bond_whose_members_have_no_carrier_is_named() {
    let Some(lab) = Lab::start("a_bond_whose_members_have_no_carrier_is_named") else { return };
    if laid_out(&lab, "bonds", BOND) {
        lab.on("router").run("ip link set n1 down");
        lab.on("node").run("sleep 0.5");
        let finding = lab.finding("web-0", "link-down", |lab| drop(lab.on("web-0").finds_no_neighbour(SERVER)));
        finding.is_at("web-0", "node", "bond0");
        finding.says("has no carrier");
    }
}

/// The pod and eth1 are in a VRF with a table of its own.
const VRF: &[(&str, &str)] = &[
    ("node", "ip link add blue type vrf table 100"),
    ("node", "ip link set blue up; ip link set eth1 master blue; ip link set vweb0 master blue"),
    ("node", "ip rule del pref 1536 from 10.61.7.10; ip rule del pref 512"),
    ("node", "ip route replace default via 172.20.20.1 dev eth1 table 100"),
    ("node", "ip route replace 10.61.7.10/32 dev vweb0 table 100"),
];

#[test]
fn a_sound_vrf_is_silent() {
    let Some(lab) = Lab::start("a_sound_vrf_is_silent") else { return };
    if laid_out(&lab, "VRFs", VRF) {
        is_sound(&lab, "web-0");
    }
}

#[test]
fn a_vrf_whose_table_lacks_the_route_is_told() {
    let Some(lab) = Lab::start("a_vrf_whose_table_lacks_the_route_is_told") else { return };
    if laid_out(&lab, "VRFs", VRF) {
        lab.on("node").run("ip route del default table 100");
        left_by_eth0(&lab, "eth1").says("table 100");
    }
}

/// A pod by ipvlan on eth1: its packets meet the node's device and nothing else of the node.
fn ipvlan(lab: &Lab) -> bool {
    let pod = lab.on("web-1").name();
    let add = format!("ip link add link eth1 name ipv1 netns {pod} type ipvlan mode l2");
    laid_out(
        lab,
        "ipvlan",
        &[
            ("node", &add),
            ("node", "ip link del vweb1"),
            ("web-1", "ip link set ipv1 name eth0; ip addr add 10.61.7.11/32 dev eth0; ip link set eth0 up"),
            ("web-1", "ip route add 172.20.20.1 dev eth0; ip route add default via 172.20.20.1 dev eth0"),
            ("router", "ip route add 10.61.7.11/32 dev n1"),
        ],
    )
}

#[test]
fn a_sound_pod_by_ipvlan_is_silent() {
    let Some(lab) = Lab::start("a_sound_pod_by_ipvlan_is_silent") else { return };
    if ipvlan(&lab) {
        is_sound(&lab, "web-1");
    }
}

#[test]
fn a_gateway_that_does_not_answer_a_pod_by_ipvlan_is_named() {
    let Some(lab) = Lab::start("a_gateway_that_does_not_answer_a_pod_by_ipvlan_is_named") else { return };
    if ipvlan(&lab) {
        lab.on("router").run("ip link set n1 arp off");
        let finding =
            lab.finding("web-1", "neighbour-unresolved", |lab| drop(lab.on("web-1").finds_no_neighbour(SERVER)));
        finding.is_at("web-1", "pod", "eth0");
        finding.says("172.20.20.1");
    }
}

#[test]
fn what_a_pod_by_ipvlan_loses_outside_left_the_node() {
    let Some(lab) = Lab::start("what_a_pod_by_ipvlan_loses_outside_left_the_node") else { return };
    if ipvlan(&lab) {
        lab.on("router").nft("table ip t { chain c { type filter hook forward priority 0; policy drop; }; }");
        let finding = lab.finding("web-1", "no-reply", |lab| drop(lab.on("web-1").cannot_connect(SERVER)));
        finding.is_at("web-1", "node", "eth1");
    }
}

/// The other end of the node's tunnels, and the way that is meant for what they send.
const FAR: &[(&str, &str)] = &[
    ("node", "ip rule add pref 700 to 172.20.30.1 lookup 3; ip route add 172.20.30.1 via 172.20.20.1 dev eth1 table 3"),
    (
        "router",
        "ip addr add 172.20.30.1/32 dev lo; nft 'add table ip far; \
         add chain ip far in { type filter hook prerouting priority 0; }; \
         add rule ip far in iifname n0 ip daddr 172.20.30.1 drop'",
    ),
    // A Geneve device takes packets of its far end's address alone.
    ("router", "ip route add 172.20.20.2/32 dev n1 src 172.20.30.1"),
];

fn ipip(lab: &Lab) -> bool {
    laid_out(
        lab,
        "IPIP tunnels",
        &[
            ("node", "ip link add tun0 type ipip local 172.20.20.2 remote 172.20.30.1 ttl 64"),
            ("node", "ip link set tun0 up; ip route replace default dev tun0 table 2"),
            ("router", "ip link add tun0 type ipip local 172.20.30.1 remote 172.20.20.2 ttl 64; ip link set tun0 up"),
            ("router", "ip route add 10.61.7.10/32 dev tun0"),
        ],
    ) && laid_out(lab, "", FAR)
}

/// A tunnel of Ethernet frames; `kind` are its words but for the far end's address.
fn overlay(lab: &Lab, what: &str, kind: &str) -> bool {
    let near = format!("ip link add tun0 address 02:5a:99:00:00:01 type {kind} remote 172.20.30.1");
    let far = format!("ip link add tun0 address 02:5a:99:00:00:02 type {kind} remote 172.20.20.2");
    laid_out(
        lab,
        what,
        &[
            ("node", &near),
            ("node", "ip addr add 172.31.0.1/30 dev tun0; ip link set tun0 up"),
            // As overlays do: nobody asks through the tunnel.
            ("node", "ip neigh replace 172.31.0.2 lladdr 02:5a:99:00:00:02 dev tun0"),
            ("node", "ip route replace default via 172.31.0.2 dev tun0 table 2"),
            ("router", &far),
            (
                "router",
                "ip addr add 172.31.0.2/30 dev tun0; ip link set tun0 up; ip route add 10.61.7.10/32 via 172.31.0.1",
            ),
        ],
    ) && laid_out(lab, "", FAR)
}

fn geneve(lab: &Lab) -> bool {
    overlay(lab, "Geneve tunnels", "geneve id 7")
}

/// A VXLAN, number 7, between the node and the router.
pub(crate) fn vxlan(lab: &Lab) -> bool {
    overlay(lab, "VXLAN tunnels", "vxlan id 7 dstport 4789 nolearning")
}

/// What the tunnel sends leaves by another NIC than the one meant for it.
fn outer_left_by_eth0(lab: &Lab) {
    lab.on("node").run("ip route flush table 3");
    let finding = left_by_eth0(lab, "eth1");
    finding.says("policy rule 700 (from all to 172.20.30.1 lookup 3) sends it to table 3 (eth1), which is empty");
    finding.says("carries for shop/web-0");
}

#[test]
fn a_sound_ipip_tunnel_is_silent() {
    let Some(lab) = Lab::start("a_sound_ipip_tunnel_is_silent") else { return };
    if ipip(&lab) {
        is_sound(&lab, "web-0");
    }
}

#[test]
fn a_sound_vxlan_is_silent() {
    let Some(lab) = Lab::start("a_sound_vxlan_is_silent") else { return };
    if vxlan(&lab) {
        is_sound(&lab, "web-0");
    }
}

#[test]
fn what_a_vxlan_sends_by_the_wrong_nic_is_told() {
    let Some(lab) = Lab::start("what_a_vxlan_sends_by_the_wrong_nic_is_told") else { return };
    if vxlan(&lab) {
        outer_left_by_eth0(&lab);
    }
}

#[test]
fn a_sound_geneve_tunnel_is_silent() {
    let Some(lab) = Lab::start("a_sound_geneve_tunnel_is_silent") else { return };
    if geneve(&lab) {
        is_sound(&lab, "web-0");
    }
}

#[test]
fn what_a_geneve_tunnel_sends_by_the_wrong_nic_is_told() {
    let Some(lab) = Lab::start("what_a_geneve_tunnel_sends_by_the_wrong_nic_is_told") else { return };
    if geneve(&lab) {
        outer_left_by_eth0(&lab);
    }
}

/// A WireGuard tunnel to the router; `allowed` are the addresses behind the peer.
fn wireguard(lab: &Lab, allowed: &str) -> bool {
    let folder = lab.directory().display();
    let far = format!(
        "wg set wg0 listen-port 51820 private-key {folder}/far peer $(wg pubkey < {folder}/near) allowed-ips 10.61.7.0/24 \
         endpoint 172.20.20.2:51820"
    );
    let near = format!(
        "wg set wg0 listen-port 51820 private-key {folder}/near peer $(wg pubkey < {folder}/far) allowed-ips {allowed} \
         endpoint 172.20.30.1:51820"
    );
    laid_out(
        lab,
        "WireGuard",
        &[
            ("node", "ip link add wg0 type wireguard"),
            ("node", &format!("umask 77; wg genkey > {folder}/near; wg genkey > {folder}/far; {near}")),
            ("node", "ip link set wg0 up; ip route replace default dev wg0 table 2"),
            ("router", &format!("ip link add wg0 type wireguard; {far}; ip link set wg0 up")),
            ("router", "ip route add 10.61.7.10/32 dev wg0"),
        ],
    ) && laid_out(lab, "", FAR)
}

#[test]
fn a_sound_wireguard_tunnel_is_silent() {
    let Some(lab) = Lab::start("a_sound_wireguard_tunnel_is_silent") else { return };
    if wireguard(&lab, "0.0.0.0/0") {
        is_sound(&lab, "web-0");
    }
}

#[test]
fn a_wireguard_tunnel_without_an_answer_is_not_taken_for_a_loss_outside() {
    let Some(lab) = Lab::start("a_wireguard_tunnel_without_an_answer_is_not_taken_for_a_loss_outside") else { return };
    if wireguard(&lab, "0.0.0.0/0") {
        lab.on("node").run("ip route flush table 3");
        let finding = lab.finding("web-0", "no-reply", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
        finding.is_at("web-0", "node", "wg0");
        finding.says("what wg0 makes of it is not followed");
    }
}

#[test]
fn a_destination_that_no_wireguard_peer_has_is_told() {
    let Some(lab) = Lab::start("a_destination_that_no_wireguard_peer_has_is_told") else { return };
    if wireguard(&lab, "192.0.2.0/24") {
        let finding = lab.finding("web-0", "no-route", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
        finding.is_at("web-0", "node", "wg0");
        finding.says("allowed-ips");
    }
}

/// What netem on eth1 loses is told, where the node asks nobody for its gateway and where even that is lost.
fn lost_on_purpose(lab: &Lab, neighbour: &str, limit: impl Fn(&Lab) -> std::io::Error) {
    let set = format!("tc qdisc add dev eth1 root netem loss 100%; {neighbour}");
    if laid_out(lab, "netem", &[("node", &set)]) {
        let finding = lab.finding("web-0", "qdisc-drop", |lab| drop(limit(lab)));
        finding.is_at("web-0", "node", "eth1");
        finding.says("loses packets on purpose");
        finding.says("tc qdisc del dev eth1 root");
    }
}

#[test]
fn a_qdisc_that_loses_on_purpose_is_told() {
    let Some(lab) = Lab::start("a_qdisc_that_loses_on_purpose_is_told") else { return };
    let neighbour = "ip neigh replace 172.20.20.1 lladdr 02:5a:20:00:00:02 dev eth1 nud permanent";
    lost_on_purpose(&lab, neighbour, |lab| lab.on("web-0").cannot_connect(SERVER));
}

#[test]
fn a_qdisc_that_loses_even_what_asks_for_the_gateway_is_told() {
    let Some(lab) = Lab::start("a_qdisc_that_loses_even_what_asks_for_the_gateway_is_told") else { return };
    lost_on_purpose(&lab, "ip neigh flush dev eth1", |lab| lab.on("web-0").finds_no_neighbour(SERVER));
}

/// A service by IPVS, as kube-proxy makes it; `servers` are the words that add its endpoints.
fn ipvs(lab: &Lab, servers: &str) -> bool {
    let service = format!("ipvsadm -A -t 10.96.0.10:{PORT} -s rr; {servers}");
    laid_out(
        lab,
        "IPVS",
        &[
            ("node", "ipvsadm -L -n"),
            ("node", "ip link add kube-ipvs0 type dummy; ip addr add 10.96.0.10/32 dev kube-ipvs0"),
            ("node", "echo 1 > /proc/sys/net/ipv4/vs/conntrack"),
            ("node", &service),
        ],
    )
}

#[test]
fn a_sound_service_by_ipvs_is_silent() {
    let Some(lab) = Lab::start("a_sound_service_by_ipvs_is_silent") else { return };
    if ipvs(&lab, &format!("ipvsadm -a -t 10.96.0.10:{PORT} -r 10.61.7.11:{PORT} -m")) {
        let probe = lab.trace("web-0");
        lab.on("web-0").connects(open([10, 96, 0, 10]));
        probe.settled().silent();
    }
}

#[test]
fn a_service_by_ipvs_without_endpoints_is_told() {
    let Some(lab) = Lab::start("a_service_by_ipvs_without_endpoints_is_told") else { return };
    if ipvs(&lab, "true") {
        let to = open([10, 96, 0, 10]);
        let finding = lab.finding("web-0", "service-no-endpoints", |lab| drop(lab.on("web-0").cannot_connect(to)));
        finding.is_at("web-0", "node", WEB_0.device);
        finding.says("10.96.0.10:3306");
        finding.says("IPVS");
    }
}
