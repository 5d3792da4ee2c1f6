//! What the user expects of the packets, where the node's own settings do not tell.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;

use crate::explain::expect::{Expectations, Source, Standing, network};

/// Expectations. One that is broken is a finding.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Expectations")]
pub struct Expect {
    /// Device by which the packets should leave this node; without it the node's rules and routes
    /// say which
    #[arg(long = "expect-dev", value_name = "DEV")]
    pub device: Option<String>,

    /// Source address with which they should leave it: `pod` (no SNAT), `node` (masqueraded), an
    /// address or a network
    #[arg(long = "expect-src", value_name = "SOURCE")]
    pub source: Option<Source>,

    /// Network in which the addresses should lie that DNS gives the pods; may be given again
    #[arg(long = "expect-net", value_name = "NET", value_parser = network)]
    pub networks: Vec<IpNet>,

    /// Standing expectations: which pods leave by which device with which source (TOML)
    #[arg(id = "expect-file", long = "expect", value_name = "FILE", long_help = FILE_HELP)]
    pub file: Option<PathBuf>,

    /// The same as text: what a file elsewhere says
    #[arg(id = "expect-toml", long = "expect-toml", value_name = "TOML", hide = true, conflicts_with = "expect-file")]
    pub text: Option<String>,
}

const FILE_HELP: &str = "\
Standing expectations: which pods leave by which device with which source (TOML). What is left out is not
expected; the first entry that names a thing for a pod holds:
  [[expect]]
  pods = \"shop/web-*\"
  to = [\"10.0.0.0/8\"]
  device = \"eth1\"
  source = \"pod\"
  networks = [\"10.219.226.0/24\"]";

/// The file's only table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    expect: Vec<Standing>,
}

/// A file of expectations is written by hand: larger than this it is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Expect {
    /// All of them.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or says what makes no sense.
    pub fn read(&self) -> Result<Expectations> {
        let all = Standing {
            device: self.device.clone(),
            source: self.source,
            networks: self.networks.clone(),
            ..Standing::default()
        };
        let standing = match (&self.file, &self.text) {
            (Some(path), _) => read(path)?,
            (None, Some(text)) => parse(text, "--expect-toml")?,
            (None, None) => Vec::new(),
        };
        Ok(Expectations { all, standing })
    }
}

fn read(path: &Path) -> Result<Vec<Standing>> {
    let length = std::fs::metadata(path).with_context(|| format!("read the expectations {}", path.display()))?.len();
    if length > FILE_BYTES_MAX {
        bail!("{} has {length} bytes: a file of expectations has at most {FILE_BYTES_MAX}", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("read the expectations {}", path.display()))?;
    parse(&text, &path.display().to_string())
}

fn parse(text: &str, place: &str) -> Result<Vec<Standing>> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow::anyhow!("{place} line {line}: {}", error.message().replace('\n', " "))
    })?;
    if let Some(empty) = file.expect.iter().find(|standing| standing.is_empty()) {
        bail!("{place}: nothing is expected of `{}`: give device, source or networks", empty.pods);
    }
    Ok(file.expect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Result<Vec<Standing>> {
        let path = std::env::temp_dir().join(format!("netprobe-expect-{:?}.toml", std::thread::current().id()));
        std::fs::write(&path, text).expect("a file of ours");
        let standing = read(&path);
        std::fs::remove_file(path).expect("it was there");
        standing
    }

    #[test]
    fn a_file_says_which_pods_leave_how() {
        let text = "[[expect]]\npods = \"shop/web-*\"\ndevice = \"eth1\"\nsource = \"pod\"\n";
        let standing = from(text).expect("it makes sense");
        assert_eq!((standing[0].device.as_deref(), standing[0].source), (Some("eth1"), Some(Source::Pod)));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let error = from("[[expect]]\npods = \"a\"\ndevise = \"eth1\"\n").expect_err("there is no `devise`");
        let error = error.to_string();
        assert!(error.contains("line 3") && error.contains("devise"), "{error}");
        let error = from("[[expect]]\npods = \"a\"\n").expect_err("nothing is expected").to_string();
        assert!(error.contains("nothing is expected of `a`"), "{error}");
    }
}
