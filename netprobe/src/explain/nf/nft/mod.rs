//! A rule as `nft list` writes it.

use super::{
    Act, Said, Seen, Sure, Words,
    values::{any, number},
};
use crate::model::ruleset::Table;

mod key;

use key::{Key, Value};

/// What the rule says to the packet.
pub(super) fn ask<'r>(text: &'r str, seen: &Seen<'_>, table: &'r Table) -> Said<'r> {
    let mut words = Words::of(text);
    let spans: Vec<_> = std::iter::from_fn(|| words.span()).collect();
    let words = spans.iter().map(|span| &text[span.clone()]).collect();
    let mut reader = Reader { text, words, spans, at: 0, seen, table, sure: Sure::Yes, mark: None };
    let acts = reader.acts();
    Said { acts, mark: reader.mark.filter(|_| reader.sure == Sure::Yes) }
}

/// Reads a rule's statements from left to right.
struct Reader<'r, 'a> {
    text: &'r str,
    words: Vec<&'r str>,
    spans: Vec<std::ops::Range<usize>>,
    at: usize,
    seen: &'a Seen<'a>,
    table: &'r Table,
    sure: Sure,
    mark: Option<(u32, u32)>,
}

impl<'r> Reader<'r, '_> {
    fn acts(&mut self) -> Vec<(Sure, Act<'r>)> {
        while let Some(word) = self.peek() {
            if let Some(act) = verdict(&self.words[self.at..]) {
                return vec![(self.sure, act)];
            }
            match word {
                // They change the packet or tell of it, and decide nothing.
                "log" | "counter" | "notrack" | "flow" | "meter" | "quota" | "set" | "dup" | "synproxy" | "comment" => {
                    self.at += 1;
                }
                "prefix" | "group" | "level" | "snaplen" | "queue-threshold" => self.at += 2,
                "add" | "update" | "delete" => self.skip_braces(),
                "limit" | "numgen" | "jhash" | "symhash" => {
                    self.sure = self.sure.min(Sure::Maybe);
                    if let Some(map) = self.words[self.at..].iter().position(|word| *word == "vmap") {
                        self.at += map + 1;
                        return self.mapped(None);
                    }
                    self.at += 1;
                }
                _ => {
                    if let Some(acts) = self.compare() {
                        return acts;
                    }
                }
            }
            if self.sure == Sure::No {
                return Vec::new();
            }
        }
        vec![(self.sure, Act::Continue)]
    }

    fn peek(&self) -> Option<&'r str> {
        self.words.get(self.at).copied()
    }

    fn take(&mut self) -> Option<&'r str> {
        let word = self.peek();
        self.at += 1;
        word
    }

    /// `KEY VALUE`, `KEY != VALUE`, `KEY . KEY vmap @MAP`: gives the acts of a verdict map.
    fn compare(&mut self) -> Option<Vec<(Sure, Act<'r>)>> {
        let mut values = Vec::new();
        loop {
            let Some((key, length)) = Key::read(&self.words[self.at..]) else {
                self.sure = self.sure.min(Sure::Maybe);
                self.at += 1;
                return None;
            };
            self.at += length;
            if self.peek() == Some("set") {
                if key == Key::Mark {
                    self.set_mark();
                } else {
                    self.at += 2;
                }
                return None;
            }
            values.push(key.value(self.seen));
            if self.peek() != Some(".") {
                break;
            }
            self.at += 1;
        }
        if values.contains(&Value::Absent) {
            // nft tests the protocol before the field: no such packet comes further.
            self.sure = Sure::No;
            return None;
        }
        if matches!(self.peek(), Some("&" | "and")) {
            self.at += 1;
            let mask = self.take().and_then(number);
            if let (Some(Value::Number(value)), Some(mask)) = (values.first_mut(), mask) {
                *value &= mask;
            } else {
                values = vec![Value::Unknown];
            }
        }
        let inverted = match self.peek() {
            Some("vmap") => {
                self.at += 1;
                return Some(self.mapped(Some(&values)));
            }
            Some("!=") => {
                self.at += 1;
                true
            }
            Some("==" | "eq") => {
                self.at += 1;
                false
            }
            Some("<" | ">" | "<=" | ">=") => {
                self.at += 2;
                self.sure = self.sure.min(Sure::Maybe);
                return None;
            }
            _ => false,
        };
        let found = self.operand(&values);
        self.sure = self.sure.min(found.inverted_if(inverted));
        None
    }

    /// `VALUE`, `{ VALUE, VALUE }`, `@SET`.
    fn operand(&mut self, values: &[Value<'_>]) -> Sure {
        match self.take() {
            Some("{") => any(self.braced().iter().map(|element| matches(element, values))),
            Some(word) if word.starts_with('@') => {
                let set = self.table.sets.get(&word[1..]);
                set.map_or(Sure::Maybe, |set| any(set.iter().map(|element| matches(bare(element), values))))
            }
            Some(first) => {
                // A concatenation, a list of states, a list of flags.
                let mut text = first.to_owned();
                while self.peek() == Some(".") || text.ends_with(',') {
                    text.push(' ');
                    text.push_str(self.take().unwrap_or_default());
                    if text.ends_with(" .") {
                        text.push(' ');
                        text.push_str(self.take().unwrap_or_default());
                    }
                }
                any(text.split(',').map(|element| matches(element.trim(), values)))
            }
            None => Sure::Maybe,
        }
    }

    /// The acts of a verdict map; without values any of them may come.
    fn mapped(&mut self, values: Option<&[Value<'_>]>) -> Vec<(Sure, Act<'r>)> {
        let elements: Vec<&'r str> = match self.take() {
            Some("{") => self.braced(),
            Some(word) => {
                let map = word.strip_prefix('@').and_then(|name| self.table.sets.get(name));
                map.map_or_else(Vec::new, |map| map.iter().map(String::as_str).collect())
            }
            None => Vec::new(),
        };
        let entry = |element: &'r str| {
            let (key, act) = element.rsplit_once(" : ")?;
            let sure = values.map_or(Sure::Maybe, |values| matches(bare(key), values)).min(self.sure);
            let words: Vec<&'r str> = Words::of(act).collect();
            (sure != Sure::No).then_some((sure, verdict(&words)?))
        };
        elements.into_iter().filter_map(entry).collect()
    }

    /// Elements up to the closing brace.
    fn braced(&mut self) -> Vec<&'r str> {
        let start = self.at;
        while self.peek().is_some_and(|word| word != "}") {
            self.at += 1;
        }
        let text = match (self.spans.get(start), self.spans.get(self.at.max(1) - 1)) {
            (Some(first), Some(last)) if self.at > start => &self.text[first.start..last.end],
            _ => "",
        };
        self.at += 1;
        text.split(',').map(str::trim).collect()
    }

    /// `mark set 0x1`, `mark set mark | 0x4000`, `mark set mark and 0xfffeffff`.
    fn set_mark(&mut self) {
        self.at += 1;
        while matches!(self.peek(), Some("meta" | "mark")) {
            self.at += 1;
        }
        let words = &self.words[self.at..];
        let (operation, operand) = match words {
            [operation @ ("|" | "or" | "&" | "and" | "^" | "xor"), operand, ..] => (*operation, *operand),
            [value, ..] => ("=", *value),
            [] => return,
        };
        self.at += if operation == "=" { 1 } else { 2 };
        let Some(value) = number(operand) else { return };
        self.mark = Some(match operation {
            "|" | "or" => (!value, value),
            "&" | "and" => (value, 0),
            "^" | "xor" => (u32::MAX, value),
            _ => (0, value),
        });
    }

    fn skip_braces(&mut self) {
        while self.take().is_some_and(|word| word != "}") {}
    }
}

