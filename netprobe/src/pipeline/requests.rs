//! Who changed the network: requests as the kernel took them, joined with the changes that it then told of.

use std::collections::VecDeque;

use crate::model::{
    facts::Change,
    packet::{Packet, What},
};

/// Requests that are kept; a CNI that sets a pod up sends some thirty.
const REQUESTS_MAX: usize = 256;
/// Lines of the journal that are looked through, newest first.
const LINES: usize = 64;
/// How long after its request a change may be told, nanoseconds: we read notifications every 100 ms, and deleting a
/// device may keep the sender waiting for a second or two.
const SOON_NS: u64 = 5_000_000_000;

/// The last requests.
#[derive(Debug, Default)]
pub(super) struct Requests(VecDeque<Request>);

#[derive(Debug)]
struct Request {
    mono_ns: u64,
    netns: u32,
    port_id: u32,
    process: (u32, String),
}

impl Requests {
    /// Keeps a packet that is a request; says whether it was one.
    pub(super) fn note(&mut self, packet: &Packet) -> bool {
        let What::Request { port_id, comm } = &packet.what else { return false };
        if self.0.len() >= REQUESTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Request {
            mono_ns: packet.mono_ns,
            netns: packet.netns,
            port_id: *port_id,
            process: (packet.pid, comm.to_string()),
        });
        true
    }

    /// Writes into the journal who asked for its last changes.
    pub(super) fn sign(&self, journal: &mut [Change]) {
        let unsigned = |change: &&mut Change| change.by.process.is_none() && change.by.port_id != 0;
        for change in journal.iter_mut().rev().take(LINES).filter(unsigned) {
            let asked = self.0.iter().rev().find(|request| {
                let same = (request.netns, request.port_id) == (change.netns, change.by.port_id);
                same && change.mono_ns.checked_sub(request.mono_ns).is_some_and(|after| after < SOON_NS)
            });
            if let Some(request) = asked {
                change.by.process = Some(request.process.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::facts::{Author, What as Changed};

    fn request(mono_ns: u64, port_id: u32) -> Packet {
        let what = What::Request { port_id, comm: "ipamd".into() };
        Packet { mono_ns, cpu: 0, pid: 812, netns: 1, ifindex: 0, what }
    }

    fn change(mono_ns: u64, netns: u32) -> Change {
        let by = Author { port_id: 11, ..Author::default() };
        Change { mono_ns, netns, what: Changed::NamespaceAdded, by }
    }

    #[test]
    fn a_change_is_signed_by_who_asked_for_it_just_before() {
        let mut requests = Requests::default();
        assert!(requests.note(&request(1_000, 11)));
        let mut journal = [change(2_000, 1), change(2_000, 2), change(500, 1), change(2_000 + SOON_NS, 1)];
        requests.sign(&mut journal);
        let signed: Vec<bool> = journal.iter().map(|change| change.by.process.is_some()).collect();
        assert_eq!(signed, [true, false, false, false], "the others are of another namespace or another time");
        assert_eq!(journal[0].by.process, Some((812, "ipamd".to_owned())));
    }

    #[test]
    fn a_request_of_another_port_signs_nothing() {
        let mut requests = Requests::default();
        requests.note(&request(1_000, 12));
        let mut journal = [change(2_000, 1)];
        requests.sign(&mut journal);
        assert_eq!(journal[0].by.process, None);
    }
}
