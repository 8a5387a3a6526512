//! The landing protocol: how a batch of events gets into a stream exactly once.
//!
//! A stream is an append-only Delta table. Commit 0 creates it and carries no data. Each later commit holds a
//! batch: its files, and for every source partition in it a `txn` action (application id, position after the
//! batch) and, in the commit's information, the range `[from, to)`, the rows and a digest. So the position
//! moves in the very object that makes the rows visible; there is no second place to disagree.
//!
//! ```text
//!  position in the table   batch [from, to)            decision
//!  none                    from anywhere               Append          the partition begins here
//!  = from                                              Append
//!  >= to                                               SkipReplayed    all of it is there
//!  between from and to                                 AppendFrom      part of it is there
//!  < from                                              Gap             something between is not
//! ```
//!
//! Several partitions land together or not at all. A batch that cannot be appended whole is thrown away and
//! read again from the table's positions ([`Outcome::Behind`]); nothing is trimmed in memory.
//!
//! On a crash before the commit, the batch's files are invisible and its events are read again from the same
//! position; after the commit, the position says that they are there. A commit whose outcome is unknown is
//! decided again from a fresh snapshot, which holds both the position and the version to commit at.

mod marks;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use tokio::sync::{Mutex, OnceCell};

use crate::catalog::Catalog;
use crate::delta::{Add, Commit, Committed, EncodedFile, Snapshot, Table, Txn};
use crate::events;
use crate::paths::{escape, unescape};
use crate::store::{Backoff, Store};
use crate::{Error, Result, format_number};

/// One ordered sequence of events: a Kafka partition, a file, a run of the HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourcePartition {
    pub source: String,
    pub topic: String,
    /// Counts how often the topic was begun anew.
    pub incarnation: u32,
    pub partition: i32,
}

impl SourcePartition {
    /// The `txn` application id in the table of `stream`.
    pub fn application(&self, stream: &str) -> String {
        let Self { source, topic, incarnation, partition } = self;
        format!("{}/{}/{}/{incarnation}/{partition}", escape(stream), escape(source), escape(topic))
    }

    /// The partition of such an application id of `stream`.
    fn of_application(application: &str, stream: &str) -> Option<Self> {
        let parts: Vec<&str> = application.split('/').collect();
        let &[of, source, topic, incarnation, partition] = parts.as_slice() else { return None };
        let (incarnation, partition) = (incarnation.parse().ok()?, partition.parse().ok()?);
        (of == escape(stream)).then_some(())?;
        Some(Self { source: unescape(source)?, topic: unescape(topic)?, incarnation, partition })
    }
}

/// What to do with a batch, given what the table already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Append,
    SkipReplayed,
    AppendFrom(i64),
    Gap { reread_from: i64 },
}

/// Decides about the batch `[batch.start, batch.end)` of a partition whose committed position is `committed`.
pub fn decide(committed: Option<i64>, batch: &Range<i64>) -> Decision {
    match committed {
        None => Decision::Append,
        Some(position) if position == batch.start => Decision::Append,
        Some(position) if position >= batch.end => Decision::SkipReplayed,
        Some(position) if position > batch.start => Decision::AppendFrom(position),
        Some(position) => Decision::Gap { reread_from: position },
    }
}

/// One partition's share of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    #[serde(flatten)]
    pub partition: SourcePartition,
    /// Where the previous batch ended.
    pub from: i64,
    /// The position after this batch.
    pub to: i64,
    pub rows: u64,
    /// Sum of the rows' digests, see [`row_digest`].
    #[serde(with = "hexadecimal")]
    pub digest: u128,
    /// What the source needs to know its partition again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<serde_json::Value>,
}

/// Digest of one row: position, payload and key. A batch's digest is the sum of its rows', so that it can be checked
/// in any order of reading.
pub fn row_digest(position: i64, payload: &[u8], key: Option<&[u8]>) -> u128 {
    let digest = |bytes, seed| xxhash_rust::xxh3::xxh3_128_with_seed(bytes, seed);
    let of_key = key.map_or(0, |key| digest(key, !position as u64));
    digest(payload, position as u64).wrapping_add(of_key)
}

