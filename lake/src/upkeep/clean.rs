//! Deleting what nobody needs any more.
//!
//! A data file is needed while
//!
//! - a retained catalog snapshot pins a version that has it, or
//! - it was added to a table after the version that another one of a retained snapshot has consumed of it (of a stream only where
//!   its rows were new then: what compactions have made is not read by whoever follows a stream), or
//! - the newest version of its table has it, or
//! - it is young: somebody may be about to commit it, or
//! - it went out of its table lately: somebody may be reading the version before, or
//! - the last reread of its stream took it out, within a week: the reread may be taken back.
//!
//! Of a table that has lost a part of its log, all files are kept: they are what a log that is restored speaks of.
//!
//! How old an object is, the store says. So the store is asked what time it is as well: by a clock that is wrong by a
//! week, what was written a moment ago would go.
//!
//! Logs of tables that are needed are packed ([`super::logs`]): every commit can still be read. A table of a model that
//! no retained snapshot pins, and to which nothing young belongs, is deleted whole. Snapshots of the catalog older than
//! what is retained are deleted first, so that nobody finds one whose files are gone; the newest always stays.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;

use super::logs;
use crate::catalog::{Catalog, CatalogSnapshot};
use crate::delta::{Action, Warehouse};
use crate::paths::{self, TablePath};
use crate::store::Store;
use crate::{Error, Result, reread};

/// Snapshots of the catalog that are read side by side.
const SIDE_BY_SIDE: usize = 16;
/// Versions of a table that are so close are one run.
const RUN: u64 = 1000;

/// What is kept although nobody may need it.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Catalog snapshots published after this, in milliseconds since 1970, and the last one before.
    pub snapshots_since: i64,
    /// Objects made after this, in milliseconds since 1970.
    pub objects_since: i64,
    /// Files that went out of their tables after this, in milliseconds since 1970.
    pub removed_since: i64,
    /// Commits and checkpoints made after this, in milliseconds since 1970.
    pub logs_since: i64,
}

impl Keep {
    /// Objects are young for a week.
    pub const YOUNG: i64 = 7 * 24 * 60 * 60 * 1000;
    /// Who reads a table's newest version, commit by commit, may be so far behind.
    pub const LOGS: i64 = 60 * 60 * 1000;

    /// Nobody reads one version of a table for longer; retained snapshots pin theirs.
    const READING: i64 = 24 * 60 * 60 * 1000;

    /// At `now`, in milliseconds since 1970, with snapshots retained for so many days.
    pub fn at(now: i64, snapshot_days: u32) -> Self {
        // Whoever publishes the next one has read the newest a while ago.
        let snapshots_since = now - (i64::from(snapshot_days) * 24 * 60 * 60 * 1000).max(Self::LOGS);
        Self {
            snapshots_since,
            objects_since: now - Self::YOUNG,
            removed_since: now - Self::READING,
            logs_since: now - Self::LOGS,
        }
    }

    /// The same, and all data files: to know which of them nobody needs takes reading what happened since the oldest
    /// retained snapshot.
    #[must_use]
    pub fn with_all_files(self) -> Self {
        Self { objects_since: i64::MIN, ..self }
    }

