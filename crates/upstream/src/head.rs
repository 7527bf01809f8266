//! The head of a response: parsed by `httparse`, and what it says of the body (RFC 9112, 6.3).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use millgate_http1::{Chunked, Framing, decimal};

/// Header fields of one response.
const MAX_FIELDS: usize = 128;
/// A response's head, in bytes.
pub(crate) const MAX_HEAD: usize = 64 << 10;

/// A response's head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// Another request may follow on the connection.
    pub(crate) keep_alive: bool,
    /// Its length in bytes.
    pub(crate) length: usize,
}

/// Reads a response's head at the beginning of `bytes`. `None`: it is not all there. Header values share the
/// memory of `bytes`.
pub(crate) fn parse(bytes: &Bytes, method: &Method) -> Result<Option<Head>, &'static str> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("the head of the answer is too large"),
        Err(httparse::Error::TooManyHeaders) => return Err("the answer has too many header fields"),
        Err(_) => return Err("the answer is not HTTP/1.1"),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or("the answer has no status")?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    let mut keep_alive = response.version == Some(1);
    let mut content_length = None;
    let mut coding = None;
    for field in &*response.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a field has no name")?;
        if name == header::CONTENT_LENGTH {
            let length = decimal(field.value).ok_or("the answer's length is not a number")?;
            if content_length.replace(length).is_some_and(|other| other != length) {
                return Err("the answer has two lengths");
            }
        } else if name == header::TRANSFER_ENCODING {
            if coding.is_some() {
                return Err("the answer's transfer coding is not known");
            }
            coding = Some(field.value);
        } else if name == header::CONNECTION {
            for token in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                keep_alive &= !token.eq_ignore_ascii_case(b"close");
                keep_alive |= response.version == Some(0) && token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        headers.append(name, value.map_err(|_| "a field has bytes that fields do not have")?);
    }
    let empty = method == Method::HEAD
        || status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let framing = match (coding, content_length) {
        _ if empty => Framing::Length(0),
        (Some(coding), length) => {
            if !coding.eq_ignore_ascii_case(b"chunked") {
                return Err("the answer's transfer coding is not known");
            }
            // Both at once is how smuggling begins: the connection is not used again.
            keep_alive &= length.is_none();
            Framing::Chunked(Chunked::default())
        }
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::Close,
    };
    keep_alive &= !matches!(framing, Framing::Close);
    Ok(Some(Head { status, headers, framing, keep_alive, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<Option<Head>, &'static str> {
        parse(&Bytes::from_static(text.as_bytes()), &Method::POST)
    }

    fn framing(text: &'static str) -> (String, bool) {
        let head = read(text).unwrap().unwrap();
        let kind = match head.framing {
            Framing::Length(length) => length.to_string(),
            Framing::Chunked(_) => "chunked".to_owned(),
            Framing::Close => "close".to_owned(),
        };
        (kind, head.keep_alive)
    }

    #[test]
    fn the_end_of_a_body_is_known_from_its_head() {
        for (text, kind, keep) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n", "12", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\ncontent-length: 12\r\n\r\n", "12", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", "chunked", true),
            ("HTTP/1.1 200\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n", "chunked", false),
            ("HTTP/1.1 200 OK\r\n\r\n", "close", false),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n", "0", true),
            ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\n", "1", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", "1", false),
            ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\n", "1", true),
        ] {
            assert_eq!(framing(text), (kind.to_owned(), keep), "{text}");
        }
        let head = Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n");
        assert!(matches!(parse(&head, &Method::HEAD).unwrap().unwrap().framing, Framing::Length(0)));
    }

    #[test]
    fn a_head_that_is_not_all_there_is_waited_for_up_to_a_limit() {
        assert!(read("HTTP/1.1 200 OK\r\ncontent-len").unwrap().is_none());
        let long = Bytes::from([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'x'; MAX_HEAD]].concat());
        assert!(parse(&long, &Method::POST).is_err());
    }

    #[test]
    fn heads_that_may_mean_two_things_are_refused() {
        for text in [
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1,1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
