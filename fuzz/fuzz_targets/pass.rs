//! See `redis-proxy/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redoubt_proxy::fuzz::pass(bytes));
