//! What a stream's commits say of each partition: the fold of their marks, in memory and beside the table.
//!
//! The cache (`_starmere/landed/<version>.json`) is the fold up to a version. It is made from the log and may be
//! lost, stale or torn at any time: what follows is read from the log again. It has a record for every file that ever
//! landed, so it is written when the log has grown by a share of it, and the newest two are kept: whoever has listed
//! the one before the newest can still read it. It says which commit it goes up to: in a warehouse that was restored
//! from copies, the log may have been older than the cache, and have other commits under the same versions by now.

use std::collections::HashMap;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SourcePartition, Stream, parts};
use crate::delta::{Committed, Snapshot, Table};
use crate::paths;
use crate::{Error, Result};

/// The cache is renewed when the log has grown by this many commits ...
const LEAST_COMMITS: u64 = 256;
/// ... and by this share of the records that it has.
const SHARE: u64 = 32;
/// Caches that are kept.
const KEPT: usize = 2;
/// Caches may be deleted between being listed and being read.
const ATTEMPTS: usize = 3;

/// A record of the cache.
#[derive(Serialize, Deserialize)]
struct Cached {
    partition: SourcePartition,
    mark: Value,
}

/// The cache.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// The name of the commit that it goes up to. Caches that were written before are the marks alone.
    commit: String,
    marks: Vec<Cached>,
}

/// What tells a commit from any other one under its version.
fn name(commit: &Committed) -> String {
    let info = commit.info();
    let attempt = info.and_then(|info| info.attempt.as_deref()).unwrap_or_default();
    format!("{} {attempt}", info.map_or(0, |info| info.timestamp))
}

/// The newest marks up to a version.
#[derive(Debug, Default)]
pub(super) struct Fold {
    version: u64,
    /// The name of the commit that made it.
    commit: String,
    /// The version of the newest cache that was read or written.
    cached: u64,
    /// In the order in which the partitions began.
    order: Vec<(SourcePartition, Value)>,
    place: HashMap<SourcePartition, usize>,
}

impl Stream {
    /// The newest mark of each partition of `source`, by `snapshot`; the partition that began first comes first.
    ///
    /// # Errors
    ///
    /// The store fails, or a commit is damaged.
    pub async fn marks(&self, snapshot: &Snapshot, source: &str) -> Result<Vec<(SourcePartition, Value)>> {
        let mut known = self.marks.lock().await;
        if known.version <= snapshot.version() && known.version > 0 {
            return known.up_to(self.table(), snapshot.version(), source).await;
        }
        let mut read = Fold::read(self.table(), snapshot.version()).await?;
        let marks = read.up_to(self.table(), snapshot.version(), source).await?;
        if read.version > known.version {
            *known = read;
        }
        Ok(marks)
    }
}

impl Fold {
    fn insert(&mut self, partition: SourcePartition, mark: Value) {
        match self.place.get(&partition) {
            Some(&place) => self.order[place].1 = mark,
            None => {
                self.place.insert(partition.clone(), self.order.len());
                self.order.push((partition, mark));
            }
        }
    }

    /// Goes on to a version, and tells the marks of a source.
    async fn up_to(&mut self, table: &Table, to: u64, source: &str) -> Result<Vec<(SourcePartition, Value)>> {
        let mut history = std::pin::pin!(table.history(self.version, to));
        while let Some(commit) = history.try_next().await? {
            for part in parts(&commit) {
                if let Some(mark) = part.mark {
                    self.insert(part.partition, mark);
                }
            }
            self.version = commit.version;
            self.commit = name(&commit);
        }
        if is_due(to - self.cached, self.order.len() as u64) {
            self.write(table).await;
        }
        Ok(self.order.iter().filter(|(partition, _)| partition.source == source).cloned().collect())
    }

