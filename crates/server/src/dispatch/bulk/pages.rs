//! The headers of a Parquet file's pages, read before anything is decoded: a page says itself how large it becomes, and the
//! decoder believes it. What is found here bounds how much memory a file's rows take.
//!
//! Format: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift> (`PageHeader`), in Thrift's
//! compact protocol.

use std::io::{BufReader, Error, ErrorKind, Read, Result, Seek, SeekFrom};

/// Deeper structures are no page header.
const DEEPEST: usize = 8;
/// A header's statistics may hold values; longer ones are not taken.
const LONGEST: u64 = 1 << 20;
/// Front-coded texts: a small page becomes a very large one.
const DELTA_BYTE_ARRAY: i64 = 7;

/// What the pages of one column of a row group take in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// The largest page and the dictionary, in bytes.
    pub(super) open: u64,
    /// The most bytes a value of one page, on the average of that page.
    pub(super) value: u64,
}

/// Weighs the pages from `start` on, `length` bytes. Error: what is there is no run of pages, or has an encoding that is not
/// taken.
pub(super) fn weigh(file: &mut (impl Read + Seek), start: u64, length: u64) -> Result<Weight> {
    file.seek(SeekFrom::Start(start))?;
    let mut reader = Compact { input: BufReader::new(file), read: 0 };
    let (mut page, mut dictionary, mut value) = (0, 0, 0);
    while reader.read < length {
        let header = reader.header()?;
        if header.packed > length.saturating_sub(reader.read) {
            return Err(broken("a page is longer than its column"));
        }
        reader.skip_bytes(header.packed, u64::MAX)?;
        if header.is_dictionary {
            dictionary = header.unpacked.max(dictionary);
        } else {
            page = header.unpacked.max(page);
            value = header.unpacked.div_ceil(header.values.max(1)).max(value);
        }
    }
    Ok(Weight { open: page + dictionary, value })
}

fn broken(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[derive(Default)]
struct Header {
    packed: u64,
    unpacked: u64,
    values: u64,
    is_dictionary: bool,
}

/// Thrift's compact protocol, as far as headers need it.
struct Compact<R> {
    input: R,
    /// Bytes so far.
    read: u64,
}

/// A field's number and type.
type Field = (i64, u8);

const I32: u8 = 5;
const STRUCT: u8 = 12;

impl<R: Read + Seek> Compact<BufReader<R>> {
    fn header(&mut self) -> Result<Header> {
        let mut header = Header::default();
        let (mut kind, mut sizes) = (None, (None, None));
        let mut last = 0;
        while let Some(field) = self.field(&mut last)? {
            match field {
                (1, I32) => kind = Some(self.number()?),
                (2, I32) => sizes.0 = Some(self.number()?),
                (3, I32) => sizes.1 = Some(self.number()?),
                // Where the number of values and the encoding stand, in both forms of a data page.
                (5, STRUCT) => header.values = self.page(2)?,
                (8, STRUCT) => header.values = self.page(4)?,
                (_, kind) => self.skip(kind, 0)?,
            }
        }
        let size = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok());
        let (Some(kind), Some(unpacked), Some(packed)) = (kind, size(sizes.0), size(sizes.1)) else {
            return Err(broken("a page has no size"));
        };
        (header.unpacked, header.packed, header.is_dictionary) = (unpacked, packed, kind == 2);
        Ok(header)
    }

    /// The header of a data page; the encoding stands at `encoding`. Gives the number of its values.
    fn page(&mut self, encoding: i64) -> Result<u64> {
        let (mut last, mut values) = (0, 0);
        while let Some(field) = self.field(&mut last)? {
            match field {
                (1, I32) => values = self.number()?,
                (at, I32) if at == encoding => {
                    if self.number()? == DELTA_BYTE_ARRAY {
                        return Err(Error::new(ErrorKind::Unsupported, "DELTA_BYTE_ARRAY"));
                    }
                }
                (_, kind) => self.skip(kind, 0)?,
            }
        }
        u64::try_from(values).map_err(|_| broken("a page has a negative number of values"))
    }

    /// The next field; `None` at the end of the structure. `last` is the number of the one before.
    fn field(&mut self, last: &mut i64) -> Result<Option<Field>> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        *last = match head >> 4 {
            0 => self.number()?,
            step => last.saturating_add(i64::from(step)),
        };
        Ok(Some((*last, head & 0x0f)))
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken("a number is too long"))
    }

    fn number(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn skip_bytes(&mut self, count: u64, most: u64) -> Result<()> {
        if count > most {
            return Err(broken("a page's header is too long"));
        }
        self.input.seek_relative(i64::try_from(count).map_err(|_| broken("a length is too large"))?)?;
        self.read = self.read.saturating_add(count);
        Ok(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(broken("a page's header is nested too deeply"));
        }
        match kind {
            // Booleans are their type.
            1 | 2 => Ok(()),
            3 => self.skip_bytes(1, 1),
            4..=6 => self.varint().map(drop),
            7 => self.skip_bytes(8, 8),
            8 => {
                let length = self.varint()?;
                self.skip_bytes(length, LONGEST)
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(broken("a page's header has a field of a type that none has")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    /// A page with a header of the first form; `kind` 0 is data, 2 a dictionary.
    fn page(kind: u64, unpacked: u64, packed: usize, values: u64, encoding: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for value in [kind, unpacked, packed as u64] {
            out.push(0x15);
            varint(value << 1, &mut out);
        }
        let (field, encoded) = if kind == 2 { (0x4c, 0x15) } else { (0x2c, 0x15) };
        out.push(field);
        for value in [values, encoding] {
            out.push(encoded);
            varint(value << 1, &mut out);
        }
        // Statistics with a value, and a boolean.
        out.extend([0x3c, 0x18, 2, b'a', b'b', 0, 0x11, 0, 0]);
        out.resize(out.len() + packed, 7);
        out
    }

    #[test]
    fn pages_are_weighed_by_what_they_become() {
        let bytes = [page(2, 500, 20, 10, 0), page(0, 4000, 30, 1000, 8), page(0, 9000, 1, 3, 0)].concat();
        let weight = |start, length| weigh(&mut Cursor::new(&bytes), start, length);
        assert_eq!(weight(0, bytes.len() as u64).unwrap(), Weight { open: 9500, value: 3000 });
        assert!(weight(0, bytes.len() as u64 + 1).is_err(), "the file ends before its column");
        assert!(weight(0, 30).is_err(), "a page is longer than its column");
        assert!(weight(3, 60).is_err(), "no page begins there");
    }

    #[test]
    fn what_grows_without_saying_so_is_refused() {
        let bytes = page(0, 1000, 10, 5, DELTA_BYTE_ARRAY as u64);
        let error = weigh(&mut Cursor::new(&bytes), 0, bytes.len() as u64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let huge = page(0, (1 << 31) - 1, 10, 1, 0);
        assert_eq!(weigh(&mut Cursor::new(&huge), 0, huge.len() as u64).unwrap().open, (1 << 31) - 1);
        // Nested for ever.
        let deep = [0x5c; 100];
        assert!(weigh(&mut Cursor::new(&deep), 0, 100).is_err());
    }
}
