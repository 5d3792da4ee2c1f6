//! The archive that a kernel unpacks into its first file system ("newc": Documentation/driver-api/early-userspace/
//! buffer-format.rst of Linux).

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// `S_IFDIR` with everybody's right to read.
const FOLDER: u32 = 0o040_755;
/// `S_IFREG` with everybody's right to read and run.
const PROGRAM: u32 = 0o100_755;
/// Names, data and headers begin at multiples of this many bytes.
const ALIGNED: usize = 4;
/// The header: a magic number and 13 fields of 8 hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;

/// An archive that is being written; each path goes in once.
pub(super) struct Archive<W> {
    out: W,
    inode: u32,
    written: BTreeSet<PathBuf>,
}

impl Archive<BufWriter<File>> {
    /// Begins the archive `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self::new(BufWriter::new(file)))
    }
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self { out, inode: 0, written: BTreeSet::new() }
    }

    /// Adds an empty folder and those above it. `path` is relative to the root, or begins there.
    pub(super) fn folder(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = inside(path.as_ref());
        let above: Vec<PathBuf> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned).collect();
        for folder in above.into_iter().rev() {
            if self.written.insert(folder.clone()) {
                self.entry(&folder, FOLDER, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file that everybody may run, and the folders above it.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, data: &[u8]) -> Result<()> {
        let path = inside(path.as_ref());
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        if self.written.insert(path.clone()) {
            self.entry(&path, PROGRAM, data)?;
        }
        Ok(())
    }

    /// Whether `path` is in already.
    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.written.contains(&inside(path.as_ref()))
    }

    /// Ends the archive.
    pub(super) fn end(mut self) -> Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        self.out.flush().context("write the archive")
    }

    fn entry(&mut self, path: &Path, mode: u32, data: &[u8]) -> Result<()> {
        self.inode += 1;
        let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        let size = u32::try_from(data.len()).with_context(|| format!("{name} is too large"))?;
        let length = u32::try_from(name.len() + 1).with_context(|| format!("{name} is too long"))?;
        // inode, mode, owner, group, links, time, size, four device numbers, length of the name, no checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        let mut header = String::from("070701");
        header.extend(fields.iter().map(|field| format!("{field:08x}")));
        let write = |out: &mut W, bytes: &[u8]| out.write_all(bytes).context("write the archive");
        write(&mut self.out, header.as_bytes())?;
        write(&mut self.out, name.as_bytes())?;
        write(&mut self.out, &[0; ALIGNED][..1 + padding(HEADER + name.len() + 1)])?;
        write(&mut self.out, data)?;
        write(&mut self.out, &[0; ALIGNED][..padding(data.len())])
    }
}

fn inside(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

/// How many bytes are missing to a multiple of [`ALIGNED`].
const fn padding(length: usize) -> usize {
    (ALIGNED - length % ALIGNED) % ALIGNED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_kernel_documents() {
        let mut bytes = vec![];
        let mut archive = Archive::new(&mut bytes);
        archive.file("/a/b", b"hello").expect("a vector takes all");
        archive.file("a/b", b"again").expect("a vector takes all");
        assert!(archive.has("/a/b") && !archive.has("a/c"));
        archive.end().expect("a vector takes all");
        assert_eq!(bytes.len() % ALIGNED, 0);
        let text = String::from_utf8(bytes).expect("it is ASCII");
        let entries: Vec<&str> = text.split("070701").skip(1).collect();
        assert_eq!(entries.len(), 3, "a folder, a file once, the trailer");
        assert!(entries[0].starts_with("00000001000041ed") && entries[0].ends_with("a\0"));
        assert!(entries[1].starts_with("00000002000081ed") && entries[1].ends_with("a/b\0\0\0hello\0\0\0"));
        assert!(entries[2].contains("TRAILER!!!\0"));
    }
}