    /// The newest cache up to `version`; an empty fold where there is none.
    async fn read(table: &Table, version: u64) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let mut is_gone = false;
            let numbers = numbers(table).await?;
            for number in numbers.into_iter().rev().filter(|&number| number <= version) {
                let Some(bytes) = table.store().read(&table.path().landed(number)).await? else {
                    // Somebody has written a newer one.
                    is_gone = true;
                    continue;
                };
                let stored = serde_json::from_slice::<Stored>(&bytes);
                let stored = stored
                    .or_else(|_| serde_json::from_slice(&bytes).map(|marks| Stored { commit: String::new(), marks }));
                let Ok(Stored { commit, marks }) = stored else { continue };
                if !commit.is_empty() && commit != name_of(table, number).await? {
                    continue;
                }
                let mut fold = Self { version: number, cached: number, commit, ..Self::default() };
                marks.into_iter().for_each(|cached| fold.insert(cached.partition, cached.mark));
                return Ok(fold);
            }
            if !is_gone {
                break;
            }
        }
        Ok(Self::default())
    }

    /// Writes the cache, and deletes those that are too old. Nothing depends on either.
    async fn write(&mut self, table: &Table) {
        let records: Vec<Cached> = self
            .order
            .iter()
            .map(|(partition, mark)| Cached { partition: partition.clone(), mark: mark.clone() })
            .collect();
        let stored = Stored { commit: self.commit.clone(), marks: records };
        let Ok(bytes) = serde_json::to_vec(&stored) else { return };
        let written = async {
            table.store().write(&table.path().landed(self.version), bytes.into()).await?;
            let mut numbers = numbers(table).await?;
            // Newer ones may be of a log that is lost.
            numbers.retain(|&number| number <= self.version);
            numbers.truncate(numbers.len().saturating_sub(KEPT));
            table.store().delete(numbers.into_iter().map(|number| table.path().landed(number))).await
        };
        match written.await {
            Ok(()) => self.cached = self.version,
            Err(error) => {
                tracing::warn!(table = %table.path(), %error, "the fold of marks was not kept; the next start takes longer");
            }
        }
    }
}

