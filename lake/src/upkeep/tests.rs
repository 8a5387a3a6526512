use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;

use super::*;
use crate::catalog::{Catalog, CatalogSnapshot, Pin};
use crate::delta::{Add, Commit, EncodedFile, FileOptions, Snapshot, Table, Warehouse};
use crate::paths::TablePath;
use crate::store::Store;

const DAY: i64 = 24 * 60 * 60 * 1000;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

struct World {
    warehouse: Warehouse,
    stream: Table,
}

impl World {
    fn new() -> Self {
        let warehouse = Warehouse::new(Store::memory());
        let stream = warehouse.table(TablePath::stream("d", "s"));
        Self { warehouse, stream }
    }

    /// Adds a file with one row.
    async fn add(&self, table: &Table, number: i64) -> Arc<Snapshot> {
        let snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![number]))]).unwrap();
        let file = EncodedFile::of(&schema(), &[batch], &FileOptions::default()).unwrap();
        let add = table.upload(file).await.unwrap();
        table.commit(&snapshot, Commit { adds: vec![add], operation: "WRITE", ..Commit::default() }).await.unwrap()
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
