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
//!
//! The hashes of all new ids may be more than fits into memory. Then the files are read in several passes, each for a part of
//! the hashes. All copies of an event have one hash, so passes decide nothing in common.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt};
use starmere_lake::delta::{Add, Hashes, Table, hash_rows};

use super::lake::lake_columns;
use super::view::Payloads;
use crate::{Error, Result};

const SHARD_BITS: u32 = 8;
const SHARDS: usize = 1 << SHARD_BITS;
/// What a row takes while copies of events are compared, about: its coordinates and the id.
const COPY_BYTES: usize = 256;
/// What tells an event, and what orders its copies.
const COORDINATES: [&str; 6] = ["event_id", "occurred_at", "source", "topic", "partition", "position"];

/// What a reading may take of memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of events, unpacked, that are given at once, about.
    pub part: u64,
    /// Bytes of the hashes of ids that are compared at once.
    pub hashes: usize,
    /// Files that are read side by side.
    pub side_by_side: usize,
}

impl Limits {
    /// How often the files of so many rows are read, each time for a part of the shards.
    fn passes(&self, rows: u64) -> usize {
        let bytes = rows.saturating_mul(size_of::<(u64, Place)>() as u64);
        let passes = usize::try_from(bytes.div_ceil(self.hashes.max(1) as u64)).unwrap_or(SHARDS);
        passes.clamp(1, SHARDS)
    }

