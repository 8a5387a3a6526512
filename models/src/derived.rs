//! Derived tables: what each has consumed of its inputs, and commits that say so.
//!
//! One Delta commit holds the rows and, for every input, a `txn` action with the version consumed. It is made at
//! exactly the version after the one that the build read, never rebased: of two builds of one table, one wins and
//! the other ends with a conflict and is run again, finding the work done.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt};
use starmere_lake::catalog::Pin;
use starmere_lake::delta::{
    Add, Commit, EncodedFile, FileOptions, FileWriter, REWRITE, Remove, Snapshot, Table, Txn, Warehouse,
};
use starmere_lake::paths::{self, TablePath};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

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

/// So many files of one magnitude are put together.
const CROWD: usize = 8;
/// Files with so many rows or bytes are left as they are.
const LARGE_FILE: u64 = 1 << 16;
const LARGE_FILE_BYTES: i64 = 4 << 20;
/// Crowds that one commit puts together; others are left to the next one.
const CROWDS: usize = 32;
const CROWDS_SIDE_BY_SIDE: usize = 4;

/// Files that are to be put together: many of one bucket and of one magnitude, so that a row is written anew a few times in
/// all, however many builds there are. Pure.
fn crowds<'a>(files: impl Iterator<Item = &'a Arc<Add>>) -> Vec<Vec<Arc<Add>>> {
    let mut by_magnitude: BTreeMap<(Option<u32>, u32), Vec<Arc<Add>>> = BTreeMap::new();
    for add in files {
        let rows = add.rows().unwrap_or(LARGE_FILE);
        if rows < LARGE_FILE && add.size < LARGE_FILE_BYTES {
            let magnitude = rows.max(1).ilog(CROWD as u64);
            by_magnitude.entry((paths::file_group(&add.path), magnitude)).or_default().push(add.clone());
        }
    }
    let crowds = by_magnitude.into_values().flat_map(|files| {
        let crowds = files.chunks(2 * CROWD).filter(|crowd| crowd.len() >= CROWD).map(<[_]>::to_vec);
        crowds.collect::<Vec<_>>()
    });
    crowds.take(CROWDS).collect()
}

/// The files that came and those that went, without those of which the ones have the same rows as the others in `columns`.
pub(crate) fn differing(
    mut came: Vec<Arc<Add>>,
    mut went: Vec<Arc<Add>>,
    columns: &[&str],
) -> (Vec<Arc<Add>>, Vec<Arc<Add>>) {
    came.retain(|add| {
        let Some(same) = add.same_as(columns, |file| went.iter().any(|add| add.path == file)) else { return true };
        went.retain(|add| add.path != same);
        false
    });
    (came, went)
}

fn application(input: &str) -> String {
    format!("starmere/input/{input}")
}

/// The version of `input` that a table holds at this version of its own.
pub fn consumed(snapshot: &Snapshot, input: &str) -> Option<u64> {
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

    /// Adds to `change` that crowds of small files become one each, whose rows are the same.
    pub(crate) async fn put_together(
        &self,
        change: &mut Change,
        schema: &SchemaRef,
        options: &FileOptions,
    ) -> Result<()> {
        let Some(snapshot) = &self.snapshot else { return Ok(()) };
        let goes = |add: &&Arc<Add>| change.removes.iter().any(|remove| remove.path == add.path);
        let crowds = crowds(snapshot.files().filter(|add| !goes(add)));
        let mut together = futures::stream::iter(crowds)
            .map(|crowd| async move {
                let mut rows = Vec::with_capacity(crowd.len());
                for add in &crowd {
                    rows.push(self.table.read(add, schema).await?);
                }
                let add = self.write(rows, options.clone(), paths::file_group(&crowd[0].path)).await?;
                Ok::<_, Error>((crowd, add))
            })
            .buffered(CROWDS_SIDE_BY_SIDE);
        while let Some((crowd, mut add)) = together.try_next().await? {
            add.iter_mut().for_each(|add| add.data_change = false);
            change.adds.extend(add);
            change.removes.extend(crowd.iter().map(|add| Remove { data_change: false, ..add.remove() }));
        }
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
        let encode = move || {
            let telling = batches.iter().max_by_key(|batch| batch.num_rows());
            let options = telling.map_or_else(|| options.clone(), |batch| options.clone().suited_to(batch));
            EncodedFile::of(&schema, &batches, &options)
        };
        let file = tokio::task::spawn_blocking(encode).await.map_err(|error| Error::Task(error.to_string()))??;
        let file = match group {
            Some(group) => file.in_group(group),
            None => file,
        };
        Ok(Some(self.table.upload(file).await?))
    }
}

