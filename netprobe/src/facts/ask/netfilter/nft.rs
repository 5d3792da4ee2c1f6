//! What `nft -y -a list table` prints.

use std::collections::BTreeMap;

use crate::model::ruleset::{Base, Chain, Counter, Engine, RuleLine, Ruleset, Table};

/// Elements kept of one set; a list of a million blocked addresses is not worth its memory.
const ELEMENTS: usize = 65_536;

/// Families and names of `nft list tables`.
pub(super) fn table_names(text: &str) -> Vec<(String, String)> {
    let name = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("table")).then_some(())?;
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(name).collect()
}

/// Which block of a table the lines are in.
enum Block {
    None,
    Chain(String),
    Set(String),
    /// Something without packets to decide: a counter, a quota, a flowtable.
    Other,
}

/// Adds its tables. What makes no sense is left out: the other rules still name one.
pub(super) fn parse(text: &str, into: &mut Ruleset) {
    let mut table: Option<Table> = None;
    let mut block = Block::None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(open) = &mut table else {
            table = begin(line);
            continue;
        };
        if line == "}" {
            if matches!(block, Block::None) {
                into.tables.extend(table.take());
            }
            block = Block::None;
            continue;
        }
        match &block {
            Block::None => block = enter(open, line),
            Block::Chain(chain) => {
                let chain = open.chains.entry(chain.clone()).or_default();
                if line.starts_with("type ") && line.contains(" hook ") {
                    chain.base = base(line);
                    chain.policy_drops = line.contains("policy drop");
                } else if !line.starts_with("comment ") {
                    chain.rules.push(rule(line, chain.rules.len()));
                }
            }
            Block::Set(set) => {
                if let Some(first) = line.strip_prefix("elements = {") {
                    let mut all = first.to_owned();
                    while !is_closed(&all) {
                        let Some(more) = lines.next() else { break };
                        all.push_str(more.trim());
                    }
                    let taken = elements(all.trim_end_matches('}'));
                    open.sets.insert(set.clone(), taken);
                }
            }
            Block::Other => {}
        }
    }
}

/// `table inet filter { # handle 2`
fn begin(line: &str) -> Option<Table> {
    let mut words = line.strip_prefix("table ")?.split_whitespace();
    Some(Table {
        family: words.next()?.to_owned(),
        name: words.next()?.to_owned(),
        engine: Engine::Nft,
        chains: BTreeMap::new(),
        sets: BTreeMap::new(),
    })
}

fn enter(table: &mut Table, line: &str) -> Block {
    if !line.contains('{') {
        // `flags dormant`, `comment "..."` of the table itself.
        return Block::None;
    }
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("chain"), Some(name)) => {
            table.chains.insert(name.to_owned(), Chain::default());
            Block::Chain(name.to_owned())
        }
        (Some("set" | "map"), Some(name)) => {
            table.sets.insert(name.to_owned(), Vec::new());
            Block::Set(name.to_owned())
        }
        _ => Block::Other,
    }
}

/// `type filter hook egress device "eth1" priority 0; policy accept;`, several as `devices = { eth0, eth1 }`.
fn base(line: &str) -> Option<Base> {
    let after = |word: &str| line.split_once(word).map(|(_, rest)| rest.trim_start());
    let hook = after(" hook ")?.split_whitespace().next()?.to_owned();
    let priority = after(" priority ")?.split(';').next()?.trim().parse().unwrap_or(0);
    let devices = match (after(" devices = {"), after(" device ")) {
        (Some(several), _) => several.split('}').next().unwrap_or_default().split(',').map(unquoted).collect(),
        (None, Some(one)) => one.split_whitespace().take(1).map(unquoted).collect(),
        (None, None) => Vec::new(),
    };
    Some(Base { hook, priority, devices })
}

fn unquoted(word: &str) -> String {
    word.trim().trim_matches('"').to_owned()
}

fn rule(line: &str, before: usize) -> RuleLine {
    let (text, handle) = line.rsplit_once(" # handle ").map_or((line, None), |(text, n)| (text, n.trim().parse().ok()));
    let (text, comment) = without_comment(text);
    let (text, counter) = without_counter(text);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    RuleLine { text, position: u32::try_from(before + 1).unwrap_or(u32::MAX), handle, counter, comment }
}

