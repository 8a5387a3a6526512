//! What is new in a stream since a version, with each event counted once.
//!
//! Of the rows with one event id, the least in the order of events counts. Over new rows and, where ids recur,
//! old ones:
//!
//! ```text
//! least of the old   least of the new     the new one counts?   the old one
//! none               n                    yes
//! o <= n             n                    no                    stays
//! o  > n             n                    yes                   is superseded: taken back
//! ```
//!
//! A full reading (`from` is none) finds the same winners as any sequence of increments, since "least of all" does
//! not depend on the order of looking. Ids are compared by hash first, and by text where hashes agree. An old file is only
//! read where it says that it may have one of the new ids (see [`Hashes`]).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt};
use starmere_lake::delta::{Add, Hashes, Table, hash_rows};

use super::lake::lake_columns;
use super::view::Payloads;
use crate::{Error, Result};

/// Files read side by side.
const SIDE_BY_SIDE: usize = 4;
const SHARD_BITS: u32 = 8;

/// What is new in a stream.
#[derive(Debug)]
pub struct EventChanges {
    table: Table,
    payloads: Arc<Payloads>,
    /// New files, in parts that may be read at once.
    parts: Vec<Part>,
    /// Old rows that no longer count: file, and which rows.
    superseded: Vec<(Arc<Add>, BooleanArray)>,
}

/// A new file, or some of its rows.
#[derive(Debug)]
struct Part {
    add: Arc<Add>,
    /// Its first row in the file, and how many rows the file has.
    first: usize,
    of: usize,
    /// Which of its rows count.
    counts: BooleanArray,
}

impl Part {
    /// The parts of a file that takes so many bytes unpacked, of which `at_once` may be read at once.
    fn all(add: &Arc<Add>, counts: &BooleanArray, unpacked: u64, at_once: u64) -> Vec<Self> {
        let of = counts.len();
        let pieces = usize::try_from(unpacked.div_ceil(at_once.max(1))).unwrap_or(of).max(1);
        let rows = of.div_ceil(pieces).max(1);
        let part =
            |first: usize| Self { add: add.clone(), first, of, counts: counts.slice(first, rows.min(of - first)) };
        (0..of.max(1)).step_by(rows).map(part).collect()
    }
}

impl EventChanges {
    /// Parts to read.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Nothing is new.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Rows that count.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.counts.true_count()).sum()
    }

    /// The rows of a part, and which of them count.
    pub async fn read(&self, part: usize) -> Result<(RecordBatch, BooleanArray)> {
        let Part { add, first, of, counts } = &self.parts[part];
        if counts.len() == *of {
            return Ok((self.rows_of(add, counts).await?, counts.clone()));
        }
        let range = *first..first + counts.len();
        let batch = self.table.read_range(add, self.payloads.columns(), range).await?;
        Ok((self.payloads.read(batch, counts, &self.table)?, counts.clone()))
    }

    /// The rows that no longer count, file by file.
    pub async fn taken_back(&self) -> Result<Vec<(RecordBatch, BooleanArray)>> {
        let mut taken = Vec::with_capacity(self.superseded.len());
        for (add, rows) in &self.superseded {
            // They are few, of files that may be large.
            let places: Vec<usize> = (0..rows.len()).filter(|&row| rows.value(row)).collect();
            let batch = self.table.read_at(add, self.payloads.columns(), &places).await?;
            let all = BooleanArray::from(vec![true; batch.num_rows()]);
            taken.push((self.payloads.read(batch, &all, &self.table)?, all));
        }
        Ok(taken)
    }

    async fn rows_of(&self, add: &Add, wanted: &BooleanArray) -> Result<RecordBatch> {
        let batch = self.table.read(add, self.payloads.columns()).await?;
        self.payloads.read(batch, wanted, &self.table)
    }
}

/// A row of the lake: file and row in it. New files come before old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: u32,
    row: u32,
}

/// Hashes of ids and where they are, by their first bits: each of these shards is sorted by itself.
struct Places {
    shards: Vec<Vec<(u64, Place)>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { shards: vec![Vec::new(); 1 << SHARD_BITS] }
    }
}

impl Places {
    fn push(&mut self, hash: u64, place: Place) {
        self.shards[shard(hash)].push((hash, place));
    }

    /// In order: every [`Self::of`] needs that.
    async fn sorted(self) -> Result<Self> {
        let mut shards = self.shards;
        let others = shards.split_off(shards.len() / 2);
        let sort = |mut shards: Vec<Vec<(u64, Place)>>| {
            tokio::task::spawn_blocking(move || {
                shards.iter_mut().for_each(|shard| shard.sort_unstable());
                shards
            })
        };
        let (first, second) = (sort(shards), sort(others));
        let failed = |error: tokio::task::JoinError| Error::Task(error.to_string());
        let mut shards = first.await.map_err(failed)?;
        shards.extend(second.await.map_err(failed)?);
        Ok(Self { shards })
    }

