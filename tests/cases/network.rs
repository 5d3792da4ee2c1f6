//! The network of the stories itself, without netprobe: what it proves rests on it.

use std::io::ErrorKind;

use netprobe_tests::{LATE_POD, Lab, SERVER, SERVER6, WEB_1, closed, open};

#[test]
fn everybody_reaches_everybody_on_the_sound_network() {
    let Some(mut lab) = Lab::start("everybody_reaches_everybody_on_the_sound_network") else { return };
    lab.add_pod(LATE_POD);
    for name in ["web-0", "web-1", "db-client", "late-0", "node"] {
        for to in [SERVER, SERVER6, open(WEB_1.v4), open(WEB_1.v6)] {
            lab.on(name).connects(to);
            lab.on(name).exchanges(to);
        }
    }
    assert_eq!(lab.on("web-0").cannot_connect(closed(WEB_1.v4)).kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn the_router_takes_a_pods_address_from_the_pods_nic_only() {
    let Some(lab) = Lab::start("the_router_takes_a_pods_address_from_the_pods_nic_only") else { return };
    lab.on("node").run("ip route flush table 2; ip -6 route flush table 2");
    for to in [SERVER, SERVER6] {
        assert_eq!(lab.on("web-0").cannot_connect(to).kind(), ErrorKind::TimedOut, "{to}");
        lab.on("node").connects(to);
    }
}

#[test]
fn nothing_is_left_of_the_network() {
    let Some(lab) = Lab::start("nothing_is_left_of_the_network") else { return };
    let own = format!("nptest{}-", std::process::id());
    let named = || {
        let names = std::fs::read_dir("/run/netns").expect("ip made it").flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count()
    };
    let directory = lab.directory().to_owned();
    assert!(named() >= 6 && directory.exists());
    drop(lab);
    assert_eq!((named(), directory.exists()), (0, false));
}
