//! The catalog: numbered, immutable snapshots that pin a version of every table.
//!
//! A snapshot is one object, `catalog/<n>.json`, created with put-if-absent, so several tables change at once
//! or not at all. Readers pin a snapshot and never look at a table's newest version.
//!
//! ```text
//! read newest n ─► decide (pure) ─► create n + 1 ─┬─ created ──────────────► published
//!       ▲                                         └─ exists / unknown: is it ours (publish id)? ─ yes ─► published
//!       └───────────────────────────────── no: somebody else was first ◄──────────┘
//! ```
//!
//! A snapshot is valid only if every pinned table has consumed exactly the versions that the snapshot pins for
//! its inputs ([`misfits`]); the publisher refuses anything else. On a crash, either the object is there or the
//! snapshot before it is the newest; numbers are never reused.
//!
//! A snapshot carries which [`Definitions`] its tables follow, so that two processes with different files do not
//! revert each other; and the newest of those that others have replaced, so that a process which is started again with
//! old files is recognised. Keys at its top that this binary does not know are kept from snapshot to snapshot. A newest
//! snapshot that cannot be read stops everybody but landing: what it pinned is not guessed. An earlier one can be
//! published over it ([`Catalog::publish_over_damage`]). A digest within the object tells what was changed.

mod digest;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ObjectMeta;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::delta::{Looked, Warehouse};
use crate::paths::{self, TablePath};
use crate::store::Backoff;
use crate::{Error, Result, damage, format_number};

/// A hint is written with every snapshot whose number is divisible by this: who begins anew lists as many at most.
const HINT_EVERY: u64 = 64;

/// So many definitions that others have replaced are remembered, the newest of them: some 3 KB of a snapshot.
const MOST_SUPERSEDED: usize = 32;

/// Where listing may begin.
#[derive(Serialize, Deserialize)]
struct Hint {
    number: u64,
}

/// A table at a version, and the versions of its inputs that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub path: TablePath,
    pub version: u64,
    /// Name of the input in the snapshot, and its version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consumed: BTreeMap<String, u64>,
}

/// Which definitions the tables of a snapshot follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definitions {
    /// Grows whenever definitions are published that differ from the newest.
    pub number: u64,
    /// A digest of what they mean; empty where they were published before snapshots carried it.
    pub fingerprint: String,
}

/// What the next snapshot is to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    pub tables: BTreeMap<String, Pin>,
    pub meaning: serde_json::Value,
    pub definitions: Option<Definitions>,
}

/// All tables at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CatalogSnapshot {
    pub number: u64,
    /// Tells whose publish this is, when the answer was lost.
    pub publish_id: String,
    /// Milliseconds since 1970.
    pub published_at: i64,
    /// Tables by name.
    pub tables: BTreeMap<String, Pin>,
    /// What the tables mean, as the rooms above wrote it.
    #[serde(default)]
    pub meaning: serde_json::Value,
    /// None where it was published before snapshots carried them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definitions: Option<Definitions>,
    /// When its definitions were published first under their number, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defined_at: Option<i64>,
    /// Definitions that were published before, until others replaced them; the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<Definitions>,
    /// Keys of a newer binary: carried from snapshot to snapshot.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// A table that does not fit the others in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub table: String,
    pub input: String,
    pub consumed: u64,
    pub pinned: Option<u64>,
}

impl Misfit {
    fn refused(&self) -> Error {
        let Self { table, input, consumed, pinned } = self;
        let pinned = pinned.map_or_else(|| "is not pinned".to_owned(), |version| format!("is pinned at {version}"));
        Error::Invalid {
            what: "a catalog snapshot".into(),
            reason: format!("`{table}` was built from version {consumed} of `{input}`, which {pinned}"),
        }
    }
}

impl CatalogSnapshot {
    /// The version it pins of the table at `path`.
    pub fn version_of(&self, path: &TablePath) -> Option<u64> {
        self.tables.values().find(|pin| pin.path == *path).map(|pin| pin.version)
    }

    /// The number under which definitions of this fingerprint were published before others replaced them.
    pub fn superseded_as(&self, fingerprint: &str) -> Option<u64> {
        let is_newest = self.definitions.as_ref().is_some_and(|newest| newest.fingerprint == fingerprint);
        let before = self.superseded.iter().rev().find(|before| before.fingerprint == fingerprint);
        before.filter(|_| !is_newest).map(|before| before.number)
    }
}

