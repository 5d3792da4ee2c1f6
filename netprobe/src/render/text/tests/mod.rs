use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use proptest::prelude::*;

mod dns;

use super::Text;
use crate::{
    model::{
        drops::{DropRow, DropTable, Hole, Loss, Summary},
        exchange::{DnsRow, DnsTable, Exchange, Server},
        finding::Finding,
        flow::Proto,
        identity::Pod,
        packet::{Head, Place, What},
        sighting::Side,
    },
    render::{Render, Setup, samples},
};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn setup(columns: usize) -> Setup {
    Setup { clock: samples::clock(), columns, lines: None, colour: false }
}

fn rendered_with(setup: Setup, write: impl FnOnce(&mut Text) -> io::Result<()>) -> String {
    let kept = Kept::default();
    let mut text = Text::new(Box::new(kept.clone()), setup);
    write(&mut text).expect("memory takes all");
    text.flush().expect("memory takes all");
    let bytes = kept.0.lock().expect("not poisoned").clone();
    String::from_utf8(bytes).expect("text is UTF-8")
}

fn rendered(write: impl FnOnce(&mut Text) -> io::Result<()>) -> String {
    rendered_with(setup(80), write)
}

#[test]
fn the_wrong_nic_reads_as_in_the_readme() {
    let text = rendered(|text| {
        let finding = Arc::new(samples::wrong_egress());
        text.journey(&samples::wrong_nic(), 0, &[Arc::clone(&finding)])?;
        text.finding(&finding)
    });
    assert_eq!(
        text,
        "\
shop/web-0 10.176.98.29:41234 -> 10.176.46.4:3306 tcp SYN
    0.001 ms  pod    eth0
    0.012 ms  node   veth3f2 in
    0.014 ms  route  table main, back to the sender: dev veth3f2
    0.015 ms  route  table 2: no route
    0.016 ms  route  table main: via 10.176.32.1 dev eth0
    0.019 ms  node   eth0 out                                   <- expected eth1
    1.03 s    tcp    SYN sent again (no answer)
wrong-egress (stated): shop/web-0 leaves this node by eth0; policy rule 1536
  sends it to table 2 (eth1), which is empty
  since   14:03:22 default via 10.176.96.1 dev eth1 table 2 was deleted by ipamd
          (pid 812)
  fix     ip route add default via 10.176.96.1 dev eth1 table 2
  fix     restart the daemon that owns table 2
  seen    22:13:25.000  fib_table_lookup table 2: no route
"
    );
}

#[test]
fn steps_written_one_by_one_read_like_the_journey_at_once() {
    let journey = samples::wrong_nic();
    let whole = rendered(|text| text.journey(&journey, 0, &[]));
    let single = rendered(|text| journey.steps.iter().try_for_each(|step| text.packet(step, &journey)));
    let parts = rendered(|text| {
        let mut early = journey.clone();
        early.steps.truncate(5);
        text.journey(&early, 0, &[])?;
        text.journey(&journey, 5, &[])
    });
    assert_eq!(single, whole);
    assert_eq!(parts, whole);
}

#[test]
fn a_translation_is_told_once_and_the_answer_is_marked() {
    let to_service = samples::flow(Proto::Tcp, "10.176.98.29:41234", "10.96.0.10:80");
    let dnat = samples::flow(Proto::Tcp, "10.176.98.29:41234", "10.176.98.30:8080");
    let snat = samples::flow(Proto::Tcp, "192.0.2.1:20000", "10.176.98.30:8080");
    let (node, pod) = (Side::Node, Side::Pod);
    let step = |after, side, device, forward, place, flow, flags| {
        samples::step(after, side, device, forward, samples::hop(place, samples::head(flow, flags)))
    };
    let steps = vec![
        step(0, pod, "eth0", true, Place::Transmit, to_service, 2),
        step(10, node, "veth3f2", true, Place::Receive, to_service, 2),
        step(20, node, "eth1", true, Place::Queue, snat, 2),
        step(21, node, "eth1", true, Place::Transmit, snat, 2),
        step(300, node, "eth1", false, Place::Receive, snat.reversed(), 18),
        step(310, node, "veth3f2", false, Place::Transmit, to_service.reversed(), 18),
        step(320, pod, "eth0", false, Place::Receive, to_service.reversed(), 18),
        step(400, pod, "eth0", true, Place::Transmit, to_service, 16),
    ];
    let journey = samples::journey(3, to_service, vec![dnat, snat], steps);
    assert_eq!(
        rendered(|text| text.journey(&journey, 0, &[])),
        "\
shop/web-0 10.176.98.29:41234 -> 10.96.0.10:80 tcp SYN
    0.000 ms  pod    eth0
    0.010 ms  node   veth3f2 in
    0.021 ms  nat    10.96.0.10:80 -> 10.176.98.30:8080 (dnat)
    0.021 ms  nat    10.176.98.29:41234 -> 192.0.2.1:20000 (snat)
    0.021 ms  node   eth1 out
    0.300 ms  node   eth1 in          answer SYN,ACK
    0.310 ms  node   veth3f2 out
    0.320 ms  pod    eth0 in
    0.400 ms  pod    eth0             ACK
"
    );
}

