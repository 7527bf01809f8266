//! Tokens that were good, by their digests: a request with one of them costs a look-up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::identity::Identity;

/// Tokens that are remembered. Others are good too, and checked again.
const MOST: usize = 16_384;
/// Parts that are locked apart from each other.
const SHARDS: usize = 16;

struct Known {
    identity: Arc<Identity>,
    /// The directory that it was made with.
    generation: u64,
    until_ms: i64,
}

/// A bounded table of tokens.
#[derive(Default)]
pub(super) struct Tokens {
    shards: [Mutex<HashMap<[u8; 32], Known>>; SHARDS],
}

impl Tokens {
    fn shard(&self, digest: &[u8; 32]) -> &Mutex<HashMap<[u8; 32], Known>> {
        &self.shards[usize::from(digest[0]) % SHARDS]
    }

    pub(super) fn find(&self, digest: &[u8; 32], generation: u64, now_ms: i64) -> Option<Arc<Identity>> {
        let shard = self.shard(digest).lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            shard.get(digest).filter(|known| now_ms < known.until_ms && known.generation == generation)?;
        Some(Arc::clone(&known.identity))
    }

    pub(super) fn add(
        &self,
        digest: [u8; 32],
        identity: Arc<Identity>,
        generation: u64,
        until_ms: i64,
        now_ms: i64,
    ) {
        let mut shard = self.shard(&digest).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= MOST / SHARDS {
            shard.retain(|_, known| now_ms < known.until_ms);
        }
        if shard.len() >= MOST / SHARDS {
            // Whichever ends first is missed least.
            let first = shard.iter().min_by_key(|(_, known)| known.until_ms).map(|(digest, _)| *digest);
            first.and_then(|digest| shard.remove(&digest));
        }
        shard.insert(digest, Known { identity, generation, until_ms });
    }
}

#[cfg(test)]
mod tests {
    use millgate_types::Permissions;

    use super::*;

    #[test]
    fn tokens_are_known_until_they_expire_and_never_too_many() {
        let tokens = Tokens::default();
        let somebody = Identity::anonymous(Permissions::default());
        let digest = |n: usize| {
            let mut digest = [0; 32];
            digest[1..9].copy_from_slice(&n.to_le_bytes());
            digest
        };
        for n in 0..2 * MOST / SHARDS {
            tokens.add(digest(n), Arc::clone(&somebody), 7, 1000 + n as i64, 0);
        }
        let last = digest(2 * MOST / SHARDS - 1);
        assert!(tokens.find(&last, 7, 1000).is_some() && tokens.find(&last, 7, 10_000).is_none());
        assert!(tokens.find(&last, 8, 1000).is_none(), "the directory is another");
        assert!(tokens.find(&digest(0), 7, 0).is_none(), "it ended first");
        assert_eq!(tokens.shards[0].lock().unwrap().len(), MOST / SHARDS);
        tokens.add(digest(0), somebody, 7, 100_000, 50_000);
        assert_eq!(tokens.shards[0].lock().unwrap().len(), 1, "what has expired goes first");
    }
}