    fn is_empty(&self) -> bool {
        self.shards.iter().all(Vec::is_empty)
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.shards.iter().flatten().map(|&(hash, _)| hash)
    }

    /// The rows with this hash.
    fn of(&self, hash: u64) -> &[(u64, Place)] {
        let shard = &self.shards[shard(hash)];
        let start = shard.partition_point(|&(other, _)| other < hash);
        let count = shard[start..].iter().take_while(|&&(other, _)| other == hash).count();
        &shard[start..start + count]
    }

    /// Rows with one hash, where there are several.
    fn recurring(&self) -> impl Iterator<Item = &[(u64, Place)]> {
        let same = |a: &(u64, Place), b: &(u64, Place)| a.0 == b.0;
        self.shards.iter().flat_map(move |shard| shard.chunk_by(same)).filter(|run| run.len() > 1)
    }
}

fn shard(hash: u64) -> usize {
    (hash >> (u64::BITS - SHARD_BITS)) as usize
}

/// What orders copies of an event, and its id. The stream is the same for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    occurred_at: i64,
    source: String,
    topic: String,
    partition: i32,
    position: i64,
}

/// What is new in the stream stored in `table` after version `from` (from the beginning where it is none), up to
/// version `to`. They are given in parts of about `at_once` bytes, unpacked, or whole files.
pub async fn changes(
    table: &Table,
    payloads: &Arc<Payloads>,
    from: Option<u64>,
    to: u64,
    at_once: u64,
) -> Result<EventChanges> {
    let new: Vec<Arc<Add>> = match from {
        None => table.snapshot_at(to).await?.files().cloned().collect(),
        Some(from) if from >= to => Vec::new(),
        Some(from) => {
            let commits = table.commits(from, to).await?;
            commits.iter().flat_map(|commit| commit.added().cloned()).map(Arc::new).collect()
        }
    };
    let (mut counts, mut unpacked) = (Vec::<Vec<bool>>::with_capacity(new.len()), Vec::with_capacity(new.len()));
    // Of rows that take part.
    let mut hashes = Places::default();
    {
        let mut read = std::pin::pin!(hashes_of(table, &new));
        while let Some((file, bytes)) = read.try_next().await? {
            unpacked.push(bytes);
            let index = counts.len() as u32;
            let mut takes_part = vec![false; file.len()];
            for (row, hash) in file.into_iter().enumerate() {
                if let Some(hash) = hash {
                    takes_part[row] = true;
                    hashes.push(hash, Place { file: index, row: row as u32 });
                }
            }
            counts.push(takes_part);
        }
    }
    let hashes = Arc::new(hashes.sorted().await?);

    // Rows whose hash recurs, among the new ones and in the old ones.
    let mut recurring: Vec<(u64, Place)> = hashes.recurring().flatten().copied().collect();
    let old: Vec<Arc<Add>> = match from {
        Some(from) if !hashes.is_empty() => {
            let files = table.snapshot_at(from).await?.files().cloned().collect();
            with_some_of(table, files, &hashes).await?
        }
        _ => Vec::new(),
    };
    let first_old = new.len() as u32;
    let mut read = std::pin::pin!(hashes_of(table, &old));
    let mut file = first_old;
    let mut hit_in_old: Vec<u64> = Vec::new();
    while let Some((old_hashes, _)) = read.try_next().await? {
        for (row, hash) in old_hashes.into_iter().enumerate() {
            let Some(hash) = hash else { continue };
            if !hashes.of(hash).is_empty() {
                recurring.push((hash, Place { file, row: row as u32 }));
                hit_in_old.push(hash);
            }
        }
        file += 1;
    }
    hit_in_old.sort_unstable();
    hit_in_old.dedup();
    for hash in hit_in_old {
        // Of several new ones all are there.
        if let [only] = hashes.of(hash) {
            recurring.push(*only);
        }
    }
    let superseded = resolve(table, &new, &old, recurring, &mut counts).await?;
    let files = new.iter().zip(counts.into_iter().map(BooleanArray::from)).zip(unpacked);
    let parts = files.flat_map(|((add, counts), bytes)| Part::all(add, &counts, bytes, at_once)).collect();
    Ok(EventChanges { table: table.clone(), payloads: payloads.clone(), parts, superseded })
}

/// Those of the files that may have one of these ids.
async fn with_some_of(table: &Table, files: Vec<Arc<Add>>, hashes: &Arc<Places>) -> Result<Vec<Arc<Add>>> {
    let found = futures::stream::iter(files)
        .map(|add| {
            let (table, hashes) = (table.clone(), hashes.clone());
            let task = tokio::spawn(async move {
                let found = table.hashes(&add, &["event_id"]).await?;
                let may_have = |found: Hashes| hashes.iter().any(|hash| found.may_hold(hash));
                Ok(found.is_none_or(may_have).then_some(add))
            });
            async move { task.await.map_err(|error| Error::Task(error.to_string()))? }
        })
        .buffered(SIDE_BY_SIDE);
    found.try_filter_map(|add| async { Ok(add) }).try_collect().await
}