/// What a stream has lost, where its newest version is `newest` and a catalog snapshot pins `published`: made
/// again, those versions would hold something else.
pub fn lost(newest: Option<u64>, published: Option<u64>) -> Option<String> {
    let published = published.filter(|&published| newest.is_none_or(|newest| newest < published))?;
    let found = newest.map_or("there is none".to_owned(), |newest| format!("the newest one is {newest}"));
    let way_out =
        "restore the log, or accept the loss with `starmere build --full --accept-loss` and the stream's name";
    Some(format!("version {published} of the stream is published, and {found}; {way_out}"))
}

/// Stands in a row for an event that is too long for one and is kept beside the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oversized {
    /// Where it is, relative to the warehouse.
    #[serde(rename = "oversized")]
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

impl Oversized {
    /// Keeps a payload beside `table`: it came in `partition`, at `position`.
    pub async fn keep(table: &Table, partition: &SourcePartition, position: i64, payload: &[u8]) -> Result<Self> {
        let SourcePartition { source, topic, incarnation, partition } = partition;
        let path = table.path().oversized(source, topic, *incarnation, *partition, position);
        table.store().write(&path, bytes::Bytes::copy_from_slice(payload)).await?;
        let sha256 = hex::encode(sha2::Sha256::digest(payload));
        Ok(Self { path: path.to_string(), bytes: payload.len() as u64, sha256 })
    }

    /// Why the row holds no event; `limit` is how long one may be.
    pub fn rejection(&self, limit: usize) -> String {
        let Self { path, bytes, .. } = self;
        format!("the line has {bytes} bytes, more than `max_event_bytes` ({limit}); it is kept at `{path}`")
    }

    /// What stands in the row.
    pub fn reference(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::Corrupt { path: self.path.clone(), reason: error.to_string() })
    }

    /// The reference in a row, where it is one: then the rejection names the same object.
    pub fn of(payload: &[u8], rejection: &str) -> Option<Self> {
        let found: Self = serde_json::from_slice(payload).ok()?;
        rejection.ends_with(&format!("it is kept at `{}`", found.path)).then_some(found)
    }

    /// What is wrong with the object.
    pub async fn damage(&self, store: &Store) -> Result<Option<String>> {
        let Self { path, bytes, sha256 } = self;
        let failed = |source| Error::Store { action: "read", path: path.clone(), source };
        let Ok(place) = Path::parse(path) else { return Ok(Some(format!("`{path}` is not the path of an object"))) };
        let object = match store.objects().get(&place).await {
            Ok(object) => object,
            Err(object_store::Error::NotFound { .. }) => {
                return Ok(Some(format!("`{path}`, an event of {bytes} bytes, is gone; restore it from a copy")));
            }
            Err(source) => return Err(failed(source)),
        };
        if object.meta.size != *bytes {
            let found = object.meta.size;
            return Ok(Some(format!("`{path}` has {found} bytes, not {bytes}; restore it from a copy")));
        }
        let mut digest = sha2::Sha256::new();
        let mut content = object.into_stream();
        while let Some(piece) = content.try_next().await.map_err(failed)? {
            digest.update(&piece);
        }
        let is_same = hex::encode(digest.finalize()) == *sha256;
        Ok((!is_same).then(|| format!("`{path}` is not the event that landed; restore it from a copy")))
    }
}

/// What landing a batch came to.
#[derive(Debug)]
pub enum Outcome {
    /// The batch is in the table, by this version at the latest.
    Landed(Arc<Snapshot>),
    /// At least one partition is elsewhere than the batch assumed; nothing landed. Drop it and read again from
    /// the positions in the snapshot.
    Behind(Arc<Snapshot>),
}

/// A stream's table, as a writer sees it.
#[derive(Clone, Debug)]
pub struct Stream {
    table: Table,
    name: String,
    catalog: Option<Catalog>,
    /// Asked once: later versions only come on top.
    checked: Arc<OnceCell<()>>,
    /// What commits say of partitions, as far as somebody has asked.
    marks: Arc<Mutex<marks::Fold>>,
}

impl Stream {
    /// The stream `name`, stored in `table`.
    pub fn new(name: &str, table: Table) -> Self {
        Self { table, name: name.to_owned(), catalog: None, checked: Arc::default(), marks: Arc::default() }
    }

