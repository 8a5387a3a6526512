//! The change log of a dimension on its way into its table: split into buckets, with as many rows in memory as a build may
//! take.
//!
//! ```text
//! new rows ─► memory ─┬─ a share of the build's is full ─► a file a bucket, several times ─┐
//!                     └─ no more events ─────────────────► a file a bucket ────────────────┴─► one file a bucket
//! ```
//!
//! All files are named by one commit, so a build that dies leaves files that no commit names. The fold sorts the rows of a
//! bucket, so it makes no difference when and into how many files they were written.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use futures::{StreamExt, TryStreamExt};
use starmere_lake::delta::{Add, FileOptions, Snapshot};
use starmere_lake::paths;

use super::Dimension;
use crate::build::Builder;
use crate::derived::{Change, Derived};
use crate::{Error, Result};

/// Files that are written side by side.
const FILES_SIDE_BY_SIDE: usize = 2;
/// Changes of a bucket that are folded at once.
const BUCKET_CHANGES: usize = 400_000;
const MAX_BUCKET_BITS: u32 = 12;
/// The part of a build's memory that rows may take which are in no file yet.
const SHARE: u64 = 4;
/// The setting of both tables that says by how many bits they are split.
pub(super) const SETTING: &str = "starmere.buckets";

/// The bucket of a member: the first bits of its durable key, which is a hash of 62 bits.
fn bucket(durable: i64, bits: u32) -> u32 {
    if bits == 0 { 0 } else { (durable >> (62 - bits)) as u32 }
}

/// How many bits the tables of a dimension are split by: settled when its change log was made.
pub(super) fn bucket_bits(changes: &Snapshot) -> u32 {
    changes.setting(SETTING).and_then(|bits| bits.parse().ok()).unwrap_or(0).min(MAX_BUCKET_BITS)
}

/// Takes the new rows of a change log and writes them.
pub(super) struct ChangeLog<'a> {
    builder: &'a Builder,
    dimension: &'a Arc<Dimension>,
    table: Derived,
    /// Rows that are in no file yet, and the bytes that they take.
    rows: Vec<RecordBatch>,
    bytes: usize,
    adds: Vec<Add>,
    /// All rows that came.
    count: usize,
    /// Events that were read, and all events that will be.
    read: usize,
    events: usize,
}

impl<'a> ChangeLog<'a> {
    /// Writes into `table`, which is made when its number of buckets is known, the rows of so many `events`.
    pub(super) fn new(builder: &'a Builder, dimension: &'a Arc<Dimension>, table: Derived, events: usize) -> Self {
        let (rows, adds) = (Vec::new(), Vec::new());
        Self { builder, dimension, table, rows, bytes: 0, adds, count: 0, read: 0, events }
    }

    /// All rows that came.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Adds rows, which come from so many `events`; writes what there is where it has become too much.
    pub(super) async fn add(&mut self, rows: Vec<RecordBatch>, events: usize) -> Result<()> {
        self.read += events;
        for batch in rows.into_iter().filter(|batch| batch.num_rows() > 0) {
            self.count += batch.num_rows();
            self.bytes += batch.get_array_memory_size();
            self.rows.push(batch);
        }
        if self.bytes > self.builder.share(SHARE) {
            let expected = expected(self.count, self.read, self.events);
            self.flush(expected).await?;
        }
        Ok(())
    }

    /// Writes what is left and adds all files to `change`, for a commit to the table that it returns.
    pub(super) async fn finish(mut self, change: &mut Change) -> Result<Derived> {
        let count = self.count;
        self.flush(count).await?;
        // Readers that want a few members of a bucket unpack its log, so it is packed for speed.
        let (schema, options) = (self.dimension.changes_schema(), FileOptions::default());
        self.table.put_together(change, &schema, &options).await?;
        change.adds.extend(self.merged(&schema).await?);
        Ok(self.table)
    }

    /// Writes the rows in memory into a file for each bucket. The first time, the table is made, for as many rows as are
    /// `expected`.
    async fn flush(&mut self, expected: usize) -> Result<()> {
        let bits = expected.div_ceil(self.builder.scaled(BUCKET_CHANGES)).next_power_of_two().ilog2();
        let bits = bits.min(MAX_BUCKET_BITS).to_string();
        let snapshot = self.table.create(&self.dimension.changes_schema(), &[(SETTING, bits)]).await?;
        let bits = bucket_bits(&snapshot);
        let (of, rows) = (self.dimension.clone(), std::mem::take(&mut self.rows));
        self.bytes = 0;
        let split = tokio::task::spawn_blocking(move || by_bucket(&of, rows, bits)).await;
        let split = split.map_err(|error| Error::Task(error.to_string()))??;
        let table = &self.table;
        let mut written = futures::stream::iter(split)
            .map(|(group, rows)| table.write(rows, FileOptions::default(), Some(group)))
            .buffered(self.builder.scaled(FILES_SIDE_BY_SIDE));
        let mut adds = Vec::new();
        while let Some(add) = written.try_next().await? {
            adds.extend(add);
        }
        drop(written);
        self.adds.extend(adds);
        Ok(())
    }

