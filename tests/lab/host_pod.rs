//! A pod with `hostNetwork`: processes of a cgroup of their own, in the node's network namespace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::api;

/// Where cgroups of version 2 are mounted, as `/proc/self/mountinfo` says (`man 5 proc_pid_mountinfo`).
fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("a process has mounts");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split_whitespace().nth(4).map(PathBuf::from)
}

/// This process's cgroup.
fn own(root: &Path) -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").expect("a process has a cgroup");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("of version 2 too");
    root.join(path)
}

/// The cgroups of a pod and of its container, named as a kubelet does; gone when dropped.
pub struct HostPod {
    /// Its UID.
    pub uid: String,
    name: &'static str,
    root: PathBuf,
    /// Outermost first.
    made: Vec<PathBuf>,
    before: PathBuf,
}

impl HostPod {
    /// Makes them, or says that the test `test` is skipped: this machine has no cgroups of version 2.
    ///
    /// # Panics
    ///
    /// They cannot be made.
    #[must_use]
    pub fn start(test: &str, name: &'static str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Some(root) = mount_point() else {
            assert!(env::var_os("CI").is_none(), "{test} needs cgroups of version 2");
            println!("skipped: {test} needs cgroups of version 2");
            return None;
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{number:012x}", std::process::id());
        let top = root.join(format!("nptest{}-{number}", std::process::id()));
        let pod = top.join("kubepods").join(format!("pod{uid}"));
        let container = pod.join("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
        fs::create_dir_all(&container).expect("make cgroups");
        let made = vec![top.clone(), top.join("kubepods"), pod, container];
        Some(Self { uid, name, before: own(&root), root, made })
    }

    /// The pod, as the API server tells of it: it has the node's address.
    #[must_use]
    pub fn object(&self) -> Value {
        let mut pod = api::pod("shop", self.name, &api::host_name(), &["172.20.10.2".to_owned()]);
        pod["spec"]["hostNetwork"] = true.into();
        pod["metadata"]["uid"] = self.uid.clone().into();
        pod
    }

    /// One more container of the pod.
    ///
    /// # Panics
    ///
    /// Its cgroup cannot be made.
    pub fn another_container(&mut self) {
        let container = self.made[2].join("0".repeat(64));
        fs::create_dir(&container).expect("make a cgroup");
        self.made.push(container);
    }

    /// Does `work` as a process of its newest container: what it opens stays the pod's.
    ///
    /// # Panics
    ///
    /// This process cannot be moved.
    pub fn inside<R>(&self, work: impl FnOnce() -> R) -> R {
        let container = self.made.last().expect("it was made");
        enter(container);
        let _back = Back(&self.before);
        work()
    }

    /// Whether the cgroups can still be removed: nothing holds them.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let events = self.made.last().expect("it was made").join("cgroup.events");
        self.root.is_dir() && fs::read_to_string(events).is_ok_and(|text| text.contains("populated 0"))
    }
}

fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").expect("move this process to a cgroup");
}

/// Moves this process back, also when the work failed.
struct Back<'a>(&'a Path);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        enter(self.0);
    }
}

impl Drop for HostPod {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}
