//! What a call stack says of a netfilter verdict.

use std::sync::Arc;

use crate::{
    explain::{
        Case, Draft, Drop,
        case::Verdict,
        nf::{self, Guilty, Suspects},
    },
    model::{
        finding::{Confidence, Netfilter},
        packet::{Judge, Packet, Place, What},
        stack::{base, netfilter_hook},
        traced::Traced,
    },
};

/// How far apart a REJECT's answer and its drop may lie, nanoseconds: both happen in one call on one CPU, which may be
/// preempted.
const SAME_CALL_NS: u64 = 50_000_000;

/// The family of rules that a bridge asks about its frames.
const BRIDGE: &str = "bridge";

/// The function that evaluates a base chain names its family.
const FAMILIES: &[(&str, &str)] = &[
    ("nft_do_chain_ipv4", "ip"),
    ("nft_do_chain_ipv6", "ip6"),
    ("nft_do_chain_inet", "inet"),
    ("nft_do_chain_netdev", "netdev"),
    ("nft_do_chain_bridge", BRIDGE),
];

/// The verdict's hook and family, `None` where no netfilter frame is on the stack.
pub(super) fn verdict(site: &str, stack: &[Arc<str>], v6: bool) -> Option<Netfilter> {
    let hook = netfilter_hook(site, stack)?;
    let mut frames = std::iter::once(site).chain(stack.iter().map(|frame| base(frame)));
    let by_nft = frames.find_map(|frame| FAMILIES.iter().find(|(name, _)| *name == frame)).map(|(_, family)| *family);
    // Without an nft frame it is x_tables or conntrack itself: they are of the packet's family; or it is ebtables.
    let family = by_nft.unwrap_or(match (hook.of_bridge, v6) {
        (true, _) => BRIDGE,
        (_, true) => "ip6",
        (_, false) => "ip",
    });
    Some(Netfilter { hook: hook.name.to_owned(), family: Some(family.to_owned()), ..Netfilter::default() })
}

/// A verdict in words: `hook forward, family ip`.
pub(super) fn words(netfilter: &Netfilter) -> String {
    netfilter.family.as_ref().map_or_else(
        || format!("hook {}", netfilter.hook),
        |family| format!("hook {}, family {family}", netfilter.hook),
    )
}

/// A packet that netfilter dropped, and what is known of who did it.
pub(super) struct Met<'a> {
    /// The packet.
    pub(super) drop: Drop<'a>,
    /// Hook and family; table, chain and rule where one is surely the guilty.
    pub(super) netfilter: Netfilter,
    /// Rules that can have done it, in the order the packet met them; `None` where they could not be read.
    pub(super) suspects: Option<Suspects<'a>>,
    /// What the hook itself said, where the kernel told it.
    pub(super) told: Option<Verdict<'a>>,
    /// What nftables' trace said, where the user let us ask for it.
    pub(super) traced: Option<&'a Traced>,
    /// A REJECT's answer: when, and what.
    pub(super) answer: Option<(u64, String)>,
}

/// The first packet of the journey that netfilter dropped.
pub(super) fn met<'a>(case: &Case<'a>) -> Option<Met<'a>> {
    let drop = case.drops().find(|d| &**d.reason == "NETFILTER_DROP")?;
    let told = case.verdict(&drop);
    let v6 = drop.head.flow?.is_v6();
    let mut netfilter = match &told {
        Some(told) => of_verdict(told, v6),
        None => verdict(drop.site, drop.stack, v6)?,
    };
    let answer = answer(case, &drop);
    let traced = case.traced(&drop);
    let suspects = if let Some(traced) = traced {
        write(traced, &mut netfilter);
        nf::named(case, &drop, traced)
    } else {
        let judge = told.as_ref().map(|told| told.judge);
        nf::suspects(case, &drop, &netfilter, judge).map(|all| {
            // What answered was no DROP, and the other way round.
            let fits = all.clone().retain(|guilty| guilty.suspect.rejects == answer.is_some());
            if fits.0.is_empty() { all } else { fits }
        })
    };
    if let Some(guilty) = suspects.as_ref().and_then(Suspects::guilty) {
        guilty.write(&mut netfilter);
    }
    Some(Met { drop, netfilter, suspects, told, traced, answer })
}