    /// Nothing is landed where the table has lost a version that `catalog` has published.
    pub fn published_in(self, catalog: &Catalog) -> Self {
        Self { catalog: Some(catalog.clone()), ..self }
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stream's table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The newest version, for who lands; the table is made if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] where the warehouse has got a newer format, as far as somebody has looked.
    pub async fn open(&self) -> Result<Arc<Snapshot>> {
        format_number::as_noted(self.table.store())?;
        self.checked.get_or_try_init(|| self.check()).await?;
        self.table.open_or_create(events::table_schema(), &[events::INGEST_DATE]).await
    }

    /// The newest version, for readers; none where the table has not been made. Writes nothing.
    pub async fn newest(&self) -> Result<Option<Arc<Snapshot>>> {
        self.checked.get_or_try_init(|| self.check()).await?;
        self.table.snapshot().await
    }

    async fn check(&self) -> Result<()> {
        let Some(catalog) = &self.catalog else { return Ok(()) };
        // The catalog first: the table may only be ahead of it. Events land although its newest snapshot is damaged:
        // the one before it tells of nearly all versions that were published.
        let published = catalog.newest_readable().await?.version_of(self.table.path());
        let newest = self.table.snapshot().await?.map(|snapshot| snapshot.version());
        match lost(newest, published) {
            None => Ok(()),
            Some(reason) => Err(Error::Corrupt { path: self.table.path().log().to_string(), reason }),
        }
    }

    /// The committed position of `partition`.
    pub fn position(&self, snapshot: &Snapshot, partition: &SourcePartition) -> Option<i64> {
        snapshot.txn(&partition.application(&self.name))
    }

    /// All partitions of which something has landed, and their positions.
    pub fn positions(&self, snapshot: &Snapshot) -> Vec<(SourcePartition, i64)> {
        let of = |(application, position): (&str, i64)| {
            Some((SourcePartition::of_application(application, &self.name)?, position))
        };
        snapshot.txns().filter_map(of).collect()
    }

    /// Lands `parts`, whose rows are in `files`, in one commit. Each file must name its partition of the table.
    pub async fn land(&self, parts: &[Part], files: Vec<EncodedFile>) -> Result<Outcome> {
        let mut snapshot = self.open().await?;
        if !self.all_append(&snapshot, parts) {
            return Ok(Outcome::Behind(snapshot));
        }
        let mut adds = Vec::with_capacity(files.len());
        for file in files {
            adds.push(self.table.upload(file).await?);
        }
        let mut backoff = Backoff::default();
        loop {
            let error = match self.table.commit(&snapshot, self.commit(parts, &adds)).await {
                Ok(next) => return Ok(Outcome::Landed(next)),
                Err(error) => error,
            };
            let goes_on = matches!(error, Error::Conflict { .. }) && backoff.pause().await;
            // Conflict or unknown: the table tells. Our files in it mean that the commit was made after all.
            snapshot = self.open().await?;
            if let Some(add) = adds.first()
                && snapshot.file(&add.path).is_some()
            {
                return Ok(Outcome::Landed(snapshot));
            }
            if !self.all_append(&snapshot, parts) {
                return Ok(Outcome::Behind(snapshot));
            }
            if !goes_on {
                return Err(error);
            }
        }
    }

    fn all_append(&self, snapshot: &Snapshot, parts: &[Part]) -> bool {
        parts
            .iter()
            .all(|part| decide(self.position(snapshot, &part.partition), &(part.from..part.to)) == Decision::Append)
    }

    fn commit(&self, parts: &[Part], adds: &[Add]) -> Commit {
        Commit {
            adds: adds.to_vec(),
            removes: Vec::new(),
            txns: parts.iter().map(|part| Txn::now(part.partition.application(&self.name), part.to)).collect(),
            operation: "STREAMING UPDATE",
            facts: serde_json::json!({ "landed": parts }),
        }
    }
}

/// Rows of a source partition, incarnations together, as commits speak of them that do not land.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub source: String,
    pub topic: String,
    pub partition: i32,
    pub rows: u64,
    /// Sum of the rows' digests.
    #[serde(with = "hexadecimal")]
    pub digest: u128,
}

