use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use serde_json::Value;

use super::*;
use crate::Error;
use crate::catalog::{Catalog, CatalogSnapshot, Pin};
use crate::delta::{
    Add, CHECKPOINT_EVERY, Commit, EncodedFile, FileOptions, Looked, Snapshot, Table, Txn, Warehouse, archive,
};
use crate::paths::TablePath;
use crate::reread;
use crate::store::Store;
use crate::store::scripted::Scripted;

const HOUR: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOUR;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

struct World {
    warehouse: Warehouse,
    stream: Table,
}

impl World {
    fn new() -> Self {
        Self::over(Store::memory())
    }

    fn over(store: Store) -> Self {
        let warehouse = Warehouse::new(store);
        let stream = warehouse.table(TablePath::stream("d", "s"));
        Self { warehouse, stream }
    }

    /// Adds a file with one row.
    async fn add(&self, table: &Table, number: i64) -> Arc<Snapshot> {
        let snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
        let add = self.upload(table, number).await;
        table.commit(&snapshot, Commit { adds: vec![add], operation: "WRITE", ..Commit::default() }).await.unwrap()
    }

    async fn upload(&self, table: &Table, number: i64) -> Add {
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![number]))]).unwrap();
        let file = EncodedFile::of(&schema(), &[batch], &FileOptions::default()).unwrap();
        table.upload(file).await.unwrap()
    }

    async fn compact(&self) -> Compacted {
        let sizes = Sizes { fewest: 3, ..Sizes::default() };
        compact(&self.stream, &schema(), &FileOptions::default(), &sizes).await.unwrap()
    }

    async fn numbers(&self, version: Option<u64>) -> Vec<i64> {
        let snapshot = match version {
            Some(version) => self.stream.snapshot_at(version).await.unwrap(),
            None => self.stream.snapshot().await.unwrap().unwrap(),
        };
        let session = crate::session::Engine::new(self.warehouse.store(), 1 << 28).unwrap().session();
        let pinned = crate::provider::PinnedTable::new(self.warehouse.store(), snapshot);
        session.register_table("s", Arc::new(pinned)).unwrap();
        let batches = session.sql("SELECT n FROM s ORDER BY n").await.unwrap().collect().await.unwrap();
        let column =
            |batch: &RecordBatch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
        batches.iter().flat_map(column).collect()
    }

    async fn publish(&self, version: u64, model: Option<(&Table, u64)>) -> CatalogSnapshot {
        let pin = |table: &Table, version, consumed| Pin { path: table.path().clone(), version, consumed };
        let mut tables = BTreeMap::from([("lake.d.s".to_owned(), pin(&self.stream, version, BTreeMap::new()))]);
        if let Some((table, at)) = model {
            tables.insert("d.m".to_owned(), pin(table, at, [("lake.d.s".to_owned(), version)].into()));
        }
        Catalog::new(&self.warehouse).publish(|_| Ok(Some((tables.clone(), Value::Null)))).await.unwrap()
    }

    async fn clean(&self, days_later: i64, snapshot_days: u32) -> Cleaned {
        let keep = Keep::at(chrono::Utc::now().timestamp_millis() + days_later * DAY, snapshot_days);
        let told = clean_up(&self.warehouse, &keep, true).await.unwrap();
        let done = clean_up(&self.warehouse, &keep, false).await.unwrap();
        assert_eq!(told, done, "a dry run tells what is done");
        done
    }
}

fn file(path: &str, size: i64, day: &str) -> Arc<Add> {
    let text = format!(
        r#"{{"path":"{path}","partitionValues":{{"ingest_date":"{day}"}},"size":{size},"modificationTime":0,"dataChange":true}}"#
    );
    Arc::new(serde_json::from_str(&text).unwrap())
}