/// What nftables' trace told of a verdict.
fn write(traced: &Traced, to: &mut Netfilter) {
    to.family = Some(traced.family.clone());
    to.table = Some(traced.table.clone());
    to.chain = Some(traced.chain.clone());
    to.handle = traced.handle;
}

/// What the kernel told of a verdict.
fn of_verdict(told: &Verdict<'_>, v6: bool) -> Netfilter {
    let own = if v6 { "ip6" } else { "ip" };
    let (family, table, chain) = match told.judge {
        Judge::Nftables { family, table, chain } => (*family, Some(table.to_string()), Some(chain.to_string())),
        // x_tables enters the built-in chain of the hook.
        Judge::Xtables { family, table } => (*family, Some(table.to_string()), Some(told.hook.to_uppercase())),
        Judge::Conntrack | Judge::Unknown => (own, None, None),
    };
    Netfilter { hook: told.hook.to_owned(), family: Some(family.to_owned()), table, chain, ..Netfilter::default() }
}

impl<'a> Met<'a> {
    /// The rule that did it, where it is known.
    pub(super) fn guilty(&self) -> Option<&Guilty<'a>> {
        self.suspects.as_ref()?.guilty()
    }

    /// `the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on vpod1`
    pub(super) fn what(&self, case: &Case<'_>) -> String {
        let drop = &self.drop;
        let at = drop.device().map_or_else(String::new, |d| format!(" on {d}"));
        let (did, how) = match &self.answer {
            Some((_, answer)) => ("refused", format!(" with {answer}")),
            None if self.refuses() => ("refused", String::new()),
            None => ("dropped", String::new()),
        };
        format!("{} {did} {}{at}{how}", case.place(drop.sighting()), case.packet(drop))
    }

    /// It was answered in the addressee's name: the answer was seen, or the rule says so.
    pub(super) fn refuses(&self) -> bool {
        self.answer.is_some() || self.guilty().is_some_and(|guilty| guilty.suspect.rejects)
    }

    /// Who did it, in words: the rule, or the engine and how many of its rules it can be.
    pub(super) fn by(&self) -> String {
        let hook = &self.netfilter.hook;
        if let Some(guilty) = self.guilty() {
            return format!("in the {hook} hook: {}", guilty.words());
        }
        if let Some(Traced { family, table, chain, handle, .. }) = self.traced {
            let which =
                handle.map_or_else(|| "the policy".to_owned(), |handle| format!("the rule with handle {handle}"));
            return format!("in the {hook} hook: {which} of chain {chain} in table {family} {table}");
        }
        match self.told.as_ref().map(|told| told.judge) {
            Some(Judge::Conntrack) => return self.by_conntrack(),
            Some(judge @ (Judge::Nftables { .. } | Judge::Xtables { .. })) => {
                let several = self.suspects.as_ref().map_or(0, |all| all.0.len());
                let which = if several > 1 { format!("one of {several} rules") } else { "a rule".to_owned() };
                return format!("in the {hook} hook: {which} of {}", place(judge, hook));
            }
            Some(Judge::Unknown) | None => {}
        }
        let engine = engine(self.drop.site, self.netfilter.family.as_deref());
        match self.suspects.as_ref().map(|all| all.0.len()) {
            Some(several @ 2..) => format!("in the {hook} hook: one of {several} rules that match it ({engine})"),
            _ => format!("in the {hook} hook: a netfilter rule ({engine})"),
        }
    }

    /// The same where no rule did it.
    pub(super) fn by_conntrack(&self) -> String {
        format!("in the {} hook, by conntrack itself", self.netfilter.hook)
    }

    /// A finding about it with its proofs, before the fix.
    pub(super) fn draft(&self, case: &Case<'_>, claim: String) -> Draft {
        let (drop, netfilter) = (&self.drop, &self.netfilter);
        let chain = netfilter.chain.as_ref().map_or_else(String::new, |chain| {
            let place = netfilter.handle.or_else(|| netfilter.position.map(u64::from));
            format!(" {chain} {}", place.unwrap_or(0))
        });
        let mut draft = case
            .about_drop(drop, claim)
            .detail(format!("{}{chain}", netfilter.hook))
            .proof(drop.mono_ns(), self.how(case));
        if let Some(Traced { family, table, chain, handle, .. }) = self.traced {
            let which = handle.map_or_else(|| "its policy".to_owned(), |handle| format!("handle {handle}"));
            draft = draft
                .confidence(Confidence::Stated)
                .proof(drop.mono_ns(), format!("nft monitor trace: {which} of {family} {table} {chain} drops it"));
        }
        if let Some((answered_ns, answer)) = &self.answer {
            draft = draft.proof(*answered_ns, format!("the node itself sent {answer} in the same call"));
        }
        if let Some(guilty) = self.guilty() {
            let sure = if self.is_told() { Confidence::Stated } else { Confidence::Likely };
            draft = draft.proof(drop.mono_ns(), guilty.proof()).confidence(sure);
        }
        for other in self.suspects.iter().filter(|_| self.guilty().is_none()).flat_map(|all| all.0.iter().take(4)) {
            draft = draft.proof(drop.mono_ns(), format!("it may be {}", other.words()));
        }
        draft.netfilter = Some(netfilter.clone());
        draft
    }

    /// The kernel told chain or table, and only one rule there can have done it.
    fn is_told(&self) -> bool {
        if self.traced.is_some() {
            return true;
        }
        let told = self.told.as_ref().map(|told| told.judge);
        let named = matches!(told, Some(Judge::Nftables { .. } | Judge::Xtables { .. }));
        let rose = self.guilty().is_some_and(|guilty| guilty.rose.is_some_and(|by| by > 0));
        named && (rose || self.suspects.as_ref().is_some_and(|all| all.0.len() == 1))
    }

    /// How it is known where netfilter dropped it.
    fn how(&self, case: &Case<'_>) -> String {
        let Some(told) = &self.told else { return format!("call stack: {}", words(&self.netfilter)) };
        let packet = &told.step.sighting.packet;
        let device = |ifindex: u32| case.namespace(packet.netns).map(|ns| ns.device(ifindex));
        let to = device(told.out_ifindex).filter(|_| told.out_ifindex != 0);
        let to = to.filter(|_| packet.ifindex != told.out_ifindex).map_or_else(String::new, |to| format!(" to {to}"));
        let from = device(packet.ifindex).filter(|_| packet.ifindex != 0);
        let from = from.map_or_else(String::new, |from| format!(" ({from}{to})"));
        let by = match told.judge {
            Judge::Unknown => "dropped it".to_owned(),
            Judge::Conntrack => "conntrack (__nf_conntrack_confirm) dropped it".to_owned(),
            judge @ Judge::Nftables { .. } => format!("{} (nft_do_chain) dropped it", place(judge, told.hook)),
            judge @ Judge::Xtables { .. } => format!("{} (ipt_do_table) dropped it", place(judge, told.hook)),
        };
        format!("nf_hook_slow in hook {}{from}: {by}", told.hook)
    }

    /// How to find the rule, and to see that it is the one.
    pub(super) fn search(&self) -> Vec<String> {
        let v6 = self.drop.head.flow.is_some_and(|flow| flow.is_v6());
        self.guilty().map_or_else(
            || self.in_table().unwrap_or_else(|| search(&self.netfilter, v6)),
            |guilty| vec![format!("{}  # its counter rises with every try", guilty.command())],
        )
    }
}

