//! The packet left this node as it should, and nothing came back.

use super::{handshake, vanished, wrong_egress::came_in_by};
use crate::{
    explain::{
        Case, Draft, Rule, intent,
        tcp::{FIRST_TIMEOUT_NS, often},
    },
    model::{
        devices::Xdp,
        facts::Rule as IpRule,
        finding::{Confidence, RouteTaken},
        flow::Proto,
        journey::{Journey, Step},
        packet::{Head, Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "no-reply",
    means: "the packet left this node as it should and nothing came back: the loss is outside",
    check,
};

/// UDP ports of protocols in which every datagram is answered: DNS, TFTP, NTP, SNMP, QUIC, IKE, RADIUS, STUN.
const ASKING_PORTS: [u16; 10] = [53, 69, 123, 161, 443, 500, 1812, 1813, 3478, 4500];

fn check(case: &Case<'_>) -> Option<Draft> {
    unanswered(case).or_else(|| handshake::check(case)).or_else(|| vanished::check(case))
}

/// What left this node and was never answered.
pub(super) struct Silence<'a> {
    /// Where it left: the device that routing named, and the last one (they differ where a tunnel lies in between).
    inner: &'a Step,
    pub(super) exit: &'a Step,
    pub(super) question: Question,
    /// Something came back, but of an older connection.
    pub(super) stale: bool,
}

/// Nothing of it was ever answered, though it asks for an answer, and nothing was dropped.
pub(super) fn silence<'a>(case: &Case<'a>) -> Option<Silence<'a>> {
    let (inner, exit) = case.exits()?;
    let stale = case.answered() && only_stale_acks(case);
    if (case.answered() && !stale) || case.drops().next().is_some() {
        return None;
    }
    Some(Silence { inner, exit, question: question(case, exit)?, stale })
}

