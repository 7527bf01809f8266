//! `text/csv` bodies: a header row, then cells as pandas reads them.

use millgate_types::{Fault, code};

use crate::cell::{self, Misfit};
use crate::frame::{ColumnData, Data, Form, Frame};
use crate::input::Checked;
use crate::json::Json;
use crate::shown;
use crate::signature::{Column, Inputs, Kind, Signature};

/// The texts that pandas takes for a missing value.
const NULLS: [&str; 18] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan",
];

pub(crate) fn check(body: &[u8], signature: &Signature) -> Result<Checked, Fault> {
    let bad = |text: String| Fault::client(code::SCHEMA_MISMATCH, text);
    let columns = match &signature.inputs {
        Some(Inputs::Tensors(_)) => {
            return Err(bad("the model takes tensors, which CSV cannot carry; send JSON".to_owned()));
        }
        Some(Inputs::Columns(columns)) => columns.as_slice(),
        None => &[],
    };
    let mut reader = csv::ReaderBuilder::new().from_reader(body);
    let headers = reader.headers().map_err(|error| bad(reason(&error)))?.clone();
    let mut positions = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let position = match &column.name {
            Some(name) => headers.iter().position(|header| header == name),
            None => (index < headers.len()).then_some(index),
        };
        if position.is_none() && column.required {
            let name = column.name.clone().unwrap_or_else(|| index.to_string());
            let text =
                format!("column `{}`: expected {}, found no such column", shown(&name), column.kind.name());
            return Err(bad(text).with_param(name));
        }
        positions.push(position);
    }
    let mut out: Vec<ColumnData> =
        columns.iter().zip(&positions).map(|(column, position)| empty(column, *position)).collect();
    let mut rows = 0;
    for record in reader.records() {
        let record = record.map_err(|error| bad(reason(&error)))?;
        for ((column, position), data) in columns.iter().zip(&positions).zip(&mut out) {
            let Some(position) = *position else { continue };
            let text = record.get(position).unwrap_or_default();
            push(column, data, text).map_err(|misfit| {
                let name = headers.get(position).unwrap_or_default().to_owned();
                bad(format!(
                    "column `{}`, row {rows}: expected {}, found {}",
                    shown(&name),
                    misfit.expected,
                    misfit.found
                ))
                .with_param(name)
            })?;
        }
        rows += 1;
    }
    let data = (!columns.is_empty()).then_some(Data::Frame(Frame { rows, columns: out, form: Form::Csv }));
    Ok(Checked { rows: rows as u64, data, params: None, llm: false })
}

/// The place and kind of a CSV error; the crate's own text may hold cells.
fn reason(error: &csv::Error) -> String {
    let row = error.position().map_or(0, csv::Position::record);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("CSV row {}: expected {expected_len} values, found {len}", row.saturating_sub(1))
        }
        csv::ErrorKind::Utf8 { .. } => format!("CSV record {row} is not UTF-8"),
        _ => format!("CSV record {row} cannot be read"),
    }
}

fn empty(column: &Column, position: Option<usize>) -> ColumnData {
    if position.is_none() {
        return ColumnData::Missing;
    }
    match column.kind {
        Kind::Integer | Kind::Long => ColumnData::Int(Vec::new()),
        Kind::Float | Kind::Double => ColumnData::Float(Vec::new()),
        Kind::Boolean => ColumnData::Bool(Vec::new()),
        Kind::Text => ColumnData::Text(Vec::new()),
        _ => ColumnData::Opaque,
    }
}

fn push(column: &Column, data: &mut ColumnData, text: &str) -> Result<(), Misfit> {
    let kind = &column.kind;
    let null = NULLS.contains(&text);
    match data {
        ColumnData::Int(cells) => {
            let text = text.trim();
            let value = match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(value), _) => Json::Int(value),
                (_, Ok(value)) if value.is_finite() => Json::Float(value),
                _ if null => return Err(Misfit::new(kind, "a missing value")),
                _ => return Err(Misfit::new(kind, "text")),
            };
            cells.push(cell::integer(kind, &value)?);
        }
        ColumnData::Float(cells) => {
            let value = match text.trim().parse::<f64>() {
                _ if null => Json::Null,
                Ok(value) if value.is_finite() => Json::Float(value),
                Ok(_) => return Err(Misfit::new(kind, "a number that is not finite")),
                Err(_) => return Err(Misfit::new(kind, "text")),
            };
            cells.push(cell::number(kind, &value)?);
        }
        ColumnData::Bool(cells) => cells.push(match text {
            "True" | "true" | "TRUE" => Some(true),
            "False" | "false" | "FALSE" => Some(false),
            _ if null => None,
            _ => return Err(Misfit::new(kind, "text")),
        }),
        ColumnData::Text(cells) => cells.push((!null).then(|| text.to_owned())),
        ColumnData::Opaque | ColumnData::Missing => {}
    }
    Ok(())
}
