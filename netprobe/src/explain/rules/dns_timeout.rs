//! A DNS server did not answer.

use crate::{
    explain::{
        Case, Draft, Rule,
        dns::{self, Query},
        tcp::{duration, often},
    },
    model::finding::Confidence,
};

pub(super) const RULE: Rule =
    Rule { id: "dns-timeout", means: "a DNS server did not answer: which one, for which name, how often asked", check };

/// How long the last of several tries waits for its answer, nanoseconds.
const WAIT_NS: u64 = 1_000_000_000;
/// How long a single try waits, nanoseconds: resolvers ask again after 5 s, and a server may need 2 s to ask others.
const SINGLE_WAIT_NS: u64 = 3_000_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let queries = dns::queries(case.journey);
    let open: Vec<&Query<'_>> = queries.iter().filter(|q| q.answer.is_none() && !q.sampled).collect();
    let (first, last) = (open.first()?, open.iter().max_by_key(|q| q.last_ns())?);
    if case.drops().next().is_some() || case.steps().any(|s| is_error(&s.sighting.packet.what)) {
        return None;
    }
    let tries: usize = open.iter().map(|q| q.asked_ns.len()).sum();
    let server = dns::server_name(case, first.server);
    let (side, device, place) = dns::whereto(case);
    let translated = case.routed_flow().dst;
    let through = if translated == first.server { String::new() } else { format!(" (translated to {translated})") };
    let waited = duration(case.now_ns.min(last.last_ns() + WAIT_NS).saturating_sub(first.first_ns()));
    let times = often(tries);
    let claim = format!(
        "{} asked the DNS server {server}{through} for {} {times} and got no answer within {waited}: {place}",
        case.who(),
        first.question.name
    );
    let mut draft =
        Draft::new(case, side, device, claim).confidence(Confidence::Likely).detail(first.server.to_string());
    for query in open.iter().take(3) {
        for (asked_ns, n) in query.asked_ns.iter().zip(1..).take(3) {
            let text =
                format!("query {:#06x} {} {}, try {n}", query.question.id, query.question.kind, query.question.name);
            draft = draft.proof(*asked_ns, text);
        }
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
    draft.proven_ns = last.last_ns() + if tries > 1 { WAIT_NS } else { SINGLE_WAIT_NS };
    Some(
        draft
            .fix(format!("in the pod: dig @{} {} +tries=1  # does it answer at all?", first.server.ip(), first.question.name))
            .fix(format!("see whether {server} runs and listens on port 53, and the way to it; if it is CoreDNS, its upstream (forward . ...)")),
    )
}

/// Somebody said why there is no answer.
const fn is_error(what: &crate::model::packet::What) -> bool {
    matches!(what, crate::model::packet::What::Hop { inner: Some(_), .. } | crate::model::packet::What::IcmpSent { .. })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, asks, in_pod, says},
        *,
    };
    use crate::model::dns::Code;

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
    fn stays_silent_on_an_answer_of_any_kind() {
        let mut scene = Scene::pod_to_dns();
        scene.step(1, in_pod(asks("api.com")), "eth0");
        scene.back(2, in_pod(says("api.com", Code::ServFail, &[])), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
