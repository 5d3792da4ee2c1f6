//! Builds the BPF programs inside the ordinary `cargo build`, into `$OUT_DIR/netprobe.bpf.o`.
//!
//! `NETPROBE_BPF_OBJECT=path` takes a prebuilt object instead (packagers, machines without a BPF toolchain). Which
//! compiler is used otherwise: [`toolchain`].

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "build/toolchain.rs"]
mod toolchain;

use toolchain::Toolchain;

fn main() {
    if let Err(message) = run() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn run() -> Result<(), String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().ok_or("the package netprobe is not in a workspace")?;
    for name in toolchain::VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["netprobe/build.rs", "netprobe/build", "netprobe-ebpf", "netprobe-common", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let object = match env::var_os("NETPROBE_BPF_OBJECT") {
        Some(prebuilt) => {
            println!("cargo::rerun-if-changed={}", Path::new(&prebuilt).display());
            prebuilt.into()
        }
        None => compile(root, &out.join("bpf"))?,
    };
    let target = out.join("netprobe.bpf.o");
    fs::copy(&object, &target).map_err(|e| format!("cannot copy the BPF object {}: {e}", object.display()))?;
    Ok(())
}

/// Builds the package netprobe-ebpf and says where the object is.
fn compile(root: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let help = "run `cargo xtask setup` as root, or set NETPROBE_BPF_OBJECT to a prebuilt object";
    let chosen = Toolchain::find().map_err(|why| format!("no compiler for BPF: {why}; {help}"))?;
    let linker = toolchain::linker(root).map_err(|why| format!("no linker for BPF: {why}; {help}"))?;
    let mut cargo = Command::new(&chosen.cargo);
    clear_outer_cargo(&mut cargo);
    cargo
        .current_dir(root)
        .env("RUSTC", &chosen.rustc)
        // Only the crates that need unstable features get them; a global 1 would also change what build scripts of
        // dependencies probe for.
        .env("RUSTC_BOOTSTRAP", if chosen.build_std { "1" } else { "aya_ebpf,netprobe_bpf" })
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&linker)?.join("\x1f"))
        .args(["build", "--release", "--locked", "--package", "netprobe-ebpf", "--bins"])
        .args(["--target", toolchain::TARGET, "--target-dir"])
        .arg(target_dir);
    if chosen.build_std {
        cargo.args(["-Z", "build-std=core"]);
    }
    let output = cargo.output().map_err(|e| format!("cannot run {}: {e}", chosen.cargo.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{said}\nthe BPF programs do not build with {}", chosen.source));
    }
    Ok(target_dir.join(toolchain::TARGET).join("release/netprobe-bpf"))
}

fn flags(linker: &Path) -> Result<[String; 5], String> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    if !["x86_64", "aarch64"].contains(&arch.as_str()) {
        return Err(format!("netprobe has no BPF programs for {arch}; build for x86_64 or aarch64"));
    }
    Ok([
        format!("-Clinker={}", linker.display()),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // 32-bit registers and all jumps; Linux >= 5.1 has them.
        "-Ctarget-cpu=v3".into(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
    ])
}

/// Takes the outer cargo's own variables (compiler, flags, clippy's wrapper, target folder, profile) from the inner
/// one; where crates come from stays.
fn clear_outer_cargo(command: &mut Command) {
    const KEPT: &[&str] = &["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "RUSTUP_TOOLCHAIN"].iter().any(|p| text.starts_with(p));
        if ours && !KEPT.iter().any(|kept| text.starts_with(kept)) {
            command.env_remove(&name);
        }
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}; run this through cargo"))
}