#[test]
fn small_files_of_a_partition_are_put_together() {
    let sizes = Sizes { target: 100, fewest: 3 };
    let plan = |files: &[Arc<Add>]| -> Vec<Vec<String>> {
        let groups = groups(files.iter(), &sizes);
        groups.iter().map(|group| group.iter().map(|add| add.path.clone()).collect()).collect()
    };
    let none: Vec<Vec<String>> = Vec::new();
    assert_eq!(plan(&[]), none);
    assert_eq!(plan(&[file("a", 10, "1"), file("b", 10, "1")]), none, "too few");
    assert_eq!(plan(&[file("a", 10, "1"), file("b", 10, "2"), file("c", 10, "3")]), none, "of three days");
    assert_eq!(plan(&[file("a", 10, "1"), file("b", 10, "1"), file("c", 10, "1")]), [["a", "b", "c"]]);
    assert_eq!(plan(&[file("a", 30, "1"), file("b", 30, "1")]), [["a", "b"]], "two are enough for half a target");
    assert_eq!(plan(&[file("a", 50, "1"), file("b", 49, "1"), file("c", 49, "1")]), [["b", "c"]], "large ones stay");
    let many: Vec<Arc<Add>> = (0..9).map(|number| file(&number.to_string(), 40, "1")).collect();
    assert_eq!(plan(&many), [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]], "one is left for later");
    let mixed = [file("a", 40, "1"), file("b", 2, "1"), file("c", 2, "1"), file("d", 2, "1")];
    assert_eq!(plan(&mixed), [["b", "c", "d"]], "what is large already is not written for little");
    assert_eq!(plan(&[&mixed[..], &[file("e", 1, "2")]].concat()), [["a", "b", "c", "d"]], "the day is over");
}

#[test]
fn a_row_is_written_anew_a_few_times() {
    let sizes = Sizes::default();
    let (mut files, mut written, mut number) = (Vec::new(), 0, 0);
    let (commits, bytes) = (20_000, 4_000);
    for commit in 0..commits {
        number += 1;
        files.push(file(&format!("{number:08}"), bytes, "1"));
        if commit % 80 != 0 {
            continue;
        }
        for group in groups(files.iter(), &sizes) {
            let size = group.iter().map(|add| add.size).sum();
            files.retain(|add: &Arc<Add>| group.iter().all(|gone| gone.path != add.path));
            number += 1;
            files.push(file(&format!("{number:08}"), size, "1"));
            written += size;
        }
    }
    assert_eq!(files.iter().map(|add| add.size).sum::<i64>(), commits * bytes);
    assert!(files.len() <= 130, "{} files", files.len());
    assert!(written <= commits * bytes * 5, "{written} of {} bytes were written anew", commits * bytes);
}

