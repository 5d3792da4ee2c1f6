//! Makes a fresh Debian 12 able to build and test netprobe.
//!
//! The machine itself is asked what it has, each time: no stamp can be wrong, and asking takes a few milliseconds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell::{ask, cargo, is_root, run as execute, say, text, which},
    toolchain::{self, Toolchain},
};

/// Programs that tests, demos and measurements call, and the Debian packages that hold them.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("bpftool", "bpftool"),
    ("bpftrace", "bpftrace"),
    ("cc", "gcc"),
    ("conntrack", "conntrack"),
    ("containerd", "containerd"),
    ("ethtool", "ethtool"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("kubectl", "kubernetes-client"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("python3", "python3"),
    ("runc", "runc"),
    ("sysctl", "procps"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
];

/// Programs that `cargo xtask vm` calls, and the Debian packages that hold them.
const GUESTS: &[(&str, &str)] = &[
    ("depmod", "kmod"),
    ("ipvsadm", "ipvsadm"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("ss", "iproute2"),
    ("strip", "binutils"),
    ("wg", "wireguard-tools"),
    ("xz", "xz-utils"),
];

/// A compiler with a prebuilt core for BPF: no nightly and no rust-src.
const COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// What bpf-linker is built with: [`toolchain::LINKER_LLVM`].
const LINKER: &[&str] = &["gcc", "libc6-dev", "llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"];
const LINKER_VERSION: &str = "0.13.0";

/// Installs what is missing; says so if nothing is.
pub(crate) fn run(root: &Path) -> Result<()> {
    let built = ensure(root)?;
    let guests = ensure_guests()?;
    if !built && !guests {
        say("setup", "nothing to do");
    }
    Ok(())
}

/// Installs what guests need. Returns whether anything was.
pub(crate) fn ensure_guests() -> Result<bool> {
    let packages = missing(&lacking(GUESTS))?;
    if !packages.is_empty() {
        install(&packages)?;
    }
    Ok(!packages.is_empty())
}

/// Packages of the programs that are not there.
fn lacking(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    programs.iter().filter(|(program, _)| which(program).is_none()).map(|p| p.1).collect()
}

/// Installs what is missing, one line a step. Returns whether anything was.
pub(crate) fn ensure(root: &Path) -> Result<bool> {
    let linker = !has_linker(root);
    let mut packages = lacking(PROGRAMS);
    if Toolchain::find().is_err() {
        packages.extend(COMPILER);
    }
    if linker {
        packages.extend(LINKER);
    }
    packages.sort_unstable();
    packages.dedup();
    let packages = missing(&packages)?;
    if !packages.is_empty() {
        install(&packages)?;
    }
    if linker && !take_linker(root) {
        build_linker(root)?;
        keep_linker(root);
    }
    let compiler = Toolchain::find().map_err(|why| anyhow::anyhow!("still no compiler for BPF: {why}"))?;
    let done = linker || !packages.is_empty();
    if done {
        say("setup", &format!("BPF programs will be built by {}", compiler.source));
    }
    Ok(done)
}

/// A linker that runs, and, where it is ours, in the version we want.
fn has_linker(root: &Path) -> bool {
    let Ok(linker) = toolchain::linker(root) else { return false };
    let Ok(version) = ask(Command::new(&linker).arg("--version")) else { return false };
    !linker.starts_with(toolchain::tools(root)) || version.trim().ends_with(LINKER_VERSION)
}

/// Where a built linker is kept between clones: to build it takes a minute and the network.
fn kept_linker() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("netprobe").join(format!("bpf-linker-{LINKER_VERSION}-llvm-{}", toolchain::LINKER_LLVM)))
}

fn own_linker(root: &Path) -> PathBuf {
    toolchain::tools(root).join("bin/bpf-linker")
}

/// Takes the kept linker, if there is one and it runs.
fn take_linker(root: &Path) -> bool {
    let Some(kept) = kept_linker().filter(|kept| ask(Command::new(kept).arg("--version")).is_ok()) else {
        return false;
    };
    let own = own_linker(root);
    let copied = own.parent().is_some_and(|folder| fs::create_dir_all(folder).is_ok()) && fs::copy(&kept, own).is_ok();
    let taken = copied && has_linker(root);
    if taken {
        say("setup", &format!("taking bpf-linker {LINKER_VERSION} from {}", kept.display()));
    }
    taken
}

/// Keeps the linker for the next clone; without a place for it, that one builds its own.
fn keep_linker(root: &Path) {
    let Some(kept) = kept_linker() else { return };
    let part = kept.with_extension("part");
    // A copy cut short must not be taken for a linker.
    let done = kept.parent().is_some_and(|folder| fs::create_dir_all(folder).is_ok())
        && fs::copy(own_linker(root), &part).is_ok()
        && fs::rename(&part, &kept).is_ok();
    if !done {
        let _ = fs::remove_file(part);
    }
}

/// Waits between tries of what needs the network: a name server or a registry may be away for minutes.
const WAITS: &[Duration] =
    &[Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60), Duration::from_secs(180)];

