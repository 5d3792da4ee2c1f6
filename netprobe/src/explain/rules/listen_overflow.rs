//! The SYN reached the pod and was ignored: a queue of the listener is full.

use crate::{
    explain::{Case, Draft, Rule, tcp::FIRST_TIMEOUT_NS},
    model::{finding::Confidence, flow::Proto, journey::Step, packet::What, sighting::Side},
};

pub(super) const RULE: Rule = Rule {
    id: "listen-overflow",
    means: "the SYN reached the pod and was ignored: the listener's accept queue or SYN queue is full",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    third_ack(case).or_else(|| ignored_syn(case))
}

/// The kernel said so of the ACK that ends the handshake.
fn third_ack(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| d.reason.ends_with("LISTEN_OVERFLOW"))?;
    let place = case.place(drop.sighting());
    let port = drop.head.flow?.dst.port();
    let claim = format!(
        "{place} dropped the ACK that ends the handshake of {} with port {port}: the listener's accept queue is full",
        case.client()
    );
    let draft = case.about_drop(&drop, claim).detail(format!("{place} {port}"));
    Some(fixes(draft, "accept"))
}

/// SYNs came in and nothing was said.
fn ignored_syn(case: &Case<'_>) -> Option<Draft> {
    let talk = case.talk()?;
    let in_pod = talk.server.filter(|p| p.netns != case.facts.node);
    let (server, on_node) = match (in_pod, talk.server, talk.uplink) {
        (Some(server), ..) => (server, false),
        // What comes in for the node itself goes no further.
        (None, None, Some((point, false))) => (point, true),
        _ => return None,
    };
    let syns: Vec<_> = talk.at(server, true).filter(|s| s.head.flags.opens()).collect();
    let (first, last) = (syns.first()?, syns.last()?);
    let said = case.steps().any(|s| !s.forward && answers(s)) || case.drops().next().is_some();
    let to = first.head.flow?.dst;
    let side = if on_node { Side::Node } else { Side::Pod };
    if said || first.step.sighting.side != side || (on_node && !case.facts.node()?.owns(to.ip())) {
        return None;
    }
    let counters = case.counters(server.netns, first.ns);
    let sockets = case.sockets(server.netns, first.ns);
    let listener = sockets.and_then(|s| s.listener(Proto::Tcp, to));
    let (overflows, drops) =
        counters.as_ref().map_or((0, 0), |c| (c.rise("TcpExt.ListenOverflows"), c.rise("TcpExt.ListenDrops")));
    let full = listener.is_some_and(|l| l.queued > l.limit);
    let queue = match (overflows, drops) {
        _ if full => "accept",
        (0, 0) => "",
        (0, _) => "SYN",
        _ => "accept",
    };
    // Counters that stand still where there are some: it is something else.
    let still = counters.as_ref().is_some_and(|c| c.before.is_some()) && queue.is_empty();
    // At a port of the node that nobody listens on the SYN may be a service's, which goes elsewhere.
    let elsewhere = on_node && (listener.is_none() || queue.is_empty());
    if still || elsewhere || (queue.is_empty() && syns.len() < 2) {
        return None;
    }
    let place = case.place(&first.step.sighting);
    let which = match queue {
        "accept" => "its accept queue is full, the application does not accept fast enough".to_owned(),
        "SYN" => "its queue of half-open connections is full and SYN cookies are off".to_owned(),
        _ => "its accept queue or SYN queue is full".to_owned(),
    };
    let fill = listener
        .filter(|l| l.queued > 0)
        .map_or_else(String::new, |l| format!(" ({} of {} waiting)", l.queued, l.limit));
    let claim = format!("{place} ignores the SYN of {} to port {}: {which}{fill}", case.client(), to.port());
    let device = first.step.sighting.device.to_string();
    let mut draft = Draft::new(case, side, Some(device.clone()), claim)
        .confidence(if queue.is_empty() { Confidence::Possible } else { Confidence::Stated })
        .detail(format!("{place} {}", to.port()))
        .proof(first.ns, format!("SYN received on {device} of {place}"))
        .proof(last.ns, format!("{} SYNs in all, no SYN-ACK, no RST, no drop", syns.len()));
    if let Some(window) = counters.filter(|_| overflows + drops > 0) {
        draft = draft.proof(window.to_ns, format!("TcpExt ListenOverflows +{overflows}, ListenDrops +{drops}"));
    }
    draft = fixes(draft, queue);
    // Without counters only TCP's own time-out is proof.
    draft.proven_ns = if queue.is_empty() { first.ns + FIRST_TIMEOUT_NS } else { 0 };
    Some(draft)
}

