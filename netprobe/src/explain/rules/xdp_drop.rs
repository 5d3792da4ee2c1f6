//! An XDP program dropped the packet before the stack saw it.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::devices::Xdp,
};

pub(super) const RULE: Rule =
    Rule { id: "xdp-drop", means: "an XDP program dropped the packet before the stack saw it", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let (drop, mode) = case.drops().find_map(|drop| mode(&drop).map(|mode| (drop, mode)))?;
    let device = drop.device()?;
    let packet = &drop.sighting().packet;
    let devices = case.devices(packet.netns, packet.mono_ns);
    let on_device = |x: &&Xdp| x.ifindex == packet.ifindex;
    let attached = devices.and_then(|d| d.xdp.iter().filter(on_device).max_by_key(|x| x.mode == mode));
    let who = attached.map_or_else(|| "an XDP program".to_owned(), |x| format!("the XDP {}", x.program));
    let mut draft = case.dropped_because(&drop, &format!("{who} of {device} ({mode} mode) refuses it")).detail(mode);
    if let Some(xdp) = attached {
        draft = draft.proof(drop.mono_ns(), format!("attached to {device}: XDP {} ({} mode)", xdp.program, xdp.mode));
    }
    Some(
        draft
            .fix(format!("see whose it is: bpftool net show dev {device}; ip -d link show {device}"))
            .fix(format!("take it off to see that it is the cause: ip link set dev {device} xdp off")),
    )
}

/// Only a few paths use the reason; the others are told by their place.
fn mode(drop: &Drop<'_>) -> Option<&'static str> {
    match (&**drop.reason, drop.site) {
        (_, "do_xdp_generic" | "netif_receive_generic_xdp" | "bpf_prog_run_generic_xdp" | "generic_xdp_tx") => {
            Some("generic")
        }
        (_, site) if site.contains("_xdp_rcv") || site.ends_with("_run_xdp") => Some("native"),
        ("XDP", _) => Some("native"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    fn mode_of(site: &str) -> Option<String> {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NOT_SPECIFIED", site, &[]), "vpod1");
        check(&scene.case()).map(|draft| draft.claim)
    }

    #[test]
    fn names_the_device_and_the_mode() {
        assert!(
            mode_of("do_xdp_generic").expect("generic").ends_with("an XDP program of vpod1 (generic mode) refuses it")
        );
        assert!(
            mode_of("veth_xdp_rcv_skb").expect("native").ends_with("an XDP program of vpod1 (native mode) refuses it")
        );
    }

    #[test]
    fn stays_silent_on_another_place_without_a_reason() {
        assert_eq!(mode_of("ip_error"), None);
    }
}
