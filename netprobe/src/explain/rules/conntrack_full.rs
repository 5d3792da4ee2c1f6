//! The table of connections is full: a new one is dropped.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::finding::Confidence,
};

pub(super) const RULE: Rule =
    Rule { id: "conntrack-full", means: "the conntrack table is full, new connections are dropped", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_conntracks)?;
    let netns = drop.sighting().packet.netns;
    let window = case.counters(netns, drop.mono_ns())?;
    let (refused, count) = (window.rise("conntrack.drop"), window.after.get("conntrack.count"));
    // The first limit is the host's or the namespace's own; either is named so.
    let max = window.after.get("conntrack.max");
    let full = max > 0 && count >= max;
    if refused == 0 && !full {
        return None;
    }
    let how = if full {
        format!("the conntrack table is full: nf_conntrack_count {count} of nf_conntrack_max {max}")
    } else {
        format!("the conntrack table was full: it refused {refused} connections (nf_conntrack_max {max})")
    };
    let mut draft = case.dropped_because(&drop, &how).detail("full").confidence(if refused > 0 {
        Confidence::Stated
    } else {
        Confidence::Likely
    });
    if refused > 0 {
        draft = draft.proof(
            window.to_ns,
            format!("conntrack counter drop rose by {refused} since {}", case.clock(window.from_ns)),
        );
    }
    draft = draft.proof(window.to_ns, format!("nf_conntrack_count {count}, nf_conntrack_max {max}"));
    Some(
        draft
            .fix("sysctl -w net.netfilter.nf_conntrack_max=N  # more; each entry takes about 300 bytes")
            .fix("find who fills it: conntrack -L | awk '{print $5}' | sort | uniq -c | sort -n; shorten its timeouts"),
    )
}

/// A packet without an entry that conntrack itself dropped, or a rule of x_tables: the counters tell which.
fn is_conntracks(drop: &Drop<'_>) -> bool {
    &**drop.reason == "NETFILTER_DROP" && drop.site == "nf_hook_slow" && drop.ct.is_none()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    const STACK: [&str; 2] = ["ip_rcv", "__netif_receive_skb_one_core"];

    fn scene(counters: &[(&str, u64)]) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.counted(0, &[("conntrack.drop", 3)]);
        scene.step(10, drop_of(syn(), "NETFILTER_DROP", "nf_hook_slow", &STACK), "vpod1");
        scene.counted(20, counters);
        scene
    }

    #[test]
    fn tells_the_full_table() {
        let scene = scene(&[("conntrack.drop", 5), ("conntrack.count", 64), ("conntrack.max", 64)]);
        let draft = check(&scene.case()).expect("it is full");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on vpod1: the conntrack table is full: \
             nf_conntrack_count 64 of nf_conntrack_max 64"
        );
        assert_eq!(draft.confidence, Confidence::Stated);
    }

    #[test]
    fn stays_silent_where_conntrack_refused_nothing() {
        let scene = scene(&[("conntrack.drop", 3), ("conntrack.count", 7), ("conntrack.max", 64)]);
        assert_eq!(check(&scene.case()), None);
    }
}
