//! What a DNS server answered is the trouble: no such name, a failure, an address that should not be.

use std::net::IpAddr;

use crate::{
    explain::{
        Case, Draft, Rule,
        dns::{self, Query},
    },
    model::{dns::Code, finding::Confidence, sighting::Side},
};

/// No such name.
pub(super) const NXDOMAIN: Rule = Rule {
    id: "dns-nxdomain",
    means: "the DNS server says that the name does not exist, also with the search list tried to its end",
    check: nxdomain,
};

/// The server failed.
pub(super) const SERVFAIL: Rule = Rule {
    id: "dns-servfail",
    means: "the DNS server could not or would not answer (SERVFAIL, REFUSED)",
    check: servfail,
};

/// An address that should not be.
pub(super) const UNEXPECTED: Rule = Rule {
    id: "dns-unexpected-answer",
    means: "DNS gave an address outside the networks that were said to be expected",
    check: unexpected,
};

/// How long an answer waits to be told, nanoseconds: the next name of the search list, or another server, follows at
/// once and may have what this one lacks.
const WAIT_NS: u64 = 400_000_000;
/// Searches named that took more than one query.
const NAMED: usize = 3;

fn nxdomain(case: &Case<'_>) -> Option<Draft> {
    let mine = dns::queries(case.journey);
    let bad = mine.iter().find(|q| q.code() == Some(Code::NxDomain) && q.is_for_address())?;
    let all = dns::of_client(case, bad.client);
    let search: Vec<&Query<'_>> = all.iter().filter(|q| q.is_for_address() && q.is_of_same_search(bad)).collect();
    let name = &*bad.question.name;
    // Of a search that found nothing the name itself is told, not the name with a suffix.
    let is_better = |q: &&&Query<'_>| {
        let other = &*q.question.name;
        q.code() == Some(Code::NoError)
            || (q.answer.is_none() && other != name && q.first_ns() >= bad.first_ns())
            || other.len() < name.len()
            || (other == name && &*q.question.kind == "A" && &*bad.question.kind == "AAAA")
    };
    if search.iter().any(|q| is_better(&q)) {
        return None;
    }
    let (answered_ns, _) = bad.answer?;
    let server = dns::server_name(case, bad.server);
    let mut names: Vec<&str> = search.iter().map(|q| &*q.question.name).collect();
    names.dedup();
    let tried = if names.len() > 1 {
        format!(", nor does any of {} names of the search list", names.len())
    } else {
        String::new()
    };
    let claim = format!("{} asked {server} for {name}, and the name does not exist (NXDOMAIN){tried}", case.who());
    let mut draft = about(case, bad, claim)
        .proof(answered_ns, format!("answer NXDOMAIN to {} {name}", bad.question.kind))
        .detail(name.to_owned());
    for (ns, text) in amplified(&all) {
        draft = draft.proof(ns, text);
    }
    let from_cluster = case.inventory.services.iter().any(|s| s.cluster_ips.contains(&bad.server.ip()));
    if name.contains(".svc") && !from_cluster && !case.inventory.services.is_empty() {
        draft = draft.fix(format!(
            "{server} is no server of the cluster: set dnsPolicy: ClusterFirst, see /etc/resolv.conf in the pod"
        ));
    }
    draft.ready_ns = answered_ns + WAIT_NS;
    Some(draft.fix(format!("correct the name {name}, or create it: dig @{} {name}", bad.server.ip())).fix(
        "names outside the cluster cost a query for each entry of the search list: end them with a dot, or lower ndots",
    ))
}

/// Names that were found, but only after others that do not exist: when, and in words.
fn amplified(all: &[Query<'_>]) -> Vec<(u64, String)> {
    let mut told: Vec<(u64, String)> = Vec::new();
    for found in all.iter().filter(|q| q.code() == Some(Code::NoError) && q.is_for_address()) {
        let same_kind = |q: &&Query<'_>| q.question.kind == found.question.kind && q.is_of_same_search(found);
        let misses = all
            .iter()
            .filter(same_kind)
            .filter(|q| q.code() == Some(Code::NxDomain) && q.first_ns() < found.first_ns());
        let misses = misses.count();
        if misses > 1 && told.len() < NAMED {
            let text =
                format!("{} took {} queries because of the search list (ndots)", found.question.name, misses + 1);
            told.push((found.first_ns(), text));
        }
    }
    told
}

fn servfail(case: &Case<'_>) -> Option<Draft> {
    let mine = dns::queries(case.journey);
    let failed =
        |q: &&Query<'_>| matches!(q.code(), Some(Code::ServFail | Code::Refused | Code::NotImp | Code::FormErr));
    let bad = mine.iter().find(failed)?;
    let (answered_ns, answer) = bad.answer?;
    let cured = |q: &Query<'_>| {
        q.question.name == bad.question.name
            && q.question.kind == bad.question.kind
            && matches!(q.code(), Some(Code::NoError | Code::NxDomain))
            && q.is_of_same_search(bad)
    };
    if dns::of_client(case, bad.client).iter().any(cured) {
        return None;
    }
    let server = dns::server_name(case, bad.server);
    let why = match answer.code {
        Code::Refused => "it refuses to answer this client",
        Code::ServFail => "it could not find out",
        _ => "it does not do such queries",
    };
    let claim = format!("{} asked {server} for {}, and got {}: {why}", case.who(), bad.question.name, answer.code);
    let mut draft = about(case, bad, claim)
        .proof(answered_ns, format!("answer {} to {} {}", answer.code, bad.question.kind, bad.question.name))
        .detail(format!("{} {}", bad.server, answer.code));
    draft.ready_ns = answered_ns + WAIT_NS;
    draft.count = mine.iter().filter(failed).count() as u64;
    Some(
        draft
            .fix(format!(
                "see the log of {server}: its upstream servers (forward . ...), a loop, DNSSEC, an access list"
            ))
            .fix(format!("in the pod: dig @{} {} {}", bad.server.ip(), bad.question.name, bad.question.kind)),
    )
}

