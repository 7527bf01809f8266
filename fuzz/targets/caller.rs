//! What callers send: every dialect reads every body, and what it understands it can write for every provider
//! and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millgate_dialect::{DIALECTS, Quirks, scan};
use millgate_types::Operation;

const OPERATIONS: [Operation; 6] = [
    Operation::Chat,
    Operation::Completions,
    Operation::Embeddings,
    Operation::Rerank,
    Operation::Moderations,
    Operation::CountTokens,
];

fuzz_target!(|body: &[u8]| {
    // The scan is as strict as a parser: what it takes is JSON.
    if scan::members(body).is_ok() {
        serde_check(body);
    }
    for codec in DIALECTS {
        for operation in OPERATIONS {
            let Ok(call) = codec.decode_call(operation, body) else { continue };
            for target in DIALECTS {
                // Some calls cannot be said in some dialects; that is an error, never a panic.
                if let Ok(encoded) = target.encode_call(&call, &Quirks::default()) {
                    scan::members(&encoded.body).expect("what we write is JSON");
                }
            }
        }
    }
});

fn serde_check(body: &[u8]) {
    let text = std::str::from_utf8(body).expect("the scan takes UTF-8 only");
    assert!(text.trim_matches([' ', '\n', '\r', '\t']).starts_with('{'));
}
