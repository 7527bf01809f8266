//! A request body against a signature: the JSON forms and CSV of the scoring protocol.

use std::borrow::Cow;
use std::collections::HashMap;

use millgate_types::{Fault, code};

use crate::cell::{self, Misfit};
use crate::content_type::ContentType;
use crate::frame::{ColumnData, Data, Form, Frame, Matrix};
use crate::json::Json;
use crate::params;
use crate::shown;
use crate::signature::{Column, Inputs, Kind, Signature, Tensor};

/// A body that fits the signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Rows asked for; 1 for the LLM form, and where rows cannot be told without Python.
    pub rows: u64,
    /// The input as a native runtime takes it; `None` when only Python can read this form or type.
    pub data: Option<Data>,
    /// The body's `params` as JSON text, where the model takes any; equal texts are equal params.
    pub params: Option<String>,
    /// Whether it is the LLM form (`messages`, `prompt` or `input` at the top): answered without `predictions`.
    pub llm: bool,
}

const FORMS: [&str; 4] = ["dataframe_split", "dataframe_records", "instances", "inputs"];
const LLM_KEYS: [&str; 3] = ["messages", "prompt", "input"];

/// Reads and checks a body. Faults: `invalid_json`, `duplicate_member`, and `schema_mismatch` naming column,
/// row (counted from 0), expected and found type; never a value.
pub fn check(body: &[u8], content_type: ContentType, signature: &Signature) -> Result<Checked, Fault> {
    match content_type {
        ContentType::Json => match crate::plain::read(body, signature) {
            Some(checked) => Ok(checked),
            None => carefully(body, signature),
        },
        ContentType::Csv => crate::csv_input::check(body, signature),
        ContentType::Parquet => Ok(Checked { rows: 1, data: None, params: None, llm: false }),
    }
}

fn mismatch(public: impl Into<Cow<'static, str>>) -> Fault {
    Fault::client(code::SCHEMA_MISMATCH, public)
}

/// Any JSON body, by a tree of its values.
pub(crate) fn carefully(body: &[u8], signature: &Signature) -> Result<Checked, Fault> {
    let parsed = Json::parse(body)?;
    let Json::Object(members) = &parsed else {
        return Err(mismatch(format!(
            "expected an object with one of {}, found {}",
            list(),
            parsed.type_name()
        )));
    };
    if members.iter().any(|(key, _)| LLM_KEYS.contains(&key.as_ref())) {
        return Ok(Checked { rows: 1, data: None, params: None, llm: true });
    }
    let mut forms = members.iter().filter(|(key, _)| FORMS.contains(&key.as_ref()));
    let Some((form, value)) = forms.next() else {
        return Err(mismatch(format!("expected one of {} at the top", list())));
    };
    if let Some((second, _)) = forms.next() {
        return Err(mismatch(format!("both `{form}` and `{second}` are given, expected one of them")));
    }
    let given = parsed.member("params");
    params::check(given, signature.params.as_deref())?;
    let params = given.filter(|params| **params != Json::Null && signature.params.is_some());
    let checked = |rows: usize, data| Checked {
        rows: rows as u64,
        data,
        params: params.map(Json::to_text),
        llm: false,
    };
    match &signature.inputs {
        None => Ok(checked(rows_of(form, value), None)),
        Some(Inputs::Columns(columns)) => {
            let table = Table::read(form, value)?;
            let form = if form.starts_with("dataframe") { Form::Table } else { Form::Typed };
            let frame = enforce(&table, columns, form)?;
            Ok(checked(frame.rows, Some(Data::Frame(frame))))
        }
        Some(Inputs::Tensors(tensors)) => match (tensors.as_slice(), form.starts_with("dataframe")) {
            ([tensor], false) if tensor.name.is_none() => {
                let (rows, matrix) = read_tensor(form, value, tensor)?;
                Ok(checked(rows, matrix.map(Data::Matrix)))
            }
            _ => Ok(checked(rows_of(form, value), None)),
        },
    }
}

fn list() -> String {
    FORMS.map(|form| format!("`{form}`")).join(", ")
}

/// Rows as far as they can be told without a signature.
fn rows_of(form: &str, value: &Json<'_>) -> usize {
    match value {
        Json::Array(items) => items.len(),
        Json::Object(_) if form == "dataframe_split" => match value.member("data") {
            Some(Json::Array(rows)) => rows.len(),
            _ => 1,
        },
        Json::Object(members) => match members.first() {
            Some((_, Json::Array(items))) => items.len(),
            _ => 1,
        },
        _ => 1,
    }
}

