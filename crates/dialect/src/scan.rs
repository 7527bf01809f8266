//! One pass over a JSON body that stays bytes: checks that it is JSON by the strict rules of RFC 8259 (valid
//! UTF-8, no lone surrogate, depth at most 128, nothing behind the value) and shows the top-level members
//! where they stand, so that the pass lane can read what it needs and splice without building a tree.

use std::borrow::Cow;
use std::ops::Range;

use millgate_types::{Fault, code};
use wide::u8x16;

/// Nesting deeper than this is refused.
pub const MAX_DEPTH: usize = 128;

/// What a JSON value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true`, `false`
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// The word used in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A member of an object, in place.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The name, with escapes resolved.
    pub name: Cow<'a, str>,
    /// Where the name stands in the body, its quotes left out.
    pub name_span: Range<usize>,
    /// What the value is.
    pub kind: Kind,
    /// The value's text, quotes and brackets included.
    pub text: &'a [u8],
    /// Where the value stands in the body.
    pub span: Range<usize>,
}

impl<'a> Member<'a> {
    /// The value as text, if it is a string.
    #[must_use]
    pub fn string(&self) -> Option<Cow<'a, str>> {
        (self.kind == Kind::String).then(|| unescape(&self.text[1..self.text.len() - 1]))
    }

    /// The value, if it is a boolean.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        (self.kind == Kind::Bool).then(|| self.text[0] == b't')
    }

    /// The value, if it is a non-negative integer that fits.
    #[must_use]
    pub fn unsigned(&self) -> Option<u64> {
        (self.kind == Kind::Number).then(|| std::str::from_utf8(self.text).ok()?.parse().ok())?
    }

    /// The value, if it is a number.
    #[must_use]
    pub fn float(&self) -> Option<f64> {
        (self.kind == Kind::Number).then(|| std::str::from_utf8(self.text).ok()?.parse().ok())?
    }

    /// An array or object without elements.
    #[must_use]
    pub fn is_empty_container(&self) -> bool {
        matches!(self.kind, Kind::Array | Kind::Object)
            && self.text[1..self.text.len() - 1].iter().all(u8::is_ascii_whitespace)
    }
}

/// The top-level members of a body that is one JSON object, in order. Faults: `invalid_json` with the byte
/// offset, `invalid_value` when the body is JSON but not an object, `duplicate_member`.
pub fn members(body: &[u8]) -> Result<Vec<Member<'_>>, Fault> {
    let mut scanner = Scanner::over(body)?;
    scanner.space();
    match scanner.peek() {
        Some(b'{') => {}
        None => return Err(invalid(0, "the body is empty").into()),
        Some(_) => {
            scanner.value(0)?;
            scanner.end()?;
            return Err(Fault::client(code::INVALID_VALUE, "the body must be a JSON object"));
        }
    }
    let found = scanner.object()?;
    scanner.end()?;
    Ok(found)
}

/// The members of an object that stands inside a body already checked by [`members`].
pub fn inner_members<'a>(member: &Member<'a>) -> Result<Vec<Member<'a>>, Fault> {
    debug_assert!(member.kind == Kind::Object);
    Ok(Scanner::over_checked(member.text).object()?)
}

/// Shows the members of a provider's answer that is one JSON object, in order: the name as it stands between
/// its quotes, what the value is, its text. The JSON is checked as in [`members`]; names may stand twice.
pub fn visit<'a>(body: &'a [u8], see: impl FnMut(&'a [u8], Kind, &'a [u8])) -> Result<(), Fault> {
    let mut scanner = Scanner::over(body)?;
    scanner.space();
    scanner.visit(see)?;
    scanner.end()?;
    Ok(())
}

/// Whether the text is one JSON object, by the rules of [`members`]; names may stand twice.
#[must_use]
pub fn is_object(text: &[u8]) -> bool {
    let Ok(mut scanner) = Scanner::over(text) else { return false };
    matches!(scanner.value(0), Ok(Kind::Object)) && scanner.end().is_ok()
}

