//! See `journal/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redoubt_journal::fuzz::run("directory", bytes));
