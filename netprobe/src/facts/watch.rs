//! Notifications of all namespaces, taken in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context as _, Result};
use netlink_packet_route::RouteNetlinkMessage;

use super::{
    event::FactsEvent,
    links,
    listen::{DATAGRAM_BYTES, Heard},
    namespaces::nsid_in,
    netlink::{Notification, Requests, messages},
    notify::{Told, changed, told},
    read,
    reader::FactsReader,
    scan,
    sysctls::{self, NEWNETCONF},
};
use crate::model::facts::{Author, Change, NamespaceFacts, Route, What};

/// What the kernel may have taken routes away for, without a word.
#[derive(Debug, Default)]
struct Suspects {
    /// Links that went down or away.
    links: BTreeSet<u32>,
    /// Addresses that were removed; routes may name them as preferred source.
    addresses: BTreeSet<IpAddr>,
}

impl Suspects {
    fn note(&mut self, what: &What) {
        match what {
            What::LinkDeleted(link) => {
                self.links.insert(link.index);
            }
            What::LinkChanged(before, after) if before.up && !after.up => {
                self.links.insert(after.index);
            }
            What::AddressDeleted(address) => {
                self.addresses.insert(address.net.addr());
            }
            _ => {}
        }
    }

    fn name(&self, route: &Route) -> bool {
        route.next_hops.iter().any(|hop| self.links.contains(&hop.ifindex))
            || route.prefsrc.is_some_and(|ip| self.addresses.contains(&ip))
    }

    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.addresses.is_empty()
    }
}