/// The definitions that others have replaced once `next` are published on top of `newest`. Pure.
fn superseded(newest: &CatalogSnapshot, next: Option<&Definitions>) -> Vec<Definitions> {
    let replaced = newest.definitions.as_ref();
    let is_of = |of: Option<&Definitions>, before: &Definitions| {
        of.is_some_and(|definitions| definitions.fingerprint == before.fingerprint)
    };
    // A binary that does not know the list may have published definitions again that are in it.
    let before = newest.superseded.iter().filter(|before| !is_of(replaced, before));
    let all: Vec<Definitions> = before
        .chain(replaced)
        .filter(|before| !before.fingerprint.is_empty() && !is_of(next, before))
        .cloned()
        .collect();
    all[all.len().saturating_sub(MOST_SUPERSEDED)..].to_vec()
}

/// The tables whose inputs are pinned at other versions than they consumed.
pub fn misfits(tables: &BTreeMap<String, Pin>) -> Vec<Misfit> {
    let of = |(table, pin): (&String, &Pin)| {
        let table = table.clone();
        pin.consumed
            .iter()
            .filter_map(|(input, &consumed)| {
                let pinned = tables.get(input).map(|pin| pin.version);
                (pinned != Some(consumed)).then(|| Misfit {
                    table: table.clone(),
                    input: input.clone(),
                    consumed,
                    pinned,
                })
            })
            .collect::<Vec<_>>()
    };
    tables.iter().flat_map(of).collect()
}

/// The catalog of a warehouse, or of an environment: a virtual copy that begins as what the warehouse has published, and
/// then goes its own way over the same tables.
#[derive(Clone, Debug)]
pub struct Catalog {
    warehouse: Warehouse,
    environment: Option<Arc<str>>,
    /// A number that is known to exist: listing begins there.
    known: Arc<AtomicU64>,
    /// What [`Self::newest_shared`] has read last.
    shared: Arc<Mutex<Option<Shared>>>,
}

/// A snapshot, and the object that it was read from.
#[derive(Clone, Debug)]
struct Shared {
    object: ObjectMeta,
    snapshot: Arc<CatalogSnapshot>,
}

impl Catalog {
    /// The catalog in `warehouse`.
    pub fn new(warehouse: &Warehouse) -> Self {
        Self::of(warehouse, None)
    }

    /// The catalog of an environment in `warehouse`; of none, the warehouse's own.
    pub fn of(warehouse: &Warehouse, environment: Option<&str>) -> Self {
        Self {
            warehouse: warehouse.clone(),
            environment: environment.map(Arc::from),
            known: Arc::default(),
            shared: Arc::default(),
        }
    }

    /// The names of all environments.
    pub async fn environments(warehouse: &Warehouse) -> Result<Vec<String>> {
        let objects = warehouse.store().list(&paths::environments(), None).await?;
        let mut names: Vec<String> =
            objects.iter().filter_map(|object| paths::environment_of(&object.location)).collect();
        names.dedup();
        Ok(names)
    }

    /// The objects of its snapshots, by their numbers.
    pub fn path(&self, number: u64) -> Path {
        paths::catalog(self.environment.as_deref(), number)
    }

    /// The newest snapshot; an empty one with number 0 where nothing was published yet.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedSnapshot`] where it cannot be read, or where one that this process has seen is gone.
    pub async fn newest(&self) -> Result<CatalogSnapshot> {
        let known = self.known.load(Ordering::Relaxed);
        let newest = self.newest_object().await?;
        self.read_newest(newest.map(|(number, _)| number), known).await
    }

