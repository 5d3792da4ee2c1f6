//! Why a packet left with that source: the rule that translated it, and how the kernel came to the address.

use std::net::IpAddr;

use crate::{
    explain::{Case, Draft, nf},
    model::{
        facts::{Address, NamespaceFacts},
        journey::Step,
        nat::{NatBy, NatChoice},
        packet::What,
    },
};

/// What is known of a source that SNAT gave a packet.
pub(super) struct Chosen {
    /// In the claim, behind what is wrong with it.
    words: String,
    proofs: Vec<String>,
    /// The command that shows the rule.
    command: Option<String>,
}

/// Why the packet left at `exit` as `source`. Rules that are not read yet are asked for.
pub(super) fn chosen(case: &Case<'_>, exit: &Step, source: IpAddr) -> Chosen {
    let packet = &exit.sighting.packet;
    let told = told(case, source);
    let masquerades = |rule: &str| rule.to_ascii_lowercase().contains("masquerade");
    let fits = |guilty: &nf::Guilty<'_>| {
        let text = guilty.suspect.rule.map(|rule| rule.text.as_str()).unwrap_or_default();
        told.is_none_or(|choice| (choice.by == NatBy::Masquerade) == masquerades(text))
    };
    let rules = case.netfilter(packet.netns, packet.mono_ns).map(|window| nf::translating(&window).retain(fits));
    let rule = rules.as_ref().and_then(|found| found.guilty());
    // Only a counter that rose says that it was this rule.
    let is_sure = rule.is_some_and(|rule| rule.rose.is_some_and(|rose| rose > 0));
    let probably = if is_sure { "" } else { "probably " };
    let by = rule.map(|rule| format!("{probably}by {}", rule.words()));
    let text = rule.and_then(|rule| Some(rule.suspect.rule?.text.as_str())).unwrap_or_default();
    let to = if names(text, source) {
        Some(format!("to {source}, which the rule names{}", elsewhere(case, exit, source)))
    } else {
        let is_masquerading = told.map_or_else(|| masquerades(text), |choice| choice.by == NatBy::Masquerade);
        address(case, exit, source, is_masquerading)
    };
    let words: Vec<String> = [by, to.clone()].into_iter().flatten().collect();
    let counted = rule.map(|rule| {
        let alone = || "it has no counter, and no other rule that translates sources has counted".to_owned();
        format!("{}: {}", rule.words(), rule.counter().unwrap_or_else(alone))
    });
    Chosen {
        words: words.join(", "),
        proofs: told.map(said).into_iter().chain(counted).chain(to).collect(),
        command: rule.map(nf::Guilty::command),
    }
}

/// What the kernel told of how the connection came to that source.
fn told<'a>(case: &Case<'a>, source: IpAddr) -> Option<&'a NatChoice> {
    // Masquerading is told after the range that it asks for.
    case.steps().rev().find_map(|step| match &step.sighting.packet.what {
        What::Nat(choice) if choice.by != NatBy::Destination && choice.translated.src.ip() == source => Some(choice),
        _ => None,
    })
}

/// The same as a proof.
fn said(choice: &NatChoice) -> String {
    let function = match (choice.by, choice.original.is_v6()) {
        (NatBy::Masquerade, false) => "nf_nat_masquerade_ipv4",
        (NatBy::Masquerade, true) => "nf_nat_masquerade_ipv6",
        _ => "nf_nat_setup_info",
    };
    format!("{function}: {choice}")
}

/// The rule's text has this address as a word of its own: `--to-source 10.0.0.1`, `snat to 10.0.0.1:1024-65535`.
fn names(text: &str, address: IpAddr) -> bool {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '.' || (address.is_ipv6() && c == ':');
    text.split(|c: char| !is_part(c)).any(|word| word.parse() == Ok(address))
}

impl Chosen {
    /// A claim with the reason behind it.
    pub(super) fn behind(&self, claim: &str) -> String {
        if self.words.is_empty() { claim.to_owned() } else { format!("{claim}; translated {}", self.words) }
    }

    /// Writes down what is known and how to find the rule.
    pub(super) fn prove(&self, mut draft: Draft, mono_ns: u64) -> Draft {
        for proof in &self.proofs {
            draft = draft.proof(mono_ns, proof.clone());
        }
        let listing = "iptables -t nat -vnL POSTROUTING; nft list ruleset";
        draft.fix(format!("find the SNAT or MASQUERADE rule: {}", self.command.as_deref().unwrap_or(listing)))
    }
}

