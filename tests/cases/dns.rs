//! What pods ask DNS for, seen whole: a service's address that leads to a pod's port, answers of every kind, and none.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use netprobe_tests::{Lab, Run, SERVER, WEB_0, WEB_1};
use serde_json::{Value, json};

/// The service's addresses; its port 53 is port 5353 of `web-1`.
pub(crate) const SERVICE: &str = "10.96.0.10:53";
const SERVICE6: &str = "[fd5a:96::10]:53";
pub(crate) const BEHIND: u16 = 5353;

pub(crate) const NAT: &str = "\
table ip t {
chain c { type nat hook prerouting priority -100;
    ip daddr 10.96.0.10 udp dport 53 dnat to 10.61.7.11:5353;
    ip daddr 10.96.0.10 tcp dport 53 dnat to 10.61.7.11:5353;
}
}
table ip6 t {
chain c { type nat hook prerouting priority -100;
    ip6 daddr fd5a:96::10 udp dport 53 dnat to [fd5a:61::11]:5353;
}
}
";

/// How long the answer for a name that begins with `late` takes.
const LATE: Duration = Duration::from_millis(700);
/// How long a client waits for an answer.
pub(crate) const SOON: Duration = Duration::from_secs(2);
pub(crate) const A: u8 = 1;
const AAAA: u8 = 28;

/// A DNS server in `web-1`, ended when dropped. The name's first label says what it does.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, BEHIND));
        let udp = lab.on("web-1").enter(|| UdpSocket::bind(any)).expect("listen in the pod");
        udp.set_read_timeout(Some(Duration::from_millis(50))).expect("set the time-out");
        let ends = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut bytes = [0; 512];
            while !ends.load(Ordering::Relaxed) {
                let Ok((len, from)) = udp.recv_from(&mut bytes) else { continue };
                if bytes[12..].starts_with(b"\x04late") {
                    thread::sleep(LATE);
                }
                if let Some(answer) = answer(&bytes[..len]) {
                    udp.send_to(&answer, from).expect("send the answer");
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A question with one try's number.
pub(crate) fn question(id: u16, name: &str, kind: u8) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    message
}

/// `api` has an address, `s3` that of the server outside, `broken` makes the server fail, `silent` gets no answer; no other name exists.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let label = question.get(13..13 + usize::from(*question.get(12)?))?;
    let (code, found) = match label {
        b"silent" => return None,
        b"broken" => (2, false),
        b"api" | b"s3" => (0, question.get(question.len() - 3) == Some(&A)),
        _ => (3, false),
    };
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    message[7] = u8::from(found);
    if found {
        let address = match (label, SERVER.ip()) {
            (b"s3", IpAddr::V4(address)) => address.octets(),
            _ => [192, 0, 2, 7],
        };
        message.extend([0xc0, 12, 0, A, 0, 1, 0, 0, 0, 30, 0, 4]);
        message.extend(address);
    }
    Some(message)
}

/// Asks from `web-0`, so often as there may be tries; whether an answer came.
pub(crate) fn ask(lab: &Lab, server: &str, message: &[u8], tries: usize, wait: Duration) -> bool {
    lab.on("web-0").enter(|| {
        let server: SocketAddr = server.parse().expect("an address");
        let any: IpAddr = if server.is_ipv6() { WEB_0.v6.into() } else { WEB_0.v4.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).expect("a socket");
        socket.set_read_timeout(Some(wait)).expect("set the time-out");
        (0..tries).any(|_| {
            socket.send_to(message, server).expect("send the question");
            socket.recv(&mut [0; 512]).is_ok()
        })
    })
}

fn queries(run: &Run, name: &str) -> Vec<Value> {
    run.objects.iter().filter(|object| object["kind"] == "dns" && object["name"] == name).cloned().collect()
}

/// The one query for that name, which the pod asked the service for, and the service's pod was asked.
fn query(run: &Run, name: &str, kind: &str) -> Value {
    let mut found = queries(run, name);
    found.retain(|query| query["type"] == kind);
    let [query] = found.as_slice() else { panic!("not one query for {name} {kind}: {found:#?}") };
    assert_eq!(query["pod"]["name"], "web-0", "{query:#}");
    assert_eq!(query["server_after"]["port"], BEHIND, "{query:#}");
    assert_eq!(query["server_after"]["name"], "shop/web-1", "{query:#}");
    query.clone()
}