    /// What is kept now, by the clock of the store.
    ///
    /// # Errors
    ///
    /// The store does not say what time it is.
    pub async fn now(store: &Store, snapshot_days: u32) -> Result<Self> {
        Ok(Self::at(store.time().await?, snapshot_days))
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
    let (mut needed, mut expired) = (Needed::default(), Vec::new());
    for catalog in &catalogs {
        let old = needed.add_retained(catalog, keep).await?;
        expired.extend(old.into_iter().map(|number| catalog.path(number)));
    }
    cleaned.snapshots = expired.len();
    if !dry {
        warehouse.store().delete(expired).await?;
    }
    let mut objects: BTreeMap<TablePath, Vec<ObjectMeta>> = BTreeMap::new();
    for folder in paths::table_folders() {
        for object in warehouse.store().list(&folder, None).await? {
            if let Some(table) = paths::table_of(&object.location) {
                objects.entry(table).or_default().push(object);
            }
        }
    }
    for (path, objects) in objects {
        let is_young = |object: &ObjectMeta| object.last_modified.timestamp_millis() > keep.objects_since;
        let doomed: Vec<&ObjectMeta> = if needed.is_dropped(&path) {
            if objects.iter().any(is_young) {
                continue;
            }
            cleaned.tables.push(path.to_string());
            objects.iter().collect()
        } else {
            logs::tidy(warehouse.store(), &path, &objects, keep, dry, &mut cleaned).await?;
            let is_file = |object: &&ObjectMeta| paths::is_data_file(&path, &object.location);
            let old: Vec<&ObjectMeta> = objects.iter().filter(|object| !is_young(object)).filter(is_file).collect();
            if old.is_empty() {
                continue;
            }
            let files = needed.files(warehouse, &path, &objects, keep).await?;
            old.into_iter().filter(|object| !files.contains(&object.location)).collect()
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
    warehouse.store().delete(paths.into_iter().chain([catalog.hint_path()])).await?;
    Ok(count)
}

/// What retained snapshots need.
#[derive(Default)]
struct Needed {
    /// Versions that are pinned, by table: the first and the last of each run. `up` publishes every few seconds, so there
    /// may be a million snapshots; what lies between two pins of a run counts as pinned.
    pinned: HashMap<TablePath, Vec<(u64, u64)>>,
    /// The least version of a table that somebody has consumed: what came later is still to be read.
    consumed: HashMap<TablePath, u64>,
}

impl Needed {
    /// Adds what the retained snapshots of a catalog need; the numbers of those that are not retained.
    async fn add_retained(&mut self, catalog: &Catalog, keep: &Keep) -> Result<Vec<u64>> {
        let numbers = catalog.numbers().await?;
        let newest = numbers.last().copied();
        let read = |number: u64| async move {
            match catalog.at(number).await {
                // Nobody can read it, and a newer one is published: what it pinned serves nobody.
                Err(Error::DamagedSnapshot { .. }) if newest != Some(number) => Ok(None),
                // Another clean-up has deleted it meanwhile.
                Err(Error::Missing { .. }) if newest != Some(number) => Ok(None),
                read => read.map(Some),
            }
        };
        let mut snapshots = futures::stream::iter(numbers).map(read).buffered(SIDE_BY_SIDE);
        // The last one before the first that is young was the newest when the time that is retained began.
        let (mut expired, mut last, mut is_young) = (Vec::new(), None, false);
        while let Some(snapshot) = snapshots.try_next().await? {
            let Some(snapshot) = snapshot else { continue };
            is_young |= snapshot.published_at >= keep.snapshots_since;
            let before: Option<CatalogSnapshot> = last.replace(snapshot);
            match before {
                Some(before) if is_young => self.add(&before),
                Some(before) => expired.push(before.number),
                None => {}
            }
        }
        last.iter().for_each(|newest| self.add(newest));
        Ok(expired)
    }

    fn add(&mut self, snapshot: &CatalogSnapshot) {
        for pin in snapshot.tables.values() {
            let runs = self.pinned.entry(pin.path.clone()).or_default();
            match runs.last_mut().filter(|(first, last)| (*first..=last.saturating_add(RUN)).contains(&pin.version)) {
                Some((_, last)) => *last = pin.version.max(*last),
                None => runs.push((pin.version, pin.version)),
            }
            for (input, &version) in &pin.consumed {
                let Some(input) = snapshot.tables.get(input) else { continue };
                let least = self.consumed.entry(input.path.clone()).or_insert(version);
                *least = version.min(*least);
            }
        }
    }

    /// A table that only snapshots have pinned that are gone. Streams are never dropped: nothing can replace them.
    fn is_dropped(&self, path: &TablePath) -> bool {
        !path.is_stream() && !self.pinned.contains_key(path)
    }

    /// The files that are needed of a table which has these objects.
    async fn files(
        &self,
        warehouse: &Warehouse,
        path: &TablePath,
        objects: &[ObjectMeta],
        keep: &Keep,
    ) -> Result<HashSet<Path>> {
        let table = warehouse.table(path.clone());
        let mut needed = HashSet::new();
        let published = self.pinned.get(path).into_iter().flatten().map(|(_, last)| *last).max();
        let newest = match table.snapshot().await? {
            Some(newest) if published.is_none_or(|published| published <= newest.version()) => newest,
            // A part of the log is lost. Until somebody restores it, nobody knows which files it has.
            _ => return Ok(objects.iter().map(|object| object.location.clone()).collect()),
        };
        needed.extend(newest.files().map(|add| path.file(&add.path)));
        let runs = runs(self.pinned.get(path).into_iter().flatten().copied(), newest.version());
        let is_pinned = |version: u64| {
            let later = runs.partition_point(|(first, _)| *first <= version);
            later > 0 && version <= runs[later - 1].1
        };
        let first = runs.first().map(|(first, _)| *first);
        if let Some(first) = first {
            needed.extend(table.snapshot_at(first).await?.files().map(|add| path.file(&add.path)));
        }
        let consumed = self.consumed.get(path).copied();
        let younger = before_what_is_younger(path, objects, keep.removed_since);
        let before_this_week = before_what_is_younger(path, objects, keep.objects_since);
        let reread = before_this_week.filter(|before| reread::reread_at(&newest).is_some_and(|at| at > *before));
        let Some(from) = first.into_iter().chain(consumed).chain(younger).chain(reread).min() else {
            return Ok(needed);
        };
        // The log is read once, however many versions are pinned: files that came after the last pin, and are there yet.
        let mut lately: HashSet<String> = HashSet::new();
        let mut history = std::pin::pin!(table.history(from, newest.version()));
        while let Some(commit) = history.try_next().await? {
            let since = if reread::has_reread(&commit) { keep.objects_since } else { keep.removed_since };
            needed.extend(commit.actions.iter().filter_map(|action| match action {
                Action::Remove(removed) if removed.deletion_timestamp.is_none_or(|at| at > since) => {
                    Some(path.file(&removed.path))
                }
                _ => None,
            }));
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
            if is_pinned(commit.version) {
                needed.extend(lately.drain().map(|file| path.file(&file)));
            }
        }
        Ok(needed)
    }
}

/// A version that has all commits before it that are not younger than `since`, as far as the objects of the log tell.
fn before_what_is_younger(table: &TablePath, objects: &[ObjectMeta], since: i64) -> Option<u64> {
    let younger = objects.iter().filter(|object| object.last_modified.timestamp_millis() > since);
    let first = younger.filter_map(|object| match table.is_log(&object.location) {
        true => paths::commit_version(&object.location),
        // Commits are packed later than they are made.
        false => paths::archive_version(&object.location),
    });
    first.min().map(|first| first.saturating_sub(1))
}

/// Runs of versions before `newest`, in order and apart.
fn runs(runs: impl Iterator<Item = (u64, u64)>, newest: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = runs.filter(|(first, _)| *first < newest).collect();
    runs.sort_unstable();
    runs.dedup_by(|next, run| {
        let overlaps = next.0 <= run.1;
        if overlaps {
            run.1 = run.1.max(next.1);
        }
        overlaps
    });
    runs
}
