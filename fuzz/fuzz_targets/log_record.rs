//! Any bytes are a change of the log, or refused, also where the checksum fits.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    drop(rowtide_log::parse_change(bytes));
});