/// Runs `command` until it succeeds, the last time with `--offline`: what it needs may be in cargo's own cache.
fn patiently(mut command: Command) -> Result<()> {
    for wait in WAITS {
        let Err(failed) = execute(&mut command) else { return Ok(()) };
        say("setup", &format!("{failed:#}; trying again in {} s", wait.as_secs()));
        thread::sleep(*wait);
    }
    let line = text(&command);
    execute(command.arg("--offline")).with_context(|| format!("the command was `{line}`"))
}

/// Those of `packages` that are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    if packages.is_empty() {
        return Ok(vec![]);
    }
    // dpkg-query fails if it knows nothing of a package, and still prints the others.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(packages)
        .output()
        .with_context(|| by_hand("this is no Debian (there is no dpkg-query)", packages))?;
    let known = String::from_utf8_lossy(&output.stdout);
    let installed = |package: &str| known.lines().any(|line| line.strip_prefix("installed ") == Some(package));
    Ok(packages.iter().copied().filter(|package| !installed(package)).collect())
}

fn install(packages: &[&str]) -> Result<()> {
    if !is_root() {
        bail!(by_hand("cannot install packages without root", packages));
    }
    say("setup", &format!("installing {}", packages.join(" ")));
    let lists = fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut folder| {
        folder.any(|file| file.is_ok_and(|f| f.file_name().to_string_lossy().ends_with("_Packages")))
    });
    if lists && execute(&mut apt_install(packages)).is_ok() {
        return Ok(());
    }
    read_lists();
    execute(&mut apt_install(packages)).with_context(|| by_hand("apt-get could not install what is missing", packages))
}

/// Reads Debian's lists of packages anew. One dead source among many makes this fail; whether that matters shows in the
/// next step.
pub(crate) fn read_lists() {
    say("setup", "reading Debian's lists of packages");
    if let Err(failed) = execute(apt().arg("update")) {
        say("setup", &format!("{failed:#}"));
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-q",
        "-o",
        "Acquire::Retries=3",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
}

fn apt_install(packages: &[&str]) -> Command {
    let mut command = apt();
    command.args(["install", "-y", "--no-install-recommends"]).args(packages);
    command
}

fn by_hand(problem: &str, packages: &[&str]) -> String {
    format!(
        "{problem}; run `apt-get install {}` as root on Debian 12, or install by hand the like of it and bpf-linker \
         {LINKER_VERSION}",
        packages.join(" ")
    )
}

fn build_linker(root: &Path) -> Result<()> {
    let tools = toolchain::tools(root);
    let version = toolchain::LINKER_LLVM;
    let llvm = format!("/usr/lib/llvm-{version}");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = cargo(root);
    command
        .env("LLVM_PREFIX", &llvm)
        .env("PATH", format!("{llvm}/bin:{path}"))
        .env("RUSTFLAGS", format!("-L native={llvm}/lib"))
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{version}"), "--root"])
        .arg(&tools);
    say("setup", &format!("building bpf-linker {LINKER_VERSION} into {} (about a minute)", tools.display()));
    patiently(command).context("cannot build bpf-linker")
}

/// The Debian package that holds promtool, which the agent's metrics are held against.
const PROMETHEUS: &str = "prometheus";

/// Promtool in our own folder: its package would start a server, so only its files are taken.
pub(crate) fn ensure_promtool(root: &Path) -> Result<PathBuf> {
    let promtool = toolchain::tools(root).join("bin/promtool");
    if ask(Command::new(&promtool).arg("--version")).is_ok() {
        return Ok(promtool);
    }
    say("setup", &format!("taking promtool from Debian's package {PROMETHEUS} into {}", promtool.display()));
    let folder = toolchain::tools(root).join(PROMETHEUS);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
    let download = || execute(apt().arg("download").arg(PROMETHEUS).current_dir(&folder));
    if download().is_err() {
        read_lists();
        download().context("cannot download promtool")?;
    }
    let files = fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let package = files.iter().map(fs::DirEntry::path).find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.context("apt-get downloaded no package")?;
    execute(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&folder))?;
    fs::create_dir_all(promtool.with_file_name(""))?;
    fs::copy(folder.join("usr/bin/promtool"), &promtool).context("the package has no promtool")?;
    fs::remove_dir_all(&folder)?;
    Ok(promtool)
}

/// Programs that only `cargo xtask ci` calls, each with the version that its configuration is written for.
const CHECKERS: &[(&str, &str, &str)] = &[("cargo-deny", "cargo-deny", "0.20.2"), ("typos-cli", "typos", "1.52.0")];

/// Builds what is missing of [`CHECKERS`].
pub(crate) fn ensure_checkers(root: &Path) -> Result<()> {
    let tools = toolchain::tools(root);
    for (package, program, version) in CHECKERS {
        let there = ask(Command::new(tools.join("bin").join(program)).arg("--version"));
        if there.is_ok_and(|said| said.trim().ends_with(version)) {
            continue;
        }
        say("setup", &format!("building {package} {version} into {} (some minutes)", tools.display()));
        let mut command = cargo(root);
        command.args(["install", package, "--version", version, "--locked", "--quiet", "--root"]).arg(&tools);
        patiently(command)?;
    }
    Ok(())
}
