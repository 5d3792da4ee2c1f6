//! Whom the user means, on the node as it is now.

use std::{
    fs,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    cli::select::Target,
    enrich::{
        cgroup,
        select::{Followed, Whose, resolve},
    },
    model::{facts::NodeFacts, inventory::Inventory},
};

/// Whom the target means, on the node as it is now.
pub(super) fn whom(target: &Target, inventory: &Inventory, facts: &NodeFacts, here: &str) -> Result<Followed> {
    let netns = |inum: u32, asked: &str| resolve(Whose::Netns { inum, asked }, inventory, facts, here);
    Ok(match target {
        Target::All => resolve(Whose::All, inventory, facts, here)?,
        Target::Pods { namespace, name, labels } => {
            let test = |pod: &[(String, String)]| labels.as_ref().is_none_or(|l| l.matches(pod));
            let labels = labels.is_some().then_some(&test as &dyn Fn(&[(String, String)]) -> bool);
            let whose = Whose::Pods { namespace: namespace.as_deref(), name: name.as_deref(), labels };
            resolve(whose, inventory, facts, here)?
        }
        Target::Netns(name) => netns(netns_inum(name)?, name)?,
        Target::Pid(pid) => {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let meta = fs::metadata(&path).with_context(|| format!("there is no process {pid} that we may look at"))?;
            netns(u32::try_from(meta.st_ino())?, &format!("pid {pid}"))?
        }
        Target::Container(id) => {
            let has = |path: &str| cgroup::parse(path).container.is_some_and(|c| c.starts_with(id.as_str()));
            let found = facts.namespaces.values().find(|n| n.cgroup.as_deref().is_some_and(has));
            let Some(found) = found else { bail!("no container `{id}` with a namespace linked into this node") };
            netns(found.inum, id)?
        }
    })
}

fn netns_inum(name: &str) -> Result<u32> {
    let path = if name.contains('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) };
    let meta = fs::metadata(&path).with_context(|| format!("no network namespace `{name}` ({})", path.display()))?;
    Ok(u32::try_from(meta.st_ino())?)
}