fn unanswered(case: &Case<'_>) -> Option<Draft> {
    let Silence { inner, exit, question, stale } = silence(case)?;
    let Question { what, first_ns, tries, proven_ns } = question;
    let flow = case.journey.flow;
    let device = exit.sighting.device.to_string();
    let source = match &exit.sighting.packet.what {
        What::Hop { head, .. } => head.flow.map_or(flow.src.ip(), |f| f.src.ip()),
        _ => flow.src.ip(),
    };
    let route = route(case);
    let by =
        route.as_ref().map_or_else(String::new, |r| format!(" (table {})", crate::model::facts::table_name(r.table)));
    // Nobody asks for a device's programs while the answer may still come.
    let program = if case.now_ns < proven_ns { None } else { before_the_stack(case, exit) };
    if !stale && hides(case, exit) {
        return Some(into_tunnel(case, exit, what, (first_ns, proven_ns), tries));
    }
    let end = end(stale, &device, program.as_deref());
    let tunnel = case.around().map(|(_, flow)| format!(", inside {flow} of {},", inner.sighting.device));
    let tunnel = tunnel.unwrap_or_default();
    let claim = format!(
        "the {what} of {} to {} left this node by {device}{by}{tunnel} with source {source}, and {end}",
        case.who(),
        case.whither()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(format!("{} {}", flow.proto, flow.destination()))
        .proof(first_ns, format!("net_dev_start_xmit on {device}: {what} to {}", flow.destination()))
        .proof(proven_ns, format!("sent {}, no answer, no ICMP error, no drop on this node", often(tries)))
        .fix(format!("look outside: security group, firewall, or routing between {device} and {}", ahead(case)))
        .fix(format!("check that the peer answers {source}, and by a way that leads back to {device}"));
    draft.route = route;
    draft.proven_ns = proven_ns;
    if let Some(rule) = chooser(case) {
        let text = format!("policy rule {} ({}) chose {}", rule.preference, rule.text(), inner.sighting.device);
        draft = draft.proof(first_ns, text);
    }
    if let Some(program) = program {
        draft = with_program(draft, &program, &device, first_ns);
    }
    if !tunnel.is_empty() {
        draft =
            draft.fix("let the tunnel's UDP port through between the nodes: security group, firewall").fix(format!(
                "or the other node ignores it: compare VNI, port and link-layer address: ip -d link show {}",
                inner.sighting.device
            ));
    }
    Some(draft)
}

/// What became of it, as far as can be known.
fn end(stale: bool, device: &str, program: Option<&str>) -> String {
    match program {
        _ if stale => {
            "no SYN-ACK came back, only an ACK of an older connection: the peer drops it while it remembers that \
                       one (TIME_WAIT)"
                .to_owned()
        }
        Some(program) => {
            format!(
                "nothing came back to the stack: it is lost outside this node, or XDP {program} of {device} drops the answer"
            )
        }
        None => "nothing came back: it is lost outside this node".to_owned(),
    }
}

fn with_program(draft: Draft, program: &str, device: &str, first_ns: u64) -> Draft {
    draft
        .proof(
            first_ns,
            format!("XDP {program} of {device} sees what comes in before the stack: what it drops is not seen here"),
        )
        .fix(format!("or that program drops the answer: take it off to see (ip link set dev {device} xdp off)"))
}

/// The XDP program in the driver of the device by which the packet left: no tracepoint tells what it drops.
fn before_the_stack(case: &Case<'_>, exit: &Step) -> Option<String> {
    let packet = &exit.sighting.packet;
    let mut programs = case.devices(packet.netns, packet.mono_ns)?.xdp.iter();
    let hides = |xdp: &&Xdp| xdp.ifindex == packet.ifindex && xdp.mode != "generic";
    programs.find(hides).map(|xdp| format!("{}, {} mode,", xdp.program, xdp.mode))
}

/// What asks for an answer.
pub(super) struct Question {
    /// What it is, in words.
    what: &'static str,
    /// When it left first, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) first_ns: u64,
    /// How often it left.
    pub(super) tries: usize,
    /// When an answer must have come, if one comes, likewise.
    pub(super) proven_ns: u64,
}

fn question(case: &Case<'_>, exit: &Step) -> Option<Question> {
    let leaves = |s: &&Step, place| s.forward && place == Place::Transmit && s.sighting.device == exit.sighting.device;
    let sent: Vec<u64> =
        case.hops().filter(|(s, place, _)| leaves(s, *place)).map(|(s, ..)| s.sighting.packet.mono_ns).collect();
    let (first_ns, tries) = (*sent.first()?, sent.len());
    let (what, proven_ns) = match case.journey.flow.proto {
        Proto::Tcp if opens(case) => ("SYN", unanswered_syn(case).unwrap_or(first_ns + FIRST_TIMEOUT_NS)),
        Proto::Icmp | Proto::Icmpv6 if is_echo(case) => ("echo request", first_ns + FIRST_TIMEOUT_NS),
        Proto::Udp if tries > 1 && asks(case) => ("datagram", sent[1] + 2 * FIRST_TIMEOUT_NS),
        _ => return None,
    };
    Some(Question { what, first_ns, tries, proven_ns })
}

/// When it is proven that nothing answers what left this node, `CLOCK_MONOTONIC` nanoseconds; `None` where something did, or
/// where no answer is asked for.
pub(super) fn proven_ns(case: &Case<'_>) -> Option<u64> {
    let (_, exit) = case.exits().filter(|_| !case.answered())?;
    question(case, exit).map(|question| question.proven_ns)
}

/// Whither the packet went from here: the tunnel's other end, or its destination after translation.
fn ahead(case: &Case<'_>) -> std::net::IpAddr {
    case.around().map_or_else(|| case.routed_flow().dst.ip(), |(_, around)| around.dst.ip())
}

/// The device sends packets of its own making, which do not tell what is in them.
fn hides(case: &Case<'_>, exit: &Step) -> bool {
    let link = case.facts.node().and_then(|node| node.links.get(&exit.sighting.packet.ifindex));
    link.is_some_and(|link| matches!(link.kind.as_str(), "wireguard" | "tun" | "xfrm"))
}

/// The packet went into a tunnel and was seen no more: it may not even have left the node.
fn into_tunnel(case: &Case<'_>, exit: &Step, what: &str, (first_ns, proven_ns): (u64, u64), tries: usize) -> Draft {
    let device = exit.sighting.device.to_string();
    let claim = format!(
        "the {what} of {} to {} went into {device}, and nothing came back: what {device} makes of it is not followed, so it is \
         lost in the tunnel or behind it",
        case.who(),
        case.whither()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Possible)
        .detail(format!("{} {}", case.journey.flow.proto, case.journey.flow.destination()))
        .proof(first_ns, format!("net_dev_start_xmit on {device}: {what} to {}", case.journey.flow.destination()))
        .proof(proven_ns, format!("sent {}, no answer, no ICMP error, no drop on this node", often(tries)))
        .fix(format!(
            "see whether the tunnel works: wg show {device} latest-handshakes endpoints; ip -s link show {device}"
        ))
        .fix("follow the tunnel's own packets: netprobe trace --all udp and host ENDPOINT");
    draft.route = route(case);
    draft.proven_ns = proven_ns;
    draft
}

/// What came back are bare ACKs, as they belong to another connection of the same addresses and ports.
fn only_stale_acks(case: &Case<'_>) -> bool {
    let stale = |head: &Head| head.flags.ack() && !head.flags.syn() && !head.flags.rst() && head.payload == 0;
    opens(case)
        && case.hops().filter(|(s, ..)| !s.forward).all(|(.., head)| stale(head))
        && !case.hops().any(|(s, _, head)| s.forward && head.flags.ack() && !head.flags.rst())
}

/// A SYN was among it.
fn opens(case: &Case<'_>) -> bool {
    case.hops().any(|(s, _, head)| s.forward && head.flags.opens())
}

/// Datagrams that ask for an answer: the port says so, or others like it were answered.
fn asks(case: &Case<'_>) -> bool {
    let flow = case.journey.flow;
    let answered = |j: &&Journey| {
        j.flow.proto == Proto::Udp
            && j.flow.dst == flow.dst
            && j.id != case.journey.id
            && j.steps.iter().any(|s| !s.forward && matches!(s.sighting.packet.what, What::Hop { inner: None, .. }))
    };
    ASKING_PORTS.contains(&flow.dst.port()) || case.journeys.iter().any(|j| answered(&j))
}

/// When TCP itself gave the first SYN up for lost.
fn unanswered_syn(case: &Case<'_>) -> Option<u64> {
    let again = case.steps().find(|s| matches!(s.sighting.packet.what, What::Retransmit { state: "SYN_SENT", .. }));
    again.map(|s| s.sighting.packet.mono_ns)
}

/// An echo request to one host: nothing else of ICMP asks for an answer.
fn is_echo(case: &Case<'_>) -> bool {
    let asks = |icmp| matches!(icmp, Some((8 | 128, _)));
    !case.journey.flow.dst.ip().is_multicast() && case.hops().any(|(s, _, head)| s.forward && asks(head.icmp))
}

fn route(case: &Case<'_>) -> Option<RouteTaken> {
    let decision = case.decision(case.facts.node, true, u64::MAX).filter(|l| l.err == 0)?;
    let rule = decision.rule.or_else(|| decided(case).map(|rule| rule.preference));
    Some(RouteTaken { table: decision.table, rule, gateway: decision.gateway })
}

/// The rule that led to the table which decided.
fn decided<'a>(case: &Case<'a>) -> Option<&'a IpRule> {
    let decision = case.decision(case.facts.node, true, u64::MAX).filter(|l| l.err == 0)?;
    let iif = came_in_by(case, case.facts.node);
    intent::rule_for(case.facts.node()?, &case.routed_flow(), iif.as_deref(), decision.table, decision.mark)
}