/// The names of a body's columns, each once.
#[derive(Default)]
pub(crate) struct Names<'j> {
    pub(crate) list: Vec<&'j str>,
    /// Their places, once there are so many that looking at each would take long.
    places: HashMap<&'j str, usize>,
}

impl<'j> Names<'j> {
    const FEW: usize = 16;

    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        match self.list.len() {
            ..=Self::FEW => self.list.iter().position(|known| *known == name),
            _ => self.places.get(name).copied(),
        }
    }

    /// Adds a name that is not there yet.
    pub(crate) fn add(&mut self, name: &'j str) {
        self.list.push(name);
        match self.list.len() {
            ..=Self::FEW => {}
            length if self.places.is_empty() => {
                self.places = self.list.iter().copied().zip(0..length).collect();
            }
            length => drop(self.places.insert(name, length - 1)),
        }
    }
}

/// The four forms as columns of cells. `None` is a cell that a record left out.
struct Table<'j, 'a> {
    rows: usize,
    /// `None` when the form carries no names.
    names: Option<Names<'j>>,
    columns: Vec<Vec<Option<&'j Json<'a>>>>,
}

impl<'j, 'a> Table<'j, 'a> {
    fn read(form: &str, value: &'j Json<'a>) -> Result<Self, Fault> {
        match (form, value) {
            ("dataframe_split", Json::Object(members)) => Self::split(members),
            ("dataframe_split", other) => {
                Err(mismatch(format!("`dataframe_split`: expected an object, found {}", other.type_name())))
            }
            (_, Json::Array(items)) if matches!(items.first(), Some(Json::Object(_))) => {
                Self::records(form, items)
            }
            ("dataframe_records", Json::Array(items)) if items.is_empty() => Self::records(form, items),
            ("dataframe_records", Json::Array(items)) => Err(mismatch(format!(
                "`dataframe_records`, row 0: expected object, found {}",
                items.first().map_or("nothing", Json::type_name)
            ))),
            ("dataframe_records", other) => {
                Err(mismatch(format!("`dataframe_records`: expected a list, found {}", other.type_name())))
            }
            (_, Json::Object(members)) => Self::by_column(form, members),
            (_, Json::Array(items)) => Self::by_row(form, items, None),
            (_, scalar) => Ok(Self { rows: 1, names: None, columns: vec![vec![Some(scalar)]] }),
        }
    }

    fn split(members: &'j [(Cow<'a, str>, Json<'a>)]) -> Result<Self, Fault> {
        let mut names = None;
        let mut data = None;
        for (key, value) in members {
            match (key.as_ref(), value) {
                ("columns", Json::Array(items)) => {
                    let mut read = Names::default();
                    for item in items {
                        match item {
                            Json::Text(name) if read.place(name).is_none() => read.add(name),
                            Json::Text(name) => {
                                return Err(mismatch(format!("column `{}` stands twice", shown(name))));
                            }
                            other => {
                                let found = other.type_name();
                                let expected = "`dataframe_split.columns`: expected strings";
                                return Err(mismatch(format!("{expected}, found {found}")));
                            }
                        }
                    }
                    names = Some(read);
                }
                ("columns", Json::Null) | ("index", Json::Array(_) | Json::Null) => {}
                ("data", Json::Array(rows)) => data = Some(rows),
                ("columns" | "index" | "data", other) => {
                    return Err(mismatch(format!(
                        "`dataframe_split.{key}`: expected a list, found {}",
                        other.type_name()
                    )));
                }
                _ => return Err(mismatch(format!("`dataframe_split` has no member `{}`", shown(key)))),
            }
        }
        let data = data.ok_or_else(|| mismatch("`dataframe_split` lacks `data`"))?;
        let mut table = Self::by_row("dataframe_split", data, names.as_ref().map(|names| names.list.len()))?;
        table.names = names;
        Ok(table)
    }

