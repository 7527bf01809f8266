//! How workers are used: how many, and what may share their calls.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::schedule::ScheduleConfig;
use crate::value::{ByteSize, Period};

/// How large inputs are scored that come and go piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BulkConfig {
    /// The most rows that are scored together.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_rows: u32,
    /// The most bytes of input that are scored together, and of one row.
    pub max_bytes: ByteSize,
    /// How many such batches of one request are under way at a time.
    #[schemars(range(min = 1, max = 64))]
    pub in_flight: u32,
    /// The most bytes of a Parquet file, which is kept in the data folder while it is scored.
    pub max_file: ByteSize,
}

impl Default for BulkConfig {
    fn default() -> Self {
        Self { max_rows: 1000, max_bytes: ByteSize(1 << 20), in_flight: 4, max_file: ByteSize(1 << 30) }
    }
}

/// How many worker processes a model version has.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstancesConfig {
    /// Always. 0: none after `idle_timeout` without a request.
    #[schemars(range(max = 64))]
    pub min: u32,
    /// Under load.
    #[schemars(range(min = 1, max = 64))]
    pub max: u32,
    /// Times of the week with another `min`: workers are there before the load comes. Where several hold, the largest
    /// counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduleConfig>,
}

/// Which requests may share one call of a worker: `true`, `false`, or an object with bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BatchingConfig {
    /// `true`: also for custom code, without the check at load. `None`: by flavour, after the check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The most rows of one call.
    pub max_rows: u32,
    /// The most bytes of input of one call.
    pub max_bytes: ByteSize,
    /// How long a free worker waits for more requests. `0s`: not at all, so that a lone caller never waits.
    pub max_wait: Period,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        Self { enabled: None, max_rows: 256, max_bytes: ByteSize(4 << 20), max_wait: Period::seconds(0) }
    }
}

/// The object's form.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Bounds {
    /// `true`: also for custom code, without the check at load. Default: by flavour, after the check.
    enabled: Option<bool>,
    /// The most rows of one call.
    #[schemars(range(min = 1))]
    max_rows: u32,
    /// The most bytes of input of one call.
    max_bytes: ByteSize,
    /// How long a free worker waits for more requests. `0s`: not at all, so that a lone caller never waits.
    max_wait: Period,
}

impl Default for Bounds {
    fn default() -> Self {
        let BatchingConfig { enabled, max_rows, max_bytes, max_wait } = BatchingConfig::default();
        Self { enabled, max_rows, max_bytes, max_wait }
    }
}

impl<'de> Deserialize<'de> for BatchingConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = BatchingConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false`, or an object with bounds")
            }

            fn visit_bool<E: de::Error>(self, enabled: bool) -> Result<BatchingConfig, E> {
                Ok(BatchingConfig { enabled: Some(enabled), ..BatchingConfig::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<BatchingConfig, A::Error> {
                let bounds = Bounds::deserialize(de::value::MapAccessDeserializer::new(access))?;
                let Bounds { enabled, max_rows, max_bytes, max_wait } = bounds;
                Ok(BatchingConfig { enabled, max_rows, max_bytes, max_wait })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for BatchingConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BatchingConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bounds = Bounds::json_schema(generator);
        json_schema!({
            "description": "Which requests may share one call of a worker.",
            "oneOf": [ { "type": "boolean" }, bounds ]
        })
    }
}
