//! A netfilter rule drops, and nothing but the kernel can tell which: no rule has a counter, or several match.

use netprobe_tests::{Lab, PORT, SERVER};

/// What the forward hook dropped. Where the kernel takes programs on its functions, table and chain are its word.
fn story(lab: &Lab, hook: &str, (family, table, chain): (&str, &str, &str)) {
    let finding = lab.finding("web-0", "netfilter-drop", |lab| drop(lab.on("web-0").cannot_connect(SERVER)));
    finding.is_at("web-0", "node", "vweb0");
    assert_eq!(finding.text("/netfilter/hook"), "forward");
    if lab.shows(hook) {
        let told = ["/netfilter/family", "/netfilter/table", "/netfilter/chain"].map(|field| finding.text(field));
        assert_eq!(told, [family, table, chain]);
        assert_eq!(finding.text("/confidence"), "stated");
        finding.says("nf_hook_slow in hook forward (vweb0 to eth1)");
    }
}

#[test]
fn of_two_tables_that_may_have_dropped_it_the_kernel_tells_which() {
    let Some(lab) = Lab::start("of_two_tables_that_may_have_dropped_it_the_kernel_tells_which") else { return };
    // Whether a limit is exceeded cannot be known from the rule: both are suspects.
    lab.on("node").nft(&format!(
        "table inet site {{\n chain guard {{\n type filter hook forward priority 10;\n tcp dport {PORT} drop\n }}\n}}\n\
         table ip early {{\n chain brake {{\n type filter hook forward priority 0;\n \
         tcp dport {PORT} limit rate over 1000/second drop\n }}\n}}\n"
    ));
    story(&lab, "nft_do_chain", ("inet", "site", "guard"));
}

#[test]
fn a_rule_of_iptables_nft_is_told_by_its_chain() {
    let Some(lab) = Lab::start("a_rule_of_iptables_nft_is_told_by_its_chain") else { return };
    lab.on("node").run(&format!("iptables-nft -A FORWARD -p tcp --dport {PORT} -j DROP"));
    story(&lab, "nft_do_chain", ("ip", "filter", "FORWARD"));
}

#[test]
fn a_rule_of_iptables_legacy_is_told_by_its_table() {
    let Some(lab) = Lab::start("a_rule_of_iptables_legacy_is_told_by_its_table") else { return };
    lab.on("node").run(&format!("iptables-legacy -t mangle -A FORWARD -p tcp --dport {PORT} -j DROP"));
    story(&lab, "ipt_do_table", ("ip", "mangle", "FORWARD"));
}

#[test]
fn kprobes_tell_the_chain_of_nftables_too() {
    let Some(lab) = Lab::start("kprobes_tell_the_chain_of_nftables_too") else { return };
    lab.on("node").nft(&format!(
        "table inet site {{\n chain guard {{\n type filter hook forward priority 10;\n tcp dport {PORT} drop\n }}\n}}\n"
    ));
    let Some(probe) = lab.trace_by_kprobes("web-0") else { return };
    lab.on("web-0").cannot_connect(SERVER);
    let finding = probe.one("netfilter-drop");
    let told = ["/netfilter/family", "/netfilter/table", "/netfilter/chain"].map(|field| finding.text(field));
    assert_eq!(told, ["inet", "site", "guard"]);
    assert_eq!(finding.text("/confidence"), "stated");
    finding.says("nf_hook_slow in hook forward (vweb0 to eth1): chain guard");
}

#[test]
fn kprobes_tell_the_table_of_iptables_legacy_too() {
    let Some(lab) = Lab::start("kprobes_tell_the_table_of_iptables_legacy_too") else { return };
    lab.on("node").run(&format!("iptables-legacy -t mangle -A FORWARD -p tcp --dport {PORT} -j DROP"));
    let Some(probe) = lab.trace_by_kprobes("web-0") else { return };
    lab.on("web-0").cannot_connect(SERVER);
    let finding = probe.one("netfilter-drop");
    assert_eq!(finding.text("/netfilter/table"), "mangle");
    assert_eq!(finding.text("/confidence"), "stated");
}
