//! Keys that anybody would try first.

use std::collections::BTreeSet;

/// Words of placeholders and of defaults that other gateways are shipped or documented with.
const WORDS: [&str; 14] = [
    "changeme",
    "changethis",
    "changeit",
    "yourkey",
    "yourapikey",
    "yoursecret",
    "replaceme",
    "placeholder",
    "password",
    "default",
    "example",
    "sk1234",
    "masterkey",
    "secretkey",
];

/// Why a key is no secret; `None`: it may be one.
pub(super) fn guessable(key: &str) -> Option<&'static str> {
    let plain: String =
        key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let rest = WORDS.iter().fold(plain.clone(), |rest, word| rest.replace(word, ""));
    // What stands beside such a word may be random.
    if rest.len() < plain.len() && rest.len() < 16 {
        return Some("the key is a well-known one, or a placeholder");
    }
    let distinct: BTreeSet<char> = key.chars().collect();
    (distinct.len() < 6).then_some("the key is nearly always the same character")
}

#[cfg(test)]
mod tests {
    use super::guessable;

    #[test]
    fn what_everybody_would_try_is_no_key() {
        for key in [
            "sk-1234567890abcdef",
            "CHANGE_ME_CHANGE_ME",
            "your-api-key-here!!",
            "0000000000000000",
            "abababababababab",
            "my-Password-is-long",
        ] {
            assert!(guessable(key).is_some(), "{key}");
        }
        for key in [
            "9f8c1d2e7a6b5c4d3e2f1a0b9c8d7e6f",
            "default-9f8c1d2e7a6b5c4d3e2f",
            "mg-bench-0123456789",
            "correct horse battery staple",
        ] {
            assert!(guessable(key).is_none(), "{key}");
        }
    }
}
