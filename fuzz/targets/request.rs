//! Callers' HTTP: the same bytes in other pieces are the same requests, and end the same way.
#![no_main]

use bytes::{Buf as _, Bytes};
use libfuzzer_sys::fuzz_target;
use millgate_http1::{Framing, Head, parse};

fuzz_target!(|input: &[u8]| {
    let Some((step, wire)) = input.split_first() else { return };
    let step = usize::from(*step % 32) + 1;
    assert_eq!(read(wire, wire.len().max(1)), read(wire, step));
});

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// More would have to come.
    Open,
    Refused,
    Framing(&'static str),
}

/// The requests of a connection, each with the data of its body, and why there is no more.
fn read(wire: &[u8], step: usize) -> (Vec<(String, Vec<u8>)>, End) {
    let (mut requests, mut input, mut body) = (Vec::new(), Bytes::new(), Framing::Length(0));
    for piece in wire.chunks(step) {
        input = [&input[..], piece].concat().into();
        loop {
            while !body.is_end() && body.failure().is_none() && !input.is_empty() {
                let data = body.take(&mut input);
                let (_, all): &mut (String, Vec<u8>) = requests.last_mut().expect("a body has a request");
                all.extend_from_slice(&data);
            }
            if let Some(what) = body.failure() {
                return (requests, End::Framing(what));
            }
            if !body.is_end() || input.is_empty() {
                break;
            }
            match parse(&input) {
                Ok(None) => break,
                Ok(Some(head)) => {
                    let Head { method, target, headers, framing, keep_alive, expects, length, .. } = head;
                    let said = format!("{method} {target} {headers:?} {keep_alive} {expects}");
                    requests.push((said, Vec::new()));
                    input.advance(length);
                    body = framing;
                }
                Err(_) => return (requests, End::Refused),
            }
        }
    }
    (requests, End::Open)
}
