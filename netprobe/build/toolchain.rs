//! Which compiler and which linker build the BPF programs. Shared by `build.rs`, which uses them, and by
//! `cargo xtask setup`, which installs what is missing.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The target triple of the programs: little endian, as every machine netprobe runs on.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Major version of the LLVM that our bpf-linker is built with. It reads what this or an older LLVM wrote.
pub(crate) const LINKER_LLVM: u32 = 22;

/// Variables that change the choice; the build runs again when one changes.
pub(crate) const VARIABLES: &[&str] =
    &["NETPROBE_BPF_OBJECT", "NETPROBE_BPF_RUSTC", "NETPROBE_BPF_TOOLCHAIN", "NETPROBE_TOOLS", "BPF_LINKER"];

/// A compiler that can build for [`TARGET`].
pub(crate) struct Toolchain {
    /// Where it came from, for messages.
    pub(crate) source: String,
    /// Its cargo.
    pub(crate) cargo: PathBuf,
    /// Its compiler.
    pub(crate) rustc: PathBuf,
    /// It has no prebuilt `core`, but the source to build one (`-Z build-std`).
    pub(crate) build_std: bool,
}

impl Toolchain {
    /// The first that works: the one named by `NETPROBE_BPF_RUSTC`, rustup's nightly (or
    /// `NETPROBE_BPF_TOOLCHAIN`) if it has rust-src, the system's with a prebuilt core (Debian's rustc-web and
    /// libstd-rust-web-dev-bpf).
    ///
    /// # Errors
    ///
    /// Says of each why it does not work.
    pub(crate) fn find() -> Result<Self, String> {
        if let Some(rustc) = env::var_os("NETPROBE_BPF_RUSTC") {
            return Self::inspect("NETPROBE_BPF_RUSTC", PathBuf::from(rustc));
        }
        let name = env::var("NETPROBE_BPF_TOOLCHAIN").unwrap_or_else(|_| "nightly".into());
        let nightly = match Self::rustup(&name) {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        Self::inspect("the system's rustc", "/usr/bin/rustc".into()).map_err(|system| format!("{nightly}; {system}"))
    }

    /// A toolchain that rustup has installed.
    fn rustup(name: &str) -> Result<Self, String> {
        let output = Command::new("rustup")
            .args(["which", "--toolchain", name, "rustc"])
            // To ask must not mean to install.
            .env("RUSTUP_AUTO_INSTALL", "0")
            .output()
            .map_err(|e| format!("rustup does not run ({e})"))?;
        if !output.status.success() {
            return Err(format!("rustup has no toolchain {name}"));
        }
        let rustc = path_of(&output.stdout);
        // A linker that the user names may well be newer than ours.
        if let Some(llvm) = llvm(&rustc).filter(|llvm| *llvm > LINKER_LLVM && env::var_os("BPF_LINKER").is_none()) {
            return Err(format!("rustup's {name} has LLVM {llvm}, too new for bpf-linker's {LINKER_LLVM}"));
        }
        Self::inspect(&format!("rustup's {name}"), rustc)
    }

    /// What `rustc` can do for us, or why nothing.
    fn inspect(source: &str, rustc: PathBuf) -> Result<Self, String> {
        let sysroot = sysroot(&rustc).ok_or_else(|| format!("{source} ({}) does not run", rustc.display()))?;
        let cargo = [rustc.with_file_name("cargo"), sysroot.join("bin/cargo")]
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| format!("{source} ({}) has no cargo beside it", rustc.display()))?;
        let build_std = !has_core(&sysroot);
        if build_std && !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
            return Err(format!("{source} has neither a prebuilt core for {TARGET} nor rust-src"));
        }
        Ok(Self { source: source.into(), cargo, rustc, build_std })
    }
}

/// bpf-linker: `BPF_LINKER`, then `$NETPROBE_TOOLS/bin`, then `.tools/bin` below `root`, then `PATH`.
pub(crate) fn linker(root: &Path) -> Result<PathBuf, String> {
    if let Some(named) = env::var_os("BPF_LINKER").map(PathBuf::from) {
        return if named.exists() { Ok(named) } else { Err(format!("BPF_LINKER={} does not exist", named.display())) };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    [tools(root).join("bin")]
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("bpf-linker"))
        .find(|file| file.exists())
        .ok_or_else(|| format!("there is no bpf-linker in {} nor in PATH", tools(root).join("bin").display()))
}

/// Where tools of the build are installed: `NETPROBE_TOOLS` (worktrees may share one), else `.tools` below `root`.
pub(crate) fn tools(root: &Path) -> PathBuf {
    env::var_os("NETPROBE_TOOLS").map_or_else(|| root.join(".tools"), PathBuf::from)
}

fn llvm(rustc: &Path) -> Option<u32> {
    let output = Command::new(rustc).arg("-vV").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_once("LLVM version: ")?.1.split('.').next()?.parse().ok()
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| path_of(&output.stdout))
}

fn has_core(sysroot: &Path) -> bool {
    let folder = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    folder
        .read_dir()
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore")))
}

fn path_of(stdout: &[u8]) -> PathBuf {
    String::from_utf8_lossy(stdout).trim().into()
}
