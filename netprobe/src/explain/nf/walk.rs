//! Which rules can have ended a packet's way through a hook: chains in the order in which the kernel enters them.

use super::{Act, Said, Seen, Sure, iptables, nft};
use crate::model::ruleset::{Chain, Engine, RuleLine, Ruleset, Table};

/// Rules asked about one packet at most: a walk that asks more has lost itself among chains that it may or may not enter.
const RULES_AT_MOST: u32 = 200_000;
/// `NFT_JUMP_STACK_SIZE`; x_tables has no such limit, and nobody nests deeper.
const DEPTH: u32 = 16;

/// A rule, or a base chain's policy, that drops or rejects a packet which comes to it.
#[derive(Clone, Copy, Debug)]
pub(in crate::explain) struct Suspect<'r> {
    /// Its table.
    pub(in crate::explain) table: &'r Table,
    /// Name of its chain.
    pub(in crate::explain) chain: &'r str,
    /// The rule; `None` is the chain's policy.
    pub(in crate::explain) rule: Option<&'r RuleLine>,
    /// Whether the packet comes to it and it matches.
    pub(in crate::explain) sure: Sure,
    /// It answers.
    pub(in crate::explain) rejects: bool,
}

/// How the way through a chain ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// No rule decided: on where it was entered.
    Fell,
    /// For good.
    Decided,
}

struct Walk<'r, 'a> {
    table: &'r Table,
    seen: Seen<'a>,
    /// Whether the packet came here at all.
    here: Sure,
    /// A rule may have decided on the way.
    open: bool,
    left: u32,
    found: Vec<Suspect<'r>>,
}

/// Rules that can have dropped a packet in its hook, in order.
///
/// `fits` says whether the packet can have ended in a table, in the base chain of that name or behind it.
pub(super) fn suspects<'r>(
    ruleset: &'r Ruleset,
    seen: &Seen<'_>,
    fits: impl Fn(&Table, &str) -> bool,
) -> Vec<Suspect<'r>> {
    let mut bases: Vec<(i32, &Table, &str, &Chain)> = Vec::new();
    for table in ruleset.tables.iter().filter(|table| of_family(&table.family, seen)) {
        let entered = table.chains.iter().filter_map(|(name, chain)| {
            let base = chain.base.as_ref().filter(|base| base.hook == seen.hook)?;
            let device = if base.hook == "egress" { seen.oif } else { seen.iif };
            let here = base.devices.is_empty() || device.is_none_or(|d| base.devices.iter().any(|own| own == d));
            (here && fits(table, name)).then_some((base.priority, table, name.as_str(), chain))
        });
        bases.extend(entered);
    }
    bases.sort_by_key(|(priority, ..)| *priority);
    let mut walk = None;
    let mut found = Vec::new();
    let mut left = RULES_AT_MOST;
    let mut here = Sure::Yes;
    for (_, table, name, chain) in bases {
        let of = walk.insert(Walk { table, seen: *seen, here, open: false, left, found: Vec::new() });
        let end = of.chain(name, 0);
        if end == End::Fell && chain.policy_drops {
            of.found.push(Suspect { table, chain: name, rule: None, sure: of.here, rejects: false });
        }
        // What surely met its end here goes no further; what passed comes to the next base chain.
        let ended = of.found.iter().any(|suspect| suspect.sure == Sure::Yes);
        left = of.left;
        if !of.found.is_empty() {
            here = Sure::Maybe;
        }
        found.append(&mut of.found);
        if ended {
            break;
        }
    }
    found
}

fn of_family(family: &str, seen: &Seen<'_>) -> bool {
    match family {
        "ip" => !seen.flow.is_v6(),
        "ip6" => seen.flow.is_v6(),
        _ => true,
    }
}

