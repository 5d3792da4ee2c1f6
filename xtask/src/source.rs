//! Reading the project's own source.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A source file: where it is below the root, and what is in it.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// Its path, for messages.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// All Rust files in `folder` (relative to `root`) and below, sorted.
pub(crate) fn rust_files(root: &Path, folder: &str) -> Result<Vec<Source>> {
    let mut files = vec![];
    let mut open = vec![PathBuf::from(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(&folder)).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(read(root, path)?);
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// One file.
pub(crate) fn read(root: &Path, path: PathBuf) -> Result<Source> {
    let text = fs::read_to_string(root.join(&path)).with_context(|| format!("read {}", path.display()))?;
    Ok(Source { path, text })
}
