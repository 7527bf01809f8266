//! Providers' HTTP: heads and the chunked coding.
#![no_main]

use bytes::Bytes;
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((step, wire)) = input.split_first() else { return };
    let step = usize::from(*step % 32) + 1;
    let whole = millgate_upstream::fuzzing::answer(&Bytes::copy_from_slice(wire), &Method::POST, wire.len().max(1));
    let pieces = millgate_upstream::fuzzing::answer(&Bytes::copy_from_slice(wire), &Method::POST, step);
    assert_eq!(whole, pieces);
});