/// Whose address it is, where it is another device's.
fn elsewhere(case: &Case<'_>, exit: &Step, source: IpAddr) -> String {
    let ifindex = exit.sighting.packet.ifindex;
    let is_other =
        |node: &&NamespaceFacts| !node.addresses.iter().any(|a| a.net.addr() == source && a.ifindex == ifindex);
    let node = case.facts.node().filter(is_other);
    let own = node.and_then(|node| Some((node, node.addresses.iter().find(|a| a.net.addr() == source)?)));
    own.map_or_else(String::new, |(node, own)| {
        format!(" and which is an address of {} and not of {}", node.device(own.ifindex), exit.sighting.device)
    })
}

/// The device whose address that is, where the packet left by another one that has no address of the family.
pub(super) fn borrowed(case: &Case<'_>, exit: &Step, source: IpAddr) -> Option<String> {
    let node = case.facts.node()?;
    let ifindex = exit.sighting.packet.ifindex;
    let has_one = |a: &Address| a.ifindex == ifindex && a.net.addr().is_ipv4() == source.is_ipv4();
    let own = node.addresses.iter().find(|address| address.net.addr() == source)?;
    let lacks = !node.addresses.iter().any(has_one);
    lacks.then(|| node.device(own.ifindex).to_string())
}

/// How the kernel comes to that address (`inet_select_addr`): masquerading takes the first address of the device in the
/// next hop's network, else the first, and where the device has none, another device's. `masquerades`: it is known that
/// this is what the rule does.
fn address(case: &Case<'_>, exit: &Step, source: IpAddr, masquerades: bool) -> Option<String> {
    let node = case.facts.node()?;
    let packet = &exit.sighting.packet;
    let device = &exit.sighting.device;
    let own = node.addresses.iter().find(|address| address.net.addr() == source)?;
    if own.ifindex != packet.ifindex {
        let other = node.device(own.ifindex);
        let why = match borrowed(case, exit, source) {
            Some(_) => format!("{device} has none, and masquerading then takes another device's"),
            None => format!("masquerading does not take it while {device} has one"),
        };
        return Some(format!("to {source}, which is an address of {other} and not of {device}: {why}"));
    }
    let decided = case.decision(packet.netns, exit.forward, packet.mono_ns);
    let decided = decided.filter(|lookup| lookup.out_ifindex == packet.ifindex);
    let hop = decided.and_then(|lookup| lookup.gateway).unwrap_or_else(|| case.journey.flow.dst.ip());
    let of_device =
        || node.addresses.iter().filter(|a| a.ifindex == packet.ifindex && a.net.addr().is_ipv4() == hop.is_ipv4());
    let near = of_device().find(|address| address.net.contains(&hop));
    let first = of_device().next();
    let takes = if masquerades { ": masquerading takes" } else { ", which is what masquerading would take:" };
    Some(match (near, first) {
        (Some(near), _) if near.net.addr() == source => {
            let network = near.net.trunc();
            format!("to {source}{takes} {device}'s first address in the network of the next hop {hop}, {network}")
        }
        (None, Some(first)) if first.net.addr() == source => {
            format!("to {source}{takes} {device}'s primary address where none is in the network of the next hop {hop}")
        }
        // Masquerading would have taken another.
        _ => format!(
            "to {source}, an address of {device} that masquerading would not take: a rule names it, or the device had no other then"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, hop, syn},
        *,
    };
    use crate::model::{flow::Flow, packet::Place};

    const RULES: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables)
*nat
:POSTROUTING ACCEPT [0:0]
[3:180] -A POSTROUTING -s 10.9.0.0/16 -o eth0 -j MASQUERADE
[SO_MANY:60] -A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE
COMMIT
";

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.iptables(0, &RULES.replace("SO_MANY", "4"));
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.iptables(2, &RULES.replace("SO_MANY", "5"));
        scene.journey.first_ns = 1_000_000;
        scene
    }

    fn words(scene: &Scene, source: &str) -> String {
        let case = scene.case();
        let (exit, _) = case.exits().expect("it left");
        chosen(&case, exit, source.parse().expect("an address")).behind("it left")
    }

    #[test]
    fn names_the_rule_whose_counter_rose_and_the_address_that_masquerading_takes() {
        assert_eq!(
            words(&scene(), "10.8.0.10"),
            "it left; translated by rule 2 of chain POSTROUTING in iptables table nat (-s 10.9.0.0/24 -j MASQUERADE), to \
             10.8.0.10: masquerading takes eth1's primary address where none is in the network of the next hop 10.20.0.4"
        );
    }

    #[test]
    fn an_address_of_another_device_is_no_masquerading() {
        assert!(
            words(&scene(), "10.32.0.10")
                .ends_with("an address of eth0 and not of eth1: masquerading does not take it while eth1 has one")
        );
    }

    #[test]
    fn a_device_without_an_address_borrows_another_ones() {
        let mut scene = scene();
        scene.node().addresses.retain(|address| address.ifindex != Scene::ETH1);
        assert!(words(&scene, "10.32.0.10").ends_with(
            "an address of eth0 and not of eth1: eth1 has none, and masquerading then takes another device's"
        ));
    }

    #[test]
    fn a_rule_whose_counter_stands_still_is_no_more_than_likely() {
        let rules = "*nat\n:POSTROUTING ACCEPT [0:0]\n[9:540] -A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE\nCOMMIT\n";
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.iptables(2, rules);
        scene.journey.first_ns = 1_000_000;
        let case = scene.case();
        let (exit, _) = case.exits().expect("it left");
        let chosen = chosen(&case, exit, "10.8.0.10".parse().expect("an address"));
        assert_eq!(
            chosen.behind("it left"),
            "it left; translated probably by rule 1 of chain POSTROUTING in iptables table nat (-s 10.9.0.0/24 -j \
             MASQUERADE), to 10.8.0.10: masquerading takes eth1's primary address where none is in the network of the \
             next hop 10.20.0.4"
        );
        assert!(chosen.proofs[0].ends_with("its counter stands at 9 packets"));
    }

    #[test]
    fn of_two_kinds_of_rules_the_kernel_tells_which() {
        let rules = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE\n\
                     -A POSTROUTING -o eth1 -j SNAT --to-source 10.8.0.10\nCOMMIT\n";
        let by = |by: Option<NatBy>| {
            let mut scene = Scene::pod_to_db();
            let original = syn().flow.expect("it has one");
            let translated = Flow { src: "10.8.0.10:41000".parse().expect("an address"), ..original };
            if let Some(by) = by {
                let addresses = Some((translated.src.ip(), translated.src.ip()));
                let choice = NatChoice { original, translated, by, addresses, ports: None, out_ifindex: 0 };
                scene.step(1, What::Nat(choice), "eth1");
            }
            scene.step(1, hop(Place::Transmit, syn()), "eth1");
            scene.iptables(2, rules);
            scene.journey.first_ns = 1_000_000;
            words(&scene, "10.8.0.10")
        };
        assert!(by(Some(NatBy::Masquerade)).contains("probably by rule 1 of chain POSTROUTING"));
        assert!(by(Some(NatBy::Source)).contains("probably by rule 2 of chain POSTROUTING"));
        assert!(!by(None).contains("of chain POSTROUTING"), "{}", by(None));
    }

    #[test]
    fn a_rule_that_names_the_address_needs_no_other_reason() {
        let mut scene = Scene::pod_to_db();
        let rules = |count| {
            format!(
                "*nat\n:POSTROUTING ACCEPT [0:0]\n[{count}:60] -A POSTROUTING -o eth1 -j SNAT --to-source 10.8.0.10\nCOMMIT\n"
            )
        };
        scene.iptables(0, &rules(1));
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.iptables(2, &rules(2));
        scene.journey.first_ns = 1_000_000;
        assert!(words(&scene, "10.8.0.10").ends_with("to 10.8.0.10, which the rule names"));
        assert!(!names("-j SNAT --to-source 10.8.0.100", "10.8.0.10".parse().expect("an address")));
        assert!(names("snat ip6 to fd00::1", "fd00::1".parse().expect("an address")));
    }

    #[test]
    fn says_nothing_of_an_address_that_is_not_the_nodes() {
        assert!(words(&scene(), "10.99.0.1").ends_with("(-s 10.9.0.0/24 -j MASQUERADE)"));
    }
}
