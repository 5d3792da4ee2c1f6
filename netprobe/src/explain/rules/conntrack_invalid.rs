//! Segments of an open connection that conntrack does not take for its own: a rule drops what is INVALID.
//! Either the entry has expired while the connection was idle, or the segments are outside its window.

use super::netfilter::{verdict, words};
use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{
        finding::Confidence,
        flow::Proto,
        packet::{Conntrack, What},
        sighting::Side,
    },
};

/// The entry's time was over.
pub(super) const EXPIRED: Rule = Rule {
    id: "conntrack-expired",
    means: "the connection is older than its conntrack entry: it is dropped, or translated anew and reset",
    check: |case| dropped(case, true).or_else(|| translated_anew(case)),
};

/// The entry is there.
pub(super) const INVALID: Rule = Rule {
    id: "conntrack-invalid",
    means: "the segments are outside the window that conntrack tracks, and a rule drops what is invalid",
    check: |case| dropped(case, false),
};

/// Default of `nf_conntrack_tcp_timeout_established`, seconds (`net/netfilter/nf_conntrack_proto_tcp.c`: five days).
const ESTABLISHED_S: i64 = 432_000;

/// Hooks that come after conntrack's own: a packet without an entry is invalid there, or not tracked.
const BEHIND_CONNTRACK: [&str; 4] = ["forward", "input", "output", "postrouting"];

fn dropped(case: &Case<'_>, expired: bool) -> Option<Draft> {
    let drop = case.drops().find(is_invalid)?;
    let netfilter = verdict(drop.site, drop.stack, drop.head.flow?.is_v6())?;
    if !BEHIND_CONNTRACK.contains(&netfilter.hook.as_str()) {
        return None;
    }
    let netns = drop.sighting().packet.netns;
    let counted = case.counters(netns, drop.mono_ns()).map_or(0, |window| window.rise("conntrack.invalid"));
    let known = last_tracked(case, &drop);
    // Without either it may be a rule like any other, on traffic that is not tracked.
    if counted == 0 && known.is_none() {
        return None;
    }
    let timeout_s = timeout_s(case, netns);
    let idle_ns = known.map(|at_ns| first_of(case, &drop).saturating_sub(at_ns));
    let timeout_ns = u64::try_from(timeout_s).unwrap_or(0).saturating_mul(1_000_000_000);
    if idle_ns.is_some_and(|idle| idle >= timeout_ns) != expired {
        return None;
    }
    let because = match idle_ns {
        Some(idle) if expired => format!(
            "conntrack no longer knows the connection: it was idle for {:.1} s, longer than \
             nf_conntrack_tcp_timeout_established ({timeout_s} s), so that the segment is INVALID and a rule of hook {} drops it",
            seconds(idle),
            netfilter.hook
        ),
        _ => format!(
            "conntrack takes the segment for INVALID (sequence numbers outside its window, or a connection it never saw), and a \
             rule of hook {} drops it",
            netfilter.hook
        ),
    };
    let mut draft = case.dropped_because(&drop, &because).detail(if expired { "expired" } else { "invalid" });
    draft = draft.confidence(if counted > 0 || expired { Confidence::Stated } else { Confidence::Likely });
    draft = draft.proof(drop.mono_ns(), "the segment of an open connection has no conntrack entry");
    draft = draft.proof(drop.mono_ns(), format!("call stack: {}", words(&netfilter)));
    if counted > 0 {
        draft = draft.proof(drop.mono_ns(), format!("conntrack counter invalid rose by {counted}"));
    }
    draft.netfilter = Some(netfilter);
    Some(if expired { keep_alive(draft, timeout_s) } else { liberal(draft) })
}

fn keep_alive(draft: Draft, timeout_s: i64) -> Draft {
    draft
        .fix(format!(
            "send keepalives sooner: TCP_KEEPIDLE or net.ipv4.tcp_keepalive_time below {timeout_s} s, in the pod"
        ))
        .fix("raise net.netfilter.nf_conntrack_tcp_timeout_established on the node")
}

fn liberal(draft: Draft) -> Draft {
    draft
        .fix("where the path is asymmetric or offloads cut segments: sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1")
        .fix("see what conntrack says of them: sysctl -w net.netfilter.nf_conntrack_log_invalid=6; dmesg")
}

/// A segment that opens nothing and has no entry.
fn is_invalid(drop: &Drop<'_>) -> bool {
    let flags = drop.head.flags;
    &**drop.reason == "NETFILTER_DROP"
        && drop.ct.is_none()
        && drop.head.flow.is_some_and(|flow| flow.proto == Proto::Tcp)
        && !flags.opens()
        && (flags.ack() || flags.rst() || flags.fin())
}

/// When the dropped segment was sent first.
fn first_of(case: &Case<'_>, drop: &Drop<'_>) -> u64 {
    let same = |d: &Drop<'_>| d.head.seq == drop.head.seq && is_invalid(d);
    case.drops().find(same).map_or(drop.mono_ns(), |first| first.mono_ns())
}

