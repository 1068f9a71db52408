//! What the command line says, and to whom. Standard error may be closed or full, because whoever read it has gone: what
//! cannot be said there is not said, and nothing ends for that. The macros of the standard library would panic.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write, stderr, stdout};

use miette::{IntoDiagnostic, Result, WrapErr};

/// Says a line on standard error.
macro_rules! note {
    ($($said:tt)*) => { $crate::terminal::note_line(format_args!($($said)*)) };
}

/// Says a line on standard output, for who looks on.
macro_rules! tell {
    ($($said:tt)*) => { $crate::terminal::tell_line(format_args!($($said)*)) };
}

pub(crate) use {note, tell};

pub(crate) fn note_line(said: Arguments<'_>) {
    drop(writeln!(stderr().lock(), "{said}"));
}

pub(crate) fn tell_line(said: Arguments<'_>) {
    drop(writeln!(stdout().lock(), "{said}"));
}

/// Writes what a command was run for to standard output.
///
/// # Errors
/// When it cannot be written. Whoever has read enough and closed it wants no more, which is no error.
pub(crate) fn hand_out(text: &str) -> Result<()> {
    let write = || {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    let written = write().or_else(|error: io::Error| match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    });
    written.into_diagnostic().wrap_err("cannot write to standard output")
}
