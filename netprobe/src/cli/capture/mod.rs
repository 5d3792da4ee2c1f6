//! `netprobe capture`

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{ColorChoice, builder::NonEmptyStringValueParser};

use super::{
    common::Filter,
    live::{DeviceName, Live, Request, Watch},
    output::{Output, Ready, Record},
    select::Select,
    until::{Until, duration},
};
use crate::{model::identity::Pod, render::Format};

mod files;
mod places;
mod run;
mod window;
mod words;

use files::{Files, Rotation};

const EXAMPLES: &str = "\
Examples:
  netprobe capture --pod shop/web-0 -w web.pcapng
      one pod's packets at its own device, at the node's end of its link, and
      at the node's ways out, also after NAT; open it with Wireshark
  netprobe capture --pod web-0 -w - tcp port 80 | tcpdump -nr -
      look at them as they come; Wireshark takes them with -k -i -
  netprobe capture --pod web-0 -i node:eth0 -w web.pcapng
      what leaves and enters the node by eth0, and nothing else
  netprobe capture --pod web-0 -w web.pcapng --rotate-size 100M --files 10
      for days: the last ten files stay

Every packet has a comment: whose it is, from the pod or to it, what NAT makes
of it, and why it was dropped where this node dropped it.";

/// Most bytes kept of a packet without `--snap`: all of a packet on a network with an MTU of 1500, as tcpdump keeps it.
const SNAP: u32 = 1_600;
/// With `--full`: the largest `sk_buff`, but those of BIG TCP.
const FULL: u32 = 66_048;

/// Which packets: other than those of `trace`, each by itself.
const FILTER_HELP: &str = "\
Which packets, in tcpdump's language; evaluated in the kernel

As in tcpdump, each packet by itself: `dst port 80` leaves the answers out. A packet that NAT changes passes in \
either form. `netprobe trace --help` lists the words. Quote what the shell would take for itself.";

/// Options of `netprobe capture`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("rotated").args(["rotate_size", "rotate_time"]).multiple(true), mut_arg("until_finding", |arg| arg.hide(true)), mut_arg("filter", |arg| arg.long_help(FILTER_HELP)))]
pub struct CaptureArgs {
    /// Which packets.
    #[command(flatten)]
    pub filter: Filter,

    /// Write pcapng to this file; `-` is stdout. Without it to netprobe-POD-TIME.pcapng, here
    #[arg(short = 'w', long = "write", value_name = "FILE", help_heading = "Output")]
    pub write: Option<PathBuf>,

    /// Keep so many bytes of a packet; 1600 without it, which is all of it where the MTU is 1500
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(14..=i64::from(FULL)), help_heading = "Output")]
    pub snap: Option<u32>,

    /// Keep all of every packet, also of those that the device cuts into segments (64 KiB)
    #[arg(long, conflicts_with = "snap", help_heading = "Output")]
    pub full: bool,

    /// Begin the next file (FILE.1, FILE.2, ..) before one is larger than this (500K, 100M, 2G)
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Output")]
    pub rotate_size: Option<u64>,

    /// Begin the next file after this time (30s, 10m, 1h)
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Output")]
    pub rotate_time: Option<Duration>,

    /// Keep the last so many files, and remove those before them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "rotated", help_heading = "Output")]
    pub files: Option<u32>,

    /// Take packets at these devices alone: NAME, or pod:NAME and node:NAME; again for more
    ///
    /// Without it: at the pod's own device, at the node's end of its link, and at the node's ways out.
    #[arg(short = 'i', long, value_name = "DEVICE", help_heading = "Whose packets")]
    pub interface: Vec<DeviceName>,

    /// Name of this node; the host name without it
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = NonEmptyStringValueParser::new(), help_heading = "Output")]
    pub node_name: Option<String>,

    /// Whose packets.
    #[command(flatten)]
    pub select: Select,

    /// When to end.
    #[command(flatten)]
    pub until: Until,

    /// Readiness and the kernel's types.
    #[command(flatten)]
    pub ready: Ready,
}