#[tokio::test]
async fn a_compaction_changes_no_row_and_no_older_version() {
    let world = World::new();
    for number in 0..5 {
        world.add(&world.stream, number).await;
    }
    assert_eq!(world.compact().await, Compacted { files: 5, into: 1, rows: 5 });
    assert_eq!(world.compact().await, Compacted::default());
    world.add(&world.stream, 5).await;
    assert_eq!(world.numbers(None).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(world.numbers(Some(3)).await, [0, 1, 2]);
    let commits = world.stream.commits(5, 6).await.unwrap();
    assert_eq!((commits[0].added().count(), commits[0].removed().count()), (0, 0), "nothing for consumers");
}

#[tokio::test]
async fn clean_up_keeps_what_anybody_may_need() {
    let world = World::new();
    for number in 0..3 {
        world.add(&world.stream, number).await;
    }
    let model = world.warehouse.table(TablePath::model("d", "m", "f00", "rows"));
    let dropped = world.warehouse.table(TablePath::model("d", "m", "f11", "rows"));
    world.add(&model, 7).await;
    world.add(&dropped, 8).await;
    world.publish(2, Some((&model, 1))).await;
    world.compact().await;
    assert_eq!(world.clean(6, 30).await, Cleaned::default(), "all is young");
    let cleaned = world.clean(8, 30).await;
    // A file and two commits of the table that nothing pins. Of the files that were put together, two are in
    // version 2; the third is still to be read by the model.
    assert_eq!((cleaned.files, cleaned.snapshots), (3, 0), "{cleaned:?}");
    assert_eq!(cleaned.tables, [dropped.path().to_string()]);
    assert_eq!(world.numbers(Some(2)).await, [0, 1]);
    assert_eq!(world.numbers(Some(3)).await, [0, 1, 2]);
    // Later, a build has consumed everything, and the old snapshot expires.
    world.add(&model, 9).await;
    world.publish(4, Some((&model, 2))).await;
    assert_eq!(world.clean(8, 30).await, Cleaned::default(), "the old snapshot is retained");
    let cleaned = world.clean(40, 30).await;
    assert_eq!((cleaned.files, cleaned.snapshots), (3, 1), "{cleaned:?}");
    assert_eq!(world.clean(40, 30).await, Cleaned::default(), "the newest stays, however old it is");
    assert_eq!(world.numbers(None).await, [0, 1, 2]);
    assert_eq!(Catalog::new(&world.warehouse).newest().await.unwrap().number, 2);
}

/// A reread may be taken back for days, beside an `up` that puts files together and cleans up.
#[tokio::test]
async fn files_of_a_reread_stay_apart_and_those_of_before_are_kept_for_a_week() {
    let world = World::new();
    for number in 0..3 {
        world.add(&world.stream, number).await;
    }
    let before = world.stream.snapshot().await.unwrap().unwrap();
    assert_eq!(reread::reread_at(&before), None);
    let written = chrono::Utc::now().timestamp_millis();
    while chrono::Utc::now().timestamp_millis() <= written {
        tokio::task::yield_now().await;
    }
    let mut adds = Vec::new();
    for number in 10..13 {
        let mut add = world.upload(&world.stream, number).await;
        reread::tag(&mut add);
        adds.push(add);
    }
    let removes = before.files().map(|add| add.remove()).collect();
    let txns = reread::positions(&before);
    let commit = Commit { adds, removes, txns, operation: "UPDATE", ..Commit::default() };
    let after = world.stream.commit(&before, commit).await.unwrap();
    assert_eq!(reread::reread_at(&after), Some(4));
    assert_eq!(world.compact().await, Compacted::default());
    for number in 20..23 {
        world.add(&world.stream, number).await;
    }
    assert_eq!(world.compact().await, Compacted { files: 3, into: 1, rows: 3 }, "what landed since");
    // Nobody has published anything, and nobody reads the version before any more.
    let now = chrono::Utc::now().timestamp_millis();
    let keep = Keep { objects_since: written, removed_since: now + HOUR, ..Keep::at(now, 30) };
    assert_eq!(clean_up(&world.warehouse, &keep, false).await.unwrap().files, 0);
    assert_eq!(world.numbers(Some(3)).await, [0, 1, 2]);
    let cleaned = world.clean(8, 30).await;
    assert_eq!(cleaned.files, 6, "those of before, and those that were put together");
    assert_eq!(world.numbers(None).await, [10, 11, 12, 20, 21, 22]);
}

/// `up` publishes every few versions; what is between them belongs to nobody else's snapshot for long.
#[tokio::test]
async fn however_often_versions_are_pinned_each_can_be_read_until_its_days_are_over() {
    let world = World::new();
    for number in 0..90 {
        world.add(&world.stream, number).await;
        if number % 4 == 3 {
            world.compact().await;
        }
        let newest = world.stream.snapshot().await.unwrap().unwrap();
        world.publish(newest.version(), None).await;
    }
    let catalog = Catalog::new(&world.warehouse);
    let cleaned = world.clean(8, 30).await;
    assert_eq!((cleaned.files, cleaned.packed, cleaned.snapshots), (40, 40, 0), "only commits are packed");
    for number in catalog.numbers().await.unwrap().into_iter().step_by(11) {
        let version = catalog.at(number).await.unwrap().tables["lake.d.s"].version;
        let expected: Vec<i64> = (0..number as i64).collect();
        assert_eq!(world.numbers(Some(version)).await, expected, "snapshot {number}");
    }
    let cleaned = world.clean(40, 30).await;
    assert_eq!(cleaned.snapshots, 89);
    let newest = world.stream.snapshot().await.unwrap().unwrap();
    let mut objects = world.warehouse.store().list(&world.stream.path().root(), None).await.unwrap();
    objects.retain(|object| crate::paths::is_data_file(world.stream.path(), &object.location));
    assert_eq!(objects.len(), newest.files().len(), "{cleaned:?}");
    assert_eq!(world.numbers(None).await, (0..90).collect::<Vec<_>>());
}

/// `up` of two machines that were started together clean up at the same moments.
#[tokio::test]
async fn two_clean_ups_at_once_do_not_fail() {
    for moment in 0.. {
        let memory = Arc::new(InMemory::new());
        let world = World::over(Store::over(memory.clone(), "memory://world"));
        for number in 0..4 {
            let newest = world.add(&world.stream, number).await;
            world.publish(newest.version(), None).await;
        }
        let keep = Keep::at(chrono::Utc::now().timestamp_millis() + 40 * DAY, 30);
        let (script, other) = (Scripted::new(&memory), world.warehouse.clone());
        script.before(moment, async move {
            clean_up(&other, &keep, false).await.unwrap();
        });
        clean_up(&Warehouse::new(script.opened()), &keep, false).await.unwrap();
        assert_eq!(Catalog::new(&world.warehouse).numbers().await.unwrap(), [4]);
        assert_eq!(world.numbers(None).await, [0, 1, 2, 3]);
        if !script.has_happened() {
            assert!(moment > 4, "a clean-up has more than {moment} operations");
            break;
        }
    }
}

#[tokio::test]
async fn files_that_went_out_of_a_table_lately_can_be_read_on() {
    let world = World::new();
    for number in 0..4 {
        world.add(&world.stream, number).await;
    }
    world.compact().await;
    // They are old, and were put together a moment ago, while somebody reads them. Nothing has been published.
    let now = chrono::Utc::now().timestamp_millis();
    let keep = Keep { objects_since: now + DAY, ..Keep::at(now, 30) };
    assert_eq!(clean_up(&world.warehouse, &keep, false).await.unwrap(), Cleaned::default());
    assert_eq!(world.numbers(Some(4)).await, [0, 1, 2, 3]);
    assert_eq!(world.clean(8, 30).await.files, 4);
    assert_eq!(world.numbers(None).await, [0, 1, 2, 3]);
}

/// Whoever restores the log from a copy finds the files.
#[tokio::test]
async fn files_of_a_log_that_is_lost_are_kept() {
    for lost in [4..=5, 0..=5] {
        let store = Store::memory();
        let world = World::over(store.clone());
        for number in 0..5 {
            world.add(&world.stream, number).await;
        }
        world.publish(5, None).await;
        let mut log = Vec::new();
        for version in lost {
            let path = world.stream.path().commit(version);
            log.push((path.clone(), store.read(&path).await.unwrap().unwrap()));
            store.delete([path]).await.unwrap();
        }
        let restarted = World::over(store.clone());
        assert_eq!(restarted.clean(8, 30).await, Cleaned::default());
        for (path, commit) in log {
            store.write(&path, commit).await.unwrap();
        }
        assert_eq!(World::over(store).numbers(None).await, [0, 1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_makes_nothing_old() {
    let script = Scripted::new(&Arc::new(InMemory::new()));
    script.set_behind(chrono::TimeDelta::days(9));
    let world = World::over(script.opened());
    world.add(&world.stream, 1).await;
    // Somebody is about to commit it.
    world.upload(&world.stream, 2).await;
    let by_ours = Keep::at(chrono::Utc::now().timestamp_millis(), 30);
    assert_eq!(clean_up(&world.warehouse, &by_ours, true).await.unwrap().files, 1);
    let keep = Keep::now(world.warehouse.store(), 30).await.unwrap();
    assert_eq!(clean_up(&world.warehouse, &keep, false).await.unwrap(), Cleaned::default());
    // Where our clock is behind, it counts.
    script.set_behind(chrono::TimeDelta::days(-9));
    let keep = Keep::now(world.warehouse.store(), 30).await.unwrap();
    assert!(keep.objects_since <= chrono::Utc::now().timestamp_millis() - Keep::YOUNG);
}

/// A store for whoever dies after so many operations.
#[derive(Debug)]
struct Dying {
    store: Arc<InMemory>,
    left: AtomicUsize,
}

impl Dying {
    fn new(store: &Arc<InMemory>, operations: usize) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), left: operations.into() })
    }

    fn warehouse(self: &Arc<Self>) -> Warehouse {
        Warehouse::new(Store::over(self.clone(), "memory://dying"))
    }

    fn live(&self) -> object_store::Result<()> {
        let lived = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let dead = |_| object_store::Error::Generic { store: "dying", source: "whoever asks is dead".into() };
        lived.map(|_| ()).map_err(dead)
    }
}

impl fmt::Display for Dying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dying {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Dying {
    async fn put_opts(&self, path: &Path, bytes: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.live()?;
        self.store.put_opts(path, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.live()?;
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.live()?;
        self.store.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.live() {
            Ok(()) => self.store.delete_stream(paths),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.live() {
            Ok(()) => self.store.list(prefix),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.live()?;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.live()?;
        self.store.copy_opts(from, to, options).await
    }
}

/// A commit that says its version.
fn counted(version: u64) -> Commit {
    let txns = vec![Txn::now("n".to_owned(), version as i64)];
    Commit { txns, operation: "WRITE", facts: version.into(), ..Commit::default() }
}

/// A writer whose commit is on its way for long, while the writer gives up.
async fn lost(store: &Arc<InMemory>, path: &TablePath) -> Arc<Scripted> {
    let script = Scripted::new(store);
    let table = Warehouse::new(script.opened()).table(path.clone());
    let base = table.snapshot().await.unwrap().unwrap();
    script.lose("_delta_log");
    assert!(table.commit(&base, counted(base.version() + 1)).await.is_err());
    script
}

/// Tries to lose commits, to change them, or to have some twice, by clean-ups that die at any operation, by writers
/// that read the table, sleep while their version is made, packed and deleted, and go on as if nothing had happened,
/// and by commits that arrive when nobody waits for them any more; and to mislead a reader that looks now and then.
#[tokio::test]
async fn a_packed_log_says_what_it_said_whoever_dies_or_sleeps() {
    let path = TablePath::stream("d", "s");
    for seed in 0..80 {
        let mut random = fastrand::Rng::with_seed(seed);
        let store = Arc::new(InMemory::new());
        let warehouse = || Warehouse::new(Store::over(store.clone(), "memory://packed"));
        let open = || warehouse().table(path.clone());
        let keep = Keep::at(chrono::Utc::now().timestamp_millis() + 2 * HOUR, 30);
        let mut newest = open().open_or_create(&schema(), &[]).await.unwrap();
        let mut asleep: Vec<(Table, Arc<Snapshot>)> = Vec::new();
        let mut late: Vec<Arc<Scripted>> = Vec::new();
        let reader = open();
        for _ in 0..random.usize(1..5) {
            for _ in 0..random.usize(1..90) {
                if random.u32(0..10) == 0 {
                    let table = open();
                    let base = table.snapshot().await.unwrap().unwrap();
                    asleep.push((table, base));
                }
                if random.u32(0..20) == 0 {
                    late.push(lost(&store, &path).await);
                }
                if random.u32(0..20) == 0 {
                    let arrives = random.usize(0..=late.len());
                    for script in late.split_off(arrives) {
                        script.deliver().await;
                    }
                    newest = open().snapshot().await.unwrap().unwrap();
                }
                newest = open().commit(&newest, counted(newest.version() + 1)).await.unwrap();
            }
            // Commits are packed an hour later.
            Looked::sleep();
            for _ in 0..random.usize(0..4) {
                let dying = Dying::new(&store, random.usize(0..250));
                _ = clean_up(&dying.warehouse(), &keep, false).await;
            }
            if random.bool() {
                clean_up(&warehouse(), &keep, false).await.unwrap();
            }
            for (table, mut base) in asleep.split_off(random.usize(0..=asleep.len())) {
                let mut attempts = 0;
                newest = loop {
                    match table.commit(&base, counted(base.version() + 1)).await {
                        Ok(made) => break made,
                        Err(Error::Conflict { .. }) => base = table.snapshot().await.unwrap().unwrap(),
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                    attempts += 1;
                    assert!(attempts < 5, "seed {seed}: the writer never gets up");
                };
            }
            let arrives = random.usize(0..=late.len());
            for script in late.split_off(arrives) {
                script.deliver().await;
            }
            let table = open();
            let acknowledged = newest.version();
            newest = table.snapshot().await.unwrap().unwrap();
            let version = newest.version();
            assert!(version >= acknowledged, "seed {seed}: what was acknowledged is there");
            let seen = reader.snapshot().await.unwrap().unwrap();
            assert_eq!((seen.version(), seen.txn("n")), (version, Some(version as i64)), "seed {seed}: it sees all");
            let commits = table.commits(0, version).await.unwrap();
            let said = commits.iter().map(|commit| commit.info().unwrap().starmere.as_u64().unwrap());
            assert!(said.eq(1..=version), "seed {seed}: the log says what it said");
            let some = random.u64(1..=version);
            assert_eq!(open().snapshot_at(some).await.unwrap().txn("n"), Some(some as i64), "seed {seed}");
        }
        clean_up(&warehouse(), &keep, false).await.unwrap();
        let log = open().store().list(&path.log(), None).await.unwrap();
        let most = (3 * archive::PACK + 3 * CHECKPOINT_EVERY) as usize;
        assert!(log.len() < most, "seed {seed}: {} objects of {} commits", log.len(), newest.version());
    }
}

/// Some engines read from the checkpoint that is announced, and on until a commit is missing.
#[tokio::test]
async fn what_is_announced_leads_to_the_newest_version_after_every_clean_up() {
    let world = World::new();
    let mut newest = world.stream.open_or_create(&schema(), &[]).await.unwrap();
    for version in 1..=230 {
        newest = world.stream.commit(&newest, counted(version)).await.unwrap();
    }
    // It came late.
    let (store, path) = (world.warehouse.store(), world.stream.path());
    store.write(&path.last_checkpoint(), "{\"version\":50,\"size\":3}".into()).await.unwrap();
    assert_eq!(world.clean(8, 30).await.packed as u64, 140 / archive::PACK * archive::PACK);
    let hint = store.read(&path.last_checkpoint()).await.unwrap().unwrap();
    let announced = serde_json::from_slice::<Value>(&hint).unwrap()["version"].as_u64().unwrap();
    assert!(store.exists(&path.checkpoint(announced)).await.unwrap());
    for version in announced + 1..=newest.version() {
        assert!(store.exists(&path.commit(version)).await.unwrap(), "{version} is not behind {announced}");
    }
}

#[tokio::test]
async fn a_look_at_a_table_costs_what_is_new() {
    let store = Arc::new(InMemory::new());
    let counting = Dying::new(&store, usize::MAX);
    let table = counting.warehouse().table(TablePath::stream("d", "s"));
    let writer = Warehouse::new(Store::over(store.clone(), "memory://writer")).table(table.path().clone());
    let mut newest = writer.open_or_create(&schema(), &[]).await.unwrap();
    let mut built: Option<Arc<Snapshot>> = None;
    for round in 0..30 {
        for _ in 0..8 {
            newest = writer.commit(&newest, counted(newest.version() + 1)).await.unwrap();
        }
        let now = table.snapshot().await.unwrap().unwrap();
        assert_eq!(now.version(), newest.version());
        for _ in 0..3 {
            newest = writer.commit(&newest, counted(newest.version() + 1)).await.unwrap();
            table.snapshot().await.unwrap();
        }
        // A build compares what it has with what the one before had.
        let before = built.as_ref().map_or(now.version(), |built| built.version());
        assert_eq!(table.snapshot_at(before).await.unwrap().version(), before);
        built = Some(table.snapshot_at(now.version()).await.unwrap());
        let operations = usize::MAX - counting.left.load(Ordering::Relaxed);
        assert!(operations <= (round + 1) * 60, "{operations} operations after {} rounds", round + 1);
    }
}
