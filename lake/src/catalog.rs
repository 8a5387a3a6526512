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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::delta::Warehouse;
use crate::paths::{self, TablePath};
use crate::store::Backoff;
use crate::{Error, Result};

/// A table at a version, and the versions of its inputs that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub path: TablePath,
    pub version: u64,
    /// Name of the input in the snapshot, and its version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consumed: BTreeMap<String, u64>,
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
}

/// A table that does not fit the others in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub table: String,
    pub input: String,
    pub consumed: u64,
    pub pinned: Option<u64>,
}

impl CatalogSnapshot {
    /// The version it pins of the table at `path`.
    pub fn version_of(&self, path: &TablePath) -> Option<u64> {
        self.tables.values().find(|pin| pin.path == *path).map(|pin| pin.version)
    }
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
}

impl Catalog {
    /// The catalog in `warehouse`.
    pub fn new(warehouse: &Warehouse) -> Self {
        Self::of(warehouse, None)
    }

    /// The catalog of an environment in `warehouse`; of none, the warehouse's own.
    pub fn of(warehouse: &Warehouse, environment: Option<&str>) -> Self {
        Self { warehouse: warehouse.clone(), environment: environment.map(Arc::from), known: Arc::default() }
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
    pub async fn newest(&self) -> Result<CatalogSnapshot> {
        let known = self.known.load(Ordering::Relaxed);
        let after = known.checked_sub(1).map(|number| self.path(number));
        let folder = paths::catalog_folder(self.environment.as_deref());
        let objects = self.warehouse.store().list(&folder, after.as_ref()).await?;
        match objects.iter().rev().find_map(|object| paths::number(&object.location)) {
            None if self.environment.is_some() => {
                let published = Box::pin(Self::new(&self.warehouse).newest()).await?;
                Ok(CatalogSnapshot { number: 0, publish_id: String::new(), ..published })
            }
            None => Ok(CatalogSnapshot::default()),
            Some(number) => {
                self.known.fetch_max(number, Ordering::Relaxed);
                self.at(number).await
            }
        }
    }

    /// The snapshot with this number.
    pub async fn at(&self, number: u64) -> Result<CatalogSnapshot> {
        let path = self.path(number);
        let bytes = self.warehouse.store().read(&path).await?;
        let bytes = bytes.ok_or_else(|| Error::Missing { object: format!("catalog snapshot {number}") })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Corrupt { path: path.to_string(), reason: error.to_string() })
    }

    /// The numbers and publish times of all snapshots, oldest first.
    pub async fn numbers(&self) -> Result<Vec<u64>> {
        let folder = paths::catalog_folder(self.environment.as_deref());
        let objects = self.warehouse.store().list(&folder, None).await?;
        Ok(objects.iter().filter_map(|object| paths::number(&object.location)).collect())
    }

    /// Publishes what `decide` makes of the newest snapshot: `None` means that nothing has to change. `decide` is
    /// called again when somebody else published in between, and must therefore have no effects.
    pub async fn publish(
        &self,
        mut decide: impl FnMut(&CatalogSnapshot) -> Result<Option<(BTreeMap<String, Pin>, serde_json::Value)>>,
    ) -> Result<CatalogSnapshot> {
        let publish_id = uuid::Uuid::new_v4().to_string();
        let mut backoff = Backoff::default();
        loop {
            let newest = self.newest().await?;
            if newest.publish_id == publish_id {
                return Ok(newest);
            }
            let Some((tables, meaning)) = decide(&newest)? else { return Ok(newest) };
            if let Some(misfit) = misfits(&tables).first() {
                let Misfit { table, input, consumed, pinned } = misfit;
                let pinned =
                    pinned.map_or_else(|| "is not pinned".to_owned(), |version| format!("is pinned at {version}"));
                return Err(Error::Invalid {
                    what: "a catalog snapshot".into(),
                    reason: format!("`{table}` was built from version {consumed} of `{input}`, which {pinned}"),
                });
            }
            let number = newest.number + 1;
            let snapshot = CatalogSnapshot {
                number,
                publish_id: publish_id.clone(),
                published_at: chrono::Utc::now().timestamp_millis(),
                tables,
                meaning,
            };
            let bytes = serde_json::to_vec_pretty(&snapshot)
                .map_err(|error| Error::Invalid { what: "a catalog snapshot".into(), reason: error.to_string() })?;
            match self.warehouse.store().create(&self.path(number), bytes.into()).await {
                Ok(true) => {
                    self.known.fetch_max(number, Ordering::Relaxed);
                    return Ok(snapshot);
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
}
