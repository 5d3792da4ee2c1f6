//! `cargo xtask kernels`: which of netprobe's programs fit kernels that nobody boots, asked of the types (BTF) in
//! Debian's packages.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};
use serde_json::Value;

use super::{
    kernel::{self, Kernel},
    page,
};
use crate::{
    build, setup,
    shell::{ask, say},
    toolchain,
};

/// Modules whose types netprobe reads, where they are not built in.
const MODULES: [&str; 6] = ["cls_bpf", "ip6_tables", "ip_tables", "nf_conntrack", "nf_nat", "nf_tables"];
/// How a compressed kernel begins, and what unpacks it.
const FORMATS: [(&[u8], &str); 4] =
    [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4"), (b"\x1f\x8b\x08", "gzip")];

/// Options of `cargo xtask kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct TypesArgs {
    /// Take the results over into docs/kernels.json and docs/kernels.md.
    #[arg(long)]
    publish: bool,
}

/// What netprobe says of its hooks on one kernel: their names, and why those that cannot run cannot.
pub(super) type Hooks = BTreeMap<String, Option<String>>;

/// Fetches the types of every kernel that apt knows of each line, asks netprobe about each, and says what is missing.
pub(crate) fn run(root: &Path, args: &TypesArgs) -> Result<()> {
    setup::ensure_guests()?;
    let netprobe = build::release(root)?;
    let kept = kept(&toolchain::tools(root).join("types"))?;
    let mut all = BTreeMap::new();
    for package in packages()? {
        let release = kernel::release(&package).to_owned();
        let types = types(&kept, &package)?;
        let hooks = hooks(&netprobe, &types).with_context(|| format!("ask about Linux {release}"))?;
        let without: Vec<&str> = hooks.iter().filter(|(_, why)| why.is_some()).map(|(name, _)| name.as_str()).collect();
        let (fit, count) = (hooks.len() - without.len(), hooks.len());
        say(
            "kernels",
            &format!(
                "Linux {release}: {fit} of {count} hooks; {}",
                if without.is_empty() {
                    "nothing is missing".to_owned()
                } else {
                    format!("without {}", without.join(", "))
                }
            ),
        );
        all.insert(release, hooks);
    }
    if args.publish {
        page::publish_types(root, all)?;
    }
    Ok(())
}

/// Every build for clouds, and the newest for any machine, of each line.
fn packages() -> Result<Vec<String>> {
    let mut packages = vec![];
    for line in Kernel::ALL {
        let names = ask(Command::new("apt-cache").args(["pkgnames", line.package().0]))?;
        let mut of_clouds: Vec<(u32, &str)> =
            names.lines().filter_map(|name| Some((line.number(name)?, name))).collect();
        of_clouds.sort_unstable();
        packages.extend(of_clouds.into_iter().map(|(_, name)| name.to_owned()));
        let general =
            |name: &&str| line.number(&name.replace("-amd64", "-cloud-amd64")).is_some() && !name.contains("cloud");
        let newest =
            names.lines().filter(general).max_by_key(|name| line.number(&name.replace("-amd64", "-cloud-amd64")));
        packages.extend(newest.map(str::to_owned));
    }
    if packages.is_empty() {
        bail!("apt knows no kernel; this needs Debian 12 with its security archive");
    }
    Ok(packages)
}

/// The folder in `all` where types are kept, which lacks none of [`MODULES`]; what an earlier list of modules left goes.
fn kept(all: &Path) -> Result<PathBuf> {
    let kept = all.join(MODULES.join("+"));
    let others = fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    for other in others.filter(|path| *path != kept) {
        fs::remove_dir_all(&other).with_context(|| format!("remove {}", other.display()))?;
    }
    fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
    Ok(kept)
}