/// Rows added up by source partition, incarnations together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies(BTreeMap<(String, String, i32), (u64, u128)>);

impl Tallies {
    /// Adds so many rows, whose digests have this sum.
    pub fn add(&mut self, source: &str, topic: &str, partition: i32, rows: u64, digest: u128) {
        let sum = self.sum(source, topic, partition);
        *sum = (sum.0.wrapping_add(rows), sum.1.wrapping_add(digest));
    }

    /// Adds what a commit has landed.
    pub fn add_part(&mut self, part: &Part) {
        let SourcePartition { source, topic, partition, .. } = &part.partition;
        self.add(source, topic, *partition, part.rows, part.digest);
    }

    /// Adds what another tally says.
    pub fn add_all(&mut self, tally: &Tally) {
        self.add(&tally.source, &tally.topic, tally.partition, tally.rows, tally.digest);
    }

    /// Takes away what another tally says.
    pub fn take_away(&mut self, tally: &Tally) {
        let sum = self.sum(&tally.source, &tally.topic, tally.partition);
        *sum = (sum.0.wrapping_sub(tally.rows), sum.1.wrapping_sub(tally.digest));
    }

    fn sum(&mut self, source: &str, topic: &str, partition: i32) -> &mut (u64, u128) {
        self.0.entry((source.to_owned(), topic.to_owned(), partition)).or_default()
    }

    /// By source, topic and partition.
    pub fn into_vec(self) -> Vec<Tally> {
        let of = |((source, topic, partition), (rows, digest))| Tally { source, topic, partition, rows, digest };
        self.0.into_iter().map(of).collect()
    }
}

/// What a commit of a stream says that it has done with rows. Whoever only rewrites files says nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Rows that are new, with their positions.
    pub landed: Vec<Part>,
    /// Rows that are there no more: their time was up, or they were rejects that are repaired.
    pub forgotten: Vec<Tally>,
    /// Rows that took the place of rejects.
    pub repaired: Vec<Tally>,
}

impl Facts {
    /// Those of a commit.
    pub fn of(commit: &Committed) -> Self {
        let facts = commit.info().and_then(|info| serde_json::from_value(info.starmere.clone()).ok());
        facts.unwrap_or_default()
    }
}

/// The parts that a commit of a stream landed.
pub fn parts(commit: &Committed) -> Vec<Part> {
    Facts::of(commit).landed
}

