//! On a kernel: namespaces made with `ip`, broken, and compared with what the reader says. Needs root.

use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    time::{ClockId, clock_gettime},
};

use super::{
    event::FactsEvent,
    reader::{FactsReader, Options},
};
use crate::model::facts::{Change, NamespaceFacts, NodeFacts, What};

/// A node with an uplink into a namespace `fab`, and whatever a test adds. Gone when dropped.
struct Net {
    prefix: String,
    facts: NodeFacts,
    reader: FactsReader,
}

impl Net {
    /// Builds `node` and `fab` by the lines of `ip -batch`, in which `@` stands for the prefix, and moves this thread to the
    /// node.
    fn up(test: &str, setup: &[(&str, &str)]) -> Self {
        let prefix = format!("npf{}{test}-", std::process::id());
        for name in ["node", "fab"] {
            ip(&["netns", "add", &format!("{prefix}{name}")]);
        }
        batch(&prefix, "node", "link set lo up\nlink add eth0 type veth peer name n0 netns @fab\nlink set eth0 up");
        batch(&prefix, "fab", "link set n0 up\naddress add 10.9.0.1/24 dev n0");
        batch(&prefix, "node", "address add 10.9.0.10/24 dev eth0\nroute add default via 10.9.0.1");
        for (name, lines) in setup {
            batch(&prefix, name, lines);
        }
        enter(&format!("/run/netns/{prefix}node"));
        let (reader, facts) = FactsReader::start(Options { now_ns: now(), ..Options::default() }).expect("root");
        Self { prefix, facts, reader }
    }

    fn ip(&self, name: &str, lines: &str) {
        batch(&self.prefix, name, lines);
    }

    fn add_pod(&self, name: &str, address: &str) {
        ip(&["netns", "add", &format!("{}{name}", self.prefix)]);
        self.ip(name, &format!("link add eth0 type veth peer name v{name} netns @node\nlink set eth0 up"));
        self.ip(name, &format!("address add {address}/32 dev eth0"));
        self.ip("node", &format!("link set v{name} up\nroute add {address}/32 dev v{name}"));
    }

    /// Takes events until the facts satisfy `done`; fails after `within`.
    fn until(&mut self, within: Duration, done: impl Fn(&NodeFacts) -> bool) {
        let end = now() + u64::try_from(within.as_nanos()).expect("a short time");
        loop {
            self.follow();
            if done(&self.facts) {
                return;
            }
            assert!(now() < end, "not within {within:?}: {:#?}", self.facts.journal);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Applies what there is, through the form a recording has.
    fn follow(&mut self) {
        let mut events = vec![];
        self.reader.read_ready(now(), &mut events).expect("epoll");
        self.apply(&events);
    }

    fn apply(&mut self, events: &[FactsEvent]) {
        for event in events {
            let stored = serde_json::to_vec(event).expect("serialisable");
            self.facts.apply(&serde_json::from_slice(&stored).expect("what was stored"));
        }
    }

    fn node(&self) -> &NamespaceFacts {
        self.facts.node().expect("the node")
    }

    fn pods(&self) -> Vec<String> {
        let pods = self.facts.namespaces.values().filter(|n| n.inum != self.facts.node);
        let mut names: Vec<_> =
            pods.filter_map(|n| Some(n.name.as_ref()?.strip_prefix(&self.prefix)?.to_owned())).collect();
        names.sort();
        names
    }

    fn find(&self, wanted: impl Fn(&What) -> bool) -> Option<&Change> {
        self.facts.journal.iter().find(|change| wanted(&change.what))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
            if name.starts_with(&self.prefix) {
                drop(Command::new("ip").args(["netns", "del", &name]).status());
            }
        }
    }
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().expect("iproute2").success(), "ip {args:?}");
}

