//! What one sighting says, in words. Used by every output, so that they cannot disagree.

use std::sync::Arc;

use nix::errno::Errno;

use crate::model::{
    dns::Message,
    facts::table_name,
    flow::Proto,
    packet::{Head, Judge, LookupRole, Place, What},
    sighting::{Side, Sighting},
    stack::netfilter_hook,
};

/// A sighting in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The side for what happens at a device, else the layer: `pod`, `node`, `route`, `drop`, ...
    pub topic: &'static str,
    /// What happened.
    pub text: String,
    /// What kind of packet it was (`SYN,ACK`); empty where no packet was seen.
    pub label: String,
}

/// `sighting` in words, not yet escaped.
pub(super) fn words(sighting: &Sighting) -> Words {
    let device = sighting.device.as_ref();
    let (topic, text) = match &sighting.packet.what {
        What::Hop { place, .. } => (side(sighting.side), hop(sighting.side, device, *place)),
        What::Dropped { reason, site, stack, .. } => ("drop", dropped(sighting, reason, site, stack)),
        What::Request { comm, .. } => ("config", format!("{comm} asks for a change of the network")),
        What::Owned { flow, cgroup, .. } => ("node", format!("{flow} is of cgroup {cgroup}")),
        What::Verdict { hook, judge, .. } => ("drop", verdict(hook, judge)),
        What::Nat(choice) => ("nat", choice.to_string()),
        What::Lookup { table, err, gateway, role, rule, .. } => {
            let back = if *role == LookupRole::ReversePath { ", back to the sender" } else { "" };
            let route = match (err, gateway) {
                (0, Some(gateway)) => format!("via {gateway} dev {device}"),
                (0, None) if device.is_empty() => "found".to_owned(),
                (0, None) => format!("dev {device}"),
                (err, _) => route_error(*err),
            };
            let rule = rule.map_or_else(String::new, |preference| format!(" by rule {preference}"));
            ("route", format!("table {}{rule}{back}: {route}", table_name(*table)))
        }
        What::Retransmit { state, .. } => ("tcp", resent(state).to_owned()),
        What::Reset { sent, socket, reason, .. } => ("tcp", reset(*sent, *socket, reason)),
        What::SendError { err, comm, .. } => {
            ("send", format!("{comm} cannot send: {:?}", Errno::from_raw((*err).cast_signed())))
        }
        What::State { old, new, err, comm, .. } => ("tcp", state(old, new, *err, comm)),
        What::Dns { message, .. } => ("dns", dns(message.as_ref())),
        What::Neighbour { ip, mac, new_mac, failed, waiting } => {
            let text = match (failed, new_mac) {
                (true, _) => format!("{ip} did not answer on {device}"),
                (_, Some(new)) if mac.is_empty() => format!("{ip} is at {new} on {device}"),
                (_, Some(new)) => format!("{ip} moved from {mac} to {new} on {device}"),
                _ if *waiting => format!("{ip} asked for on {device}, the packet waits"),
                _ => format!("{ip} asked for on {device}"),
            };
            ("neigh", text)
        }
        What::IcmpSent { head, icmp, .. } => {
            let v6 = head.flow.is_some_and(|flow| flow.is_v6());
            ("icmp", format!("sends \"{}\" to the sender", icmp_name(v6, *icmp)))
        }
    };
    Words { topic, text, label: label(&sighting.packet.what) }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Node => "node",
        Side::Pod => "pod",
        Side::Unknown => "?",
    }
}

fn hop(side: Side, device: &str, place: Place) -> String {
    match place {
        Place::Receive => format!("{device} in"),
        Place::Queue => format!("{device} queued"),
        // A pod sends by its own device: that needs no direction.
        Place::Transmit if side == Side::Pod => device.to_owned(),
        Place::Transmit => format!("{device} out"),
        Place::Consume if device.is_empty() => "arrived".to_owned(),
        Place::Consume => format!("{device} arrived"),
    }
}

fn dropped(sighting: &Sighting, reason: &str, site: &str, stack: &[Arc<str>]) -> String {
    let hook = netfilter_hook(site, stack).map(|hook| format!(", hook {}", hook.name)).unwrap_or_default();
    let place = match (sighting.side, sighting.device.as_ref()) {
        (Side::Unknown, "") => String::new(),
        (Side::Unknown, device) => format!(" ({device})"),
        (at, "") => format!(" ({})", side(at)),
        (at, device) => format!(" ({} {device})", side(at)),
    };
    format!("{reason} in {site}{hook}{place}")
}

/// Who dropped it in a netfilter hook.
fn verdict(hook: &str, judge: &Judge) -> String {
    match judge {
        Judge::Unknown => format!("dropped in hook {hook}"),
        Judge::Nftables { family, table, chain } => {
            format!("dropped in hook {hook} by chain {chain} of table {family} {table} (nftables)")
        }
        Judge::Xtables { family, table } => {
            format!("dropped in hook {hook} by table {table} ({family}, iptables-legacy)")
        }
        Judge::Conntrack => format!("dropped in hook {hook} by conntrack: the connection found no place"),
    }
}

