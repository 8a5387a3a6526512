//! The lake as models see it: each event once, in its newest version, with typed fields.
//!
//! ```text
//! lake files ─► changes: which rows count (each event id once) ─► view: payload as JSON ─► decode: fields ─► upcast ─► columns
//!                                                                     └─ rows that do not fit: rejects
//! ```
//!
//! The copy of an event that counts is the least in the order of events: (occurred_at, stream, source, topic,
//! partition, position). A lesser copy that comes later supersedes the one before it, which is then taken back.

mod changes;
mod columns;
mod decode;
mod described;
mod hops;
mod lake;
mod need;
mod sample;
mod upcast;
mod view;

pub use changes::{EventChanges, Limits, changes};
pub(crate) use columns::decimal;
pub use decode::{Decoded, Decoder, Elements};
pub use described::Described;
pub(crate) use hops::base;
pub use need::Need;
pub(crate) use sample::misfits;
pub(crate) use upcast::{carries_over, words};
pub use view::Payloads;

use starmere_lake::formats::Format;

use serde_json::{Map, Value, json};

use crate::define::FieldType;

/// A stream, as its definition says, with everything checked.
#[derive(Clone, Debug)]
pub struct Stream {
    pub domain: String,
    pub name: String,
    pub description: Option<String>,
    pub format: Format,
    pub events: Vec<Event>,
}

impl Stream {
    /// The paths of all fields of its events.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let versions = self.events.iter().flat_map(|event| &event.versions);
        versions.flat_map(|version| &version.fields).map(|field| field.path.as_str())
    }

    /// The event type `name`.
    pub fn event(&self, name: &str) -> Option<&Event> {
        self.events.iter().find(|event| event.name == name)
    }
}

/// An event type: its versions, oldest first.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Event {
    pub name: String,
    pub versions: Vec<Version>,
}

impl Event {
    /// What rows depend on, as definitions write it: names and numbers as keys, so that edits can be told by them.
    pub(crate) fn as_written(&self) -> Value {
        let version = |version: &Version| {
            let mut written = json!({ "fields": fields_as_written(&version.fields) });
            if !version.steps.is_empty() {
                written["from_previous"] = json!(version.steps);
            }
            (version.number.to_string(), written)
        };
        json!({ "versions": self.versions.iter().map(version).collect::<Map<_, _>>() })
    }

    /// The version that models see.
    pub fn newest(&self) -> &Version {
        self.versions.last().expect("an event has a version, which resolving checks")
    }
}

/// One version of an event's schema.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Version {
    pub number: i32,
    pub fields: Vec<Field>,
    /// From the version before to this one.
    pub steps: Vec<crate::define::Step>,
}

impl Version {
    /// The field `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// A field of an event or of its elements.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Field {
    pub name: String,
    pub path: String,
    pub required: bool,
    pub description: Option<String>,
    /// Of elements: an object in the list's place is the only one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub one: bool,
    pub kind: FieldKind,
}

/// A value, or elements.
#[derive(Clone, Debug, serde::Serialize)]
pub enum FieldKind {
    Value(FieldType),
    Each(Vec<Field>),
}

impl Field {
    /// The type of its values.
    pub fn field_type(&self) -> Option<FieldType> {
        match &self.kind {
            FieldKind::Value(field_type) => Some(*field_type),
            FieldKind::Each(_) => None,
        }
    }

    /// The fields of its elements.
    pub fn elements(&self) -> Option<&[Field]> {
        match &self.kind {
            FieldKind::Value(_) => None,
            FieldKind::Each(fields) => Some(fields),
        }
    }
}

/// Whether a value that a definition gives can be one of a field.
pub(crate) fn fits(field_type: FieldType, value: &str) -> bool {
    columns::Column::only(field_type, value).is_some()
}

fn fields_as_written(fields: &[Field]) -> Map<String, Value> {
    let written = |field: &Field| {
        let mut written = Map::new();
        if field.path != field.name {
            written.insert("path".to_owned(), json!(field.path));
        }
        match &field.kind {
            FieldKind::Value(field_type) => written.insert("type".to_owned(), json!(field_type)),
            FieldKind::Each(fields) => written.insert("each".to_owned(), fields_as_written(fields).into()),
        };
        for (key, _) in [("required", field.required), ("one", field.one)].into_iter().filter(|(_, holds)| *holds) {
            written.insert(key.to_owned(), true.into());
        }
        (field.name.clone(), written.into())
    };
    fields.iter().map(written).collect()
}
