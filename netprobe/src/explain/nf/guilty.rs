//! Which of the rules that could have dropped a packet did: their counters tell.

use netprobe_common::limits::VERDICT_NAME_BYTES;

use super::{
    Seen, Sure, owner,
    walk::{self, Suspect},
};
use crate::{
    explain::{Case, Drop},
    model::{
        asked::Window,
        finding::Netfilter,
        packet::Judge,
        ruleset::{Counter, Engine, RuleLine, Ruleset, Table},
        traced::Traced,
    },
};

/// The rule that dropped a packet.
#[derive(Clone, Debug)]
pub(in crate::explain) struct Guilty<'r> {
    /// The rule.
    pub(in crate::explain) suspect: Suspect<'r>,
    /// By how much its counter rose since before the connection; `None` without a reading before, or without a counter.
    pub(in crate::explain) rose: Option<u64>,
    /// Its counter.
    pub(in crate::explain) packets: Option<u64>,
}

/// Rules that can have dropped a packet.
#[derive(Clone, Debug, Default)]
pub(in crate::explain) struct Suspects<'r>(pub(in crate::explain) Vec<Guilty<'r>>);

/// The rules that can have dropped the packet, read after it was dropped; `None` asks for them. `judge` is who dropped
/// it, where the kernel told.
pub(in crate::explain) fn suspects<'a>(
    case: &Case<'a>,
    drop: &Drop<'a>,
    netfilter: &Netfilter,
    judge: Option<&Judge>,
) -> Option<Suspects<'a>> {
    let window = case.netfilter(drop.sighting().packet.netns, drop.mono_ns())?;
    let seen = Seen::of(case, drop, netfilter)?;
    let by_nft = drop.site == "nft_do_chain";
    let fits = |table: &Table, base: &str| {
        let nft = table.engine != Engine::IptablesLegacy;
        match judge {
            Some(Judge::Nftables { family, table: name, chain }) => {
                nft && table.family == *family && is_name(&table.name, name) && is_name(base, chain)
            }
            Some(Judge::Xtables { family, table: name }) => {
                !nft && table.family == *family && is_name(&table.name, name)
            }
            Some(Judge::Conntrack) => false,
            // The function that entered the chain names its table's family; without it legacy dropped the packet.
            Some(Judge::Unknown) | None => {
                nft == by_nft && netfilter.family.as_ref().is_none_or(|family| *family == table.family)
            }
        }
    };
    let all = walk::suspects(window.after, &seen, fits);
    Some(Suspects(all.into_iter().filter_map(|suspect| weigh(suspect, &window)).collect()))
}

/// Rules that translate sources and whose counter moved, or has none.
pub(in crate::explain) fn translating<'r>(window: &Window<'r, Ruleset>) -> Suspects<'r> {
    let tables = window.after.tables.iter();
    let chains = tables.flat_map(|table| table.chains.iter().map(move |(name, chain)| (table, name.as_str(), chain)));
    let rules = chains.flat_map(|(table, chain, rules)| {
        rules.rules.iter().filter(|rule| rule.translates_sources()).map(move |rule| (table, chain, rule))
    });
    let sure = Sure::Maybe;
    let all = rules.map(|(table, chain, rule)| Suspect { table, chain, rule: Some(rule), sure, rejects: false });
    Suspects(all.filter_map(|suspect| weigh(suspect, window)).collect())
}

/// The rule that nftables itself named, with its text and its counter; `None` asks for the rules. What is not among
/// them any more leaves no suspect.
pub(in crate::explain) fn named<'a>(case: &Case<'a>, drop: &Drop<'a>, traced: &Traced) -> Option<Suspects<'a>> {
    let window = case.netfilter(drop.sighting().packet.netns, drop.mono_ns())?;
    let is_of = |table: &&Table| {
        table.engine != Engine::IptablesLegacy && table.family == traced.family && table.name == traced.table
    };
    let table = window.after.tables.iter().find(is_of);
    let found = table.and_then(|table| {
        let (chain, rules) = table.chains.get_key_value(traced.chain.as_str())?;
        let is_it = |rule: &&RuleLine| match table.engine {
            Engine::Nft => rule.handle == traced.handle,
            _ => Some(rule.position) == traced.position,
        };
        let rule = match traced.handle {
            None => None,
            Some(_) => Some(rules.rules.iter().find(is_it)?),
        };
        let rejects = rule.is_some_and(|rule| rule.text.contains("reject") || rule.text.contains("REJECT"));
        Some(Suspect { table, chain: chain.as_str(), rule, sure: Sure::Yes, rejects })
    });
    let guilty = found.map(|suspect| {
        let packets = counter(&suspect).map(|counter| counter.packets);
        let before = window.before.map(|before| earlier(before, &suspect).unwrap_or(0));
        let rose = packets.zip(before).map(|(now, before)| now.saturating_sub(before));
        Guilty { suspect, rose, packets }
    });
    Some(Suspects(guilty.into_iter().collect()))
}