/// A rule's own comment stands at its end.
fn without_comment(text: &str) -> (&str, Option<String>) {
    let split = text.rsplit_once(" comment \"").and_then(|(rule, comment)| Some((rule, comment.strip_suffix('"')?)));
    split.map_or((text, None), |(rule, comment)| (rule, Some(comment.to_owned())))
}

/// `counter packets 5 bytes 300`, wherever in the rule.
fn without_counter(text: &str) -> (String, Option<Counter>) {
    let Some((before, rest)) = text.split_once("counter packets ") else { return (text.to_owned(), None) };
    let mut words = rest.splitn(4, ' ');
    let (packets, _, bytes) = (words.next(), words.next(), words.next());
    let number = |word: Option<&str>| word?.parse().ok();
    let counter = number(packets).zip(number(bytes)).map(|(packets, bytes)| Counter { packets, bytes });
    (format!("{before}{}", words.next().unwrap_or_default()), counter)
}

/// Every quote and brace that was opened is closed again, and the list's own brace too.
fn is_closed(text: &str) -> bool {
    let mut depth = 1;
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            '{' if !quoted => depth += 1,
            '}' if !quoted => depth -= 1,
            _ => {}
        }
    }
    depth == 0
}

/// Elements of a set, by the commas between them.
fn elements(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut quoted = false;
    for (at, character) in text.char_indices().chain(std::iter::once((text.len(), ','))) {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted && found.len() < ELEMENTS => {
                let element = text[start..at].trim();
                if !element.is_empty() {
                    found.push(element.to_owned());
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"table inet fw { # handle 2
	set blocked { # handle 3
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8,
			     192.168.1.1 comment "a, b" }
	}

	chain in { # handle 1
		type filter hook input priority -10; policy drop;
		ip saddr @blocked tcp dport 80 counter packets 7 bytes 420 drop comment "blocked # people" # handle 6
		jump out2 # handle 9
	}

	chain out2 { # handle 2
	}
}
table netdev nd { # handle 3
	chain eg { # handle 1
		type filter hook egress device "eth1" priority 0; policy accept;
		ip daddr 10.1.1.1 drop # handle 3
	}

	chain ing { # handle 2
		type filter hook ingress devices = { eth0, eth1 } priority -500; policy accept;
	}
}
"#;

    #[test]
    fn chains_sets_and_rules_are_read() {
        let mut found = Ruleset::default();
        parse(TEXT, &mut found);
        let fw = &found.tables[0];
        assert_eq!(fw.sets["blocked"], ["10.0.0.0/8", "192.168.1.1 comment \"a, b\""]);
        let chain = &fw.chains["in"];
        assert!(chain.policy_drops && chain.base.as_ref().is_some_and(|b| b.hook == "input" && b.priority == -10));
        let rule = &chain.rules[0];
        assert_eq!(rule.text, "ip saddr @blocked tcp dport 80 drop");
        assert_eq!((rule.handle, rule.comment.as_deref()), (Some(6), Some("blocked # people")));
        assert_eq!(rule.counter, Some(Counter { packets: 7, bytes: 420 }));
        assert_eq!(chain.rules[1].handle, Some(9));
        assert!(fw.chains["out2"].base.is_none());
    }

    #[test]
    fn devices_of_netdev_chains_are_read() {
        let mut found = Ruleset::default();
        parse(TEXT, &mut found);
        let devices = |chain: &str| found.tables[1].chains[chain].base.as_ref().map(|b| b.devices.join(" "));
        assert_eq!(devices("eg").as_deref(), Some("eth1"));
        assert_eq!(devices("ing").as_deref(), Some("eth0 eth1"));
    }

    #[test]
    fn nonsense_is_not_fatal() {
        let mut found = Ruleset::default();
        parse("table ip x {\n}}\n chain {\n # \n elements = {\n", &mut found);
        assert_eq!(table_names("table ip x\nnonsense\n"), [("ip".to_owned(), "x".to_owned())]);
    }
}
