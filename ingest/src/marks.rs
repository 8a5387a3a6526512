//! What a stream's commits say of each partition: the fold of their marks, with a cache beside the table.
//!
//! The cache (`_starmere/landed/<version>.json`) is the fold up to a version. It is made from the log and may be
//! lost, stale or torn at any time: what follows is read from the log again.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use starmere_lake::delta::{Snapshot, Table};
use starmere_lake::landing::{self, SourcePartition, Stream};
use starmere_lake::paths;

use crate::Result;

/// The cache is renewed when reading the log took more commits than this.
const CACHE_EVERY: u64 = 20;

#[derive(Serialize, Deserialize)]
struct Cached {
    partition: SourcePartition,
    mark: Value,
}

/// The newest mark of each partition of `source`, by `snapshot`; the partition that began first comes first.
pub(crate) async fn marks(stream: &Stream, snapshot: &Snapshot, source: &str) -> Result<Vec<(SourcePartition, Value)>> {
    let (mut folded, cached) = read_cache(stream.table(), snapshot.version()).await?;
    for commit in stream.table().commits(cached, snapshot.version()).await? {
        for part in landing::parts(&commit) {
            if let Some(mark) = part.mark {
                folded.insert(part.partition, mark);
            }
        }
    }
    if snapshot.version() - cached > CACHE_EVERY {
        write_cache(stream.table(), snapshot.version(), &folded).await;
    }
    Ok(folded.order.into_iter().filter(|(partition, _)| partition.source == source).collect())
}

async fn read_cache(table: &Table, version: u64) -> Result<(Fold, u64)> {
    let caches = table.store().list(&table.path().landed_folder(), None).await?;
    let numbers = caches.iter().rev().filter_map(|object| paths::number(&object.location));
    for number in numbers.filter(|&number| number <= version) {
        let bytes = table.store().read(&table.path().landed(number)).await?;
        if let Some(cached) = bytes.and_then(|bytes| serde_json::from_slice::<Vec<Cached>>(&bytes).ok()) {
            let mut fold = Fold::default();
            cached.into_iter().for_each(|cached| fold.insert(cached.partition, cached.mark));
            return Ok((fold, number));
        }
    }
    Ok((Fold::default(), 0))
}

async fn write_cache(table: &Table, version: u64, fold: &Fold) {
    let cached: Vec<Cached> = fold
        .order
        .iter()
        .map(|(partition, mark)| Cached { partition: partition.clone(), mark: mark.clone() })
        .collect();
    let Ok(bytes) = serde_json::to_vec(&cached) else { return };
    if let Err(error) = table.store().write(&table.path().landed(version), bytes.into()).await {
        tracing::warn!(table = %table.path(), %error, "the fold of marks was not kept; the next start takes longer");
    }
}

/// Marks by partition, in the order in which the partitions began.
#[derive(Default)]
struct Fold {
    order: Vec<(SourcePartition, Value)>,
    place: HashMap<SourcePartition, usize>,
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
}
