//! A DNS server did not answer, or too late.

use crate::{
    explain::{
        Case, Draft, Rule,
        dns::{self, Query},
        tcp::{duration, often},
    },
    model::{finding::Confidence, packet::What},
};

pub(super) const RULE: Rule = Rule {
    id: "dns-timeout",
    means: "a DNS server did not answer, or too late: which one, for which name, how often asked",
    check,
};

/// How long the last of several tries waits for its answer, nanoseconds.
const WAIT_NS: u64 = 1_000_000_000;
/// How long a single try waits, nanoseconds: resolvers ask again after 5 s, and a server may need 2 s to ask others.
const SINGLE_WAIT_NS: u64 = 3_000_000_000;

/// An answer that comes later than this may be too late, nanoseconds: no resolver gives up earlier.
const LATE_NS: u64 = 400_000_000;
/// How far the end of an unwanted answer is from its arrival, nanoseconds.
const SAME_PACKET_NS: u64 = 50_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    if case.drops().next().is_some() || case.steps().any(|step| is_error(case, &step.sighting.packet.what)) {
        return None;
    }
    let queries = dns::queries(case.journey);
    late(case, &queries).or_else(|| unanswered(case, &queries))
}

fn unanswered(case: &Case<'_>, queries: &[Query<'_>]) -> Option<Draft> {
    let open: Vec<&Query<'_>> = queries.iter().filter(|q| q.answer.is_none() && !q.sampled).collect();
    let (first, last) = (open.first()?, open.iter().max_by_key(|q| q.last_ns())?);
    let tries: usize = open.iter().map(|q| q.asked_ns.len()).sum();
    let proven_ns = last.last_ns() + if tries > 1 { WAIT_NS } else { SINGLE_WAIT_NS };
    let (side, device, place) = dns::whereto(case, false);
    let waited = duration(case.now_ns.min(proven_ns).saturating_sub(first.first_ns()));
    let claim = format!("{} and got no answer within {waited}: {place}", asked(case, first, tries));
    let mut draft =
        Draft::new(case, side, device, claim).confidence(Confidence::Likely).detail(first.server.to_string());
    for query in open.iter().take(3) {
        draft = with_tries(draft, query);
    }
    let works = dns::of_client(case, first.client).iter().find_map(|q| {
        let (ns, _) = q.answer.filter(|(ns, _)| *ns + 10 * WAIT_NS > first.first_ns())?;
        (q.server != first.server).then_some((ns, q.server))
    });
    if let Some((ns, other)) = works {
        draft = draft.proof(ns, format!("{} does answer", dns::server_name(case, other)));
    }
    draft.count = tries as u64;
    draft.last_ns = last.last_ns();
    draft.proven_ns = proven_ns;
    let server = dns::server_name(case, first.server);
    Some(
        draft
            .fix(format!("in the pod: dig @{} {} +tries=1  # does it answer at all?", first.server.ip(), first.question.name))
            .fix(format!("see whether {server} runs and listens on port 53, and the way to it; if it is CoreDNS, its upstream (forward . ...)")),
    )
}

/// The answer came when the client had given up, or had asked again.
fn late(case: &Case<'_>, queries: &[Query<'_>]) -> Option<Draft> {
    let (query, (proof_ns, end, proof)) =
        queries.iter().filter(|q| !q.sampled).find_map(|q| Some((q, too_late(case, q)?)))?;
    let (answered_ns, answer) = query.answer?;
    let tries = query.asked_ns.iter().filter(|ns| **ns < answered_ns).count();
    let (side, device, place) = dns::whereto(case, true);
    let waited = duration(answered_ns.saturating_sub(query.first_ns()));
    let claim = format!("{}, and the answer came after {waited}, when {end}: {place}", asked(case, query, tries));
    let draft = with_tries(Draft::new(case, side, device, claim).detail(query.server.to_string()), query);
    let mut draft = draft
        .proof(answered_ns, format!("answer {} to {} {}", answer.code, query.question.kind, query.question.name))
        .proof(proof_ns, proof);
    draft.count = tries as u64;
    draft.last_ns = answered_ns;
    let server = dns::server_name(case, query.server);
    Some(
        draft
            .fix(format!(
                "see why {server} takes so long: its upstream servers (forward . ...), its load, its CPU limit (throttling)"
            ))
            .fix("until then a longer time-out helps the client: options timeout:N in the pod's resolv.conf (dnsConfig)"),
    )
}

/// What shows that the answer came too late: when, in words, and the proof.
fn too_late(case: &Case<'_>, query: &Query<'_>) -> Option<(u64, &'static str, &'static str)> {
    let (answered_ns, _) = query.answer?;
    let knew = |other: &Query<'_>| {
        let same = other.question.name == query.question.name && other.question.kind == query.question.kind;
        same && other.answer.is_some_and(|(ns, _)| ns < answered_ns)
    };
    // Who asks several servers at once takes the first answer, and waits for no other.
    if answered_ns.saturating_sub(query.first_ns()) < LATE_NS || dns::of_client(case, query.client).iter().any(knew) {
        return None;
    }
    if let Some(ns) = unwanted(case, answered_ns) {
        return Some((ns, "nobody waited for it any more", "no socket took it: the client had closed its port"));
    }
    // If each try was answered, the first was not lost: the answers are slow.
    let again_ns = *query.asked_ns.get(1).filter(|ns| **ns < answered_ns)?;
    let each = !query.again_ns.is_empty();
    each.then_some((again_ns, "the client had asked again already", "the client's time-out was over: it asked again"))
}

