//! `domains/<domain>/models/*.yaml`: dimensions and facts.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FieldType, Placed};

/// One name or several; a text or a list in the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Names;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Names, E> {
                Ok(Names(vec![text.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = sequence.next_element()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl JsonSchema for Names {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Names".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }]
        })
    }
}

/// A dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionFile {
    pub dimension: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The natural key.
    #[serde(default)]
    pub key: Option<Placed<Names>>,
    #[serde(default)]
    pub from: Vec<Placed<DimensionSource>>,
    #[serde(default)]
    pub attributes: IndexMap<String, Placed<Attribute>>,
    /// Other dimensions that the members refer to.
    #[serde(default)]
    pub references: IndexMap<String, Placed<ReferenceTo>>,
    /// Facts and dimensions whose mentions make members.
    #[serde(default)]
    pub inferred_from: Vec<Placed<String>>,
    /// Days instead of events.
    #[serde(default)]
    pub calendar: Option<Placed<Calendar>>,
}

/// Days from `from` to `to`, both included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    pub from: String,
    pub to: String,
}

/// Events that say something about members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionSource {
    /// The stream of the source before, where it is left out.
    #[serde(default)]
    pub stream: Option<String>,
    pub event: String,
    #[serde(rename = "as")]
    pub meaning: As,
    /// SQL of the natural key, by column; the field of that name where it is left out.
    #[serde(default)]
    pub key: IndexMap<String, String>,
    /// SQL of an attribute; the field of that name where it is left out.
    #[serde(default)]
    pub set: IndexMap<String, String>,
}

/// What an event means for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum As {
    /// All attributes; what is absent is null.
    State,
    /// Some attributes; what is absent stays.
    Patch,
    /// The member is gone.
    Delete,
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    #[serde(rename = "type")]
    pub field_type: FieldType,
    #[serde(default)]
    pub history: History,
    #[serde(default)]
    pub description: Option<String>,
}

/// What becomes of former values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// The first value stays (type 0).
    Keep,
    /// Every version shows the latest value (type 1).
    #[default]
    Overwrite,
    /// A change opens a version (type 2).
    Version,
}

/// A snowflaked dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceTo {
    pub dimension: String,
    /// SQL over the event's fields.
    pub key: Names,
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactFile {
    pub fact: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    pub from: Placed<FactSource>,
    /// SQL: which rows belong to the fact.
    #[serde(default, rename = "where")]
    pub filter: Option<Placed<String>>,
    /// Columns that tell rows apart.
    pub grain: Placed<Names>,
    #[serde(default)]
    pub dimensions: IndexMap<String, Placed<Role>>,
    #[serde(default)]
    pub degenerate: IndexMap<String, Placed<Degenerate>>,
    #[serde(default)]
    pub measures: IndexMap<String, Placed<Measure>>,
}

/// The events of a fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactSource {
    pub stream: String,
    pub event: String,
    /// One row per element of this field.
    #[serde(default)]
    pub each: Option<String>,
}

/// A dimension in a role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Role {
    pub dimension: String,
    /// SQL of the natural key.
    pub key: Names,
    #[serde(default)]
    pub description: Option<String>,
}

/// A dimension without attributes, kept in the fact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Degenerate {
    /// SQL; the field of that name where it is left out.
    #[serde(default)]
    pub expression: Option<String>,
    #[serde(default, rename = "type")]
    pub field_type: Option<FieldType>,
    #[serde(default)]
    pub description: Option<String>,
}

/// A number about what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// SQL; the field of that name where it is left out.
    #[serde(default)]
    pub expression: Option<String>,
    #[serde(default, rename = "type")]
    pub field_type: Option<FieldType>,
    #[serde(default)]
    pub additive: Additivity,
    #[serde(default)]
    pub description: Option<String>,
}

/// Over which dimensions a measure may be summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Additivity {
    #[default]
    Full,
    Semi,
    None,
}

/// A SQL model: one SELECT over other models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlFile {
    pub sql: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    pub select: Placed<String>,
    /// Columns that tell rows apart.
    pub grain: Placed<Names>,
    /// What columns mean.
    #[serde(default)]
    pub columns: IndexMap<String, Placed<SqlColumnFile>>,
}

/// A column of a SQL model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlColumnFile {
    #[serde(default)]
    pub description: Option<String>,
}
