//! What a guest is to do, what it reports, and what is kept of it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What a guest is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Stories, by their full names.
    pub(super) stories: Vec<String>,
    /// A line of a shell to run instead.
    pub(super) line: Option<String>,
    /// What times of stories are multiplied by.
    pub(super) patience: u32,
    /// How long one story may take.
    pub(super) limit_seconds: u64,
    /// Time is counted in instructions, one a nanosecond: figures hardly differ between runs.
    pub(super) is_counted: bool,
}

/// A line from the guest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    /// The guest is up.
    Up {
        /// `uname -r`.
        release: String,
        /// Since its kernel began.
        seconds: f64,
    },
    /// A story begins.
    Begin {
        /// Its name.
        story: String,
    },
    /// A story ended.
    End {
        /// Its name.
        story: String,
        /// How.
        #[serde(flatten)]
        told: Story,
    },
    /// What the line of a shell printed.
    Said {
        /// Both ends of it.
        said: String,
    },
    /// All ended.
    Done,
}

/// How a story ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It held.
    #[default]
    Passed,
    /// It did not.
    Failed,
    /// It did not end in time.
    Late,
    /// This kernel cannot have it, and the story says why.
    NotHere,
    /// The guest did not report it.
    Lost,
}

/// One story in a guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Story {
    /// How it ended.
    pub(super) outcome: Outcome,
    /// How long it took.
    pub(super) seconds: f64,
    /// The end of what it printed, or why this kernel cannot have it; empty where it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) said: String,
}

/// All of one guest.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Results {
    /// `uname -r`.
    pub(super) release: String,
    /// By name.
    pub(super) stories: BTreeMap<String, Story>,
    /// What the line of a shell printed.
    #[serde(skip)]
    pub(super) said: String,
}

impl Results {
    /// Keeps what the event says; returns a line for a person, if there is something to tell.
    pub(super) fn take(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Up { release, seconds } => {
                let line = format!("Linux {release} is up after {seconds:.0} s");
                self.release = release;
                Some(line)
            }
            Event::Begin { .. } | Event::Done => None,
            Event::Said { said } => {
                self.said.clone_from(&said);
                Some(said)
            }
            Event::End { story, told } => {
                let line = match told.outcome {
                    Outcome::Passed => format!("ok      {story} ({:.0} s)", told.seconds),
                    Outcome::NotHere => format!("-       {story}: not on this kernel: {}", told.said),
                    _ => format!("FAILED  {story} ({:.0} s)\n{}", told.seconds, told.said),
                };
                self.stories.insert(story, told);
                Some(line)
            }
        }
    }

    /// How a story ended.
    pub(super) fn outcome(&self, story: &str) -> Option<Outcome> {
        self.stories.get(story).map(|told| told.outcome)
    }

    /// Stories that did not hold.
    pub(super) fn failed(&self) -> impl Iterator<Item = &str> {
        let bad = |told: &Story| !matches!(told.outcome, Outcome::Passed | Outcome::NotHere);
        self.stories.iter().filter(move |(_, told)| bad(told)).map(|(name, _)| name.as_str())
    }

    /// How many of each.
    pub(super) fn summary(&self) -> String {
        let count = |outcome| self.stories.values().filter(|told| told.outcome == outcome).count();
        let seconds: f64 = self.stories.values().map(|told| told.seconds).sum();
        format!(
            "{} passed, {} not on this kernel, {} failed, {seconds:.0} s of stories",
            count(Outcome::Passed),
            count(Outcome::NotHere),
            self.failed().count()
        )
    }

    /// Writes them for programs.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write the results")?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}
