use super::*;
use crate::model::{
    dns::Code,
    exchange::Status,
    facts::NodeFacts,
    identity::Source,
    inventory::Service,
    packet::{Head, TcpFlags},
};

const NODE: u32 = 100;
const WEB: u32 = 101;
const DNS: u32 = 102;
const MS: u64 = 1_000_000;

/// A pod at 10.9.0.29:40000 asks the service 10.96.0.10:53, which is the pod 10.9.0.30:5353.
fn asked() -> Flow {
    flow("10.9.0.29:40000", "10.96.0.10:53")
}

fn flow(src: &str, dst: &str) -> Flow {
    let end = |text: &str| text.parse().expect("an address with a port");
    Flow { proto: Proto::Udp, src: end(src), dst: end(dst) }
}

fn pod(name: &str) -> Arc<Pod> {
    Arc::new(Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: None,
        identity: Source::Netns,
        is_ended: false,
    })
}

fn message(id: u16, name: &str, answer: Option<Answer>) -> Message {
    Message { id, name: name.into(), kind: "A".into(), answer }
}

fn says(code: Code, addresses: &[&str]) -> Option<Answer> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
    Some(Answer { code, records: addresses.len() as u16, addresses, truncated: false })
}

/// What is seen `ms` milliseconds after the start, in that namespace.
fn seen(ms: u64, netns: u32, what: What) -> Sighting {
    let side = if netns == NODE { Side::Node } else { Side::Pod };
    let namespace_of = if netns == WEB { Known::Yes(pod("web-0")) } else { Known::No(Why::Node) };
    Sighting {
        packet: Packet { mono_ns: ms * MS, cpu: 0, pid: 1, netns, ifindex: 2, what },
        side,
        device: "eth0".into(),
        namespace_of,
        source: Known::No(Why::Outside),
        destination: Known::No(Why::Outside),
        asker: None,
    }
}

fn dns(ms: u64, flow: Flow, place: Place, message: Message) -> Sighting {
    seen(ms, WEB, What::Dns { flow, place, message: Some(message), seen: 1 })
}

fn asks(ms: u64, id: u16, name: &str) -> Sighting {
    dns(ms, asked(), Place::Transmit, message(id, name, None))
}

fn answers(ms: u64, id: u16, name: &str, code: Code, addresses: &[&str]) -> Sighting {
    dns(ms, asked().reversed(), Place::Receive, message(id, name, says(code, addresses)))
}

fn hop(ms: u64, flow: Flow, ct: Option<Conntrack>) -> Sighting {
    let head = Head {
        flow: Some(flow),
        ether_type: 0x800,
        skb: 1,
        in_ifindex: 0,
        mark: 0,
        hash: 0,
        len: 60,
        seq: 0,
        ack: 0,
        window: 0,
        flags: TcpFlags(0),
        ttl: 64,
        icmp: None,
        payload: 30,
        ip_len: 58,
    };
    seen(ms, NODE, What::Hop { place: Place::Queue, head, ct, inner: None, seen: 1 })
}

struct Scene {
    dns: Dns,
    names: Names,
}

impl Scene {
    fn new() -> Self {
        let service = Service {
            namespace: "kube-system".to_owned(),
            name: "kube-dns".to_owned(),
            cluster_ips: vec!["10.96.0.10".parse().expect("an address")],
            ..Service::default()
        };
        let inventory = Inventory { services: vec![service], ..Inventory::default() };
        let options = DnsOptions { view: DnsView::Lines, outside: true };
        let names = Names::build(&inventory, &NodeFacts::default());
        Self { dns: Dns::new(options, &inventory), names }
    }

    /// All of these, and then the exchanges that ended by `ms`.
    fn after(&mut self, ms: u64, sightings: &[Sighting]) -> Vec<Exchange> {
        sightings.iter().for_each(|sighting| self.dns.take(sighting));
        self.dns.turn(ms * MS, false, &self.names)
    }

    fn end(&mut self, ms: u64) -> Vec<Exchange> {
        self.dns.turn(ms * MS, true, &self.names)
    }
}