    /// Rows whose coordinates are compared at once.
    fn copies(&self) -> usize {
        (self.hashes / COPY_BYTES).max(1)
    }
}

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

    /// Old files with rows that no longer count.
    pub fn superseded_files(&self) -> usize {
        self.superseded.len()
    }

    /// The rows of an old file that no longer count, which are all that is given.
    pub async fn superseded(&self, file: usize) -> Result<(RecordBatch, BooleanArray)> {
        let (add, rows) = &self.superseded[file];
        // They are few, of files that may be large.
        let places: Vec<usize> = (0..rows.len()).filter(|&row| rows.value(row)).collect();
        let batch = self.table.read_at(add, self.payloads.columns(), &places).await?;
        let all = BooleanArray::from(vec![true; batch.num_rows()]);
        Ok((self.payloads.read(batch, &all, &self.table)?, all))
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

impl Places {
    /// For the hashes of about so many rows that are of every `passes`-th shard, from shard `pass` on.
    fn with_capacity(rows: u64, pass: usize, passes: usize) -> Self {
        // Hashes are spread evenly: a little more than the mean is enough, where a list that grows would double.
        let mean = usize::try_from(rows).unwrap_or_default() / SHARDS;
        let capacity = |shard: usize| if shard % passes == pass { mean + mean / 16 } else { 0 };
        Self { shards: (0..SHARDS).map(|shard| Vec::with_capacity(capacity(shard))).collect() }
    }

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
/// version `to`, within `limits` of memory.
pub async fn changes(
    table: &Table,
    payloads: &Arc<Payloads>,
    from: Option<u64>,
    to: u64,
    limits: Limits,
) -> Result<EventChanges> {
    let new: Vec<Arc<Add>> = match from {
        None => table.snapshot_at(to).await?.files().cloned().collect(),
        Some(from) if from >= to => Vec::new(),
        Some(from) => {
            let commits = table.commits(from, to).await?;
            commits.iter().flat_map(|commit| commit.added().cloned()).map(Arc::new).collect()
        }
    };
    let old: Vec<Arc<Add>> = match from {
        Some(from) if !new.is_empty() => table.snapshot_at(from).await?.files().cloned().collect(),
        _ => Vec::new(),
    };
    let passes = limits.passes(new.iter().filter_map(|add| add.rows()).sum());
    let mut telling =
        Telling { table, limits, new, old, counts: Vec::new(), unpacked: Vec::new(), superseded: BTreeMap::new() };
    for pass in 0..passes {
        telling.pass(pass, passes).await?;
    }
    let Telling { new, counts, unpacked, superseded, .. } = telling;
    let files = new.iter().zip(counts.into_iter().map(BooleanArray::from)).zip(unpacked);
    let parts = files.flat_map(|((add, counts), bytes)| Part::all(add, &counts, bytes, limits.part)).collect();
    let superseded = superseded.into_values().map(|(add, rows)| (add, BooleanArray::from(rows))).collect();
    Ok(EventChanges { table: table.clone(), payloads: payloads.clone(), parts, superseded })
}

/// Tells which rows count.
struct Telling<'a> {
    table: &'a Table,
    limits: Limits,
    new: Vec<Arc<Add>>,
    /// All files of before.
    old: Vec<Arc<Add>>,
    /// Of each new file, which rows count, and how many bytes it takes unpacked: once it was read.
    counts: Vec<Vec<bool>>,
    unpacked: Vec<u64>,
    /// Old rows that no longer count, by the path of their file.
    superseded: BTreeMap<String, (Arc<Add>, Vec<bool>)>,
}

impl Telling<'_> {
    /// Decides among the copies of events whose hash is in every `passes`-th shard, from shard `pass` on.
    async fn pass(&mut self, pass: usize, passes: usize) -> Result<()> {
        let hashes = Arc::new(self.new_hashes(pass, passes).await?);
        // Rows whose hash recurs, among the new ones and in the old ones.
        let mut recurring: Vec<(u64, Place)> = hashes.recurring().flatten().copied().collect();
        let old = match hashes.is_empty() {
            true => Vec::new(),
            false => self.with_some_of(&hashes).await?,
        };
        let mut hit_in_old: Vec<u64> = Vec::new();
        {
            let mut file = self.new.len() as u32;
            let mut read = std::pin::pin!(hashes_of(self.table, &old, self.limits.side_by_side));
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
        }
        hit_in_old.sort_unstable();
        hit_in_old.dedup();
        for hash in hit_in_old {
            // Of several new ones all are there.
            if let [only] = hashes.of(hash) {
                recurring.push(*only);
            }
        }
        drop(hashes);
        recurring.sort_unstable();
        for copies in portions(&recurring, self.limits.copies()) {
            self.resolve(&old, copies.to_vec()).await?;
        }
        Ok(())
    }

    /// The hashes of the rows that take part, and of this pass. The first one notes which rows these are.
    async fn new_hashes(&mut self, pass: usize, passes: usize) -> Result<Places> {
        let rows = self.new.iter().filter_map(|add| add.rows()).sum();
        let mut hashes = Places::with_capacity(rows, pass, passes);
        let mut read = std::pin::pin!(hashes_of(self.table, &self.new, self.limits.side_by_side));
        let mut index = 0;
        while let Some((file, bytes)) = read.try_next().await? {
            if pass == 0 {
                self.unpacked.push(bytes);
                self.counts.push(file.iter().map(Option::is_some).collect());
            }
            for (row, hash) in file.into_iter().enumerate() {
                if let Some(hash) = hash.filter(|&hash| shard(hash) % passes == pass) {
                    hashes.push(hash, Place { file: index, row: row as u32 });
                }
            }
            index += 1;
        }
        hashes.sorted().await
    }

    /// The old files that may have one of these ids.
    async fn with_some_of(&self, hashes: &Arc<Places>) -> Result<Vec<Arc<Add>>> {
        let found = futures::stream::iter(self.old.clone())
            .map(|add| {
                let (table, hashes) = (self.table.clone(), hashes.clone());
                let task = tokio::spawn(async move {
                    let found = table.hashes(&add, &["event_id"]).await?;
                    let may_have = |found: Hashes| hashes.iter().any(|hash| found.may_hold(hash));
                    Ok(found.is_none_or(may_have).then_some(add))
                });
                async move { task.await.map_err(|error| Error::Task(error.to_string()))? }
            })
            .buffered(self.limits.side_by_side);
        found.try_filter_map(|add| async { Ok(add) }).try_collect().await
    }

    /// Decides among copies, all that there are of some hashes: clears the rows of `counts` that do not count and notes the old
    /// rows that are superseded. Places in old files are those in `old`.
    async fn resolve(&mut self, old: &[Arc<Add>], mut recurring: Vec<(u64, Place)>) -> Result<()> {
        recurring.sort_unstable_by_key(|&(_, place)| place);
        let (first_old, schema) = (self.new.len(), lake_columns(&COORDINATES));
        let mut copies: HashMap<String, Vec<(Copy, Place)>> = HashMap::new();
        for of_file in recurring.chunk_by(|a, b| a.1.file == b.1.file) {
            let file = of_file[0].1.file as usize;
            let add = if file < first_old { &self.new[file] } else { &old[file - first_old] };
            let rows: Vec<usize> = of_file.iter().map(|(_, place)| place.row as usize).collect();
            let batch = self.table.read_at(add, &schema, &rows).await?;
            let text = |index: usize| batch.column(index).as_string::<i32>();
            for (row, &(_, place)) in of_file.iter().enumerate() {
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
        let is_old = |place: &Place| place.file as usize >= first_old;
        for mut group in copies.into_values() {
            // Copies at the very same coordinates can only be one row that was rewritten; the place decides.
            group.sort_by(|a, b| match a.0.cmp(&b.0) {
                Ordering::Equal => a.1.cmp(&b.1),
                order => order,
            });
            let winner = group[0].1;
            for (_, place) in &group {
                if !is_old(place) {
                    self.counts[place.file as usize][place.row as usize] = *place == winner;
                }
            }
            if !is_old(&winner)
                && let Some((_, least_old)) = group.iter().find(|(_, place)| is_old(place))
            {
                self.supersede(&old[least_old.file as usize - first_old], least_old.row as usize);
            }
        }
        Ok(())
    }

    /// A row of an old file does not count any more.
    fn supersede(&mut self, add: &Arc<Add>, row: usize) {
        let rows = add.rows().unwrap_or_default() as usize;
        let (_, taken) = self.superseded.entry(add.path.clone()).or_insert_with(|| (add.clone(), vec![false; rows]));
        if let Some(taken) = taken.get_mut(row) {
            *taken = true;
        }
    }
}

/// Rows with their hashes, in order, in portions of `most` rows. Those with one hash are in one portion, which may be larger.
fn portions(rows: &[(u64, Place)], most: usize) -> impl Iterator<Item = &[(u64, Place)]> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let last = left.get(most.max(1) - 1).or(left.last())?.0;
        let (portion, others) = left.split_at(left.partition_point(|&(hash, _)| hash <= last));
        left = others;
        Some(portion)
    })
}