    fn by_row(form: &str, rows: &'j [Json<'a>], width: Option<usize>) -> Result<Self, Fault> {
        let mut columns: Vec<Vec<Option<&'j Json<'a>>>> = Vec::new();
        let width = width.unwrap_or_else(|| match rows.first() {
            Some(Json::Array(cells)) => cells.len(),
            _ => 1,
        });
        columns.resize_with(width, || Vec::with_capacity(rows.len()));
        for (row, cells) in rows.iter().enumerate() {
            match cells {
                Json::Array(cells) if cells.len() == width => {
                    for (column, cell) in columns.iter_mut().zip(cells) {
                        column.push(Some(cell));
                    }
                }
                Json::Array(cells) => {
                    return Err(mismatch(format!(
                        "`{form}`, row {row}: expected {width} values, found {}",
                        cells.len()
                    )));
                }
                scalar if width == 1 => columns[0].push(Some(scalar)),
                other => {
                    return Err(mismatch(format!(
                        "`{form}`, row {row}: expected a list of {width} values, found {}",
                        other.type_name()
                    )));
                }
            }
        }
        Ok(Self { rows: rows.len(), names: None, columns })
    }

    fn records(form: &str, items: &'j [Json<'a>]) -> Result<Self, Fault> {
        let mut names = Names::default();
        let mut columns: Vec<Vec<Option<&'j Json<'a>>>> = Vec::new();
        for (row, item) in items.iter().enumerate() {
            let Json::Object(members) = item else {
                return Err(mismatch(format!(
                    "`{form}`, row {row}: expected object, found {}",
                    item.type_name()
                )));
            };
            for (position, (key, value)) in members.iter().enumerate() {
                // Records mostly keep their members' order.
                let found = match names.list.get(position) {
                    Some(name) if name == key => Some(position),
                    _ => names.place(key),
                };
                let column = found.unwrap_or_else(|| {
                    names.add(key.as_ref());
                    columns.push(vec![None; row]);
                    names.list.len() - 1
                });
                if let Some(cells) = columns.get_mut(column) {
                    cells.push(Some(value));
                }
            }
            for cells in &mut columns {
                if cells.len() == row {
                    cells.push(None);
                }
            }
            if names.list.len() > MAX_COLUMNS {
                return Err(mismatch(format!("`{form}` has more than {MAX_COLUMNS} columns")));
            }
        }
        Ok(Self { rows: items.len(), names: Some(names), columns })
    }

    fn by_column(form: &str, members: &'j [(Cow<'a, str>, Json<'a>)]) -> Result<Self, Fault> {
        let mut rows = None;
        let mut names = Names::default();
        let mut columns = Vec::with_capacity(members.len());
        for (key, value) in members {
            let cells: Vec<Option<&'j Json<'a>>> = match value {
                Json::Array(cells) => cells.iter().map(Some).collect(),
                scalar => vec![Some(scalar)],
            };
            let expected = *rows.get_or_insert(cells.len());
            if cells.len() != expected {
                return Err(mismatch(format!(
                    "`{form}`, column `{}`: expected {expected} rows, found {}",
                    shown(key),
                    cells.len()
                )));
            }
            names.add(key.as_ref());
            columns.push(cells);
        }
        Ok(Self { rows: rows.unwrap_or(0), names: Some(names), columns })
    }
}

/// Columns that the records of one body may name together: bounds the table's memory.
const MAX_COLUMNS: usize = 4096;

fn enforce(table: &Table<'_, '_>, columns: &[Column], form: Form) -> Result<Frame, Fault> {
    let mut out = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let position = match (&column.name, &table.names) {
            (Some(name), Some(names)) => names.place(name),
            // One column needs no name; several named ones cannot be told apart by position alone.
            (Some(_), None) if columns.len() == 1 && table.columns.len() == 1 => Some(0),
            (Some(_), None) => None,
            (None, _) => (index < table.columns.len()).then_some(index),
        };
        let label = || match &column.name {
            Some(name) => format!("column `{}`", shown(name)),
            None => format!("column {index}"),
        };
        let name = || column.name.clone().unwrap_or_else(|| index.to_string());
        let Some(cells) = position.and_then(|position| table.columns.get(position)) else {
            if column.required {
                let hint = if table.names.is_none() && column.name.is_some() {
                    " (the input names no columns)"
                } else {
                    ""
                };
                return Err(mismatch(format!(
                    "{}: expected {}, found no such column{hint}",
                    label(),
                    column.kind.name()
                ))
                .with_param(name()));
            }
            out.push(ColumnData::Missing);
            continue;
        };
        let wrong = |row: usize, misfit: Misfit| {
            let Misfit { within, expected, found } = misfit;
            let within = if within.is_empty() { within } else { format!(" at `{within}`") };
            mismatch(format!("{}, row {row}{within}: expected {expected}, found {found}", label()))
                .with_param(name())
        };
        out.push(read_column(column, cells).map_err(|(row, misfit)| wrong(row, misfit))?);
    }
    if columns.iter().all(|column| column.name.is_none()) && table.columns.len() > columns.len() {
        return Err(mismatch(format!("expected {} columns, found {}", columns.len(), table.columns.len())));
    }
    Ok(Frame { rows: table.rows, columns: out, form })
}