fn one(exchanges: Vec<Exchange>) -> Exchange {
    match <[Exchange; 1]>::try_from(exchanges) {
        Ok([one]) => one,
        Err(other) => panic!("not one exchange: {other:#?}"),
    }
}

#[test]
fn an_answer_belongs_to_the_question_of_its_number_and_name() {
    let mut scene = Scene::new();
    let crossed = [
        asks(0, 7, "api.com"),
        asks(1, 8, "db.com"),
        answers(3, 8, "db.com", Code::NoError, &["192.0.2.8"]),
        answers(4, 7, "other.com", Code::NoError, &["192.0.2.9"]),
        answers(5, 7, "api.com", Code::NxDomain, &[]),
    ];
    let ended = scene.after(10, &crossed);
    let told: Vec<_> = ended.iter().map(|e| (&*e.name, e.status(), e.took_ns())).collect();
    let (found, missing) = (Status::Code(Code::NoError), Status::Code(Code::NxDomain));
    assert_eq!(told, [("db.com", found, Some(2 * MS)), ("api.com", missing, Some(5 * MS))]);
    assert_eq!(ended[0].pod.as_ref().map(ToString::to_string), Some("shop/web-0".to_owned()));
    assert!(scene.end(11).is_empty(), "both were answered");
}

#[test]
fn tries_are_counted_where_they_are_sent_and_waited_for_from_the_first() {
    let mut scene = Scene::new();
    let mut below = asks(0, 7, "api.com");
    below.packet.ifindex = 3;
    let other_port = Flow { src: "10.9.0.29:40001".parse().expect("an end"), ..asked() };
    let again = dns(5_000, other_port, Place::Transmit, message(7, "api.com", None));
    let answer = dns(5_002, other_port.reversed(), Place::Receive, message(7, "api.com", says(Code::NoError, &[])));
    // On a device below the first one the same packet is seen again; the second try has another port.
    let exchange = one(scene.after(5_010, &[asks(0, 7, "api.com"), below, again, answer]));
    assert_eq!((exchange.tries, exchange.took_ns()), (2, Some(5_002 * MS)));
    assert_eq!(exchange.client.port(), 40_001);
}

#[test]
fn a_query_without_an_answer_ends_after_the_time_for_another_try() {
    let mut scene = Scene::new();
    assert!(scene.after(5_400, &[asks(0, 7, "api.com")]).is_empty(), "another try may come");
    let exchange = one(scene.after(10_600, &[asks(5_000, 7, "api.com")]));
    assert_eq!(exchange.outcome, Outcome::Timeout { waited_ns: 10_600 * MS });
    assert_eq!((exchange.tries, exchange.took_ns()), (2, None));
    assert!(scene.after(10_700, &[answers(10_650, 7, "api.com", Code::NoError, &[])]).is_empty(), "told already");
}

#[test]
fn at_the_end_of_a_run_a_young_query_is_open_and_an_old_one_a_timeout() {
    let mut scene = Scene::new();
    assert!(scene.after(3_500, &[asks(0, 7, "old.com"), asks(3_400, 8, "young.com")]).is_empty());
    let told: Vec<_> = scene.end(3_500).iter().map(Exchange::status).collect();
    assert_eq!(told, [Status::Timeout, Status::Open]);
}

#[test]
fn what_was_left_out_makes_a_missing_answer_unknown() {
    let mut scene = Scene::new();
    assert!(scene.after(100, &[asks(0, 7, "api.com")]).is_empty());
    scene.dns.lost();
    assert_eq!(one(scene.after(5_600, &[])).status(), Status::Unknown, "records were lost");
    let many = |ms, id| Sighting {
        packet: Packet {
            what: What::Dns {
                flow: asked(),
                place: Place::Transmit,
                message: Some(message(id, "api.com", None)),
                seen: u64::from(BURST) + 1,
            },
            ..asks(ms, id, "api.com").packet
        },
        ..asks(ms, id, "api.com")
    };
    let question_left_out = answers(6_001, 9, "api.com", Code::NoError, &["192.0.2.1"]);
    let exchange = one(scene.after(6_100, &[many(6_000, 8), question_left_out]));
    assert_eq!((exchange.tries, exchange.took_ns(), exchange.status()), (0, None, Status::Code(Code::NoError)));
    assert_eq!(one(scene.after(11_600, &[])).status(), Status::Unknown, "of its flow some were left out");
    assert!(scene.dns.table(0, Vec::new()).sampled);
}

