//! The last resort: a drop that no other rule knows, by the kernel's reason and place.

use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule = Rule {
    id: "unexplained-drop",
    means: "the kernel dropped the packet for a reason that no rule explains yet",
    check,
};

/// How long it waits, nanoseconds: what a better rule needs (the answer, the neighbour's failure)
/// follows the drop within a few milliseconds.
const WAIT_NS: u64 = 300_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_loss)?;
    let at = drop.device().map_or_else(String::new, |d| format!(" on {d}"));
    let what = if drop.step.forward { "a packet" } else { "an answer" };
    let claim = format!(
        "{} dropped {what} of {} to {}{at}: the kernel says {} in {}",
        case.place(drop.sighting()),
        case.who(),
        case.whither(),
        drop.reason,
        drop.site
    );
    let callers: Vec<&str> = drop.stack.iter().take(4).map(|f| &**f).collect();
    let mut draft = case.about_drop(&drop, claim).detail(format!("{} {}", drop.reason, drop.site));
    if !callers.is_empty() {
        draft = draft.proof(drop.mono_ns(), format!("called by {}", callers.join(" < ")));
    }
    draft =
        draft.fix(format!("see what the kernel means by it: grep -rn {} include/net/dropreason-core.h", drop.reason));
    draft.ready_ns = drop.mono_ns() + WAIT_NS;
    Some(draft)
}

/// An IP packet with an addressee: multicast and broadcast that nobody wants is no loss.
fn is_loss(drop: &Drop<'_>) -> bool {
    drop.head.flow.is_some_and(|flow| !flow.dst.ip().is_multicast() && !is_broadcast(flow.dst.ip()))
}

fn is_broadcast(ip: std::net::IpAddr) -> bool {
    matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    #[test]
    fn states_reason_and_place() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "SOCKET_FILTER", "sk_filter_trim_cap", &["tcp_v4_rcv"]), "eth0");
        let draft = check(&scene.case()).expect("a drop");
        assert!(draft.claim.ends_with("the kernel says SOCKET_FILTER in sk_filter_trim_cap"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_noise() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "QUEUE_PURGE", "sk_stream_kill_queues", &[]), "");
        assert_eq!(check(&scene.case()), None);
    }
}
