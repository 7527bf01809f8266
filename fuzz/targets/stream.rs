//! Providers' streams: any split of the bytes gives the same events, and no stream that breaks off looks whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millgate_dialect::{Codec, Context, DIALECTS, Watch, codec, eventstream};
use millgate_types::{Dialect, EmbeddingFormat, Event, Operation, RequestId};

/// Names of Bedrock's events, and one that it does not have.
const EVENTS: [&str; 8] = [
    "messageStart",
    "contentBlockStart",
    "contentBlockDelta",
    "contentBlockStop",
    "messageStop",
    "metadata",
    "throttlingException",
    "of the future",
];

/// The events of a stream that comes in pieces of this length.
fn read(codec: &dyn Codec, bytes: &[u8], step: usize) -> Vec<Event> {
    let mut decoder = codec.stream_decoder(Operation::Chat);
    let mut events = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(piece, &mut events);
    }
    decoder.finish(&mut events);
    events
}

/// In one piece they are the same.
fn check(codec: &dyn Codec, bytes: &[u8], step: usize) {
    let (pieces, whole) = (read(codec, bytes, step), read(codec, bytes, bytes.len().max(1)));
    assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "{:?}", codec.dialect());
}

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
        check(*codec, bytes, step);
        for caller in DIALECTS {
            let mut encoder = caller.stream_encoder(Operation::Chat, &context);
            let mut out = Vec::new();
            read(*codec, bytes, step).into_iter().for_each(|event| encoder.push(event, &mut out));
        }
        let mut watch = Watch::new(codec.dialect(), Operation::Chat, true);
        for piece in bytes.chunks(step) {
            let _passed = watch.push(&bytes::Bytes::copy_from_slice(piece));
        }
        let _passed = watch.finish();
    }
    // Frames whose checksums fit are seldom made by chance: here every line is the payload of one.
    let mut framed = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((kind, payload)) = line.split_first() else { continue };
        let kind = EVENTS[usize::from(*kind) % EVENTS.len()];
        eventstream::write(&mut framed, &[(":event-type", kind), (":message-type", "event")], payload);
    }
    check(codec(Dialect::Bedrock), &framed, step);
});
