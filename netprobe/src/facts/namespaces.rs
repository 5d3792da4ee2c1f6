//! Finding network namespaces: who refers to them, what they are called, and how they are linked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::SystemTime,
};

use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    nsid::{NsidAttribute, NsidMessage},
};

use super::{
    netlink::Requests,
    netns::{Netns, inum},
};

/// Where container engines and `ip netns` keep namespaces by name.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// Processes kept per namespace.
const PIDS: usize = 8;

/// Who refers to a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holders {
    /// Its file among [`NAMED`].
    pub(super) file: Option<PathBuf>,
    /// Processes in it, lowest first.
    pub(super) pids: Vec<u32>,
}

impl Holders {
    /// A path that opens it.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.file.clone().or_else(|| self.pids.first().map(|pid| process_path(*pid)))
    }

    /// Name of its file.
    pub(super) fn name(&self) -> Option<String> {
        self.file.as_ref()?.file_name()?.to_str().map(str::to_owned)
    }

    /// cgroup of its first process.
    pub(super) fn cgroup(&self) -> Option<String> {
        cgroup(&fs::read_to_string(format!("/proc/{}/cgroup", self.pids.first()?)).ok()?)
    }

    /// Opens the namespace by whichever of them still refers to it.
    pub(super) fn open(&self, netns: u32) -> io::Result<Netns> {
        let paths = self.file.iter().cloned().chain(self.pids.iter().map(|pid| process_path(*pid)));
        let mut open = paths.filter_map(|path| Netns::open(&path).ok().filter(|opened| opened.inum == netns));
        open.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nobody refers to it any more"))
    }
}

fn process_path(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// Inode number of the namespace a path refers to.
pub(super) fn number(path: &Path) -> Option<u32> {
    inum(&fs::metadata(path).ok()?).ok()
}

/// Every namespace that has a process or a name, by inode number.
pub(super) fn all() -> BTreeMap<u32, Holders> {
    let mut found: BTreeMap<u32, Holders> = BTreeMap::new();
    // /var/run is /run on most machines.
    let directories: BTreeSet<PathBuf> =
        NAMED.iter().filter_map(|directory| fs::canonicalize(directory).ok()).collect();
    for directory in directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // A name whose namespace was not mounted (yet) is a file of another file system.
            let Some(netns) = on_nsfs(&entry.path()) else { continue };
            found.entry(netns).or_default().file.get_or_insert_with(|| entry.path());
        }
    }
    for pid in pids() {
        let Some(netns) = number(&process_path(pid)) else { continue };
        let holders = found.entry(netns).or_default();
        if holders.pids.len() < PIDS {
            holders.pids.push(pid);
        }
    }
    found
}

/// When names last came or went: the directories' own times. Asking costs two `stat`; being told
/// by inotify would cost up to half a second at exit, where the kernel waits for all its readers.
pub(super) fn names_changed_at() -> Vec<Option<SystemTime>> {
    NAMED.iter().map(|directory| fs::metadata(directory).and_then(|m| m.modified()).ok()).collect()
}

fn on_nsfs(path: &Path) -> Option<u32> {
    let kind = nix::sys::statfs::statfs(path).ok()?.filesystem_type();
    (kind == nix::sys::statfs::NSFS_MAGIC).then(|| number(path)).flatten()
}

/// Processes, lowest first.
pub(super) fn pids() -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The path in the unified hierarchy, else in the first named one of version 1.
fn cgroup(text: &str) -> Option<String> {
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let unified = text.lines().find(|line| line.starts_with("0::")).and_then(path).filter(|p| p != "/");
    unified.or_else(|| text.lines().filter_map(path).find(|p| p != "/")).or_else(|| text.lines().find_map(path))
}

/// The number by which the namespace of `requests` knows `other`, if it does: what `IFLA_LINK_NETNSID` says.
pub(super) fn nsid(requests: &mut Requests, other: &Netns) -> io::Result<Option<i32>> {
    let fd = u32::try_from(other.file().as_raw_fd()).map_err(io::Error::other)?;
    let mut request = NsidMessage::default();
    request.attributes.push(NsidAttribute::Fd(fd));
    let Some(Message::NewNsId(answer)) = requests.get(Message::GetNsId(request))? else { return Ok(None) };
    // NETNSA_NSID_NOT_ASSIGNED is -1.
    Ok(nsid_in(&answer).filter(|id| *id >= 0))
}

/// Has the kernel number `other` in the namespace of `requests`, as the kernel itself does whenever a link must name a
/// namespace: without a number its changes are not heard there. The number ends with the namespace.
pub(super) fn number_it(requests: &mut Requests, other: &Netns) -> io::Result<Option<i32>> {
    let fd = u32::try_from(other.file().as_raw_fd()).map_err(io::Error::other)?;
    let mut request = NsidMessage::default();
    // -1 leaves the choice to the kernel.
    request.attributes = vec![NsidAttribute::Id(-1), NsidAttribute::Fd(fd)];
    match requests.get(Message::NewNsId(request)) {
        // The kernel was faster: a link had to name it meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        answer => drop(answer?),
    }
    nsid(requests, other)
}

/// The number in a notification about one.
pub(super) fn nsid_in(message: &NsidMessage) -> Option<i32> {
    message.attributes.iter().find_map(|a| if let NsidAttribute::Id(id) = a { Some(*id) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_is_the_unified_one_where_it_says_something() {
        assert_eq!(cgroup("0::/kubepods/pod1/c1\n").as_deref(), Some("/kubepods/pod1/c1"));
        let hybrid = "12:cpu,cpuacct:/kubepods/pod1/c1\n1:name=systemd:/x\n0::/\n";
        assert_eq!(cgroup(hybrid).as_deref(), Some("/kubepods/pod1/c1"));
        assert_eq!(cgroup("0::/\n").as_deref(), Some("/"));
        assert_eq!(cgroup(""), None);
    }

    #[test]
    fn this_process_is_found_in_its_own_namespace() {
        let own = number(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(all()[&own].open(own).unwrap().inum, own);
    }

    #[test]
    fn a_namespace_nobody_refers_to_cannot_be_opened() {
        let holders = Holders { file: Some("/run/netns/no such name".into()), pids: vec![] };
        assert!(holders.open(1).is_err());
    }

    #[test]
    fn a_path_that_leads_to_another_namespace_by_now_is_not_taken() {
        let holders = Holders { file: Some("/proc/self/ns/net".into()), pids: vec![] };
        assert!(holders.open(1).is_err());
    }
}
