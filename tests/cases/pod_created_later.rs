//! A pod that comes after netprobe.

use netprobe_tests::{LATE_POD, Lab, SERVER};

#[test]
fn a_pod_created_after_the_start_is_followed_and_named() {
    let Some(mut lab) = Lab::start("a_pod_created_after_the_start_is_followed_and_named") else { return };
    lab.on("node").run("ip route add blackhole 172.20.40.5 table 2");
    let probe = lab.netprobe(&["trace", "--all"]);
    lab.add_pod(LATE_POD);
    lab.on(LATE_POD.name).cannot_connect(SERVER);
    let finding = probe.one("route-blackhole");
    finding.is_at(LATE_POD.name, "node", LATE_POD.device);
}

#[test]
fn a_healthy_pod_created_after_the_start_is_silent() {
    let Some(mut lab) = Lab::start("a_healthy_pod_created_after_the_start_is_silent") else { return };
    let probe = lab.netprobe(&["trace", "--all"]);
    lab.add_pod(LATE_POD);
    lab.on(LATE_POD.name).connects(SERVER);
    let run = probe.settled();
    run.silent();
    let named = run.objects.iter().any(|o| o["pod"]["name"] == LATE_POD.name);
    assert!(named, "the pod's traffic was not seen: {:#?}", run.objects);
}
