//! Programs attached to cgroups, and who of this namespace is in them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{fd::AsFd, linux::fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::Names;
use crate::{
    model::devices::CgroupProgram,
    probe::query::{Place, on_cgroup},
};

/// What can refuse a packet or a connection.
const PLACES: [(Place, &str); 6] = [
    (Place::CgroupIngress, "ingress"),
    (Place::CgroupEgress, "egress"),
    (Place::Connect4, "connect4"),
    (Place::Connect6, "connect6"),
    (Place::Sendmsg4, "sendmsg4"),
    (Place::Sendmsg6, "sendmsg6"),
];

/// cgroups looked at: a node of 250 pods has about 1,500.
const LOOKED_AT: usize = 20_000;

/// All of the host; empty without cgroup v2.
pub(super) fn programs(names: &Names) -> Vec<CgroupProgram> {
    let Some(root) = mount() else { return Vec::new() };
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    let mut looked_at = 0;
    while let Some(directory) = directories.pop() {
        looked_at += 1;
        if looked_at > LOOKED_AT {
            break;
        }
        attached(&root, &directory, names, &mut found);
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    if !found.is_empty() {
        let ours = own_cgroups();
        for program in &mut found {
            program.here = ours.iter().any(|path| is_below(path, &program.path));
        }
    }
    found
}

fn attached(root: &Path, directory: &Path, names: &Names, found: &mut Vec<CgroupProgram>) {
    let Ok(file) = File::open(directory) else { return };
    let below = directory.strip_prefix(root).unwrap_or(directory).to_string_lossy();
    for (place, hook) in PLACES {
        // A kernel without that place, or a cgroup that went away, has none.
        for id in on_cgroup(file.as_fd(), place).unwrap_or_default() {
            let (path, hook) = (format!("/{below}"), hook.to_owned());
            found.push(CgroupProgram { path, hook, program: names.program(id), here: false });
        }
    }
}

/// Programs that decide about `connect()` or `sendmsg()` of the processes in the calling thread's namespace, and not about
/// this process's: what it tries itself does not ask them.
pub(super) fn not_ours(names: &Names) -> Vec<CgroupProgram> {
    let own = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| unified(&text)).unwrap_or_default();
    programs(names).into_iter().filter(|program| program.here && !is_below(&own, &program.path)).collect()
}

/// Where cgroup v2 is mounted, if it is.
pub(in crate::facts) fn mount() -> Option<PathBuf> {
    mount_point(&fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default())
}

/// The same of these mounts (`man 5 proc_pid_mountinfo`: the type follows a lone dash).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split_whitespace().nth(4).map(PathBuf::from)
}

/// cgroups of the processes in the calling thread's network namespace.
fn own_cgroups() -> BTreeSet<String> {
    let inode = |path: &Path| fs::metadata(path).map(|meta| meta.st_ino()).ok();
    let Some(own) = inode(Path::new("/proc/thread-self/ns/net")) else { return BTreeSet::new() };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit()))
        .filter(|path| inode(&path.join("ns/net")) == Some(own))
        .filter_map(|path| unified(&fs::read_to_string(path.join("cgroup")).ok()?))
        .collect()
}

/// The process's cgroup v2 path.
fn unified(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

fn is_below(path: &str, cgroup: &str) -> bool {
    cgroup == "/" || path == cgroup || path.strip_prefix(cgroup).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_holds_what_is_below_it_and_not_its_neighbours() {
        assert!(is_below("/kubepods.slice/pod1", "/"));
        assert!(is_below("/kubepods.slice/pod1", "/kubepods.slice"));
        assert!(!is_below("/kubepods.slice/pod10", "/kubepods.slice/pod1"));
    }

    #[test]
    fn the_mount_point_is_that_of_version_two() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(unified("1:name=systemd:/x\n0::/kubepods/pod1\n").as_deref(), Some("/kubepods/pod1"));
    }
}
