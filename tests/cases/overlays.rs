//! What other nodes send through an overlay is dropped on this one, around the pod's packet.

use super::devices::vxlan;
use netprobe_tests::{Finding, Lab, SERVER};

fn dropped(lab: &Lab, rule: &str) -> Finding {
    let finding = lab.finding("web-0", rule, |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "eth1");
    finding.says("172.20.20.2:4789 udp, which carries an answer of 172.20.40.5:3306");
    finding
}

#[test]
fn an_answer_whose_tunnel_this_node_shuts_is_told() {
    let Some(lab) = Lab::start("an_answer_whose_tunnel_this_node_shuts_is_told") else { return };
    if vxlan(&lab) {
        // As overlays do: the other node asks nobody for this one's link-layer address.
        lab.on("router").run("ip neigh replace 172.31.0.1 lladdr 02:5a:99:00:00:01 dev tun0 nud permanent");
        lab.on("node").nft(
            "table inet site {\n chain guard {\n type filter hook input priority 0;\n udp dport 4789 counter drop\n }\n}\n",
        );
        let finding = dropped(&lab, "netfilter-drop");
        assert_eq!((finding.text("/netfilter/hook"), finding.text("/netfilter/chain")), ("input", "guard"));
    }
}

#[test]
fn an_answer_with_a_network_number_that_nobody_has_is_told() {
    let Some(lab) = Lab::start("an_answer_with_a_network_number_that_nobody_has_is_told") else { return };
    if vxlan(&lab) {
        lab.on("router").run(
            "ip link add tun1 type vxlan id 8 dstport 4789 nolearning remote 172.20.20.2; ip link set tun1 up; \
             ip route replace 10.61.7.10/32 dev tun1; \
             ip neigh replace 10.61.7.10 lladdr 02:5a:99:00:00:01 dev tun1 nud permanent",
        );
        let finding = dropped(&lab, "unknown-protocol");
        finding.says("its network's number (VNI) is 8, which no overlay device here has (tun0 has 7)");
    }
}
