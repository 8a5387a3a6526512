//! Deleting what nobody needs any more.
//!
//! A data file is needed while
//!
//! - a retained catalog snapshot pins a version that has it, or
//! - it was added to a table after the version that another one of a retained snapshot has consumed of it (of a stream only where
//!   its rows were new then: what compactions have made is not read by whoever follows a stream), or
//! - the newest version of its table has it, or
//! - it is young: somebody may be about to commit it, or be reading the version before.
//!
//! Logs of tables that are needed are packed ([`super::logs`]): every commit can still be read. A table of a model that
//! no retained snapshot pins, and to which nothing young belongs, is deleted whole. Snapshots of the catalog older than
//! what is retained are deleted first, so that nobody finds one whose files are gone; the newest always stays.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::TryStreamExt;
use object_store::path::Path;

use super::logs;
use crate::Result;
use crate::catalog::{Catalog, CatalogSnapshot};
use crate::delta::{Action, Warehouse};
use crate::paths::{self, TablePath};

/// What is kept although nobody may need it.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Catalog snapshots published after this, in milliseconds since 1970, and the last one before.
    pub snapshots_since: i64,
    /// Objects made after this, in milliseconds since 1970.
    pub objects_since: i64,
    /// Commits and checkpoints made after this, in milliseconds since 1970.
    pub logs_since: i64,
}

impl Keep {
    /// Objects are young for a week.
    pub const YOUNG: i64 = 7 * 24 * 60 * 60 * 1000;
    /// Who reads a table's newest version, commit by commit, may be so far behind.
    pub const LOGS: i64 = 60 * 60 * 1000;

    /// At `now`, in milliseconds since 1970, with snapshots retained for so many days.
    pub fn at(now: i64, snapshot_days: u32) -> Self {
        let snapshots_since = now - i64::from(snapshot_days) * 24 * 60 * 60 * 1000;
        Self { snapshots_since, objects_since: now - Self::YOUNG, logs_since: now - Self::LOGS }
    }
}

/// What was deleted; or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub snapshots: usize,
    pub files: usize,
    /// Commits that were packed.
    pub packed: usize,
    pub bytes: u64,
    /// Tables that are gone as a whole.
    pub tables: Vec<String>,
}

/// Deletes what nobody needs; with `dry`, only tells.
pub async fn clean_up(warehouse: &Warehouse, keep: &Keep, dry: bool) -> Result<Cleaned> {
    let mut cleaned = Cleaned::default();
    let mut catalogs = vec![Catalog::new(warehouse)];
    for name in Catalog::environments(warehouse).await? {
        catalogs.push(Catalog::of(warehouse, Some(&name)));
    }
    let (mut retained, mut expired): (Vec<CatalogSnapshot>, Vec<Path>) = (Vec::new(), Vec::new());
    for catalog in &catalogs {
        let (kept, old) = snapshots(catalog, keep).await?;
        retained.extend(kept);
        expired.extend(old.into_iter().map(|number| catalog.path(number)));
    }
    cleaned.snapshots = expired.len();
    if !dry {
        warehouse.store().delete(expired).await?;
    }
    let needed = Needed::of(&retained);
    let mut objects: BTreeMap<TablePath, Vec<object_store::ObjectMeta>> = BTreeMap::new();
    for folder in paths::table_folders() {
        for object in warehouse.store().list(&folder, None).await? {
            if let Some(table) = paths::table_of(&object.location) {
                objects.entry(table).or_default().push(object);
            }
        }
    }
    for (path, objects) in objects {
        let is_young = |object: &object_store::ObjectMeta| object.last_modified.timestamp_millis() > keep.objects_since;
        let doomed: Vec<&object_store::ObjectMeta> = if needed.is_dropped(&path) {
            if objects.iter().any(is_young) {
                continue;
            }
            cleaned.tables.push(path.to_string());
            objects.iter().collect()
        } else {
            logs::tidy(warehouse.store(), &path, &objects, keep, dry, &mut cleaned).await?;
            let files = needed.files(warehouse, &path).await?;
            let is_file = |object: &&object_store::ObjectMeta| paths::is_data_file(&path, &object.location);
            let unneeded = |object: &&object_store::ObjectMeta| !files.contains(&object.location);
            objects.iter().filter(|object| !is_young(object)).filter(is_file).filter(unneeded).collect()
        };
        cleaned.files += doomed.len();
        cleaned.bytes += doomed.iter().map(|object| object.size).sum::<u64>();
        if !dry {
            // The log of a table that goes as a whole goes last: until then it is a table without files.
            let (log, files): (Vec<Path>, Vec<Path>) =
                doomed.iter().map(|object| object.location.clone()).partition(|location| path.is_log(location));
            if !log.is_empty() {
                warehouse.forget(&path);
            }
            warehouse.store().delete(files).await?;
            warehouse.store().delete(log).await?;
        }
    }
    Ok(cleaned)
}

