//! A device outside answered with ICMP: unreachable, prohibited, too many hops.

use crate::{
    explain::{Case, Draft, Rule},
    model::{
        finding::Confidence,
        flow::Flow,
        packet::{Place, What},
        sighting::{Side, Sighting},
    },
};

pub(super) const RULE: Rule =
    Rule { id: "rejected-outside", means: "a device outside this node answered with an ICMP error", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let (error, teller, icmp) = error(case)?;
    // What was answered once is not refused: the error may be about its end.
    let answered = case.hops().any(|(step, ..)| !step.forward);
    if answered || is_closed_port(case, &teller, icmp) || case.drops().next().is_some() {
        return None;
    }
    let v6 = teller.is_v6();
    let (from, device) = (teller.src.ip(), error.device.to_string());
    let target = case.journey.flow.destination();
    let who = if case.journey.flow.dst.ip() == from { "the peer itself" } else { "a device on the way" };
    let says = meaning(v6, icmp)?;
    let claim = format!(
        "{from}, {who}, refused the packets of {} to {target} with ICMP {says} (it came in by {device} from outside this node)",
        case.who()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Stated)
        .detail(format!("{target} {from} {icmp:?}"))
        .proof(error.packet.mono_ns, format!("ICMP {}/{} from {from} received on {device}", icmp.0, icmp.1));
    if let Some((_, exit)) = case.exits() {
        draft = draft.proof(exit.sighting.packet.mono_ns, format!("the packet left by {}", exit.sighting.device));
    }
    Some(draft.fix(remedy(v6, icmp, &from.to_string(), &target)))
}

/// The addressee itself says that nobody listens: that is `port-closed`.
pub(super) fn is_closed_port(case: &Case<'_>, teller: &Flow, icmp: (u8, u8)) -> bool {
    teller.src.ip() == case.journey.flow.dst.ip() && matches!((teller.is_v6(), icmp), (false, (3, 3)) | (true, (1, 4)))
}

/// The error that came in by an uplink, who sent it, and what it is.
pub(super) fn error<'a>(case: &Case<'a>) -> Option<(&'a Sighting, Flow, (u8, u8))> {
    case.steps().find_map(|step| match &step.sighting.packet.what {
        What::Hop { place: Place::Receive, head, inner: Some(_), .. }
            if step.sighting.side == Side::Node && case.is_uplink(step.sighting.packet.ifindex) =>
        {
            let flow = head.flow?;
            let icmp = head.icmp.filter(|icmp| meaning(flow.is_v6(), *icmp).is_some())?;
            Some((&*step.sighting, flow, icmp))
        }
        _ => None,
    })
}

/// What it says, where it refuses: "too big" is advice.
const fn meaning(v6: bool, icmp: (u8, u8)) -> Option<&'static str> {
    Some(match (v6, icmp) {
        (false, (3, 0 | 6 | 11)) | (true, (1, 0)) => "network unreachable",
        (false, (3, 1 | 7 | 8 | 12)) | (true, (1, 3)) => "host unreachable",
        (false, (3, 2)) => "protocol unreachable",
        (false, (3, 3)) | (true, (1, 4)) => "port unreachable",
        (false, (3, 9 | 10 | 13)) | (true, (1, 1)) => "administratively prohibited",
        (true, (1, 2 | 5)) => "source address failed policy",
        (true, (1, 6)) => "reject route to destination",
        (false, (11, 0)) | (true, (3, 0)) => "time to live exceeded",
        _ => return None,
    })
}

fn remedy(v6: bool, icmp: (u8, u8), from: &str, target: &str) -> String {
    match (v6, icmp) {
        (false, (3, 3)) | (true, (1, 4)) => {
            format!("start the service at {target}, or find the REJECT rule at {from} that answers for it")
        }
        (false, (3, 9 | 10 | 13)) | (true, (1, 1 | 5)) => format!("change the firewall or ACL of {from}"),
        (false, (11, _)) | (true, (3, _)) => {
            format!("packets to {target} run in a circle or too far: see the routes of {from}")
        }
        _ => format!("see on {from} whether it has a route to {target}, and whether that host answers it (ARP, NDP)"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, flow, hop, syn, syn_ack},
        *,
    };
    use crate::model::{flow::Proto, packet::Head};

    fn refused(icmp: (u8, u8)) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        let from = Flow { proto: Proto::Icmp, src: "10.96.0.1:0".parse().expect("an address"), dst: flow().src };
        let head = Head { flow: Some(from), icmp: Some(icmp), ..syn() };
        scene.back(2, What::Hop { place: Place::Receive, head, ct: None, inner: Some(flow()), seen: 1 }, "eth1");
        scene
    }

    #[test]
    fn names_who_refused_and_how() {
        let draft = check(&refused((3, 13)).case()).expect("it was refused");
        assert_eq!(
            draft.claim,
            "10.96.0.1, a device on the way, refused the packets of shop/web-0 to 10.20.0.4:3306 with ICMP administratively \
             prohibited (it came in by eth1 from outside this node)"
        );
    }

    #[test]
    fn stays_silent_on_advice_and_after_an_answer() {
        assert_eq!(check(&refused((3, 4)).case()), None, "it is about the size");
        let mut scene = refused((3, 1));
        scene.back(3, hop(Place::Receive, syn_ack()), "eth1");
        assert_eq!(check(&scene.case()), None, "it was answered");
    }
}