/// The verdict at the beginning of these words.
fn verdict<'r>(words: &[&'r str]) -> Option<Act<'r>> {
    Some(match words {
        ["accept" | "queue" | "dnat" | "snat" | "masquerade" | "redirect", ..] => Act::Accept,
        ["drop", ..] => Act::Drop,
        ["reject", ..] => Act::Reject,
        ["return", ..] => Act::Return,
        ["continue", ..] => Act::Continue,
        ["jump", chain, ..] => Act::Jump(chain),
        ["goto", chain, ..] => Act::Goto(chain),
        _ => return None,
    })
}

/// An element without what nft keeps beside it.
fn bare(element: &str) -> &str {
    let end = [" comment ", " timeout ", " expires ", " counter "].iter().filter_map(|word| element.find(word)).min();
    element[..end.unwrap_or(element.len())].trim()
}

/// Whether a value, or several in concatenation, is that element.
fn matches(element: &str, values: &[Value<'_>]) -> Sure {
    let parts = element.split(" . ");
    if values.len() == 1 {
        return values[0].is(element);
    }
    parts.zip(values).map(|(part, value)| value.is(part.trim())).min().unwrap_or(Sure::Maybe)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{seen, table};
    use super::*;

    fn says(text: &str) -> Option<(Sure, Act<'_>)> {
        let mut table = table(&["web"]);
        let set = |elements: &[&str]| elements.iter().map(|e| (*e).to_owned()).collect();
        table.sets.insert("blocked".to_owned(), set(&["10.9.0.0/24 comment \"bad, people\"", "192.0.2.1"]));
        let services = ["10.20.0.4 . tcp . 3306 comment \"shop/db\" : drop", "10.20.0.5 . tcp . 80 : goto web"];
        table.sets.insert("services".to_owned(), set(&services));
        let table = Box::leak(Box::new(table));
        ask(text, &seen(), table).acts.first().copied()
    }

    #[test]
    fn fields_sets_and_ranges_decide() {
        assert_eq!(says("ip saddr 10.9.0.29 tcp dport 3306 drop"), Some((Sure::Yes, Act::Drop)));
        assert_eq!(says("ip saddr @blocked tcp dport { 22, 3000-4000 } drop"), Some((Sure::Yes, Act::Drop)));
        assert_eq!(says("ip saddr != 10.0.0.0/8 reject with icmp admin-prohibited"), None);
        assert_eq!(says("iifname \"vpod*\" oifname \"eth1\" reject with tcp reset"), Some((Sure::Yes, Act::Reject)));
        assert_eq!(says("meta l4proto { tcp, udp } th dport 53 accept"), None);
    }

    #[test]
    fn a_field_that_the_packet_lacks_never_matches() {
        assert_eq!(says("ip6 saddr != fd00::/8 drop"), None);
        assert_eq!(says("udp dport != 53 drop"), None);
    }

    #[test]
    fn verdict_maps_are_looked_up() {
        let rule = "ct state new ip daddr . meta l4proto . th dport vmap @services";
        assert_eq!(says(rule), Some((Sure::Yes, Act::Drop)));
        assert_eq!(says("tcp dport vmap { 80 : accept, 3306 : jump web }"), Some((Sure::Yes, Act::Jump("web"))));
        assert_eq!(says("numgen random mod 2 vmap { 0 : goto web, 1 : drop }"), Some((Sure::Maybe, Act::Goto("web"))));
        assert_eq!(says("ct state vmap { established : accept, new : drop }"), Some((Sure::Yes, Act::Drop)));
    }

    #[test]
    fn what_cannot_be_known_is_left_open() {
        assert_eq!(says("limit rate 5/second burst 5 packets drop"), Some((Sure::Maybe, Act::Drop)));
        assert_eq!(says("numgen random mod 100 < 20 drop"), Some((Sure::Maybe, Act::Drop)));
        assert_eq!(says("meta skuid 1000 drop"), Some((Sure::Maybe, Act::Drop)));
        assert_eq!(says("meta skuid 1000 ip daddr 10.1.1.1 drop"), None);
    }

    #[test]
    fn marks_are_masked_and_set() {
        assert_eq!(says("meta mark & 0x00004000 == 0x00004000 drop"), None);
        assert_eq!(says("meta mark & 0x00004000 != 0x00004000 return"), Some((Sure::Yes, Act::Return)));
        let table = table(&[]);
        let mark = |text| ask(text, &seen(), &table).mark;
        assert_eq!(mark("meta mark set meta mark | 0x00004000"), Some((!0x4000, 0x4000)));
        assert_eq!(mark("meta mark set mark and 0xfffeffff"), Some((0xfffe_ffff, 0)));
        assert_eq!(says("meta mark set mark or 0x10000"), Some((Sure::Yes, Act::Continue)));
    }

    #[test]
    fn log_words_are_no_statements() {
        assert_eq!(says("log prefix \"drop : \" accept"), Some((Sure::Yes, Act::Accept)));
    }
}
