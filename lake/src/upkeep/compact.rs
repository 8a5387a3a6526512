//! Small files become large ones; rows stay what and where they are.
//!
//! A commit of a compaction takes files out and puts one in, with `dataChange` false, and carries the `txn` of
//! [`REWRITE`]. It is made at an exact version. Where somebody else was first, the files are looked for again in the
//! newest version: if all of them are still there, the same file takes their place; if not, it is dropped. Files of a reread
//! are left alone while it can be taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;

use crate::delta::{Add, Commit, EncodedFile, FileOptions, FileWriter, REWRITE, Remove, Snapshot, Table, Txn, align};
use crate::store::Backoff;
use crate::{Error, Result, reread};

/// Rows that are in memory at a time, beside the file in the making.
const ROWS: usize = 8192;

/// Files of one magnitude differ in size by less than this factor.
const MAGNITUDE: i64 = 8;

/// How large files are to be, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A file of this size is left alone, and a new one is ended when it has it.
    pub target: i64,
    /// Fewer files than this are only put together when they reach the target: so a row is rewritten a few times,
    /// not with every commit.
    pub fewest: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        // A file is what a build reads at once, unpacked.
        Self { target: 16 << 20, fewest: 8 }
    }
}

/// What a compaction has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files that were taken out, and the files that took their place.
    pub files: usize,
    pub into: usize,
    pub rows: u64,
}

/// The files that are to become one, group by group: of one partition, in the order in which they were made, and of one
/// magnitude. So a row is written anew a few times in all, however often small files come. Of a day that is over, whatever
/// is small becomes one.
pub fn groups<'a>(files: impl Iterator<Item = &'a Arc<Add>>, sizes: &Sizes) -> Vec<Vec<Arc<Add>>> {
    let mut partitions: BTreeMap<_, Vec<&Arc<Add>>> = BTreeMap::new();
    for add in files {
        partitions.entry(&add.partition_values).or_default().push(add);
    }
    let newest = partitions.len().saturating_sub(1);
    let of_partition = |(place, files): (usize, Vec<&'a Arc<Add>>)| {
        let mut by_magnitude: BTreeMap<u32, Vec<Vec<Arc<Add>>>> = BTreeMap::new();
        for add in files.into_iter().filter(|add| add.size < sizes.target / 2) {
            let magnitude = if place == newest { add.size.max(1).ilog(MAGNITUDE) } else { 0 };
            let groups = by_magnitude.entry(magnitude).or_default();
            let is_full = |group: &Vec<Arc<Add>>| bytes_of(group) + add.size > sizes.target;
            match groups.last_mut().filter(|group| !is_full(group)) {
                Some(group) => group.push(add.clone()),
                None => groups.push(vec![add.clone()]),
            }
        }
        let fewest = if place == newest { sizes.fewest } else { 2 };
        let is_worth_it = move |group: &Vec<Arc<Add>>| {
            group.len() >= fewest || (group.len() > 1 && bytes_of(group) >= sizes.target / 2)
        };
        by_magnitude.into_values().flatten().filter(is_worth_it).collect::<Vec<_>>()
    };
    partitions.into_values().enumerate().flat_map(of_partition).collect()
}

fn bytes_of(group: &[Arc<Add>]) -> i64 {
    group.iter().map(|add| add.size).sum()
}

/// Puts small files of `table` together, whose files have the columns `schema`.
pub async fn compact(table: &Table, schema: &SchemaRef, options: &FileOptions, sizes: &Sizes) -> Result<Compacted> {
    let mut compacted = Compacted::default();
    let Some(snapshot) = table.snapshot().await? else { return Ok(compacted) };
    let now = chrono::Utc::now().timestamp_millis();
    for group in groups(snapshot.files().filter(|add| !reread::stays_alone(add, now)), sizes) {
        let rows = group.iter().map(|add| add.rows()).sum::<Option<u64>>();
        let file = rewritten(table, &group, schema, options).await?;
        let written = file.rows;
        if rows.is_some_and(|rows| rows != written) {
            let (path, reason) = (table.path().to_string(), format!("files with {rows:?} rows have {written}"));
            return Err(Error::Corrupt { path, reason });
        }
        if replace(table, &group, file).await? {
            compacted.files += group.len();
            compacted.into += 1;
            compacted.rows += written;
        }
    }
    Ok(compacted)
}

/// The rows of all files of the group, as one file.
async fn rewritten(
    table: &Table,
    group: &[Arc<Add>],
    schema: &SchemaRef,
    options: &FileOptions,
) -> Result<EncodedFile> {
    let mut writer = FileWriter::new(schema.clone(), options)?;
    for add in group {
        let path = table.path().file(&add.path);
        let damaged = |error| Error::parquet(path.to_string())(error);
        let mut rows = table.reader(add).await?.with_batch_size(ROWS).build().map_err(damaged)?;
        while let Some(batch) = rows.try_next().await.map_err(damaged)? {
            let batch = align(&batch, schema).map_err(Error::columns(path.to_string()))?;
            // Encoding is what takes the time.
            writer = tokio::task::spawn_blocking(move || writer.write(&batch).map(|()| writer))
                .await
                .map_err(|error| Error::Invalid { what: "a task of compaction".into(), reason: error.to_string() })??;
        }
    }
    let mut file = writer.finish()?;
    if let Some((column, Some(value))) = group.first().and_then(|add| add.partition_values.iter().next()) {
        file = file.in_partition(column, value.clone());
    }
    Ok(file)
}

/// Puts the file in place of the group's; whether they were still there.
async fn replace(table: &Table, group: &[Arc<Add>], file: EncodedFile) -> Result<bool> {
    let mut add = table.upload(file).await?;
    add.data_change = false;
    let mut backoff = Backoff::default();
    loop {
        let Some(snapshot) = table.snapshot().await? else { return Ok(false) };
        if snapshot.file(&add.path).is_some() {
            // An answer was lost.
            return Ok(true);
        }
        if !group.iter().all(|old| snapshot.file(&old.path).is_some()) {
            return Ok(false);
        }
        match table.commit(&snapshot, commit(&snapshot, group, &add)).await {
            Ok(_) => return Ok(true),
            Err(Error::Conflict { .. }) => {
                if !backoff.pause().await {
                    return Ok(false);
                }
            }
            Err(error) => {
                // Unknown: the table tells, or the next compaction does.
                let newest = table.snapshot().await?;
                return if newest.is_some_and(|newest| newest.file(&add.path).is_some()) {
                    Ok(true)
                } else {
                    Err(error)
                };
            }
        }
    }
}

fn commit(snapshot: &Snapshot, group: &[Arc<Add>], add: &Add) -> Commit {
    let removes = group.iter().map(|old| Remove { data_change: false, ..old.remove() });
    Commit {
        adds: vec![add.clone()],
        removes: removes.collect(),
        txns: vec![Txn::now(REWRITE.to_owned(), snapshot.version() as i64 + 1)],
        operation: "OPTIMIZE",
        facts: serde_json::json!({ "compacted": group.len() }),
    }
}
