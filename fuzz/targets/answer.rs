//! What providers answer: whole answers and error bodies, written again for every caller.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millgate_dialect::{Context, DIALECTS, scan};
use millgate_types::{EmbeddingFormat, Operation, RequestId};

const OPERATIONS: [Operation; 5] = [
    Operation::Chat,
    Operation::Completions,
    Operation::Embeddings,
    Operation::Rerank,
    Operation::Moderations,
];

fuzz_target!(|body: &[u8]| {
    let context = Context {
        request_id: RequestId::random(),
        model: "m".to_owned(),
        provider: "p".to_owned(),
        include_usage: true,
        embedding_format: EmbeddingFormat::Float,
        created: 1,
    };
    let _visited = scan::visit(body, |_, _, _| {});
    for codec in DIALECTS {
        let _said = codec.decode_error(500, body);
        let _usage = codec.read_usage(body);
        for operation in OPERATIONS {
            let Ok(answer) = codec.decode_answer(operation, body) else { continue };
            if let Some(usage) = answer.usage() {
                assert!(usage.total() <= 20_000_000_000, "{usage:?}");
            }
            for caller in DIALECTS {
                let written = caller.encode_answer(&answer, &context);
                scan::visit(&written, |_, _, _| {}).expect("what we write is JSON");
            }
        }
    }
});
