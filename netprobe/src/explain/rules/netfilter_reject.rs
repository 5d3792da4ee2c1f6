//! The packet met a netfilter rule that rejects it: dropped, and answered in the addressee's name.

use super::netfilter::{search, verdict, words};
use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::packet::{Place, What},
};

pub(super) const RULE: Rule = Rule {
    id: "netfilter-reject",
    means: "a netfilter rule refused the packet and answered in the addressee's name",
    check,
};

/// How far apart the answer and the drop may lie, nanoseconds: both happen in one call, and 5 ms
/// leave room for a preempted CPU.
const SAME_CALL_NS: u64 = 5_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "NETFILTER_DROP")?;
    let v6 = drop.head.flow?.is_v6();
    let netfilter = verdict(drop.site, drop.stack, v6)?;
    let (answered_ns, answer) = answer(case, &drop)?;
    let claim = format!(
        "{} refused the packet of {} to {} with {answer}: a netfilter REJECT rule in the {} hook; the addressee never saw it",
        case.place(drop.sighting()),
        case.who(),
        case.whither(),
        netfilter.hook,
    );
    let mut draft = case.about_drop(&drop, claim).detail(netfilter.hook.clone());
    draft = draft.proof(drop.mono_ns(), format!("call stack: {}", words(&netfilter)));
    draft = draft.proof(answered_ns, format!("the node itself sent {answer} in the same call"));
    for step in search(&netfilter, v6) {
        draft = draft.fix(step);
    }
    draft.netfilter = Some(netfilter);
    Some(draft)
}

/// The answer that goes with the drop: an ICMP error sent here, or a RST that no device received.
fn answer(case: &Case<'_>, drop: &Drop<'_>) -> Option<(u64, String)> {
    let here = drop.sighting().packet.netns;
    let near = |ns: u64| ns.abs_diff(drop.mono_ns()) <= SAME_CALL_NS;
    case.steps().filter(|s| s.sighting.packet.netns == here && near(s.sighting.packet.mono_ns)).find_map(|step| {
        let text = match &step.sighting.packet.what {
            What::IcmpSent { icmp: (kind, code), .. } => format!("ICMP {}", icmp_name(*kind, *code)),
            What::Hop { place: Place::Queue, head, inner: None, .. } if !step.forward && head.flags.rst() => {
                "a TCP RST".to_owned()
            }
            What::Hop { place: Place::Queue, head, inner: Some(_), .. } => {
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, icmp_sent, syn};
    use super::*;

    const STACK: [&str; 4] = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward", "ip_rcv"];

    #[test]
    fn tells_the_answer_that_was_sent() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, icmp_sent(syn(), 3, 3), "vpod1");
        scene.step(2, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        let draft = check(&scene.case()).expect("it is a reject");
        assert!(draft.claim.contains("with ICMP port-unreachable"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_drop_without_an_answer() {
        let mut scene = Scene::pod_to_db();
        scene.step(2, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
