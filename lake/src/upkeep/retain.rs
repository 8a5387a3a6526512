//! Retention: a stream forgets what landed before a day.
//!
//! Files of older partitions are taken out in one commit, which says per source partition how many rows they had and
//! with which digest, so that `verify` still reconciles. The `txn` of [`CUT`] says the day. Published tables keep what
//! they have made of the events; what cannot be made again is refused to whoever builds from the beginning. Where a
//! copy of a forgotten event comes again, it is a new event.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use chrono::NaiveDate;
use futures::TryStreamExt;
use object_store::path::Path;

use crate::delta::{Add, Commit, REWRITE, Snapshot, Table, Txn};
use crate::events::INGEST_DATE;
use crate::landing::{Oversized, Tallies, Tally, row_digest};
use crate::store::Backoff;
use crate::{Error, Result};

/// The `txn` application id whose version is the day before which everything is forgotten, in days since 1970.
const CUT: &str = "starmere/cut";
/// Attempts begin for so long while others commit in between.
const PATIENCE: Duration = Duration::from_secs(600);

/// The day before which everything that landed is forgotten, if there is one.
pub fn cut_of(snapshot: &Snapshot) -> Option<NaiveDate> {
    let days = chrono::Duration::try_days(snapshot.txn(CUT)?)?;
    NaiveDate::default().checked_add_signed(days)
}

/// How many rows landed before `day`, as far as the log tells: those that [`retain`] would forget.
pub async fn due(table: &Table, day: NaiveDate) -> Result<u64> {
    let Some(snapshot) = table.snapshot().await? else { return Ok(0) };
    Ok(older(&snapshot, day).iter().filter_map(|add| add.rows()).sum())
}

/// Files of what landed before `day`.
fn older(snapshot: &Snapshot, day: NaiveDate) -> Vec<Arc<Add>> {
    let is_older = |add: &&Arc<Add>| {
        let landed = add.partition_values.get(INGEST_DATE).and_then(Option::as_deref);
        landed.and_then(|landed| landed.parse::<NaiveDate>().ok()).is_some_and(|landed| landed < day)
    };
    snapshot.files().filter(is_older).cloned().collect()
}

/// Forgets what landed before `day`; how many rows.
pub async fn retain(table: &Table, day: NaiveDate) -> Result<u64> {
    let days = day.signed_duration_since(NaiveDate::default()).num_days();
    let mut backoff = Backoff::lasting(PATIENCE);
    // To count takes longer than others take to commit: it is done once, as long as nobody has replaced the files.
    let mut known: Option<(Vec<Arc<Add>>, Counted)> = None;
    loop {
        let Some(snapshot) = table.snapshot().await? else { return Ok(0) };
        let old = older(&snapshot, day);
        if old.is_empty() {
            return Ok(0);
        }
        let is_same = |files: &[Arc<Add>]| files.iter().map(|add| &add.path).eq(old.iter().map(|add| &add.path));
        let counted = match known.take() {
            Some((files, counted)) if is_same(&files) => counted,
            _ => count(table, &old).await?,
        };
        let commit = Commit {
            removes: old.iter().map(|add| add.remove()).collect(),
            txns: vec![Txn::now(REWRITE.to_owned(), snapshot.version() as i64 + 1), Txn::now(CUT.to_owned(), days)],
            operation: "DELETE",
            facts: serde_json::json!({ "forgotten": counted.sums }),
            ..Commit::default()
        };
        match table.commit(&snapshot, commit).await {
            Ok(_) => {
                table.store().delete(counted.oversized).await?;
                return Ok(counted.sums.iter().map(|sum| sum.rows).sum());
            }
            // Somebody else was first: what is old is looked for again.
            Err(error) => {
                if !matches!(error, Error::Conflict { .. }) || !backoff.pause().await {
                    return Err(error);
                }
                known = Some((old, counted));
            }
        }
    }
}

struct Counted {
    sums: Vec<Tally>,
    /// Events that were too long for a row.
    oversized: Vec<Path>,
}

async fn count(table: &Table, files: &[Arc<Add>]) -> Result<Counted> {
    let mut sums = Tallies::default();
    let mut oversized = Vec::new();
    for add in files {
        let path = table.path().file(&add.path);
        let damaged = |error| Error::parquet(path.to_string())(error);
        let mut rows = table.reader(add).await?.build().map_err(damaged)?;
        while let Some(batch) = rows.try_next().await.map_err(damaged)? {
            add_up(&batch, &mut sums, &mut oversized)
                .ok_or_else(|| Error::Corrupt { path: path.to_string(), reason: "it is no file of a stream".into() })?;
        }
    }
    Ok(Counted { sums: sums.into_vec(), oversized })
}

fn add_up(batch: &RecordBatch, sums: &mut Tallies, oversized: &mut Vec<Path>) -> Option<()> {
    let column = |name: &str| batch.column_by_name(name);
    let (source, topic) = (column("source")?.as_string_opt::<i32>()?, column("topic")?.as_string_opt::<i32>()?);
    let partition = column("partition")?.as_primitive_opt::<Int32Type>()?;
    let position = column("position")?.as_primitive_opt::<Int64Type>()?;
    let (payload, key) = (column("payload")?.as_binary_opt::<i32>()?, column("key")?.as_binary_opt::<i32>()?);
    let rejection = column("rejection")?.as_string_opt::<i32>()?;
    for row in 0..batch.num_rows() {
        let key = key.is_valid(row).then(|| key.value(row));
        let digest = row_digest(position.value(row), payload.value(row), key);
        sums.add(source.value(row), topic.value(row), partition.value(row), 1, digest);
        if rejection.is_valid(row)
            && let Some(kept) = Oversized::of(payload.value(row), rejection.value(row))
        {
            oversized.extend(Path::parse(kept.path).ok());
        }
    }
    Some(())
}