fn read_column(column: &Column, cells: &[Option<&Json<'_>>]) -> Result<ColumnData, (usize, Misfit)> {
    let kind = &column.kind;
    let null = Json::Null;
    let each = cells.iter().enumerate().map(|(row, cell)| match cell {
        Some(cell) => Ok((row, *cell)),
        None if column.required => Err((row, Misfit::new(kind, "nothing"))),
        None => Ok((row, &null)),
    });
    Ok(match kind {
        Kind::Integer | Kind::Long => ColumnData::Int(
            each.map(|cell| {
                cell.and_then(|(row, cell)| cell::integer(kind, cell).map_err(|misfit| (row, misfit)))
            })
            .collect::<Result<_, _>>()?,
        ),
        Kind::Float | Kind::Double => ColumnData::Float(
            each.map(|cell| {
                cell.and_then(|(row, cell)| cell::number(kind, cell).map_err(|misfit| (row, misfit)))
            })
            .collect::<Result<_, _>>()?,
        ),
        Kind::Boolean => ColumnData::Bool(
            each.map(|cell| match cell? {
                (_, Json::Bool(value)) => Ok(Some(*value)),
                (_, Json::Null) => Ok(None),
                (row, other) => Err((row, Misfit::new(kind, other.type_name()))),
            })
            .collect::<Result<_, _>>()?,
        ),
        Kind::Text => ColumnData::Text(
            each.map(|cell| match cell? {
                (_, Json::Text(value)) => Ok(Some(value.clone().into_owned())),
                (_, Json::Null) => Ok(None),
                (row, other) => Err((row, Misfit::new(kind, other.type_name()))),
            })
            .collect::<Result<_, _>>()?,
        ),
        _ => {
            for cell in each {
                let (row, cell) = cell?;
                cell::check(kind, cell).map_err(|misfit| (row, misfit))?;
            }
            ColumnData::Opaque
        }
    })
}

/// The unnamed tensor: its shape is checked against the schema; two dimensions also give a matrix.
fn read_tensor(form: &str, value: &Json<'_>, tensor: &Tensor) -> Result<(usize, Option<Matrix>), Fault> {
    let kind = match tensor.dtype.as_str() {
        "float64" => Kind::Double,
        "float32" => Kind::Float,
        "int64" => Kind::Long,
        "int32" => Kind::Integer,
        _ => return Ok((rows_of(form, value), None)),
    };
    let mut values = Vec::new();
    let mut shape = Vec::new();
    let Json::Array(items) = value else {
        return Err(mismatch(format!("`{form}`: expected a list, found {}", value.type_name())));
    };
    if matches!(items.first(), Some(Json::Object(_))) {
        return Ok((items.len(), None));
    }
    flatten(form, &kind, value, 0, &mut shape, &mut values, &mut Vec::new())?;
    let fits = shape.len() == tensor.shape.len()
        && shape
            .iter()
            .zip(&tensor.shape)
            .all(|(found, expected)| *expected < 0 || *expected == *found as i64);
    if !fits {
        return Err(mismatch(format!("`{form}`: expected shape {:?}, found {shape:?}", tensor.shape)));
    }
    let rows = shape.first().copied().unwrap_or(1);
    let matrix = (shape.len() == 2).then(|| Matrix { rows, width: shape[1], values });
    Ok((rows, matrix))
}

fn flatten(
    form: &str,
    kind: &Kind,
    value: &Json<'_>,
    depth: usize,
    shape: &mut Vec<usize>,
    values: &mut Vec<f64>,
    path: &mut Vec<usize>,
) -> Result<(), Fault> {
    match value {
        Json::Array(items) => {
            // The first list met at a depth decides its size, so a deeper list after a number is ragged.
            if values.is_empty() && shape.len() == depth {
                shape.push(items.len());
            }
            if shape.get(depth) != Some(&items.len()) {
                return Err(mismatch(format!("`{form}` at {path:?}: the lists are ragged")));
            }
            for (index, item) in items.iter().enumerate() {
                path.push(index);
                flatten(form, kind, item, depth + 1, shape, values, path)?;
                path.pop();
            }
            Ok(())
        }
        scalar => {
            if shape.len() != depth {
                return Err(mismatch(format!("`{form}` at {path:?}: the lists are ragged")));
            }
            let read = match kind {
                Kind::Long | Kind::Integer => cell::integer(kind, scalar).map(|value| value as f64),
                _ => cell::number(kind, scalar),
            };
            let value = read.map_err(|misfit| {
                mismatch(format!(
                    "`{form}` at {path:?}: expected {}, found {}",
                    tensor_word(kind),
                    misfit.found
                ))
            })?;
            values.push(value);
            Ok(())
        }
    }
}

fn tensor_word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double => "float64",
        Kind::Float => "float32",
        Kind::Long => "int64",
        _ => "int32",
    }
}
