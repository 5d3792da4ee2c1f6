//! A pod reached itself through its service and got its own address as source.

use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule = Rule {
    id: "hairpin-not-masqueraded",
    means: "a pod reached itself through its service and got its own address as source",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.all_drops().find(|drop| is_own(case, drop))?;
    let flow = drop.head.flow?;
    let service = case.journey.flow.destination();
    let pod = case.place(drop.sighting());
    let because = match &**drop.reason {
        "IP_LOCAL_SOURCE" => "it came in from outside with the pod's own address as source, which cannot be",
        // IPv6 takes such a packet, and the answer goes to the pod's own address instead of the service's.
        _ => "it answers the pod's own address, which never asked itself but the service",
    };
    let claim = format!(
        "{pod} reached itself through {service}: the packet {flow} was not masqueraded on its way back, and {pod} dropped it: \
         {because}"
    );
    Some(
        case.about_drop(&drop, claim)
            .detail(service)
            .proof(drop.mono_ns(), format!("{} was translated to {}", case.journey.flow.destination(), flow.destination()))
            .fix("restore the masquerade rule of the endpoint (kube-proxy: KUBE-MARK-MASQ in the KUBE-SEP chain, or masqueradeAll)")
            .fix("where the pod is on a bridge: hairpin mode of its port (kubelet --hairpin-mode, the CNI's hairpinMode)"),
    )
}

fn is_own(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    let Some(flow) = drop.head.flow else { return false };
    let own = flow.src.ip() == flow.dst.ip() && flow.dst.ip() != case.journey.flow.dst.ip();
    let answer = drop.head.flags.syn() && drop.head.flags.ack() && &**drop.reason == "NO_SOCKET";
    own && !flow.dst.ip().is_loopback() && (&**drop.reason == "IP_LOCAL_SOURCE" || answer)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;
    use crate::model::packet::Head;

    fn looped(dst: &str) -> Head {
        let flow = syn().flow.map(|f| crate::model::flow::Flow { dst: dst.parse().expect("an address"), ..f });
        Head { flow, ..syn() }
    }

    #[test]
    fn tells_the_pod_that_reached_itself() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(looped("10.9.0.29:8080"), "IP_LOCAL_SOURCE", "ip_rcv_finish_core", &[])), "eth0");
        let draft = check(&scene.case()).expect("it came back");
        assert!(draft.claim.starts_with("shop/web-0 reached itself through 10.20.0.4:3306"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_an_address_that_somebody_else_uses_too() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "IP_LOCAL_SOURCE", "ip_rcv_finish_core", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
