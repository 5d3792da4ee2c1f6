//! The node does not forward: the setting of the whole namespace or of the device is 0.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::facts::NamespaceFacts,
};

pub(super) const RULE: Rule =
    Rule { id: "forwarding-off", means: "forwarding is switched off where the packet had to be forwarded", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_refused_forward)?;
    let facts = case.namespace(drop.sighting().packet.netns)?;
    let v6 = drop.head.flow?.is_v6();
    let device = drop.device().unwrap_or_default();
    let setting = setting_that_is_off(facts, v6, &device)?;
    let place = case.place(drop.sighting());
    let claim = format!(
        "{place} dropped the packet of {} to {} that came in by {device}: forwarding is off ({setting}=0)",
        case.who(),
        case.whither()
    );
    Some(
        case.about_drop(&drop, claim)
            .proof(drop.mono_ns(), format!("{setting} is 0"))
            .fix(format!("sysctl -w {setting}=1"))
            .fix(format!("make it permanent in /etc/sysctl.d; find what set it to 0 (grep -r {setting} /etc/sysctl*)"))
            .detail(setting),
    )
}

/// The kernel drops a packet that it may not forward with IP_INADDRERRORS, at its one place.
fn is_refused_forward(drop: &Drop<'_>) -> bool {
    let at = matches!(drop.site, "ip_error" | "ip6_forward" | "ip_forward");
    at && matches!(&**drop.reason, "IP_INADDRERRORS" | "NOT_SPECIFIED")
}

/// The setting that forbids forwarding what came in by `device`. For IPv4 the device's decides
/// (`ip_forward` only writes it to all of them); for IPv6 both do.
fn setting_that_is_off(facts: &NamespaceFacts, v6: bool, device: &str) -> Option<String> {
    let candidates = if v6 {
        vec!["net.ipv6.conf.all.forwarding".to_owned(), format!("net.ipv6.conf.{device}.forwarding")]
    } else {
        vec!["net.ipv4.ip_forward".to_owned(), format!("net.ipv4.conf.{device}.forwarding")]
    };
    candidates.into_iter().find(|name| facts.sysctl(name) == Some(0))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    fn scene(setting: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv4.ip_forward".to_owned(), setting.to_owned());
        scene.step(1, drop_of(syn(), "IP_INADDRERRORS", "ip_error", &["ip_rcv_finish"]), "vpod1");
        scene
    }

    #[test]
    fn names_the_setting_and_the_device() {
        let scene = scene("0");
        let draft = check(&scene.case()).expect("forwarding is off");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 that came in by vpod1: \
             forwarding is off (net.ipv4.ip_forward=0)"
        );
        assert_eq!(draft.fix[0], "sysctl -w net.ipv4.ip_forward=1");
    }

    #[test]
    fn stays_silent_when_forwarding_is_on() {
        assert_eq!(check(&scene("1").case()), None);
    }

    #[test]
    fn stays_silent_on_a_missing_route() {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv4.ip_forward".to_owned(), "0".to_owned());
        scene.step(1, drop_of(syn(), "IP_INNOROUTES", "ip_error", &[]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
