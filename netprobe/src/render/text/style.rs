//! The one table of colours.

use anstyle::{AnsiColor, Style};

use crate::model::finding::Confidence;

/// What is coloured, and how. Without colours every style is empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Styles {
    /// Header of a journey or table.
    pub header: Style,
    /// Times and proofs.
    pub dim: Style,
    /// Drops and losses.
    pub bad: Style,
    /// Answers to "what now".
    pub fix: Style,
    /// A finding the kernel stated.
    stated: Style,
    /// A finding that is likely or possible.
    guessed: Style,
}

impl Styles {
    /// The colours, or none.
    pub(super) const fn new(colour: bool) -> Self {
        let plain = Style::new();
        if !colour {
            return Self { header: plain, dim: plain, bad: plain, fix: plain, stated: plain, guessed: plain };
        }
        Self {
            header: plain.bold(),
            dim: plain.dimmed(),
            bad: AnsiColor::Red.on_default(),
            fix: AnsiColor::Green.on_default(),
            stated: AnsiColor::Red.on_default().bold(),
            guessed: AnsiColor::Yellow.on_default().bold(),
        }
    }

    /// Style of a finding's first words.
    pub(super) const fn finding(&self, confidence: Confidence) -> Style {
        match confidence {
            Confidence::Stated => self.stated,
            Confidence::Likely | Confidence::Possible => self.guessed,
        }
    }
}

/// `text` in `style`.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
