//! The kernels of the guests: Debian's own packages.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup,
    shell::{ask, run as execute, say, which},
    toolchain,
};

/// A kernel of the matrix. What it has is asked of it; the name only says which package to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's own: no TCX links, two arguments fewer at some tracepoints.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's, as Debian 12's security archive has it.
    #[value(name = "6.12")]
    V6_12,
}

/// What a node of a cluster has loaded, as far as the stories, the faults and the hooks need it. What these modules
/// need comes by itself.
const MODULES: &[&str] = &[
    // links
    "bonding",
    "bridge",
    "br_netfilter",
    "dummy",
    "geneve",
    "ipip",
    "ipvlan",
    "macvlan",
    "tun",
    "veth",
    "vrf",
    "vxlan",
    "wireguard",
    "8021q",
    // queues and filters
    "act_bpf",
    "act_gact",
    "act_mirred",
    "cls_bpf",
    "cls_u32",
    "sch_fq_codel",
    "sch_htb",
    "sch_ingress",
    "sch_netem",
    "sch_tbf",
    // netfilter
    "ip6_tables",
    "ip6table_filter",
    "ip6table_mangle",
    "ip6table_nat",
    "ip6table_raw",
    "ip6t_REJECT",
    "ip_set",
    "ip_set_hash_ip",
    "ip_set_hash_net",
    "ip_tables",
    "ip_vs",
    "ip_vs_rr",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "iptable_raw",
    "ipt_REJECT",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nfnetlink_queue",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_queue",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "xt_MASQUERADE",
    "xt_NFQUEUE",
    "xt_addrtype",
    "xt_bpf",
    "xt_comment",
    "xt_conntrack",
    "xt_limit",
    "xt_mark",
    "xt_multiport",
    "xt_nat",
    "xt_set",
    "xt_state",
    "xt_statistic",
    "xt_tcpudp",
    // sockets, as `ss` asks for them
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
];

impl Kernel {
    /// All, oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As on the command line and in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Debian's package is this, a number, and the second.
    pub(super) const fn package(self) -> (&'static str, &'static str) {
        match self {
            Self::V6_1 => ("linux-image-6.1.0-", "-cloud-amd64"),
            Self::V6_12 => ("linux-image-6.12.", "+deb12-cloud-amd64"),
        }
    }

    /// The number in the name of one of its packages.
    pub(super) fn number(self, package: &str) -> Option<u32> {
        let (before, after) = self.package();
        package.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
    }
}

/// A kernel's package, unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// What `uname -r` will say.
    pub(super) release: String,
    folder: PathBuf,
}

impl Unpacked {
    /// The newest that Debian has, fetched if it is not there from an earlier run.
    pub(super) fn fetch(root: &Path, kernel: Kernel) -> Result<Self> {
        let kept = toolchain::tools(root).join("kernels");
        let package = match newest(kernel)? {
            Some(package) => package,
            None => {
                setup::read_lists();
                let (before, after) = kernel.package();
                newest(kernel)?.with_context(|| {
                    format!("apt knows no package {before}*{after}; guests need Debian 12 with its security archive")
                })?
            }
        };
        let folder = kept.join(&package);
        if !folder.exists() {
            download(&package, &kept)?;
        }
        let release = release(&package).to_owned();
        Ok(Self { release, folder })
    }

