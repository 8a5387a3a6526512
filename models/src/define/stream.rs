//! `streams/*.yaml`: events, their versions, and how an old version becomes the new one.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_lake::formats::{Convention, Encoding, Format};

use super::{FieldType, Placed, Scalar};

/// A stream of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamFile {
    pub stream: Placed<String>,
    /// Who owns it.
    pub domain: Placed<String>,
    /// Other domains whose models may read it, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<Placed<String>>,
    #[serde(default)]
    pub description: Option<String>,
    /// A longer event is kept beside the table.
    #[serde(default)]
    pub max_event_bytes: Option<Placed<usize>>,
    /// Over HTTP, an event that is not what this definition says is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
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

    /// The headers that its envelope, its fields and its convention name, each once.
    pub fn headers(&self) -> Vec<String> {
        let EnvelopeFile { id, event_type, version, time, subject, .. } = &self.envelope.value;
        let envelope = [id, event_type, version, time, subject].into_iter().flatten();
        let versions = self.events.values().flat_map(|event| event.versions.values());
        let fields = versions.flat_map(|version| version.fields.values()).filter_map(|field| field.path.as_ref());
        let by_convention: &[&str] = match self.convention {
            Some(ConventionFile::Outbox) => &["$headers.id", "$headers.eventType"],
            _ => &[],
        };
        let paths = envelope.chain(fields).map(String::as_str).chain(by_convention.iter().copied());
        let names = paths.filter_map(|path| path.strip_prefix("$headers.")?.split('.').next());
        names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
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
    /// Payloads, and what models see of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Placed<Sample>>,
}

/// A payload of a version, and what its fields are in the newest one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    pub payload: serde_json::Value,
    /// By field; lists of elements by their fields.
    pub gives: IndexMap<String, serde_json::Value>,
}

/// A field: a value (`type`), or elements (`each`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldFile {
    /// Dotted, `[0]` being the first element of a list; the field's name where it is left out.
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
    /// Of a list: where an object is in its place, that is its only element.
    #[serde(default)]
    pub one: bool,
}

/// One step of an upcaster. Fields of elements are written `lines.sku`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Rename(RenameStep),
    Default(DefaultStep),
    Cast(CastStep),
    Sql(SqlStep),
    Split(SplitStep),
    Merge(MergeStep),
    MapValues(MapValuesStep),
    Drop(DropStep),
}

impl Step {
    /// What no step of its kind can mean.
    pub fn mistake(&self) -> Option<(String, &'static str)> {
        match self {
            Self::Split(step) if step.on.is_empty() => {
                Some((format!("`{}` is split on nothing", step.field), "say what stands between its parts"))
            }
            Self::Split(step) if step.into.is_empty() => {
                Some((format!("`{}` is split into nothing", step.field), "name the fields that its parts become"))
            }
            Self::Split(step) => {
                let twice = step.into.iter().enumerate().find(|(place, name)| step.into[..*place].contains(name))?.1;
                Some((format!("two parts of `{}` become `{twice}`", step.field), "name a field for each part"))
            }
            Self::Merge(step) if step.fields.is_empty() => {
                Some((format!("`{}` is merged from nothing", step.into), "name the fields that it is made of"))
            }
            Self::MapValues(step) if step.values.is_empty() => {
                Some((format!("no value of `{}` is mapped", step.field), "say which become which: `{ A: active }`"))
            }
            _ => None,
        }
    }

    /// The same, in steps that each write one field.
    pub fn plain(&self) -> Vec<Self> {
        let sql = |field: &str, expression: String| Self::Sql(SqlStep { field: field.to_owned(), expression });
        let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let value_of = |value: &Scalar| value.0.as_deref().map_or_else(|| "NULL".to_owned(), text);
        let own = |field: &str| format!("\"{}\"", field.rsplit('.').next().unwrap_or(field));
        match self {
            Self::Split(step) => {
                let (of, on) = (own(&step.field), text(&step.on));
                let last = step.into.len().saturating_sub(1);
                let part = |(number, name): (usize, &String)| {
                    // The last part is all that is left.
                    let rest = (0..last).fold(format!("CAST({of} AS VARCHAR)"), |rest, _| {
                        format!(
                            "CASE WHEN strpos({rest}, {on}) > 0 THEN substr({rest}, strpos({rest}, {on}) + {}) END",
                            step.on.chars().count()
                        )
                    });
                    let part = if number == last {
                        rest
                    } else {
                        format!("split_part(CAST({of} AS VARCHAR), {on}, {})", number + 1)
                    };
                    sql(name, format!("nullif(trim({part}), '')"))
                };
                // A part may have the name of what is split: it is written last.
                let (own_last, others): (Vec<_>, Vec<_>) =
                    step.into.iter().enumerate().partition(|(_, name)| **name == step.field);
                others.into_iter().chain(own_last).map(part).collect()
            }
            Self::Merge(step) => {
                let part = |field: &String| format!("nullif(CAST({} AS VARCHAR), '')", own(field));
                let fields: Vec<String> = step.fields.iter().map(part).collect();
                vec![sql(&step.into, format!("nullif(concat_ws({}, {}), '')", text(&step.with), fields.join(", ")))]
            }
            Self::MapValues(step) => {
                let of = format!("CAST({} AS VARCHAR)", own(&step.field));
                let whens = step.values.iter().map(|(from, to)| format!("WHEN {} THEN {}", text(from), value_of(to)));
                let whens: Vec<String> = whens.collect();
                let otherwise = step.otherwise.as_ref().map_or_else(|| of.clone(), value_of);
                vec![sql(&step.field, format!("CASE {of} {} ELSE {otherwise} END", whens.join(" ")))]
            }
            other => vec![other.clone()],
        }
    }
}

/// Gives the parts of a text to fields; the last one gets all that is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitStep {
    pub field: String,
    /// What stands between the parts.
    pub on: String,
    pub into: Vec<String>,
}

/// Puts texts together, as far as they are there and not empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeStep {
    pub fields: Vec<String>,
    pub into: String,
    /// What stands between them.
    #[serde(default)]
    pub with: String,
}

/// Writes other values for some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapValuesStep {
    pub field: String,
    pub values: IndexMap<String, Scalar>,
    /// For all others, null included; they stay where it is left out.
    #[serde(default, deserialize_with = "is_there", skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Scalar>,
}

/// A value that is there, null included.
fn is_there<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Scalar>, D::Error> {
    Scalar::deserialize(deserializer).map(Some)
}

/// Leaves out what a field said: the one of the same name in the new version is another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropStep {
    pub field: String,
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
    pub value: Scalar,
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
