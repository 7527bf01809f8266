//! Model signatures as MLmodel files hold them: each of `inputs` and `params` is a JSON text.

use serde_json::Value;

/// What a model says about its input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signature {
    /// Columns or tensors; `None` when the model has no input schema: everything is let through.
    pub inputs: Option<Inputs>,
    /// Parameters; `None` when the model has no params schema: MLflow then ignores what callers send.
    pub params: Option<Vec<Param>>,
}

/// The two kinds of input schema.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// A table.
    Columns(Vec<Column>),
    /// One unnamed tensor, or several named ones.
    Tensors(Vec<Tensor>),
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Absent in all columns or in none.
    pub name: Option<String>,
    /// The type of its cells.
    pub kind: Kind,
    /// Whether the column may be missing.
    pub required: bool,
}

/// A cell's type.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `boolean`
    Boolean,
    /// `integer`, 32 bits
    Integer,
    /// `long`, 64 bits
    Long,
    /// `float`, 32 bits
    Float,
    /// `double`, 64 bits
    Double,
    /// `string`
    Text,
    /// `binary`, base64 text on the wire
    Binary,
    /// `datetime`, ISO 8601 text or nanoseconds since 1970
    DateTime,
    /// A list of one type.
    Array(Box<Kind>),
    /// An object with known members.
    Object(Vec<Property>),
    /// An object with any members of one type.
    Map(Box<Kind>),
    /// Anything: not checked.
    Any,
}

/// A member of [`Kind::Object`].
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Whether it may be missing.
    pub required: bool,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Absent when it is the only one.
    pub name: Option<String>,
    /// numpy's name of the type, for example `float64`.
    pub dtype: String,
    /// Sizes; -1 is any.
    pub shape: Vec<i64>,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Whether it is a list of that type (`shape: [-1]`).
    pub list: bool,
}

/// Why a signature cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureError(String);

impl std::fmt::Display for SignatureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SignatureError {}

fn bad(text: impl Into<String>) -> SignatureError {
    SignatureError(text.into())
}

impl Signature {
    /// Reads the JSON texts of MLmodel's `signature.inputs` and `signature.params`.
    pub fn parse(inputs: Option<&str>, params: Option<&str>) -> Result<Self, SignatureError> {
        let list = |what: &str, text: &str| match serde_json::from_str(text) {
            Ok(Value::Array(items)) => Ok(items),
            Ok(_) => Err(bad(format!("signature {what} is not a list"))),
            Err(error) => Err(bad(format!("signature {what}: {error}"))),
        };
        let inputs =
            inputs.map(|text| list("inputs", text).and_then(|items| read_inputs(&items))).transpose()?;
        let params = params
            .map(|text| list("params", text)?.iter().map(read_param).collect::<Result<Vec<_>, _>>())
            .transpose()?;
        Ok(Self { inputs: inputs.flatten(), params })
    }
}

fn read_inputs(items: &[Value]) -> Result<Option<Inputs>, SignatureError> {
    let Some(first) = items.first() else { return Ok(None) };
    if first.get("type").and_then(Value::as_str) == Some("tensor") {
        return Ok(Some(Inputs::Tensors(items.iter().map(read_tensor).collect::<Result<_, _>>()?)));
    }
    Ok(Some(Inputs::Columns(items.iter().map(read_column).collect::<Result<_, _>>()?)))
}

fn read_tensor(item: &Value) -> Result<Tensor, SignatureError> {
    let spec = item.get("tensor-spec").ok_or_else(|| bad("a tensor without `tensor-spec`"))?;
    let shape = spec.get("shape").and_then(Value::as_array).ok_or_else(|| bad("a tensor without `shape`"))?;
    Ok(Tensor {
        name: item.get("name").and_then(Value::as_str).map(str::to_owned),
        dtype: spec.get("dtype").and_then(Value::as_str).unwrap_or("object").to_owned(),
        shape: shape.iter().map(|size| size.as_i64().unwrap_or(-1)).collect(),
    })
}