    /// The kernel itself.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Our modules and what they need, in the order in which they can be loaded: name and content.
    pub(super) fn modules(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let modules = self.folder.join("lib/modules").join(&self.release);
        let read = |name: &str| {
            let path = modules.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let order = in_order(&read("modules.dep")?, &read("modules.builtin")?);
        for name in &order.missing {
            say("vm", &format!("Linux {} has no module {name}", self.release));
        }
        order.paths.iter().map(|path| Ok((module(path).to_owned(), unpacked(&modules.join(path))?))).collect()
    }
}

/// What the kernel of a package calls itself.
pub(super) fn release(package: &str) -> &str {
    package.strip_prefix("linux-image-").unwrap_or(package)
}

/// The newest package that apt knows.
fn newest(kernel: Kernel) -> Result<Option<String>> {
    let names = ask(Command::new("apt-cache").args(["pkgnames", kernel.package().0]))?;
    let numbered = names.lines().filter_map(|name| Some((kernel.number(name)?, name)));
    Ok(numbered.max().map(|(_, name)| name.to_owned()))
}

fn download(package: &str, kept: &Path) -> Result<()> {
    say("vm", &format!("fetching {package}"));
    let part = kept.join(format!("{package}.part"));
    unpack(package, &part)?;
    let whole = kept.join(package);
    fs::rename(&part, &whole).with_context(|| format!("make {}", whole.display()))
}

/// Fetches a package and unpacks it into the folder, with a list of its modules.
pub(super) fn unpack(package: &str, part: &Path) -> Result<()> {
    // From a run that was cut short.
    let _ = fs::remove_dir_all(part);
    fs::create_dir_all(part).with_context(|| format!("make {}", part.display()))?;
    execute(
        Command::new("apt-get").args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]).current_dir(part),
    )?;
    let file =
        fs::read_dir(part)?.flatten().map(|entry| entry.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
    let file = file.with_context(|| format!("apt-get downloaded no {package}"))?;
    execute(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(part))?;
    fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    let depmod = which("depmod").context("no depmod; run `cargo xtask setup`")?;
    execute(Command::new(depmod).arg("--basedir").arg(part).arg(release(package)))
}

/// The file of a module in an unpacked package; `None` where it is built in, or not there at all.
pub(super) fn module_file(unpacked: &Path, release: &str, name: &str) -> Result<Option<PathBuf>> {
    let modules = unpacked.join("lib/modules").join(release);
    let listing = modules.join("modules.dep");
    let listing = fs::read_to_string(&listing).with_context(|| format!("read {}", listing.display()))?;
    let mut paths = listing.lines().filter_map(|line| line.split_once(':')).map(|(path, _)| path);
    Ok(paths.find(|path| module(path) == name).map(|path| modules.join(path)))
}

/// The paths of modules to load, and those of [`MODULES`] that this kernel has in no way.
struct Order {
    paths: Vec<String>,
    missing: Vec<&'static str>,
}

/// `dependencies` is depmod's modules.dep: a path, a colon, and what it needs, nearest first.
fn in_order(dependencies: &str, builtin: &str) -> Order {
    let lines: HashMap<&str, (&str, &str)> =
        dependencies.lines().filter_map(|l| l.split_once(':')).map(|line| (module(line.0), line)).collect();
    let mut order = Order { paths: vec![], missing: vec![] };
    for name in MODULES {
        let Some((path, needs)) = lines.get(name) else {
            if !builtin.lines().any(|path| module(path) == *name) {
                order.missing.push(name);
            }
            continue;
        };
        for path in needs.split_whitespace().rev().chain([*path]) {
            if !order.paths.iter().any(|there| there == path) {
                order.paths.push(path.to_owned());
            }
        }
    }
    order
}

/// The name of the module in the file `path`, with `-` where the file has it.
fn module(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(name, _)| name)
}

pub(super) fn unpacked(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("read {}", path.display()));
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output();
    let output = output.context("no xz; run `cargo xtask setup`")?;
    if !output.status.success() {
        bail!("xz cannot read {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_the_kernels_own_packages() {
        assert_eq!(Kernel::V6_1.number("linux-image-6.1.0-56-cloud-amd64"), Some(56));
        assert_eq!(Kernel::V6_1.number("linux-image-6.1.0-56-cloud-amd64-dbg"), None);
        assert_eq!(Kernel::V6_12.number("linux-image-6.12.117+deb12-cloud-amd64"), Some(117));
        assert_eq!(Kernel::V6_12.number("linux-image-6.12.117+deb12-rt-amd64"), None);
    }

    #[test]
    fn loads_what_a_module_needs_before_it_and_once() {
        let dep = "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
                   kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz\n\
                   kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz kernel/net/802/stp.ko.xz \
                   kernel/net/llc/llc.ko.xz\n";
        let order = in_order(dep, "kernel/drivers/net/veth.ko\n");
        let names: Vec<&str> = order.paths.iter().map(|path| module(path)).collect();
        assert_eq!(names, ["llc", "stp", "bridge", "br_netfilter"]);
        assert!(order.missing.contains(&"dummy") && !order.missing.contains(&"veth"), "{:?}", order.missing);
    }
}
