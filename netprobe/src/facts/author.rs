//! Who made a change, from the port id of the request.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::namespaces::{number, pids};
use crate::model::facts::Author;

/// How long an answer is taken for true, nanoseconds: a process may end and its number be used again.
const REMEMBER_NS: u64 = 2_000_000_000;

/// Port ids to processes.
#[derive(Debug, Default)]
pub(super) struct Authors {
    known: BTreeMap<(u32, u32), (u64, Author)>,
    /// Processes in pid namespaces of their own, by the number they have there.
    contained: BTreeMap<u32, Vec<u32>>,
    contained_since_ns: Option<u64>,
}

impl Authors {
    /// Who sent the request of that port, as seen from a namespace in which it changed something.
    ///
    /// The kernel gives a process's first rtnetlink socket its pid as port id: the pid in the pid namespace of the process,
    /// so several processes can have the same. We name one only if nobody else can be meant.
    pub(super) fn author(&mut self, port_id: u32, netns: u32, node: u32, now_ns: u64) -> Author {
        // Further sockets of a process get random ids above 2^31 (netlink_autobind), which say nothing.
        if port_id == 0 || i32::try_from(port_id).is_err() {
            return Author { port_id, process: None, netns: None };
        }
        self.known.retain(|_, (since_ns, _)| now_ns.saturating_sub(*since_ns) < REMEMBER_NS);
        if let Some((_, author)) = self.known.get(&(port_id, netns)) {
            return author.clone();
        }
        // Looking through all processes costs milliseconds; a CNI plugin's many short `ip` must not cost one each.
        if self.contained_since_ns.is_none_or(|since_ns| now_ns.saturating_sub(since_ns) >= REMEMBER_NS) {
            self.contained = contained();
            self.contained_since_ns = Some(now_ns);
        }
        let contained = self.contained.get(&port_id).into_iter().flatten().copied();
        let author = find(port_id, [port_id].into_iter().chain(contained), netns, node);
        self.known.insert((port_id, netns), (now_ns, author.clone()));
        author
    }
}

fn contained() -> BTreeMap<u32, Vec<u32>> {
    let mut contained: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in pids() {
        if let Some(own) = innermost_pid(pid).filter(|own| *own != pid) {
            contained.entry(own).or_default().push(pid);
        }
    }
    contained
}

fn find(port_id: u32, pids: impl IntoIterator<Item = u32>, netns: u32, node: u32) -> Author {
    let mut meant: Vec<(u32, String, u32)> = vec![];
    for pid in pids {
        if innermost_pid(pid) != Some(port_id) {
            continue;
        }
        let root = process(pid);
        // A kernel thread has no executable and sends no request.
        let (Ok(_), Some(at)) = (fs::read_link(root.join("exe")), number(&root.join("ns/net"))) else { continue };
        // A CNI plugin runs in the node's namespace and enters the pod's for the change.
        if at != netns && at != node {
            continue;
        }
        let comm = fs::read_to_string(root.join("comm")).unwrap_or_default().trim_end().to_owned();
        meant.push((pid, comm, at));
    }
    match meant.pop() {
        Some((pid, comm, at)) if meant.is_empty() => Author { port_id, process: Some((pid, comm)), netns: Some(at) },
        _ => Author { port_id, process: None, netns: None },
    }
}

fn process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The pid a process has for itself.
fn innermost_pid(pid: u32) -> Option<u32> {
    innermost(&fs::read_to_string(process(pid).join("status")).ok()?)
}

fn innermost(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_in_a_container_goes_by_its_own_number() {
        assert_eq!(innermost("Name:\tipamd\nNSpid:\t4711\t11\n"), Some(11));
        assert_eq!(innermost("Name:\tip\nNSpid:\t4711\n"), Some(4711));
        assert_eq!(innermost("Name:\tip\n"), None);
    }

    #[test]
    fn the_kernel_and_a_random_port_have_no_process() {
        let mut authors = Authors::default();
        assert_eq!(authors.author(0, 1, 1, 0), Author::default());
        assert_eq!(authors.author(0xffff_f000, 1, 1, 0).process, None);
    }

    #[test]
    fn this_process_is_named_in_its_own_namespace_only() {
        let own = number(Path::new("/proc/self/ns/net")).unwrap();
        let pid = std::process::id();
        let port_id = innermost_pid(pid).unwrap();
        let by = find(port_id, [pid], own, own);
        assert_eq!(by.process.map(|(found, _)| found), Some(pid));
        assert_eq!(find(port_id, [pid], 1, 2).process, None);
        assert_eq!(find(port_id, [pid, pid], own, own).process, None, "two may be meant");
    }
}
