//! Dimensions: members, their versions, and which version held when.
//!
//! ```text
//! streams ─► change log (append-only, in buckets by key) ─► versions (a pure fold of each key's changes)
//!            state, patch, delete, mention, taken back       a large file a bucket, and small ones beside it
//! ```
//!
//! Invariants: the versions of a member tile all of time, half-open; a member's first version has the member's
//! durable key; the versions table is the fold of the change log at the version that it has consumed, whatever
//! the order in which changes came. On a crash, either table may be behind; the next build goes on from what
//! each says that it has consumed.

mod as_of;
mod changes;
mod fold;
mod index;
mod log;
mod mentions;
mod versions;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use starmere_lake::events::timestamp;

pub use changes::{CHANGES, build_changes};
pub(crate) use changes::{decoder, natural_key, with_built_in};
pub use fold::fold;
pub(crate) use index::those;
pub use index::{Affected, Index, Members};
pub(crate) use mentions::Mentions;
pub(crate) use versions::changed_since;
pub use versions::{VERSIONS, build_versions};

use crate::define::{As, Beside, FieldType, History, ModelName, Place, SpecialMembers};
use crate::events::{Event, Need};
use crate::expression::{Expression, Rule};
use crate::generated::Generated;
use crate::keys::Keys;
use crate::resolve::Model;

pub use starmere_lake::time::{BEGINNING, END};

/// A dimension that can be built.
#[derive(Clone, Debug)]
pub struct Dimension {
    pub name: ModelName,
    pub description: Option<String>,
    pub definition: serde_json::Value,
    pub fingerprint: String,
    /// The natural key.
    pub key: Vec<(String, FieldType)>,
    pub attributes: Vec<AttributeColumn>,
    pub references: Vec<Reference>,
    pub sources: Vec<Source>,
    pub inferred_from: Vec<ModelName>,
    /// The models of `inferred_from`.
    pub mentions: Vec<Model>,
    pub members: SpecialMembers,
    /// Members are combinations of values that facts mention; nulls are values, too.
    pub junk: bool,
    /// Mini-dimensions that are made of its attributes.
    pub minis: Vec<Mini>,
    /// Of a mini-dimension's history: versions have the keys of combinations, which this dimension's rows are.
    pub keys_of: Option<ModelName>,
}

/// A mini-dimension: combinations of some attributes, apart from the dimension.
#[derive(Clone, Debug)]
pub struct Mini {
    pub name: ModelName,
    /// Attributes, by index.
    pub attributes: Vec<usize>,
}

/// What is known of a member.
#[derive(Clone, Debug)]
pub struct AttributeColumn {
    pub name: String,
    pub field_type: FieldType,
    pub history: History,
    /// What is shown beside its value.
    pub beside: Vec<Beside>,
    /// It is in a mini-dimension instead.
    pub apart: bool,
    pub description: Option<String>,
}

/// Another dimension that members refer to.
#[derive(Clone, Debug)]
pub struct Reference {
    pub name: String,
    pub target: ModelName,
    pub key_types: Vec<FieldType>,
    /// It points to the parent's version as well, and that one's end ends the child's.
    pub as_of_version: bool,
    pub place: Place,
}

impl Reference {
    /// The column of the parent's durable key.
    pub fn durable_column(&self) -> String {
        format!("{}_durable_key", self.name)
    }

    /// The column of the key of the parent's version.
    pub fn key_column(&self) -> String {
        format!("{}_key", self.name)
    }
}

/// Events that say something about members.
#[derive(Clone, Debug)]
pub struct Source {
    pub stream: String,
    pub event: String,
    pub definition: Event,
    pub meaning: As,
    pub need: Need,
    pub key: Vec<Expression>,
    /// Attribute, by index, and its value.
    pub set: Vec<(usize, Expression)>,
    /// Reference, by index, and the natural key of what it refers to.
    pub references: Vec<(usize, Vec<Expression>)>,
    /// Which of the events say it.
    pub filter: Option<Expression>,
    pub rules: Vec<Rule>,
}

/// What a role of a fact points to.
#[derive(Clone, Debug)]
pub enum Target {
    Generated {
        name: ModelName,
        generated: Arc<Generated>,
    },
    Dimension {
        name: ModelName,
        key_types: Vec<FieldType>,
        /// Instead of the dimension, whose versions have the keys of this one's rows.
        shown: Option<ModelName>,
        /// Its members are combinations of values, nulls among them.
        junk: bool,
        /// A member may have several versions.
        versioned: bool,
        /// Whatever the fact mentions becomes a member.
        accepts: bool,
    },
}

impl Mini {
    /// The column of the key that is current.
    pub fn column(&self) -> String {
        format!("current_{}_key", self.name.name)
    }
}

impl Target {
    /// The model's name.
    pub fn name(&self) -> &ModelName {
        match self {
            Self::Generated { name, .. } | Self::Dimension { name, .. } => name,
        }
    }

