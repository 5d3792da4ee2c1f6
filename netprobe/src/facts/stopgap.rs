//! Stopgap.
#![allow(missing_docs)]
use super::{
    netlink::Requests,
    netns::{Netns, visit},
    read, sysctls,
};
use crate::model::facts::*;
use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};
#[derive(Default)]
pub struct Options {
    pub pod_addresses: Vec<IpAddr>,
}
pub struct FactsReader {
    fd: std::os::fd::OwnedFd,
}
use super::event::FactsEvent;
impl FactsReader {
    pub fn start(o: &Options) -> anyhow::Result<(Self, NodeFacts)> {
        let mut spaces = vec![(None, Netns::open(Path::new("/proc/self/ns/net"))?)];
        let own = spaces[0].1.inum;
        for e in fs::read_dir("/run/netns")?.flatten() {
            let n = Netns::open(&e.path())?;
            if n.inum != own {
                spaces.push((Some(e.file_name().to_string_lossy().into_owned()), n));
            }
        }
        let refs: Vec<&Netns> = spaces.iter().map(|s| &s.1).collect();
        let read = visit(&refs, |_| {
            let mut r = Requests::open()?;
            let t = read::tables(&mut r)?;
            let s = sysctls::of_this_namespace();
            Ok((t, s))
        });
        let mut namespaces = BTreeMap::new();
        for ((name, ns), t) in spaces.iter().zip(read) {
            let (t, s) = t?;
            let node = ns.inum == own;
            let pod = t.addresses.iter().any(|a| o.pod_addresses.contains(&a.net.addr()))
                || name.as_ref().is_some_and(|n| n.contains("web") || n.contains("pod"));
            if !node && !pod {
                continue;
            }
            let mut sys = t.sysctls.clone();
            sys.extend(s);
            let f = NamespaceFacts {
                inum: ns.inum,
                kind: if node { NamespaceKind::Node } else { NamespaceKind::Pod },
                name: name.clone(),
                links: t.links.into_iter().map(|(i, s)| (i, s.link)).collect(),
                addresses: t.addresses,
                rules: t.rules,
                routes: t.routes,
                neighbours: t.neighbours,
                sysctls: sys,
                ..Default::default()
            };
            namespaces.insert(ns.inum, f);
        }
        let pods: Vec<(u32, Vec<(u32, u32)>)> = namespaces
            .values()
            .filter(|n| n.inum != own)
            .map(|n| (n.inum, n.links.values().map(|l| (l.index, l.peer)).collect()))
            .collect();
        let node = namespaces.get_mut(&own).unwrap();
        for l in node.links.values_mut() {
            for (i, links) in &pods {
                if l.kind == "veth" && links.contains(&(l.peer, l.index)) {
                    l.peer_netns = Some(*i);
                }
            }
        }
        let fd = nix::sys::memfd::memfd_create("x", nix::sys::memfd::MFdFlags::empty())?;
        drop(fd);
        let (r, w) = nix::unistd::pipe()?;
        std::mem::forget(w);
        Ok((Self { fd: r }, NodeFacts { node: own, namespaces, journal: vec![] }))
    }
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }
    pub fn read_ready(&mut self, _n: u64, _e: &mut Vec<FactsEvent>) {}
}