/// Forgets an environment: its snapshots go, and with the next clean-up what only they need. How many there were.
pub async fn forget_environment(warehouse: &Warehouse, name: &str) -> Result<usize> {
    let catalog = Catalog::of(warehouse, Some(name));
    let paths: Vec<Path> = catalog.numbers().await?.into_iter().map(|number| catalog.path(number)).collect();
    let count = paths.len();
    warehouse.store().delete(paths).await?;
    Ok(count)
}

/// Snapshots that are retained, and the numbers of those that are not.
async fn snapshots(catalog: &Catalog, keep: &Keep) -> Result<(Vec<CatalogSnapshot>, Vec<u64>)> {
    let mut all = Vec::new();
    let numbers = catalog.numbers().await?;
    for number in &numbers {
        match catalog.at(*number).await {
            Ok(snapshot) => all.push(snapshot),
            // Nobody can read it, and a newer one is published: what it pinned serves nobody.
            Err(Error::DamagedSnapshot { .. }) if numbers.last() != Some(number) => {}
            Err(error) => return Err(error),
        }
    }
    // The one before the first that is young was the newest when the time that is retained began.
    let first = all.iter().position(|snapshot| snapshot.published_at >= keep.snapshots_since).unwrap_or(all.len());
    let retained = all.split_off(first.saturating_sub(1));
    Ok((retained, all.into_iter().map(|snapshot| snapshot.number).collect()))
}

/// What retained snapshots need.
struct Needed {
    /// Versions that are pinned, by table.
    pinned: HashMap<TablePath, BTreeSet<u64>>,
    /// The least version of a table that somebody has consumed: what came later is still to be read.
    consumed: HashMap<TablePath, u64>,
}

impl Needed {
    fn of(snapshots: &[CatalogSnapshot]) -> Self {
        let (mut pinned, mut consumed): (HashMap<TablePath, BTreeSet<u64>>, HashMap<TablePath, u64>) =
            Default::default();
        for snapshot in snapshots {
            for pin in snapshot.tables.values() {
                pinned.entry(pin.path.clone()).or_default().insert(pin.version);
                for (input, &version) in &pin.consumed {
                    let Some(input) = snapshot.tables.get(input) else { continue };
                    let least = consumed.entry(input.path.clone()).or_insert(version);
                    *least = version.min(*least);
                }
            }
        }
        Self { pinned, consumed }
    }

    /// A table that only snapshots have pinned that are gone. Streams are never dropped: nothing can replace them.
    fn is_dropped(&self, path: &TablePath) -> bool {
        !path.is_stream() && !self.pinned.contains_key(path)
    }

    /// The files that are needed of a table.
    async fn files(&self, warehouse: &Warehouse, path: &TablePath) -> Result<HashSet<Path>> {
        let table = warehouse.table(path.clone());
        let mut needed = HashSet::new();
        let Some(newest) = table.snapshot().await? else { return Ok(needed) };
        needed.extend(newest.files().map(|add| path.file(&add.path)));
        let pinned = self.pinned.get(path).into_iter().flatten().copied();
        let pinned: BTreeSet<u64> = pinned.filter(|&version| version < newest.version()).collect();
        let first = pinned.first().copied();
        if let Some(first) = first {
            needed.extend(table.snapshot_at(first).await?.files().map(|add| path.file(&add.path)));
        }
        let consumed = self.consumed.get(path).copied();
        let Some(from) = first.into_iter().chain(consumed).min() else { return Ok(needed) };
        // The log is read once, however many versions are pinned: files that came after the last pin, and are there yet.
        let mut lately: HashSet<String> = HashSet::new();
        let mut history = std::pin::pin!(table.history(from, newest.version()));
        while let Some(commit) = history.try_next().await? {
            if consumed.is_some_and(|consumed| commit.version > consumed) {
                needed.extend(commit.added().map(|add| path.file(&add.path)));
                // Who follows a model's table compares versions of it.
                let all = commit.actions.iter().filter(|_| !path.is_stream());
                needed.extend(all.filter_map(|action| match action {
                    Action::Add(add) => Some(path.file(&add.path)),
                    _ => None,
                }));
            }
            if first.is_none_or(|first| commit.version <= first) {
                continue;
            }
            for action in commit.actions {
                match action {
                    Action::Add(add) => _ = lately.insert(add.path),
                    Action::Remove(remove) => _ = lately.remove(&remove.path),
                    _ => {}
                }
            }
            if pinned.contains(&commit.version) {
                needed.extend(lately.drain().map(|file| path.file(&file)));
            }
        }
        Ok(needed)
    }
}