impl CaptureArgs {
    const fn snap(&self) -> u32 {
        match (self.full, self.snap) {
            (true, _) => FULL,
            (false, Some(snap)) => snap,
            (false, None) => SNAP,
        }
    }

    const fn rotation(&self) -> Rotation {
        Rotation { size: self.rotate_size, time: self.rotate_time, files: self.files }
    }

    fn is_to_stdout(&self) -> bool {
        self.write.as_deref() == Some(Path::new("-"))
    }

    /// What makes no sense together.
    fn check(&self) -> Result<()> {
        if !self.is_to_stdout() {
            return Ok(());
        }
        if self.rotation() != Rotation::default() {
            bail!("stdout is one stream: give -w a file to rotate");
        }
        if io::stdout().is_terminal() {
            bail!("packets are binary, and stdout is a terminal: write -w FILE, or pipe them: -w - | tcpdump -nr -");
        }
        Ok(())
    }
}

/// Runs `netprobe capture`.
///
/// # Errors
///
/// Bad input, missing privileges, and whatever the file returns.
pub fn run(args: &CaptureArgs) -> Result<()> {
    args.check()?;
    let output = Output { format: Format::Text, color: ColorChoice::Never };
    let record = Record { file: None, node_name: args.node_name.clone() };
    let request = Request {
        filter: &args.filter.words,
        at: &args.interface,
        ..Request::new("capture", Watch::Capture(args.snap()), &args.select, (&output, &record, &args.ready))
    };
    run::run(&request, args)
}

/// Opens what the packets go to.
fn open(args: &CaptureArgs, live: &mut Live, begun: Duration) -> Result<Files> {
    let host = live.pipeline_mut().decoder().host().clone();
    let whose = live.only_pod();
    let section = crate::render::pcapng::Section {
        os: format!("Linux {}", host.kernel),
        comment: match &whose {
            Some(pod) => crate::render::escape(&format!("packets of {pod} on node {}", host.node)).into_owned(),
            None => format!("packets of all pods on node {}", host.node),
        },
    };
    match &args.write {
        Some(_) if args.is_to_stdout() => Files::stream(Box::new(io::stdout()), section, begun),
        Some(path) => Files::create(path, args.rotation(), section, begun),
        None => {
            let path = default_path(whose.as_deref(), begun)?;
            Files::create(&path, args.rotation(), section, begun)
        }
    }
}

/// `netprobe-shop-web-0-20261121T120000Z.pcapng`
fn default_path(whose: Option<&Pod>, now: Duration) -> Result<PathBuf> {
    let time = jiff::Timestamp::from_second(i64::try_from(now.as_secs())?).context("the time of day")?;
    let name = whose.map_or_else(|| "all".to_owned(), |pod| pod.to_string().replace('/', "-"));
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    Ok(format!("netprobe-{name}-{}.pcapng", time.strftime("%Y%m%dT%H%M%SZ")).into())
}

/// A number of bytes: K, M and G are powers of 1000, as tcpdump's -C counts.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write 500K, 100M or 2G");
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let unit: u64 = match unit.trim_end_matches(['b', 'B']) {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)?;
    if bytes == 0 { Err(wrong()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Source;

    #[test]
    fn sizes_have_units() {
        assert_eq!(["500K", "100M", "2GB", "1234"].map(size), [500_000, 100_000_000, 2_000_000_000, 1_234].map(Ok));
        for text in ["", "M", "0", "10Q", "-1", "99999999999999999999", "99999999999G"] {
            assert_eq!(size(text), Err(format!("`{text}` is no size: write 500K, 100M or 2G")));
        }
    }

    #[test]
    fn a_file_is_named_after_the_pod_and_the_time() {
        let pod = Pod {
            namespace: "shop".into(),
            name: "web/../0\u{1b}".into(),
            uid: None,
            identity: Source::Netns,
            is_ended: false,
        };
        let at = Duration::from_secs(1_700_000_000);
        let named = |pod| default_path(pod, at).expect("a time").display().to_string();
        assert_eq!(named(Some(&pod)), "netprobe-shop-web-..-0_-20231114T221320Z.pcapng");
        assert_eq!(named(None), "netprobe-all-20231114T221320Z.pcapng");
    }
}