fn is_required(item: &Value) -> bool {
    let optional = item.get("optional").and_then(Value::as_bool).unwrap_or(false);
    item.get("required").and_then(Value::as_bool).unwrap_or(!optional)
}

fn read_column(item: &Value) -> Result<Column, SignatureError> {
    Ok(Column {
        name: item.get("name").and_then(Value::as_str).map(str::to_owned),
        kind: read_kind(item, 0)?,
        required: is_required(item),
    })
}

fn read_kind(item: &Value, depth: usize) -> Result<Kind, SignatureError> {
    if depth > 32 {
        return Err(bad("signature nested too deeply"));
    }
    let inner = |name: &str| {
        let part = item.get(name).ok_or_else(|| bad(format!("a type without `{name}`")))?;
        read_kind(part, depth + 1).map(Box::new)
    };
    let name = match item {
        Value::String(name) => name.as_str(),
        _ => item.get("type").and_then(Value::as_str).ok_or_else(|| bad("a column without `type`"))?,
    };
    Ok(match name {
        "boolean" => Kind::Boolean,
        "integer" => Kind::Integer,
        "long" => Kind::Long,
        "float" => Kind::Float,
        "double" => Kind::Double,
        "string" => Kind::Text,
        "binary" => Kind::Binary,
        "datetime" => Kind::DateTime,
        "array" => Kind::Array(inner("items")?),
        "map" => Kind::Map(inner("values")?),
        "object" => {
            let properties = item.get("properties").and_then(Value::as_object);
            let properties = properties.ok_or_else(|| bad("an object type without `properties`"))?;
            let properties = properties.iter().map(|(name, part)| {
                Ok(Property {
                    name: name.clone(),
                    kind: read_kind(part, depth + 1)?,
                    required: is_required(part),
                })
            });
            Kind::Object(properties.collect::<Result<_, _>>()?)
        }
        _ => Kind::Any,
    })
}

fn read_param(item: &Value) -> Result<Param, SignatureError> {
    let name = item.get("name").and_then(Value::as_str).ok_or_else(|| bad("a parameter without a name"))?;
    let kind = match item.get("type").or_else(|| item.get("dtype")) {
        Some(Value::String(text)) if text != "object" => read_kind(&Value::String(text.clone()), 0)?,
        Some(_) => read_kind(item, 0)?,
        None => Kind::Any,
    };
    let list = item.get("shape").is_some_and(Value::is_array);
    Ok(Param { name: name.to_owned(), kind, list })
}

impl Kind {
    /// The type's word in messages, as MLflow writes it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Text => "string",
            Self::Binary => "binary (base64 text)",
            Self::DateTime => "datetime",
            Self::Array(_) => "list",
            Self::Object(_) | Self::Map(_) => "object",
            Self::Any => "any",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_tensors_and_params_are_read() {
        let signature = Signature::parse(
            Some(
                r#"[{"name":"a","type":"double","required":true},
                    {"name":"t","type":"array","items":{"type":"object","properties":{"k":{"type":"long","required":false}}},"required":false}]"#,
            ),
            Some(r#"[{"name":"p","type":"double","default":0.5,"shape":null},{"name":"q","dtype":"long","default":[1],"shape":[-1]}]"#),
        )
        .unwrap();
        let Some(Inputs::Columns(columns)) = signature.inputs else { panic!() };
        assert!(columns[0].required && columns[0].kind == Kind::Double);
        assert!(
            !columns[1].required
                && matches!(&columns[1].kind, Kind::Array(item) if matches!(**item, Kind::Object(_)))
        );
        let params = signature.params.unwrap();
        assert!(!params[0].list && params[1].list && params[1].kind == Kind::Long);

        let signature = Signature::parse(
            Some(r#"[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,4]}}]"#),
            None,
        );
        let Ok(Signature { inputs: Some(Inputs::Tensors(tensors)), .. }) = signature else { panic!() };
        assert_eq!(tensors[0].shape, [-1, 4]);
        assert!(Signature::parse(Some("{}"), None).is_err());
    }
}
