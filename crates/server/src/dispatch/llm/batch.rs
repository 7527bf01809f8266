//! Embedding calls with more texts than the provider takes at once: several requests, one after the other, and one
//! answer. What was consumed before one of them fails is in the record all the same.

use bytes::Bytes;
use http::response;
use millgate_dialect::{Quirks, codec};
use millgate_types::{Answer, Call, Dialect, EmbeddingCall, Fault, Prompt, Usage};

use super::{Attempt, Way, is_answer};
use crate::flight::Flight;
use crate::reply::Reply;

/// The bodies after the first, where `call` has more texts than the target takes; and what the first keeps.
pub(super) fn split(
    call: &mut Call,
    target: Dialect,
    quirks: &Quirks,
) -> Result<(Option<EmbeddingCall>, Vec<Bytes>), Fault> {
    let none = Ok((None, Vec::new()));
    let (Call::Embedding(whole), Some(most)) = (call, quirks.max_inputs) else { return none };
    let Prompt::Texts(texts) = &whole.input else { return none };
    if texts.len() <= most {
        return none;
    }
    let part = |texts: &[String]| EmbeddingCall { input: Prompt::Texts(texts.to_vec()), ..whole.clone() };
    let mut parts = texts.chunks(most).map(part);
    let first = parts.next();
    let rest = parts.map(|part| Ok(codec(target).encode_call(&Call::Embedding(part), quirks)?.body.into()));
    Ok((first, rest.collect::<Result<_, Fault>>()?))
}

impl Attempt<'_> {
    /// The answers of all requests as one; that to the first is there.
    pub(super) async fn batched(
        &self,
        head: &response::Parts,
        body: &Bytes,
        way: &Way<'_>,
        flight: &mut Flight,
    ) -> Result<Reply, Fault> {
        let mut whole = self.decode_whole(head, body, way)?;
        let mut usage = whole.usage().unwrap_or_default();
        flight.consumed(usage);
        for body in &way.rest {
            let response = self.send(way, body.clone()).await?;
            if !is_answer(&response) {
                return Err(self.failure(response).await);
            }
            let (head, body) = self.collect(response).await?;
            let more = self.decode_whole(&head, &body, way)?;
            usage = usage.plus(&more.usage().unwrap_or_default());
            flight.consumed(usage);
            append(&mut whole, more, usage);
        }
        Ok(Reply::json(codec(self.planned.call.dialect).encode_answer(&whole, &self.context(way, flight))))
    }
}

fn append(whole: &mut Answer, more: Answer, usage: Usage) {
    let (Answer::Embedding(whole), Answer::Embedding(more)) = (whole, more) else { return };
    let offset = whole.data.len() as u32;
    whole.data.extend(more.data.into_iter().map(|mut vector| {
        vector.index += offset;
        vector
    }));
    whole.usage = Some(usage);
}
