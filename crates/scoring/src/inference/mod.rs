//! The Open Inference Protocol, version 2 ("V2"), as KServe, MLServer and Triton speak it over REST: requests become
//! bodies of the scoring protocol, predictions become tensors. With the binary tensor extension both ways.
//! <https://github.com/kserve/open-inference-protocol>

mod answer;
mod binary;
mod metadata;
mod outgoing;
mod request;

use serde::Deserialize;
use serde_json::{Map, Value};

pub use answer::write;
pub use metadata::metadata;
pub use outgoing::{Inputs as RemoteInputs, predictions, request as outgoing};
pub use request::{InferRequest, read};

/// The header with the length of the JSON part of a body with binary tensors behind it.
pub const JSON_LENGTH: &str = "inference-header-content-length";

/// Words in `parameters` that belong to the protocol or its servers, not to the model.
const RESERVED: [&str; 10] = [
    "binary_data_output",
    "binary_data_size",
    "binary_data",
    "classification",
    "content_type",
    "headers",
    "priority",
    "sequence_id",
    "sequence_start",
    "sequence_end",
];

/// A tensor's element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool,
    /// 8 bits.
    Uint8,
    /// 16 bits.
    Uint16,
    /// 32 bits.
    Uint32,
    /// 64 bits.
    Uint64,
    /// 8 bits.
    Int8,
    /// 16 bits.
    Int16,
    /// 32 bits.
    Int32,
    /// 64 bits.
    Int64,
    /// IEEE half.
    Fp16,
    /// IEEE single.
    Fp32,
    /// IEEE double.
    Fp64,
    /// Strings, or bytes as base64 text.
    Bytes,
}

impl Datatype {
    /// The protocol's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes of one element in the binary form; `None` for [`Self::Bytes`], whose elements carry their length.
    pub(crate) fn size(self) -> Option<usize> {
        Some(match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Fp16 => 2,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 4,
            Self::Uint64 | Self::Int64 | Self::Fp64 => 8,
            Self::Bytes => return None,
        })
    }
}

/// What the caller wants back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The request's `id`, given back.
    pub id: Option<String>,
    /// All outputs in the binary form, unless an output says otherwise.
    pub binary: bool,
    /// The outputs asked for, each with its own choice of the binary form; empty means all.
    pub outputs: Vec<(String, Option<bool>)>,
}

fn is_true(parameters: &Map<String, Value>, name: &str) -> Option<bool> {
    parameters.get(name).and_then(Value::as_bool)
}
