//! Any text is a definition, or refused with a report that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = rowtide_plan::definition::Definition::parse("fuzz.toml", text) {
        assert!(!error.problems.is_empty());
    }
});
