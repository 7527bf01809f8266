//! The plain body, read in one pass: numbers, texts and booleans go straight to their columns, without a tree of values
//! between: half of the time for 20,000 numbers. It is what nearly all callers send.
//!
//! What is not plain (params, escapes, members in another order, anything that does not fit) is left to the careful
//! reader in [`input`](crate::input), which alone words faults. So `None` never says that a body is bad, and `Some` is
//! what the careful reader would have given: the tests hold both beside each other.

use crate::frame::{ColumnData, Data, Form, Frame, Matrix};
use crate::input::{Checked, Names};
use crate::signature::{Column, Inputs, Kind, Signature, Tensor};

/// The widest table that is read here.
const MOST_COLUMNS: usize = 512;
/// Columns of a signature among which one is looked for that stands elsewhere in the body.
const FEW: usize = 64;

/// Reads a body of one member: `dataframe_split` or `dataframe_records` for named columns, `inputs` or `instances` with a
/// list of rows for one unnamed tensor of two dimensions.
pub(crate) fn read(body: &[u8], signature: &Signature) -> Option<Checked> {
    let mut scan = Scan { body, at: 0 };
    scan.take(b'{')?;
    let form = scan.text()?;
    scan.take(b':')?;
    let data = match (form, signature.inputs.as_ref()?) {
        ("dataframe_split", Inputs::Columns(columns)) => Data::Frame(split(&mut scan, columns)?),
        ("dataframe_records", Inputs::Columns(columns)) => Data::Frame(records(&mut scan, columns)?),
        ("inputs" | "instances", Inputs::Tensors(tensors)) => match tensors.as_slice() {
            [tensor] => Data::Matrix(matrix(&mut scan, tensor)?),
            _ => return None,
        },
        _ => return None,
    };
    scan.take(b'}')?;
    scan.end()?;
    Some(Checked { rows: data.rows() as u64, data: Some(data), params: None, llm: false })
}

fn split(scan: &mut Scan<'_>, columns: &[Column]) -> Option<Frame> {
    scan.take(b'{')?;
    let mut table = Table::default();
    let (mut named, mut indexed) = (false, false);
    loop {
        let member = scan.text()?;
        scan.take(b':')?;
        // A member that stands twice is the careful reader's.
        let seen = match member {
            "columns" => &mut named,
            "index" => &mut indexed,
            "data" => break,
            _ => return None,
        };
        if std::mem::replace(seen, true) {
            return None;
        }
        scan.list(b'[', b']', |scan, _| match member {
            "columns" => {
                let name = scan.text()?;
                table.add(name, columns)
            }
            _ => scan.integer(&Kind::Long).map(drop),
        })?;
        scan.take(b',')?;
    }
    let width = table.cells.len();
    table.rows = scan.list(b'[', b']', |scan, _| {
        let count = scan.list(b'[', b']', |scan, place| table.cells.get_mut(place)?.push(scan))?;
        (count == width).then_some(())
    })?;
    scan.take(b'}')?;
    table.frame(columns)
}

fn records(scan: &mut Scan<'_>, columns: &[Column]) -> Option<Frame> {
    let mut table = Table::default();
    table.rows = scan.list(b'[', b']', |scan, row| {
        let count = scan.list(b'{', b'}', |scan, place| {
            let name = scan.text()?;
            scan.take(b':')?;
            if row == 0 {
                table.add(name, columns)?;
            } else if table.names.list.get(place) != Some(&name) {
                return None;
            }
            table.cells.get_mut(place)?.push(scan)
        })?;
        (count == table.cells.len()).then_some(())
    })?;
    table.frame(columns)
}

fn matrix(scan: &mut Scan<'_>, tensor: &Tensor) -> Option<Matrix> {
    let kind = match (tensor.name.as_ref(), tensor.dtype.as_str()) {
        (None, "float64") => Kind::Double,
        (None, "float32") => Kind::Float,
        (None, "int64") => Kind::Long,
        (None, "int32") => Kind::Integer,
        _ => return None,
    };
    let &[asked_rows, asked_width] = tensor.shape.as_slice() else { return None };
    let mut values = Vec::new();
    let mut width = None;
    let rows = scan.list(b'[', b']', |scan, _| {
        let count = scan.list(b'[', b']', |scan, _| {
            values.push(match kind {
                Kind::Long | Kind::Integer => scan.integer(&kind)? as f64,
                _ => scan.float(&kind)?,
            });
            Some(())
        })?;
        (count == *width.get_or_insert(count)).then_some(())
    })?;
    // An empty list has no second dimension: what it is, the careful reader says.
    let width = width.filter(|width| *width > 0)?;
    let fits = |asked: i64, found: usize| asked < 0 || asked == found as i64;
    (fits(asked_rows, rows) && fits(asked_width, width)).then_some(Matrix { rows, width, values })
}

/// The body's columns in its own order.
#[derive(Default)]
struct Table<'b> {
    rows: usize,
    names: Names<'b>,
    cells: Vec<Cells>,
}

/// A column of the body: its cells, and what they must be. One that the signature does not know is read over.
struct Cells {
    kind: Option<Kind>,
    data: ColumnData,
}

