//! No neighbour entry could be created: the kernel's one table is full.

use crate::explain::{Case, Draft, Rule};

pub(super) const RULE: Rule = Rule {
    id: "neighbour-table-full",
    means: "no neighbour entry could be created for the next hop: the table is full (gc_thresh3)",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "NEIGH_CREATEFAIL")?;
    let family = if drop.head.flow?.is_v6() { "ipv6" } else { "ipv4" };
    let limit = format!("net.{family}.neigh.default.gc_thresh3");
    let known = case.facts.node().and_then(|n| n.sysctl(&limit));
    let at = known.map_or_else(|| format!("({limit})"), |value| format!("({limit}={value})"));
    let because = format!("no neighbour entry could be created for its next hop, the neighbour table is full {at}");
    let entries: usize = case.facts.namespaces.values().map(|n| n.neighbours.len()).sum();
    Some(
        case.dropped_because(&drop, &because)
            .proof(drop.mono_ns(), format!("{entries} neighbour entries in the namespaces of the node and its pods"))
            .detail(family)
            .fix(format!("on the host: raise gc_thresh1, gc_thresh2 and gc_thresh3 together (sysctl -w {limit}=...)"))
            .fix("find out why there are so many: ip neigh show nud all | awk '{print $3}' | sort | uniq -c"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    #[test]
    fn names_the_limit() {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv4.neigh.default.gc_thresh3".to_owned(), "1024".to_owned());
        scene.step(1, drop_of(syn(), "NEIGH_CREATEFAIL", "ip_finish_output2", &[]), "eth1");
        let draft = check(&scene.case()).expect("the table is full");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on eth1: no neighbour entry could be created for \
             its next hop, the neighbour table is full (net.ipv4.neigh.default.gc_thresh3=1024)"
        );
    }

    #[test]
    fn stays_silent_on_a_neighbour_that_does_not_answer() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NEIGH_FAILED", "neigh_invalidate", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
