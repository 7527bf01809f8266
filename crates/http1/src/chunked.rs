//! The chunked transfer coding (RFC 9112, 7.1), read strictly: lines end in CRLF, sizes are hexadecimal and
//! fit 64 bits, and everything between the data has a limit.

/// Extensions and trailers of one body together, in bytes.
const MAX_OVERHEAD: u32 = 16 << 10;

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At a size; whether a digit was there.
    Size(bool),
    /// White space behind a size.
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty last one.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// Reads a chunked body. Any split of the same bytes gives the same data.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    /// Of the chunk: what is left of its data, or its size so far.
    left: u64,
    overhead: u32,
    failure: Option<&'static str>,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size(false), left: 0, overhead: 0, failure: None }
    }
}

impl Chunked {
    /// The last chunk and its trailers were read.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// What is wrong with the coding; nothing is read from there on.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        self.failure
    }

    /// Takes the next bytes and appends their data to `out`. Gives how many bytes were taken: all of them, but
    /// for those behind the end or a failure.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.state != State::End && self.failure.is_none() {
            if self.state == State::Data {
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                out.extend_from_slice(&bytes[at..at + take]);
                at += take;
                self.left -= take as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            match self.step(bytes[at]) {
                Ok(state) => self.state = state,
                Err(what) => self.failure = Some(what),
            }
            at += 1;
        }
        at
    }

    fn step(&mut self, byte: u8) -> Result<State, &'static str> {
        Ok(match (self.state, byte) {
            (State::Size(_), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.left >> 60 != 0 {
                    return Err("the size of a chunk is too large");
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                State::Size(true)
            }
            (State::Size(true) | State::SizeSpace, b' ' | b'\t') => self.over(State::SizeSpace)?,
            (State::Size(true) | State::SizeSpace, b';') => self.over(State::Extension)?,
            (State::Size(true) | State::SizeSpace | State::Extension, b'\r') => State::SizeLf,
            (State::Size(_) | State::SizeSpace, _) => return Err("the size of a chunk is not a number"),
            (State::Extension | State::Trailer | State::TrailerStart, b'\n') => {
                return Err("a line of the chunked body ends without CR");
            }
            (State::Extension, _) => self.over(State::Extension)?,
            (State::SizeLf, b'\n') if self.left == 0 => State::TrailerStart,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(false),
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::Trailer, _) => self.over(State::Trailer)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::End,
            _ => return Err("the chunked body is framed badly"),
        })
    }

    fn over(&mut self, next: State) -> Result<State, &'static str> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD {
            return Err("the chunked body has too many extensions or trailers");
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool, usize), &'static str> {
        let (mut chunked, mut out, mut taken) = (Chunked::default(), Vec::new(), 0);
        for piece in bytes.chunks(step) {
            taken += chunked.push(piece, &mut out);
        }
        chunked.failure().map_or(Ok((out, chunked.is_end(), taken)), Err)
    }

    #[test]
    fn any_split_gives_the_same_data() {
        let wire = b"3\r\nabc\r\n00A ;x=\"y\"\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\nbehind";
        for step in 1..=wire.len() {
            let (data, end, taken) = read(wire, step).unwrap();
            assert_eq!(data, b"abc0123456789");
            assert!(end);
            assert_eq!(taken, wire.len() - "behind".len());
        }
    }

    #[test]
    fn what_is_not_the_coding_is_refused() {
        for wire in [
            &b"\r\nabc"[..],
            b"3\nabc\r\n",
            b"-3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"+3\r\nabc",
            b"3 3\r\nabc",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n",
            b"10000000000000000\r\n",
            b"0\r\nx: y\n\r\n",
            b"3\rabc",
        ] {
            assert!(read(wire, 1).is_err(), "{}", String::from_utf8_lossy(wire));
            assert!(read(wire, wire.len()).is_err());
        }
        let long = [b"3;".as_slice(), &vec![b'x'; MAX_OVERHEAD as usize + 1]].concat();
        assert!(read(&long, 100).is_err());
    }

    #[test]
    fn a_body_that_stops_is_not_at_its_end() {
        assert_eq!(read(b"3\r\nab", 10).unwrap(), (b"ab".to_vec(), false, 5));
        assert_eq!(read(b"3\r\nabc\r\n0\r\n", 10).unwrap(), (b"abc".to_vec(), false, 11));
    }
}
