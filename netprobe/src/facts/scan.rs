//! One namespace looked at from inside: is it linked into the node, and what is in it?

use std::{collections::BTreeMap, io};

use super::{
    namespaces::{self, Holders},
    netlink::Requests,
    netns::Netns,
    read::{self, Tables},
    sysctls,
};
use crate::model::facts::{Link, NamespaceFacts, NamespaceKind};

/// A namespace we follow. We hold nothing of it: see [`super::listen`].
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Other namespaces by the number this one knows them by (`IFLA_LINK_NETNSID`).
    pub(super) nsids: BTreeMap<i32, u32>,
    /// Who refers to it.
    pub(super) holders: Holders,
}

/// What a look found.
pub(super) struct Look {
    pub(super) nsids: BTreeMap<i32, u32>,
    pub(super) facts: NamespaceFacts,
    /// Messages that could not be read.
    pub(super) unread: u64,
}

/// Whether the settings that only /proc has are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// No: there are too many namespaces.
    Netlink,
    /// Yes.
    Files,
}

/// Reads the namespace the calling thread is in.
///
/// `None` if it has no link whose other end or parent is in the node's.
pub(super) fn look(netns: &Netns, node: &Netns, depth: Depth) -> io::Result<Option<Look>> {
    let mut requests = Requests::open()?;
    let mut nsids = BTreeMap::new();
    if netns.inum != node.inum {
        let peers = read::peer_nsids(&mut requests)?;
        // Asked after the links: listing them is what makes the kernel give the node a number here.
        let id = namespaces::nsid(&mut requests, node)?;
        if !id.is_some_and(|id| peers.contains(&id)) {
            return Ok(None);
        }
        nsids.extend(id.map(|id| (id, node.inum)));
    }
    let mut tables = read::tables(&mut requests)?;
    let kind = if netns.inum == node.inum { NamespaceKind::Node } else { NamespaceKind::Pod };
    if depth == Depth::Files {
        tables.sysctls.extend(sysctls::of_this_namespace(kind));
    } else {
        tables.sysctls.extend(sysctls::told_of_all(&mut requests)?);
    }
    let facts = facts(netns.inum, kind, tables, &nsids);
    Ok(Some(Look { nsids, facts, unread: requests.unread }))
}

/// Facts from tables. Who is in the namespace and since when is for the caller to add.
pub(super) fn facts(inum: u32, kind: NamespaceKind, tables: Tables, nsids: &BTreeMap<i32, u32>) -> NamespaceFacts {
    let Tables { links, addresses, rules, routes, neighbours, sysctls } = tables;
    let resolve = |seen: super::links::Seen| Link {
        peer_netns: seen.peer_nsid.and_then(|id| nsids.get(&id)).copied(),
        ..seen.link
    };
    NamespaceFacts {
        inum,
        kind,
        links: links.into_iter().map(|(index, seen)| (index, resolve(seen))).collect(),
        addresses,
        rules,
        routes,
        neighbours,
        sysctls,
        ..NamespaceFacts::default()
    }
}