/// Rows of a table on their way into files: encoded by a task of their own while more are made. Dropped, it leaves nothing but
/// files that no commit names.
#[derive(Debug)]
pub(crate) struct Writing {
    rows: mpsc::Sender<RecordBatch>,
    files: JoinSet<Result<Vec<Add>>>,
}

impl Writing {
    /// Files of `schema` for `table`, of about `file_rows` rows each.
    pub(crate) fn begin(table: &Table, schema: SchemaRef, options: FileOptions, file_rows: u64) -> Self {
        let (rows, made) = mpsc::channel(1);
        let mut files = JoinSet::new();
        files.spawn(encode(table.clone(), schema, options, file_rows, made));
        Self { rows, files }
    }

    /// Adds rows.
    pub(crate) async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if self.rows.send(rows).await.is_ok() {
            return Ok(());
        }
        match self.files.join_next().await {
            Some(Ok(Err(error))) => Err(error),
            _ => Err(Error::Task("a file is not written any more".to_owned())),
        }
    }

    /// The files, all of them uploaded.
    pub(crate) async fn finish(mut self) -> Result<Vec<Add>> {
        drop(self.rows);
        match self.files.join_next().await {
            Some(done) => done.map_err(|error| Error::Task(error.to_string()))?,
            None => Ok(Vec::new()),
        }
    }
}

async fn encode(
    table: Table,
    schema: SchemaRef,
    options: FileOptions,
    file_rows: u64,
    mut rows: mpsc::Receiver<RecordBatch>,
) -> Result<Vec<Add>> {
    let (mut adds, mut uploading) = (Vec::new(), JoinSet::new());
    let mut open: Option<FileWriter> = None;
    while let Some(batch) = rows.recv().await {
        let (writer, schema, options) = (open.take(), schema.clone(), options.clone());
        let writer = blocking(move || {
            let mut writer = match writer {
                Some(writer) => writer,
                None => FileWriter::new(schema, &options.suited_to(&batch))?,
            };
            writer.write(&batch).map(|()| writer)
        });
        let writer = writer.await?;
        match writer.rows() < file_rows {
            true => open = Some(writer),
            false => {
                let file = blocking(|| writer.finish()).await?;
                adds.extend(uploaded(&mut uploading).await?);
                let table = table.clone();
                uploading.spawn(async move { table.upload(file).await });
            }
        }
    }
    adds.extend(uploaded(&mut uploading).await?);
    if let Some(writer) = open.filter(|writer| writer.rows() > 0) {
        adds.push(table.upload(blocking(|| writer.finish()).await?).await?);
    }
    Ok(adds)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> starmere_lake::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Error::Task(error.to_string()))?;
    Ok(done?)
}

/// The file that is being uploaded, when it is.
async fn uploaded(uploading: &mut JoinSet<starmere_lake::Result<Add>>) -> Result<Option<Add>> {
    let Some(done) = uploading.join_next().await else { return Ok(None) };
    Ok(Some(done.map_err(|error| Error::Task(error.to_string()))??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_are_left_however_many_builds_there_are() {
        let of = |rows: u64, number: usize| {
            let stats = Some(format!(r#"{{"numRecords":{rows}}}"#));
            let path = format!("{number}.parquet");
            let add = serde_json::json!({ "path": path, "partitionValues": {}, "size": 1, "modificationTime": 0,
                "dataChange": true, "stats": stats });
            Arc::new(serde_json::from_value::<Add>(add).unwrap())
        };
        let (mut files, mut written, mut number) = (Vec::new(), 0, 0);
        let builds = 10_000;
        for _ in 0..builds {
            for crowd in crowds(files.iter()) {
                let rows = crowd.iter().filter_map(|add| add.rows()).sum();
                files.retain(|add: &Arc<Add>| crowd.iter().all(|gone| gone.path != add.path));
                number += 1;
                files.push(of(rows, number));
                written += rows;
            }
            number += 1;
            files.push(of(20, number));
        }
        assert_eq!(files.iter().filter_map(|add| add.rows()).sum::<u64>(), builds * 20);
        assert!(files.len() <= 40, "{} files", files.len());
        assert!(written <= builds * 20 * 6, "{written} rows were written anew");
    }
}
