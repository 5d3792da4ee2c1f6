//! Queueing disciplines, and the filters and programs at their sides.

use std::io;

use super::{Names, attributes, number32, word};
use crate::{
    facts::netlink::Requests,
    model::devices::{Action, Filter, Qdisc},
    probe::query::{Place, on_device},
};

/// `RTM_GETQDISC`, `RTM_GETTFILTER` (`include/uapi/linux/rtnetlink.h`).
const GETQDISC: u16 = 38;
const GETTFILTER: u16 = 46;
/// Bytes of `struct tcmsg`.
const HEADER_BYTES: usize = 20;
/// `TC_H_ROOT`.
const ROOT: u32 = u32::MAX;
/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// `TCA_KIND`, `TCA_OPTIONS`, `TCA_STATS2`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const STATS: u16 = 7;
/// `TCA_STATS_QUEUE`: `struct gnet_stats_queue`.
const STATS_QUEUE: u16 = 3;
/// `TCA_BPF_ID`.
const BPF_ID: u16 = 11;

/// All of this namespace.
pub(super) fn qdiscs(requests: &mut Requests) -> io::Result<Vec<Qdisc>> {
    requests.dump_raw(GETQDISC, &[0; HEADER_BYTES], |frame| qdisc(frame.payload))
}

fn qdisc(payload: &[u8]) -> Option<Qdisc> {
    let mut found = Qdisc {
        ifindex: number32(payload, 4),
        handle: u16::try_from(number32(payload, 8) >> 16).unwrap_or(0),
        root: number32(payload, 12) == ROOT,
        ..Qdisc::default()
    };
    for (kind, value) in attributes(payload.get(HEADER_BYTES..)?) {
        match kind {
            KIND => found.kind = word(&value),
            STATS => {
                let queue = queue(&value);
                (found.waiting, found.backlog, found.drops, found.overlimits) =
                    (queue[0], queue[1], queue[2], queue[4]);
            }
            _ => {}
        }
    }
    Some(found)
}

/// Packets and bytes waiting, packets dropped, requeues, overlimits.
fn queue(stats: &[u8]) -> [u64; 5] {
    let of = |value: Vec<u8>| std::array::from_fn(|at| u64::from(number32(&value, at * 4)));
    attributes(stats).find(|(kind, _)| *kind == STATS_QUEUE).map_or([0; 5], |(_, value)| of(value))
}

/// Filters of the devices that have a place for them.
pub(super) fn filters(requests: &mut Requests, qdiscs: &[Qdisc], names: &Names) -> Vec<Filter> {
    let mut found = Vec::new();
    for qdisc in qdiscs.iter().filter(|q| matches!(q.kind.as_str(), "clsact" | "ingress")) {
        let parents: &[u32] = if qdisc.kind == "clsact" { &[INGRESS, EGRESS] } else { &[INGRESS] };
        for parent in parents {
            let mut request = vec![0; HEADER_BYTES];
            request[4..8].copy_from_slice(&qdisc.ifindex.to_ne_bytes());
            request[12..16].copy_from_slice(&parent.to_ne_bytes());
            let read = requests.dump_raw(GETTFILTER, &request, |frame| filter(frame.payload, names));
            // A device that went away meanwhile has no filters.
            found.extend(read.unwrap_or_default().into_iter().map(|filter| Filter {
                ifindex: qdisc.ifindex,
                egress: *parent == EGRESS,
                ..filter
            }));
        }
    }
    found
}

/// A filter; each chain's head, which has no handle, is left out.
fn filter(payload: &[u8], names: &Names) -> Option<Filter> {
    if number32(payload, 8) == 0 {
        return None;
    }
    let preference = u16::try_from(number32(payload, 16) >> 16).ok()?;
    let mut found = Filter { preference, ..Filter::default() };
    let mut options = Vec::new();
    for (kind, value) in attributes(payload.get(HEADER_BYTES..)?) {
        match kind {
            KIND => found.kind = word(&value),
            OPTIONS => options = value,
            _ => {}
        }
    }
    let acts = act_attribute(&found.kind);
    for (kind, value) in attributes(&options) {
        if found.kind == "bpf" && kind == BPF_ID {
            found.program = Some(names.program(number32(&value, 0)));
        } else if Some(kind) == acts {
            found.actions = attributes(&value).map(|(_, action)| self::action(&action)).collect();
        }
    }
    Some(found)
}

/// `TCA_*_ACT` of each classifier (`include/uapi/linux/pkt_cls.h`).
fn act_attribute(kind: &str) -> Option<u16> {
    match kind {
        "bpf" | "cgroup" => Some(1),
        "matchall" => Some(2),
        "flower" | "basic" => Some(3),
        "fw" => Some(4),
        "u32" => Some(7),
        _ => None,
    }
}

/// `TCA_ACT_KIND` and what `TCA_ACT_STATS` counts.
fn action(bytes: &[u8]) -> Action {
    let mut found = Action::default();
    for (kind, value) in attributes(bytes) {
        match kind {
            1 => found.kind = word(&value),
            4 => found.drops = queue(&value)[2],
            _ => {}
        }
    }
    found
}

/// Programs that stand in a filter's place: TCX, netkit.
pub(super) fn programs(indexes: &[u32], names: &Names) -> Vec<Filter> {
    const PLACES: [(Place, bool, &str); 4] = [
        (Place::TcxIngress, false, "tcx"),
        (Place::TcxEgress, true, "tcx"),
        (Place::NetkitPrimary, true, "netkit"),
        (Place::NetkitPeer, false, "netkit"),
    ];
    let mut found = Vec::new();
    for ifindex in indexes {
        for (place, egress, kind) in PLACES {
            // A kernel before 6.6 knows no such place.
            for id in on_device(*ifindex, place).unwrap_or_default() {
                let program = Some(names.program(id));
                found.push(Filter { ifindex: *ifindex, egress, kind: kind.to_owned(), program, ..Filter::default() });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(handle: u32, info: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        for number in [7u32, handle, ROOT, info] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(attributes.concat());
        bytes
    }

    #[test]
    fn a_qdisc_has_its_counters() {
        let counters: Vec<u8> = [1u32, 1000, 35, 0, 36].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let stats = attribute(STATS, &attribute(STATS_QUEUE, &counters));
        let found = qdisc(&message(0x7_0000, 0, &[attribute(KIND, b"tbf\0"), stats])).unwrap();
        assert_eq!((found.to_string().as_str(), found.ifindex, found.root), ("tbf 7:", 7, true));
        assert_eq!((found.waiting, found.backlog, found.drops, found.overlimits), (1, 1000, 35, 36));
    }

    #[test]
    fn a_program_and_an_action_are_told() {
        let names = Names([(57, "tc_drop3306".to_owned())].into());
        let bpf = [attribute(KIND, b"bpf\0"), attribute(OPTIONS, &attribute(BPF_ID, &57u32.to_ne_bytes()))];
        assert_eq!(filter(&message(1, 0xc000_0300, &bpf), &names).unwrap().to_string(), "program tc_drop3306 (id 57)");
        assert_eq!(filter(&message(0, 0xc000_0300, &bpf), &names), None);
        let act = attribute(1, &attribute(1, b"police\0"));
        let matchall = [attribute(KIND, b"matchall\0"), attribute(OPTIONS, &attribute(2, &act))];
        let found = filter(&message(1, 0x000a_0300, &matchall), &names).unwrap();
        assert_eq!(found.to_string(), "filter matchall pref 10 (police)");
    }
}
