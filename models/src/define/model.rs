//! `domains/<domain>/models/*.yaml`: dimensions and facts, which are made of events.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FieldType, Placed, Scalar};
use crate::keys::{ERROR, NOT_APPLICABLE, UNKNOWN};

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

/// Types of events: a text or a list in the file. One is written as a text, as it always was: fingerprints stay.
#[derive(Clone, Debug, PartialEq)]
pub struct EventTypes(pub Vec<String>);

impl Serialize for EventTypes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serializer.serialize_str(one),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EventTypes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = EventTypes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<EventTypes, E> {
                Ok(EventTypes(vec![text.to_owned()]))
            }

            /// A type may be a number, without quotes.
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<EventTypes, E> {
                Ok(EventTypes(vec![number.to_string()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, sequence: A) -> Result<EventTypes, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(sequence)).map(EventTypes)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl JsonSchema for EventTypes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventTypes".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Names::json_schema(generator)
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
    /// Times of a day instead of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_of_day: Option<Placed<TimeOfDay>>,
    /// Ranges of a value instead of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bands: Option<Placed<BandsFile>>,
    /// Columns, and their types, of which facts mention combinations: a junk dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub junk: Option<Placed<IndexMap<String, FieldType>>>,
    /// Attributes that go to a dimension of their own, by its name: combinations, which facts have keys of.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub mini: IndexMap<String, Placed<Names>>,
    /// What texts say in the rows that stand for no member.
    #[serde(default)]
    pub members: SpecialMembers,
}

/// Rows that stand for no member, by what their texts say. The unknown member is always there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpecialMembers {
    /// Key 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Key -1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_applicable: Option<String>,
    /// Key -2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SpecialMembers {
    /// Keys of those that are there, and what their texts say.
    pub fn rows(&self) -> Vec<(i64, Option<&str>)> {
        let mut rows = vec![(UNKNOWN, self.unknown.as_deref())];
        rows.extend(self.not_applicable.as_deref().map(|text| (NOT_APPLICABLE, Some(text))));
        rows.extend(self.error.as_deref().map(|text| (ERROR, Some(text))));
        rows
    }
}

/// Days from `from` to `to`, both included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    pub from: String,
    pub to: String,
    /// The month in which the fiscal year begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fiscal_year_begins: Option<u32>,
    /// A file of the project: a day, a comma and a name a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holidays: Option<String>,
    /// What the file of `holidays` says; read with the definition.
    #[serde(skip)]
    pub holidays_text: Option<String>,
    /// Languages in which days and months have names, too, such as `de_CH`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locales: Vec<String>,
}

/// Times of a day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeOfDay {
    pub every: TimeUnit,
}

/// How long a row's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    Hour,
    Minute,
    Second,
}

/// Ranges of a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BandsFile {
    /// The type of the value.
    pub of: FieldType,
    /// Where each ends and the next begins; the last has no end.
    pub names: IndexMap<String, Scalar>,
}

/// Events that say something about members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionSource {
    /// The stream of the source before, where it is left out.
    #[serde(default)]
    pub stream: Option<String>,
    /// One type of events, or several that are read alike.
    pub event: EventTypes,
    #[serde(rename = "as")]
    pub meaning: As,
    /// SQL: which of these events say it; the others say nothing here.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// SQL of the natural key, by column; the field of that name where it is left out.
    #[serde(default)]
    pub key: IndexMap<String, String>,
    /// SQL of an attribute; the field of that name where it is left out.
    #[serde(default)]
    pub set: IndexMap<String, String>,
    /// SQL by name: what is so of these events. One of which it is false is a reject.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub rules: IndexMap<String, String>,
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
    pub history: Histories,
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

/// A value that is shown beside the one of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Beside {
    /// The latest, in every version (type 6).
    Current,
    /// The one before the last change (type 3).
    Previous,
    /// The first.
    Original,
}

impl Beside {
    /// The column that shows it of `attribute`.
    pub fn column(self, attribute: &str) -> String {
        let word = match self {
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Original => "original",
        };
        format!("{word}_{attribute}")
    }
}

/// What becomes of former values, and what is shown beside: one word, or a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histories {
    pub history: History,
    pub beside: Vec<Beside>,
}

impl Serialize for Histories {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.beside.is_empty() {
            return self.history.serialize(serializer);
        }
        (self.history, &self.beside).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histories {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        const WORDS: [&str; 6] = ["keep", "overwrite", "version", "current", "previous", "original"];
        let words = Names::deserialize(deserializer)?.0;
        let (mut history, mut beside) = (None, Vec::new());
        for word in &words {
            let base = match word.as_str() {
                "keep" => History::Keep,
                "overwrite" => History::Overwrite,
                "version" => History::Version,
                other => {
                    let shown = match other {
                        "current" => Beside::Current,
                        "previous" => Beside::Previous,
                        "original" => Beside::Original,
                        _ => return Err(D::Error::unknown_variant(other, &WORDS)),
                    };
                    if beside.contains(&shown) {
                        return Err(D::Error::custom(format!("`{other}` is there twice")));
                    }
                    beside.push(shown);
                    continue;
                }
            };
            if history.replace(base).is_some() {
                return Err(D::Error::custom("a history is one of keep, overwrite and version"));
            }
        }
        let history = match history {
            Some(history) => history,
            // Type 3.
            None if beside == [Beside::Previous] => History::Overwrite,
            None => {
                return Err(D::Error::custom("a history is one of keep, overwrite and version, and what is beside"));
            }
        };
        if history == History::Keep && !beside.is_empty() {
            return Err(D::Error::custom("`keep` has nothing beside it; `[overwrite, original]` has both values"));
        }
        if history == History::Overwrite && beside.contains(&Beside::Current) {
            return Err(D::Error::custom("with `overwrite` the value is the current one"));
        }
        beside.sort_unstable();
        Ok(Self { history, beside })
    }
}

