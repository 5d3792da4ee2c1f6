//! A tc filter (most often a BPF program) dropped the packet at a device.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::devices::Filter,
};

pub(super) const RULE: Rule =
    Rule { id: "tc-drop", means: "a tc filter, most often a BPF program, dropped the packet at a device", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let (drop, direction) = case.drops().find_map(|drop| direction(&drop).map(|way| (drop, way)))?;
    let device = drop.device()?;
    let suspects = suspects(case, &drop, direction == "egress");
    let who = match suspects.as_slice() {
        [] => "a tc filter, most likely a BPF program,".to_owned(),
        [one] => one.clone(),
        several => format!("one of {}", several.join(", ")),
    };
    let because = format!("{who} at the tc {direction} of {device} refuses it");
    let mut draft = case.dropped_because(&drop, &because).detail(direction);
    if let Some(preference) = drop.filter {
        draft =
            draft.proof(drop.mono_ns(), format!("cls_bpf_classify: the filter with preference {preference} said so"));
    }
    for suspect in &suspects {
        draft = draft.proof(drop.mono_ns(), format!("attached to {device} {direction}: {suspect}"));
    }
    Some(
        draft
            .fix(format!("see whose it is: bpftool net show dev {device}; tc -s filter show dev {device} {direction}"))
            .fix("ask its owner why: a network policy (cilium monitor --type drop), a rate limit (police), a broken program"),
    )
}

/// What is attached there: the filter that the kernel told, else those that have counted drops, else all.
fn suspects(case: &Case<'_>, drop: &Drop<'_>, egress: bool) -> Vec<String> {
    let packet = &drop.sighting().packet;
    let Some(devices) = case.devices(packet.netns, packet.mono_ns) else { return Vec::new() };
    let is_told = |filter: &&Filter| drop.filter.is_none_or(|preference| filter.preference == preference);
    let all: Vec<_> = devices.filters_of(packet.ifindex, egress).filter(is_told).collect();
    let guilty: Vec<_> = all.iter().filter(|f| f.actions.iter().any(|a| a.drops > 0)).copied().collect();
    let named = if guilty.is_empty() { all } else { guilty };
    named.into_iter().map(ToString::to_string).collect()
}

fn direction(drop: &Drop<'_>) -> Option<&'static str> {
    match &**drop.reason {
        "TC_INGRESS" => Some("ingress"),
        "TC_EGRESS" => Some("egress"),
        "TC_COOKIE_ERROR" | "TC_CHAIN_NOTFOUND" | "TC_RECLASSIFY_LOOP" => {
            let leaving = drop.site == "__dev_queue_xmit" || drop.stack.iter().any(|f| &**f == "__dev_queue_xmit");
            Some(if leaving { "egress" } else { "ingress" })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;
    use crate::model::{
        asked::Reading,
        devices::{Devices, Program},
        packet::What,
    };

    #[test]
    fn names_device_and_direction() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "TC_INGRESS", "__netif_receive_skb_core.constprop.0", &[]), "vpod1");
        let draft = check(&scene.case()).expect("a filter dropped it");
        assert!(
            draft
                .claim
                .contains("on vpod1: a tc filter, most likely a BPF program, at the tc ingress of vpod1 refuses it"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn names_the_program() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "TC_INGRESS", "__netif_receive_skb_core", &[]), "vpod1");
        let program = Some(Program { id: 57, name: "drop_all".to_owned() });
        let filter = Filter { ifindex: Scene::VPOD1, kind: "bpf".to_owned(), program, ..Filter::default() };
        let other = Filter { egress: true, ..filter.clone() };
        scene.answer(Reading::Devices(Devices { filters: vec![filter, other], ..Devices::default() }));
        let draft = check(&scene.case()).expect("a filter dropped it");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on vpod1: program drop_all (id 57) at the tc \
             ingress of vpod1 refuses it"
        );
    }

    #[test]
    fn of_several_programs_the_kernel_tells_which() {
        let named = |told: Option<u16>| {
            let mut scene = Scene::pod_to_db();
            let mut what = drop_of(syn(), "TC_INGRESS", "__netif_receive_skb_core", &[]);
            if let What::Dropped { filter, .. } = &mut what {
                *filter = told;
            }
            scene.step(1, what, "vpod1");
            let filter = |preference: u16, name: &str| Filter {
                ifindex: Scene::VPOD1,
                kind: "bpf".to_owned(),
                preference,
                program: Some(Program { id: u32::from(preference), name: name.to_owned() }),
                ..Filter::default()
            };
            let filters = vec![filter(1, "cil_from_container"), filter(2, "limiter")];
            scene.answer(Reading::Devices(Devices { filters, ..Devices::default() }));
            check(&scene.case()).expect("a filter dropped it").claim
        };
        assert!(named(Some(2)).contains("on vpod1: program limiter (id 2) at the tc ingress"), "{}", named(Some(2)));
        assert!(named(None).contains("one of program cil_from_container (id 1), program limiter (id 2)"));
    }

    #[test]
    fn stays_silent_on_a_full_queue() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "QDISC_DROP", "__dev_queue_xmit", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
