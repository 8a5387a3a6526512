//! The schemas that a stream's payloads were written with, kept beside its table, so that the lake can be read
//! without the registry that they came from.
//!
//! A schema is one object (`_starmere/schemas/<id>.json`) with everything that it refers to. It is there before the
//! first row that needs it, and is never changed.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::{avro, protobuf};
use crate::delta::Table;
use crate::paths;
use crate::{Error, Result};

/// What a payload names its schema by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SchemaId {
    /// The number that a schema registry gave it.
    Registered(u32),
    /// CRC-64-AVRO of its canonical form, as in Avro's single-object encoding.
    Fingerprint(u64),
}

impl std::fmt::Display for SchemaId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registered(number) => write!(f, "{number}"),
            Self::Fingerprint(fingerprint) => write!(f, "{fingerprint:016x}"),
        }
    }
}

impl SchemaId {
    /// The name of its object.
    fn name(self) -> String {
        match self {
            Self::Registered(_) => format!("registered-{self}"),
            Self::Fingerprint(_) => format!("fingerprint-{self}"),
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        match name.split_once('-')? {
            ("registered", number) => number.parse().ok().map(Self::Registered),
            ("fingerprint", digits) => u64::from_str_radix(digits, 16).ok().map(Self::Fingerprint),
            _ => None,
        }
    }
}

/// What a schema is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SchemaKind {
    Avro,
    Protobuf,
    Json,
}

/// A schema as it is kept: as it was written, with what it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub kind: SchemaKind,
    pub schema: String,
    /// What it refers to, directly or not; what is referred to comes before what refers to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
}

/// A schema that another one refers to, under this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    pub schema: String,
}

/// A schema, ready to read what was written with it.
#[derive(Debug)]
pub(super) enum Compiled {
    Avro(avro::Decoder),
    Protobuf(protobuf::Decoder),
    Json,
}

impl Schema {
    /// A schema of Avro that refers to no other.
    pub fn avro(schema: impl Into<String>) -> Self {
        Self { kind: SchemaKind::Avro, schema: schema.into(), references: Vec::new() }
    }

    /// The fingerprint of a schema of Avro, or what is wrong with it.
    pub fn fingerprint(&self) -> Result<SchemaId, String> {
        self.check_nesting()?;
        let references: Vec<String> = self.references.iter().map(|reference| reference.schema.clone()).collect();
        let (schema, _) = avro::parse(&self.schema, &references)?;
        Ok(SchemaId::Fingerprint(avro::fingerprint(&schema)))
    }

    fn check_nesting(&self) -> Result<(), String> {
        let mut texts = self.references.iter().map(|reference| &reference.schema).chain([&self.schema]);
        match texts.any(|text| nesting(text) > MOST_NESTING) {
            true => Err(format!("not a schema: it is nested more than {MOST_NESTING} deep")),
            false => Ok(()),
        }
    }

    pub(super) fn compile(&self) -> Result<Compiled, String> {
        self.check_nesting()?;
        match self.kind {
            SchemaKind::Json => Ok(Compiled::Json),
            SchemaKind::Avro => {
                let references: Vec<String> =
                    self.references.iter().map(|reference| reference.schema.clone()).collect();
                avro::parse(&self.schema, &references).map(|(_, decoder)| Compiled::Avro(decoder))
            }
            SchemaKind::Protobuf => {
                let references: Vec<(String, String)> = self
                    .references
                    .iter()
                    .map(|reference| (reference.name.clone(), reference.schema.clone()))
                    .collect();
                protobuf::parse(&self.schema, &references).map(Compiled::Protobuf)
            }
        }
    }
}

/// Parsers of schemas descend as deep as a text is nested; ours is a stack like any other.
const MOST_NESTING: usize = 64;

/// How deep a text is nested, at most.
fn nesting(text: &str) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// The schemas of a stream.
#[derive(Debug, Default)]
pub struct Schemas {
    /// Or why there is none.
    known: RwLock<HashMap<SchemaId, Result<Arc<Compiled>, String>>>,
}

impl Schemas {
    /// Those that are kept beside `table`.
    pub async fn load(table: &Table) -> Result<Self> {
        let mut known = HashMap::new();
        for object in table.store().list(&table.path().schemas_folder(), None).await? {
            let Some(id) = paths::schema_name(&object.location).and_then(SchemaId::of_name) else { continue };
            let Some(bytes) = table.store().read(&object.location).await? else { continue };
            let corrupt = |reason: String| Error::Corrupt { path: object.location.to_string(), reason };
            let schema: Schema = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
            known.insert(id, Ok(Arc::new(schema.compile().map_err(corrupt)?)));
        }
        Ok(Self { known: RwLock::new(known) })
    }

    /// Whether it has been looked for, found or not.
    pub fn knows(&self, id: SchemaId) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    /// Keeps a schema, for good.
    pub async fn keep(&self, table: &Table, id: SchemaId, schema: &Schema) -> Result<()> {
        let compiled = schema.compile();
        if compiled.is_ok() {
            let path = table.path().schema(&id.name());
            let failed =
                |error: serde_json::Error| Error::Corrupt { path: path.to_string(), reason: error.to_string() };
            table.store().write(&path, serde_json::to_vec_pretty(schema).map_err(failed)?.into()).await?;
        }
        self.insert(id, compiled.map(Arc::new));
        Ok(())
    }

    /// Remembers that there is no such schema, and why.
    pub fn refuse(&self, id: SchemaId, reason: String) {
        self.insert(id, Err(reason));
    }

    pub(super) fn insert(&self, id: SchemaId, schema: Result<Arc<Compiled>, String>) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, schema);
    }

    pub(super) fn find(&self, id: SchemaId) -> Option<Result<Arc<Compiled>, String>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}
