//! The receiving socket's buffer is full, or the memory for all of them.

use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule = Rule {
    id: "socket-buffer-full",
    means: "the receiving socket's buffer is full: the application does not read fast enough",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let (drop, full, fix) = case.drops().find_map(|drop| full(&drop).map(|(full, fix)| (drop, full, fix)))?;
    let flow = drop.head.flow?;
    let place = case.place(drop.sighting());
    let because = format!("{full} of {} port {} on {place}", flow.proto, flow.dst.port());
    let flag = if flow.proto == crate::model::flow::Proto::Udp { 'u' } else { 't' };
    Some(
        case.dropped_because(&drop, &because)
            .detail(format!("{} {}", flow.proto, flow.dst.port()))
            .fix(format!(
                "on {place}: ss -{flag}amnp sport = :{}  # Recv-Q and skmem of the socket, and its process",
                flow.dst.port()
            ))
            .fix(fix),
    )
}

fn full(drop: &Drop<'_>) -> Option<(&'static str, &'static str)> {
    match &**drop.reason {
        "SOCKET_RCVBUFF" => Some((
            "the receive buffer is full, the application does not read fast enough: socket",
            "make the reader faster, or raise SO_RCVBUF and net.core.rmem_max",
        )),
        "SOCKET_BACKLOG" => Some((
            "the backlog is full while the application is inside a system call: socket",
            "make the reader faster, or raise SO_RCVBUF and net.core.rmem_max",
        )),
        "PROTO_MEM" => Some((
            "the memory of all sockets of this protocol is used up (udp_mem, tcp_mem): socket",
            "find who holds it (ss -amn), or raise net.ipv4.udp_mem and net.ipv4.tcp_mem",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;

    #[test]
    fn names_the_socket() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "SOCKET_RCVBUFF", "udp_queue_rcv_one_skb", &[])), "eth0");
        let draft = check(&scene.case()).expect("the buffer is full");
        assert_eq!(
            draft.claim,
            "shop/web-0 dropped the packet of shop/web-0 to 10.20.0.4:3306 on eth0: the receive buffer is full, the \
             application does not read fast enough: socket of tcp port 3306 on shop/web-0"
        );
    }

    #[test]
    fn stays_silent_on_a_sockets_filter() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "SOCKET_FILTER", "udp_queue_rcv_one_skb", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