    /// The files of all rows: of each bucket as many as its rows would have with more memory.
    async fn merged(&mut self, schema: &SchemaRef) -> Result<Vec<Add>> {
        let mut by_bucket: BTreeMap<Option<u32>, Vec<Add>> = BTreeMap::new();
        for add in std::mem::take(&mut self.adds) {
            by_bucket.entry(paths::file_group(&add.path)).or_default().push(add);
        }
        // A bucket is folded at once; twice of what is usual, since its rows were guessed.
        let most = 2 * self.builder.scaled(BUCKET_CHANGES) as u64;
        let mut crowds: Vec<(Option<u32>, Vec<Add>)> = Vec::new();
        for (group, adds) in by_bucket {
            crowds.extend(together(adds, most).into_iter().map(|crowd| (group, crowd)));
        }
        let table = &self.table;
        let mut merging = futures::stream::iter(crowds)
            .map(|(group, crowd)| one_file(table, schema, group, crowd))
            .buffered(self.builder.scaled(FILES_SIDE_BY_SIDE));
        let mut merged = Vec::new();
        while let Some(adds) = merging.try_next().await? {
            merged.extend(adds);
        }
        Ok(merged)
    }
}

/// How many rows there will be of all `events`, where the first `read` of them gave `count`. Pure.
fn expected(count: usize, read: usize, events: usize) -> usize {
    let all = count as u128 * events.max(read) as u128 / read.max(1) as u128;
    usize::try_from(all).unwrap_or(usize::MAX).max(count)
}

/// Files of one bucket that become one: as many, one after the other, as have `most` rows. Pure.
fn together(adds: Vec<Add>, most: u64) -> Vec<Vec<Add>> {
    let mut crowds: Vec<Vec<Add>> = Vec::new();
    let mut rows: u64 = 0;
    for add in adds {
        let of_file = add.rows().unwrap_or(most);
        match crowds.last_mut() {
            Some(crowd) if rows.saturating_add(of_file) <= most => {
                rows += of_file;
                crowd.push(add);
            }
            _ => {
                rows = of_file;
                crowds.push(vec![add]);
            }
        }
    }
    crowds
}

/// Writes the rows of files, which no commit names, as one file in their place.
async fn one_file(table: &Derived, schema: &SchemaRef, group: Option<u32>, crowd: Vec<Add>) -> Result<Vec<Add>> {
    if crowd.len() < 2 {
        return Ok(crowd);
    }
    let mut rows = Vec::with_capacity(crowd.len());
    for add in &crowd {
        rows.push(table.table.read(add, schema).await?);
    }
    let one = table.write(rows, FileOptions::default(), group).await?;
    let gone: Vec<_> = crowd.iter().map(|add| table.table.path().file(&add.path)).collect();
    if let Err(error) = table.table.store().delete(gone).await {
        let table = table.table.path();
        tracing::warn!(%table, %error, "files that were merged could not be deleted; a clean-up deletes them later");
    }
    Ok(one.into_iter().collect())
}

/// The rows of each bucket. Each batch is let go when it is split, so that few rows are there twice.
fn by_bucket(dimension: &Dimension, batches: Vec<RecordBatch>, bits: u32) -> Result<BTreeMap<u32, Vec<RecordBatch>>> {
    let failed = || Error::columns(format!("changes of {}", dimension.name));
    let mut buckets: BTreeMap<u32, Vec<RecordBatch>> = BTreeMap::new();
    for batch in batches {
        let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, &durable) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
            rows.entry(bucket(durable, bits)).or_default().push(row as u32);
        }
        for (group, rows) in rows {
            let taken = take_record_batch(&batch, &UInt32Array::from(rows)).map_err(failed())?;
            buckets.entry(group).or_default().push(taken);
        }
    }
    Ok(buckets)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use arrow::array::{ArrayRef, Int32Array, Int64Array, new_null_array};
    use starmere_lake::delta::Warehouse;
    use starmere_lake::store::Store;

    use super::*;
    use crate::define::parse_text;
    use crate::dimension::CHANGES;
    use crate::resolve::{Definitions, Model, Models, resolve};

    const CUSTOMERS: &str = "
stream: customers
domain: sales
envelope: { id: id, type: type, time: at }
events:
  customer_moved:
    versions:
      1:
        fields:
          customer_id: { path: customer, type: string, required: true }
          city: { type: string }
";
    const CUSTOMER: &str = "
