//! A capture: what crossed which device, what NAT made of it, why it was dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use netprobe::probe::query::{Place, on_device};
use netprobe_tests::{Lab, SERVER, binary, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const READY: Duration = Duration::from_secs(15);
const END: Duration = Duration::from_secs(5);
/// Where web-0's packets pass, as the file names it.
const PLACES: [&str; 3] = ["shop/web-0:eth0", "node:vweb0", "node:eth1"];

/// Starts a capture of web-0 on the node, to stdout as given, and returns once it is attached.
fn capture(lab: &Lab, args: &[&str], stdout: Stdio) -> Child {
    let ready = lab.directory().join("ready");
    let _ = fs::remove_file(&ready);
    let mut command = Command::new(binary());
    command.args(["capture", "--pod", "shop/web-0", "--no-kube", "--inventory"]).arg(lab.inventory());
    command.arg("--ready-file").arg(&ready).args(args).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let mut child = lab.on("node").enter(|| command.spawn()).expect("start netprobe");
    let over = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
    if !wait(READY, || ready.exists() || over(&mut child)) || over(&mut child) {
        let _ = child.kill();
        let mut said = String::new();
        let _ = child.stderr.take().expect("stderr is a pipe").read_to_string(&mut said);
        panic!("the capture {args:?} was not ready: {said}");
    }
    child
}

/// Waits for its end, and gives what it said.
fn ended(mut child: Child) -> (ExitStatus, String) {
    assert!(wait(END, || child.try_wait().is_ok_and(|status| status.is_some())), "it does not end");
    let mut said = String::new();
    child.stderr.take().expect("stderr is a pipe").read_to_string(&mut said).expect("it is text");
    (child.wait().expect("it has ended"), said)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a pid"))
}

/// Ends it as a user does.
fn interrupted(child: Child) -> String {
    kill(pid(&child), Signal::SIGINT).expect("it runs");
    let (status, said) = ended(child);
    assert!(status.success(), "{said}");
    said
}

/// A packet as tshark shows it.
#[derive(Debug)]
struct Shown {
    place: String,
    outbound: bool,
    comment: String,
    is_udp: bool,
    port: String,
    len: u32,
    kept: u32,
}

fn tshark(file: &Path) -> Vec<Shown> {
    let fields = ["interface_name", "packet_flags_direction", "comment", "len", "cap_len"];
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file).args([
        "-T",
        "fields",
        "-E",
        "separator=|",
        "-e",
        "udp.port",
        "-e",
        "tcp.port",
    ]);
    for field in fields {
        command.arg("-e").arg(format!("frame.{field}"));
    }
    let output = command.output().expect("tshark is installed (Debian: apt-get install tshark)");
    let text = String::from_utf8(output.stdout).expect("it is text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(shown).collect()
}

fn shown(line: &str) -> Shown {
    let fields: Vec<&str> = line.split('|').collect();
    let [udp, tcp, place, direction, comment, len, kept] = fields[..] else { panic!("{line}") };
    Shown {
        place: place.to_owned(),
        outbound: direction == "0x00000002",
        comment: comment.to_owned(),
        is_udp: !udp.is_empty(),
        port: format!("{udp}{tcp}"),
        len: len.parse().expect("a number"),
        kept: kept.parse().expect("a number"),
    }
}

/// Sends `count` datagrams of `bytes` bytes, and takes as many answers where `answered`.
fn datagrams(lab: &Lab, pod: &str, to: SocketAddr, (count, bytes): (u32, usize), answered: bool) {
    lab.on(pod).enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set a timeout");
        socket.connect(to).expect("connect");
        for _ in 0..count {
            socket.send(&vec![b'x'; bytes]).expect("send");
            if answered {
                socket.recv(&mut [0; 4]).expect("an answer");
            }
        }
    });
}

/// What leaves by eth1 gets the node's address; port 7777 is dropped.
fn nat_and_drop(lab: &Lab) {
    lab.on("node").nft(
        "table ip site {\n chain post {\n type nat hook postrouting priority 100;\n oifname eth1 masquerade\n }\n \
         chain guard {\n type filter hook forward priority 0;\n udp dport 7777 drop\n }\n}\n",
    );
}

#[test]
fn a_capture_has_every_packet_at_every_place() {
    let Some(lab) = Lab::start("a_capture_has_every_packet_at_every_place") else { return };
    nat_and_drop(&lab);
    let file = lab.directory().join("web.pcapng");
    let child = capture(&lab, &["-w", file.to_str().expect("text"), "udp", "or", "tcp"], Stdio::null());
    datagrams(&lab, "web-0", SERVER, (20, 100), true);
    datagrams(&lab, "web-0", SocketAddr::new(SERVER.ip(), 7777), (3, 30), false);
    // Not ours, and by the same way out.
    datagrams(&lab, "web-1", SERVER, (20, 100), true);
    lab.on("web-0").connects(SERVER);
    let said = interrupted(child);
    let packets = tshark(&file);
    assert!(said.contains(&format!("{} packets in ", packets.len())) && said.contains("; 0 lost"), "{said}");

    let mut udp: BTreeMap<(&str, bool), u32> = BTreeMap::new();
    let mut tcp = udp.clone();
    for packet in packets.iter().filter(|packet| !packet.port.contains("7777")) {
        let counts = if packet.is_udp { &mut udp } else { &mut tcp };
        *counts.entry((packet.place.as_str(), packet.outbound)).or_default() += 1;
    }
    let each = |count| PLACES.into_iter().flat_map(|place| [((place, false), count), ((place, true), count)]).collect();
    assert_eq!(udp, each(20), "{packets:#?}");
    let segments: BTreeSet<u32> = tcp.values().copied().collect();
    assert_eq!(tcp.len(), 6, "{tcp:?}");
    assert!(segments.len() <= 2, "as many at each place, in each direction: {tcp:?}");
    said_of_each(&packets);
}