#[test]
fn every_query_is_told_with_its_server_and_what_became_of_it() {
    let Some(lab) = Lab::start("every_query_is_told_with_its_server_and_what_became_of_it") else { return };
    lab.on("node").nft(NAT);
    let _server = Server::start(&lab);
    let probe = lab.netprobe(&["dns"]);
    assert!(!ask(&lab, SERVICE, &question(4, "silent.shop.test", A), 2, Duration::from_millis(1600)));
    assert!(ask(&lab, SERVICE, &question(1, "api.shop.test", A), 1, SOON));
    assert!(ask(&lab, SERVICE6, &question(2, "api.shop.test", AAAA), 1, SOON));
    assert!(ask(&lab, SERVICE, &question(3, "broken.shop.test", A), 1, SOON));
    assert!(ask(&lab, SERVICE, &question(5, "nope.shop.test", A), 1, SOON));
    let run = probe.settled();

    let found = query(&run, "api.shop.test", "A");
    assert_eq!(found["server"], json!({"ip": "10.96.0.10", "port": 53, "name": null}));
    assert_eq!(found["server_after"]["ip"], WEB_1.v4.to_string());
    assert_eq!(found["addresses"], json!(["192.0.2.7"]));
    assert_eq!((&found["result"], &found["tries"], &found["transport"]), (&json!("NOERROR"), &json!(1), &json!("udp")));
    let took_ns = found["took_ns"].as_u64().expect("it was answered");
    assert!((1_000..1_000_000_000).contains(&took_ns), "{took_ns} ns");

    let empty = query(&run, "api.shop.test", "AAAA");
    assert_eq!((&empty["server"]["ip"], &empty["records"]), (&json!("fd5a:96::10"), &json!(0)));
    assert_eq!(empty["server_after"]["ip"], WEB_1.v6.to_string());

    assert_eq!(query(&run, "broken.shop.test", "A")["result"], "SERVFAIL");
    assert_eq!(query(&run, "nope.shop.test", "A")["result"], "NXDOMAIN");

    let silent = query(&run, "silent.shop.test", "A");
    assert_eq!((&silent["result"], &silent["tries"], &silent["took_ns"]), (&json!("timeout"), &json!(2), &Value::Null));

    let table = run.objects.iter().find(|object| object["kind"] == "dns-table").expect("a table ends the run");
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(5), "{table:#}");
    assert_eq!(table["rows"][0]["result"], "timeout", "what failed comes first");
    let mut rules: Vec<String> = run.findings().iter().map(|finding| finding.rule().to_owned()).collect();
    rules.sort();
    let timeout = run.findings().into_iter().find(|finding| finding.rule() == "dns-timeout").expect("there is one");
    let claim = timeout.text("/claim").to_owned();
    assert!(claim.contains("it went to shop/web-1 by vweb1, and no answer was seen"), "{claim}");
    assert_eq!(rules, ["dns-nxdomain", "dns-servfail", "dns-timeout"]);
    assert_eq!(run.lost(), 0);
}

#[test]
fn a_socket_that_asks_all_the_time_is_counted_to_the_last_query() {
    let Some(lab) = Lab::start("a_socket_that_asks_all_the_time_is_counted_to_the_last_query") else { return };
    lab.on("node").nft(NAT);
    let _server = Server::start(&lab);
    let probe = lab.netprobe(&["dns", "--pod", "shop/web-0", "--watch"]);
    lab.on("web-0").enter(|| {
        let socket = UdpSocket::bind((WEB_0.v4, 0)).expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("set the time-out");
        for id in 0..400 {
            socket.send_to(&question(id, "api.shop.test", A), SERVICE).expect("send the question");
            socket.recv(&mut [0; 512]).expect("get an answer");
        }
    });
    let run = probe.settled();
    let table = run.objects.iter().rev().find(|object| object["kind"] == "dns-table").expect("a table ends the run");
    assert_eq!((&table["rows"][0]["queries"], &table["sampled"]), (&json!(400), &json!(false)), "{table:#}");
    assert!(run.objects.iter().all(|object| object["kind"] != "dns"), "a table is watched");
    run.silent();
}