fn unexpected(case: &Case<'_>) -> Option<Draft> {
    let (networks, origin) = case.expect.networks(case.journey.pod.as_deref())?;
    let mine = dns::queries(case.journey);
    let strange = |ip: &&IpAddr| {
        let of_family = networks.iter().any(|net| net.addr().is_ipv6() == ip.is_ipv6());
        of_family && !networks.iter().any(|net| net.contains(*ip)) && !is_of_cluster(case, **ip)
    };
    let (query, ns, ip) = mine.iter().find_map(|q| {
        let (ns, answer) = q.answer?;
        answer.addresses.iter().find(strange).map(|ip| (q, ns, *ip))
    })?;
    let expected: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let (name, server) = (&query.question.name, dns::server_name(case, query.server));
    let talks = case.journeys.iter().find(|j| j.flow.src.ip() == query.client && j.flow.dst.ip() == ip);
    let claim = format!(
        "{server} gave {} the address {ip} for {name}, outside {} as expected ({origin})",
        case.who(),
        expected.join(", ")
    );
    let mut draft = about(case, query, claim)
        .detail(format!("{name} {ip}"))
        .proof(ns, format!("answer {ip} to {} {name}", query.question.kind));
    if let Some(journey) = talks {
        draft = draft.proof(journey.first_ns, format!("it then sent packets to {}", journey.flow.destination()));
    }
    Some(draft.fix(format!("correct the record of {name} at the server that {server} asks, or the expectation")))
}

/// A service's or a pod's address: what the cluster's own names lead to.
fn is_of_cluster(case: &Case<'_>, ip: IpAddr) -> bool {
    case.inventory.services.iter().any(|s| s.cluster_ips.contains(&ip))
        || case.inventory.pods.iter().any(|p| p.ips.contains(&ip))
}

fn about(case: &Case<'_>, query: &Query<'_>, claim: String) -> Draft {
    let tries = query.asked_ns.len();
    let text =
        format!("query {} {}{}", query.question.kind, query.question.name, if tries > 1 { ", repeated" } else { "" });
    Draft::new(case, Side::Pod, None, claim).confidence(Confidence::Stated).proof(query.first_ns(), text)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, asks, in_pod, says},
        *,
    };

    fn answered(name: &str, code: Code, addresses: &[&str]) -> Scene {
        let mut scene = Scene::pod_to_dns();
        scene.step(1, in_pod(asks(name)), "eth0");
        scene.back(2, in_pod(says(name, code, addresses)), "eth0");
        scene
    }

    #[test]
    fn tells_a_name_that_does_not_exist() {
        let draft = nxdomain(&answered("exmaple.com", Code::NxDomain, &[]).case()).expect("there is none");
        assert_eq!(draft.claim, "shop/web-0 asked 10.20.0.4 for exmaple.com, and the name does not exist (NXDOMAIN)");
    }

    #[test]
    fn a_search_that_finds_the_name_is_no_fault() {
        let mut scene = answered("api.com.svc.cluster.local", Code::NxDomain, &[]);
        scene.step(3, in_pod(asks("api.com")), "eth0");
        scene.back(4, in_pod(says("api.com", Code::NoError, &["192.0.2.1"])), "eth0");
        assert_eq!(nxdomain(&scene.case()), None);
    }

    #[test]
    fn tells_a_server_that_fails_and_not_one_that_recovers() {
        let mut scene = answered("api.com", Code::ServFail, &[]);
        let draft = servfail(&scene.case()).expect("it failed");
        assert_eq!(draft.claim, "shop/web-0 asked 10.20.0.4 for api.com, and got SERVFAIL: it could not find out");
        scene.step(3, in_pod(asks("api.com")), "eth0");
        scene.back(4, in_pod(says("api.com", Code::NoError, &["192.0.2.1"])), "eth0");
        assert_eq!(servfail(&scene.case()), None);
    }

    #[test]
    fn tells_an_address_outside_the_expected_networks() {
        let mut scene = answered("oss.example.com", Code::NoError, &["100.64.249.132"]);
        assert_eq!(unexpected(&scene.case()), None, "nothing is expected");
        scene.expect.all.networks = vec!["10.219.226.0/24".parse().expect("a network")];
        let draft = unexpected(&scene.case()).expect("it is another");
        assert!(draft.claim.contains("the address 100.64.249.132 for oss.example.com, outside 10.219.226.0/24"));
        scene.expect.all.networks = vec!["100.64.0.0/10".parse().expect("a network")];
        assert_eq!(unexpected(&scene.case()), None);
    }
}
