//! Two packets at once, and one place in conntrack's table: the second is lost, though no rule forbids it.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use netprobe_tests::{Lab, PORT, SERVER, WEB_0, patiently};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Addresses of two services with one endpoint.
const SERVICES: [&str; 2] = ["10.96.0.10", "10.96.0.11"];
/// Rules between a packet's translation and the place of its entry in the table: they hold it for some 100 us.
const RULES: usize = 4000;
/// How often the two are sent; one pair of three is lost here.
const TRIES: usize = 300;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(200);

/// Asks both services at once from one socket, as a resolver does that has two servers; returns how many answered.
fn asks_both() -> usize {
    let socket = UdpSocket::bind((WEB_0.v4, 0)).expect("bind");
    socket.set_read_timeout(Some(patiently(ANSWER))).expect("set a limit");
    let ready = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (cpu, service) in SERVICES.iter().enumerate() {
            let (socket, ready) = (&socket, &ready);
            scope.spawn(move || {
                let to = SocketAddr::new(service.parse().expect("an address"), PORT);
                let mut own = CpuSet::new();
                own.set(cpu).expect("a processor's number");
                sched_setaffinity(Pid::from_raw(0), &own).expect("stay on one processor");
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < SERVICES.len() {
                    std::hint::spin_loop();
                }
                socket.send_to(b"word", to).expect("send");
            });
        }
    });
    SERVICES.iter().filter(|_| socket.recv(&mut [0; 4]).is_ok()).count()
}

#[test]
fn the_loser_of_the_race_for_one_entry_is_told() {
    let Some(lab) = Lab::start("the_loser_of_the_race_for_one_entry_is_told") else { return };
    let node = lab.on("node");
    for service in SERVICES {
        node.run(&format!("iptables -t nat -A PREROUTING -d {service} -p udp -j DNAT --to-destination {SERVER}"));
    }
    let rules = "ip saddr 203.0.113.1 accept\n".repeat(RULES);
    node.nft(&format!(
        "table ip slow {{\n chain post {{\n type filter hook postrouting priority 200;\n {rules} }}\n}}\n"
    ));
    let probe = lab.trace("web-0");
    let lost = lab.on("web-0").enter(|| (0..TRIES).any(|_| asks_both() < SERVICES.len()));
    assert!(lost, "none of {TRIES} pairs raced");
    let finding = probe.one("conntrack-insert-race");
    finding.is_at("web-0", "node", "eth1");
    assert_eq!(finding.text("/netfilter/hook"), "postrouting");
    finding.says("was confirmed first");
    if lab.shows("__nf_conntrack_confirm") {
        assert_eq!(finding.text("/confidence"), "stated");
        finding.says("conntrack (__nf_conntrack_confirm) dropped it");
    } else {
        assert_eq!(finding.text("/confidence"), "likely");
        finding.says("insert_failed rose by 1");
    }
}