#[test]
fn every_kind_of_event_has_plain_words() {
    let journey = samples::journey(4, samples::syn(), vec![], samples::every_event());
    assert_eq!(
        rendered(|text| text.journey(&journey, 0, &[])),
        "\
shop/web-0 10.176.98.29:41234 -> 10.176.46.4:3306 tcp SYN
    0.010 ms  drop   NETFILTER_DROP in nft_do_chain, hook forward (node eth1)
    0.020 ms  tcp    segment sent again (no answer)
    0.030 ms  tcp    reset sent: no socket is there (NO_SOCKET)
    0.040 ms  tcp    reset received
    0.050 ms  tcp    mysql connects
    0.060 ms  tcp    not connected: connection refused
    0.070 ms  send   app cannot send: EMSGSIZE
    0.080 ms  neigh  10.176.32.1 asked for on eth1, the packet waits
    0.090 ms  neigh  10.176.32.1 is at 02:00:00:00:00:01 on eth1
    0.100 ms  neigh  10.176.32.1 did not answer on eth1
    0.110 ms  icmp   sends \"host unreachable\" to the sender
    0.120 ms  dns    A api.example.com?
    0.130 ms  dns    A api.example.com: NXDOMAIN
    0.140 ms  route  table main: no route
    0.150 ms  route  table 2: blackhole route
    0.160 ms  node   eth1 in          fragmentation needed, about
                     10.176.98.29:41234 -> 10.176.46.4:3306 tcp
    0.170 ms  drop   dropped in hook forward by chain FORWARD of table ip filter
                     (nftables)
    0.180 ms  drop   dropped in hook forward by table filter (ip,
                     iptables-legacy)
    0.190 ms  drop   dropped in hook forward by conntrack: the connection found
                     no place
    0.200 ms  drop   dropped in hook forward
    0.210 ms  config ipamd asks for a change of the network
    0.220 ms  nat    snat to 10.176.98.29:41234, from 10.176.32.1 ports
                     1024-65535
    0.230 ms  node   10.176.98.29:41234 -> 10.176.46.4:3306 tcp is of cgroup
                     4711
"
    );
}

#[test]
fn a_ping_has_no_ports_and_its_answer_is_an_answer() {
    let ping = samples::flow(Proto::Icmpv6, "[fd00::29]:77", "[fd00::1]:77");
    let echo = |flow, icmp| samples::hop(Place::Receive, Head { icmp: Some(icmp), ..samples::head(flow, 0) });
    let steps = vec![
        samples::step(10, Side::Node, "veth3f2", true, echo(ping, (128, 0))),
        samples::step(900, Side::Node, "eth1", false, echo(ping.reversed(), (129, 0))),
    ];
    assert_eq!(
        rendered(|text| text.journey(&samples::journey(5, ping, vec![], steps), 0, &[])),
        "\
shop/web-0 fd00::29 -> fd00::1 icmp6 echo request
    0.010 ms  node   veth3f2 in
    0.900 ms  node   eth1 in          answer echo reply
"
    );
}

#[test]
fn a_packet_that_never_left_the_queue_is_shown_as_queued() {
    let mut journey = samples::wrong_nic();
    journey.steps.retain(|step| {
        step.sighting.side == Side::Pod && matches!(step.sighting.packet.what, What::Hop { place: Place::Queue, .. })
    });
    let text = rendered(|text| text.journey(&journey, 0, &[]));
    assert!(text.ends_with("\n    0.000 ms  pod    eth0 queued\n"), "{text}");
}

#[test]
fn another_journey_gets_its_header_and_the_same_one_does_not() {
    let (one, mut two) = (samples::wrong_nic(), samples::wrong_nic());
    two.id = 2;
    let text = rendered(|text| {
        text.journey(&one, 10, &[])?;
        text.journey(&one, 10, &[])?;
        text.journey(&two, 10, &[])
    });
    let headers: Vec<_> = text.lines().map(|line| !line.starts_with(' ')).collect();
    assert_eq!(headers, [true, false, false, true, false]);
}

