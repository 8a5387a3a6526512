//! The actions of a commit, as they stand in the log.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::Statistics;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One line of a commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    Protocol(Protocol),
    MetaData(Metadata),
    Add(Add),
    Remove(Remove),
    Txn(Txn),
    CommitInfo(CommitInfo),
}

/// Which readers and writers may touch the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
}

impl Protocol {
    /// What we write: no feature that a reader must know.
    pub const OURS: Self = Self { min_reader_version: 1, min_writer_version: 2 };
}

/// Schema and layout.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub format: Format,
    pub schema_string: String,
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

/// How files are encoded; always Parquet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl Metadata {
    /// Metadata of a new table.
    pub fn new(schema: &SchemaRef, partitioned_by: &[&str]) -> Result<Self> {
        Ok(Self {
            id: uuid::Uuid::new_v4().to_string(),
            name: None,
            description: None,
            format: Format { provider: "parquet".into(), options: BTreeMap::new() },
            schema_string: super::schema::to_delta(schema)?,
            partition_columns: partitioned_by.iter().map(|&column| column.to_owned()).collect(),
            configuration: BTreeMap::new(),
            created_time: Some(chrono::Utc::now().timestamp_millis()),
        })
    }

    pub(crate) fn with(mut self, settings: &[(&str, String)]) -> Self {
        self.configuration.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self
    }
}

/// The tag of a file that was made of others by writing some columns anew: [`Like`], the last first, as JSON.
const LIKE: &str = "starmere.like";
/// So many of them are remembered.
const MOST_LIKE: usize = 4;

/// A file that another one was made of, and the columns that differ.
#[derive(Serialize, Deserialize)]
struct Like {
    file: String,
    replaced: Vec<String>,
}

/// A file that belongs to the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Relative to the table's root, URL-encoded.
    pub path: String,
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
    /// In bytes.
    pub size: i64,
    /// Milliseconds since 1970.
    pub modification_time: i64,
    /// Whether the file's rows are new, as against rewritten.
    pub data_change: bool,
    /// Statistics as JSON text, see [`super::statistics`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    /// The statistics as DataFusion wants them; filled at first use.
    #[serde(skip)]
    pub(crate) parsed: OnceLock<Arc<Statistics>>,
    /// The number of rows; the text is asked once, however many builds ask for it.
    #[serde(skip)]
    pub(super) counted: OnceLock<Option<u64>>,
}

impl Add {
    /// The number of rows, where the statistics tell.
    pub fn rows(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Rows {
            #[serde(rename = "numRecords")]
            rows: u64,
        }
        let count = || serde_json::from_str::<Rows>(self.stats.as_deref()?).ok().map(|stats| stats.rows);
        *self.counted.get_or_init(count)
    }

    /// The number of nulls in a column, where the statistics tell.
    pub fn nulls(&self, column: &str) -> Option<u64> {
        #[derive(Deserialize)]
        struct Nulls {
            #[serde(rename = "nullCount")]
            counts: BTreeMap<String, serde_json::Value>,
        }
        serde_json::from_str::<Nulls>(self.stats.as_deref()?).ok()?.counts.get(column)?.as_u64()
    }

    /// Says that the file has the rows of `other`, in their order, with other values in the columns `replaced`.
    pub(super) fn made_like(&mut self, other: &Self, replaced: Vec<String>) {
        let mut like = vec![Like { file: other.path.clone(), replaced: replaced.clone() }];
        for before in other.like().into_iter().take(MOST_LIKE - 1) {
            let more = replaced.iter().filter(|name| !before.replaced.contains(name)).cloned().collect::<Vec<_>>();
            like.push(Like { replaced: before.replaced.into_iter().chain(more).collect(), ..before });
        }
        let text = serde_json::to_string(&like).ok();
        self.tags.get_or_insert_default().insert(LIKE.to_owned(), text);
    }

    fn like(&self) -> Vec<Like> {
        let text = self.tags.as_ref().and_then(|tags| tags.get(LIKE)?.as_deref());
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The file, of those that are asked for, that this one was made of and whose rows it has, in their order, where all
    /// `columns` have the values that they have there.
    pub fn same_as(&self, columns: &[&str], is_asked_for: impl Fn(&str) -> bool) -> Option<String> {
        let is_same = |like: &Like| columns.iter().all(|column| like.replaced.iter().all(|name| name != column));
        let mut like = self.like().into_iter().filter(is_same);
        like.find(|like| is_asked_for(&like.file)).map(|like| like.file)
    }

    /// The action that takes the file out of the table again.
    pub fn remove(&self) -> Remove {
        Remove {
            path: self.path.clone(),
            deletion_timestamp: Some(chrono::Utc::now().timestamp_millis()),
            data_change: true,
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
        }
    }
}

/// A file that no longer belongs to the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    pub path: String,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
}