#[test]
fn an_icmp_error_ends_the_query_it_is_about() {
    let mut scene = Scene::new();
    let error = |ms, about| {
        let mut sighting = hop(ms, flow("10.96.0.10:0", "10.9.0.29:0"), None);
        (sighting.side, sighting.packet.netns) = (Side::Pod, WEB);
        let What::Hop { place, head, inner, .. } = &mut sighting.packet.what else { panic!("it is a hop") };
        (*place, head.icmp, *inner) = (Place::Receive, Some((3, 3)), Some(about));
        sighting
    };
    let other = flow("10.9.0.29:40009", "10.96.0.10:53");
    let exchange = one(scene.after(5, &[asks(0, 7, "api.com"), error(1, other), error(2, asked())]));
    assert_eq!((exchange.status(), exchange.took_ns()), (Status::Unreachable, Some(2 * MS)));
}

#[test]
fn an_icmp_error_on_its_way_to_the_pod_tells_the_server_behind_the_service() {
    let mut scene = Scene::new();
    let ct = Conntrack {
        original: asked(),
        reply: flow("10.9.0.30:5353", "10.9.0.29:40000"),
        entry: 1,
        status: 0,
        info: 4,
        zone: 0,
    };
    let mut error = hop(2, flow("10.96.0.10:0", "10.9.0.29:0"), Some(ct));
    let What::Hop { place, head, inner, .. } = &mut error.packet.what else { panic!("it is a hop") };
    (*place, head.icmp, *inner) = (Place::Transmit, Some((3, 3)), Some(asked()));
    let exchange = one(scene.after(5, &[asks(0, 7, "api.com"), error]));
    assert_eq!(exchange.status(), Status::Unreachable);
    let Translated::To(server) = exchange.translated else { panic!("it was translated: {exchange:?}") };
    assert_eq!(server.addr.to_string(), "10.9.0.30:5353");
}

#[test]
fn conntrack_tells_the_server_behind_a_service() {
    let mut scene = Scene::new();
    let reply = flow("10.9.0.30:5353", "10.9.0.29:40000");
    let ct = Conntrack { original: asked(), reply, entry: 1, status: 0, info: 0, zone: 0 };
    let way = [asks(0, 7, "api.com"), hop(1, reply.reversed(), Some(ct))];
    let exchange = one({
        scene.after(1, &way);
        scene.after(5, &[answers(2, 7, "api.com", Code::NoError, &[])])
    });
    assert_eq!(exchange.server.name.as_deref(), Some("kube-system/kube-dns"));
    let Translated::To(after) = exchange.translated else { panic!("it was translated") };
    assert_eq!(after.addr.to_string(), "10.9.0.30:5353");
}

#[test]
fn without_translation_the_server_is_the_same_and_without_a_packet_that_is_unknown() {
    let mut scene = Scene::new();
    let direct = [asks(0, 7, "api.com"), hop(1, asked(), None), answers(2, 7, "api.com", Code::NoError, &[])];
    assert_eq!(one(scene.after(5, &direct)).translated, Translated::No);
    let mut blind = Scene::new();
    let unseen = [asks(0, 7, "api.com"), answers(2, 7, "api.com", Code::NoError, &[])];
    assert_eq!(one(blind.after(5, &unseen)).translated, Translated::Unknown);
}

