//! Nothing listens at that port.

use std::io::ErrorKind;

use netprobe_tests::{Lab, WEB_1, closed, open};

fn story(lab: &Lab, to: std::net::SocketAddr) {
    let finding = lab.finding("web-0", "port-closed", |lab| {
        assert_eq!(lab.on("web-0").cannot_connect(to).kind(), ErrorKind::ConnectionRefused);
    });
    assert_eq!(finding.text("/at/namespace"), "pod");
    assert!(matches!(finding.text("/pod/name"), "web-0" | "web-1"));
    finding.says("9999");
    finding.is_whole();
}

#[test]
fn a_closed_port_of_another_pod_is_told() {
    let Some(lab) = Lab::start("a_closed_port_of_another_pod_is_told") else { return };
    story(&lab, closed(WEB_1.v4));
}

#[test]
fn a_closed_port_is_told_for_ipv6_too() {
    let Some(lab) = Lab::start("a_closed_port_is_told_for_ipv6_too") else { return };
    story(&lab, closed(WEB_1.v6));
}

#[test]
fn a_redirect_in_the_pod_that_is_called_is_told() {
    let Some(lab) = Lab::start("a_redirect_in_the_pod_that_is_called_is_told") else { return };
    lab.on("web-1").run("iptables -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006");
    let finding = lab.finding("web-1", "port-closed", |lab| drop(lab.on("web-0").cannot_connect(open(WEB_1.v4))));
    assert_eq!(finding.text("/at/namespace"), "pod");
    finding.says("15006 tcp, where a redirect in the pod sent what was meant for");
}
