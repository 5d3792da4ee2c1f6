use super::{
    super::{Render, Text},
    Kept, rendered, rendered_with, setup,
};
use crate::{
    model::{drops::Summary, exchange::DnsTable, finding::Finding},
    render::{FindingsLast, Setup, samples},
};

#[test]
fn a_query_is_one_line_in_a_pipe_and_wraps_on_a_terminal() {
    let write = |text: &mut Text| samples::exchanges().iter().try_for_each(|exchange| text.exchange(exchange));
    assert_eq!(
        rendered(write),
        "\
22:13:25.000  shop/web-0  NOERROR   1.204 ms  A api.com: 192.0.2.1, 192.0.2.2; asked 10.96.0.10 (kube-system/kube-dns), after DNAT 10.176.98.31:5353 (kube-system/coredns-0)
22:13:25.000  shop/web-0  NXDOMAIN  1.204 ms  A api.com.cluster.local; asked fd00::53
22:13:25.000  shop/web-0  NOERROR   1.204 ms  AAAA api.com: no AAAA record; asked fd00::53
22:13:25.000  10.176.98.29  timeout          -  A api.com: no answer within 10.5 s, 2 tries; asked 10.96.0.10 (kube-system/kube-dns), after DNAT 10.176.98.31:5353 (kube-system/coredns-0)
22:13:25.000  shop/web-0    open             -  A api.com: no answer yet, 800.0 ms after it was asked; asked 10.96.0.10 (kube-system/kube-dns), NAT not seen
22:13:25.000  shop/web-0    icmp      0.300 ms  A api.com: unreachable, says fd00::53 by ICMP; asked fd00::53
22:13:25.000  shop/web-0    unknown          -  A api.com: no answer seen, but records were left out; asked fd00::53 over TCP
"
    );
    let terminal = rendered_with(Setup { lines: Some(40), ..setup(80) }, write);
    let first: Vec<&str> = terminal.lines().take(3).collect();
    assert_eq!(
        first,
        [
            "22:13:25.000  shop/web-0  NOERROR   1.204 ms  A api.com: 192.0.2.1, 192.0.2.2;",
            "              asked 10.96.0.10 (kube-system/kube-dns), after DNAT",
            "              10.176.98.31:5353 (kube-system/coredns-0)",
        ]
    );
}

#[test]
fn the_table_of_queries_goes_by_client_and_shows_what_the_search_list_costs() {
    let terminal = Setup { lines: Some(40), ..setup(80) };
    assert_eq!(
        rendered_with(terminal.clone(), |text| text.dns(&samples::dns_table(), false)),
        "\
22:13:25.000  DNS queries since start
  result    type  name                               queries  med ms  max ms
shop/db-client
  timeout   A     db.example.com                           3       -       -
shop/web-0
  NXDOMAIN  A     api.com.default.svc.cluster.local        3   1.000   9.000
  NOERROR   A     api.com                                  3   12.00   108.0
  6 queries for api.com: 3 asked for it with the search list behind it, and got
    NXDOMAIN
2 wait for their answer
"
    );
    let live = rendered_with(terminal, |text| text.dns(&samples::dns_table(), true));
    assert!(live.starts_with("\u{1b}[H") && live.contains("wrong-egress (stated): shop/web-0 leaves"), "{live:?}");
    assert_eq!(
        rendered(|text| text.dns(&DnsTable::default(), false)),
        "22:13:20.000  DNS queries since start\nno query so far\n"
    );
}

#[test]
fn findings_wait_for_the_end_where_a_table_is_redrawn() {
    let kept = Kept::default();
    let mut last = FindingsLast::new(Box::new(Text::new(Box::new(kept.clone()), setup(80))));
    let again = Finding { count: 9, ..samples::wrong_egress() };
    last.finding(&samples::wrong_egress()).and_then(|()| last.finding(&again)).expect("memory takes all");
    last.dns(&samples::dns_table(), false).expect("memory takes all");
    let text = || String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text is UTF-8");
    assert!(!text().contains("  fix "), "{}", text());
    last.summary(&Summary::default()).expect("memory takes all");
    assert_eq!(text().matches("wrong-egress (stated)").count(), 1, "{}", text());
}