impl JsonSchema for Histories {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Histories".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let words = ["keep", "overwrite", "version", "current", "previous", "original"];
        schemars::json_schema!({
            "anyOf": [
                { "enum": ["keep", "overwrite", "version", "previous"] },
                { "type": "array", "items": { "enum": words }, "minItems": 1, "uniqueItems": true }
            ]
        })
    }
}

/// A snowflaked dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceTo {
    pub dimension: String,
    /// SQL over the event's fields.
    pub key: Names,
    /// `version`: of the parent's versions, the one that held; each of them opens a version of the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<AsOf>,
}

/// What of a parent a reference points to, where it is not the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AsOf {
    /// The version that held when the child's did.
    Version,
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactFile {
    pub fact: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    pub from: Placed<FactSources>,
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
    /// Rows say where their events come from, and when they landed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
}

/// The events of a fact: those that are read alike, or a list of such.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct FactSources(pub Vec<Placed<FactSource>>);

impl<'de> Deserialize<'de> for FactSources {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = FactSources;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("events (`stream`, `event`) or a list of them")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<FactSources, A::Error> {
                let source = FactSource::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(FactSources(vec![Placed::from(source)]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut sequence: A) -> Result<FactSources, A::Error> {
                let mut sources = Vec::new();
                while let Some(source) = sequence.next_element()? {
                    sources.push(source);
                }
                Ok(FactSources(sources))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl JsonSchema for FactSources {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FactSources".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<FactSource>();
        schemars::json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// Events of a fact that are read alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactSource {
    pub stream: String,
    /// One type of events, or several.
    pub event: EventTypes,
    /// One row per element of this field.
    #[serde(default)]
    pub each: Option<String>,
    /// SQL: which rows of these events belong to the fact.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// SQL of a column, or of the key of a dimension, where these events say it otherwise.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub set: IndexMap<String, Names>,
    /// SQL by name: what is so of all of these rows. An event with one of which it is false is a reject.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub rules: IndexMap<String, String>,
}

/// A dimension in a role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Role {
    pub dimension: String,
    /// SQL of the natural key.
    pub key: Names,
    /// SQL: there is no such member, rightly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_applicable: Option<String>,
    /// SQL: what the event says cannot be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn history(text: &str) -> Result<Histories, String> {
        let text = format!("dimension: d\nattributes: {{ a: {{ type: int, history: {text} }} }}\n");
        let parsed = super::super::parse_text::<DimensionFile>(&text, "d.yaml");
        parsed.map(|file| file.definition.attributes["a"].history.clone()).map_err(|problem| problem.message)
    }

    #[test]
    fn one_type_of_events_is_written_as_it_always_was() {
        let written = |event: &str| {
            let text = format!("fact: f\nfrom: {{ stream: s, event: {event} }}\ngrain: id\n");
            let fact = super::super::parse_text::<FactFile>(&text, "f.yaml").unwrap().definition;
            serde_json::to_value(&fact.from.0[0].event).unwrap()
        };
        assert_eq!(written("sold"), serde_json::json!("sold"));
        assert_eq!(written("[sold]"), serde_json::json!("sold"));
        assert_eq!(written("404"), serde_json::json!("404"));
        assert_eq!(written("[sold, 404]"), serde_json::json!(["sold", "404"]));
    }

    #[test]
    fn histories_are_a_word_or_a_list() {
        let of = |history, beside: &[Beside]| Ok(Histories { history, beside: beside.to_vec() });
        assert_eq!(history("keep"), of(History::Keep, &[]));
        assert_eq!(history("previous"), of(History::Overwrite, &[Beside::Previous]));
        assert_eq!(history("[version]"), of(History::Version, &[]));
        let all = [Beside::Current, Beside::Previous, Beside::Original];
        assert_eq!(history("[original, version, previous, current]"), of(History::Version, &all));
        assert_eq!(history("[version, keep]"), Err("a history is one of keep, overwrite and version".into()));
        assert_eq!(history("[version, current, current]"), Err("`current` is there twice".into()));
        assert_eq!(history("[overwrite, current]"), Err("with `overwrite` the value is the current one".into()));
        assert!(history("[keep, previous]").unwrap_err().starts_with("`keep` has nothing beside it"));
        assert!(history("current").unwrap_err().starts_with("a history is one of"));
        assert_eq!(history("versions"), Err("unknown choice `versions`".into()));
    }
}
