//! Providers' streams: any split of the bytes gives the same events, and no stream that breaks off looks whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millgate_dialect::{Context, DIALECTS, Watch};
use millgate_types::{EmbeddingFormat, Operation, RequestId};

fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else { return };
    let step = usize::from(*step % 32) + 1;
    let context = Context {
        request_id: RequestId::random(),
        model: "m".to_owned(),
        provider: "p".to_owned(),
        include_usage: true,
        embedding_format: EmbeddingFormat::Float,
        created: 1,
    };
    for codec in DIALECTS {
        let read = |step: usize| {
            let mut decoder = codec.stream_decoder(Operation::Chat);
            let mut events = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece, &mut events);
            }
            decoder.finish(&mut events);
            events
        };
        let events = read(step);
        assert_eq!(format!("{events:?}"), format!("{:?}", read(bytes.len().max(1))), "{:?}", codec.dialect());
        for caller in DIALECTS {
            let mut encoder = caller.stream_encoder(Operation::Chat, &context);
            let mut out = Vec::new();
            read(step).into_iter().for_each(|event| encoder.push(event, &mut out));
        }
        let mut watch = Watch::new(codec.dialect(), Operation::Chat, true);
        for piece in bytes.chunks(step) {
            let _passed = watch.push(&bytes::Bytes::copy_from_slice(piece));
        }
        let _passed = watch.finish();
    }
});