    /// The newest snapshot, for readers that ask often: it is read again only where its object is another one than
    /// the one that was read last.
    ///
    /// # Errors
    ///
    /// Those of [`Self::newest`].
    pub async fn newest_shared(&self) -> Result<Arc<CatalogSnapshot>> {
        let known = self.known.load(Ordering::Relaxed);
        let Some((number, object)) = self.newest_object().await? else {
            return self.read_newest(None, known).await.map(Arc::new);
        };
        if let Some(shared) = self.shared().filter(|shared| shared.object == object) {
            return Ok(shared.snapshot);
        }
        let snapshot = Arc::new(self.read_newest(Some(number), known).await?);
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Shared { object, snapshot: Arc::clone(&snapshot) });
        Ok(snapshot)
    }

    /// The snapshot with this number: as [`Self::newest_shared`] has read it last, or as [`Self::at`] reads it.
    ///
    /// # Errors
    ///
    /// Those of [`Self::at`].
    pub async fn at_shared(&self, number: u64) -> Result<Arc<CatalogSnapshot>> {
        match self.shared().filter(|shared| shared.snapshot.number == number) {
            Some(shared) => Ok(shared.snapshot),
            None => self.at(number).await.map(Arc::new),
        }
    }

    fn shared(&self) -> Option<Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest snapshot, where `listed` is the greatest number there is, and `known` one that was known before.
    async fn read_newest(&self, listed: Option<u64>, known: u64) -> Result<CatalogSnapshot> {
        match listed {
            None if self.environment.is_some() => {
                let published = Box::pin(Self::new(&self.warehouse).newest()).await?;
                Ok(CatalogSnapshot { number: 0, publish_id: String::new(), ..published })
            }
            // What begins at number 1 again would be another thing under numbers that readers have seen.
            None if known > 0 => Err(self.damaged(known, "it is gone")),
            None => Ok(CatalogSnapshot::default()),
            Some(number) => {
                self.known.fetch_max(number, Ordering::Relaxed);
                match self.at(number).await {
                    Err(Error::DamagedSnapshot { number, path, reason, .. }) => {
                        let before = self.readable_before(number).await;
                        Err(Error::DamagedSnapshot { number, path, reason, before })
                    }
                    newest => newest,
                }
            }
        }
    }

    /// The newest snapshot that can be read: an earlier one, or an empty one, where the newest is damaged. For whoever
    /// wants to know something that was published, and need not know all.
    ///
    /// # Errors
    ///
    /// Those of the store; [`Error::DamagedSnapshot`] where the store does not tell what was before it.
    pub async fn newest_readable(&self) -> Result<CatalogSnapshot> {
        match self.newest().await {
            Err(Error::DamagedSnapshot { before: Some(0), .. }) => Ok(CatalogSnapshot::default()),
            Err(Error::DamagedSnapshot { before: Some(before), .. }) => self.at(before).await,
            Err(error @ Error::DamagedSnapshot { before: None, .. }) => match self.numbers().await?.is_empty() {
                true => Ok(CatalogSnapshot::default()),
                false => Err(error),
            },
            newest => newest,
        }
    }

    /// The newest snapshot before `number` that can be read; 0 where there is none, None where nobody can tell.
    async fn readable_before(&self, number: u64) -> Option<u64> {
        // Most often it is the one before; to list all may take long.
        let one_before = number.checked_sub(1).filter(|&before| before > 0);
        let mut candidates = Vec::from_iter(one_before);
        let mut all_listed = false;
        loop {
            while let Some(candidate) = candidates.pop() {
                match self.at(candidate).await {
                    Ok(_) => return Some(candidate),
                    Err(Error::DamagedSnapshot { .. } | Error::Missing { .. }) => {}
                    Err(_) => return None,
                }
            }
            if all_listed {
                return Some(0);
            }
            candidates = self.numbers().await.ok()?.into_iter().filter(|&listed| listed < number).collect();
            all_listed = true;
        }
    }

    /// Counts the damage of a snapshot, and words it.
    fn damaged(&self, number: u64, reason: impl Into<String>) -> Error {
        let path = self.path(number).to_string();
        damage::count_snapshot(format!("{}/{path}", self.warehouse.store().location()));
        Error::DamagedSnapshot { number, path, reason: reason.into(), before: None }
    }

    /// The greatest number, and its object.
    async fn newest_object(&self) -> Result<Option<(u64, ObjectMeta)>> {
        let known = match self.known.load(Ordering::Relaxed) {
            0 => self.hint().await?,
            known => known,
        };
        let found = self.listed(known.checked_sub(1)).await?.pop();
        match found {
            // The hint is of more than there is: snapshots were restored from a copy.
            None if known > 0 && self.known.load(Ordering::Relaxed) == 0 => Ok(self.listed(None).await?.pop()),
            found => Ok(found),
        }
    }

    /// The numbers that are there after `after`, in order, and their objects.
    async fn listed(&self, after: Option<u64>) -> Result<Vec<(u64, ObjectMeta)>> {
        let after = after.map(|number| self.path(number));
        let folder = paths::catalog_folder(self.environment.as_deref());
        let objects = self.warehouse.store().list(&folder, after.as_ref()).await?;
        Ok(objects.into_iter().filter_map(|object| Some((paths::number(&object.location)?, object))).collect())
    }

    /// Where listing may begin; 0 where nobody knows. A torn or lost hint costs time and nothing else.
    async fn hint(&self) -> Result<u64> {
        let bytes = self.warehouse.store().read(&self.hint_path()).await?;
        let hint = bytes.and_then(|bytes| serde_json::from_slice::<Hint>(&bytes).ok());
        Ok(hint.map_or(0, |hint| hint.number))
    }

    /// The object that says where listing may begin.
    pub fn hint_path(&self) -> Path {
        paths::catalog_hint(self.environment.as_deref())
    }

    /// This number was published.
    async fn learn(&self, number: u64) {
        self.known.fetch_max(number, Ordering::Relaxed);
        if !number.is_multiple_of(HINT_EVERY) {
            return;
        }
        let Ok(hint) = serde_json::to_vec(&Hint { number }) else { return };
        if let Err(error) = self.warehouse.store().write(&self.hint_path(), hint.into()).await {
            tracing::warn!(number, %error, "the catalog's hint was not written; the next start takes longer");
        }
    }

    /// The snapshot with this number.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] where there is none, [`Error::DamagedSnapshot`] where it cannot be read.
    pub async fn at(&self, number: u64) -> Result<CatalogSnapshot> {
        let path = self.path(number);
        let bytes = self.warehouse.store().read(&path).await?;
        let bytes = bytes.ok_or_else(|| Error::Missing { object: format!("catalog snapshot {number}") })?;
        let snapshot = digest::decode(&bytes).map_err(|reason| self.damaged(number, reason))?;
        if snapshot.number != number {
            return Err(self.damaged(number, format!("it says that it is snapshot {}", snapshot.number)));
        }
        Ok(snapshot)
    }

    /// The numbers and publish times of all snapshots, oldest first.
    pub async fn numbers(&self) -> Result<Vec<u64>> {
        Ok(self.listed(None).await?.into_iter().map(|(number, _)| number).collect())
    }

    /// Publishes the tables and the meaning that `decide` makes of the newest snapshot, as [`Self::publish_next`] does;
    /// the definitions stay those of the newest.
    pub async fn publish(
        &self,
        mut decide: impl FnMut(&CatalogSnapshot) -> Result<Option<(BTreeMap<String, Pin>, serde_json::Value)>>,
    ) -> Result<CatalogSnapshot> {
        let next = |newest: &CatalogSnapshot| -> Result<Option<Next>> {
            let decided = decide(newest)?;
            Ok(decided.map(|(tables, meaning)| Next { tables, meaning, definitions: newest.definitions.clone() }))
        };
        self.publish_next(next).await
    }

    /// Publishes what `decide` makes of the newest snapshot: `None` means that nothing has to change. `decide` is
    /// called again when somebody else published in between, and must therefore have no effects.
    pub async fn publish_next(
        &self,
        decide: impl FnMut(&CatalogSnapshot) -> Result<Option<Next>>,
    ) -> Result<CatalogSnapshot> {
        self.publish_after(|newest: Result<CatalogSnapshot>| newest, decide).await
    }

    /// The same where the newest snapshot may be damaged: `decide` gets an empty one then, with its number and without a
    /// publish id. What snapshots carry on comes from `earlier` then.
    pub async fn publish_over_damage(
        &self,
        earlier: &CatalogSnapshot,
        decide: impl FnMut(&CatalogSnapshot) -> Result<Option<Next>>,
    ) -> Result<CatalogSnapshot> {
        let over_damage = |newest: Result<CatalogSnapshot>| match newest {
            Err(Error::DamagedSnapshot { number, .. }) => {
                let (superseded, rest) = (earlier.superseded.clone(), earlier.rest.clone());
                Ok(CatalogSnapshot { number, superseded, rest, ..CatalogSnapshot::default() })
            }
            newest => newest,
        };
        self.publish_after(over_damage, decide).await
    }

    async fn publish_after(
        &self,
        read: impl Fn(Result<CatalogSnapshot>) -> Result<CatalogSnapshot>,
        mut decide: impl FnMut(&CatalogSnapshot) -> Result<Option<Next>>,
    ) -> Result<CatalogSnapshot> {
        format_number::as_noted(self.warehouse.store())?;
        let publish_id = uuid::Uuid::new_v4().to_string();
        let mut backoff = Backoff::default();
        loop {
            let looked = Looked::now();
            let newest = read(self.newest().await)?;
            if newest.publish_id == publish_id {
                return Ok(newest);
            }
            let Some(Next { tables, meaning, definitions }) = decide(&newest)? else { return Ok(newest) };
            if let Some(misfit) = misfits(&tables).first() {
                return Err(misfit.refused());
            }
            let number = newest.number + 1;
            let published_at = chrono::Utc::now().timestamp_millis();
            let are_same = newest.definitions == definitions;
            let snapshot = CatalogSnapshot {
                number,
                publish_id: publish_id.clone(),
                published_at,
                tables,
                meaning,
                superseded: superseded(&newest, definitions.as_ref()),
                definitions,
                defined_at: if are_same { newest.defined_at } else { Some(published_at) },
                rest: newest.rest,
            };
            let bytes = digest::encode(&snapshot)
                .map_err(|error| Error::Invalid { what: "a catalog snapshot".into(), reason: error.to_string() })?;
            match self.warehouse.store().create(&self.path(number), bytes.into()).await {
                Ok(true) if looked.is_lately() => {
                    self.learn(number).await;
                    return Ok(snapshot);
                }
                // Others may have published this number while we slept, and clean-up deleted it: nobody reads ours.
                Ok(true) => {
                    backoff = Backoff::default();
                    continue;
                }
                // Ours by a request that was sent twice, or somebody else's: the next round reads it.
                Ok(false) => {}
                Err(error) => match self.at(number).await {
                    Ok(stored) if stored.publish_id == publish_id => return Ok(stored),
                    Ok(_) => {}
                    Err(_) => return Err(error),
                },
            }
            if !backoff.pause().await {
                return Err(Error::Conflict { table: "catalog".into(), version: number });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::store::Store;

    fn pin(version: u64, consumed: &[(&str, u64)]) -> Pin {
        let consumed = consumed.iter().map(|&(input, version)| (input.to_owned(), version)).collect();
        Pin { path: TablePath::stream("d", "t"), version, consumed }
    }

    #[tokio::test]
    async fn an_environment_begins_as_what_is_published() {
        let warehouse = Warehouse::new(Store::memory());
        let (main, ann) = (Catalog::new(&warehouse), Catalog::of(&warehouse, Some("ann")));
        let with = |name: &str| [(name.to_owned(), pin(1, &[]))].into();
        main.publish(|_| Ok(Some((with("a"), serde_json::Value::Null)))).await.unwrap();
        let seen = ann.newest().await.unwrap();
        assert_eq!((seen.number, seen.tables.contains_key("a")), (0, true));
        assert!(Catalog::environments(&warehouse).await.unwrap().is_empty());
        let own = ann.publish(|_| Ok(Some((with("b"), serde_json::Value::Null)))).await.unwrap();
        assert_eq!((own.number, ann.newest().await.unwrap().tables.contains_key("b")), (1, true));
        let newest = main.newest().await.unwrap();
        assert_eq!((newest.number, newest.tables.contains_key("b")), (1, false));
        assert_eq!(Catalog::environments(&warehouse).await.unwrap(), ["ann"]);
    }

    #[tokio::test]
    async fn racing_publishers_lose_nothing() {
        let catalog = Catalog::new(&Warehouse::new(Store::memory()));
        let mut tasks = tokio::task::JoinSet::new();
        for publisher in 0..8 {
            let catalog = catalog.clone();
            tasks.spawn(async move {
                for version in 0..5 {
                    let publish = catalog.publish(|newest| {
                        let mut tables = newest.tables.clone();
                        tables.insert(format!("t{publisher}"), pin(version, &[]));
                        Ok(Some((tables, serde_json::Value::Null)))
                    });
                    publish.await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        let newest = catalog.newest().await.unwrap();
        assert_eq!((newest.number, newest.tables.len()), (40, 8));
        assert!(newest.tables.values().all(|pin| pin.version == 4));
    }

    #[tokio::test]
    async fn the_newest_is_found_without_listing_all() {
        let store = Store::memory();
        let fresh = || Catalog::new(&Warehouse::new(store.clone()));
        let catalog = fresh();
        let hint = catalog.hint_path();
        for version in 1..=200 {
            let with =
                |_: &CatalogSnapshot| Ok(Some(([("a".to_owned(), pin(version, &[]))].into(), Default::default())));
            catalog.publish(with).await.unwrap();
            let listed = fresh().hint().await.unwrap().checked_sub(1);
            assert!(fresh().listed(listed).await.unwrap().len() as u64 <= HINT_EVERY + 1, "after {version}");
        }
        assert_eq!(fresh().newest().await.unwrap().number, 200);
        // Whatever the hint says, and whatever is gone, the newest is the newest.
        for words in ["{\"number\":100000}", "{\"number\":201}", "{\"number\":1}", "{\"num", ""] {
            store.write(&hint, words.into()).await.unwrap();
            assert_eq!(fresh().newest().await.unwrap().number, 200, "{words}");
        }
        store.delete([hint]).await.unwrap();
        store.delete((1..150).map(|number| fresh().path(number))).await.unwrap();
        assert_eq!(fresh().newest().await.unwrap().number, 200);
        assert_eq!(fresh().numbers().await.unwrap().len(), 51);
    }

    /// Tries to make a publisher believe that it has published what nobody ever reads: while it sleeps, others publish,
    /// and what they published first is deleted.
    #[tokio::test]
    async fn who_sleeps_before_publishing_publishes_on_top() {
        for moment in 0.. {
            let memory = Arc::new(object_store::memory::InMemory::new());
            let others = Catalog::new(&Warehouse::new(Store::over(memory.clone(), "memory://others")));
            others.publish_next(|_| Ok(Some(with("a")))).await.unwrap();
            let script = crate::store::scripted::Scripted::new(&memory);
            let sleeper = Catalog::new(&Warehouse::new(script.opened()));
            let meanwhile = others.clone();
            script.before(moment, async move {
                for _ in 0..3 {
                    meanwhile.publish_next(|_| Ok(Some(with("b")))).await.unwrap();
                }
                let numbers = meanwhile.numbers().await.unwrap();
                let old = numbers.iter().rev().skip(1).map(|&number| meanwhile.path(number));
                meanwhile.warehouse.store().delete(old.collect::<Vec<_>>()).await.unwrap();
                Looked::sleep();
            });
            let mine = sleeper.publish_next(|newest| {
                let is_there = newest.tables.contains_key("mine");
                Ok((!is_there).then(|| with("mine")))
            });
            // What it has listed may be gone by the time it reads it.
            let Ok(mine) = mine.await else { continue };
            assert_eq!(Catalog::new(&others.warehouse).newest().await.unwrap(), mine, "before operation {moment}");
            if !script.has_happened() {
                assert!(moment > 2, "to publish takes more than {moment} operations");
                break;
            }
        }
    }

    #[tokio::test]
    async fn tables_that_do_not_fit_together_are_refused() {
        let catalog = Catalog::new(&Warehouse::new(Store::memory()));
        let publish = catalog.publish(|_| {
            let tables = [("fact".to_owned(), pin(3, &[("dimension", 7)])), ("dimension".to_owned(), pin(8, &[]))];
            Ok(Some((tables.into(), serde_json::Value::Null)))
        });
        assert_eq!(
            publish.await.unwrap_err().to_string(),
            "a catalog snapshot is not valid: `fact` was built from version 7 of `dimension`, which is pinned at 8"
        );
        assert_eq!(catalog.newest().await.unwrap().number, 0);
    }

    fn with(name: &str) -> Next {
        Next { tables: [(name.to_owned(), pin(1, &[]))].into(), ..Next::default() }
    }

    #[tokio::test]
    async fn keys_that_are_not_known_survive_publishing() {
        let warehouse = Warehouse::new(Store::memory());
        let catalog = Catalog::new(&warehouse);
        catalog.publish_next(|_| Ok(Some(with("a")))).await.unwrap();
        let bytes = warehouse.store().read(&catalog.path(1)).await.unwrap().unwrap();
        let mut written: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        written.as_object_mut().unwrap().remove("digest");
        written["retention_policy"] = serde_json::json!({ "days": 7, "of": ["x"] });
        let bytes = serde_json::to_vec(&written).unwrap();
        warehouse.store().write(&catalog.path(1), bytes.into()).await.unwrap();
        catalog.publish_next(|_| Ok(Some(with("b")))).await.unwrap();
        let bytes = warehouse.store().read(&catalog.path(2)).await.unwrap().unwrap();
        let stored: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(stored["retention_policy"], written["retention_policy"]);
        assert_eq!(digest::decode(&bytes).unwrap(), catalog.newest().await.unwrap());
    }

    #[tokio::test]
    async fn definitions_that_were_replaced_are_remembered_as_far_as_they_are_bounded() {
        let catalog = Catalog::new(&Warehouse::new(Store::memory()));
        let publish = async |number: u64, fingerprint: &str| {
            let definitions = Some(Definitions { number, fingerprint: fingerprint.to_owned() });
            let next = Next { definitions, ..with("a") };
            catalog.publish_next(|_| Ok(Some(next.clone()))).await.unwrap()
        };
        let first = publish(1, "a").await;
        let same = publish(1, "a").await;
        assert_eq!((same.defined_at, same.superseded.len()), (first.defined_at, 0));
        assert!(same.defined_at.is_some() && same.superseded_as("a").is_none());
        let second = publish(2, "b").await;
        assert_eq!((second.superseded_as("a"), second.superseded_as("b")), (Some(1), None));
        // What is published again is the newest, and what it replaces is not.
        let third = publish(3, "a").await;
        assert_eq!((third.superseded_as("a"), third.superseded_as("b")), (None, Some(2)));
        for number in 4..4 + MOST_SUPERSEDED as u64 {
            publish(number, &format!("other {number}")).await;
        }
        let newest = catalog.newest().await.unwrap();
        assert_eq!((newest.superseded.len(), newest.superseded_as("b")), (MOST_SUPERSEDED, None));
        assert_eq!((newest.superseded_as("a"), newest.superseded_as("other 4")), (Some(3), Some(4)));
        assert_eq!(catalog.at(newest.number).await.unwrap(), newest);
    }

    /// A binary that does not know the list carries it on as it was.
    #[test]
    fn definitions_are_superseded_or_the_newest_and_never_both() {
        let of = |number, fingerprint: &str| Definitions { number, fingerprint: fingerprint.to_owned() };
        let newest = CatalogSnapshot {
            definitions: Some(of(3, "a")),
            superseded: vec![of(1, "a"), of(2, "b")],
            ..CatalogSnapshot::default()
        };
        assert_eq!(newest.superseded_as("a"), None);
        assert_eq!(superseded(&newest, Some(&of(4, "c"))), [of(2, "b"), of(3, "a")]);
        assert_eq!(superseded(&newest, Some(&of(4, "b"))), [of(3, "a")]);
        assert_eq!(superseded(&newest, None), [of(2, "b"), of(3, "a")]);
    }

    #[tokio::test]
    async fn a_damaged_newest_snapshot_is_told_and_published_over() {
        let warehouse = Warehouse::new(Store::memory());
        let catalog = Catalog::new(&warehouse);
        for name in ["a", "b"] {
            catalog.publish_next(|_| Ok(Some(with(name)))).await.unwrap();
        }
        warehouse.store().write(&catalog.path(2), bytes::Bytes::from_static(b"{\n  \"number\": 2,")).await.unwrap();
        let fresh = Catalog::new(&warehouse);
        for catalog in [&catalog, &fresh] {
            let error = catalog.newest().await.unwrap_err();
            assert!(error.to_string().contains(&catalog.path(2).to_string()), "{error}");
            assert!(error.hint().unwrap().contains("--back-to 1"), "{error:?}");
            assert!(catalog.publish_next(|_| Ok(Some(with("c")))).await.is_err());
        }
        let earlier = fresh.at(1).await.unwrap();
        let over = fresh.publish_over_damage(&earlier, |newest| {
            assert_eq!((newest.number, newest.publish_id.as_str()), (2, ""));
            Ok(Some(with("a")))
        });
        assert_eq!(over.await.unwrap().number, 3);
        assert!(catalog.newest().await.unwrap().tables.contains_key("a"));
    }

    #[tokio::test]
    async fn the_way_out_of_damage_names_a_snapshot_that_can_be_read() {
        let warehouse = Warehouse::new(Store::memory());
        let catalog = Catalog::new(&warehouse);
        for name in ["a", "b", "c", "d"] {
            catalog.publish_next(|_| Ok(Some(with(name)))).await.unwrap();
        }
        let damage = async |number| {
            warehouse.store().write(&catalog.path(number), bytes::Bytes::from_static(b"{")).await.unwrap();
        };
        let hint = async || catalog.newest().await.unwrap_err().hint().unwrap().into_owned();
        damage(4).await;
        assert!(hint().await.contains("--back-to 3`"), "{}", hint().await);
        // Clean-up has taken one, and another is damaged as well.
        warehouse.store().delete([catalog.path(3)]).await.unwrap();
        damage(2).await;
        assert!(hint().await.contains("--back-to 1`"), "{}", hint().await);
        assert!(catalog.newest_readable().await.unwrap().tables.contains_key("a"));
        warehouse.store().delete([catalog.path(1)]).await.unwrap();
        assert!(hint().await.contains("--back-to 0`"), "{}", hint().await);
        assert_eq!(catalog.newest_readable().await.unwrap(), CatalogSnapshot::default());
        // Of an earlier one, and of a catalog that is gone, there is no snapshot before that could be named.
        let error = catalog.at(2).await.unwrap_err();
        assert_eq!(error.hint().unwrap(), "restore the object from a copy");
        warehouse.store().delete([2, 4].map(|number| catalog.path(number))).await.unwrap();
        assert_eq!(hint().await, "restore the object from a copy");
        assert_eq!(catalog.newest_readable().await.unwrap(), CatalogSnapshot::default());
    }

    #[tokio::test]
    async fn a_snapshot_is_read_once_while_its_object_is_the_same() {
        let warehouse = Warehouse::new(Store::memory());
        let (publisher, catalog) = (Catalog::new(&warehouse), Catalog::new(&warehouse));
        let read = async || catalog.newest_shared().await;
        assert_eq!(*read().await.unwrap(), CatalogSnapshot::default());
        let first = publisher.publish_next(|_| Ok(Some(with("a")))).await.unwrap();
        let seen = read().await.unwrap();
        assert_eq!(*seen, first);
        assert!(Arc::ptr_eq(&seen, &read().await.unwrap()));
        assert!(Arc::ptr_eq(&seen, &catalog.at_shared(1).await.unwrap()));
        // What others publish is seen at once, and what was read before is still what it was.
        let second = publisher.publish_next(|_| Ok(Some(with("b")))).await.unwrap();
        assert_eq!(*read().await.unwrap(), second);
        assert_eq!(*catalog.at_shared(1).await.unwrap(), first);
        // An object that was replaced is another one, though its number is the same.
        let bytes = digest::encode(&CatalogSnapshot { number: 2, ..first.clone() }).unwrap();
        warehouse.store().write(&catalog.path(2), bytes.into()).await.unwrap();
        assert!(read().await.unwrap().tables.contains_key("a"));
        warehouse.store().write(&catalog.path(2), bytes::Bytes::from_static(b"{")).await.unwrap();
        assert!(matches!(read().await, Err(Error::DamagedSnapshot { number: 2, .. })));
        warehouse.store().objects().delete(&catalog.path(2)).await.unwrap();
        assert!(read().await.unwrap_err().to_string().contains("it is gone"));
    }

    #[tokio::test]
    async fn a_catalog_that_is_gone_is_not_begun_again_by_a_process_that_has_seen_it() {
        let warehouse = Warehouse::new(Store::memory());
        let catalog = Catalog::new(&warehouse);
        catalog.publish_next(|_| Ok(Some(with("a")))).await.unwrap();
        warehouse.store().objects().delete(&catalog.path(1)).await.unwrap();
        let error = catalog.publish_next(|_| Ok(Some(with("b")))).await.unwrap_err();
        assert!(error.to_string().contains("it is gone"), "{error}");
        assert_eq!(Catalog::new(&warehouse).newest().await.unwrap().number, 0);
    }
}
