//! A packet whose source or destination cannot be.

use std::net::IpAddr;

use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule = Rule {
    id: "martian",
    means: "the packet's source or destination cannot be: loopback or multicast on the wire, or our own address from outside",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let (drop, why, fix) = case.drops().find_map(|drop| impossible(case, &drop).map(|(why, fix)| (drop, why, fix)))?;
    let flow = drop.head.flow?;
    let device = drop.device().unwrap_or_else(|| "?".to_owned());
    let claim = format!("{} dropped the packet {flow} that came in by {device}: {why}", case.place(drop.sighting()));
    let draft = case.about_drop(&drop, claim).detail(drop.reason.to_string());
    Some(
        draft
            .fix(fix.replace("{DEV}", &device))
            .fix(format!("find who sends it by its link-layer address: tcpdump -eni {device} host {}", flow.src.ip())),
    )
}

/// What cannot be about it, and what helps.
fn impossible(case: &Case<'_>, drop: &Drop<'_>) -> Option<(String, String)> {
    let flow = drop.head.flow?;
    let (src, dst) = (flow.src.ip(), flow.dst.ip());
    match &**drop.reason {
        "IP_LOCALNET" => {
            let end = if dst.is_loopback() { "destination" } else { "source" };
            let ip = if dst.is_loopback() { dst } else { src };
            Some((
                format!(
                    "its {end} {ip} is a loopback address, which is never accepted from a device (route_localnet=0)"
                ),
                "do not translate to 127.0.0.1 across devices; or: sysctl -w net.ipv4.conf.{DEV}.route_localnet=1"
                    .to_owned(),
            ))
        }
        "IP_INVALID_SOURCE" | "IP_INVALID_DEST" => {
            let (end, ip) = if &**drop.reason == "IP_INVALID_SOURCE" { ("source", src) } else { ("destination", dst) };
            Some((format!("its {end} {ip} is {} and cannot be one", kind(ip)), sender()))
        }
        "IP_LOCAL_SOURCE" if !is_hairpin(case, drop) => {
            let owner = case.place(drop.sighting());
            Some((
                format!(
                    "its source {src} is an address of {owner} itself, so somebody else uses it or sends our packets back"
                ),
                format!("take {src} off the host that uses it, or stop what reflects packets"),
            ))
        }
        // IPv6 has no reason of its own for it.
        "IP_INHDR" | "NOT_SPECIFIED" if matches!(drop.site, "ip6_rcv_core" | "ipv6_rcv") => {
            let (end, ip) = if is_no_address(src) || src.is_multicast() {
                ("source", src)
            } else if is_no_address(dst) {
                ("destination", dst)
            } else {
                return None;
            };
            Some((format!("its {end} {ip} is {} and cannot be one", kind(ip)), sender()))
        }
        _ => None,
    }
}

fn sender() -> String {
    "correct the sender: no host may use that address on {DEV}".to_owned()
}

/// A pod that reached itself through its service gets its own address as source: not a martian
/// from outside, and a rule of its own.
fn is_hairpin(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    let translated = |flow: &crate::model::flow::Flow| flow.dst.ip() != case.journey.flow.dst.ip();
    drop.head.flow.is_some_and(|flow| flow.src.ip() == flow.dst.ip() && translated(&flow))
}

const fn is_no_address(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some(),
    }
}

const fn kind(ip: IpAddr) -> &'static str {
    if ip.is_loopback() {
        "a loopback address"
    } else if ip.is_multicast() {
        "a multicast address"
    } else if ip.is_unspecified() {
        "the unspecified address"
    } else {
        "a reserved address"
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, syn};
    use super::*;

    fn from(source: &str, reason: &str) -> Option<String> {
        let mut scene = Scene::pod_to_db();
        let mut head = syn();
        head.flow = Some(crate::model::flow::Flow { src: source.parse().expect("an address"), ..flow() });
        scene.step(1, drop_of(head, reason, "ip_rcv_finish_core", &[]), "eth0");
        check(&scene.case()).map(|draft| draft.claim)
    }

    #[test]
    fn says_what_is_wrong_with_the_address() {
        assert_eq!(
            from("127.0.0.5:40000", "IP_LOCALNET").expect("a loopback source"),
            "the node dropped the packet 127.0.0.5:40000 -> 10.20.0.4:3306 tcp that came in by eth0: its source 127.0.0.5 \
             is a loopback address, which is never accepted from a device (route_localnet=0)"
        );
        let claim = from("224.0.0.9:40000", "IP_INVALID_SOURCE").expect("a multicast source");
        assert!(claim.ends_with("its source 224.0.0.9 is a multicast address and cannot be one"), "{claim}");
    }

    #[test]
    fn stays_silent_on_the_reverse_path_filter_and_on_a_hairpin() {
        assert_eq!(from("10.1.1.1:40000", "IP_RPFILTER"), None);
        let mut scene = Scene::pod_to_db();
        let mut head = syn();
        let hairpin = crate::model::flow::Flow { dst: "10.9.0.29:8080".parse().expect("an address"), ..flow() };
        head.flow = Some(hairpin);
        scene.step(1, drop_of(head, "IP_LOCAL_SOURCE", "ip_rcv_finish_core", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
