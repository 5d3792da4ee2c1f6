//! The container image: one layer with one static file, as an OCI image layout in a tar file. No builder, no registry.
//!
//! `podman load`, `docker load` (25 and later), `skopeo copy oci-archive:...` and `ctr images import` take it. Nothing in it
//! has a time, so that the same program gives the same image.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{
    build, setup,
    shell::{ask, cargo, run as execute, say},
};

/// The platform for which programs are built here.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the static program and says where it is. It has its own folder below the target directory.
pub(crate) fn build_static(root: &Path) -> Result<PathBuf> {
    setup::ensure(root)?;
    let mut command = cargo(root);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    execute(command.args(["build", "--release", "--locked", "--package", "netprobe", "--target", TARGET]))?;
    let program = build::target_dir(root)?.join(TARGET).join("release/netprobe");
    say("static", &program.display().to_string());
    Ok(program)
}

/// Writes the image of `program`, or of one that it builds.
pub(crate) fn run(root: &Path, program: Option<&Path>, to: &Path) -> Result<()> {
    let program = match program {
        Some(program) => program.to_owned(),
        None => build_static(root)?,
    };
    must_be_static(&program)?;
    let bytes = fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    write(&bytes, version, File::create(to).with_context(|| format!("make {}", to.display()))?)?;
    say("image", &format!("wrote {}: netprobe:{version}", to.display()));
    Ok(())
}

/// There is nothing in the image that could link it.
fn must_be_static(program: &Path) -> Result<()> {
    let said = ask(std::process::Command::new("readelf").arg("-lW").arg(program)).context("look at the program")?;
    if said.contains("INTERP") {
        bail!("{} is not static: build it with `cargo xtask static`", program.display());
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an image with this program (OCI image specification 1.1: image-layout.md, manifest.md, config.md).
fn write(program: &[u8], version: &str, to: impl std::io::Write) -> Result<()> {
    let mut layer = Builder::new(Vec::new());
    entry(&mut layer, "bin/", &[], 0o755, EntryType::Directory)?;
    entry(&mut layer, "bin/netprobe", program, 0o755, EntryType::Regular)?;
    let layer = layer.into_inner().context("write the layer")?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": ["/bin/netprobe"], "Cmd": ["agent"], "Env": ["PATH=/bin"], "User": "0:0" },
        // It is not packed, so that its digest is that of what is in it.
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
    });
    let config = serde_json::to_vec(&config)?;
    let described = |bytes: &[u8], kind: &str| -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", digest(bytes)),
            "size": bytes.len(),
        })
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(&config, "config.v1+json"),
        "layers": [described(&layer, "layer.v1.tar")],
    }))?;
    let mut named = described(&manifest, "manifest.v1+json");
    named["annotations"] = json!({
        "org.opencontainers.image.ref.name": version,
        "io.containerd.image.name": format!("docker.io/library/netprobe:{version}"),
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    }))?;
    let mut image = Builder::new(to);
    entry(&mut image, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644, EntryType::Regular)?;
    entry(&mut image, "index.json", &index, 0o644, EntryType::Regular)?;
    for blob in [&manifest, &config, &layer] {
        entry(&mut image, &format!("blobs/sha256/{}", digest(blob)), blob, 0o644, EntryType::Regular)?;
    }
    image.into_inner().context("write the image")?.flush().context("write the image")
}

/// A file or a folder of root's, without a time.
fn entry(to: &mut Builder<impl std::io::Write>, path: &str, bytes: &[u8], mode: u32, kind: EntryType) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    to.append_data(&mut header, path, bytes).with_context(|| format!("write {path}"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn files(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().expect("it is a tar file");
        let file = |entry: std::io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.expect("an entry");
            let mut bytes = vec![];
            entry.read_to_end(&mut bytes).expect("all of it");
            let mode = entry.header().mode().expect("a mode");
            (entry.path().expect("a path").display().to_string(), (mode, bytes))
        };
        entries.map(file).collect()
    }

    /// The blob that a descriptor is about, if it is what is said.
    fn blob(files: &BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value) -> Vec<u8> {
        let name = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
        let (_, bytes) = &files[&format!("blobs/{name}")];
        assert_eq!(descriptor["size"], bytes.len());
        assert_eq!(descriptor["digest"], format!("sha256:{}", digest(bytes)));
        bytes.clone()
    }

    #[test]
    fn the_image_holds_what_its_digests_say_and_the_program_that_it_starts() {
        let mut image = vec![];
        write(b"\x7fELF, or so", "9.9", &mut image).expect("it is written");
        let files = files(&image);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("it is JSON");
        assert_eq!(json(&files["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
        let index = json(&files["index.json"].1);
        let manifest = json(&blob(&files, &index["manifests"][0]));
        let config = json(&blob(&files, &manifest["config"]));
        let layer = blob(&files, &manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&layer)));
        let program = config["config"]["Entrypoint"][0].as_str().expect("a path");
        assert_eq!(self::files(&layer)[program.trim_start_matches('/')], (0o755, b"\x7fELF, or so".to_vec()));
        assert_eq!(files.len(), 5);
    }

    #[test]
    fn the_same_program_gives_the_same_image() {
        let image = || {
            let mut image = vec![];
            write(b"x", "1", &mut image).expect("it is written");
            image
        };
        assert_eq!(image(), image());
    }

    #[test]
    fn a_digest_is_that_of_the_standard() {
        // FIPS 180-4's example.
        assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