/// The same, where it is one that picks out this traffic: it may be the fault.
fn chooser<'a>(case: &Case<'a>) -> Option<&'a IpRule> {
    decided(case).filter(|rule| rule.is_selective() || rule.dst.is_some())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, hop, retransmit, syn, syn_ack};
    use super::*;
    use crate::model::{
        asked::Reading,
        devices::{Devices, Program},
    };

    #[test]
    fn says_what_was_proven() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        let draft = check(&scene.case()).expect("nothing came back");
        assert_eq!(
            draft.claim,
            "the SYN of shop/web-0 to 10.20.0.4:3306 left this node by eth1 with source 10.9.0.29, and nothing came back: \
             it is lost outside this node"
        );
    }

    #[test]
    fn a_program_in_the_driver_may_have_dropped_the_answer() {
        let told = |mode: &str| {
            let mut scene = Scene::pod_to_db();
            scene.step(1, hop(Place::Transmit, syn()), "eth1");
            let program = Program { id: 57, name: "filter_in".to_owned() };
            let xdp = vec![Xdp { ifindex: Scene::ETH1, mode: mode.to_owned(), program }];
            scene.answer(Reading::Devices(Devices { xdp, ..Devices::default() }));
            check(&scene.case()).expect("nothing came back").claim
        };
        let end =
            "it is lost outside this node, or XDP program filter_in (id 57), native mode, of eth1 drops the answer";
        assert!(told("native").ends_with(end), "{}", told("native"));
        assert!(told("generic").ends_with("nothing came back: it is lost outside this node"), "its drops are seen");
    }

    #[test]
    fn nobody_is_asked_while_the_answer_may_come() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        let asks = |now_ns| {
            let case = Case { now_ns, ..scene.case() };
            check(&case).expect("it waits");
            !case.asked.is_empty()
        };
        assert!(!asks(2_000_000) && asks(1_001_000_000));
    }

    #[test]
    fn stays_silent_before_tcp_gave_it_up_and_after_an_answer() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        let proven_ns = check(&scene.case()).map(|draft| draft.proven_ns);
        assert_eq!(proven_ns, Some(1_001_000_000), "no retransmission yet: it waits");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene.back(1_001, hop(Place::Receive, syn_ack()), "eth1");
        assert_eq!(check(&scene.case()), None, "an answer came");
    }

    #[test]
    fn stays_silent_on_a_packet_that_was_dropped_here() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene.step(1_001, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "ip_output"]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
