//! `--allow-system-changes`: nftables itself names the rule that drops a packet, by its handle.

use std::time::Duration;

use netprobe_tests::{Finding, Lab, PORT, Probe, SERVER, wait};
use nix::sys::signal::{Signal, kill};

/// How long the kernel may take to clean up after a killed process.
const CLEAN: Duration = Duration::from_secs(5);

/// Two tables that may both have dropped it: whether the limit of the first was exceeded nobody can know afterwards.
fn two_suspects(lab: &Lab) {
    lab.on("node").nft(&format!(
        "table inet early {{\n chain brake {{\n type filter hook forward priority 0;\n \
         tcp dport {PORT} limit rate over 1000/second drop\n }}\n}}\n\
         table inet site {{\n chain guard {{\n type filter hook forward priority 10;\n jump doors\n }}\n\
         chain doors {{\n ip daddr 192.0.2.1 drop\n tcp dport {PORT} drop\n }}\n}}\n"
    ));
}

fn traced(lab: &Lab) -> Probe {
    lab.netprobe(&["trace", "--pod", "shop/web-0", "--allow-system-changes"])
}

/// Traces the pod while it cannot connect; the one finding is the kernel's word.
fn story(lab: &Lab, rule: &str, (family, table, chain): (&str, &str, &str)) -> Finding {
    let probe = traced(lab);
    drop(lab.on("web-0").cannot_connect(SERVER));
    // Reading the rules may take longer than the connection lives.
    probe.shows("the rule", |object| object["kind"] == "finding" && !object["netfilter"]["rule"].is_null());
    let finding = probe.one(rule);
    finding.is_at("web-0", "node", "vweb0");
    let told = ["/netfilter/family", "/netfilter/table", "/netfilter/chain"].map(|field| finding.text(field));
    assert_eq!(told, [family, table, chain]);
    assert_eq!(finding.text("/confidence"), "stated");
    finding.says("nft monitor trace");
    assert_eq!(ours(lab), "", "the table is gone with netprobe");
    finding
}

/// The tables that netprobe made on the node.
fn ours(lab: &Lab) -> String {
    lab.on("node").run("nft list tables | grep netprobe || true")
}

/// What `nft -a` says of the rule's handle.
fn handle(lab: &Lab, chain: &str, text: &str) -> u64 {
    let listing = lab.on("node").run(&format!("nft -a list chain {chain}"));
    let line = listing.lines().find(|line| line.contains(text)).expect("the rule is listed");
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("it has a handle")
}

#[test]
fn of_two_tables_nftables_names_the_rule() {
    let Some(lab) = Lab::start("of_two_tables_nftables_names_the_rule") else { return };
    two_suspects(&lab);
    let handle = handle(&lab, "inet site doors", "dport");
    let finding = story(&lab, "netfilter-drop", ("inet", "site", "doors"));
    assert_eq!(finding.value("/netfilter/handle").as_u64(), Some(handle));
    assert_eq!(finding.text("/netfilter/rule"), format!("tcp dport {PORT} drop"));
    finding.says(&format!("nft delete rule inet site doors handle {handle}"));
}

#[test]
fn a_rule_of_iptables_nft_is_named_by_its_place_and_its_handle() {
    let Some(lab) = Lab::start("a_rule_of_iptables_nft_is_named_by_its_place_and_its_handle") else { return };
    // Both drop it where they are reached; statistics decide that.
    lab.on("node").run("iptables-nft -N GUARD; iptables-nft -A FORWARD -j GUARD");
    lab.on("node").run("iptables-nft -A GUARD -m statistic --mode nth --every 100000 --packet 99999 -j DROP");
    lab.on("node").run(&format!("iptables-nft -A GUARD -p tcp --dport {PORT} -j DROP"));
    let finding = story(&lab, "netfilter-drop", ("ip", "filter", "GUARD"));
    assert_eq!(finding.value("/netfilter/position").as_u64(), Some(2));
    assert!(finding.value("/netfilter/handle").as_u64().is_some());
    assert_eq!(finding.text("/netfilter/rule"), format!("-p tcp -m tcp --dport {PORT} -j DROP"));
}

#[test]
fn a_rule_that_refuses_is_named_too() {
    let Some(lab) = Lab::start("a_rule_that_refuses_is_named_too") else { return };
    lab.on("node").run(&format!("iptables-nft -A FORWARD -p tcp --dport {PORT} -j REJECT"));
    let finding = story(&lab, "netfilter-reject", ("ip", "filter", "FORWARD"));
    assert_eq!(finding.value("/netfilter/position").as_u64(), Some(1), "{}", finding.value("/netfilter"));
}

#[test]
fn a_policy_has_no_handle() {
    let Some(lab) = Lab::start("a_policy_has_no_handle") else { return };
    lab.on("node").nft("table ip site {\n chain guard {\n type filter hook forward priority 0; policy drop;\n }\n}\n");
    let finding = story(&lab, "netfilter-drop", ("ip", "site", "guard"));
    assert!(finding.value("/netfilter/handle").is_null());
    assert_eq!(finding.text("/netfilter/rule"), "policy drop");
}

#[test]
fn without_leave_no_table_is_made() {
    let Some(lab) = Lab::start("without_leave_no_table_is_made") else { return };
    two_suspects(&lab);
    let probe = lab.trace("web-0");
    assert_eq!(ours(&lab), "");
    drop(lab.on("web-0").cannot_connect(SERVER));
    let finding = probe.one("netfilter-drop");
    // The kernel tells the chain, in which there is one such rule.
    let knows = lab.shows("nft_do_chain");
    assert!(knows || finding.value("/netfilter/handle").is_null(), "nobody can know which");
}

#[test]
fn the_table_goes_with_a_killed_netprobe() {
    let Some(lab) = Lab::start("the_table_goes_with_a_killed_netprobe") else { return };
    let probe = traced(&lab);
    assert_eq!(ours(&lab), format!("table inet netprobe-{}\n", probe.pid()));
    kill(probe.pid(), Signal::SIGKILL).expect("it runs");
    assert!(wait(CLEAN, || ours(&lab).is_empty()), "left: {}", ours(&lab));
}
