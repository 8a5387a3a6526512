//! Derived tables: what each has consumed of its inputs, and commits that say so.
//!
//! One Delta commit holds the rows and, for every input, a `txn` action with the version consumed. It is made at
//! exactly the version after the one that the build read, never rebased: of two builds of one table, one wins and
//! the other ends with a conflict and is run again, finding the work done.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use starmere_lake::catalog::Pin;
use starmere_lake::delta::{Add, Commit, EncodedFile, FileOptions, REWRITE, Remove, Snapshot, Table, Txn, Warehouse};
use starmere_lake::paths::TablePath;

use crate::{Error, Result};

/// A derived table at the version that a build goes on from.
#[derive(Clone, Debug)]
pub(crate) struct Derived {
    pub(crate) table: Table,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
}

/// What a build wants to change.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) adds: Vec<Add>,
    pub(crate) removes: Vec<Remove>,
    pub(crate) facts: serde_json::Value,
}

/// The setting of a table that says by which definition its rows were made, as JSON.
pub const DEFINITION: &str = "starmere.definition";
/// Files of buckets with fewer rows are written again with whatever is new in their bucket; the others are left alone as far
/// as they can be.
const SMALL_FILE: u64 = 1 << 15;
/// The setting of a table that says another number: tests have small tables.
const SMALL_FILE_SETTING: &str = "starmere.small_file";

/// So few rows make a small file of this table.
pub(crate) fn small_file(snapshot: &Snapshot) -> u64 {
    snapshot.setting(SMALL_FILE_SETTING).and_then(|rows| rows.parse().ok()).unwrap_or(SMALL_FILE)
}

fn application(input: &str) -> String {
    format!("starmere/input/{input}")
}

/// The version of `input` that a table holds at this version of its own.
pub(crate) fn consumed(snapshot: &Snapshot, input: &str) -> Option<u64> {
    u64::try_from(snapshot.txn(&application(input))?).ok()
}

impl Derived {
    pub(crate) async fn open(warehouse: &Warehouse, path: TablePath) -> Result<Self> {
        let table = warehouse.table(path);
        let snapshot = table.snapshot().await?;
        Ok(Self { table, snapshot })
    }

    /// The version of `input` that the table holds.
    pub(crate) fn consumed(&self, input: &str) -> Option<u64> {
        consumed(self.snapshot.as_ref()?, input)
    }

    /// Whether nothing of `inputs` is new. A table that is ahead of them belongs to a build that began later: this
    /// one ends with a conflict, and going back is out of the question.
    pub(crate) fn is_current(&self, inputs: &BTreeMap<String, u64>) -> Result<bool> {
        let Some(snapshot) = &self.snapshot else { return Ok(false) };
        if inputs.iter().any(|(input, version)| self.consumed(input).is_some_and(|consumed| consumed > *version)) {
            return Err(self.conflict(snapshot.version()));
        }
        Ok(inputs.iter().all(|(input, version)| self.consumed(input) == Some(*version)))
    }

    /// Makes the table where it does not exist. `settings` are kept with it for good. What follows was computed for an
    /// empty table, so one that another build has filled in the meantime is a conflict.
    pub(crate) async fn create(&mut self, schema: &SchemaRef, settings: &[(&str, String)]) -> Result<Arc<Snapshot>> {
        if let Some(snapshot) = &self.snapshot {
            return Ok(snapshot.clone());
        }
        let snapshot = self.table.open_or_create_with(schema, &[], settings).await?;
        if snapshot.version() > 0 {
            return Err(self.conflict(snapshot.version()));
        }
        self.snapshot = Some(snapshot.clone());
        Ok(snapshot)
    }

    fn conflict(&self, version: u64) -> Error {
        starmere_lake::Error::Conflict { table: self.table.path().to_string(), version }.into()
    }

    /// Commits `change` together with the versions of the inputs that it has consumed.
    pub(crate) async fn commit(&mut self, change: Change, inputs: &BTreeMap<String, u64>) -> Result<()> {
        let snapshot =
            self.snapshot.clone().ok_or_else(|| Error::Task("a table is made before it is committed to".into()))?;
        let mut txns: Vec<Txn> =
            inputs.iter().map(|(input, version)| Txn::now(application(input), *version as i64)).collect();
        if !change.removes.is_empty() {
            txns.push(Txn::now(REWRITE.into(), snapshot.version() as i64 + 1));
        }
        let commit =
            Commit { adds: change.adds, removes: change.removes, txns, operation: "BUILD", facts: change.facts };
        self.snapshot = Some(self.table.commit(&snapshot, commit).await?);
        Ok(())
    }

    /// How a catalog snapshot pins the table.
    pub(crate) fn pin(&self, inputs: &BTreeMap<String, u64>) -> Result<Pin> {
        let snapshot =
            self.snapshot.as_ref().ok_or_else(|| Error::Task("a table is built before it is pinned".into()))?;
        Ok(Pin { path: self.table.path().clone(), version: snapshot.version(), consumed: inputs.clone() })
    }

    /// Encodes and uploads one file.
    pub(crate) async fn write(
        &self,
        batches: Vec<RecordBatch>,
        options: FileOptions,
        group: Option<u32>,
    ) -> Result<Option<Add>> {
        let Some(schema) = batches.first().map(RecordBatch::schema) else { return Ok(None) };
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(None);
        }
        let encode = move || EncodedFile::of(&schema, &batches, &options);
        let file = tokio::task::spawn_blocking(encode).await.map_err(|error| Error::Task(error.to_string()))??;
        let file = match group {
            Some(group) => file.in_group(group),
            None => file,
        };
        Ok(Some(self.table.upload(file).await?))
    }
}
