//! `streams/*.yaml`: events, their versions, and how an old version becomes the new one.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FieldType, Placed};

/// A stream of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamFile {
    pub stream: Placed<String>,
    /// Who owns it.
    pub domain: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// A longer event is kept beside the table.
    #[serde(default)]
    pub max_event_bytes: Option<Placed<usize>>,
    pub envelope: EnvelopeFile,
    /// Event types.
    #[serde(default)]
    pub events: IndexMap<String, Placed<EventFile>>,
}

/// Where a payload keeps what every event has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeFile {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default, rename = "type")]
    pub event_type: Option<String>,
    /// The type of every event, where the stream has only one.
    #[serde(default)]
    pub constant_type: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    pub time: Placed<String>,
    #[serde(default)]
    pub time_unit: TimeUnitFile,
    #[serde(default)]
    pub subject: Option<String>,
}

/// How the time is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TimeUnitFile {
    #[default]
    #[serde(rename = "rfc3339")]
    Text,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "us")]
    Microseconds,
}

/// An event type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventFile {
    #[serde(default)]
    pub description: Option<String>,
    /// By number; models see the highest.
    pub versions: IndexMap<u32, Placed<VersionFile>>,
}

/// One version of an event's schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionFile {
    pub fields: IndexMap<String, Placed<FieldFile>>,
    /// How the version before becomes this one, step by step.
    #[serde(default)]
    pub from_previous: Vec<Placed<Step>>,
}

/// A field: a value (`type`), or elements (`each`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldFile {
    /// Dotted; the field's name where it is left out.
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default, rename = "type")]
    pub field_type: Option<FieldType>,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub description: Option<String>,
    /// The fields of the elements.
    #[serde(default)]
    pub each: Option<IndexMap<String, Placed<FieldFile>>>,
}

/// One step of an upcaster. Fields of elements are written `lines.sku`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Rename(RenameStep),
    Default(DefaultStep),
    Cast(CastStep),
    Sql(SqlStep),
}

/// Gives a field another name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameStep {
    pub from: String,
    pub to: String,
}

/// Fills a field that is missing or null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultStep {
    pub field: String,
    pub value: serde_json::Value,
}

/// Gives a field another type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CastStep {
    pub field: String,
    #[serde(rename = "type")]
    pub field_type: FieldType,
}

/// Computes a field from the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlStep {
    pub field: String,
    pub expression: String,
}