/// Whether a name is the one that the kernel told, of which the programs keep no more than they have room for.
fn is_name(name: &str, told: &str) -> bool {
    name == told || (told.len() == VERDICT_NAME_BYTES - 1 && name.starts_with(told))
}

/// Sorts out those whose counter did not move.
fn weigh<'r>(suspect: Suspect<'r>, window: &Window<'r, Ruleset>) -> Option<Guilty<'r>> {
    let Some(Counter { packets, .. }) = counter(&suspect) else {
        return Some(Guilty { suspect, rose: None, packets: None });
    };
    let before = window.before.and_then(|before| earlier(before, &suspect));
    let rose = window.before.map(|_| packets.saturating_sub(before.unwrap_or(0)));
    (packets > 0 && rose != Some(0)).then_some(Guilty { suspect, rose, packets: Some(packets) })
}

fn counter(suspect: &Suspect<'_>) -> Option<Counter> {
    match suspect.rule {
        Some(rule) => rule.counter,
        None => suspect.table.chains.get(suspect.chain)?.policy_counter,
    }
}

/// The same rule's counter in an earlier reading.
fn earlier(before: &Ruleset, suspect: &Suspect<'_>) -> Option<u64> {
    let of = suspect.table;
    let table = before.tables.iter().find(|t| t.family == of.family && t.name == of.name && t.engine == of.engine)?;
    let chain = table.chains.get(suspect.chain)?;
    let Some(rule) = suspect.rule else { return chain.policy_counter.map(|c| c.packets) };
    let at = usize::try_from(rule.position).unwrap_or(1).saturating_sub(1);
    let same = |old: &&RuleLine| old.text == rule.text && old.handle == rule.handle;
    // Mostly it stands where it stood.
    let old = chain.rules.get(at).filter(same).or_else(|| chain.rules.iter().find(same))?;
    old.counter.map(|c| c.packets)
}

