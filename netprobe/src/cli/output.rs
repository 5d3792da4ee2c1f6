//! How results are shown and kept.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::{ColorChoice, builder::NonEmptyStringValueParser};

use crate::{
    model::facts::HostFacts,
    render::{Clock, Format, Render, Setup},
};

/// Columns where stdout is no terminal.
const COLUMNS: usize = 80;

/// How to show results.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Format on stdout; `json` is one object a line
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,

    /// Colours; `auto` is a terminal without NO_COLOR
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// Where to keep a run.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Record {
    /// Keep the run in this file for `netprobe replay`; it is overwritten. `-` is stdout, which then holds nothing else
    #[arg(long = "record", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Name of this node in results; the host name without it
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node_name: Option<String>,
}

/// What scripts and tests need.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Ready {
    /// Create this file once every hook is attached
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// End when stdin has a byte or is closed: for who runs netprobe through `kubectl exec -i`, whose end closes it
    #[arg(long)]
    pub until_stdin_closes: bool,

    /// Read the kernel's types from here
    #[arg(long, hide = true, value_name = "PATH")]
    pub btf: Option<PathBuf>,
}

impl Record {
    /// The recording goes to stdout, in place of results.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        self.file.as_deref() == Some(Path::new("-"))
    }

    /// What makes no sense.
    ///
    /// # Errors
    ///
    /// The recording goes to a terminal.
    pub fn check(&self) -> Result<()> {
        if self.is_stdout() && io::stdout().is_terminal() {
            bail!("a recording is binary, and stdout is a terminal: write --record FILE, or pipe it");
        }
        Ok(())
    }
}

impl Output {
    /// A renderer to stdout for a run on that host.
    #[must_use]
    pub fn renderer(&self, host: &HostFacts) -> Box<dyn Render> {
        self.format.renderer(Box::new(io::stdout()), self.setup(host))
    }

    /// What the renderer needs to know of stdout.
    #[must_use]
    pub fn setup(&self, host: &HostFacts) -> Setup {
        let terminal = io::stdout().is_terminal();
        let size = terminal_size::terminal_size_of(io::stdout()).filter(|_| terminal);
        let said = |name: &str| std::env::var(name).ok()?.parse().ok().filter(|columns| *columns > 0);
        Setup {
            clock: Clock::new(host),
            columns: size.map(|(width, _)| usize::from(width.0)).or_else(|| said("COLUMNS")).unwrap_or(COLUMNS),
            lines: size.map(|(_, height)| usize::from(height.0)),
            colour: self.colour(),
        }
    }

    /// Whether stdout gets colours.
    #[must_use]
    pub fn colour(&self) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
            }
        }
    }
}