fn fixes(draft: Draft, queue: &str) -> Draft {
    let inside = if draft.side == Side::Pod { "in the pod: " } else { "" };
    let draft = draft.fix(format!("{inside}ss -lnt  # Recv-Q above Send-Q: the accept queue is full"));
    match queue {
        "SYN" => {
            draft.fix("sysctl net.ipv4.tcp_syncookies=1; raise net.ipv4.tcp_max_syn_backlog; look for a SYN flood")
        }
        _ => draft.fix(
            "make the application accept faster; raise the backlog of its listen() and net.core.somaxconn with it",
        ),
    }
}

/// The pod said something about it.
fn answers(step: &Step) -> bool {
    matches!(&step.sighting.packet.what, What::Hop { .. } | What::IcmpSent { .. } | What::Reset { sent: true, .. })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, drop_of, hop, in_pod, syn, syn_ack},
        *,
    };
    use crate::model::{
        asked::{Answer, Question, Reading, Subject},
        counters::Counters,
        packet::Place,
        sockets::{Listener, Sockets},
    };

    const POD: u32 = 101;

    fn inbound() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(hop(Place::Receive, syn())), "eth0");
        scene
    }

    fn counted(scene: &mut Scene, mono_ns: u64, overflows: u64, drops: u64) {
        let rows = [("TcpExt.ListenOverflows", overflows), ("TcpExt.ListenDrops", drops)];
        let counters = Counters(rows.into_iter().map(|(name, n)| (name.to_owned(), n)).collect());
        let question = Question { netns: POD, subject: Subject::Counters };
        scene.facts.readings.keep(&Answer {
            question,
            mono_ns,
            done_ns: mono_ns,
            reading: Reading::Counters(counters),
        });
    }

    #[test]
    fn tells_which_queue_is_full() {
        let mut scene = inbound();
        scene.journey.first_ns = 1_000_000;
        counted(&mut scene, 0, 5, 5);
        counted(&mut scene, 2_000_000, 7, 7);
        let draft = check(&scene.case()).expect("it was ignored");
        assert!(draft.claim.ends_with("the application does not accept fast enough"), "{}", draft.claim);
        assert_eq!(draft.confidence, Confidence::Stated);
        counted(&mut scene, 3_000_000, 5, 9);
        let draft = check(&scene.case()).expect("it was ignored");
        assert!(draft.claim.ends_with("half-open connections is full and SYN cookies are off"), "{}", draft.claim);
    }

    #[test]
    fn tells_a_full_queue_of_the_node_and_nothing_of_a_port_without_a_listener() {
        let mut scene = Scene::pod_to_db();
        let to: std::net::SocketAddr = "10.32.0.10:9100".parse().expect("an address");
        scene.journey.flow.dst = to;
        let head = crate::model::packet::Head { flow: Some(scene.journey.flow), ..syn() };
        scene.step(1, hop(Place::Receive, head.clone()), "eth0");
        scene.step(1_001, hop(Place::Receive, head), "eth0");
        assert_eq!(check(&scene.case()), None, "nobody listens: a service's rule may take it");
        let listener = Listener {
            proto: Proto::Tcp,
            local: to,
            v6_only: false,
            queued: 2,
            limit: 1,
            ifindex: 0,
            uid: 0,
            cgroup: 0,
        };
        scene.answer(Reading::Sockets(Sockets { listeners: vec![listener], ..Sockets::default() }));
        let draft = check(&scene.case()).expect("its queue is full");
        assert!(draft.claim.starts_with("the node ignores the SYN of shop/web-0 to port 9100"), "{}", draft.claim);
        assert_eq!(draft.side, Side::Node);
    }

    #[test]
    fn tells_the_third_ack_that_was_dropped() {
        let mut scene = inbound();
        scene.step(2, in_pod(drop_of(syn(), "TCP_LISTEN_OVERFLOW", "tcp_check_req", &[])), "eth0");
        let draft = check(&scene.case()).expect("the kernel said so");
        assert!(draft.claim.contains("dropped the ACK that ends the handshake"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_an_answer_and_on_counters_that_stand_still() {
        let mut scene = inbound();
        scene.step(1_000, in_pod(hop(Place::Receive, syn())), "eth0");
        assert!(check(&scene.case()).is_some(), "two SYNs went unanswered");
        scene.journey.first_ns = 1_000_000;
        counted(&mut scene, 0, 5, 5);
        counted(&mut scene, 2_000_000, 5, 5);
        assert_eq!(check(&scene.case()), None, "the queues are not full");
        let mut scene = inbound();
        scene.back(2, in_pod(hop(Place::Transmit, syn_ack())), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
