//! Checked rows as a worker takes them: little-endian columns, which numpy uses where they lie. The layout of a
//! request is also what decides whether it may share a call with another.

use millgate_scoring::{ColumnData, Data, Frame, Inputs, Kind, Matrix, Signature};
use serde::Serialize;

/// One caller's rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Columns {
    /// Rows in each column.
    pub(crate) rows: u32,
    /// Names, types and params as JSON. Requests of equal layouts fit into one call.
    layout: Vec<u8>,
    /// One after the other; of text the JSON list without its brackets.
    cells: Vec<u8>,
    spans: Vec<Span>,
}

/// A column's place among the cells.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    /// Bytes of one cell; 0 is text.
    size: usize,
    end: usize,
}

#[derive(Serialize)]
struct Layout<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<Vec<&'a str>>,
    types: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a serde_json::value::RawValue>,
}

/// Integers that a double holds exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Columns {
    /// `None` where MLflow's own reading of the body decides what the model sees: nested types, dates, nulls in text and
    /// booleans, columns without names, tensors of other than two dimensions, no rows.
    pub(crate) fn of(data: &Data, signature: &Signature, params: Option<&str>) -> Option<Self> {
        let params = params.map(serde_json::from_str).transpose().ok()?;
        match (data, &signature.inputs) {
            (Data::Frame(frame), Some(Inputs::Columns(columns))) if frame.rows > 0 => {
                Self::of_frame(frame, columns, params)
            }
            (Data::Matrix(matrix), Some(Inputs::Tensors(tensors))) if matrix.rows > 0 && matrix.width > 0 => {
                Self::of_matrix(matrix, &tensors.first()?.dtype, params)
            }
            _ => None,
        }
    }

    fn of_frame(
        frame: &Frame,
        columns: &[millgate_scoring::Column],
        params: Option<&serde_json::value::RawValue>,
    ) -> Option<Self> {
        let mut out = Self {
            rows: u32::try_from(frame.rows).ok()?,
            layout: Vec::new(),
            cells: Vec::with_capacity(frame.rows * columns.len() * 8),
            spans: Vec::with_capacity(columns.len()),
        };
        let mut names = Vec::with_capacity(columns.len());
        let mut types = String::with_capacity(columns.len());
        for (column, data) in columns.iter().zip(&frame.columns) {
            let letter = match (data, &column.kind) {
                (ColumnData::Missing, _) => continue,
                (ColumnData::Int(cells), Kind::Integer) => {
                    out.push(cells, |value| i32::try_from(*value).unwrap_or_default().to_le_bytes());
                    'i'
                }
                (ColumnData::Int(cells), _) => {
                    out.push(cells, |value| value.to_le_bytes());
                    'q'
                }
                (ColumnData::Float(cells), Kind::Float) => {
                    out.push(cells, |value| (*value as f32).to_le_bytes());
                    'f'
                }
                (ColumnData::Float(cells), _) => {
                    out.push(cells, |value| value.to_le_bytes());
                    'd'
                }
                (ColumnData::Bool(cells), _) => {
                    if cells.iter().any(Option::is_none) {
                        return None;
                    }
                    out.push(cells, |value| [u8::from(*value == Some(true))]);
                    'b'
                }
                (ColumnData::Text(cells), _) => {
                    for (row, cell) in cells.iter().enumerate() {
                        if row > 0 {
                            out.cells.push(b',');
                        }
                        serde_json::to_writer(&mut out.cells, cell.as_ref()?).ok()?;
                    }
                    out.spans.push(Span { size: 0, end: out.cells.len() });
                    's'
                }
                (ColumnData::Opaque, _) => return None,
            };
            names.push(column.name.as_deref()?);
            types.push(letter);
        }
        if names.is_empty() {
            return None;
        }
        out.layout = serde_json::to_vec(&Layout { names: Some(names), types, width: None, params }).ok()?;
        Some(out)
    }

    fn of_matrix(matrix: &Matrix, dtype: &str, params: Option<&serde_json::value::RawValue>) -> Option<Self> {
        let mut out = Self {
            rows: u32::try_from(matrix.rows).ok()?,
            layout: Vec::new(),
            cells: Vec::with_capacity(matrix.values.len() * 8),
            spans: Vec::with_capacity(1),
        };
        let values = &matrix.values;
        let types = match dtype {
            "float64" => {
                out.push(values, |value| value.to_le_bytes());
                "d"
            }
            "float32" => {
                out.push(values, |value| (*value as f32).to_le_bytes());
                "f"
            }
            "int64" if values.iter().all(|value| value.abs() < EXACT) => {
                out.push(values, |value| (*value as i64).to_le_bytes());
                "q"
            }
            "int32" => {
                out.push(values, |value| (*value as i32).to_le_bytes());
                "i"
            }
            _ => return None,
        };
        let types = types.to_owned();
        out.layout =
            serde_json::to_vec(&Layout { names: None, types, width: Some(matrix.width), params }).ok()?;
        Some(out)
    }

    fn push<T, const N: usize>(&mut self, cells: &[T], bytes: impl Fn(&T) -> [u8; N]) {
        self.cells.extend(cells.iter().flat_map(bytes));
        self.spans.push(Span { size: N, end: self.cells.len() });
    }

    /// Bytes of its cells, for the bound on a call.
    pub(crate) fn size(&self) -> usize {
        self.cells.len()
    }

    /// Whether both may stand in one call.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        self.layout == other.layout
    }

    fn cells(&self, column: usize) -> &[u8] {
        let start = column.checked_sub(1).and_then(|before| self.spans.get(before)).map_or(0, |c| c.end);
        let end = self.spans.get(column).map_or(start, |column| column.end);
        self.cells.get(start..end).unwrap_or_default()
    }

    /// The payload of one call with the rows of all `parts`, which have one layout: see `python/columns.py`.
    pub(crate) fn payload(parts: &[&Self]) -> Vec<u8> {
        let Some(first) = parts.first() else { return Vec::new() };
        let cells: usize = parts.iter().map(|part| part.cells.len()).sum();
        let mut out =
            Vec::with_capacity(64 + 4 * parts.len() + first.layout.len() + cells + 8 * first.spans.len());
        let number = |out: &mut Vec<u8>, value: usize| out.extend((value as u32).to_le_bytes());
        let pad = |out: &mut Vec<u8>, size: usize| out.resize(out.len().next_multiple_of(size), 0);
        number(&mut out, parts.len());
        for part in parts {
            out.extend(part.rows.to_le_bytes());
        }
        number(&mut out, first.layout.len());
        out.extend(&first.layout);
        pad(&mut out, 8);
        for (index, column) in first.spans.iter().enumerate() {
            if column.size > 0 {
                pad(&mut out, column.size);
                for part in parts {
                    out.extend(part.cells(index));
                }
                continue;
            }
            let length = parts.iter().map(|part| part.cells(index).len() + 1).sum::<usize>() + 1;
            number(&mut out, length);
            for (at, part) in parts.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                out.extend(part.cells(index));
            }
            out.push(b']');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(text: &str) -> Signature {
        Signature::parse(Some(text), None).unwrap()
    }

    fn columns(body: &str, signature: &Signature) -> Option<Columns> {
        let checked =
            millgate_scoring::check(body.as_bytes(), millgate_scoring::ContentType::Json, signature).unwrap();
        Columns::of(checked.data.as_ref()?, signature, checked.params.as_deref())
    }

    #[test]
    fn parts_lie_column_by_column() {
        let signature = signature(
            r#"[{"name":"b","type":"boolean","required":true},{"name":"f","type":"float","required":true},
                {"name":"s","type":"string","required":true}]"#,
        );
        let one = columns(r#"{"dataframe_records":[{"b":true,"f":1,"s":"x"}]}"#, &signature).unwrap();
        let two = columns(
            r#"{"dataframe_records":[{"b":false,"f":2,"s":"y\""},{"b":true,"f":null,"s":"z"}]}"#,
            &signature,
        )
        .unwrap();
        assert!(one.fits(&two) && (one.rows, two.rows) == (1, 2));
        let payload = Columns::payload(&[&one, &two]);
        let layout = br#"{"names":["b","f","s"],"types":"bfs"}"#;
        let mut wanted = [2_u32, 1, 2, layout.len() as u32].map(u32::to_le_bytes).concat();
        wanted.extend(layout);
        wanted.resize(wanted.len().next_multiple_of(8), 0);
        wanted.extend([1, 0, 1, 0]);
        wanted.extend([1_f32, 2.0, f32::NAN].map(f32::to_le_bytes).concat());
        let text = br#"["x","y\"","z"]"#;
        wanted.extend((text.len() as u32).to_le_bytes());
        wanted.extend(text);
        assert_eq!(payload, wanted);
    }

    #[test]
    fn what_mlflow_reads_in_its_own_way_is_left_to_it() {
        let signature = signature(
            r#"[{"name":"s","type":"string","required":false},{"name":"b","type":"boolean","required":false}]"#,
        );
        assert!(columns(r#"{"inputs":{"s":["x"],"b":[null]}}"#, &signature).is_none());
        assert!(columns(r#"{"inputs":{"s":[null],"b":[true]}}"#, &signature).is_none());
        let without = columns(r#"{"inputs":{"s":["x"]}}"#, &signature).unwrap();
        let with = columns(r#"{"inputs":{"s":["x"],"b":[true]}}"#, &signature).unwrap();
        assert!(!with.fits(&without), "different columns would share a call");
        let tensor = Signature::parse(
            Some(r#"[{"type":"tensor","tensor-spec":{"dtype":"int64","shape":[-1,1]}}]"#),
            Some(r#"[{"name":"p","type":"long","default":1,"shape":null}]"#),
        )
        .unwrap();
        assert!(columns(r#"{"inputs":[[9007199254740993]]}"#, &tensor).is_none());
        let plain = columns(r#"{"inputs":[[1]]}"#, &tensor).unwrap();
        let asked = columns(r#"{"inputs":[[1]],"params":{"p":2}}"#, &tensor).unwrap();
        assert!(!plain.fits(&asked), "different params would share a call");
    }
}