/// A digest as 32 hexadecimal digits.
pub mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(digest: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{digest:032x}"))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::catalog::{CatalogSnapshot, Pin};
    use crate::delta::Warehouse;
    use crate::paths::TablePath;

    #[test]
    fn every_position_has_one_decision() {
        let batch = 10..20;
        assert_eq!(decide(None, &batch), Decision::Append);
        assert_eq!(decide(Some(10), &batch), Decision::Append);
        assert_eq!(decide(Some(9), &batch), Decision::Gap { reread_from: 9 });
        assert_eq!(decide(Some(0), &batch), Decision::Gap { reread_from: 0 });
        assert_eq!(decide(Some(11), &batch), Decision::AppendFrom(11));
        assert_eq!(decide(Some(19), &batch), Decision::AppendFrom(19));
        assert_eq!(decide(Some(20), &batch), Decision::SkipReplayed);
        assert_eq!(decide(Some(21), &batch), Decision::SkipReplayed);
    }

    #[test]
    fn an_empty_batch_is_appended_or_skipped() {
        assert_eq!(decide(Some(10), &(10..10)), Decision::Append);
        assert_eq!(decide(Some(11), &(10..10)), Decision::SkipReplayed);
        assert_eq!(decide(Some(9), &(10..10)), Decision::Gap { reread_from: 9 });
    }

    #[test]
    fn published_versions_that_are_gone_are_lost() {
        assert_eq!(lost(Some(3), None), None);
        assert_eq!(lost(None, None), None);
        assert_eq!(lost(Some(3), Some(3)), None);
        let words = "version 4 of the stream is published, and the newest one is 3; restore the log, or";
        assert!(lost(Some(3), Some(4)).unwrap().starts_with(words));
        assert!(lost(None, Some(0)).is_some());
    }

    #[tokio::test]
    async fn nothing_lands_where_a_published_version_is_gone() {
        let warehouse = Warehouse::new(Store::memory());
        let table = warehouse.table(TablePath::stream("d", "s"));
        let stream = || Stream::new("s", table.clone()).published_in(&Catalog::new(&warehouse));
        let publish = async |version| {
            let pin = Pin { path: table.path().clone(), version, consumed: BTreeMap::new() };
            let decide = |_: &CatalogSnapshot| Ok(Some(([("s".to_owned(), pin.clone())].into(), Value::Null)));
            Catalog::new(&warehouse).publish(decide).await.unwrap();
        };
        publish(0).await;
        let error = stream().open().await.unwrap_err();
        assert!(error.to_string().contains("version 0 of the stream is published"), "{error}");
        assert!(table.snapshot().await.unwrap().is_none(), "an empty table was made in its place");
        Stream::new("s", table.clone()).open().await.unwrap();
        stream().land(&[], Vec::new()).await.unwrap();
        publish(2).await;
        let error = stream().land(&[], Vec::new()).await.unwrap_err();
        assert!(error.to_string().contains("version 2 of the stream is published"), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_catalog_keeps_no_events_from_landing() {
        let warehouse = Warehouse::new(Store::memory());
        let (table, catalog) = (warehouse.table(TablePath::stream("d", "s")), Catalog::new(&warehouse));
        let stream = || Stream::new("s", table.clone()).published_in(&Catalog::new(&warehouse));
        for version in [0, 7, 7] {
            let pin = Pin { path: table.path().clone(), version, consumed: BTreeMap::new() };
            let decide = |_: &CatalogSnapshot| Ok(Some(([("s".to_owned(), pin.clone())].into(), Value::Null)));
            catalog.publish(decide).await.unwrap();
        }
        let damage = async |number| warehouse.store().write(&catalog.path(number), "{".into()).await.unwrap();
        damage(3).await;
        // What can be read is heeded still.
        let error = stream().open().await.unwrap_err();
        assert!(error.to_string().contains("version 7 of the stream is published"), "{error}");
        damage(2).await;
        damage(1).await;
        stream().land(&[], Vec::new()).await.unwrap();
        assert_eq!(stream().newest().await.unwrap().unwrap().version(), 1);
    }

    #[tokio::test]
    async fn an_object_beside_the_table_is_checked() {
        let store = Store::memory();
        let sha256 = hex::encode(sha2::Sha256::digest(b"long"));
        let kept = Oversized { path: "lake/d/s/_starmere/oversized/f/a%20b/0/7".into(), bytes: 4, sha256 };
        let row = serde_json::to_vec(&kept).unwrap();
        assert_eq!(Oversized::of(&row, &kept.rejection(3)), Some(kept.clone()));
        assert_eq!(Oversized::of(&row, "no type at `type`"), None, "an event may say what it likes");
        assert!(kept.damage(&store).await.unwrap().unwrap().contains("is gone"));
        let place = Path::parse(&kept.path).unwrap();
        let cases = [("lo", Some("has 2 bytes, not 4")), ("lung", Some("is not the event")), ("long", None)];
        for (content, finding) in cases {
            store.write(&place, content.into()).await.unwrap();
            let found = kept.damage(&store).await.unwrap();
            assert_eq!(found.is_some(), finding.is_some(), "{found:?}");
            assert!(finding.is_none_or(|finding| found.unwrap().contains(finding)));
        }
    }

    #[test]
    fn parts_survive_the_log() {
        let part = Part {
            partition: SourcePartition { source: "files".into(), topic: "a b/c".into(), incarnation: 0, partition: 0 },
            from: 0,
            to: 7,
            rows: 2,
            digest: row_digest(0, b"x", None).wrapping_add(row_digest(2, b"y", None)),
            mark: None,
        };
        let text = serde_json::to_string(&part).unwrap();
        assert_eq!(serde_json::from_str::<Part>(&text).unwrap(), part);
        let application = part.partition.application("or/ders");
        assert_eq!(application, "or%2Fders/files/a%20b%2Fc/0/0");
        assert_eq!(SourcePartition::of_application(&application, "or/ders"), Some(part.partition));
        assert_eq!(SourcePartition::of_application("starmere/rewrite", "starmere"), None);
    }
}