impl<'r> Walk<'r, '_> {
    fn chain(&mut self, name: &'r str, depth: u32) -> End {
        let Some(chain) = self.table.chains.get(name) else { return End::Fell };
        if depth > DEPTH {
            return End::Fell;
        }
        for rule in &chain.rules {
            if self.left == 0 {
                self.here = self.here.min(Sure::Maybe);
                return End::Fell;
            }
            self.left -= 1;
            let said = self.ask(rule);
            let several = said.acts.len() > 1;
            for (sure, act) in said.acts {
                if let Some(end) = self.follow(name, rule, (sure, act), depth, several) {
                    return end;
                }
            }
            if let Some((keep, flip)) = said.mark {
                self.seen.mark = self.seen.mark.map(|mark| mark & keep ^ flip);
            }
        }
        End::Fell
    }

    fn ask(&self, rule: &'r RuleLine) -> Said<'r> {
        match self.table.engine {
            Engine::Nft => nft::ask(&rule.text, &self.seen, self.table),
            Engine::IptablesNft | Engine::IptablesLegacy => iptables::ask(&rule.text, &self.seen, self.table),
        }
    }

    /// What comes of one act; `None` goes on in this chain.
    fn follow(
        &mut self,
        chain: &'r str,
        rule: &'r RuleLine,
        (sure, act): (Sure, Act<'r>),
        depth: u32,
        several: bool,
    ) -> Option<End> {
        let certain = sure == Sure::Yes && !several;
        let sure = sure.min(self.here);
        match act {
            Act::Continue => None,
            Act::Drop | Act::Reject => {
                let rejects = act == Act::Reject;
                self.found.push(Suspect { table: self.table, chain, rule: Some(rule), sure, rejects });
                self.decided(certain, End::Decided)
            }
            Act::Accept => self.decided(certain, End::Decided),
            Act::Return => self.decided(certain, End::Fell),
            Act::Jump(to) | Act::Goto(to) => {
                let (here, open) = (self.here, self.open);
                self.here = sure;
                self.open = false;
                let end = self.chain(to, depth + 1);
                let undecided = self.open || end == End::Decided;
                self.here = if certain { self.here } else { here };
                if undecided && !certain {
                    self.here = self.here.min(Sure::Maybe);
                }
                self.open |= open;
                match (end, act) {
                    (End::Decided, _) => self.decided(certain, End::Decided),
                    (End::Fell, Act::Goto(_)) => self.decided(certain, End::Fell),
                    (End::Fell, _) => None,
                }
            }
        }
    }

    /// The way ends here for sure, or it may.
    fn decided(&mut self, certain: bool, end: End) -> Option<End> {
        if certain {
            return Some(end);
        }
        self.open = true;
        self.here = self.here.min(Sure::Maybe);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ruleset, seen};
    use super::*;

    fn found(text: &str) -> Vec<(String, u32, Sure)> {
        let ruleset = ruleset(text);
        let of = |s: &Suspect<'_>| (s.chain.to_owned(), s.rule.map_or(0, |r| r.position), s.sure);
        suspects(&ruleset, &seen(), |_, _| true).iter().map(of).collect()
    }

    #[test]
    fn chains_are_followed_to_the_rule_that_drops() {
        let text = "\
*filter
:FORWARD ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
:cali-tw-vpod2 - [0:0]
-A FORWARD -j KUBE-FORWARD
-A FORWARD -o eth1 -j cali-tw-vpod2
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A cali-tw-vpod2 -s 10.1.0.0/16 -j RETURN
-A cali-tw-vpod2 -m comment --comment \"Drop if no policies passed packet\" -j DROP
-A cali-tw-vpod2 -j DROP
COMMIT
";
        assert_eq!(found(text), [("cali-tw-vpod2".to_owned(), 2, Sure::Yes)]);
    }

    #[test]
    fn what_is_accepted_goes_no_further_and_a_policy_is_a_suspect() {
        let accepted = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tcp -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n";
        assert_eq!(found(accepted), []);
        let by_policy = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n";
        assert_eq!(found(by_policy), [("FORWARD".to_owned(), 0, Sure::Yes)]);
    }

    #[test]
    fn behind_a_rule_that_cannot_be_known_nothing_is_sure() {
        let text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set good src -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n";
        assert_eq!(found(text), [("FORWARD".to_owned(), 2, Sure::Maybe)]);
    }
}
