//! The packet is larger than the MTU ahead.

use crate::{
    explain::{Case, Draft, Drop, Rule, dropped::size},
    model::{flow::Proto, packet::What},
};

pub(super) const RULE: Rule =
    Rule { id: "mtu-exceeded", means: "the packet is larger than the MTU of the device ahead", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    dropped(case).or_else(|| refused(case))
}

/// The process got EMSGSIZE, and nothing of the flow was ever sent: who probes the path's MTU sends smaller ones too.
fn refused(case: &Case<'_>) -> Option<Draft> {
    let (step, comm) = case.steps().find_map(|step| match &step.sighting.packet.what {
        What::SendError { err, comm, .. } if *err == libc::EMSGSIZE as u32 => Some((step, comm)),
        _ => None,
    })?;
    if case.hops().any(|(s, ..)| s.forward) {
        return None;
    }
    let packet = &step.sighting.packet;
    let decision = case.decision(packet.netns, true, packet.mono_ns).filter(|l| l.err == 0);
    let link = decision.and_then(|l| case.namespace(packet.netns)?.links.get(&l.out_ifindex));
    let place = case.place(&step.sighting);
    // The device's MTU is the most: a route, or what was learned of the path, may say less.
    let than = link.map_or_else(
        || "than its way takes".to_owned(),
        |link| format!("than {} takes (MTU {}, unless a route or a learned path MTU is less)", link.name, link.mtu),
    );
    let claim = format!(
        "{place} cannot send to {}: {comm} sends datagrams that must not be cut and are longer {than}, and gets EMSGSIZE; no \
         packet exists",
        case.whither()
    );
    let mut draft = Draft::new(case, step.sighting.side, link.map(|l| l.name.clone()), claim)
        .detail(link.map_or_else(String::new, |l| format!("{} {}", l.name, l.mtu)))
        .proof(packet.mono_ns, format!("sock_send_length: {comm} got EMSGSIZE"))
        .fix("send smaller datagrams, or let them be cut (clear IP_MTU_DISCOVER)");
    if let Some(link) = link {
        draft = draft.fix(format!("or raise the MTU of {} and of the path: the CNI's mtu setting", link.name));
    }
    draft.count = case
        .steps()
        .filter(|s| matches!(s.sighting.packet.what, What::SendError { err, .. } if err == libc::EMSGSIZE as u32))
        .count() as u64;
    Some(draft)
}

fn dropped(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_too_big)?;
    let v6 = drop.head.flow?.is_v6();
    // What TCP leaves to be cut later is cut to what the device it came by takes.
    let packet = &drop.sighting().packet;
    let came_by = case.namespace(packet.netns).and_then(|ns| ns.links.get(&packet.ifindex)).map_or(0, |link| link.mtu);
    let is_uncut = !v6 && drop.head.flow?.proto == Proto::Tcp && came_by != 0;
    let size = if is_uncut { size(&drop).min(came_by) } else { size(&drop) };
    let ahead = ahead(case, &drop).filter(|(_, mtu)| *mtu < size);
    if ahead.is_none() && by_place(&drop) {
        return None;
    }
    let because = ahead.as_ref().map_or_else(
        || format!("its {size} bytes are more than the path's MTU"),
        |(device, mtu)| format!("its {size} bytes are more than the MTU of {device}, {mtu}"),
    );
    let mut draft = case.dropped_because(&drop, &because);
    if let Some((step, kind)) = answer(case) {
        draft = draft.proof(step, format!("the sender was told: {kind}"));
    }
    if let Some((device, mtu)) = &ahead {
        draft = draft.detail(format!("{device} {mtu}")).fix(format!(
            "give the pods the MTU of the path: {mtu} (the CNI's mtu setting), or raise it: ip link set {device} mtu {size}"
        ));
    } else {
        draft = draft.fix("give the pods the MTU of the path (the CNI's mtu setting)".to_owned());
    }
    let clamp = if v6 { "ip6tables" } else { "iptables" };
    Some(draft.fix(format!(
        "TCP alone: {clamp} -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
    )))
}

/// The kernel's reason, or the place where a packet that must not be cut is dropped for its size.
fn is_too_big(drop: &Drop<'_>) -> bool {
    &**drop.reason == "PKT_TOO_BIG"
        || (&**drop.reason == "NOT_SPECIFIED" && (drop.site == "ip_fragment" || by_place(drop)))
}