impl<'r> Suspects<'r> {
    /// The one that did it, if the others cannot have: by its counter, else because the packet surely came to it.
    pub(in crate::explain) fn guilty(&self) -> Option<&Guilty<'r>> {
        let sure = |g: &Guilty<'r>| g.suspect.sure == Sure::Yes;
        let rises = |g: &Guilty<'r>| g.rose.is_some_and(|n| n > 0);
        let ways: [&dyn Fn(&Guilty<'r>) -> bool; 4] = [&|g| sure(g) && rises(g), &rises, &sure, &|_| true];
        let first = ways.iter().find_map(|fits| {
            let mut of = self.0.iter().filter(|g| fits(g));
            of.next().map(|first| (first, of.next().is_none()))
        });
        first.and_then(|(guilty, alone)| alone.then_some(guilty))
    }

    /// Only those of which `fits` is so.
    pub(in crate::explain) fn retain(mut self, fits: impl Fn(&Guilty<'r>) -> bool) -> Self {
        self.0.retain(fits);
        self
    }
}

impl Guilty<'_> {
    /// Writes it down where findings keep it.
    pub(in crate::explain) fn write(&self, to: &mut Netfilter) {
        let known = to.handle;
        let Suspect { table, chain, rule, .. } = &self.suspect;
        to.family = Some(table.family.clone());
        to.table = Some(table.name.clone());
        to.chain = Some((*chain).to_owned());
        to.handle = rule.and_then(|rule| rule.handle).or(known);
        to.position = rule.filter(|_| table.engine != Engine::Nft).map(|rule| rule.position);
        to.rule = Some(rule.map_or_else(|| "policy drop".to_owned(), |rule| rule.text.clone()));
        to.owner = owner::of(table, chain, *rule).map(str::to_owned);
    }

    /// Its rule enforces a NetworkPolicy.
    pub(in crate::explain) fn is_policy(&self) -> bool {
        owner::is_policy(self.suspect.table, self.suspect.chain, self.suspect.rule)
    }

    /// It tests whether the way back to the source is the way the packet came: an anti-spoofing rule.
    pub(in crate::explain) fn tests_way_back(&self) -> bool {
        let text = self.suspect.rule.map_or("", |rule| rule.text.as_str());
        text.contains("-m rpfilter") || (text.contains("fib saddr") && text.contains("oif"))
    }

    /// What to do about it, in words.
    pub(in crate::explain) fn remedy(&self) -> String {
        let Suspect { table, chain, rule, .. } = &self.suspect;
        let (tool, name) = (tool(table), &table.name);
        let whose = owner::of(table, chain, *rule);
        match (whose, rule, table.engine) {
            (Some(whose), ..) => format!("it is a rule of {whose}: correct it there, it would come back"),
            (None, Some(rule), Engine::Nft) => {
                let handle = rule.handle.map_or_else(|| "HANDLE".to_owned(), |handle| handle.to_string());
                format!("remove or correct it: nft delete rule {} {name} {chain} handle {handle}", table.family)
            }
            (None, Some(rule), _) => format!("remove or correct it: {tool} -t {name} -D {chain} {}", rule.position),
            (None, None, Engine::Nft) => {
                "add a rule that accepts this traffic, or change the chain's policy".to_owned()
            }
            (None, None, _) => format!("accept this traffic, or change the policy: {tool} -t {name} -P {chain} ACCEPT"),
        }
    }

    /// kube-proxy made it.
    pub(in crate::explain) fn is_of_kube_proxy(&self) -> bool {
        owner::of(self.suspect.table, self.suspect.chain, self.suspect.rule) == Some("kube-proxy")
    }

    /// Its comment, or nothing.
    pub(in crate::explain) fn comment(&self) -> &str {
        self.suspect.rule.and_then(|rule| rule.comment.as_deref()).unwrap_or_default()
    }

    /// In words: `rule 2 of chain FORWARD in iptables table filter (-s 10.0.0.1/32 -j DROP)`.
    pub(in crate::explain) fn words(&self) -> String {
        let Suspect { table, chain, rule, .. } = &self.suspect;
        let whose = owner::of(table, chain, *rule).map_or_else(String::new, |who| format!(" of {who}"));
        let place = match table.engine {
            Engine::Nft => format!("chain {chain} in table {} {}", table.family, table.name),
            _ => format!("chain {chain} in {} table {}", tool(table), table.name),
        };
        match (rule, table.engine) {
            (None, _) => format!("the policy of {place}{whose}"),
            (Some(rule), Engine::Nft) => {
                let handle = rule.handle.map_or_else(String::new, |handle| format!(" with handle {handle}"));
                format!("the rule{handle} of {place}{whose} ({})", shortened(&rule.text))
            }
            (Some(rule), _) => format!("rule {} of {place}{whose} ({})", rule.position, shortened(&rule.text)),
        }
    }

    /// Why it dropped the packet, in words: its counter, or that there is no other.
    pub(in crate::explain) fn proof(&self) -> String {
        self.counter()
            .unwrap_or_else(|| "it has no counter, and no other rule of the hook drops this packet".to_owned())
    }

    /// What its counter says, in words.
    pub(in crate::explain) fn counter(&self) -> Option<String> {
        let packets = self.packets?;
        let plural = if packets == 1 { "" } else { "s" };
        Some(match self.rose {
            Some(rose) => format!("its counter rose by {rose} since before, to {packets} packet{plural}"),
            None => format!("its counter stands at {packets} packet{plural}"),
        })
    }

    /// The command that shows it.
    pub(in crate::explain) fn command(&self) -> String {
        let Suspect { table, chain, .. } = &self.suspect;
        match table.engine {
            Engine::Nft => format!("nft -a list chain {} {} {chain}", table.family, table.name),
            _ => format!("{} -t {} -vnxL {chain} --line-numbers", tool(table), table.name),
        }
    }
}

/// The tool that edits the table.
fn tool(table: &Table) -> &'static str {
    match (table.engine, table.family.as_str()) {
        (Engine::IptablesLegacy, "ip6") => "ip6tables-legacy",
        (Engine::IptablesLegacy, _) => "iptables-legacy",
        (_, "ip6") => "ip6tables",
        _ => "iptables",
    }
}

/// A rule's text in a sentence; findings have the whole of it beside.
fn shortened(text: &str) -> String {
    const CHARACTERS: usize = 120;
    if text.chars().count() <= CHARACTERS {
        return text.to_owned();
    }
    text.chars().take(CHARACTERS).chain(['…']).collect()
}