/// For each file, the hash of each row's event id, none for rows that take no part; and its bytes, unpacked.
fn hashes_of<'a>(
    table: &'a Table,
    files: &'a [Arc<Add>],
) -> impl futures::Stream<Item = Result<(Vec<Option<u64>>, u64)>> + 'a {
    let schema = lake_columns(&["event_id", "rejection"]);
    futures::stream::iter(files)
        .map(move |add| {
            let (table, add, schema) = (table.clone(), add.clone(), schema.clone());
            async move {
                let task = tokio::spawn(async move {
                    let (batch, unpacked) = table.read_and_weigh(&add, &schema).await?;
                    let (ids, rejections) = (&batch.columns()[..1], batch.column(1));
                    let hashes = hash_rows(ids).ok_or_else(|| Error::Task("event ids are texts".to_owned()))?;
                    let hash_of = |(row, hash)| rejections.is_null(row).then_some(hash);
                    Ok((hashes.into_iter().enumerate().map(hash_of).collect(), unpacked))
                });
                task.await.map_err(|error| Error::Task(error.to_string()))?
            }
        })
        .buffered(SIDE_BY_SIDE)
}

/// Decides among copies; clears the rows of `counts` that do not count and returns the old rows superseded.
async fn resolve(
    table: &Table,
    new: &[Arc<Add>],
    old: &[Arc<Add>],
    mut recurring: Vec<(u64, Place)>,
    counts: &mut [Vec<bool>],
) -> Result<Vec<(Arc<Add>, BooleanArray)>> {
    recurring.sort_unstable_by_key(|&(_, place)| place);
    let schema = lake_columns(&["event_id", "occurred_at", "source", "topic", "partition", "position"]);
    let mut copies: HashMap<String, Vec<(Copy, Place)>> = HashMap::new();
    for of_file in recurring.chunk_by(|a, b| a.1.file == b.1.file) {
        let file = of_file[0].1.file as usize;
        let add = if file < new.len() { &new[file] } else { &old[file - new.len()] };
        let batch = table.read(add, &schema).await?;
        let text = |index: usize| batch.column(index).as_string::<i32>();
        for &(_, place) in of_file {
            let row = place.row as usize;
            let copy = Copy {
                occurred_at: batch.column(1).as_primitive::<TimestampMicrosecondType>().value(row),
                source: text(2).value(row).to_owned(),
                topic: text(3).value(row).to_owned(),
                partition: batch.column(4).as_primitive::<Int32Type>().value(row),
                position: batch.column(5).as_primitive::<Int64Type>().value(row),
            };
            copies.entry(text(0).value(row).to_owned()).or_default().push((copy, place));
        }
    }
    let is_old = |place: &Place| place.file as usize >= new.len();
    let mut superseded: Vec<Place> = Vec::new();
    for mut group in copies.into_values() {
        // Copies at the very same coordinates can only be one row that was rewritten; the place decides.
        group.sort_by(|a, b| match a.0.cmp(&b.0) {
            Ordering::Equal => a.1.cmp(&b.1),
            order => order,
        });
        let winner = group[0].1;
        for (_, place) in &group {
            if !is_old(place) {
                counts[place.file as usize][place.row as usize] = *place == winner;
            }
        }
        if !is_old(&winner)
            && let Some((_, least_old)) = group.iter().find(|(_, place)| is_old(place))
        {
            superseded.push(*least_old);
        }
    }
    superseded.sort_unstable();
    let mut result = Vec::new();
    for of_file in superseded.chunk_by(|a, b| a.file == b.file) {
        let add = &old[of_file[0].file as usize - new.len()];
        let rows = add.rows().unwrap_or_default() as usize;
        let mut taken = vec![false; rows];
        for place in of_file {
            if let Some(taken) = taken.get_mut(place.row as usize) {
                *taken = true;
            }
        }
        result.push((add.clone(), BooleanArray::from(taken)));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_read_in_parts() {
        let add = serde_json::json!({ "path": "a", "partitionValues": {}, "size": 1, "modificationTime": 0, "dataChange": true });
        let add = Arc::new(serde_json::from_value::<Add>(add).unwrap());
        for rows in [0, 1, 2, 7, 1_000] {
            let counts: BooleanArray = (0..rows).map(|row| Some(row % 3 > 0)).collect();
            for (unpacked, at_once, most) in [(0, 10, 1), (10, 10, 1), (11, 10, 2), (95, 10, 10), (100, 0, 100)] {
                let parts = Part::all(&add, &counts, unpacked, at_once);
                assert!((1..=most).contains(&parts.len()), "{rows} rows of {unpacked} bytes: {} parts", parts.len());
                let mut next = 0;
                for Part { first, of, counts: of_part, .. } in &parts {
                    assert_eq!((*first, *of), (next, rows), "parts follow each other");
                    assert_eq!(*of_part, counts.slice(next, of_part.len()));
                    next += of_part.len();
                }
                assert_eq!(next, rows, "all rows are in a part");
            }
        }
    }
}
