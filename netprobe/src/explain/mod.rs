//! `Journey` → `Finding`: the cause, with its evidence.
//!
//! A rule is a pure function of a [`Case`]. The rules stand in order of precedence: the first that
//! speaks about a journey has its cause, what the others would say are echoes.

mod asks;
mod case;
pub mod dns;
mod draft;
mod dropped;
pub mod expect;
pub mod expected;
mod findings;
pub mod intent;
mod nf;
pub mod noise;
pub mod rules;
mod service;
pub mod tcp;

pub use asks::Asked;
pub use case::{Case, Drop, Lookup};
pub use draft::Draft;
pub use expect::Expectations;
pub use findings::{Findings, Patience, Verdict};

/// One cause that netprobe can tell.
pub struct Rule {
    /// Its id, as findings carry it.
    pub id: &'static str,
    /// What it means, in one sentence.
    pub means: &'static str,
    /// Speaks if the case has this cause.
    pub check: fn(&Case<'_>) -> Option<Draft>,
}