/// What [`visit`] does, for an object inside a body that was checked already. What is not an object shows nothing.
pub fn visit_inner<'a>(object: &'a [u8], see: impl FnMut(&'a [u8], Kind, &'a [u8])) {
    let _checked_before = Scanner::over_checked(object).visit(see);
}

/// Why a body is refused. Small, because every step of the scanner returns it: with a whole [`Fault`] in its
/// place the scan took twice as long.
#[derive(Debug)]
enum Refused {
    Damaged(usize, &'static str),
    Twice(usize, Box<str>),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Damaged(offset, what) => {
                Self::client(code::INVALID_JSON, format!("invalid JSON at byte {offset}: {what}"))
            }
            Refused::Twice(offset, name) => {
                let public = format!("the member `{name}` stands twice (byte {offset})");
                Self::client(code::DUPLICATE_MEMBER, public).with_param(String::from(name))
            }
        }
    }
}

fn invalid(offset: usize, what: &'static str) -> Refused {
    Refused::Damaged(offset, what)
}

/// Resolves the escapes of a string that the scanner has checked.
fn unescape(inner: &[u8]) -> Cow<'_, str> {
    // The scanner checked the UTF-8 of the whole body and cuts at ASCII characters only.
    let text = std::str::from_utf8(inner).unwrap_or_default();
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let quoted = format!("\"{text}\"");
    Cow::Owned(serde_json::from_str(&quoted).unwrap_or_default())
}

struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
    /// Where the block begins that was looked at last, and a bit for each of its bytes: whether it [`is_special`]. Most
    /// strings are short: a block has several of them.
    base: usize,
    marks: u64,
}

impl<'a> Scanner<'a> {
    fn over(body: &'a [u8]) -> Result<Self, Refused> {
        if body.is_ascii() {
            return Ok(Self::over_checked(body));
        }
        match std::str::from_utf8(body) {
            Ok(_) => Ok(Self::over_checked(body)),
            Err(error) => Err(invalid(error.valid_up_to(), "not UTF-8")),
        }
    }

    /// Over what is UTF-8.
    fn over_checked(body: &'a [u8]) -> Self {
        let mut scanner = Self { body, at: 0, base: 0, marks: 0 };
        scanner.look();
        scanner
    }

