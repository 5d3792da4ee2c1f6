//! Nobody listens: TCP answers RST, UDP answers ICMP port-unreachable.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{
        finding::Confidence,
        flow::Proto,
        packet::{Head, Place},
        sighting::{Side, Sighting},
    },
};

pub(super) const RULE: Rule = Rule { id: "port-closed", means: "no socket listens at that address and port", check };

/// How long an RST from outside waits to be told, nanoseconds: whether the peer refused or
/// something between only shows when other packets of the peer follow.
const OUTSIDE_WAIT_NS: u64 = 900_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    here(case).or_else(|| outside(case))
}

/// The kernel of this node looked for a socket and found none.
fn here(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| is_refused(d))?;
    let flow = drop.head.flow?;
    let place = case.place(drop.sighting());
    let (ip, port) = (flow.dst.ip(), flow.dst.port());
    let claim = format!("{place} refused {} to {ip}:{port} {}: no socket listens there", case.who(), flow.proto);
    let mut draft = case.about_drop(&drop, claim).detail(format!("{} {ip} {port}", flow.proto));
    if case.journey.flow.dst != flow.dst {
        let text = format!("{} was translated to {}", case.journey.flow.destination(), flow.destination());
        draft = draft.proof(drop.mono_ns(), text);
    }
    let inside = match drop.sighting().side {
        Side::Pod => "in the pod: ",
        _ => "",
    };
    let flag = if flow.proto == Proto::Udp { 'u' } else { 't' };
    Some(
        draft
            .fix(format!("{inside}ss -ln{flag}p  # what listens, and on which address"))
            .fix(format!("start the application on port {port}, or correct the port it is called by")),
    )
}

/// A packet that opens something, and no socket for it.
fn is_refused(drop: &Drop<'_>) -> bool {
    let Some(flow) = drop.head.flow else { return false };
    let opens = match flow.proto {
        Proto::Tcp => drop.head.flags.opens(),
        Proto::Udp => drop.step.forward,
        _ => false,
    };
    opens && &**drop.reason == "NO_SOCKET"
}

/// A SYN left, and RST came back from outside: the peer refused, or something in its name.
fn outside(case: &Case<'_>) -> Option<Draft> {
    let (_, exit) = case.exits()?;
    let (rst, head) = refusal(case)?;
    if case.hops().any(|(step, _, head)| !step.forward && head.flags.syn()) || undecremented(head.ttl) {
        return None;
    }
    let target = case.journey.flow.destination();
    let claim = format!(
        "{target} refused {} with RST: nothing listens there (the RST came in by {} from outside this node)",
        case.who(),
        rst.device
    );
    let mut draft = Draft::new(case, Side::Node, Some(rst.device.to_string()), claim)
        .confidence(Confidence::Likely)
        .detail(target.clone())
        .proof(exit.sighting.packet.mono_ns, format!("SYN left by {}", exit.sighting.device))
        .proof(rst.packet.mono_ns, format!("RST received on {} with TTL {}", rst.device, head.ttl))
        .fix(format!("start the service at {target}, or correct the address or port it is called by"));
    draft.ready_ns = rst.packet.mono_ns + OUTSIDE_WAIT_NS;
    Some(draft)
}

fn refusal<'a>(case: &Case<'a>) -> Option<(&'a Sighting, &'a Head)> {
    case.hops()
        .find(|(step, place, head)| {
            !step.forward
                && *place == Place::Receive
                && step.sighting.side == Side::Node
                && head.flags.rst()
                && case.is_uplink(step.sighting.packet.ifindex)
        })
        .map(|(step, _, head)| (&*step.sighting, head))
}

/// The TTL is what a sender starts with: the RST was made one hop away.
const fn undecremented(ttl: u8) -> bool {
    matches!(ttl, 64 | 128 | 255)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn, syn_ack};
    use super::*;

    #[test]
    fn names_the_port_nobody_listens_on() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "NO_SOCKET", "tcp_v4_rcv", &[])), "eth0");
        let draft = check(&scene.case()).expect("nobody listens");
        assert!(draft.claim.contains("to 10.20.0.4:3306 tcp: no socket listens there"), "{}", draft.claim);
        assert_eq!(draft.side, Side::Pod);
    }

    #[test]
    fn stays_silent_on_an_answer_that_came_too_late() {
        let mut scene = Scene::pod_to_db();
        scene.back(1, in_pod(drop_of(syn_ack(), "NO_SOCKET", "tcp_v4_rcv", &[])), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
