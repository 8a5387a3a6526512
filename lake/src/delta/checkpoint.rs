//! Checkpoints: the fold of the log up to a version, as one Parquet file.
//!
//! Rows are made from and turned into the same JSON shapes as the log's lines, by Arrow's JSON codec, so the
//! format is described once, by [`columns`]. A crash between checkpoint and hint leaves the old hint, which is
//! as right as the new one: both only say where reading may begin. Some engines read nothing before the hinted one and
//! nothing behind a commit that is missing. So a writer that comes late does not lead them back, and clean-up announces
//! the newest checkpoint again before it takes commits out of the log.
//!
//! Eight letters and the XXH3 of all other bytes stand before a checkpoint's footer, where other readers pass them by:
//! positions and statistics in it are as good as data.
//!
//! Files that were taken out of the table are not in it. Delta keeps them for a week, so that `VACUUM` can tell when a
//! file went; ours goes by what snapshots pin and by the age of objects, and the list would grow with every compaction.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::actions::{Action, Protocol, Txn};
use super::seal::footer_start;
use super::{Snapshot, actions};
use crate::damage::damaged;
use crate::paths::TablePath;
use crate::store::Store;
use crate::{Error, Result};

/// Stands before the digest of a checkpoint.
const DIGEST: &[u8; 8] = b"starmere";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hint {
    version: u64,
    size: u64,
}

/// The version of the newest checkpoint that a writer has announced.
pub(super) async fn hint(store: &Store, table: &TablePath) -> Result<Option<u64>> {
    let bytes = store.read(&table.last_checkpoint()).await?;
    // A torn or foreign hint only costs time.
    Ok(bytes.and_then(|bytes| serde_json::from_slice::<Hint>(&bytes).ok()).map(|hint| hint.version))
}

/// Writes the checkpoint of `snapshot`, then announces it.
pub(super) async fn write(store: &Store, snapshot: &Snapshot) -> Result<()> {
    let object = snapshot.path().checkpoint(snapshot.version()).to_string();
    let mut actions = vec![Action::Protocol(Protocol::OURS), Action::MetaData((*snapshot.metadata).clone())];
    actions.extend(snapshot.txns().map(|(application, version)| {
        Action::Txn(Txn { app_id: application.to_owned(), version, last_updated: None })
    }));
    actions.extend(snapshot.files().map(|add| {
        let mut add = (**add).clone();
        add.data_change = false;
        Action::Add(add)
    }));
    let size = actions.len() as u64;
    let bytes = encode(&actions).map_err(Error::columns(object))?;
    store.write(&snapshot.path().checkpoint(snapshot.version()), sealed(bytes).into()).await?;
    // This writer may have slept since its commit.
    match hint(store, snapshot.path()).await? {
        Some(newer) if newer > snapshot.version() => Ok(()),
        _ => announce(store, snapshot.path(), Hint { version: snapshot.version(), size }).await,
    }
}

async fn announce(store: &Store, table: &TablePath, hint: Hint) -> Result<()> {
    let path = table.last_checkpoint();
    let hint = serde_json::to_vec(&hint)
        .map_err(|error| Error::Invalid { what: path.to_string(), reason: error.to_string() })?;
    store.write(&path, hint.into()).await
}

/// Announces the checkpoint of `newest`, where what is announced is older than that of `least`, or nothing is: other
/// engines read on from there, commit by commit.
pub(crate) async fn announce_again(store: &Store, table: &TablePath, least: u64, newest: u64) -> Result<()> {
    if hint(store, table).await?.is_some_and(|announced| announced >= least) {
        return Ok(());
    }
    let size = read(store, table, newest).await?.len() as u64;
    announce(store, table, Hint { version: newest, size }).await
}

/// The checkpoint with its digest.
fn sealed(mut checkpoint: Vec<u8>) -> Vec<u8> {
    if let Some(start) = footer_start(&checkpoint) {
        let digest = xxh3_64(&checkpoint);
        let footer = checkpoint.split_off(start);
        checkpoint.extend_from_slice(DIGEST);
        checkpoint.extend_from_slice(&digest.to_le_bytes());
        checkpoint.extend_from_slice(&footer);
    }
    checkpoint
}

/// Whether the bytes are those that were written; those without a digest are of before, or of another engine.
fn is_as_written(checkpoint: &[u8]) -> bool {
    let Some((before, footer)) = footer_start(checkpoint).map(|start| checkpoint.split_at(start)) else { return true };
    let Some((before, written)) = before.split_last_chunk::<8>() else { return true };
    let Some(body) = before.strip_suffix(DIGEST.as_slice()) else { return true };
    let mut digest = Xxh3::new();
    digest.update(body);
    digest.update(footer);
    digest.digest() == u64::from_le_bytes(*written)
}

/// The actions in the checkpoint of `version`.
pub(super) async fn read(store: &Store, table: &TablePath, version: u64) -> Result<Vec<Action>> {
    let path = table.checkpoint(version);
    let bytes = store.read(&path).await?.ok_or_else(|| Error::Missing { object: path.to_string() })?;
    let corrupt = |reason: String| {
        let way_out = "delete it: the table is read by its commits then, and by the checkpoint before";
        damaged(&path, format!("{reason}; {way_out}"))
    };
    if !is_as_written(&bytes) {
        return Err(corrupt("it is not the checkpoint that was written".to_owned()));
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.build())
        .map_err(|error| corrupt(error.to_string()))?;
    let mut text = Vec::new();
    {
        let mut lines = arrow::json::LineDelimitedWriter::new(&mut text);
        for batch in reader {
            let batch = batch.map_err(|error| corrupt(error.to_string()))?;
            lines.write(&batch).map_err(|error| corrupt(error.to_string()))?;
        }
        lines.finish().map_err(|error| corrupt(error.to_string()))?;
    }
    actions::decode(path.as_ref(), &text)
}

fn encode(actions: &[Action]) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let schema = columns();
    let mut decoder = arrow::json::ReaderBuilder::new(schema.clone()).build_decoder()?;
    decoder.serialize(actions)?;
    let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone()));
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None)?;
    writer.write(&batch)?;
    while let Some(batch) = decoder.flush()? {
        writer.write(&batch)?;
    }
    Ok(writer.into_inner()?)
}

/// The columns of a checkpoint.
fn columns() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let long = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
    let map = |name: &str| {
        let entry = Fields::from(vec![text("key", false), text("value", true)]);
        Field::new(name, DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false), true)
    };
    let row = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(fields.into()), true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let list = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
    let version = |name: &str| Field::new(name, DataType::Int32, true);
    Arc::new(Schema::new(vec![
        row("txn", vec![text("appId", true), long("version", true), long("lastUpdated", true)]),
        row(
            "add",
            vec![
                text("path", true),
                map("partitionValues"),
                long("size", true),
                long("modificationTime", true),
                flag("dataChange"),
                text("stats", true),
                map("tags"),
            ],
        ),
        // Always empty; other engines look for the column.
        row(
            "remove",
            vec![
                text("path", true),
                long("deletionTimestamp", true),
                flag("dataChange"),
                flag("extendedFileMetadata"),
                map("partitionValues"),
                long("size", true),
            ],
        ),
        row(
            "metaData",
            vec![
                text("id", true),
                text("name", true),
                text("description", true),
                row("format", vec![text("provider", true), map("options")]),
                text("schemaString", true),
                Field::new("partitionColumns", list, true),
                map("configuration"),
                long("createdTime", true),
            ],
        ),
        row("protocol", vec![version("minReaderVersion"), version("minWriterVersion")]),
    ]))
}