#[test]
fn a_pod_that_is_called_stands_at_the_other_end() {
    let mut journey = samples::wrong_nic();
    journey.pod = Some(samples::pod("db-0"));
    let mut step = journey.steps[0].clone();
    let sighting = Arc::make_mut(&mut step.sighting);
    std::mem::swap(&mut sighting.source, &mut sighting.destination);
    sighting.destination = crate::model::known::Known::Yes(samples::pod("db-0"));
    journey.steps = [step].into();
    let text = rendered(|text| text.journey(&journey, 0, &[]));
    assert!(text.starts_with("10.176.98.29:41234 -> shop/db-0 10.176.46.4:3306 tcp SYN\n"), "{text}");
}

#[test]
fn a_finding_that_only_counts_on_is_one_sentence() {
    let first = samples::wrong_egress();
    let again = Finding { count: 7, last_ns: samples::START_NS + 9_000_000_000, ..first.clone() };
    let other = Finding { claim: "another cause".to_owned(), ..again.clone() };
    let lines = |findings: &[&Finding]| {
        rendered(|text| findings.iter().try_for_each(|finding| text.finding(finding))).lines().count()
    };
    assert_eq!(lines(&[&first, &again]), lines(&[&first]) + 2);
    assert_eq!(lines(&[&first, &other]), lines(&[&first]) + lines(&[&other]));
    let text = rendered(|text| [&first, &again].iter().try_for_each(|finding| text.finding(finding)));
    let last: Vec<_> = text.lines().skip(lines(&[&first])).collect();
    assert_eq!(
        last,
        [
            "wrong-egress: 7 times so far, last at 22:13:34.000 (shop/web-0 leaves this node",
            "  by eth0; policy rule 1536 sends it to table 2 (eth1), which is empty)",
        ]
    );
}

#[test]
fn the_table_of_drops_folds_noise_into_its_last_line() {
    assert_eq!(
        rendered(|text| text.drops(&samples::drop_table(), false)),
        "\
22:13:25.000  drops since start
pod         where  device  reason          site          packets   /s
shop/web-0  node   eth1    NETFILTER_DROP  nft_do_chain     1200  300
-           -      -       IP_INNOROUTES   nft_do_chain        7    2
not in the table: 42 that a healthy node drops too (multicast nobody listens to
  2, unknown protocol 40)
"
    );
    let empty = DropTable { mono_ns: samples::START_NS, ..DropTable::default() };
    assert_eq!(rendered(|text| text.drops(&empty, false)), "22:13:25.000  drops since start\nno packet was dropped\n");
}

#[test]
fn the_tables_of_flows_say_peers_devices_and_nat() {
    let told = rendered_with(Setup { lines: Some(40), ..setup(80) }, |text| text.flows(&samples::flow_table(), false));
    assert_eq!(
        told,
        "\
22:13:25.000  packets and bytes on the wire in 1.50 s
pod         device              packets out  bytes out  packets in  bytes in
shop/web-0  veth3f2 (its link)            6      504 B           5  14.3 MiB
shop/web-0  eth1                          6      504 B           5  14.3 MiB
(node)      eth0                          6      504 B           5  14.3 MiB

  peer                                  by    conns    out        in   SYN-ACK
shop/web-0
  10.96.0.1:80 tcp shop/db (service)    eth1      3  504 B  14.3 MiB  0.257 ms
    1 unanswered, 2 segments sent again
    DNAT in PREROUTING: to 10.20.0.4:8080 of service shop/db; SNAT in
      POSTROUTING: from 192.0.2.10:41234, the address of eth0, leaves by eth1
  10.9.0.7 -> :8080 tcp                 -         3  504 B  14.3 MiB  0.257 ms
    2 segments sent again
  s3.example.com (203.0.113.9):443 tcp  eth1      3  504 B  14.3 MiB  0.257 ms
connections to peers that found no room here: 7
"
    );
}

#[test]
fn a_translation_is_told_by_hook_and_device() {
    assert_eq!(
        rendered(|text| text.translation(&samples::translation())),
        "\
22:13:25.000  shop/web-0  10.1.0.5:41234 -> 10.96.0.1:80 tcp
  DNAT in PREROUTING: to 10.20.0.4:8080 of service shop/db
  SNAT in POSTROUTING: from 192.0.2.10:41234, the address of eth0, leaves by
    eth1
"
    );
}

