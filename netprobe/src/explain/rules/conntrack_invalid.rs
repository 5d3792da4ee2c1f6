//! A segment that conntrack cannot place met a rule that drops what is INVALID: its entry has expired, or the segment
//! lies outside the window that conntrack tracks.

use super::{
    netfilter::{Met, met},
    translated_anew,
};
use crate::{
    explain::{Case, Draft, Rule, nf::Misfit, tcp::duration},
    model::{finding::Confidence, flow::Proto, packet::What},
};

/// The connection outlived its entry.
pub(super) const EXPIRED: Rule = Rule {
    id: "conntrack-expired",
    means: "the connection is older than its conntrack entry: it is dropped, or translated anew and reset",
    check: |case| check(case, true).or_else(|| translated_anew::check(case)),
};

/// The segment does not fit.
pub(super) const INVALID: Rule = Rule {
    id: "conntrack-invalid",
    means: "a segment lies outside the window that conntrack tracks",
    check: |case| check(case, false),
};

const LIBERAL: &str =
    "net.netfilter.nf_conntrack_tcp_be_liberal=1 where the path is asymmetric or offloads change segments";
/// The kernel's default of `nf_conntrack_tcp_timeout_established`, seconds: five days.
const ESTABLISHED_S: i64 = 432_000;
const NS_PER_S: u64 = 1_000_000_000;

fn check(case: &Case<'_>, expired: bool) -> Option<Draft> {
    let met = met(case)?;
    let (head, drop) = (met.drop.head, &met.drop);
    // A tunnel's packet is no segment, whatever it carries.
    let is_segment = head.flow.is_some_and(|flow| flow.proto == Proto::Tcp);
    if !is_segment || drop.ct.is_some() || head.flags.opens() || !is_meant(&met) {
        return None;
    }
    let held = met.told.as_ref().and_then(|told| told.invalid);
    let misfit = held.and_then(|held| Misfit::of(held, head));
    let timeout_s = case
        .namespace(drop.sighting().packet.netns)
        .and_then(|facts| facts.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established"))
        .unwrap_or(ESTABLISHED_S);
    let silent_ns = silence(case, drop.mono_ns(), drop.sighting().packet.netns);
    // An entry that is still there has not expired.
    let gone = held.is_none_or(|held| !held.entry);
    let outlived =
        gone && silent_ns.is_some_and(|ns| ns >= u64::try_from(timeout_s).unwrap_or(0).saturating_mul(NS_PER_S));
    if outlived != expired {
        return None;
    }
    let draft = if expired {
        let silence = duration(silent_ns.unwrap_or(0));
        let why = format!(
            "the connection was idle for {silence}, longer than nf_conntrack_tcp_timeout_established ({timeout_s} s), so \
             conntrack forgot it and its segments are INVALID"
        );
        told(case, &met, &why)
            .fix("keep the connection alive: SO_KEEPALIVE with tcp_keepalive_time below the timeout (300 s)")
            .fix("or raise net.netfilter.nf_conntrack_tcp_timeout_established")
    } else if let Some(misfit) = misfit {
        told(case, &met, &format!("conntrack calls the segment INVALID: {misfit}")).fix(remedy(misfit)).fix(LIBERAL)
    } else {
        let why = "conntrack has no place for this segment (INVALID: outside its window, or of no connection it knows)";
        told(case, &met, why)
            .fix("sysctl -w net.netfilter.nf_conntrack_log_invalid=255  # the kernel log says why a segment is invalid")
            .fix(LIBERAL)
    };
    let proof = held.zip(misfit).map_or_else(
        || format!("the segment ({}, seq {}) has no conntrack entry", head.flags, head.seq),
        |(held, misfit)| {
            let state = Some(held.state).filter(|state| !state.is_empty()).unwrap_or("none");
            format!("nf_conntrack_tcp_packet: INVALID, entry {state}: {misfit}")
        },
    );
    let is_sure = misfit.is_some_and(Misfit::is_sure);
    let confidence = if is_sure { Confidence::Stated } else { Confidence::Likely };
    Some(draft.proof(drop.mono_ns(), proof).confidence(confidence).detail(met.netfilter.hook.clone()))
}

/// The segment was dropped, and why.
fn told(case: &Case<'_>, met: &Met<'_>, why: &str) -> Draft {
    met.draft(case, format!("{} {}: {why}", met.what(case), met.by()))
}

/// What to do about it.
const fn remedy(misfit: Misfit) -> &'static str {
    match misfit {
        Misfit::NoEntry => {
            "have both ends open the connection anew; net.netfilter.nf_conntrack_tcp_loose=1 takes in connections that are under way"
        }
        Misfit::Ahead { .. } => {
            "check that both directions pass this node (ip route get, both ways); if so, an offload or a stray sender made it"
        }
        Misfit::OneWay | Misfit::Unseen(_) => {
            "let both directions of the connection pass this node: conntrack misses what goes another way (ip route get, both ways)"
        }
        Misfit::Behind(_) | Misfit::Old(_) => {
            "a late or repeated segment: harmless alone; where the peer then resets, drop INVALID before it is forwarded untranslated"
        }
        Misfit::Other => {
            "sysctl -w net.netfilter.nf_conntrack_log_invalid=255  # the kernel log says why a segment is invalid"
        }
    }
}