/// Where devices and bridges drop what does not fit the next one, and what finds it down too.
fn by_place(drop: &Drop<'_>) -> bool {
    drop.site.contains("dev_forward_skb") || drop.site == "br_dev_queue_push_xmit"
}

/// The device that is too small for it, and its MTU: the one routing chose, else the one it is on.
fn ahead(case: &Case<'_>, drop: &Drop<'_>) -> Option<(String, u32)> {
    let packet = &drop.sighting().packet;
    let on = || case.namespace(packet.netns)?.links.get(&packet.ifindex);
    if drop.site.contains("dev_forward_skb") {
        let link = on()?;
        let far = case.namespace(link.peer_netns.unwrap_or(packet.netns))?.links.get(&link.peer)?;
        return Some((far.name.clone(), far.mtu));
    }
    let here = || on().map(|link| (link.name.clone(), link.mtu));
    case.device_ahead(drop).map(|(_, name, mtu)| (name, mtu)).or_else(here)
}

/// The ICMP error that tells the sender: then its next packets fit.
fn answer(case: &Case<'_>) -> Option<(u64, &'static str)> {
    case.steps().find_map(|step| {
        let kind = match &step.sighting.packet.what {
            What::IcmpSent { icmp: (3, 4), .. } => "ICMP fragmentation needed",
            What::Hop { head, inner: Some(_), .. } if head.icmp == Some((3, 4)) => "ICMP fragmentation needed",
            What::Hop { head, inner: Some(_), .. } if head.icmp == Some((2, 0)) => "ICMPv6 packet too big",
            _ => return None,
        };
        Some((step.sighting.packet.mono_ns, kind))
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, hop, icmp_sent, in_pod, lookup, syn};
    use super::*;
    use crate::model::packet::{Head, LookupRole, Place};
    fn refused_send() -> What {
        What::SendError { flow: super::super::testing::flow(), err: libc::EMSGSIZE as u32, comm: "app".into() }
    }

    #[test]
    fn tells_the_datagram_that_was_never_sent() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(lookup(254, 0, 2, LookupRole::Output)), "");
        scene.step(2, in_pod(refused_send()), "");
        let draft = check(&scene.case()).expect("it is too long");
        assert!(draft.claim.contains("longer than eth0 takes (MTU 1500, unless a route"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_who_probes_the_paths_mtu() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(hop(Place::Transmit, syn())), "eth0");
        scene.step(2, in_pod(refused_send()), "");
        assert_eq!(check(&scene.case()), None);
    }

    fn large() -> Head {
        Head { ip_len: 1400, ..syn() }
    }

    #[test]
    fn names_the_device_ahead_and_its_mtu() {
        let mut scene = Scene::pod_to_db();
        scene.node().links.get_mut(&Scene::ETH1).expect("eth1").mtu = 1000;
        scene.step(1, lookup(2, 0, Scene::ETH1, LookupRole::Input), "");
        scene.step(2, icmp_sent(large(), 3, 4), "vpod1");
        scene.step(2, drop_of(large(), "PKT_TOO_BIG", "ip_forward", &[]), "vpod1");
        let draft = check(&scene.case()).expect("it is too big");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on vpod1: its 1400 bytes are more than the MTU of \
             eth1, 1000"
        );
        assert!(draft.evidence.iter().any(|e| e.text.contains("fragmentation needed")));
    }

    #[test]
    fn compares_with_the_other_end_where_the_packet_could_not_cross() {
        let mut scene = Scene::pod_to_db();
        scene.pod().links.get_mut(&2).expect("eth0").peer = Scene::VPOD1;
        scene.node().links.get_mut(&Scene::VPOD1).expect("vpod1").mtu = 1000;
        scene.step(1, in_pod(drop_of(large(), "NOT_SPECIFIED", "__dev_forward_skb2", &[])), "eth0");
        let draft = check(&scene.case()).expect("vpod1 is smaller");
        assert!(draft.claim.ends_with("its 1400 bytes are more than the MTU of vpod1, 1000"), "{}", draft.claim);
        scene.node().links.get_mut(&Scene::VPOD1).expect("vpod1").mtu = 1500;
        assert_eq!(check(&scene.case()), None, "it is not the size");
    }

    #[test]
    fn stays_silent_on_a_full_queue() {
        let mut scene = Scene::pod_to_db();
        scene.step(2, drop_of(large(), "QDISC_DROP", "__dev_queue_xmit", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
