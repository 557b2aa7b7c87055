#![no_main]
#![allow(dead_code)]

#[path = "../../tests/fuzz/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::narrow::narrow(data));
