//! Pages that are made from the source.
use std::path::Path;
pub(crate) fn run(_root: &Path, _check: bool) -> anyhow::Result<()> {
    Ok(())
}
