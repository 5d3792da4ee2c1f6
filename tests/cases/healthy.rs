//! Nothing is wrong, and nothing is said.

use netprobe_tests::{Lab, SERVER, SERVER6, WEB_1, open};

fn all_traffic(lab: &Lab) {
    let web = lab.on("web-0");
    for to in [SERVER, SERVER6, open(WEB_1.v4), open(WEB_1.v6)] {
        web.connects(to);
        web.exchanges(to);
    }
}

#[test]
fn a_healthy_pod_is_followed_in_silence() {
    let Some(lab) = Lab::start("a_healthy_pod_is_followed_in_silence") else { return };
    let probe = lab.trace("web-0");
    all_traffic(&lab);
    let run = probe.settled();
    run.silent();
    let of_pod = run.objects.iter().filter(|o| o["kind"] == "journey").count();
    assert!(of_pod >= 8, "silence proves something only if the traffic was seen: {of_pod} journeys");
}

#[test]
fn a_healthy_node_is_followed_in_silence() {
    let Some(lab) = Lab::start("a_healthy_node_is_followed_in_silence") else { return };
    let probe = lab.netprobe(&["trace", "--all"]);
    all_traffic(&lab);
    lab.on("node").connects(SERVER);
    lab.on("node").connects(SERVER6);
    lab.on("server").connects(open("172.20.10.2".parse::<std::net::IpAddr>().expect("an address")));
    probe.settled().silent();
}