impl Met<'_> {
    /// The command that lists the table the kernel told.
    fn in_table(&self) -> Option<Vec<String>> {
        let rising = "  # the guilty rule's counter rises with every try; remove or correct it";
        Some(vec![match self.told.as_ref()?.judge {
            Judge::Nftables { family, table, .. } => format!("nft -a list table {family} {table}{rising}"),
            Judge::Xtables { family, table } => {
                let tool = if *family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" };
                format!("{tool} -t {table} -vnxL --line-numbers{rising}")
            }
            Judge::Unknown | Judge::Conntrack => return None,
        }])
    }
}

/// A chain, in words.
fn place(judge: &Judge, hook: &str) -> String {
    match judge {
        Judge::Nftables { family, table, chain } => format!("chain {chain} in table {family} {table}"),
        Judge::Xtables { family, table } => {
            let tool = if *family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" };
            format!("chain {} in {tool} table {table}", hook.to_uppercase())
        }
        Judge::Unknown | Judge::Conntrack => String::new(),
    }
}

/// The answer that goes with a drop: an ICMP error sent here, or a RST that no device received.
fn answer(case: &Case<'_>, drop: &Drop<'_>) -> Option<(u64, String)> {
    let here = drop.sighting().packet.netns;
    let dropped = &drop.sighting().packet;
    let near = |p: &Packet| p.cpu == dropped.cpu && p.mono_ns.abs_diff(dropped.mono_ns) <= SAME_CALL_NS;
    case.steps().filter(|s| s.sighting.packet.netns == here && near(&s.sighting.packet)).find_map(|step| {
        let text = match &step.sighting.packet.what {
            What::IcmpSent { icmp: (kind, code), head, .. } if head.flow == drop.head.flow => {
                format!("ICMP {}", icmp_name(*kind, *code))
            }
            What::Hop { place: Place::Queue, head, inner: None, .. } if !step.forward && head.flags.rst() => {
                "a TCP RST".to_owned()
            }
            // An error about what goes the other way is somebody else's, on its way through.
            What::Hop { place: Place::Queue, head, inner: Some(about), .. }
                if case.is_form(about) == drop.step.forward =>
            {
                let (kind, code) = head.icmp?;
                format!("ICMP {}", icmp_name(kind, code))
            }
            _ => return None,
        };
        Some((step.sighting.packet.mono_ns, text))
    })
}