/// An `ip` that has run its lines and waits for more.
fn ip_that_stays(prefix: &str, name: &str, lines: &str) -> Child {
    let mut child = Command::new("ip")
        .args(["-n", &format!("{prefix}{name}"), "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2");
    let lines = format!("{}\n", lines.replace('@', prefix));
    child.stdin.as_mut().expect("piped").write_all(lines.as_bytes()).expect("ip reads");
    child
}

fn batch(prefix: &str, name: &str, lines: &str) {
    let mut child = ip_that_stays(prefix, name, lines);
    drop(child.stdin.take());
    assert!(child.wait().expect("ip ends").success(), "{name}: {lines}");
}

fn enter(path: &str) {
    let file = std::fs::File::open(path).expect("the namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("root");
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock");
    u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).expect("after boot")
}

fn sysctl(name: &str, value: &str) {
    std::fs::write(Path::new("/proc/sys").join(name), value).expect("root");
}

const SOON: Duration = Duration::from_secs(1);

fn is_default_of_table_2(what: &What) -> bool {
    matches!(what, What::RouteDeleted(route) if route.table == 2 && route.dst.prefix_len() == 0)
}

#[test]
fn pods_are_linked_namespaces_and_the_world_behind_the_uplink_is_none() {
    let net = Net::up("a", &[]);
    assert_eq!(net.pods(), [""; 0]);
    net.add_pod("p1", "10.8.0.1");
    ip(&["netns", "add", &format!("{}p2", net.prefix)]);
    net.ip("node", "link add mac0 link eth0 netns @p2 type macvlan mode bridge");
    ip(&["netns", "add", &format!("{}stranger", net.prefix)]);
    let mut net = net;
    net.until(SOON, |facts| facts.namespaces.len() == 3);
    assert_eq!(net.pods(), ["p1", "p2"]);
    let pod = net.facts.namespaces.values().find(|n| n.name.as_ref().is_some_and(|n| n.ends_with("p1"))).expect("p1");
    assert_eq!(net.node().link("vp1").expect("the near end").peer_netns, Some(pod.inum));
    assert_eq!(pod.link("eth0").expect("the far end").peer_netns, Some(net.facts.node));
}

#[test]
fn a_deleted_route_is_in_the_journal_with_the_process_that_deleted_it() {
    let mut net =
        Net::up("b", &[("node", "route add default via 10.9.0.1 table 2\nrule add prio 1536 from 10.8.0.1 lookup 2")]);
    let mut ip = ip_that_stays(&net.prefix, "node", "route del default table 2");
    net.until(SOON, |facts| facts.journal.iter().any(|c| is_default_of_table_2(&c.what)));
    let by = net.find(is_default_of_table_2).expect("journaled").by.clone();
    drop(ip.stdin.take());
    ip.wait().expect("ip ends");
    assert_eq!(by.process, Some((ip.id(), "ip".to_owned())));
    assert_eq!(by.netns, Some(net.facts.node));
    assert!(!net.node().routes.iter().any(|route| route.table == 2));
    assert!(net.node().rules.iter().any(|rule| rule.preference == 1536));
}

#[test]
fn routes_that_the_kernel_takes_away_with_a_link_are_journaled_as_its_doing() {
    let eth1 = "link add eth1 type veth peer name n1 netns @fab\nlink set eth1 up\naddress add 10.7.0.10/24 dev eth1\n\
                route add default via 10.7.0.1 table 2\nrule add prio 9 iif eth1 lookup 2";
    for (test, loss) in [("c", "link del eth1"), ("d", "link set eth1 down")] {
        let mut net = Net::up(test, &[("fab", "link set lo up"), ("node", eth1)]);
        net.ip("node", loss);
        net.until(SOON, |facts| facts.journal.iter().any(|c| is_default_of_table_2(&c.what)));
        let lost = net.find(is_default_of_table_2).expect("journaled");
        let link = net.find(|what| matches!(what, What::LinkDeleted(l) | What::LinkChanged(_, l) if l.name == "eth1"));
        assert!(link.expect("journaled").mono_ns <= lost.mono_ns);
        assert_eq!(lost.by.port_id, 0, "{loss}");
        let detached = net.node().rules.iter().find(|rule| rule.preference == 9).map(|rule| rule.iif_detached);
        assert_eq!(detached, Some(loss == "link del eth1"));
    }
}

#[test]
fn a_pod_made_after_start_is_found_within_a_second_and_dropped_when_it_is_gone() {
    let mut net = Net::up("e", &[]);
    net.add_pod("late", "10.8.0.9");
    net.until(SOON, |facts| facts.namespaces.values().any(|n| n.owns([10, 8, 0, 9].into())));
    assert!(net.find(|what| *what == What::NamespaceAdded).is_some());
    // Nobody deletes the link: the kernel does when we let go of the namespace as well.
    ip(&["netns", "del", &format!("{}late", net.prefix)]);
    net.until(Duration::from_secs(3), |facts| facts.node().is_some_and(|node| node.link("vlate").is_none()));
    assert_eq!(net.pods(), [""; 0]);
    assert!(net.find(|what| *what == What::NamespaceDeleted).is_some());
}

#[test]
fn a_deleted_pod_and_its_veth_end_though_nobody_listens_to_the_reader() {
    let mut net = Net::up("h", &[]);
    net.add_pod("p1", "10.8.0.1");
    net.until(SOON, |facts| facts.namespaces.len() == 2);
    ip(&["netns", "del", &format!("{}p1", net.prefix)]);
    let gone = || {
        let there =
            Command::new("ip").args(["link", "show", "vp1"]).stderr(Stdio::null()).stdout(Stdio::null()).status();
        !there.expect("iproute2").success()
    };
    let end = now() + 3_000_000_000;
    while !gone() {
        assert!(now() < end, "the reader keeps the veth of a deleted pod");
        thread::sleep(Duration::from_millis(10));
    }
    net.follow();
    assert_eq!(net.pods(), [""; 0]);
}

#[test]
fn a_pod_that_the_node_has_no_number_for_is_followed_too() {
    let mut net = Net::up("i", &[]);
    ip(&["netns", "add", &format!("{}mac", net.prefix)]);
    // As CNI's macvlan plugin does: created right inside the pod.
    net.ip("node", "link add link eth0 name eth0 netns @mac type macvlan mode bridge");
    net.until(SOON, |facts| facts.namespaces.len() == 2);
    net.ip("mac", "link set eth0 up\naddress add 10.9.0.50/24 dev eth0");
    net.until(SOON, |facts| facts.namespaces.values().any(|n| n.owns([10, 9, 0, 50].into())));
    ip(&["netns", "del", &format!("{}mac", net.prefix)]);
    net.until(Duration::from_secs(3), |facts| facts.namespaces.len() == 1);
}

#[test]
fn changes_that_the_kernel_had_no_room_for_are_said_to_be_lost_and_read_again() {
    let mut net = Net::up("k", &[]);
    net.add_pod("p1", "10.8.0.1");
    net.until(SOON, |facts| facts.namespaces.len() == 2);
    let routes: Vec<_> =
        (0..15_000).map(|i| format!("route add 10.{}.{}.0/24 dev eth0", 100 + i / 250, i % 250)).collect();
    net.ip("node", &routes.join("\n"));
    net.ip("p1", "address add 10.8.0.2/32 dev eth0");
    let mut events = vec![];
    net.reader.read_ready(now(), &mut events).expect("epoll");
    assert!(events.iter().any(|event| matches!(event, FactsEvent::Lost { unread: 0, .. })));
    net.apply(&events);
    assert_eq!(net.node().routes.iter().filter(|route| route.dst.prefix_len() == 24).count(), routes.len() + 1);
    assert!(net.facts.namespaces.values().any(|n| n.owns([10, 8, 0, 2].into())));
    // And it goes on from there.
    net.ip("node", "route del 10.100.7.0/24");
    let gone = "10.100.7.0/24".parse().expect("a prefix");
    net.until(SOON, |facts| facts.node().is_some_and(|node| node.routes.iter().all(|route| route.dst != gone)));
}

#[test]
fn settings_are_followed_where_the_kernel_tells_and_read_again_on_demand() {
    let mut net = Net::up("f", &[]);
    sysctl("net/ipv4/conf/eth0/rp_filter", "1");
    sysctl("net/ipv4/ip_forward", "1");
    net.until(SOON, |facts| facts.node().is_some_and(|node| node.sysctl("net.ipv4.ip_forward") == Some(1)));
    assert_eq!(net.node().sysctl("net.ipv4.conf.eth0.rp_filter"), Some(1));
    let set = "net.ipv4.conf.eth0.rp_filter";
    assert!(net.find(|what| *what == What::Sysctl(set.to_owned(), "0".to_owned(), "1".to_owned())).is_some());

    sysctl("net/ipv4/conf/eth0/arp_ignore", "2");
    let mut events = vec![];
    net.reader.refresh_sysctls(net.facts.node, now(), &mut events);
    net.apply(&events);
    assert_eq!(net.node().sysctl("net.ipv4.conf.eth0.arp_ignore"), Some(2));
    events.clear();
    net.reader.refresh_sysctls(net.facts.node, now(), &mut events);
    events.retain(|event| !matches!(event, FactsEvent::Sysctls { .. }));
    assert_eq!(events, []);
}

#[test]
fn facts_that_were_followed_are_those_a_new_reader_reads() {
    let mut net = Net::up("g", &[("fab", "address add fd09::1/64 dev n0 nodad")]);
    net.add_pod("p1", "10.8.0.1");
    let changes = [
        "address add fd09::10/64 dev eth0 nodad\nroute add fd77::/64 via fd09::1",
        "route append fd77::/64 via fd09::2\nroute append fd77::/64 via fd09::3\nroute del fd77::/64 via fd09::2",
        "route add 10.1.0.0/16 via 10.9.0.1\nroute replace 10.1.0.0/16 via 10.9.0.2\nroute change 10.1.0.0/16 via 10.9.0.3",
        "route add 10.2.0.0/16 nexthop via 10.9.0.1 nexthop via 10.9.0.2\nroute add blackhole 10.3.0.0/16 metric 7",
        "rule add prio 50 fwmark 0x1/0xf lookup 7\nrule add prio 50 iif br0 lookup 8\nrule add prio 9 not from 10.0.0.0/8 lookup 9",
        "link add br0 type bridge\nlink set vp1 master br0\nlink set br0 up\nlink set vp1 nomaster",
        "link set br0 down\nlink set br0 name br1\nlink set br1 up\naddress add 10.6.0.1/24 dev br1",
        "route add 10.4.0.0/16 dev br1 src 10.6.0.1\nroute add 10.5.0.0/16 dev vp1\nlink set vp1 down\nlink set vp1 up",
        "address del 10.6.0.1/24 dev br1\nroute del 10.2.0.0/16\nrule del prio 9",
    ];
    for lines in changes {
        net.ip("node", lines);
        net.follow();
    }
    // Duplicate address detection adds routes a second or two later, so one look at a quiet moment is not enough.
    for attempt in 1.. {
        let (_, fresh) = FactsReader::start(Options { now_ns: now(), ..Options::default() }).expect("root");
        net.follow();
        let followed: Vec<_> = net.facts.namespaces.values().cloned().map(comparable).collect();
        let fresh: Vec<_> = fresh.namespaces.into_values().map(comparable).collect();
        if attempt == 30 {
            assert_eq!(followed, fresh);
        }
        if followed == fresh {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Without what moves by itself, and in one order.
fn comparable(mut facts: NamespaceFacts) -> NamespaceFacts {
    facts.neighbours.clear();
    facts.since_ns = 0;
    facts.pids.clear();
    facts.cgroup = None;
    facts.sysctls.retain(|name, _| !name.ends_with("_count"));
    facts.addresses.sort_by_key(|a| (a.ifindex, a.net));
    for route in &mut facts.routes {
        route.next_hops.sort();
    }
    facts.routes.sort_by_key(|r| format!("{r:?}"));
    facts
}