/// The name of the commit that made a version; nothing, where it is not there.
async fn name_of(table: &Table, version: u64) -> Result<String> {
    match table.commits(version.saturating_sub(1), version).await {
        Ok(commits) => Ok(commits.last().map(name).unwrap_or_default()),
        Err(Error::Missing { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The versions of the caches there are, in order.
async fn numbers(table: &Table) -> Result<Vec<u64>> {
    let caches = table.store().list(&table.path().landed_folder(), None).await?;
    Ok(caches.iter().filter_map(|object| paths::number(&object.location)).collect())
}

/// Whether the cache is written, `commits` after it was written last, with so many records. Pure.
fn is_due(commits: u64, records: u64) -> bool {
    records > 0 && commits >= LEAST_COMMITS.max(records / SHARE)
}

#[cfg(test)]
mod tests {
    use super::super::Part;
    use super::*;
    use crate::delta::{Commit, Warehouse};
    use crate::paths::TablePath;
    use crate::store::Store;

    async fn land(stream: &Stream, files: std::ops::Range<u32>) -> std::sync::Arc<Snapshot> {
        let part = |file: u32| Part {
            partition: SourcePartition { source: "f".into(), topic: file.to_string(), incarnation: 0, partition: 0 },
            from: 0,
            to: 1,
            rows: 0,
            digest: 0,
            mark: Some(serde_json::json!({ "file": file })),
        };
        let parts: Vec<Part> = files.map(part).collect();
        let base = stream.open().await.unwrap();
        let facts = serde_json::json!({ "landed": parts });
        stream.table().commit(&base, Commit { facts, operation: "WRITE", ..Commit::default() }).await.unwrap()
    }

    fn stream(store: &Store) -> Stream {
        Stream::new("s", Warehouse::new(store.clone()).table(TablePath::stream("d", "s")))
    }

    #[tokio::test]
    async fn the_cache_is_written_seldom_and_deleted() {
        let store = Store::memory();
        let all = stream(&store);
        let mut snapshot = land(&all, 0..3_200).await;
        let (mut written, mut last) = (0, 0);
        for file in 3_200..3_900 {
            snapshot = land(&all, file..file + 1).await;
            let marks = all.marks(&snapshot, "f").await.unwrap();
            assert_eq!(marks.len() as u32, file + 1);
            let numbers = numbers(all.table()).await.unwrap();
            assert!(numbers.len() <= KEPT, "{numbers:?}");
            let newest = numbers.last().copied().unwrap_or_default();
            written += usize::from(newest > last);
            last = newest;
        }
        assert_eq!(written, 2, "700 commits");
        assert!(all.marks(&snapshot, "other").await.unwrap().is_empty());
        // A process that knows nothing finds the same, with caches, without them, and with a torn one.
        let expected = all.marks(&snapshot, "f").await.unwrap();
        assert_eq!(stream(&store).marks(&snapshot, "f").await.unwrap(), expected);
        store.write(&all.table().path().landed(last), "[{".into()).await.unwrap();
        assert_eq!(stream(&store).marks(&snapshot, "f").await.unwrap(), expected);
        let numbers = numbers(all.table()).await.unwrap();
        store.delete(numbers.into_iter().map(|number| all.table().path().landed(number))).await.unwrap();
        assert_eq!(stream(&store).marks(&snapshot, "f").await.unwrap(), expected);
        // An earlier version has what was said by then.
        let earlier = all.table().snapshot_at(300).await.unwrap();
        assert_eq!(all.marks(&earlier, "f").await.unwrap(), expected[..3_499]);
    }

    /// A copy of a warehouse may have a log that is older than its caches.
    #[tokio::test]
    async fn a_cache_of_commits_that_are_lost_is_not_believed() {
        let store = Store::memory();
        let all = stream(&store);
        for file in 0..LEAST_COMMITS as u32 + 40 {
            let snapshot = land(&all, file..file + 1).await;
            all.marks(&snapshot, "f").await.unwrap();
        }
        assert_eq!(numbers(all.table()).await.unwrap(), [LEAST_COMMITS]);
        let versions = 101..=LEAST_COMMITS + 40;
        store.delete(versions.clone().map(|version| all.table().path().commit(version))).await.unwrap();
        store.delete(versions.map(|version| all.table().path().checkpoint(version))).await.unwrap();
        let restored = stream(&store);
        for file in 1_100..1_300 {
            land(&restored, file..file + 1).await;
        }
        let snapshot = restored.open().await.unwrap();
        assert_eq!(snapshot.version(), 300);
        let marks = stream(&store).marks(&snapshot, "f").await.unwrap();
        let files: Vec<u32> = marks.iter().map(|(partition, _)| partition.topic.parse().unwrap()).collect();
        assert_eq!(files, (0..100).chain(1_100..1_300).collect::<Vec<_>>());
    }

    #[test]
    fn the_more_records_there_are_the_more_seldom_they_are_written() {
        assert!(is_due(LEAST_COMMITS, 1) && !is_due(LEAST_COMMITS - 1, 1) && !is_due(1 << 20, 0));
        assert!(is_due(3_125, 100_000) && !is_due(3_124, 100_000));
    }

    #[tokio::test]
    async fn many_caches_of_before_go_at_once() {
        let store = Store::memory();
        let all = stream(&store);
        for file in 0..LEAST_COMMITS as u32 {
            land(&all, file..file + 1).await;
        }
        for number in 1..40 {
            store.write(&all.table().path().landed(number), "[]".into()).await.unwrap();
        }
        let snapshot = all.open().await.unwrap();
        // The newest of them says nothing of the files up to its version: it is believed.
        let marks = all.marks(&snapshot, "f").await.unwrap();
        assert_eq!(marks.len() as u64, LEAST_COMMITS - 39);
        assert_eq!(numbers(all.table()).await.unwrap().len(), 39, "it is not due yet");
        for file in 100..100 + LEAST_COMMITS as u32 {
            land(&all, file..file + 1).await;
        }
        all.marks(&all.open().await.unwrap(), "f").await.unwrap();
        assert_eq!(numbers(all.table()).await.unwrap(), [39, 2 * LEAST_COMMITS]);
    }
}