/// How far an application has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    pub app_id: String,
    pub version: i64,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

impl Txn {
    /// A position that is reached now.
    pub fn now(app_id: String, version: i64) -> Self {
        Self { app_id, version, last_updated: Some(chrono::Utc::now().timestamp_millis()) }
    }
}

/// Where a commit came from, for people and for `verify`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitInfo {
    /// Milliseconds since 1970.
    #[serde(default)]
    pub timestamp: i64,
    #[serde(default)]
    pub operation: String,
    #[serde(default)]
    pub operation_parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_info: Option<String>,
    /// Tells two attempts at one version apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// How many actions the commit has, this one included: a text that was cut between two lines is no commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action_count: Option<usize>,
    /// The XXH3 of the lines that follow this one, in hexadecimal digits: statistics in them answer queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What Starmere notes about the commit.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub starmere: serde_json::Value,
}

impl CommitInfo {
    pub(crate) fn new(operation: &str, facts: serde_json::Value) -> Self {
        Self {
            timestamp: chrono::Utc::now().timestamp_millis(),
            operation: operation.to_owned(),
            operation_parameters: BTreeMap::new(),
            engine_info: Some(concat!("starmere/", env!("CARGO_PKG_VERSION")).to_owned()),
            attempt: Some(uuid::Uuid::new_v4().simple().to_string()),
            action_count: None,
            digest: None,
            starmere: facts,
        }
    }
}

/// The text of a commit.
pub(crate) fn encode(actions: &mut [Action]) -> Result<Bytes> {
    let count = actions.len();
    let mut rest = Vec::with_capacity(count * 256);
    for action in actions.iter().skip(1) {
        append(&mut rest, action)?;
    }
    let mut text = Vec::with_capacity(rest.len() + 1024);
    if let Some(first) = actions.first_mut() {
        if let Action::CommitInfo(info) = first {
            (info.action_count, info.digest) = (Some(count), Some(digest(&rest)));
        }
        append(&mut text, first)?;
    }
    text.extend_from_slice(&rest);
    Ok(text.into())
}

fn append(text: &mut Vec<u8>, action: &Action) -> Result<()> {
    serde_json::to_writer(&mut *text, action)
        .map_err(|error| Error::Invalid { what: "a Delta action".into(), reason: error.to_string() })?;
    text.push(b'\n');
    Ok(())
}

fn digest(lines: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(lines))
}

/// The actions of a commit's text. Actions that no reader needs to know are skipped.
pub(crate) fn decode(path: &str, text: &[u8]) -> Result<Vec<Action>> {
    const KNOWN: [&str; 6] = ["protocol", "metaData", "add", "remove", "txn", "commitInfo"];
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
    let mut actions = Vec::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let place = |error: serde_json::Error| corrupt(format!("line {}: {error}", number + 1));
        match serde_json::from_slice::<Action>(line) {
            Ok(action) => actions.push(action),
            Err(error) => {
                let unknown = serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(line).map_err(place)?;
                if unknown.keys().any(|name| KNOWN.contains(&name.as_str())) {
                    return Err(place(error));
                }
            }
        }
    }
    let expected = actions.iter().find_map(|action| match action {
        Action::CommitInfo(info) => info.action_count,
        _ => None,
    });
    let written = match actions.first() {
        Some(Action::CommitInfo(info)) => info.digest.as_deref(),
        _ => None,
    };
    let rest = text.iter().position(|byte| *byte == b'\n').map_or(&[][..], |end| &text[end + 1..]);
    match expected {
        _ if actions.is_empty() => Err(corrupt("it is empty".into())),
        Some(expected) if expected != actions.len() => {
            Err(corrupt(format!("it has {} of its {expected} actions", actions.len())))
        }
        _ if written.is_some_and(|written| written != digest(rest)) => {
            Err(corrupt("its actions are not those that were written".into()))
        }
        _ => Ok(actions),
    }
}
