//! Which rule drops a packet, told by nftables itself (what `nft monitor trace` shows).
//!
//! The kernel traces packets that a rule has marked, so this adds a table of ours to the node: only where the user
//! allows it. The table belongs to our socket and goes with it, however we end.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    process,
};

use message::{Dropped, Packets};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};

use super::netlink::{Notification, Requests, messages, refusal};
use crate::model::traced::Traced;

mod attribute;
mod message;
mod table;

/// `NFNLGRP_NFTRACE` (`include/uapi/linux/netfilter/nfnetlink.h`).
const TRACE_GROUP: u32 = 9;
/// More addresses than this are not told apart: everybody's packets are marked then.
const ADDRESSES: usize = 64;
/// Longer than any message of the trace, which holds three headers and four names.
const DATAGRAM_BYTES: usize = 32 << 10;

/// Marks packets, and listens to what becomes of them.
pub(super) struct Tracer {
    /// Owns the table.
    owner: Socket,
    listener: Socket,
    table: String,
    packets: Packets,
    requests: Requests,
    /// Handles of the rules of chains that dropped something, in their order.
    chains: HashMap<(u8, String, String), Vec<u64>>,
    netns: u32,
    /// Whose packets are marked.
    marked: Marked,
}

/// Addresses whose packets are marked; `None`: everybody's.
type Marked = Option<BTreeSet<IpAddr>>;

impl Tracer {
    /// Begins in the calling thread's namespace, whose inode number is `netns`, with the packets of `addresses`; with
    /// everybody's where it is `None`.
    pub(super) fn start(netns: u32, addresses: Option<&BTreeSet<IpAddr>>) -> io::Result<Self> {
        let mut listener = Socket::new(NETLINK_NETFILTER)?;
        listener.bind_auto()?;
        listener.add_membership(TRACE_GROUP)?;
        let mut owner = Socket::new(NETLINK_NETFILTER)?;
        owner.bind_auto()?;
        owner.connect(&SocketAddr::new(0, 0))?;
        let table = format!("netprobe-{}", process::id());
        let (packets, requests, chains) = (Packets::default(), Requests::open_netfilter()?, HashMap::new());
        let marked = few(addresses);
        let tracer = Self { owner, listener, table, packets, requests, chains, netns, marked };
        tracer.make_table()?;
        Ok(tracer)
    }

    /// Marks the packets of these addresses from now on, and no others.
    pub(super) fn mark(&mut self, addresses: Option<&BTreeSet<IpAddr>>) -> io::Result<()> {
        let marked = few(addresses);
        if marked == self.marked {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.marked, marked);
        // Refused, the table is as it was.
        self.make_table().inspect_err(|_| self.marked = before)
    }

    fn make_table(&self) -> io::Result<()> {
        self.owner.send(&table::batch(&self.table, self.marked.as_ref()), 0)?;
        // The kernel has answered before `send` returns: a word for the table, and one for each message that it refuses.
        let mut answer = None;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while let Some(length) = queued(&self.owner, &mut buffer)? {
            let words = messages(&buffer[..length]).filter_map(Notification::new);
            for word in words.filter_map(|message| refusal(&message)) {
                answer = match (answer, word) {
                    (Some(Err(first)), _) => Some(Err(first)),
                    (_, word) => Some(word.map_or(Ok(()), Err)),
                };
            }
        }
        answer.unwrap_or_else(|| Err(io::Error::other("the kernel did not answer to a batch of nftables")))
    }

    /// What was dropped since. Never blocks; what the kernel could not queue is not told.
    pub(super) fn take(&mut self, mono_ns: u64, mut each: impl FnMut(Traced)) -> io::Result<()> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let Some(length) = queued(&self.listener, &mut buffer)? else { return Ok(()) };
            for message in messages(&buffer[..length]).filter_map(Notification::new) {
                let Some(told) = self.packets.take(message.kind, message.payload) else { continue };
                let position = told.handle.and_then(|handle| self.position(&told, handle));
                let message::Dropped { flow, family, table, chain, handle, .. } = told;
                let (netns, family) = (self.netns, family.to_owned());
                each(Traced { mono_ns, netns, flow, family, table, chain, handle, position });
            }
        }
    }
}

impl Tracer {
    /// Where the rule stands in its chain: iptables counts places and knows no handles.
    fn position(&mut self, told: &Dropped, handle: u64) -> Option<u32> {
        let chain = (told.number, told.table.clone(), told.chain.clone());
        let place = |handles: &Vec<u64>| handles.iter().position(|h| *h == handle);
        if let Some(at) = self.chains.get(&chain).and_then(place) {
            return u32::try_from(at + 1).ok();
        }
        let (kind, payload) = table::list(told.number, &told.table, &told.chain);
        let handles = self.requests.dump_raw(kind, &payload, |rule| message::handle(rule.payload));
        let handles = handles.inspect_err(|error| log::debug!("list chain {} of {}: {error}", told.chain, told.table));
        let handles = handles.ok()?;
        let at = place(&handles);
        self.chains.insert(chain, handles);
        u32::try_from(at? + 1).ok()
    }
}

/// The next datagram of a socket's queue, `None` where it is empty. Never blocks; what the kernel could not queue is left
/// out.
fn queued(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => return Ok(Some(length)),
            Err(Errno::EINTR | Errno::ENOBUFS) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// So many that they would make a long chain are not told apart.
fn few(addresses: Option<&BTreeSet<IpAddr>>) -> Marked {
    addresses.filter(|addresses| addresses.len() <= ADDRESSES).cloned()
}

impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
