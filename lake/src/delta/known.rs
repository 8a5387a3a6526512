//! What a process knows of tables, so that a look at a table costs what is new in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use object_store::path::Path;

use super::remembered::Remembered;
use super::{Hashes, Snapshot, Table};
use crate::paths::TablePath;
use crate::store::Store;

/// Snapshots of a table that are remembered beside the newest one: those that were asked for last.
const OLDER: usize = 8;
/// Within this time, no commit is made and packed: upkeep leaves an hour, by the store's clock.
const LATELY: Duration = Duration::from_secs(10 * 60);

/// A warehouse's tables, with some known snapshots of each kept in memory.
#[derive(Clone, Debug)]
pub struct Warehouse {
    store: Store,
    known: Arc<Mutex<HashMap<TablePath, Known>>>,
    hashes: Arc<Mutex<Remembered>>,
}

/// When it was made sure that nothing comes after a version of a table, neither in the log nor packed; by two clocks:
/// one stands still while the machine sleeps, the other one can be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    instant: Instant,
    time: SystemTime,
}

#[cfg(test)]
thread_local! {
    static SLEPT: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

impl Looked {
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), time: Self::clock() }
    }

    pub(crate) fn is_lately(&self) -> bool {
        let since = Self::clock().duration_since(self.time);
        self.instant.elapsed() < LATELY && since.is_ok_and(|since| since < LATELY)
    }

    fn clock() -> SystemTime {
        #[cfg(test)]
        let slept = SLEPT.get();
        #[cfg(not(test))]
        let slept = Duration::ZERO;
        SystemTime::now() + slept
    }

    /// The thread of a test has slept for long.
    #[cfg(test)]
    pub(crate) fn sleep() {
        SLEPT.set(SLEPT.get() + 2 * LATELY);
    }
}

#[derive(Debug, Default)]
struct Known {
    newest: Option<(Arc<Snapshot>, Looked)>,
    /// The one that was asked for last comes last.
    older: Vec<Arc<Snapshot>>,
}

impl Warehouse {
    /// The tables in `store`.
    pub fn new(store: Store) -> Self {
        Self { store, known: Arc::default(), hashes: Arc::default() }
    }

    /// Where the objects are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The table at `path`, which may not exist yet.
    pub fn table(&self, path: TablePath) -> Table {
        Table { warehouse: self.clone(), path }
    }

    fn with<T>(&self, path: &TablePath, work: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(path) {
            Some(known) => work(known),
            None => work(known.entry(path.clone()).or_default()),
        }
    }

    /// The newest version that is known, and when nothing came after it.
    pub(super) fn newest(&self, path: &TablePath) -> Option<(Arc<Snapshot>, Looked)> {
        self.with(path, |known| known.newest.clone())
    }

    /// The version, or the last one before it that is known.
    pub(super) fn nearest(&self, path: &TablePath, version: u64) -> Option<Arc<Snapshot>> {
        self.with(path, |known| {
            let all = known.newest.iter().map(|(newest, _)| newest).chain(&known.older);
            all.filter(|found| found.version() <= version).max_by_key(|found| found.version()).cloned()
        })
    }

    /// Somebody asks for this version, and may again.
    pub(super) fn remember(&self, snapshot: &Arc<Snapshot>) {
        self.with(snapshot.path(), |known| {
            known.older.retain(|older| older.version() != snapshot.version());
            known.older.push(snapshot.clone());
            if known.older.len() > OLDER {
                known.older.remove(0);
            }
        });
    }

    /// This was the newest version when somebody looked.
    pub(super) fn learn(&self, snapshot: &Arc<Snapshot>, looked: Looked) {
        self.with(snapshot.path(), |known| match &mut known.newest {
            Some((newest, _)) if newest.version() > snapshot.version() => {}
            newest => *newest = Some((snapshot.clone(), looked)),
        });
    }

    /// Which values of columns a file may have, as far as that is known.
    pub(super) fn hashes(&self, file: &Path, columns: &[&str]) -> Option<Option<Hashes>> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).get(file, columns)
    }

    /// A file says this of its values.
    pub(super) fn remember_hashes(&self, file: &Path, columns: &[&str], hashes: Option<&Hashes>) {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).insert(file, columns, hashes);
    }

    /// What is known of the table at `path` may be wrong, or the table is no more.
    pub(crate) fn forget(&self, path: &TablePath) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }
}