/// The folder with the types of a package's kernel and modules, as /sys/kernel/btf has them; fetched once.
fn types(kept: &Path, package: &str) -> Result<PathBuf> {
    let folder = kept.join(package);
    if folder.exists() {
        return Ok(folder);
    }
    say("kernels", &format!("fetching {package}"));
    let part = kept.join(format!("{package}.part"));
    kernel::unpack(package, &part)?;
    let release = kernel::release(package);
    let found = kept.join(format!("{package}.types"));
    let _ = fs::remove_dir_all(&found);
    fs::create_dir_all(&found).with_context(|| format!("make {}", found.display()))?;
    let image = part.join("boot").join(format!("vmlinuz-{release}"));
    let image = fs::read(&image).with_context(|| format!("read {}", image.display()))?;
    write(&found.join("vmlinux"), &section(&decompressed(&image)?).context("find the kernel's types")?)?;
    for module in MODULES {
        // What is built in has no file.
        if let Some(path) = kernel::module_file(&part, release, module)? {
            write(
                &found.join(module),
                &section(&kernel::unpacked(&path)?).with_context(|| format!("find the types of {module}"))?,
            )?;
        }
    }
    fs::remove_dir_all(&part).with_context(|| format!("remove {}", part.display()))?;
    fs::rename(&found, &folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// The kernel proper in a bootable image: the earliest packed part that its tool can unpack to an ELF file.
fn decompressed(image: &[u8]) -> Result<Vec<u8>> {
    let mut starts: Vec<(usize, &str)> = FORMATS
        .iter()
        .flat_map(|(magic, tool)| {
            let at = image.windows(magic.len()).enumerate().filter(|(_, w)| w == magic).map(|(at, _)| at);
            at.map(|at| (at, *tool)).collect::<Vec<_>>()
        })
        .collect();
    starts.sort_unstable();
    let whole =
        starts.into_iter().find_map(|(at, tool)| unpacked_by(tool, &image[at..]).filter(|b| b.starts_with(b"\x7fELF")));
    whole.context("nothing in the image unpacks to a kernel; xz, zstd, lz4 and gzip were tried")
}

/// What the tool makes of the bytes; it complains about what follows the packed part, and is not listened to.
fn unpacked_by(tool: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut file = tempfile()?;
    file.0.write_all(bytes).ok()?;
    let input = File::open(&file.1).ok()?;
    let output = Command::new(tool).args(["-d", "-c"]).stdin(input).stderr(Stdio::null()).output();
    let _ = fs::remove_file(&file.1);
    Some(output.ok()?.stdout)
}

fn tempfile() -> Option<(File, PathBuf)> {
    let path = std::env::temp_dir().join(format!("netprobe-kernel-{}", std::process::id()));
    Some((File::create(&path).ok()?, path))
}

/// The types in an ELF file.
fn section(elf: &[u8]) -> Result<Vec<u8>> {
    let file = object::File::parse(elf).context("read it as ELF")?;
    let section = file.section_by_name(".BTF").context("it has no section .BTF")?;
    Ok(section.data().context("read section .BTF")?.to_vec())
}

/// What `netprobe check` says of that kernel.
fn hooks(netprobe: &Path, types: &Path) -> Result<Hooks> {
    let said = ask(Command::new(netprobe).args(["check", "-o", "json", "--btf"]).arg(types.join("vmlinux")))?;
    let report: Value = serde_json::from_str(&said).context("netprobe check printed no JSON")?;
    let hooks = report["hooks"].as_array().context("netprobe check lists no hooks")?;
    let row = |row: &Value| {
        let why = (row["ok"] != true).then(|| row["note"].as_str().unwrap_or_default().to_owned());
        Some((row["what"].as_str()?.to_owned(), why))
    };
    Ok(hooks.iter().filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::MODULES;

    #[test]
    fn every_module_of_the_catalogue_is_fetched() {
        let catalog = include_str!("../../../netprobe/src/probe/catalog.rs");
        let modules: BTreeSet<&str> =
            catalog.split("Some(\"").skip(1).filter_map(|rest| Some(rest.split_once("\")")?.0)).collect();
        assert_eq!(modules.into_iter().collect::<Vec<_>>(), MODULES);
    }
}