impl<'b> Table<'b> {
    fn add(&mut self, name: &'b str, columns: &[Column]) -> Option<()> {
        let place = self.cells.len();
        if place == MOST_COLUMNS || self.names.place(name).is_some() {
            return None;
        }
        // Mostly the signature's order.
        let is_it = |column: &&Column| column.name.as_deref() == Some(name);
        let column = match columns.get(place).filter(is_it) {
            None if columns.len() > FEW => return None,
            None => columns.iter().find(is_it),
            found => found,
        };
        let (kind, data) = match column {
            None => (None, ColumnData::Missing),
            Some(Column { kind, .. }) => {
                let data = match kind {
                    Kind::Integer | Kind::Long => ColumnData::Int(Vec::new()),
                    Kind::Float | Kind::Double => ColumnData::Float(Vec::new()),
                    Kind::Boolean => ColumnData::Bool(Vec::new()),
                    Kind::Text => ColumnData::Text(Vec::new()),
                    _ => return None,
                };
                (Some(kind.clone()), data)
            }
        };
        self.names.add(name);
        self.cells.push(Cells { kind, data });
        Some(())
    }

    /// The signature's columns, in its order.
    fn frame(mut self, columns: &[Column]) -> Option<Frame> {
        let picked = columns.iter().map(|column| {
            let name = column.name.as_deref()?;
            match self.names.place(name) {
                Some(place) => {
                    Some(std::mem::replace(&mut self.cells.get_mut(place)?.data, ColumnData::Missing))
                }
                None if column.required => None,
                None => Some(ColumnData::Missing),
            }
        });
        let columns = picked.collect::<Option<Vec<_>>>()?;
        Some(Frame { rows: self.rows, columns, form: Form::Table })
    }
}

impl Cells {
    fn push(&mut self, scan: &mut Scan<'_>) -> Option<()> {
        match (&mut self.data, &self.kind) {
            (ColumnData::Float(cells), Some(kind)) => cells.push(scan.float(kind)?),
            (ColumnData::Int(cells), Some(kind)) => cells.push(scan.integer(kind)?),
            (ColumnData::Bool(cells), _) => cells.push(match scan.peek()? {
                b't' => scan.word("true").map(|()| Some(true))?,
                b'f' => scan.word("false").map(|()| Some(false))?,
                _ => scan.word("null").map(|()| None)?,
            }),
            (ColumnData::Text(cells), _) => cells.push(match scan.peek()? {
                b'"' => Some(scan.text()?.to_owned()),
                _ => scan.word("null").map(|()| None)?,
            }),
            _ => match scan.peek()? {
                b'"' => drop(scan.text()?),
                b'n' => scan.word("null")?,
                _ => drop(scan.float(&Kind::Double)?),
            },
        }
        Some(())
    }
}

/// Whether what reads as a number is one in JSON too: no plus, no leading zero, digits on both sides of a point.
fn is_json(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let leads = whole > 1 && digits[0] == b'0';
    let point = digits.get(whole) == Some(&b'.');
    whole > 0 && !leads && (!point || digits.get(whole + 1).is_some_and(u8::is_ascii_digit))
}

struct Scan<'b> {
    body: &'b [u8],
    at: usize,
}

impl<'b> Scan<'b> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.body.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.peek()?;
        self.body[self.at..].starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    /// Calls `item` with the place of each item between the brackets; how many there are.
    fn list(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self, usize) -> Option<()>,
    ) -> Option<usize> {
        self.take(open)?;
        if self.peek()? == close {
            self.at += 1;
            return Some(0);
        }
        let mut count = 0;
        loop {
            item(self, count)?;
            count += 1;
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b',' => {}
                _ if byte == close => return Some(count),
                _ => return None,
            }
        }
    }

    /// A string without escapes.
    fn text(&mut self) -> Option<&'b str> {
        self.take(b'"')?;
        let rest = &self.body[self.at..];
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        if rest[length] != b'"' {
            return None;
        }
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).ok()
    }

    /// A cell of `float` or `double`, or null.
    fn float(&mut self, kind: &Kind) -> Option<f64> {
        if self.peek()? == b'n' {
            self.word("null")?;
            return Some(f64::NAN);
        }
        let rest = &self.body[self.at..];
        // The library takes more than JSON does; what it has read is looked at afterwards.
        let (value, length) = fast_float2::parse_partial::<f64, _>(rest).ok()?;
        if !is_json(&rest[..length]) {
            return None;
        }
        self.at += length;
        let value = if *kind == Kind::Float { f64::from(value as f32) } else { value };
        value.is_finite().then_some(value)
    }

    /// A cell of `integer` or `long`, without fraction or exponent.
    fn integer(&mut self, kind: &Kind) -> Option<i64> {
        self.peek()?;
        let rest = &self.body[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
        if !is_json(&rest[..length]) {
            return None;
        }
        self.at += length;
        let value: i64 = std::str::from_utf8(&rest[..length]).ok()?.parse().ok()?;
        (*kind != Kind::Integer || i32::try_from(value).is_ok()).then_some(value)
    }
}