#[test]
fn a_hole_in_the_counts_says_where_and_when() {
    let (from_ns, to_ns) = (samples::START_NS, Some(samples::START_NS + 1_500_000_000));
    let hole = Hole { device: "v\u{1b}0".to_owned(), netns: 9, from_ns, to_ns, why: "it was removed".to_owned() };
    let loss = Loss { mono_ns: 1, lost: 1, what: "holes", hole: Some(hole) };
    assert_eq!(
        rendered(|text| text.loss(&loss)),
        "lost: counts at v\\u{1b}0 have a hole from 22:13:25.000 to 22:13:26.500: it was\n  removed\n"
    );
}

#[test]
fn a_table_of_translations_has_a_row_for_those_that_are_alike() {
    assert_eq!(
        rendered(|text| text.nat(&samples::nat_table(), false)),
        "\
22:13:25.000  connections translated in 1.50 s
pod                 from      to                        becomes from       to              by    conns
shop/web-0          10.1.0.5  10.96.0.1:80 tcp shop/db  192.0.2.10 (eth0)  10.20.0.4:8080  eth1      3
shop/web-0 (ended)  10.1.0.5  10.96.0.1:80 tcp          192.0.2.10 (eth0)  -               -         1
connections that found no room here: 2
"
    );
}

#[test]
fn the_last_table_takes_the_place_of_those_drawn_in_place() {
    let table = samples::nat_table();
    let text = rendered_with(Setup { lines: Some(40), ..setup(80) }, |text| {
        text.nat(&table, true)?;
        text.nat(&table, false)?;
        text.nat(&table, false)
    });
    assert_eq!(text.matches("\u{1b}[H\u{1b}[J22:13:25.000").count(), 1, "{text:?}");
}

#[test]
fn a_live_table_redraws_in_place_and_fits_the_screen() {
    let rows = (0..30).map(|n| samples::drop_row(Some("web-0"), "NETFILTER_DROP", n)).collect();
    let table = DropTable { rows, ..samples::drop_table() };
    let text = rendered_with(Setup { lines: Some(10), ..setup(80) }, |text| text.drops(&table, true));
    assert!(text.starts_with("\u{1b}[H") && text.ends_with("\u{1b}[J"), "{text:?}");
    assert_eq!(text.lines().count(), 10, "heading, eight lines and what clears the rest: {text}");
    assert!(text.contains("(24 lines more: make the terminal higher, or pipe the output)"), "{text}");
}

#[test]
fn drops_of_several_nodes_say_which_and_a_node_cannot_steer_the_terminal() {
    let of = |node: &str| DropRow { node: Some(node.into()), ..samples::drop_row(Some("web-0"), "NETFILTER_DROP", 7) };
    let table = DropTable { rows: vec![of("n1"), of("n\u{1b}[2J")], ..samples::drop_table() };
    let text = rendered(|text| text.drops(&table, false));
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].starts_with("node  ") && lines[1].contains("  pod  "), "{text}");
    assert!(lines[2].starts_with("n1  ") && lines[2].contains("shop/web-0"), "{text}");
    assert!(lines[3].starts_with("n\\u{1b}[2J  "), "{text}");
}

#[test]
fn nothing_is_wider_than_the_terminal() {
    let long = Arc::new(Pod {
        namespace: "a-namespace-with-a-long-name".to_owned(),
        name: "a-deployment-with-a-long-name-7d9c6b5f4-x2x9z".to_owned(),
        ..(*samples::pod("x")).clone()
    });
    let row = DropRow {
        node: None,
        pod: Some(Arc::clone(&long)),
        site: "a_function_with_quite_a_long_name_indeed".into(),
        ..samples::drop_row(None, "NETFILTER_DROP_WITH_A_LONG_NAME", 123_456_789)
    };
    let table = DropTable { rows: vec![row], ..samples::drop_table() };
    let mut journey = samples::wrong_nic();
    journey.pod = Some(long);
    journey.steps.extend(samples::every_event());
    let finding = Arc::new(samples::wrong_egress());
    for columns in [80, 100, 132] {
        let terminal = Setup { lines: Some(50), ..setup(columns) };
        let text = rendered_with(terminal, |text| {
            text.journey(&journey, 0, &[Arc::clone(&finding)])?;
            text.finding(&finding)?;
            text.drops(&table, false)?;
            samples::exchanges().iter().try_for_each(|exchange| text.exchange(exchange))?;
            text.dns(&samples::dns_table(), true)?;
            text.loss(&Loss { mono_ns: 1, lost: 12, what: "records that found no room in the ring", hole: None })?;
            text.summary(&Summary { findings: vec![("wrong-egress", 1)], ..Summary::default() })
        });
        for line in text.replace("\u{1b}[K", "").replace("\u{1b}[H", "").replace("\u{1b}[J", "").lines() {
            assert!(line.trim_end().chars().count() <= columns, "{columns}: {line}");
        }
    }
}