/// The rule asks for what is invalid; without the rules a segment without an entry says it, where conntrack has seen it.
fn is_meant(met: &Met<'_>) -> bool {
    if !matches!(met.netfilter.hook.as_str(), "input" | "forward" | "output" | "postrouting") {
        return false;
    }
    let text = |rule: &str| {
        let rule = rule.to_ascii_lowercase();
        (rule.contains("state") && rule.contains("invalid")) && !rule.contains("! --ctstate")
    };
    match (met.guilty(), &met.suspects) {
        (Some(guilty), _) => guilty.suspect.rule.is_some_and(|rule| text(&rule.text)),
        (None, Some(all)) => all.0.iter().any(|one| one.suspect.rule.is_some_and(|rule| text(&rule.text))),
        (None, None) => true,
    }
}

/// For how long conntrack there had seen nothing of the connection before.
fn silence(case: &Case<'_>, until_ns: u64, netns: u32) -> Option<u64> {
    let tracked = |what: &What| matches!(what, What::Hop { ct: Some(_), .. });
    let here = case.steps().filter(|s| s.sighting.packet.netns == netns && s.sighting.packet.mono_ns < until_ns);
    let last = here.filter(|s| tracked(&s.sighting.packet.what)).map(|s| s.sighting.packet.mono_ns).max()?;
    Some(until_ns - last)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, hop, new_entry, syn, tracked, verdict};
    use super::*;
    use crate::model::{
        invalid::{Invalid, Side},
        packet::{Head, Judge, Place, TcpFlags},
    };

    const STACK: [&str; 4] = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward", "ip_rcv"];

    fn data() -> Head {
        Head { flags: TcpFlags(24), ..syn() }
    }

    fn scene(idle_ms: u64) -> Scene {
        let mut scene = Scene::pod_to_db();
        let name = "net.netfilter.nf_conntrack_tcp_timeout_established".to_owned();
        scene.node().sysctls.insert(name, "2".to_owned());
        scene.step(1, tracked(hop(Place::Transmit, syn()), new_entry(flow())), "eth1");
        scene.step(1 + idle_ms, drop_of(data(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        scene
    }

    #[test]
    fn tells_an_idle_connection_from_a_stray_segment() {
        let idle = scene(4_000);
        let draft = check(&idle.case(), true).expect("it was idle for longer");
        assert!(
            draft.claim.contains("was idle for 4.0 s, longer than nf_conntrack_tcp_timeout_established (2 s)"),
            "{}",
            draft.claim
        );
        assert_eq!(check(&idle.case(), false), None);
        let stray = scene(100);
        assert_eq!(check(&stray.case(), true), None);
        assert!(check(&stray.case(), false).expect("it is invalid").claim.contains("INVALID"));
    }

    #[test]
    fn says_what_conntrack_held_against_the_segment() {
        let mut scene = scene(4_000);
        let side = |end| Side { end, max_end: end.wrapping_add(64_000), max_window: 64_000 };
        let sides = [side(data().seq), side(data().ack.wrapping_sub(1_448))];
        let held = Invalid { entry: true, state: "ESTABLISHED", reply: false, sides };
        let mut told = verdict(Judge::Unknown);
        if let What::Verdict { invalid, .. } = &mut told {
            *invalid = Some(held);
        }
        scene.step(4_001, told, "vpod1");
        assert_eq!(check(&scene.case(), true), None, "an entry that is there has not expired");
        let draft = check(&scene.case(), false).expect("it is invalid");
        let why = "it acknowledges 1448 bytes that conntrack did not see the other side send";
        assert!(draft.claim.ends_with(&format!("conntrack calls the segment INVALID: {why}")), "{}", draft.claim);
        assert_eq!(draft.confidence, Confidence::Stated);
    }

    #[test]
    fn stays_silent_on_a_tunnels_packet_that_carries_a_segment() {
        let around = crate::model::flow::Flow { proto: Proto::Udp, ..flow() };
        let mut scene = Scene::pod_to_db();
        let head = Head { flow: Some(around), flags: TcpFlags(0), ..syn() };
        scene.step(1, drop_of(head, "NETFILTER_DROP", "nft_do_chain", &STACK), "eth1");
        assert_eq!(check(&scene.case(), false), None);
    }

    #[test]
    fn stays_silent_on_a_rule_that_asks_for_something_else() {
        let mut scene = scene(100);
        scene.iptables(200, "*filter\n:FORWARD ACCEPT [0:0]\n[3:180] -A FORWARD -s 10.9.0.29/32 -j DROP\nCOMMIT\n");
        assert_eq!(check(&scene.case(), false), None);
        let mut opening = Scene::pod_to_db();
        opening.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        assert_eq!(check(&opening.case(), false), None);
    }
}