/// When a packet of the connection was last seen with an entry, in the namespace that dropped it.
fn last_tracked(case: &Case<'_>, drop: &Drop<'_>) -> Option<u64> {
    let until_ns = first_of(case, drop);
    let there = |s: &&crate::model::journey::Step| {
        s.sighting.packet.netns == drop.sighting().packet.netns && s.sighting.packet.mono_ns < until_ns
    };
    let tracked = |what: &What| matches!(what, What::Hop { ct: Some(_), .. } | What::Dropped { ct: Some(_), .. });
    case.steps().filter(there).filter(|s| tracked(&s.sighting.packet.what)).map(|s| s.sighting.packet.mono_ns).max()
}

fn timeout_s(case: &Case<'_>, netns: u32) -> i64 {
    let name = "net.netfilter.nf_conntrack_tcp_timeout_established";
    case.namespace(netns).and_then(|facts| facts.sysctl(name)).unwrap_or(ESTABLISHED_S)
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

/// A segment in the middle of the connection got another translation than those before it, and was reset.
fn translated_anew(case: &Case<'_>) -> Option<Draft> {
    if case.journey.flow.proto != Proto::Tcp {
        return None;
    }
    let mut before: Option<(u64, &Conntrack)> = None;
    let (idle_ns, old, new, step) = case.steps().filter(|s| s.forward).find_map(|step| {
        let What::Hop { head, ct: Some(ct), .. } = &step.sighting.packet.what else { return None };
        let at_ns = step.sighting.packet.mono_ns;
        let (last_ns, old) = before.replace((at_ns, ct))?;
        let anew = old.original == ct.original && old.reply != ct.reply && !head.flags.opens();
        anew.then_some((at_ns.saturating_sub(last_ns), old, ct, step))
    })?;
    let at_ns = step.sighting.packet.mono_ns;
    let reset = case.hops().find(|(s, _, head)| head.flags.rst() && s.sighting.packet.mono_ns > at_ns)?.0;
    let (was, now) = if old.reply.src == new.reply.src {
        (old.reply.destination(), new.reply.destination())
    } else {
        (old.reply.source(), new.reply.source())
    };
    let timeout_s = timeout_s(case, step.sighting.packet.netns);
    let claim = format!(
        "the node lost the conntrack entry of {}'s connection to {} after {:.1} s of silence and translated it anew ({was} \
         before, {now} now): the other end does not know it so and resets it",
        case.who(),
        case.whither(),
        seconds(idle_ns)
    );
    let device = step.sighting.device.to_string();
    let draft = Draft::new(case, Side::Node, (!device.is_empty()).then_some(device), claim)
        .detail("translated anew")
        .confidence(Confidence::Likely)
        .proof(at_ns, format!("conntrack translates to {now}, it was {was} {:.1} s before", seconds(idle_ns)))
        .proof(reset.sighting.packet.mono_ns, "then came RST");
    Some(keep_alive(draft, timeout_s))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, hop, new_entry, syn, syn_ack, tracked};
    use super::*;
    use crate::model::packet::{Head, Place, TcpFlags};

    const STACK: [&str; 4] = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward", "ip_rcv"];

    fn data() -> Head {
        Head { flags: TcpFlags(0x18), ..syn() }
    }

    fn scene(idle_ms: u64, invalid: u64) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.netfilter.nf_conntrack_tcp_timeout_established".to_owned(), "2".to_owned());
        scene.counted(0, &[]);
        scene.step(1, tracked(hop(Place::Transmit, syn()), new_entry(flow())), "eth1");
        scene.back(2, tracked(hop(Place::Receive, syn_ack()), new_entry(flow())), "eth1");
        scene.step(2 + idle_ms, drop_of(data(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        scene.counted(3 + idle_ms, &[("conntrack.invalid", invalid)]);
        scene
    }

    #[test]
    fn tells_the_connection_that_was_idle_for_too_long() {
        let scene = scene(4_000, 0);
        let draft = (EXPIRED.check)(&scene.case()).expect("it expired");
        assert!(draft.claim.contains("it was idle for 4.0 s, longer than"), "{}", draft.claim);
        assert_eq!((INVALID.check)(&scene.case()), None);
    }

    #[test]
    fn tells_segments_outside_the_window() {
        let scene = scene(100, 2);
        let draft = (INVALID.check)(&scene.case()).expect("conntrack says invalid");
        assert_eq!(draft.confidence, Confidence::Stated);
        assert_eq!((EXPIRED.check)(&scene.case()), None);
    }

    #[test]
    fn stays_silent_on_a_rule_before_conntrack() {
        let mut scene = Scene::pod_to_db();
        let stack = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_rcv"];
        scene.step(1, drop_of(data(), "NETFILTER_DROP", "nft_do_chain", &stack), "vpod1");
        assert_eq!((INVALID.check)(&scene.case()), None);
        assert_eq!((EXPIRED.check)(&scene.case()), None);
    }
}
