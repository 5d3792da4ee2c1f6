//! A rule drops what conntrack calls INVALID. Where the kernel takes programs on its functions, it says what does not fit.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use netprobe_tests::{Finding, Lab, PORT, Probe, SERVER, patiently};

/// As kube-proxy has it.
const RULE: &str = "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP";

/// An established connection of the pod. The server answers one word of it, and ends it.
fn talk(lab: &Lab) -> TcpStream {
    lab.on("node").run(RULE);
    let stream = lab.on("web-0").enter(|| TcpStream::connect(SERVER).expect("connect"));
    stream.set_read_timeout(Some(patiently(Duration::from_secs(2)))).expect("set a limit");
    stream
}

fn says(stream: &mut TcpStream) {
    stream.write_all(b"word").expect("send");
    let _ = stream.read(&mut [0; 16]);
}

fn invalid(lab: &Lab, probe: Probe, why: &str) -> Finding {
    let finding = probe.one("conntrack-invalid");
    finding.is_at("web-0", "node", "vweb0");
    assert_eq!(finding.text("/netfilter/hook"), "forward");
    if lab.shows("nf_conntrack_tcp_packet") {
        assert_eq!(finding.text("/confidence"), "stated");
        finding.says(why);
    } else {
        assert_eq!(finding.text("/confidence"), "likely");
        finding.says("INVALID: outside its window, or of no connection it knows");
    }
    finding
}

#[test]
fn an_answer_that_conntrack_does_not_see_makes_its_acknowledgement_invalid() {
    let Some(lab) = Lab::start("an_answer_that_conntrack_does_not_see_makes_its_acknowledgement_invalid") else {
        return;
    };
    let mut stream = talk(&lab);
    // To conntrack it is as if the answers came by another way.
    lab.on("node").nft(&format!(
        "table ip asym {{\n chain pre {{\n type filter hook prerouting priority -300;\n \
         iifname eth1 tcp sport {PORT} notrack\n }}\n}}\n"
    ));
    let probe = lab.trace("web-0");
    says(&mut stream);
    invalid(&lab, probe, "bytes that conntrack did not see the other side send");
}

#[test]
fn kprobes_tell_why_it_is_invalid_too() {
    let Some(lab) = Lab::start("kprobes_tell_why_it_is_invalid_too") else { return };
    let node = lab.on("node");
    node.set("netfilter/nf_conntrack_tcp_loose", "0");
    let mut stream = talk(&lab);
    let Some(probe) = lab.trace_by_kprobes("web-0") else { return };
    node.run("conntrack -D -p tcp");
    says(&mut stream);
    invalid(&lab, probe, "no entry of the connection");
}

#[test]
fn a_segment_of_a_connection_that_conntrack_was_made_to_forget_is_invalid() {
    let Some(lab) = Lab::start("a_segment_of_a_connection_that_conntrack_was_made_to_forget_is_invalid") else {
        return;
    };
    let node = lab.on("node");
    node.set("netfilter/nf_conntrack_tcp_loose", "0");
    let mut stream = talk(&lab);
    let probe = lab.trace("web-0");
    node.run("conntrack -D -p tcp");
    says(&mut stream);
    invalid(&lab, probe, "no entry of the connection");
}

#[test]
fn a_connection_under_way_that_conntrack_may_take_in_is_no_fault() {
    let Some(lab) = Lab::start("a_connection_under_way_that_conntrack_may_take_in_is_no_fault") else { return };
    let node = lab.on("node");
    node.set("netfilter/nf_conntrack_tcp_loose", "1");
    let mut stream = talk(&lab);
    let probe = lab.trace("web-0");
    node.run("conntrack -D -p tcp");
    says(&mut stream);
    probe.settled().silent();
}
