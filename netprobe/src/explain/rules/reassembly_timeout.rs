//! A fragment never came, so the others were thrown away.

use crate::explain::{Case, Draft, Rule};

pub(super) const RULE: Rule = Rule {
    id: "reassembly-timeout",
    means: "a fragment of the packet never came, and the others were thrown away",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| matches!(&**d.reason, "FRAG_REASM_TIMEOUT" | "FRAG_TOO_FAR"))?;
    let timeout = if drop.head.flow?.is_v6() { "net.ipv6.ip6frag_time" } else { "net.ipv4.ipfrag_time" };
    let because = match &**drop.reason {
        "FRAG_TOO_FAR" => "too many other packets of that sender came before its missing fragments".to_owned(),
        _ => format!("a fragment of it never came before the reassembly timer ran out ({timeout})"),
    };
    Some(
        case.dropped_because(&drop, &because)
            .fix(
                "avoid fragments: a smaller MTU at the sender, TCP instead of large UDP, EDNS buffer size 1232 for DNS",
            )
            .fix("let fragments through: firewalls and security groups that look at ports drop all but the first"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;

    #[test]
    fn says_that_a_fragment_is_missing() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "FRAG_REASM_TIMEOUT", "ip_expire", &[])), "eth0");
        let draft = check(&scene.case()).expect("a fragment is missing");
        assert!(draft.claim.contains("a fragment of it never came"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_fragment_that_came_twice() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "DUP_FRAG", "ip_defrag", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