proptest! {
    #[test]
    fn no_name_breaks_the_table_or_its_width(
        texts in prop::collection::vec(any::<String>(), 3), packets in any::<u64>(), columns in 40usize..160,
    ) {
        let pod = Pod { name: texts[0].clone(), ..(*samples::pod("x")).clone() };
        let row = DropRow {
            node: None,
            pod: Some(Arc::new(pod)),
            device: texts[1].as_str().into(),
            ..samples::drop_row(None, &texts[2], packets / 120)
        };
        let table = DropTable { rows: vec![row], ..samples::drop_table() };
        for line in super::table::lines(&table, columns, columns) {
            // Five columns of eight, the counts with their headings, and six gaps of two.
            let least = 5 * 8 + 2 * 20 + 6 * 2;
            prop_assert!(textwrap::core::display_width(&line) <= columns.max(least), "{}", line);
        }
    }
}

#[test]
fn names_from_outside_cannot_steer_the_terminal() {
    let evil = "\u{1b}[2J\u{202e}\n";
    let mut journey = samples::wrong_nic();
    let name = Pod { name: evil.to_owned(), ..(*samples::pod("x")).clone() };
    journey.pod = Some(Arc::new(name.clone()));
    let what = What::State { flow: samples::syn(), old: "CLOSE", new: "SYN_SENT", err: 0, comm: evil.into() };
    journey.steps.push_back(samples::step(20, Side::Node, evil, true, what));
    journey.steps.push_back(samples::step(
        30,
        Side::Node,
        evil,
        true,
        samples::hop(Place::Receive, samples::head(samples::syn(), 2)),
    ));
    let finding = Finding {
        claim: evil.to_owned(),
        since: Some(evil.to_owned()),
        fix: vec![evil.to_owned()],
        expected_device: Some(evil.to_owned()),
        ..samples::wrong_egress()
    };
    let row = DropRow { pod: Some(Arc::new(name)), device: evil.into(), ..samples::drop_row(None, evil, 1) };
    let asked = Exchange { name: evil.into(), kind: evil.into(), ..samples::exchanges().remove(0) };
    let asked = Exchange { server: Server { name: Some(evil.into()), ..asked.server.clone() }, ..asked };
    let named = DnsRow { client: evil.into(), name: evil.into(), ..samples::dns_table().rows.remove(0) };
    let text = rendered(|text| {
        text.journey(&journey, 0, &[Arc::new(finding.clone())])?;
        text.finding(&finding)?;
        text.exchange(&asked)?;
        text.dns(&DnsTable { rows: vec![named], ..samples::dns_table() }, false)?;
        text.drops(&DropTable { rows: vec![row], ..samples::drop_table() }, false)
    });
    assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    assert!(text.contains("\\u{1b}[2J\\u{202e}\\n"), "{text}");
}

#[test]
fn colours_change_no_word() {
    let write = |text: &mut Text| {
        text.journey(&samples::wrong_nic(), 0, &[Arc::new(samples::wrong_egress())])?;
        text.finding(&samples::wrong_egress())
    };
    let coloured = rendered_with(Setup { colour: true, ..setup(80) }, write);
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').expect("a colour ends with m").1;
    }
    plain.push_str(rest);
    assert!(plain.len() < coloured.len());
    assert_eq!(plain, rendered(write));
}

#[test]
fn a_summary_says_what_was_found_and_lost() {
    let summary = Summary {
        from_ns: 0,
        to_ns: 12_300_000_000,
        records: 450,
        lost: 0,
        journeys: 3,
        dropped: 2,
        findings: vec![("wrong-egress", 1)],
        stale_since_ns: None,
    };
    assert_eq!(
        rendered(|text| text.summary(&summary)),
        "3 journeys and 2 drops in 12.3 s; wrong-egress 1; 450 records, 0 lost\n"
    );
    let stale = Summary { stale_since_ns: Some(2_300_000_000), ..summary };
    let said = rendered(|text| text.summary(&stale));
    assert!(said.replace("\n  ", " ").ends_with("450 records, 0 lost; names are 10.0 s old\n"), "{said}");
}