#[test]
fn a_client_on_another_node_is_told_from_its_server_and_one_of_ours_only_once() {
    let at_server = flow("10.9.0.29:40000", "10.9.0.30:53");
    let arrives = |id| Sighting {
        packet: Packet { netns: DNS, ..dns(1, at_server, Place::Receive, message(id, "api.com", None)).packet },
        ..dns(1, at_server, Place::Receive, message(id, "api.com", None))
    };
    let leaves = |id| Sighting {
        packet: Packet {
            netns: DNS,
            ..dns(2, at_server.reversed(), Place::Transmit, message(id, "api.com", says(Code::NoError, &[]))).packet
        },
        ..dns(2, at_server.reversed(), Place::Transmit, message(id, "api.com", says(Code::NoError, &[])))
    };
    let mut scene = Scene::new();
    let elsewhere = one(scene.after(5, &[arrives(7), leaves(7)]));
    assert_eq!((elsewhere.client, elsewhere.pod), (at_server.src, None));
    let both = [asks(0, 8, "api.com"), arrives(8), leaves(8), answers(3, 8, "api.com", Code::NoError, &["192.0.2.1"])];
    assert_eq!(one(scene.after(5, &both)).took_ns(), Some(3 * MS));
    scene.dns.options.outside = false;
    assert!(scene.after(5, &[arrives(9), leaves(9)]).is_empty(), "only the pods' own queries are asked for");
}

#[test]
fn the_table_counts_alike_and_shows_what_the_search_list_costs() {
    let mut scene = Scene::new();
    for round in 0..3_u64 {
        let (id, at) = (round as u16 * 10, round * 100);
        let names = ["api.com.shop.svc.cluster.local", "api.com.svc.cluster.local", "api.com.cluster.local"];
        for (name, n) in names.into_iter().zip(0..) {
            scene.after(0, &[asks(at, id + n, name), answers(at + 1, id + n, name, Code::NxDomain, &[])]);
        }
        scene.after(0, &[asks(at, id + 9, "api.com"), answers(at + 1 + round, id + 9, "api.com", Code::NoError, &[])]);
    }
    scene.after(0, &[asks(0, 99, "web.shop.svc.cluster.local")]);
    let table = scene.dns.table(0, Vec::new());
    let search = table.searches.first().expect("the search list was used");
    assert_eq!((table.searches.len(), &*search.client, &*search.name), (1, "shop/web-0", "api.com"));
    assert_eq!((search.queries, search.misses, table.open), (12, 9, 1));
    let last = table.rows.last().expect("there are rows");
    assert_eq!((&*last.name, last.queries, last.median_ns, last.max_ns), ("api.com", 3, Some(2 * MS), Some(3 * MS)));
    assert_eq!(table.rows.len(), 4);
}

#[test]
fn made_up_names_do_not_fill_memory() {
    let mut scene = Scene::new();
    for n in 0..5_000_u16 {
        let name = format!("x{n}.com");
        scene.after(0, &[asks(0, n, &name), answers(1, n, &name, Code::NxDomain, &[])]);
    }
    let table = scene.dns.table(0, Vec::new());
    assert_eq!((table.rows.len(), table.unlisted), (4_096, 904));
    for n in 0..20_000_u16 {
        scene.dns.take(&asks(u64::from(n), n, "silent.com"));
    }
    let ended = scene.after(20_000, &[]);
    assert!(ended.iter().any(|e| e.asked_ns == 0) && scene.dns.open.len() <= OPEN_MAX);
}

#[test]
fn only_what_is_about_port_53_concerns_dns() {
    let of = |port: u16| Flow { dst: SocketAddr::new("10.0.0.1".parse().expect("an address"), port), ..asked() };
    let retransmit = |flow| What::Retransmit { flow, state: "SYN_SENT", timeouts: 1 };
    assert!(concerns(&retransmit(of(53))) && !concerns(&retransmit(of(443))));
    let reply = flow("10.9.0.30:5353", "10.9.0.29:40000");
    let ct = Conntrack { original: asked(), reply, entry: 1, status: 0, info: 0, zone: 0 };
    assert!(concerns(&hop(0, reply, Some(ct)).packet.what), "another port since it was translated");
    assert!(!concerns(&hop(0, reply, None).packet.what));
}
