//! The head of a request: parsed by `httparse`, and what it says of the body and the connection. Whatever could be read in
//! two ways is refused (RFC 9112, 6.3 and 11.2).

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};

use crate::Chunked;
use crate::framing::{Framing, decimal};

/// Header fields of one request.
pub const MAX_FIELDS: usize = 100;
/// A request's head, in bytes.
pub const MAX_HEAD: usize = 64 << 10;

/// A request's head.
#[derive(Debug)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The request target.
    pub target: Uri,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// All fields, those of the framing too.
    pub headers: HeaderMap,
    /// Where the body ends.
    pub framing: Framing,
    /// Another request may follow on the connection.
    pub keep_alive: bool,
    /// The body waits for `100 Continue`.
    pub expects: bool,
    /// Its length in bytes.
    pub length: usize,
}

/// A request that is not served.
#[derive(Debug)]
pub struct Refused {
    /// Method and target, where they could be read.
    pub line: Option<(Method, Uri)>,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is not HTTP, or could be read in two ways. In words.
    Malformed(&'static str),
    /// More than [`MAX_HEAD`] bytes, or more than [`MAX_FIELDS`] fields.
    TooLarge,
}

/// Reads a request's head at the beginning of `bytes`. `None`: it is not all there.
///
/// # Errors
/// What is not served. Nothing behind it on the connection can be trusted.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, Refused> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, &mut fields);
    let line = || {
        let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
        Some((method, Uri::try_from(request.path?).ok()?))
    };
    let refuse = |why| Refused { line: line(), why };
    let malformed = |what| refuse(Why::Malformed(what));
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(refuse(Why::TooLarge)),
        Err(httparse::Error::Version) => {
            return Err(malformed("the request is neither HTTP/1.1 nor HTTP/1.0"));
        }
        Err(httparse::Error::HeaderName) => return Err(malformed("a header field has no proper name")),
        Err(httparse::Error::HeaderValue) => {
            return Err(malformed("a header field has bytes that fields do not have"));
        }
        Err(_) => return Err(malformed("the request is not HTTP/1.1")),
    };
    let is_1_1 = request.version == Some(1);
    let (method, target) = line().ok_or_else(|| malformed("the request line has no proper target"))?;
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    let mut keep_alive = is_1_1;
    let mut expects = false;
    let mut content_length = None;
    let mut codings = 0;
    for field in &*request.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| malformed("a header field has no proper name"))?;
        if name == header::CONTENT_LENGTH {
            let length = decimal(field.value).ok_or_else(|| malformed("`Content-Length` is not a number"))?;
            if content_length.replace(length).is_some_and(|other| other != length) {
                return Err(malformed("two `Content-Length` differ"));
            }
        } else if name == header::TRANSFER_ENCODING {
            codings += 1;
            if codings > 1 || !is_1_1 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(malformed("`Transfer-Encoding` may be `chunked`, once, in HTTP/1.1"));
            }
        } else if name == header::CONNECTION {
            for token in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                keep_alive |= !is_1_1 && token.eq_ignore_ascii_case(b"keep-alive");
                if token.eq_ignore_ascii_case(b"close") {
                    keep_alive = false;
                }
            }
        } else if name == header::EXPECT {
            expects = is_1_1 && field.value.eq_ignore_ascii_case(b"100-continue");
        }
        // A value of its own: one that shares the memory of the others costs more to hold and to let go.
        let value = HeaderValue::from_bytes(field.value)
            .map_err(|_| malformed("a header field has bytes that fields do not have"))?;
        headers.append(name, value);
    }
    let framing = match (codings, content_length) {
        (0, length) => Framing::Length(length.unwrap_or(0)),
        (_, None) => Framing::Chunked(Chunked::default()),
        (_, Some(_)) => return Err(malformed("`Content-Length` and `Transfer-Encoding` stand together")),
    };
    let version = if is_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
    Ok(Some(Head { method, target, version, headers, framing, keep_alive, expects, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        parse(text.as_bytes()).expect(text).expect(text)
    }

    #[test]
    fn a_head_says_where_the_body_ends_and_whether_the_connection_goes_on() {
        for (fields, kind, keep) in [
            ("HTTP/1.1\r\n", "0", true),
            ("HTTP/1.0\r\n", "0", false),
            ("HTTP/1.0\r\nconnection: Keep-Alive\r\n", "0", true),
            ("HTTP/1.1\r\nconnection: x, Close\r\n", "0", false),
            ("HTTP/1.1\r\nconnection: close, keep-alive\r\n", "0", false),
            ("HTTP/1.1\r\ncontent-length: 12\r\n", "12", true),
            ("HTTP/1.1\r\ncontent-length: 12\r\ncontent-length: 12\r\n", "12", true),
            ("HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n", "chunked", true),
        ] {
            let head = head(&format!("POST /x?y {fields}\r\nbehind"));
            let framing = match head.framing {
                Framing::Length(length) => length.to_string(),
                Framing::Chunked(_) => "chunked".to_owned(),
                Framing::Close => "close".to_owned(),
            };
            assert_eq!((framing.as_str(), head.keep_alive), (kind, keep), "{fields}");
            assert_eq!((head.method, head.target.path()), (Method::POST, "/x"));
            assert_eq!(head.length, format!("POST /x?y {fields}\r\n").len());
        }
        assert!(head("POST / HTTP/1.1\r\nexpect: 100-Continue\r\n\r\n").expects);
        assert!(!head("POST / HTTP/1.0\r\nexpect: 100-continue\r\n\r\n").expects);
    }

    #[test]
    fn heads_that_could_be_read_in_two_ways_are_refused() {
        for fields in [
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: +1\r\n",
            "content-length: 0x1\r\n",
            "content-length: 1, 1\r\n",
            "content-length:\r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "x : y\r\n",
            "x: y\r\n z\r\n",
            "x: y\0z\r\n",
            "x: y\rz\r\n",
            ": y\r\n",
            "nonsense\r\n",
        ] {
            let refused = parse(format!("POST /path HTTP/1.1\r\n{fields}\r\n").as_bytes()).expect_err(fields);
            assert!(matches!(refused.why, Why::Malformed(_)), "{fields}: {refused:?}");
            let (method, target) = refused.line.expect("the line was whole");
            assert_eq!((method, target.path()), (Method::POST, "/path"));
        }
        for text in [
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "\x16\x03\x01",
            "GET  / x",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_head_that_is_not_all_there_is_waited_for_up_to_a_limit() {
        let text = b"POST /path HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
        for length in 0..text.len() {
            assert!(parse(&text[..length]).expect("no fault yet").is_none(), "{length}");
        }
        let large = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &vec![b'x'; MAX_HEAD], b"\r\n\r\n"].concat();
        for length in [MAX_HEAD, large.len()] {
            assert_eq!(parse(&large[..length]).expect_err("too large").why, Why::TooLarge);
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(parse(many.as_bytes()).expect_err("too many").why, Why::TooLarge);
    }
}