fn icmp_name(kind: u8, code: u8) -> String {
    match (kind, code) {
        (3, 0) => "network-unreachable".to_owned(),
        (3, 1) => "host-unreachable".to_owned(),
        (3, 3) | (1, 4) => "port-unreachable".to_owned(),
        (3, 9 | 10 | 13) | (1, 1) => "administratively-prohibited".to_owned(),
        _ => format!("{kind}/{code}"),
    }
}

/// Whose rule it can be: nft's own chains and iptables-nft's free the packet in `nft_do_chain`,
/// iptables-legacy's in `nf_hook_slow`.
fn engine(site: &str, family: Option<&str>) -> &'static str {
    match (site, family) {
        ("nft_do_chain", Some("ip" | "ip6")) => "iptables-nft, or an nft table of that family",
        ("nft_do_chain", Some(BRIDGE)) => "ebtables-nft, or an nft table of family bridge",
        (_, Some(BRIDGE)) => "ebtables",
        ("nft_do_chain", _) => "nftables",
        _ => "iptables-legacy, or conntrack itself",
    }
}

/// Commands that find the rule.
fn search(netfilter: &Netfilter, v6: bool) -> Vec<String> {
    let hook = &netfilter.hook;
    if netfilter.family.as_deref() == Some(BRIDGE) {
        let counters =
            "ebtables-legacy -L --Lc  # the guilty rule's counter rises with every try; remove or correct it";
        return vec![format!("nft -a list ruleset bridge  # base chains of hook {hook}"), counters.to_owned()];
    }
    let listing = format!("nft -a list ruleset | grep -B8 -E 'drop|reject'  # base chains of hook {hook}");
    let tool = if v6 { "ip6tables" } else { "iptables" };
    let counters = match hook.as_str() {
        "ingress" | "egress" => return vec![listing, "remove or correct the rule whose counter rises".to_owned()],
        "prerouting" | "postrouting" => format!("{tool} -t raw -vnxL; {tool} -t mangle -vnxL {}", hook.to_uppercase()),
        _ => format!("{tool} -vnxL {}", hook.to_uppercase()),
    };
    vec![listing, format!("{counters}  # the guilty rule's counter rises with every try; remove or correct it")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|n| Arc::from(*n)).collect()
    }

    #[test]
    fn tells_hook_and_family() {
        let frames = stack(&[
            "nft_do_chain_ipv4",
            "nf_hook_slow",
            "ip_forward",
            "ip_rcv_finish",
            "ip_rcv",
            "__netif_receive_skb_one_core",
        ]);
        let found = verdict("nft_do_chain", &frames, false).expect("netfilter is on the stack");
        assert_eq!((found.hook.as_str(), found.family.as_deref()), ("forward", Some("ip")));
    }
}