/// What a look-up that found no next hop found (`fib_rules.c`, `fib_semantics.c`: `fib_props`).
fn route_error(err: i32) -> String {
    match err.saturating_neg() {
        libc::EAGAIN | libc::ENETUNREACH | libc::ESRCH => "no route".to_owned(),
        libc::EHOSTUNREACH => "unreachable route".to_owned(),
        libc::EINVAL => "blackhole route".to_owned(),
        libc::EACCES => "prohibit route".to_owned(),
        other => format!("error {} ({})", other, Errno::from_raw(other).desc()),
    }
}

fn resent(state: &str) -> &'static str {
    match state {
        "SYN_SENT" => "SYN sent again (no answer)",
        "SYN_RECV" | "NEW_SYN_RECV" => "SYN,ACK sent again (no answer)",
        "FIN_WAIT1" | "LAST_ACK" | "CLOSING" => "end of the stream sent again (no answer)",
        _ => "segment sent again (no answer)",
    }
}

fn reset(sent: bool, socket: bool, reason: &str) -> String {
    let what = match (sent, socket) {
        (true, true) => "reset sent",
        (true, false) => "reset sent: no socket is there",
        (false, _) => "reset received",
    };
    if reason.is_empty() { what.to_owned() } else { format!("{what} ({reason})") }
}

fn state(old: &str, new: &str, err: u32, comm: &str) -> String {
    let what = match (old, new) {
        (_, "SYN_SENT") => "connects".to_owned(),
        (_, "ESTABLISHED") => "connected".to_owned(),
        (_, "LISTEN") => "listens".to_owned(),
        ("SYN_SENT", "CLOSE") => "not connected".to_owned(),
        (_, "CLOSE") => "closed".to_owned(),
        _ => format!("{old} to {new}"),
    };
    let error = match i32::try_from(err) {
        Ok(0) | Err(_) => String::new(),
        Ok(err) => format!(": {}", Errno::from_raw(err).desc().to_lowercase()),
    };
    // A timer or a softirq changes the state of whoever was interrupted: only what the process
    // itself asked for is told with its name.
    if new == "SYN_SENT" && !comm.is_empty() { format!("{comm} {what}{error}") } else { format!("{what}{error}") }
}

/// `A example.com?`, `A example.com: NXDOMAIN`
fn dns(message: Option<&Message>) -> String {
    let Some(Message { name, kind, answer, .. }) = message else { return "a message that makes no sense".to_owned() };
    match answer {
        None => format!("{kind} {name}?"),
        Some(answer) if answer.addresses.is_empty() => format!("{kind} {name}: {}", answer.code),
        Some(answer) => {
            let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
            format!("{kind} {name}: {}", addresses.join(", "))
        }
    }
}

/// What kind of packet it was.
fn label(what: &What) -> String {
    match what {
        What::Hop { head, inner: Some(inner), .. } => format!("{}, about {inner}", head_label(head)),
        What::Hop { head, .. } | What::Dropped { head, .. } => head_label(head),
        What::IcmpSent { .. }
        | What::Lookup { .. }
        | What::Retransmit { .. }
        | What::Reset { .. }
        | What::State { .. }
        | What::SendError { .. }
        | What::Verdict { .. }
        | What::Dns { .. }
        | What::Nat(_)
        | What::Request { .. }
        | What::Owned { .. }
        | What::Neighbour { .. } => String::new(),
    }
}

fn head_label(head: &Head) -> String {
    let Some(flow) = head.flow else { return format!("ethertype {:#06x}", head.ether_type) };
    match (flow.proto, head.icmp) {
        (Proto::Icmp | Proto::Icmpv6, Some(icmp)) => icmp_name(flow.proto == Proto::Icmpv6, icmp),
        (Proto::Tcp, _) if head.payload > 0 => format!("{} {} bytes", head.flags, head.payload),
        (Proto::Tcp, _) => head.flags.to_string(),
        (Proto::Udp, _) => format!("{} bytes", head.payload),
        _ => format!("{} bytes", head.ip_len),
    }
}

/// Name of an ICMP type and code (RFC 792, RFC 1122, RFC 1812, RFC 4443, RFC 4861).
pub(super) fn icmp_name(v6: bool, icmp: (u8, u8)) -> String {
    let name = match (v6, icmp) {
        (false, (0, _)) | (true, (129, _)) => "echo reply",
        (false, (8, _)) | (true, (128, _)) => "echo request",
        (false, (3, 0)) | (true, (1, 0)) => "network unreachable",
        (false, (3, 1)) | (true, (1, 3)) => "host unreachable",
        (false, (3, 2)) => "protocol unreachable",
        (false, (3, 3)) | (true, (1, 4)) => "port unreachable",
        (false, (3, 4)) => "fragmentation needed",
        (false, (3, 9 | 10 | 13)) | (true, (1, 1)) => "administratively prohibited",
        (true, (1, 5)) => "source address failed policy",
        (true, (1, 6)) => "reject route",
        (true, (2, _)) => "packet too big",
        (false, (5, _)) | (true, (137, _)) => "redirect",
        (false, (11, 0)) | (true, (3, 0)) => "time to live exceeded",
        (false, (11, _)) | (true, (3, _)) => "reassembly time exceeded",
        (true, (135, _)) => "neighbour solicitation",
        (true, (136, _)) => "neighbour advertisement",
        (_, (kind, code)) => return format!("icmp type {kind} code {code}"),
    };
    name.to_owned()
}
