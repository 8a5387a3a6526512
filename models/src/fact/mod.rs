//! Facts: rows at a declared grain, keyed as of when they happened.
//!
//! ```text
//! events that count ─► stage: rows, natural keys ─► key: look up as of occurred_at ─► append a file
//!                                   └► mentions of members, for dimensions
//! dimension changed ─► affected members and spans ─► files with such rows ─► key again ─► replace the files
//! event taken back  ─► files with its rows ─► leave them out ─► replace the files
//! ```
//!
//! All of it is one Delta commit, with the versions of the stream and of every dimension it was keyed by.
//! Invariant: a row's keys are those that a rebuild against the same dimension versions would give.

mod run;
mod stage;
mod staged;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use starmere_lake::events::timestamp;

pub use run::{ROWS, build};
pub use stage::{Stage, Staged};
pub(crate) use staged::{FILES_SIDE_BY_SIDE, Mentioned, Room, Staging};

use crate::define::{Additivity, FieldType, ModelName};
use crate::dimension::Target;
use crate::events::{Event, Need};
use crate::expression::{Expression, Rule};

/// The column that says which stream an event is of, in facts of several.
pub const EVENT_STREAM: &str = "event_stream";

/// Columns that say where an event comes from, and the lake's columns that do; first those that order events.
pub(crate) const AUDIT: [(&str, &str); 6] = [
    ("audit_source", "source"),
    ("audit_topic", "topic"),
    ("audit_partition", "partition"),
    ("audit_position", "position"),
    ("audit_event_version", "event_version"),
    ("audit_ingested_at", "ingested_at"),
];

/// A fact that can be built.
#[derive(Clone, Debug)]
pub struct Fact {
    pub name: ModelName,
    pub description: Option<String>,
    pub definition: serde_json::Value,
    pub fingerprint: String,
    pub sources: Vec<Source>,
    pub roles: Vec<Role>,
    pub columns: Vec<Column>,
    /// Columns that tell rows apart.
    pub grain: Vec<String>,
    /// Rows say where their events come from, and when they landed.
    pub audit: bool,
}

/// Events of one type that a fact is made of.
#[derive(Clone, Debug)]
pub struct Source {
    pub stream: String,
    pub event: String,
    pub definition: Event,
    pub need: Need,
    pub filter: Option<Expression>,
    pub rules: Vec<Rule>,
    /// Of each role.
    pub keys: Vec<RoleKey>,
    /// Of each column.
    pub columns: Vec<Expression>,
}

/// How rows of a source say who is in a role.
#[derive(Clone, Debug)]
pub struct RoleKey {
    /// The natural key.
    pub key: Vec<Expression>,
    /// Conditions for members that stand for none.
    pub not_applicable: Option<Expression>,
    pub error: Option<Expression>,
}

/// A dimension in a role.
#[derive(Clone, Debug)]
pub struct Role {
    pub name: String,
    pub target: Target,
    pub description: Option<String>,
}

impl Role {
    /// The column of the key.
    pub fn key_column(&self) -> String {
        format!("{}_key", self.name)
    }

    /// The column of the durable key, where the fact has one.
    pub fn durable_column(&self) -> Option<String> {
        self.target.is_looked_up().then(|| format!("{}_durable_key", self.name))
    }
}

/// A degenerate dimension or a measure.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub field_type: FieldType,
    pub kind: ColumnKind,
    pub description: Option<String>,
}

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Degenerate,
    Measure(Additivity),
}

impl Fact {
    /// The columns of its rows.
    pub fn schema(&self) -> SchemaRef {
        let mut fields = Vec::new();
        for role in &self.roles {
            fields.push(Field::new(role.key_column(), DataType::Int64, false));
            fields.extend(role.durable_column().map(|name| Field::new(name, DataType::Int64, false)));
        }
        fields.extend(self.columns.iter().map(|column| Field::new(&column.name, column.field_type.arrow(), true)));
        fields.extend([
            Field::new("occurred_at", timestamp(), false),
            Field::new("event_id", DataType::Utf8, false),
            Field::new("ordinal", DataType::Int32, false),
        ]);
        if self.streams().len() > 1 {
            fields.push(Field::new(EVENT_STREAM, DataType::Utf8, false));
        }
        if self.audit {
            fields.extend(AUDIT.map(|(name, column)| {
                let data_type = match column {
                    "source" | "topic" => DataType::Utf8,
                    "position" => DataType::Int64,
                    "ingested_at" => timestamp(),
                    _ => DataType::Int32,
                };
                Field::new(name, data_type, false)
            }));
        }
        Arc::new(Schema::new(fields))
    }

    /// The streams of its events.
    pub fn streams(&self) -> BTreeSet<&str> {
        self.sources.iter().map(|source| source.stream.as_str()).collect()
    }

    /// The dimensions it is keyed by.
    pub fn inputs(&self) -> BTreeSet<&ModelName> {
        let looked_up = self.roles.iter().filter(|role| role.target.is_looked_up());
        looked_up.map(|role| role.target.name()).collect()
    }
}
