//! Errors of others for a person at a terminal.

use miette::{Report, miette};

/// An error whose sentence says all: its causes are part of it already.
pub(crate) fn said(error: impl std::fmt::Display) -> Report {
    miette!("{error}")
}
