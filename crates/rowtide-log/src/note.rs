//! A note beside the log: what its writer knew when it wrote to it last, and wants to know again when it goes on with it.
//! The log does not read it. It belongs to one epoch, so that what was known of another one is never taken for it; it is
//! written under another name first, so it is whole or not there. One that is lost costs what it would have told.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rowtide_protocol::Epoch;

use crate::segment::private_file;

const NAME: &str = "note";

/// Durable when it returns. The one that is there is of no use any more.
pub(crate) fn write(dir: &Path, epoch: Epoch, text: &str) -> io::Result<()> {
    let new = dir.join("note.new");
    let mut file = private_file(&new)?;
    file.set_len(0)?;
    write!(file, "{:016x}\n{text}", epoch.0)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}

/// What is known of an epoch.
pub(crate) fn read(dir: &Path, epoch: Epoch) -> Option<String> {
    let note = fs::read_to_string(dir.join(NAME)).ok()?;
    let (of, text) = note.split_once('\n')?;
    (u64::from_str_radix(of, 16).ok()? == epoch.0).then(|| text.to_owned())
}
