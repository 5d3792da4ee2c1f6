//! A process could not even start to connect: no local port was free.

use crate::{
    explain::{Case, Draft, Rule},
    model::packet::What,
};

pub(super) const RULE: Rule = Rule {
    id: "local-ports-exhausted",
    means: "connect() found no free local port for that destination (EADDRNOTAVAIL); there was no packet",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let failed: Vec<_> = case.steps().filter(|s| is_portless(&s.sighting.packet.what)).collect();
    let (first, last) = (&failed.first()?.sighting, &failed.last()?.sighting);
    let flow = case.journey.flow;
    let taken = case
        .journeys
        .iter()
        .filter(|j| j.flow.proto == flow.proto && j.flow.src.ip() == flow.src.ip() && j.flow.dst == flow.dst)
        .filter(|j| j.flow.src.port() != 0)
        .count();
    let claim = format!(
        "{} could not start a connection to {}: no local port was free (EADDRNOTAVAIL); no packet was sent",
        case.who(),
        flow.destination()
    );
    let mut draft = Draft::new(case, first.side, None, claim)
        .detail(flow.destination())
        .proof(first.packet.mono_ns, "the socket went from SYN_SENT to CLOSE without ever having a local port")
        .proof(last.packet.mono_ns, format!("{taken} connections to {} were seen at the time", flow.destination()))
        .fix("pool and reuse connections; close them from the other side, so that TIME_WAIT is there")
        .fix("in the pod: sysctl net.ipv4.ip_local_port_range (widen it), net.ipv4.tcp_tw_reuse=1; ss -tan | wc -l");
    draft.count = failed.len() as u64;
    draft.last_ns = last.packet.mono_ns;
    Some(draft)
}

/// The kernel sets SYN_SENT before it looks for a port, and takes it back when there is none.
fn is_portless(what: &What) -> bool {
    matches!(what, What::State { flow, old: "SYN_SENT", new: "CLOSE", .. } if flow.src.port() == 0)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, flow, in_pod},
        *,
    };
    use crate::model::{flow::Flow, sighting::Side};

    fn closed(port: u16) -> What {
        let mut flow: Flow = flow();
        flow.src.set_port(port);
        What::State { flow, old: "SYN_SENT", new: "CLOSE", err: 0, comm: "java".into() }
    }

    #[test]
    fn tells_a_connect_without_a_port() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(closed(0)), "");
        let draft = check(&scene.case()).expect("there was no port");
        assert_eq!(
            draft.claim,
            "shop/web-0 could not start a connection to 10.20.0.4:3306: no local port was free (EADDRNOTAVAIL); no packet was \
             sent"
        );
        assert_eq!(draft.side, Side::Pod);
    }

    #[test]
    fn stays_silent_on_a_connect_that_was_refused() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(closed(41000)), "");
        assert_eq!(check(&scene.case()), None);
    }
}