/// The comments: from and to, NAT, drops.
fn said_of_each(packets: &[Shown]) {
    for packet in packets {
        let from = (packet.place == "node:vweb0") != packet.outbound;
        let begin = if from { "from shop/web-0" } else { "to shop/web-0" };
        assert!(packet.comment.starts_with(begin), "{packet:?}");
        let translated = packet.comment.contains("after NAT 172.20.20.2:") || packet.comment.contains("-> 10.61.7.10:");
        if packet.place == "node:eth1" {
            assert!(translated, "{packet:?}");
        }
        if packet.place == "shop/web-0:eth0" {
            assert!(!translated, "{packet:?}");
        }
        let dropped = packet.comment.contains("; dropped: NETFILTER_DROP in nft_do_chain");
        assert_eq!(dropped, packet.port.contains("7777") && packet.place == "node:vweb0", "{packet:?}");
    }
    assert_eq!(packets.iter().filter(|packet| packet.port.contains("7777")).count(), 6);
}

#[test]
fn a_packet_is_cut_to_the_length_asked_for() {
    let Some(lab) = Lab::start("a_packet_is_cut_to_the_length_asked_for") else { return };
    let file = lab.directory().join("cut.pcapng");
    let args = ["--snap", "100", "-w", file.to_str().expect("text"), "udp and dst port 3306"];
    let child = capture(&lab, &args, Stdio::null());
    datagrams(&lab, "web-0", SERVER, (2, 1000), true);
    interrupted(child);
    let packets = tshark(&file);
    assert_eq!(packets.len(), 6, "the answers have another destination port: {packets:#?}");
    assert!(packets.iter().all(|packet| (packet.len, packet.kept) == (1042, 100)), "{packets:#?}");
}

#[test]
fn a_capture_at_named_devices_is_of_those_alone() {
    let Some(lab) = Lab::start("a_capture_at_named_devices_is_of_those_alone") else { return };
    let file = lab.directory().join("at.pcapng");
    let args = ["-i", "node:vweb0", "-i", "eth1", "-w", file.to_str().expect("text"), "udp and dst port 3306"];
    let child = capture(&lab, &args, Stdio::null());
    datagrams(&lab, "web-0", SERVER, (2, 10), true);
    interrupted(child);
    let packets = tshark(&file);
    let places: BTreeSet<&str> = packets.iter().map(|packet| packet.place.as_str()).collect();
    assert_eq!((packets.len(), places), (4, BTreeSet::from(["node:eth1", "node:vweb0"])), "{packets:#?}");
}

#[test]
fn a_device_that_nobody_has_is_refused_with_those_there_are() {
    let Some(lab) = Lab::start("a_device_that_nobody_has_is_refused_with_those_there_are") else { return };
    let mut command = Command::new(binary());
    command.args(["capture", "--pod", "shop/web-0", "--no-kube", "-w", "-", "-i", "eth9", "--inventory"]);
    command.arg(lab.inventory()).stdin(Stdio::null());
    let output = lab.on("node").enter(|| command.output()).expect("start netprobe");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`eth9`") && said.contains("node:eth1") && said.contains("pod:eth0"), "{said}");
}

#[test]
fn a_reader_that_goes_ends_the_capture() {
    let Some(lab) = Lab::start("a_reader_that_goes_ends_the_capture") else { return };
    let mut child = capture(&lab, &["-w", "-", "udp"], Stdio::piped());
    let out = child.stdout.take().expect("stdout is a pipe");
    // In one piece: a command that lives on would keep the pipe open.
    let reader = Command::new("tcpdump")
        .args(["-n", "-c", "3", "-r", "-"])
        .stdin(out)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcpdump is installed (Debian: apt-get install tcpdump)");
    datagrams(&lab, "web-0", SERVER, (5, 30), true);
    let shown = reader.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&shown.stdout).lines().count(), 3);
    // No packet comes any more; it ends all the same.
    let (status, said) = ended(child);
    assert!(status.success(), "{said}");
}

/// Programs of ours at both sides of a device: held by TCX links, or, where the kernel knows none, by filters.
pub(super) fn attached(lab: &Lab, namespace: &str, device: &str) -> usize {
    let line = lab.on(namespace).run(&format!("ip -o link show dev {device}"));
    let index = line.split(':').next().and_then(|index| index.parse().ok()).expect("it begins with the index");
    let count = |place| on_device(index, place).map_or(0, |programs| programs.len());
    let links = lab.on(namespace).enter(|| count(Place::TcxIngress) + count(Place::TcxEgress));
    let each = format!("tc filter show dev {device} ingress; tc filter show dev {device} egress");
    links + lab.on(namespace).run(&each).lines().filter(|line| line.contains(" netprobe_")).count()
}

#[test]
fn nothing_is_left_at_any_device_after_kill_nine() {
    let Some(lab) = Lab::start("nothing_is_left_at_any_device_after_kill_nine") else { return };
    let all =
        || [("web-0", "eth0"), ("node", "vweb0"), ("node", "eth1")].map(|(at, device)| attached(&lab, at, device));
    let file = lab.directory().join("killed.pcapng");
    let mut child = capture(&lab, &["-w", file.to_str().expect("text")], Stdio::null());
    assert_eq!(all(), [2, 2, 2]);
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
    assert!(wait(END, || all() == [0, 0, 0]), "{:?}", all());
}
