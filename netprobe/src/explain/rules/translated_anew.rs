//! A segment in the middle of a connection got another translation than those before it, and was reset: conntrack had
//! forgotten the connection.

use std::collections::BTreeMap;

use crate::{
    explain::{Case, Draft, tcp::duration},
    model::{
        finding::Confidence,
        flow::Proto,
        journey::Step,
        packet::{Conntrack, What},
        sighting::Side,
    },
};

/// The change of an entry.
struct Change<'a> {
    step: &'a Step,
    idle_ns: u64,
    old: &'a Conntrack,
    new: &'a Conntrack,
}

pub(super) fn check(case: &Case<'_>) -> Option<Draft> {
    let Change { step, idle_ns, old, new } = change(case).filter(|_| case.journey.flow.proto == Proto::Tcp)?;
    let at_ns = step.sighting.packet.mono_ns;
    let reset = case.hops().find(|(s, _, head)| head.flags.rst() && s.sighting.packet.mono_ns > at_ns)?.0;
    let (was, now) = if old.reply.src == new.reply.src {
        (old.reply.destination(), new.reply.destination())
    } else {
        (old.reply.source(), new.reply.source())
    };
    let claim = format!(
        "the node lost the conntrack entry of {}'s connection to {} after {} of silence and translated it anew ({was} before, \
         {now} now): the other end does not know it so and resets it",
        case.who(),
        case.whither(),
        duration(idle_ns)
    );
    let device = Some(step.sighting.device.to_string()).filter(|device| !device.is_empty());
    Some(
        Draft::new(case, Side::Node, device, claim)
            .detail("translated anew")
            .confidence(Confidence::Likely)
            .proof(at_ns, format!("conntrack translates to {now}, it was {was} {} before", duration(idle_ns)))
            .proof(reset.sighting.packet.mono_ns, "then came RST")
            .fix("keep the connection alive: SO_KEEPALIVE with tcp_keepalive_time below the timeout (300 s)")
            .fix("or raise net.netfilter.nf_conntrack_tcp_timeout_established on the node"),
    )
}

/// The first segment of the connection whose entry says something else than the one before, in the same namespace: a
/// pod's own conntrack knows nothing of the node's translation.
fn change<'a>(case: &Case<'a>) -> Option<Change<'a>> {
    let mut last: BTreeMap<u32, (u64, &Conntrack)> = BTreeMap::new();
    case.steps().filter(|step| step.forward).find_map(|step| {
        let What::Hop { head, ct: Some(new), inner: None, .. } = &step.sighting.packet.what else { return None };
        let packet = &step.sighting.packet;
        let (last_ns, old) = last.insert(packet.netns, (packet.mono_ns, new))?;
        let anew = old.original == new.original && old.reply != new.reply && !head.flags.opens();
        anew.then(|| Change { step, idle_ns: packet.mono_ns.saturating_sub(last_ns), old, new })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, flow, hop, in_pod, new_entry, syn, syn_ack, tracked};
    use super::*;
    use crate::model::packet::{Head, Place, TcpFlags};

    fn entry(source: &str) -> Conntrack {
        let mut entry = new_entry(flow());
        entry.reply.dst = source.parse().expect("an address");
        entry
    }

    fn scene(second: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        let data = Head { flags: TcpFlags(0x18), ..syn() };
        let reset = Head { flags: TcpFlags(4), ..syn_ack() };
        scene.step(1, tracked(hop(Place::Transmit, syn()), entry("10.8.0.10:40001")), "eth1");
        scene.step(4_001, tracked(hop(Place::Transmit, data), entry(second)), "eth1");
        scene.back(4_002, hop(Place::Receive, reset), "eth1");
        scene
    }

    #[test]
    fn names_both_translations() {
        let draft = check(&scene("10.8.0.10:52000").case()).expect("the source port changed");
        assert_eq!(
            draft.claim,
            "the node lost the conntrack entry of shop/web-0's connection to 10.20.0.4:3306 after 4.0 s of silence and \
             translated it anew (10.8.0.10:40001 before, 10.8.0.10:52000 now): the other end does not know it so and resets it"
        );
    }

    #[test]
    fn stays_silent_on_the_same_translation_and_on_the_pods_own_entry() {
        assert_eq!(check(&scene("10.8.0.10:40001").case()), None);
        let mut scene = scene("10.8.0.10:40001");
        scene.step(4_003, in_pod(tracked(hop(Place::Transmit, syn()), new_entry(flow()))), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