/// When the client turned an answer away that had come then: nothing listened on its port any more.
fn unwanted(case: &Case<'_>, answered_ns: u64) -> Option<u64> {
    let near = |ns: u64| ns.abs_diff(answered_ns) <= SAME_PACKET_NS;
    let dropped = case.all_drops().find(|d| !d.step.forward && &**d.reason == "NO_SOCKET" && near(d.mono_ns()));
    dropped.map(|d| d.mono_ns()).or_else(|| {
        case.steps().find_map(|step| match &step.sighting.packet.what {
            What::Hop { inner: Some(about), head, .. } if case.is_form(&about.reversed()) => {
                let ns = step.sighting.packet.mono_ns;
                (matches!(head.icmp, Some((3, 3) | (1, 4))) && near(ns)).then_some(ns)
            }
            _ => None,
        })
    })
}

/// `shop/web-0 asked the DNS server 10.96.0.10 (kube-system/kube-dns) for api.com 2 times`
fn asked(case: &Case<'_>, query: &Query<'_>, tries: usize) -> String {
    let server = dns::server_name(case, query.server);
    let translated = case.routed_flow().dst;
    let through = if translated == query.server { String::new() } else { format!(" (translated to {translated})") };
    format!("{} asked the DNS server {server}{through} for {} {}", case.who(), query.question.name, often(tries))
}

fn with_tries(mut draft: Draft, query: &Query<'_>) -> Draft {
    for (asked_ns, n) in query.asked_ns.iter().zip(1..).take(3) {
        let text = format!("query {:#06x} {} {}, try {n}", query.question.id, query.question.kind, query.question.name);
        draft = draft.proof(*asked_ns, text);
    }
    draft
}

/// Somebody said why there is no answer.
fn is_error(case: &Case<'_>, what: &What) -> bool {
    match what {
        What::Hop { inner: Some(about), .. } => !case.is_form(&about.reversed()),
        What::IcmpSent { head, .. } => head.flow.is_none_or(|about| !case.is_form(&about.reversed())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, asks, drop_of, in_pod, says, syn_ack},
        *,
    };
    use crate::model::{dns::Code, packet::Head};

    #[test]
    fn names_server_name_and_tries() {
        let mut scene = Scene::pod_to_dns();
        scene.step(1, in_pod(asks("api.com")), "eth0");
        scene.step(701, in_pod(asks("api.com")), "eth0");
        let draft = check(&scene.case()).expect("nobody answers");
        assert_eq!(
            draft.claim,
            "shop/web-0 asked the DNS server 10.20.0.4 for api.com 2 times and got no answer within 1.7 s: it was not seen to \
             leave this node"
        );
        assert_eq!(draft.proven_ns, 1_701_000_000);
    }

    #[test]
    fn stays_silent_where_an_answer_may_have_been_left_out() {
        let mut scene = Scene::pod_to_dns();
        scene.step(1, in_pod(asks("api.com")), "eth0");
        scene.journey.omitted = 1;
        assert_eq!(check(&scene.case()), None);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_any_more_is_told() {
        let mut scene = Scene::pod_to_dns();
        scene.step(1, in_pod(asks("api.com")), "eth0");
        scene.back(1_501, in_pod(says("api.com", Code::NoError, &["10.1.2.3"])), "eth0");
        assert_eq!(check(&scene.case()), None, "the client may have waited");
        let answer = Head { flow: Some(scene.journey.flow.reversed()), ..syn_ack() };
        scene.back(1_501, in_pod(drop_of(answer, "NO_SOCKET", "__udp4_lib_rcv", &[])), "eth0");
        let draft = check(&scene.case()).expect("it came too late");
        assert_eq!(
            draft.claim,
            "shop/web-0 asked the DNS server 10.20.0.4 for api.com once, and the answer came after 1.5 s, when nobody waited \
             for it any more: it was not seen to leave this node"
        );
        assert_eq!(draft.confidence, Confidence::Stated);
    }

    #[test]
    fn answers_to_each_try_that_come_after_the_next_are_late_and_one_is_not() {
        let mut scene = Scene::pod_to_dns();
        for ms in [1, 601] {
            scene.step(ms, in_pod(asks("api.com")), "eth0");
        }
        scene.back(801, in_pod(says("api.com", Code::NoError, &["10.1.2.3"])), "eth0");
        assert_eq!(check(&scene.case()), None, "the first try may have been lost");
        scene.back(1_401, in_pod(says("api.com", Code::NoError, &["10.1.2.3"])), "eth0");
        let draft = check(&scene.case()).expect("each was answered, and late");
        assert!(draft.claim.contains("came after 800 ms, when the client had asked again already"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_an_answer_of_any_kind() {
        let mut scene = Scene::pod_to_dns();
        scene.step(1, in_pod(asks("api.com")), "eth0");
        scene.back(2, in_pod(says("api.com", Code::ServFail, &[])), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
