//! `streams/*.yaml`: events, their versions, and how an old version becomes the new one.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_lake::formats::{Convention, Encoding, Format};

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
    /// Events that landed longer ago are forgotten; all are kept where it is left out.
    #[serde(default)]
    pub retention_days: Option<Placed<u32>>,
    /// What payloads are written in.
    #[serde(default)]
    pub format: FormatFile,
    /// Between the fields of `csv`; a comma where it is left out.
    #[serde(default)]
    pub delimiter: Option<Placed<String>>,
    /// A file with the schema of payloads of `avro` that do not name theirs.
    #[serde(default)]
    pub schema: Option<Placed<String>>,
    /// What the file of `schema` says; read with the definition.
    #[serde(skip)]
    pub schema_text: Option<String>,
    /// How events are built, where that is a convention of many.
    #[serde(default)]
    pub convention: Option<ConventionFile>,
    pub envelope: Placed<EnvelopeFile>,
    /// Event types.
    #[serde(default)]
    pub events: IndexMap<String, Placed<EventFile>>,
}

impl StreamFile {
    /// What its payloads are.
    pub fn format(&self) -> Format {
        let encoding = match self.format {
            FormatFile::Json => Encoding::Json,
            FormatFile::Csv => {
                let delimiter = self.delimiter.as_ref().and_then(|text| text.bytes().next());
                Encoding::Csv { delimiter: delimiter.unwrap_or(b',') }
            }
            FormatFile::Avro => Encoding::Avro { schema: self.schema_text.clone() },
            FormatFile::Confluent => Encoding::Confluent,
        };
        let convention = self.convention.map(|convention| match convention {
            ConventionFile::Cloudevents => Convention::CloudEvents,
            ConventionFile::Debezium => Convention::Debezium,
            ConventionFile::Outbox => Convention::Outbox,
        });
        Format { encoding, convention }
    }
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
    #[serde(default)]
    pub time: Option<String>,
    #[serde(default)]
    pub time_unit: TimeUnitFile,
    #[serde(default)]
    pub subject: Option<String>,
    /// The type of tombstones: keys without a payload.
    #[serde(default)]
    pub tombstone: Option<String>,
}

/// What payloads are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatFile {
    #[default]
    Json,
    /// Records, whose fields the header of their file names.
    Csv,
    /// Avro, of a schema that payloads name by its fingerprint, or that is declared.
    Avro,
    /// Avro, Protocol Buffers or JSON, after the number of a schema in a registry.
    Confluent,
}

/// Conventions of how events are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConventionFile {
    Cloudevents,
    /// Change events.
    Debezium,
    /// What Debezium's outbox router sends.
    Outbox,
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