/// Asks over TCP, as clients do when an answer does not fit in a datagram; the server in `web-1` answers once.
fn ask_over_tcp(lab: &Lab, message: &[u8]) -> bool {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, BEHIND));
    let listener = lab.on("web-1").enter(|| TcpListener::bind(any)).expect("listen in the pod");
    let framed = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let take = |stream: &mut TcpStream| {
        let mut len = [0; 2];
        stream.read_exact(&mut len).expect("a length");
        let mut message = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut message).expect("a message");
        message
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let question = take(&mut stream);
            stream.write_all(&framed(&answer(&question).expect("it answers"))).expect("send the answer");
        });
        let mut stream = lab.on("web-0").enter(|| TcpStream::connect(SERVICE)).expect("connect");
        stream.write_all(&framed(message)).expect("send the question");
        take(&mut stream).len() > message.len()
    })
}

#[test]
fn a_query_over_tcp_is_told_too() {
    let Some(lab) = Lab::start("a_query_over_tcp_is_told_too") else { return };
    lab.on("node").nft(NAT);
    let probe = lab.netprobe(&["dns", "--pod", "shop/web-0"]);
    assert!(ask_over_tcp(&lab, &question(9, "api.shop.test", A)));
    let run = probe.settled();
    let found = query(&run, "api.shop.test", "A");
    assert_eq!((&found["result"], &found["transport"]), (&json!("NOERROR"), &json!("tcp")), "{found:#}");
    assert_eq!(found["addresses"], json!(["192.0.2.7"]));
    run.silent();
}

#[test]
fn nothing_but_dns_is_told() {
    let Some(lab) = Lab::start("nothing_but_dns_is_told") else { return };
    lab.on("node").run("ip route del default table 2");
    let probe = lab.netprobe(&["dns"]);
    drop(lab.on("web-0").cannot_connect(SERVER));
    let run = probe.settled();
    run.silent();
    assert_eq!(run.objects.last().map(|summary| &summary["journeys"]), Some(&json!(0)), "{:#?}", run.objects);
}

#[test]
fn an_icmp_error_in_place_of_an_answer_is_told() {
    let Some(lab) = Lab::start("an_icmp_error_in_place_of_an_answer_is_told") else { return };
    lab.on("node").nft(NAT);
    let probe = lab.netprobe(&["dns", "--pod", "shop/web-0"]);
    // Nobody listens.
    assert!(!ask(&lab, SERVICE, &question(1, "api.shop.test", A), 1, SOON));
    let run = probe.settled();
    let refused = query(&run, "api.shop.test", "A");
    assert_eq!((&refused["result"], &refused["tries"]), (&json!("icmp"), &json!(1)), "{refused:#}");
}

#[test]
fn an_answer_that_comes_when_nobody_waits_any_more_is_told_with_its_time() {
    let Some(lab) = Lab::start("an_answer_that_comes_when_nobody_waits_any_more_is_told_with_its_time") else { return };
    lab.on("node").nft(NAT);
    let _server = Server::start(&lab);
    let probe = lab.trace("web-0");
    assert!(!ask(&lab, SERVICE, &question(1, "late.shop.test", A), 1, LATE / 2));
    thread::sleep(LATE);
    let finding = probe.one("dns-timeout");
    finding.says("for late.shop.test once, and the answer came after 70");
    finding.says("when nobody waited for it any more: it reached shop/web-1");
    assert_eq!(finding.text("/confidence"), "stated");
}

#[test]
fn a_query_that_leaves_by_the_wrong_device_is_explained() {
    let Some(lab) = Lab::start("a_query_that_leaves_by_the_wrong_device_is_explained") else { return };
    lab.on("node").run("ip route del default table 2");
    let probe = lab.netprobe(&["dns", "--pod", "shop/web-0"]);
    let outside = SocketAddr::new(SERVER.ip(), 53).to_string();
    assert!(!ask(&lab, &outside, &question(1, "api.shop.test", A), 2, Duration::from_millis(600)));
    let finding = probe.finding("wrong-egress");
    assert_eq!(finding.text("/at/device"), "eth0");
    let run = probe.settled();
    assert_eq!(queries(&run, "api.shop.test").len(), 1);
}
