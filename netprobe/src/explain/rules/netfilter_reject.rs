//! The packet met a netfilter rule that rejects it: dropped, and answered in the addressee's name.

use super::netfilter::met;
use crate::explain::{Case, Draft, Rule};

pub(super) const RULE: Rule = Rule {
    id: "netfilter-reject",
    means: "a netfilter rule refused the packet and answered in the addressee's name",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let met = met(case).filter(|met| met.refuses())?;
    let claim = format!("{} {}; the addressee never saw it", met.what(case), met.by());
    let mut draft = met.draft(case, claim);
    for step in met.search() {
        draft = draft.fix(step);
    }
    Some(match met.guilty() {
        Some(guilty) => draft.fix(guilty.remedy()),
        None => draft.fix("remove or correct the REJECT rule"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, icmp_sent, syn, syn_ack};
    use super::*;

    const STACK: [&str; 4] = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward", "ip_rcv"];

    #[test]
    fn tells_the_answer_that_was_sent() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, icmp_sent(syn(), 3, 3), "vpod1");
        scene.step(2, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        let draft = check(&scene.case()).expect("it is a reject");
        assert_eq!(
            draft.claim,
            "the node refused the packet of shop/web-0 to 10.20.0.4:3306 on vpod1 with ICMP port-unreachable in the forward \
             hook: a netfilter rule (iptables-nft, or an nft table of that family); the addressee never saw it"
        );
    }

    #[test]
    fn an_error_about_another_packet_is_no_answer() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, icmp_sent(syn_ack(), 3, 3), "vpod1");
        scene.step(2, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }

    #[test]
    fn a_rule_that_rejects_is_believed_where_its_answer_was_not_seen() {
        let mut scene = Scene::pod_to_db();
        scene.step(2, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        scene.iptables(
            3,
            "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.9.0.29/32 -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        );
        let draft = check(&scene.case()).expect("the rule rejects");
        assert!(draft.claim.starts_with("the node refused the packet of shop/web-0"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_drop_without_an_answer() {
        let mut scene = Scene::pod_to_db();
        scene.step(2, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
