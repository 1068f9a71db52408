//! Any bytes are a message of the stream, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    drop(rowtide_postgres::pgoutput::decode(bytes));
});
