//! Any text is a message of a client, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    drop(rowtide_protocol::ClientMessage::parse(text));
});
