//! Fields of an answer that are written once and never looked at.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields as they stand in an answer's head, each said once. They cost a copy, where a [`HeaderMap`] costs an entry that is
/// hashed, held, written and let go.
#[derive(Clone, Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Room for this many bytes before it has to grow.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Appends a field. A value of other bytes than printable ASCII is left empty: no value ends its line.
    pub fn push(&mut self, name: &HeaderName, value: &[u8]) {
        debug_assert!(
            self.fields().all(|(said, _)| said != name.as_str().as_bytes()),
            "{name} is said twice"
        );
        let printable = value.iter().fold(true, |all, byte| all & (0x20..0x7f).contains(byte));
        let value = if printable { value } else { &[] };
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Names and values.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }

    /// Adds the fields to others, where a head is no text.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in self.fields() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_same_as_text_and_as_a_map() {
        let mut lines = Lines::default();
        let name = HeaderName::from_static;
        lines.push(&name("x-a"), b"one: two");
        lines.push(&name("x-b"), b"");
        lines.push(&name("x-c"), b"evil\r\nx-d: 1");
        assert_eq!(lines.as_bytes(), b"x-a: one: two\r\nx-b: \r\nx-c: \r\n");
        let mut headers = HeaderMap::new();
        lines.add_to(&mut headers);
        let all: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("?"))).collect();
        assert_eq!(all, [("x-a", "one: two"), ("x-b", ""), ("x-c", "")]);
    }
}