    /// Looks at the block that begins here.
    fn look(&mut self) {
        (self.base, self.marks) = (self.at, specials(&self.block()));
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Refused> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.unexpected(what))
        }
    }

    fn unexpected(&self, what: &'static str) -> Refused {
        if self.at >= self.body.len() {
            invalid(self.at, "the text ends too early")
        } else {
            invalid(self.at, what)
        }
    }

    fn end(&mut self) -> Result<(), Refused> {
        self.space();
        if self.at == self.body.len() { Ok(()) } else { Err(invalid(self.at, "text behind the value")) }
    }

    fn object(&mut self) -> Result<Vec<Member<'a>>, Refused> {
        let mut found: Vec<Member<'a>> = Vec::with_capacity(12);
        self.walk(|body, name, kind, span| {
            let (name_span, name_at) = (name.clone(), name.start - 1);
            let name = unescape(&body[name]);
            if found.iter().any(|member| member.name == name) {
                let shown: String = name.chars().take(64).collect();
                return Err(Refused::Twice(name_at, shown.into()));
            }
            found.push(Member { name, name_span, kind, text: &body[span.clone()], span });
            Ok(())
        })?;
        Ok(found)
    }

    fn visit(&mut self, mut see: impl FnMut(&'a [u8], Kind, &'a [u8])) -> Result<(), Refused> {
        self.walk(|body, name, kind, span| {
            see(&body[name], kind, &body[span]);
            Ok(())
        })
    }

    /// Steps over an object and shows each member: the span of its name between the quotes, its kind, the span
    /// of its value.
    fn walk(
        &mut self,
        mut see: impl FnMut(&'a [u8], Range<usize>, Kind, Range<usize>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        self.expect(b'{', "expected an object")?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.expect(b':', "expected `:`")?;
            self.space();
            let start = self.at;
            let kind = self.value(1)?;
            see(self.body, name, kind, start..self.at)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("expected `,` or `}`")),
            }
        }
    }

    /// Steps over one value that stands `outer` containers deep. Not recursive: `open` keeps one bit per
    /// container, 1 for an object.
    fn value(&mut self, outer: usize) -> Result<Kind, Refused> {
        let first = self.kind()?;
        let mut kind = first;
        let mut open: u128 = 0;
        let mut depth = 0_usize;
        loop {
            // A value begins here.
            match kind {
                Kind::String => {
                    self.string()?;
                }
                Kind::Number => self.number()?,
                Kind::Null => self.literal(b"null")?,
                Kind::Bool if self.peek() == Some(b't') => self.literal(b"true")?,
                Kind::Bool => self.literal(b"false")?,
                container => {
                    if outer + depth >= MAX_DEPTH {
                        return Err(invalid(self.at, "nested deeper than 128"));
                    }
                    let is_object = container == Kind::Object;
                    let close = if is_object { b'}' } else { b']' };
                    self.at += 1;
                    self.space();
                    if self.peek() == Some(close) {
                        self.at += 1;
                    } else {
                        open = open << 1 | u128::from(is_object);
                        depth += 1;
                        if is_object {
                            self.name()?;
                        }
                        kind = self.kind()?;
                        continue;
                    }
                }
            }
            // A value ended here: step out of what it closes.
            loop {
                if depth == 0 {
                    return Ok(first);
                }
                self.space();
                let is_object = open & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.space();
                        if is_object {
                            self.name()?;
                        }
                        kind = self.kind()?;
                        break;
                    }
                    Some(b'}') if is_object => self.at += 1,
                    Some(b']') if !is_object => self.at += 1,
                    _ if is_object => return Err(self.unexpected("expected `,` or `}`")),
                    _ => return Err(self.unexpected("expected `,` or `]`")),
                }
                open >>= 1;
                depth -= 1;
            }
        }
    }

    /// A member's name and the colon, up to the value.
    fn name(&mut self) -> Result<(), Refused> {
        self.string()?;
        self.space();
        self.expect(b':', "expected `:`")?;
        self.space();
        Ok(())
    }

    fn kind(&self) -> Result<Kind, Refused> {
        match self.peek() {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            _ => Err(self.unexpected("expected a value")),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Refused> {
        if self.body[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.unexpected("expected a value"))
        }
    }

    fn digits(&mut self) -> Result<(), Refused> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("expected a digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), Refused> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if let Some(b'0'..=b'9') = self.peek() {
                return Err(invalid(self.at, "a number with a leading zero"));
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Steps over a string; gives the span between the quotes.
    #[inline]
    fn string(&mut self) -> Result<Range<usize>, Refused> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let past = start - self.base;
        if past < BLOCK && self.marks >> past != 0 {
            let end = start + (self.marks >> past).trailing_zeros() as usize;
            if self.body.get(end) == Some(&b'"') {
                self.at = end + 1;
                return Ok(start..end);
            }
        }
        self.long_string()
    }

    /// Steps over a string from behind its first quote. A block at a time: most of a long prompt is text in which only
    /// quotes, backslashes and control characters matter.
    #[inline(never)]
    fn long_string(&mut self) -> Result<Range<usize>, Refused> {
        let start = self.at;
        'blocks: loop {
            self.look();
            let (base, mut marks) = (self.base, self.marks);
            if marks == 0 {
                self.at = base + BLOCK;
                self.plain();
                continue;
            }
            while marks != 0 {
                self.at = base + marks.trailing_zeros() as usize;
                match self.peek() {
                    Some(b'"') => {
                        self.at += 1;
                        return Ok(start..self.at - 1);
                    }
                    Some(_) => self.escape_or_control()?,
                    None => return Err(invalid(self.at, "the text ends inside a string")),
                }
                let past = self.at - base;
                if past >= BLOCK {
                    continue 'blocks;
                }
                marks &= u64::MAX << past;
            }
            self.at = base + BLOCK;
        }
    }

    /// The next bytes; behind the end of the text there are quotes.
    fn block(&self) -> [u8; BLOCK] {
        let rest = &self.body[self.at..];
        if let Some(block) = rest.first_chunk() {
            return *block;
        }
        let mut block = [b'"'; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        block
    }

    /// Steps over the plain text of a long string, up to a quote, a backslash or a control character.
    fn plain(&mut self) {
        let rest = &self.body[self.at..];
        let text = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
        let least = text.iter().fold(u8::MAX, |least, byte| least.min(*byte));
        let control = || text.iter().position(|byte| is_special(*byte));
        self.at += (least < 0x20).then(control).flatten().unwrap_or(text.len());
    }

    /// A byte of a string that is neither plain nor its end.
    #[expect(clippy::inline_always, reason = "a call for every escape costs more than the escape")]
    #[inline(always)]
    fn escape_or_control(&mut self) -> Result<(), Refused> {
        if self.peek() != Some(b'\\') {
            return Err(invalid(self.at, "a control character in a string"));
        }
        match self.body.get(self.at + 1) {
            Some(b'n' | b'"' | b'\\' | b't' | b'r' | b'/' | b'b' | b'f') => {
                self.at += 2;
                Ok(())
            }
            _ => self.escape(),
        }
    }

    /// `\uXXXX`, or what is no escape.
    fn escape(&mut self) -> Result<(), Refused> {
        let start = self.at;
        match self.body.get(start + 1) {
            Some(b'u') => {
                let unit = self.code_unit(start)?;
                self.at += 6;
                match unit {
                    0xD800..=0xDBFF => {
                        let low = self.code_unit(self.at).ok();
                        if self.body[self.at..].starts_with(b"\\u") && matches!(low, Some(0xDC00..=0xDFFF)) {
                            self.at += 6;
                        } else {
                            return Err(invalid(start, "a lone surrogate"));
                        }
                    }
                    0xDC00..=0xDFFF => return Err(invalid(start, "a lone surrogate")),
                    _ => {}
                }
            }
            _ => return Err(invalid(start, "an unknown escape")),
        }
        Ok(())
    }

    /// The four hexadecimal digits of the `\uXXXX` at `at`.
    fn code_unit(&self, at: usize) -> Result<u32, Refused> {
        let digits = self.body.get(at + 2..at + 6).unwrap_or_default();
        let digits = digits.iter().try_fold((0_u32, 0_u8), |(unit, count), byte| {
            char::from(*byte).to_digit(16).map(|digit| (unit << 4 | digit, count + 1))
        });
        match digits {
            Some((unit, 4)) => Ok(unit),
            _ => Err(invalid(at, "a damaged \\u escape")),
        }
    }
}

/// Bytes looked at together.
const BLOCK: usize = 64;

/// How many bytes at the beginning of `text` may stand in a JSON string as they are.
pub(crate) fn plain_length(text: &[u8]) -> usize {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    for (number, block) in blocks.iter().enumerate() {
        let marks = specials(block);
        if marks != 0 {
            return number * BLOCK + marks.trailing_zeros() as usize;
        }
    }
    text.len() - rest.len() + rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len())
}

/// A quote, a backslash or a control character.
fn is_special(byte: u8) -> bool {
    byte < 0x20 || matches!(byte, b'"' | b'\\')
}

/// A bit for each byte, the lowest for the first: whether [`is_special`] says so.
#[inline]
fn specials(block: &[u8; BLOCK]) -> u64 {
    let (vectors, _) = block.as_chunks();
    vectors.iter().rev().fold(0, |marks, bytes| {
        let bytes = u8x16::new(*bytes);
        let control = bytes.min(u8x16::splat(0x1F)).simd_eq(bytes);
        let special = control | bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\'));
        marks << 16 | u64::from(special.to_bitmask())
    })
}

#[cfg(test)]
mod tests;
