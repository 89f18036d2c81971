//! See `resp/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redoubt_resp::fuzz::run("stream", bytes));