    /// The model that queries join.
    pub fn shown(&self) -> &ModelName {
        match self {
            Self::Dimension { shown: Some(shown), .. } => shown,
            other => other.name(),
        }
    }

    /// A key has to be looked up: the natural key alone does not tell it.
    pub fn is_looked_up(&self) -> bool {
        matches!(self, Self::Dimension { versioned, accepts, .. } if *versioned || !*accepts)
    }
}

impl Dimension {
    /// The columns of the versions.
    pub fn schema(&self) -> SchemaRef {
        let name = &self.name.name;
        let mut fields = vec![
            Field::new(format!("{name}_key"), DataType::Int64, false),
            Field::new(format!("{name}_durable_key"), DataType::Int64, false),
        ];
        fields.extend(self.key.iter().map(|(key, field_type)| Field::new(key, field_type.arrow(), true)));
        for attribute in self.attributes.iter().filter(|attribute| !attribute.apart) {
            let names = attribute.beside.iter().map(|beside| beside.column(&attribute.name));
            let names = std::iter::once(attribute.name.clone()).chain(names);
            fields.extend(names.map(|name| Field::new(name, attribute.field_type.arrow(), true)));
        }
        fields.extend(self.minis.iter().map(|mini| Field::new(mini.column(), DataType::Int64, false)));
        for reference in &self.references {
            let columns = reference.as_of_version.then(|| reference.key_column());
            let columns = columns.into_iter().chain([reference.durable_column()]);
            fields.extend(columns.map(|name| Field::new(name, DataType::Int64, false)));
        }
        fields.extend([
            Field::new("valid_from", timestamp(), false),
            Field::new("valid_to", timestamp(), false),
            Field::new("is_current", DataType::Boolean, false),
            Field::new("is_deleted", DataType::Boolean, false),
            Field::new("is_inferred", DataType::Boolean, false),
        ]);
        Arc::new(Schema::new(fields))
    }

    /// The columns of the change log. Attributes and references come last, in their order.
    pub fn changes_schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new("durable_key", DataType::Int64, false),
            Field::new("action", DataType::Int32, false),
            // Of a mention, by how many events they grew; of an event, which entry of `from` reads it.
            Field::new("number", DataType::Int64, false),
            Field::new("occurred_at", timestamp(), true),
            Field::new("stream", DataType::Utf8, true),
            Field::new("source", DataType::Utf8, true),
            Field::new("topic", DataType::Utf8, true),
            Field::new("partition", DataType::Int32, true),
            Field::new("position", DataType::Int64, true),
            Field::new("event_id", DataType::Utf8, true),
            Field::new("present", DataType::Utf8, true),
        ];
        fields.extend(
            self.key.iter().map(|(key, field_type)| Field::new(format!("key_{key}"), field_type.arrow(), true)),
        );
        fields.extend(
            self.attributes.iter().map(|a| Field::new(format!("attribute_{}", a.name), a.field_type.arrow(), true)),
        );
        fields
            .extend(self.references.iter().map(|r| Field::new(format!("reference_{}", r.name), DataType::Int64, true)));
        Arc::new(Schema::new(fields))
    }

    /// Where attributes begin in [`Self::changes_schema`].
    fn first_attribute(&self) -> usize {
        FIRST_KEY + self.key.len()
    }

    /// Makes the dimension's keys.
    pub fn keys(&self) -> Keys {
        Keys::new(&self.name.to_string())
    }

    /// The dimensions whose versions open versions of this one.
    pub fn inputs(&self) -> BTreeSet<&ModelName> {
        self.references.iter().filter(|reference| reference.as_of_version).map(|reference| &reference.target).collect()
    }

    /// The streams that it reads, by name.
    pub fn streams(&self) -> BTreeSet<&str> {
        let own = self.sources.iter().map(|source| source.stream.as_str());
        own.chain(self.mentions.iter().flat_map(Model::streams_of_its_own)).collect()
    }
}

/// Where the natural key begins in [`Dimension::changes_schema`].
const FIRST_KEY: usize = 11;

impl Model {
    /// The streams of its own events, without those of what mentions it.
    fn streams_of_its_own(&self) -> Vec<&str> {
        match self {
            Self::Generated(_) | Self::Sql(_) => Vec::new(),
            Self::Dimension(dimension) => dimension.sources.iter().map(|source| source.stream.as_str()).collect(),
            Self::Fact(fact) => fact.streams().into_iter().collect(),
        }
    }
}

/// What a row of the change log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Action {
    State = 0,
    Patch = 1,
    Delete = 2,
    /// So many more (or fewer) events mention the member.
    Mention = 3,
    /// The event at these coordinates does not count any more.
    TakenBack = 4,
}

impl From<As> for Action {
    fn from(meaning: As) -> Self {
        match meaning {
            As::State => Self::State,
            As::Patch => Self::Patch,
            As::Delete => Self::Delete,
        }
    }
}
