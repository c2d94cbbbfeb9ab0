//! Every target: the reader that this binary is named after.
#![no_main]

mod readers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| readers::named(env!("CARGO_BIN_NAME"))(bytes));