dimension: customer
key: customer_id
from:
  - { stream: customers, event: customer_moved, as: state }
attributes:
  city: { type: string, history: version }
";

    fn models() -> Models {
        let streams = vec![parse_text(CUSTOMERS, "customers").unwrap()];
        let dimensions = vec![("sales".to_owned(), parse_text(CUSTOMER, "customer").unwrap())];
        resolve(&Definitions { streams, dimensions, ..Definitions::default() }).unwrap()
    }

    /// Changes of these members, which are in buckets far from each other.
    fn changes(schema: &SchemaRef, members: Range<i64>) -> RecordBatch {
        let rows = (members.end - members.start) as usize;
        let columns = schema.fields().iter().map(|field| -> ArrayRef {
            match field.name().as_str() {
                "durable_key" => Arc::new(members.clone().map(|member| member << 52).collect::<Int64Array>()),
                "action" => Arc::new(Int32Array::from(vec![0; rows])),
                "number" => Arc::new(Int64Array::from(vec![0; rows])),
                _ => new_null_array(field.data_type(), rows),
            }
        });
        RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
    }

    /// What the files of a log hold that is written within so much memory: by bucket, which members.
    async fn written(memory: u64) -> BTreeMap<Option<u32>, Vec<i64>> {
        let models = models();
        let Some(Model::Dimension(dimension)) = models.models.first() else { panic!("the dimension is a model") };
        let warehouse = Warehouse::new(Store::memory());
        let builder = Builder::new(&warehouse, &models, false).await.unwrap().within(memory);
        let mut table = builder.derived(&dimension.name, &dimension.fingerprint, CHANGES).await.unwrap();
        let schema = dimension.changes_schema();
        // As a table of many members has them.
        table.create(&schema, &[(SETTING, "2".to_owned())]).await.unwrap();
        let mut log = ChangeLog::new(&builder, dimension, table, 1_000);
        for first in (0..1_000).step_by(100) {
            log.add(vec![changes(&schema, first..first + 100)], 100).await.unwrap();
            let in_memory: usize = log.rows.iter().map(RecordBatch::num_rows).sum();
            let expected = if memory < 1 << 20 { 0 } else { first as usize + 100 };
            assert_eq!(in_memory, expected, "rows that are in no file, with {memory} bytes");
        }
        assert_eq!(log.count(), 1_000);
        let mut change = Change::default();
        let table = log.finish(&mut change).await.unwrap();
        let mut found: BTreeMap<Option<u32>, Vec<i64>> = BTreeMap::new();
        for add in &change.adds {
            let rows = table.table.read(add, &schema).await.unwrap();
            let mut keys = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
            keys.sort_unstable();
            let other = found.insert(paths::file_group(&add.path), keys);
            assert!(other.is_none(), "a bucket has one file");
        }
        let objects = warehouse.store().list(&table.table.path().root(), None).await.unwrap();
        let files = objects.iter().filter(|object| object.location.to_string().ends_with(".parquet"));
        assert_eq!(files.count(), change.adds.len(), "no files are left that no commit names");
        found
    }

    #[test]
    fn rows_beyond_the_memory_are_written_and_end_up_in_the_same_files() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [little, much] = [1 << 10, 1 << 30].map(|memory| runtime.block_on(written(memory)));
        assert_eq!(little, much);
        assert_eq!((little.len(), little.values().map(Vec::len).sum::<usize>()), (4, 1_000));
    }

    #[test]
    fn rows_are_expected_as_they_came_so_far() {
        assert_eq!(expected(10, 100, 1_000), 100);
        assert_eq!(expected(10, 1_000, 1_000), 10);
        assert_eq!(expected(2_000, 1_000, 1_000), 2_000, "an event may say something of several members");
        assert_eq!(expected(7, 0, 0), 7, "mentions come without events");
        assert_eq!(expected(usize::MAX, 1, usize::MAX), usize::MAX);
    }

    #[test]
    fn files_of_a_bucket_are_merged_up_to_what_is_folded_at_once() {
        let add = |rows: u64| {
            let stats = format!(r#"{{"numRecords":{rows}}}"#);
            let add = serde_json::json!({ "path": "bucket-0-a.parquet", "partitionValues": {}, "size": 1,
                "modificationTime": 0, "dataChange": true, "stats": stats });
            serde_json::from_value::<Add>(add).unwrap()
        };
        let crowds = |rows: &[u64]| -> Vec<usize> {
            together(rows.iter().copied().map(add).collect(), 100).iter().map(Vec::len).collect()
        };
        assert_eq!(crowds(&[]), [0_usize; 0]);
        assert_eq!(crowds(&[10, 20, 70, 1, 99, 1]), [3, 2, 1]);
        assert_eq!(crowds(&[500, 500, 1]), [1, 1, 1], "large files are left alone");
    }
}
