//! Nobody listens: TCP answers RST, UDP answers ICMP port-unreachable.

use super::rejected_outside;
use crate::{
    explain::{Case, Draft, Drop, Rule, service::addressed, tcp::duration},
    model::{
        finding::Confidence,
        flow::{Flow, Proto},
        journey::Step,
        packet::{Head, Place, What},
        sighting::{Side, Sighting},
    },
};

pub(super) const RULE: Rule = Rule { id: "port-closed", means: "no socket listens at that address and port", check };

/// How long an RST from outside waits to be told, nanoseconds: whether the peer refused or
/// something between only shows when other packets of the peer follow.
const OUTSIDE_WAIT_NS: u64 = 900_000_000;
/// What a peer accepted this long before or after says something of the same time, nanoseconds.
const NEAR_NS: u64 = 10_000_000_000;
/// Ports named of what a pod listens on instead.
const PORTS_NAMED: usize = 5;

fn check(case: &Case<'_>) -> Option<Draft> {
    here(case).or_else(|| outside(case)).or_else(|| outside_udp(case))
}

/// The kernel of this node looked for a socket and found none.
fn here(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| is_refused(d))?;
    let flow = drop.head.flow?;
    let place = case.place(drop.sighting());
    let (ip, port) = (flow.dst.ip(), flow.dst.port());
    let (redirected, remedy) = redirect(case, &drop, &flow);
    let (listening, other) = listening(case, &drop, &flow);
    let claim = format!(
        "{place} refused {} to {} {}{redirected}: no socket listens there{listening}",
        case.client(),
        flow.dst,
        flow.proto
    );
    let mut draft = case.about_drop(&drop, claim).detail(format!("{} {ip} {port}", flow.proto));
    if case.journey.flow.dst != flow.dst {
        let text = format!("{} was translated to {}", case.journey.flow.destination(), flow.destination());
        draft = draft.proof(drop.mono_ns(), text);
    }
    for step in remedy.into_iter().chain(other) {
        draft = draft.fix(step);
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

/// Who sent it there, where that was not its own aim: a redirect inside the pod, or a service.
fn redirect(case: &Case<'_>, drop: &Drop<'_>, flow: &Flow) -> (String, Option<String>) {
    let What::Dropped { ct, .. } = &drop.step.sighting.packet.what else { return Default::default() };
    // The pod's own conntrack knows of its own redirect only; the node's is in the journey.
    let own = ct.as_ref().map(|ct| ct.original.dst).filter(|dst| *dst != flow.dst);
    let of_node = case.steps().find_map(|step| match &step.sighting.packet.what {
        What::Hop { ct: Some(ct), .. } if ct.dnat() && ct.reply.src == flow.dst => Some(ct.original.dst),
        _ => None,
    });
    let aim = own.or(of_node).unwrap_or(case.journey.flow.dst);
    if aim == flow.dst {
        return Default::default();
    }
    // The pod's own conntrack translates only what a rule of the pod's redirects.
    let in_pod = drop.sighting().side == Side::Pod && own.is_some_and(|own| own.ip() == flow.dst.ip());
    if in_pod || drop.device().as_deref() == Some("lo") || flow.dst.ip().is_loopback() {
        let port = flow.dst.port();
        let text =
            format!(", where a redirect in the pod sent what was meant for {aim} (a sidecar that is not running?)");
        return (text, Some(format!("start the sidecar that listens on {port} first, or remove the redirect to it")));
    }
    let service = addressed(case, &Flow { dst: aim, ..*flow });
    let name = service.map_or_else(|| aim.to_string(), |service| service.words(aim));
    (
        format!(", where {name} sent it"),
        Some("correct the targetPort of the service, or the port the container binds".to_owned()),
    )
}

/// What listens there instead, as the kernel says.
fn listening(case: &Case<'_>, drop: &Drop<'_>, flow: &Flow) -> (String, Option<String>) {
    let netns = drop.sighting().packet.netns;
    let Some(sockets) = case.sockets(netns, drop.mono_ns()).filter(|_| netns != 0) else { return Default::default() };
    let port = flow.dst.port();
    let same: Vec<String> = sockets.on_port(flow.proto, port).map(|l| l.local.ip().to_string()).collect();
    if !same.is_empty() {
        let fix =
            format!("bind the application to {} or to every address, not to {} only", flow.dst.ip(), same.join(", "));
        return (format!(" ({port} is open on {} only)", same.join(", ")), Some(fix));
    }
    let mut ports: Vec<u16> = sockets
        .listeners
        .iter()
        .filter(|l| l.proto == flow.proto && !l.local.ip().is_loopback())
        .map(|l| l.local.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let names: Vec<String> = ports.iter().take(PORTS_NAMED).map(ToString::to_string).collect();
    match (names.is_empty(), drop.sighting().side) {
        // A node has many sockets that are none of this.
        (false, Side::Pod) => (format!(" (it listens on {})", names.join(", ")), None),
        (true, Side::Pod) => (format!(" (nothing in it listens on {})", flow.proto), None),
        _ => Default::default(),
    }
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
    // An RST within a connection that was there before says nothing of who listens.
    let opened = |(step, _, head): &(&Step, Place, &Head)| step.forward && head.flags.opens();
    case.hops().find(opened)?;
    let (rst, head) = refusal(case)?;
    if case.hops().any(|(step, _, head)| !step.forward && head.flags.syn())
        || (undecremented(head.ttl) && is_routed(case))
    {
        return None;
    }
    let target = case.journey.flow.destination();
    let accepted = accepted(case, rst.packet.mono_ns);
    let why = accepted.as_ref().map_or_else(
        || ": nothing listens there".to_owned(),
        |(_, when)| {
            format!(", though it accepted another connection {when}: not everything behind that address listens")
        },
    );
    let claim = format!(
        "{target} refused {} with RST{why} (the RST came in by {} from outside this node)",
        case.who(),
        rst.device
    );
    let mut draft = Draft::new(case, Side::Node, Some(rst.device.to_string()), claim)
        .confidence(Confidence::Likely)
        .detail(target.clone())
        .proof(exit.sighting.packet.mono_ns, format!("SYN left by {}", exit.sighting.device))
        .proof(rst.packet.mono_ns, format!("RST received on {} with TTL {}", rst.device, head.ttl));
    draft = match accepted {
        None => draft.fix(format!("start the service at {target}, or correct the address or port it is called by")),
        Some((ns, _)) => draft
            .proof(ns, format!("SYN-ACK of {target} to another connection"))
            .fix(format!("see what is behind {target}: it was stopped just now, or one of its backends is, or two machines have that address"))
            .fix(format!("on its network: arping -D -I DEV {}  # does a second machine answer?", case.journey.flow.dst.ip())),
    };
    draft.ready_ns = rst.packet.mono_ns + OUTSIDE_WAIT_NS;
    Some(draft)
}

/// When the peer accepted another connection to that address and port, near in time, and in words how long before or after the
/// refusal.
fn accepted(case: &Case<'_>, refused_ns: u64) -> Option<(u64, String)> {
    let others = case.journeys.iter().filter(|j| j.id != case.journey.id && j.flow.dst == case.journey.flow.dst);
    let answers = others.flat_map(|j| &j.steps).filter_map(|step| match &step.sighting.packet.what {
        What::Hop { place: Place::Receive, head, .. } if !step.forward && head.flags.syn() => {
            Some(step.sighting.packet.mono_ns)
        }
        _ => None,
    });
    let nearest = answers.min_by_key(|ns| ns.abs_diff(refused_ns)).filter(|ns| ns.abs_diff(refused_ns) < NEAR_NS)?;
    let when = if nearest < refused_ns { "earlier" } else { "later" };
    Some((nearest, format!("{} {when}", duration(nearest.abs_diff(refused_ns)))))
}

/// A datagram left, and the peer itself says that nobody listens.
fn outside_udp(case: &Case<'_>) -> Option<Draft> {
    let (error, teller, icmp) = rejected_outside::error(case)?;
    if !rejected_outside::is_closed_port(case, &teller, icmp) {
        return None;
    }
    let (target, device) = (case.journey.flow.destination(), error.device.to_string());
    let claim = format!(
        "{target} refused the datagrams of {} with ICMP port unreachable: nothing listens there (it came in by {device} from \
         outside this node)",
        case.who()
    );
    let draft = Draft::new(case, Side::Node, Some(device), claim)
        .confidence(Confidence::Likely)
        .detail(target.clone())
        .proof(error.packet.mono_ns, format!("ICMP {}/{} from {} received", icmp.0, icmp.1, teller.src.ip()));
    Some(draft.fix(format!("start the service at {target}, or correct the address or port it is called by")))
}

/// A gateway lies on the way, so that what the peer sends has been counted down.
fn is_routed(case: &Case<'_>) -> bool {
    case.decision(case.facts.node, true, u64::MAX).is_none_or(|l| l.err != 0 || l.gateway.is_some())
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
    use super::super::testing::{Scene, drop_of, flow, hop, in_pod, new_entry, segment, syn, syn_ack, tracked};
    use super::*;
    use crate::model::packet::TcpFlags;

    #[test]
    fn names_the_port_nobody_listens_on() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "NO_SOCKET", "tcp_v4_rcv", &[])), "eth0");
        let draft = check(&scene.case()).expect("nobody listens");
        assert!(draft.claim.contains("to 10.20.0.4:3306 tcp: no socket listens there"), "{}", draft.claim);
        assert_eq!(draft.side, Side::Pod);
    }

    #[test]
    fn names_the_redirect_of_the_pod_that_is_called() {
        let mut scene = Scene::pod_to_db();
        let redirected = Flow { dst: "10.20.0.4:15006".parse().expect("an address"), ..flow() };
        let mut entry = new_entry(flow());
        entry.reply.src = redirected.dst;
        let refused = drop_of(Head { flow: Some(redirected), ..syn() }, "NO_SOCKET", "tcp_v4_rcv", &[]);
        scene.step(1, in_pod(tracked(refused, entry)), "eth0");
        let draft = check(&scene.case()).expect("nobody listens");
        assert!(
            draft
                .claim
                .contains("to 10.20.0.4:15006 tcp, where a redirect in the pod sent what was meant for 10.20.0.4:3306"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn stays_silent_on_a_reset_of_a_connection_that_was_there_before() {
        let refused = |first: Head| {
            let mut scene = Scene::pod_to_db();
            scene.step(1, hop(Place::Transmit, first), "eth1");
            let rst = Head { flags: TcpFlags(4), ttl: 63, ..syn_ack() };
            scene.back(2, hop(Place::Receive, rst), "eth1");
            outside(&scene.case()).map(|draft| draft.claim)
        };
        assert!(refused(syn()).expect("nobody listens").starts_with("10.20.0.4:3306 refused shop/web-0 with RST"));
        assert_eq!(refused(segment(true, 9, 4, 9)), None);
    }

    #[test]
    fn says_where_another_connection_was_accepted() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        let mut other = scene.journey.clone();
        other.id += 1;
        scene.back(2, hop(Place::Receive, Head { flags: TcpFlags(4), ttl: 63, ..syn_ack() }), "eth1");
        let refused = std::mem::replace(&mut scene.journey, other);
        scene.back(2_002, hop(Place::Receive, syn_ack()), "eth1");
        let accepted = std::mem::replace(&mut scene.journey, refused);
        scene.journeys.put(accepted);
        let draft = check(&scene.case()).expect("it refused");
        assert_eq!(
            draft.claim,
            "10.20.0.4:3306 refused shop/web-0 with RST, though it accepted another connection 2.0 s later: not everything \
             behind that address listens (the RST came in by eth1 from outside this node)"
        );
    }

    #[test]
    fn stays_silent_on_an_answer_that_came_too_late() {
        let mut scene = Scene::pod_to_db();
        scene.back(1, in_pod(drop_of(syn_ack(), "NO_SOCKET", "tcp_v4_rcv", &[])), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
