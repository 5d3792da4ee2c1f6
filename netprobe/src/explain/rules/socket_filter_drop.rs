//! The receiving socket's own filter refused the packet.

use crate::explain::{Case, Draft, Rule};

pub(super) const RULE: Rule = Rule {
    id: "socket-filter-drop",
    means: "the receiving socket's own filter (SO_ATTACH_FILTER, SO_ATTACH_BPF) refused the packet",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "SOCKET_FILTER")?;
    let flow = drop.head.flow?;
    let port = flow.dst.port();
    let place = case.place(drop.sighting());
    let because = format!("the filter of the socket of {} port {port} refused it", flow.proto);
    let flag = if flow.proto == crate::model::flow::Proto::Udp { 'u' } else { 't' };
    Some(
        case.dropped_because(&drop, &because)
            .detail(format!("{} {port}", flow.proto))
            .fix(format!("on {place}: ss -{flag}lnpb sport = :{port}  # the process, and its filter (bpf filter)"))
            .fix("it is the application's own SO_ATTACH_FILTER or SO_ATTACH_BPF program; correct or remove it"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;

    #[test]
    fn names_the_socket() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "SOCKET_FILTER", "tcp_v4_rcv", &[])), "eth0");
        let draft = check(&scene.case()).expect("a filter refused it");
        assert!(
            draft.claim.ends_with("on eth0: the filter of the socket of tcp port 3306 refused it"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn stays_silent_on_a_full_buffer() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "SOCKET_RCVBUFF", "udp_queue_rcv_one_skb", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
