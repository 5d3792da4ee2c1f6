//! The device's queueing discipline is over its limit, or drops by design.

use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule =
    Rule { id: "qdisc-drop", means: "the device's queueing discipline (its shaper) is over its limit", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_queue)?;
    let device = drop.device()?;
    let packet = &drop.sighting().packet;
    let kind = case.namespace(packet.netns).and_then(|n| n.links.get(&packet.ifindex)).map(|l| l.qdisc.clone());
    let kind = kind.filter(|k| !k.is_empty()).unwrap_or_else(|| "unknown".to_owned());
    let draft = case.dropped_because(&drop, &because(&kind, &device));
    Some(
        draft
            .proof(drop.mono_ns(), format!("the root qdisc of {device} is {kind}"))
            .detail(kind.clone())
            .fix(advice(&kind))
            .fix(format!("see its counters: tc -s qdisc show dev {device}")),
    )
}

fn because(kind: &str, device: &str) -> String {
    match kind {
        "netem" => format!("the qdisc netem of {device} loses packets on purpose (loss, limit or rate)"),
        _ => format!("the queue of {device} (qdisc {kind}) is over its limit"),
    }
}

fn advice(kind: &str) -> String {
    match kind {
        "netem" => "remove the test impairment: tc qdisc del dev DEV root".to_owned(),
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
    fn stays_silent_on_a_tc_programs_verdict() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "TC_EGRESS", "__dev_queue_xmit", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