/// For each file, the hash of each row's event id, none for rows that take no part; and its bytes, unpacked.
fn hashes_of<'a>(
    table: &'a Table,
    files: &'a [Arc<Add>],
    side_by_side: usize,
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
        .buffered(side_by_side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_that_do_not_fit_are_compared_in_passes() {
        let limits = |hashes| Limits { part: 1, hashes, side_by_side: 1 };
        let passes = |hashes, rows| limits(hashes).passes(rows);
        assert_eq!([0, 1, 64, 65, 1_000].map(|rows| passes(1 << 10, rows)), [1, 1, 1, 2, 16]);
        assert_eq!((passes(0, 7), passes(0, u64::MAX), passes(usize::MAX, u64::MAX)), (7 * 16, SHARDS, 1));
        assert_eq!((limits(0).copies(), limits(1 << 20).copies()), (1, 1 << 12));
        let hash = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for passes in [1, 2, 3, 255, SHARDS] {
            let mut found = 0;
            for pass in 0..passes {
                let mut places = Places::with_capacity(1_000, pass, passes);
                let of_pass = (0..1_000).map(hash).filter(|&hash| shard(hash) % passes == pass);
                of_pass.for_each(|hash| places.push(hash, Place { file: 0, row: 0 }));
                found += places.iter().count();
            }
            assert_eq!(found, 1_000, "each hash is in one of {passes} passes");
        }
    }

    #[test]
    fn copies_are_compared_in_portions_that_part_no_event() {
        let of = |hashes: &[u64]| -> Vec<(u64, Place)> {
            let place = |(row, &hash): (usize, &u64)| (hash, Place { file: 0, row: row as u32 });
            hashes.iter().enumerate().map(place).collect()
        };
        let lengths = |hashes: &[u64], most| portions(&of(hashes), most).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[], 3), [0_usize; 0]);
        assert_eq!(lengths(&[1, 1, 2, 2, 2, 3], 1), [2, 3, 1]);
        assert_eq!(lengths(&[1, 1, 2, 2, 2, 3], 3), [5, 1]);
        assert_eq!(lengths(&[1, 1, 2, 2, 2, 3], 0), [2, 3, 1]);
        assert_eq!(lengths(&[1, 1, 2, 2, 2, 3], 100), [6]);
    }

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