impl FactsReader {
    /// Takes what the kernel told.
    ///
    /// # Errors
    ///
    /// If listening fails.
    pub(super) fn drain(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) -> Result<()> {
        let mut suspects: BTreeMap<u32, Suspects> = BTreeMap::new();
        let mut overflow = false;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            match self.listener.receive(&mut buffer).context("read the kernel's notifications")? {
                Heard::Datagram(nsid, length) => {
                    let Some(netns) = self.netns(nsid) else { continue };
                    for bytes in messages(&buffer[..length]) {
                        self.notified(netns, bytes, now_ns, suspects.entry(netns).or_default(), events);
                    }
                }
                Heard::Overflow => overflow = true,
                Heard::Nothing => break,
            }
        }
        if overflow {
            self.resync_all(now_ns, events);
        }
        for (netns, suspects) in suspects.iter().filter(|(_, suspects)| !suspects.is_empty()) {
            self.find_lost_routes(*netns, now_ns, suspects, events);
        }
        Ok(())
    }

    /// The namespace a notification is about, if it is one we follow.
    fn netns(&self, nsid: Option<i32>) -> Option<u32> {
        let node = self.node.inum;
        let Some(nsid) = nsid else { return Some(node) };
        self.watched.get(&node)?.nsids.get(&nsid).copied()
    }

    /// Notifications were dropped: whatever they were about.
    fn resync_all(&mut self, now_ns: u64, events: &mut Vec<FactsEvent>) {
        // What ended meanwhile goes first.
        self.scan(now_ns, events);
        for netns in self.watched.keys().copied().collect::<Vec<_>>() {
            self.resync(netns, now_ns, events);
        }
    }

    fn notified(
        &mut self,
        netns: u32,
        bytes: &[u8],
        now_ns: u64,
        suspects: &mut Suspects,
        events: &mut Vec<FactsEvent>,
    ) {
        let Some(notification) = Notification::new(bytes) else { return };
        let (Some(facts), Some(watched)) = (self.mirror.namespaces.get(&netns), self.watched.get(&netns)) else {
            return;
        };
        let mut rescan = false;
        let told = if notification.kind == NEWNETCONF {
            let name = |index| facts.links.get(&index).map(|link| link.name.clone());
            sysctls::netconf(notification.payload, name).map_or_else(Vec::new, |settings| changed(facts, settings))
        } else if let Some(message) = notification.message() {
            if let (true, RouteNetlinkMessage::DelNsId(gone)) = (netns == self.node.inum, &message) {
                if let Some(nsid) = nsid_in(gone) {
                    self.ended(nsid, now_ns, events);
                }
                return;
            }
            rescan = netns == self.mirror.node && may_link_a_namespace(facts, &message);
            told(facts, &watched.nsids, &message, notification.replaces)
        } else {
            self.tell(FactsEvent::Lost { netns, mono_ns: now_ns, unread: 1 }, events);
            return;
        };
        if rescan {
            self.rescan_soon(now_ns);
        }
        for told in told {
            let event = match told {
                Told::What(what) => {
                    suspects.note(&what);
                    let by = self.authors.author(notification.port_id, netns, self.mirror.node, now_ns);
                    FactsEvent::Change(Change { mono_ns: now_ns, netns, what, by })
                }
                Told::Neighbour(entry, gone) => FactsEvent::Neighbour { netns, entry, gone },
                Told::Settings(settings) => FactsEvent::Sysctls { netns, settings },
            };
            self.tell(event, events);
        }
    }

    /// When a link goes down or away, the kernel drops the IPv4 routes over it and tells nobody
    /// (`fib_sync_down_dev`, `fib_sync_down_addr`). So we look which of them are gone.
    fn find_lost_routes(&mut self, netns: u32, now_ns: u64, suspects: &Suspects, events: &mut Vec<FactsEvent>) {
        let there = match self.inside(netns, || read::routes(&mut Requests::open()?)) {
            Ok(there) => there,
            Err(error) => {
                log::debug!("network namespace {netns}: cannot read the routes left: {error}");
                return;
            }
        };
        let Some(facts) = self.mirror.namespaces.get(&netns) else { return };
        let lost = facts.routes.iter().filter(|route| suspects.name(route) && !there.contains(route));
        for route in lost.cloned().collect::<Vec<_>>() {
            let what = What::RouteDeleted(route);
            self.tell(FactsEvent::Change(Change { mono_ns: now_ns, netns, what, by: Author::default() }), events);
        }
    }

    /// Notifications were dropped: read the namespace again.
    fn resync(&mut self, netns: u32, now_ns: u64, events: &mut Vec<FactsEvent>) {
        self.tell(FactsEvent::Lost { netns, mono_ns: now_ns, unread: 0 }, events);
        self.read_again(netns, now_ns, events);
    }

    /// Reads a namespace again.
    pub(super) fn read_again(&mut self, netns: u32, now_ns: u64, events: &mut Vec<FactsEvent>) {
        let (Some(watched), Some(old)) = (self.watched.get(&netns), self.mirror.namespaces.get(&netns)) else { return };
        let nsids = &watched.nsids;
        let read = self.inside(netns, || {
            let mut tables = read::tables(&mut Requests::open()?)?;
            tables.sysctls.extend(sysctls::of_this_namespace(old.kind));
            Ok(scan::facts(netns, old.kind, tables, nsids))
        });
        match read {
            Ok(mut facts) => {
                facts.inherit(old);
                self.tell(FactsEvent::Namespace(Box::new(facts)), events);
                self.rescan_soon(now_ns);
            }
            Err(error) => log::warn!("network namespace {netns}: cannot read it again: {error}"),
        }
    }

    /// Reads a namespace's settings again: the kernel announces few of their changes.
    /// Tells what has changed, and nothing if nothing has.
    pub fn refresh_sysctls(&mut self, netns: u32, now_ns: u64, events: &mut Vec<FactsEvent>) {
        // What is announced is taken first, so that it keeps its author.
        if let Err(error) = self.drain(now_ns, events) {
            log::warn!("{error:#}");
        }
        let Some(kind) = self.mirror.namespaces.get(&netns).map(|facts| facts.kind) else { return };
        let read = self.inside(netns, || {
            let mut settings = read::links(&mut Requests::open()?)?.1;
            settings.extend(sysctls::of_this_namespace(kind));
            Ok(settings)
        });
        let settings = match read {
            Ok(settings) => settings,
            Err(error) => {
                log::warn!("network namespace {netns}: cannot read its settings: {error}");
                return;
            }
        };
        let Some(facts) = self.mirror.namespaces.get(&netns) else { return };
        for told in changed(facts, settings) {
            let event = match told {
                Told::Settings(settings) => FactsEvent::Sysctls { netns, settings },
                Told::What(what) => FactsEvent::Change(Change { mono_ns: now_ns, netns, what, by: Author::default() }),
                Told::Neighbour(..) => continue,
            };
            self.tell(event, events);
        }
    }
}

/// A link of the node came, went or changed place: a namespace may have been linked, or be gone.
fn may_link_a_namespace(node: &NamespaceFacts, message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(message) => {
            links::link(message).is_some_and(|seen| !node.links.contains_key(&seen.link.index))
        }
        RouteNetlinkMessage::DelLink(message) => links::link(message).is_some(),
        RouteNetlinkMessage::NewNsId(_) => true,
        _ => false,
    }
}
