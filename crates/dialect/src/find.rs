//! Looking for fixed words in bodies and frames. Making a searcher costs as much as a look at a short frame, so each
//! is made once.

use memchr::memmem::Finder;

/// The searcher for a literal, made at its first use.
macro_rules! finder {
    ($needle:literal) => {{
        static FINDER: std::sync::LazyLock<memchr::memmem::Finder<'static>> =
            std::sync::LazyLock::new(|| memchr::memmem::Finder::new($needle));
        &*FINDER
    }};
}
pub(crate) use finder;

/// Whether the bytes hold the word.
pub(crate) fn has(bytes: &[u8], word: &Finder<'_>) -> bool {
    word.find(bytes).is_some()
}
