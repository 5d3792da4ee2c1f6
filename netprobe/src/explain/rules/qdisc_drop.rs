//! The device's queueing discipline is over its limit, or drops by design.

use super::neighbour_unresolved;
use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{
        devices::{Devices, Qdisc},
        finding::Confidence,
    },
};

pub(super) const RULE: Rule =
    Rule { id: "qdisc-drop", means: "the device's queueing discipline (its shaper) is over its limit", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|drop| is_queue(drop) || lost_the_question(case, drop))?;
    let device = drop.device()?;
    let packet = &drop.sighting().packet;
    let read = case.devices(packet.netns, packet.mono_ns).and_then(|d| guilty(d, packet.ifindex));
    let fact = case.namespace(packet.netns).and_then(|n| n.links.get(&packet.ifindex)).map(|l| l.qdisc.clone());
    let fact = fact.filter(|k| !k.is_empty()).unwrap_or_else(|| "unknown".to_owned());
    let kind = read.map_or_else(|| fact.clone(), |q| q.kind.clone());
    let name = read.map_or(fact, ToString::to_string);
    let mut draft = case
        .dropped_because(&drop, &because(&kind, &name, &device))
        .proof(drop.mono_ns(), format!("{device} has the qdisc {name}"))
        .detail(kind.clone());
    if let Some(qdisc) = read {
        let text = format!(
            "qdisc {qdisc}: {} dropped, {} overlimits, {} packets ({} bytes) waiting",
            qdisc.drops, qdisc.overlimits, qdisc.waiting, qdisc.backlog
        );
        draft = draft.proof(drop.mono_ns(), text);
    }
    if !is_queue(&drop) {
        let text = "the neighbour was given up: what asks for it goes through the same qdisc";
        draft = draft.proof(drop.mono_ns(), text).confidence(Confidence::Likely);
    }
    Some(draft.fix(advice(&kind, &device)).fix(format!("see its counters: tc -s qdisc show dev {device}")))
}

/// The packet's neighbour was given up, and the device's qdisc loses packets on purpose: also those that ask for it.
pub(super) fn lost_the_question(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    let packet = &drop.sighting().packet;
    let link = case.namespace(packet.netns).and_then(|facts| facts.links.get(&packet.ifindex));
    neighbour_unresolved::is_given_up(drop)
        && link.is_some_and(|link| link.qdisc == "netem")
        && case
            .devices(packet.netns, packet.mono_ns)
            .and_then(|read| guilty(read, packet.ifindex))
            .is_some_and(|q| q.drops > 0)
}

/// The qdisc of the device that has dropped most.
fn guilty(devices: &Devices, ifindex: u32) -> Option<&Qdisc> {
    let here =
        devices.qdiscs.iter().filter(|q| q.ifindex == ifindex && !matches!(q.kind.as_str(), "clsact" | "ingress"));
    // A classful root counts what its children drop: of two with the same count the child did it.
    here.max_by_key(|q| (q.drops, !q.root))
}

fn because(kind: &str, name: &str, device: &str) -> String {
    match kind {
        "netem" => format!("the qdisc {name} of {device} loses packets on purpose (loss, limit or rate)"),
        _ => format!("the queue of {device} (qdisc {name}) is over its limit"),
    }
}

fn advice(kind: &str, device: &str) -> String {
    match kind {
        "netem" => format!("remove the test impairment: tc qdisc del dev {device} root"),
        "tbf" | "htb" | "hfsc" | "cbq" | "drr" | "ets" => {
            "raise the bandwidth (kubernetes.io/egress-bandwidth, ingress-bandwidth) or the shaper's limit".to_owned()
        }
        _ => "more is sent than the device carries: send less, or raise the qdisc's limit".to_owned(),
    }
}

/// What a queueing discipline refuses.
pub(super) fn is_queue(drop: &Drop<'_>) -> bool {
    matches!(
        &**drop.reason,
        "QDISC_DROP"
            | "QDISC_OVERLIMIT"
            | "QDISC_CONGESTED"
            | "CAKE_FLOOD"
            | "FQ_BAND_LIMIT"
            | "FQ_HORIZON_LIMIT"
            | "FQ_FLOW_LIMIT"
            | "DUALPI2_STEP_DROP"
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;
    use crate::model::asked::Reading;

    #[test]
    fn names_the_shaper() {
        let mut scene = Scene::pod_to_db();
        scene.node().links.get_mut(&Scene::ETH1).expect("eth1").qdisc = "tbf".to_owned();
        scene.step(1, drop_of(syn(), "QDISC_DROP", "__dev_queue_xmit", &[]), "eth1");
        let draft = check(&scene.case()).expect("the queue is full");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on eth1: the queue of eth1 (qdisc tbf) is over its limit"
        );
    }

    #[test]
    fn names_netem_where_even_the_question_for_the_neighbour_is_lost() {
        let mut scene = Scene::pod_to_db();
        scene.node().links.get_mut(&Scene::ETH1).expect("eth1").qdisc = "netem".to_owned();
        scene.step(1, drop_of(syn(), "NEIGH_FAILED", "neigh_invalidate", &[]), "eth1");
        assert_eq!(check(&scene.case()), None, "nothing says that it lost anything");
        let netem = Qdisc { ifindex: Scene::ETH1, kind: "netem".to_owned(), root: true, drops: 3, ..Qdisc::default() };
        scene.answer(Reading::Devices(Devices { qdiscs: vec![netem], ..Devices::default() }));
        let draft = check(&scene.case()).expect("it loses packets");
        assert!(draft.claim.contains("of eth1 loses packets on purpose"), "{}", draft.claim);
        assert_eq!(draft.confidence, Confidence::Likely);
    }

    #[test]
    fn stays_silent_on_a_tc_programs_verdict() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "TC_EGRESS", "__dev_queue_xmit", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
