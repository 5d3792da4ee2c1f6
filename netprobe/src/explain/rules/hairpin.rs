//! A pod called its own service and met itself: the packet came back with its own address as source.

use crate::{
    explain::{Case, Draft, Rule, service::addressed},
    model::{
        flow::Flow,
        journey::Step,
        packet::{Head, Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "hairpin-not-masqueraded",
    means: "a pod reached itself through its service, and got its own address as source",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let called = case.journey.flow.dst;
    let (step, flow, head) = case.steps().find_map(|step| returned(case, step))?;
    // IPv4 refuses its own address as source; IPv6 takes it, and the answer finds no connection.
    let refused = case.steps().find(|s| {
        matches!(&s.sighting.packet.what, What::Dropped { head, reason, .. }
            if s.sighting.side == Side::Pod
                && (&**reason == "IP_LOCAL_SOURCE" || &**reason == "NO_SOCKET")
                && head.flow.is_some_and(|f| f.src.ip() == f.dst.ip()))
    });
    let own = flow.src.ip();
    let service = addressed(case, &case.journey.flow);
    let what = service.map_or_else(|| called.to_string(), |service| service.words(called));
    let device = step.sighting.device.to_string();
    let claim = format!(
        "{} reached itself through {what}: its packet came back on {device} with its own address {own} as source, because \
         nothing masqueraded it on the node",
        case.who()
    );
    let mut draft = Draft::new(case, Side::Pod, Some(device.clone()), claim)
        .detail(called.to_string())
        .proof(step.sighting.packet.mono_ns, format!("received on {device}: {flow} ({})", head.flags));
    let refused = refused?;
    if let What::Dropped { reason, site, .. } = &refused.sighting.packet.what {
        draft = draft.proof(refused.sighting.packet.mono_ns, format!("kfree_skb {reason} in {site}"));
        draft.reason = Some(std::sync::Arc::clone(reason));
    }
    Some(
        draft
            .fix("restore kube-proxy's hairpin rule: -A KUBE-SEP-... -s POD/32 -j KUBE-MARK-MASQ (restart kube-proxy)")
            .fix("or call the pod by its own address"),
    )
}

/// The pod received a packet that is from itself, and was sent to another address.
fn returned<'a>(case: &Case<'a>, step: &'a Step) -> Option<(&'a Step, Flow, &'a Head)> {
    let (head, receives) = match &step.sighting.packet.what {
        What::Hop { place: Place::Receive | Place::Transmit | Place::Queue, head, inner: None, .. } => (head, true),
        What::Dropped { head, reason, .. } => (head, &**reason == "IP_LOCAL_SOURCE"),
        _ => return None,
    };
    let flow = head.flow?;
    let itself = flow.src.ip() == flow.dst.ip() && flow.src.ip() == case.journey.flow.src.ip();
    let lo = &*step.sighting.device == "lo";
    (receives && itself && !lo && step.sighting.side == Side::Pod && case.journey.flow.dst.ip() != flow.dst.ip())
        .then_some((step, flow, head))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, in_pod, syn};
    use super::*;

    fn scene(to: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        let itself = Flow { dst: to.parse().expect("an address"), ..flow() };
        let back = Head { flow: Some(itself), ..syn() };
        scene.step(1, in_pod(drop_of(back, "IP_LOCAL_SOURCE", "ip_rcv_finish_core", &[])), "eth0");
        scene
    }

    #[test]
    fn names_the_service_and_the_address() {
        let draft = check(&scene("10.9.0.29:8080").case()).expect("it met itself");
        assert_eq!(
            draft.claim,
            "shop/web-0 reached itself through 10.20.0.4:3306: its packet came back on eth0 with its own address 10.9.0.29 as \
             source, because nothing masqueraded it on the node"
        );
    }

    #[test]
    fn stays_silent_on_another_pod() {
        assert_eq!(check(&scene("10.9.0.30:8080").case()), None);
    }
}
