use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use object_store::memory::InMemory;

use super::*;
use crate::damage;
use crate::provider::PinnedTable;
use crate::session::Engine;
use crate::store::scripted::Scripted;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
    ]))
}

fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
    let names = ids.clone().map(|id| (id % 3 != 0).then(|| format!("name {id} {}", "x".repeat(40))));
    let at = TimestampMicrosecondArray::from_iter_values(ids.clone().map(|id| id * 1_000_001)).with_timezone("UTC");
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(StringArray::from_iter(names)), Arc::new(at)];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn table() -> Table {
    Warehouse::new(Store::memory()).table(TablePath::stream("sales", "orders"))
}

async fn append(table: &Table, base: &Snapshot, ids: std::ops::Range<i64>) -> Result<Arc<Snapshot>> {
    let position = ids.end;
    let file = EncodedFile::of(&schema(), &[batch(ids)], &FileOptions::default())?;
    let add = table.upload(file).await?;
    let txns = vec![Txn::now("reader".into(), position)];
    table.commit(base, Commit { adds: vec![add], txns, operation: "WRITE", ..Commit::default() }).await
}

#[tokio::test]
async fn a_table_is_the_fold_of_its_log_with_and_without_checkpoint() {
    let table = table();
    let mut snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
    for version in 0..CHECKPOINT_EVERY as i64 + 3 {
        snapshot = append(&table, &snapshot, version * 10..version * 10 + 10).await.unwrap();
    }
    let removed = snapshot.files().next().unwrap().clone();
    let commit = Commit { removes: vec![removed.remove()], operation: "DELETE", ..Commit::default() };
    snapshot = table.commit(&snapshot, commit).await.unwrap();

    let fresh = Warehouse::new(table.store().clone()).table(table.path().clone());
    let read = fresh.snapshot().await.unwrap().unwrap();
    assert_eq!(read.version(), snapshot.version());
    assert_eq!(read.schema(), &schema());
    assert_eq!(read.txn("reader"), snapshot.txn("reader"));
    assert_eq!(read.rows(), Some((CHECKPOINT_EVERY + 2) * 10));
    let paths = |snapshot: &Snapshot| snapshot.files().map(|add| add.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&read), paths(&snapshot));
    assert!(table.store().read(&table.path().checkpoint(CHECKPOINT_EVERY)).await.unwrap().is_some());
    for version in [0, 1, CHECKPOINT_EVERY - 1, CHECKPOINT_EVERY, CHECKPOINT_EVERY + 1] {
        let fresh = Warehouse::new(table.store().clone()).table(table.path().clone());
        assert_eq!(fresh.snapshot_at(version).await.unwrap().rows(), Some(version * 10), "at version {version}");
    }
    assert!(fresh.snapshot_at(1000).await.is_err());
}

/// Packs the commits before `end`, and takes them out of the log.
async fn pack(table: &Table, end: u64) {
    for first in (0..end).step_by(archive::PACK as usize) {
        let mut commits = Vec::new();
        for version in first..=archive::last_of(first) {
            commits.push((version, table.store().read(&table.path().commit(version)).await.unwrap().unwrap()));
        }
        archive::pack(table.store(), table.path(), commits.clone()).await.unwrap();
        table.store().delete(commits.iter().map(|(version, _)| table.path().commit(*version))).await.unwrap();
    }
}

fn fresh(table: &Table) -> Table {
    Warehouse::new(table.store().clone()).table(table.path().clone())
}

#[tokio::test]
async fn a_packed_log_is_read_with_and_without_checkpoints() {
    let table = table();
    let mut snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
    for version in 0..130 {
        snapshot = append(&table, &snapshot, version..version + 1).await.unwrap();
    }
    pack(&table, 100).await;
    for version in [0, 7, 19, 20, 50, 77, 99, 100, 101, 130] {
        assert_eq!(fresh(&table).snapshot_at(version).await.unwrap().rows(), Some(version), "at version {version}");
    }
    let commits = fresh(&table).commits(3, 130).await.unwrap();
    assert!(commits.iter().map(|commit| commit.version).eq(4..=130));
    assert!(commits.iter().all(|commit| commit.added().count() == 1));
    assert_eq!(fresh(&table).snapshot().await.unwrap().unwrap().version(), 130);
    let checkpoints = [50, 100].map(|version| table.path().checkpoint(version));
    table.store().delete(checkpoints.into_iter().chain([table.path().last_checkpoint()])).await.unwrap();
    assert_eq!(fresh(&table).snapshot().await.unwrap().unwrap().rows(), Some(130));
    table.store().delete([table.path().archive(40, 59)]).await.unwrap();
    let error = fresh(&table).snapshot().await.unwrap_err();
    assert_eq!(error.to_string(), "`lake/sales/orders/_delta_log` is damaged: commit 40 is missing, 100 is there");
}

#[tokio::test]
async fn who_slept_while_commits_were_packed_sees_what_came() {
    let table = table();
    let mut snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
    let (reader, writer) = (fresh(&table), fresh(&table));
    assert_eq!(reader.snapshot().await.unwrap().unwrap().version(), 0);
    let base = writer.snapshot().await.unwrap().unwrap();
    for version in 0..130 {
        snapshot = append(&table, &snapshot, version..version + 1).await.unwrap();
    }
    pack(&table, 100).await;
    Looked::sleep();
    assert_eq!(reader.snapshot().await.unwrap().unwrap().version(), 130);
    // The writer creates what nobody has any more, finds out, and takes it away again.
    let error = append(&writer, &base, 0..1).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { version: 1, .. }), "{error}");
    assert!(!table.store().exists(&table.path().commit(1)).await.unwrap());
    let newest = writer.snapshot().await.unwrap().unwrap();
    assert_eq!(append(&writer, &newest, 0..1).await.unwrap().version(), 131);
    // What it leaves when it dies before that is nobody's.
    table.store().write(&table.path().commit(5), "{}".into()).await.unwrap();
    assert_eq!(fresh(&table).commits(4, 5).await.unwrap()[0].added().count(), 1);
}

/// A table in `memory`, as one process sees it and another one by way of a script.
fn scripted(memory: &Arc<InMemory>) -> (Table, Table, Arc<Scripted>) {
    let path = TablePath::stream("sales", "orders");
    let script = Scripted::new(memory);
    let reader = Warehouse::new(script.opened()).table(path.clone());
    (Warehouse::new(Store::over(memory.clone(), "memory://writer")).table(path), reader, script)
}

async fn position(table: &Table, base: &Snapshot, position: i64) -> Arc<Snapshot> {
    let txns = vec![Txn::now("reader".into(), position)];
    table.commit(base, Commit { txns, operation: "WRITE", ..Commit::default() }).await.unwrap()
}

/// Tries to make a reader take what is packed for what never was, or a commit that came too late for one of the table:
/// others pack, and something late arrives, before each single operation of a reader that was away for long.
#[tokio::test]
async fn who_looks_while_commits_are_packed_finds_the_newest_version() {
    let mut moments = 0;
    loop {
        let (writer, reader, script) = scripted(&Arc::new(InMemory::new()));
        let mut newest = writer.open_or_create(&schema(), &[]).await.unwrap();
        for version in 1..=3 {
            newest = position(&writer, &newest, version).await;
        }
        assert_eq!(reader.snapshot().await.unwrap().unwrap().version(), 3);
        for version in 4..=130 {
            newest = position(&writer, &newest, version).await;
        }
        Looked::sleep();
        let others = fresh(&writer);
        script.before(moments, async move {
            pack(&others, 100).await;
            for version in [4, 23] {
                let late = "{\"txn\":{\"appId\":\"late\",\"version\":1}}\n";
                others.store().write(&others.path().commit(version), late.into()).await.unwrap();
            }
        });
        let found = reader.snapshot().await.unwrap().unwrap();
        let all = !script.has_happened();
        for found in [found, reader.snapshot().await.unwrap().unwrap()] {
            let seen = (found.version(), found.txn("reader"), found.txn("late"));
            assert_eq!(seen, (130, Some(130), None), "before operation {moments}");
        }
        if all {
            break;
        }
        moments += 1;
    }
    assert!(moments > 20, "{moments} operations are too few");
}

/// Who copies a warehouse while it is used may copy a log before its commits are packed, and the archives afterwards.
#[tokio::test]
async fn archives_that_are_newer_than_the_log_count() {
    let table = table();
    let mut newest = table.open_or_create(&schema(), &[]).await.unwrap();
    let mut copied = Vec::new();
    for version in 1..=130 {
        newest = position(&table, &newest, version).await;
        if version == 30 {
            copied = table.store().list(&table.path().log(), None).await.unwrap();
        }
    }
    let texts = futures::future::join_all(copied.iter().map(|object| table.store().read(&object.location))).await;
    pack(&table, 100).await;
    let log = table.store().list(&table.path().log(), None).await.unwrap();
    table.store().delete(log.into_iter().map(|object| object.location)).await.unwrap();
    for (object, text) in copied.iter().zip(texts) {
        table.store().write(&object.location, text.unwrap().unwrap()).await.unwrap();
    }
    let found = fresh(&table).snapshot().await.unwrap().unwrap();
    assert_eq!((found.version(), found.txn("reader")), (99, Some(99)));
    assert_eq!(fresh(&table).snapshot_at(77).await.unwrap().txn("reader"), Some(77));
    assert_eq!(position(&fresh(&table), &found, 100).await.version(), 100);
}

/// Tries to make a writer say that nothing came after its commit, which it made long ago.
#[tokio::test]
async fn who_sleeps_after_a_commit_finds_what_came_after_it() {
    let (writer, sleeper, script) = scripted(&Arc::new(InMemory::new()));
    writer.open_or_create(&schema(), &[]).await.unwrap();
    let base = sleeper.snapshot().await.unwrap().unwrap();
    let others = writer.clone();
    // The commit is made, and whether somebody has packed it is not looked at yet.
    script.before(1, async move {
        let mut newest = others.snapshot().await.unwrap().unwrap();
        assert_eq!(newest.version(), 1);
        for version in 2..=130 {
            newest = position(&others, &newest, version).await;
        }
        Looked::sleep();
        pack(&others, 100).await;
    });
    assert_eq!(position(&sleeper, &base, 1).await.version(), 1, "it is its commit that was packed");
    assert_eq!(sleeper.snapshot().await.unwrap().unwrap().version(), 130);
}

/// A machine may sleep for a week between writing a file and committing it, while clean-up deletes what nobody needs.
#[tokio::test]
async fn a_file_that_was_written_days_ago_is_not_committed() {
    let table = table();
    let base = table.open_or_create(&schema(), &[]).await.unwrap();
    let file = EncodedFile::of(&schema(), &[batch(0..3)], &FileOptions::default()).unwrap();
    let mut add = table.upload(file).await.unwrap();
    let commit = |add: &Add| Commit { adds: vec![add.clone()], operation: "WRITE", ..Commit::default() };
    add.modification_time -= OVERDUE + 1;
    let refused = table.commit(&base, commit(&add)).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { version: 1, .. }), "{refused}");
    assert_eq!(table.snapshot().await.unwrap().unwrap().version(), 0);
    add.modification_time += 60_000;
    assert_eq!(table.commit(&base, commit(&add)).await.unwrap().rows(), Some(3));
}

#[tokio::test]
async fn a_commit_that_a_listing_lacks_is_no_hole() {
    let (writer, reader, script) = scripted(&Arc::new(InMemory::new()));
    let mut newest = writer.open_or_create(&schema(), &[]).await.unwrap();
    for version in 1..=6 {
        newest = position(&writer, &newest, version).await;
    }
    // They came while a folder was listed.
    [0, 2, 3, 6].into_iter().for_each(|version| script.hide(reader.path().commit(version)));
    assert_eq!(reader.snapshot().await.unwrap().unwrap().txn("reader"), Some(6));
}

#[tokio::test]
async fn of_two_commits_at_one_version_one_wins() {
    let table = table();
    let base = table.open_or_create(&schema(), &[]).await.unwrap();
    append(&table, &base, 0..1).await.unwrap();
    let lost = append(&table, &base, 1..2).await.unwrap_err();
    assert!(matches!(lost, Error::Conflict { version: 1, .. }), "{lost}");
    assert_eq!(table.snapshot().await.unwrap().unwrap().rows(), Some(1));
}

#[tokio::test]
async fn a_log_with_a_hole_is_refused() {
    let table = table();
    let mut snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
    for version in 0..4 {
        snapshot = append(&table, &snapshot, version..version + 1).await.unwrap();
    }
    use object_store::ObjectStoreExt as _;
    table.store().objects().delete(&table.path().commit(2)).await.unwrap();
    let fresh = Warehouse::new(table.store().clone()).table(table.path().clone());
    let error = fresh.snapshot().await.unwrap_err();
    assert_eq!(error.to_string(), "`lake/sales/orders/_delta_log` is damaged: commit 2 is missing, 3 is there");
}

#[tokio::test]
async fn bounds_are_written_outwards() {
    let table = table();
    let base = table.open_or_create(&schema(), &[]).await.unwrap();
    let snapshot = append(&table, &base, 1..3).await.unwrap();
    let stats: serde_json::Value =
        serde_json::from_str(snapshot.files().next().unwrap().stats.as_ref().unwrap()).unwrap();
    assert_eq!(stats["minValues"]["at"], "1970-01-01T00:00:01.000Z");
    assert_eq!(stats["maxValues"]["at"], "1970-01-01T00:00:02.001Z");
    assert_eq!(stats["minValues"]["id"], 1);
    assert_eq!(stats["nullCount"]["name"], 0);
    let upper = stats["maxValues"]["name"].as_str().unwrap();
    assert!(upper > format!("name 2 {}", "x".repeat(40)).as_str() && upper.chars().count() == 33);
}

#[test]
fn schemas_survive_the_way_through_delta() {
    let fields = vec![
        Field::new("a", DataType::Decimal128(18, 2), true),
        Field::new("b", DataType::Date32, true),
        Field::new("c", DataType::Binary, true),
        Field::new("d", DataType::Boolean, false),
        Field::new(
            "e",
            DataType::List(Arc::new(Field::new(
                "element",
                DataType::Struct(vec![Field::new("name", DataType::Utf8, false)].into()),
                false,
            ))),
            true,
        ),
    ];
    let schema = Arc::new(Schema::new(fields));
    assert_eq!(schema_from_delta(&schema_to_delta(&schema).unwrap()).unwrap(), schema);
}

#[test]
fn a_commit_of_another_writer_is_read_without_what_nobody_needs() {
    let text = br#"{"cdc":{"path":"x"}}
{"txn":{"appId":"a","version":1}}

{"domainMetadata":{"domain":"d","configuration":"","removed":false}}"#;
    assert_eq!(actions::decode("x", text).unwrap().len(), 1);
    let error = actions::decode("x", b"{\"add\":{\"path\":1}}").unwrap_err();
    assert!(error.to_string().starts_with("`x` is damaged: line 1: "), "{error}");
}

#[tokio::test]
async fn a_file_says_which_values_it_may_hold() {
    let table = table();
    let options = FileOptions { hashed: vec!["name".into()], ..FileOptions::default() };
    let batches = [batch(0..2_000), batch(5_000..5_500)];
    let add = table.upload(EncodedFile::of(&schema(), &batches, &options).unwrap()).await.unwrap();
    let hashes = table.hashes(&add, &["name"]).await.unwrap().unwrap();
    let hash =
        |text: String| hash_rows(&[Arc::new(StringArray::from(vec![text])) as arrow::array::ArrayRef]).unwrap()[0];
    let may_hold = |id: i64| hashes.may_hold(hash(format!("name {id} {}", "x".repeat(40))));
    assert!((0..2_000).chain(5_000..5_500).filter(|id| id % 3 != 0).all(may_hold));
    assert!(!(2_000..5_000).any(may_hold));
    assert!(table.hashes(&add, &["id"]).await.unwrap().is_none());
    assert_eq!(table.read(&add, &schema()).await.unwrap().num_rows(), 2_500);
    let plain = table.upload(EncodedFile::of(&schema(), &batches, &FileOptions::default()).unwrap()).await.unwrap();
    assert!(table.hashes(&plain, &["name"]).await.unwrap().is_none());
    // What is copied with a file is there still, unless its columns are replaced.
    let all: Vec<i64> = (0..2_000).chain(5_000..5_500).collect();
    let of = |name: &str, column: arrow::array::ArrayRef| {
        let field = schema().field_with_name(name).unwrap().clone();
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
    };
    let ids = of("id", Arc::new(Int64Array::from_iter_values(all.iter().map(|id| id + 1))));
    let same = table.with_columns(&add, &schema(), ids, options.clone()).await.unwrap();
    assert!(
        table.hashes(&same, &["name"]).await.unwrap().unwrap().may_hold(hash(format!("name 1 {}", "x".repeat(40))))
    );
    let names = of("name", Arc::new(StringArray::from(vec!["x"; 2_500])));
    let other = table.with_columns(&add, &schema(), names, options).await.unwrap();
    assert!(table.hashes(&other, &["name"]).await.unwrap().is_none());
}

#[tokio::test]
async fn files_say_what_they_are_like() {
    let table = table();
    let options = FileOptions::default();
    let first = table.upload(EncodedFile::of(&schema(), &[batch(0..10)], &options).unwrap()).await.unwrap();
    let replaced = |column: usize| batch(0..10).project(&[column]).unwrap();
    let second = table.with_columns(&first, &schema(), replaced(2), options.clone()).await.unwrap();
    let third = table.with_columns(&second, &schema(), replaced(1), options.clone()).await.unwrap();
    let same = |add: &Add, columns: &[&str], other: &Add| add.same_as(columns, |file| file == other.path).is_some();
    assert!(same(&second, &["id", "name"], &first) && !same(&second, &["id", "at"], &first));
    assert!(same(&third, &["id", "at"], &second) && !same(&third, &["name"], &second));
    // Of the one before the one before, what either step has replaced differs.
    assert!(same(&third, &["id"], &first) && !same(&third, &["at"], &first) && !same(&third, &["name"], &first));
    assert!(!same(&first, &["id"], &second) && !same(&second, &["id"], &third));
    let mut last = third;
    for _ in 0..6 {
        last = table.with_columns(&last, &schema(), replaced(1), options.clone()).await.unwrap();
    }
    assert!(!same(&last, &["id"], &first), "only some are remembered");
}

#[tokio::test]
async fn some_rows_of_a_file_are_read() {
    let table = table();
    let options = FileOptions { row_group: 100, ..FileOptions::default() };
    let add = table.upload(EncodedFile::of(&schema(), &[batch(0..950)], &options).unwrap()).await.unwrap();
    let wanted: Wanted = Arc::new(|id| id % 7 == 0 || id == 949);
    let found = table.read_where(&add, &schema(), "id", &wanted).await.unwrap();
    let whole = batch(0..950);
    let ids: arrow::array::UInt32Array = (0..950).filter(|id| id % 7 == 0 || *id == 949).collect();
    assert_eq!(found, arrow::compute::take_record_batch(&whole, &ids).unwrap());
    let places: Vec<usize> = ids.values().iter().map(|&id| id as usize).collect();
    assert_eq!(table.read_at(&add, &schema(), &places).await.unwrap(), found);
    assert_eq!(table.read_at(&add, &schema(), &[]).await.unwrap().num_rows(), 0);
    for range in [0..1, 0..950, 90..110, 99..100, 300..700, 949..950, 5..5] {
        let some = table.read_range(&add, &schema(), range.clone()).await.unwrap();
        assert_eq!(some, whole.slice(range.start, range.len()), "{range:?}");
    }
    for rows in [1, 64, 100, 2_000] {
        let batches: Vec<RecordBatch> =
            table.read_by(&add, &schema(), rows).await.unwrap().try_collect().await.unwrap();
        assert!(batches.iter().all(|batch| (1..=rows).contains(&batch.num_rows())), "{rows} rows");
        assert_eq!(arrow::compute::concat_batches(&schema(), &batches).unwrap(), whole);
    }
    let (ids, unpacked) = table.read_and_weigh(&add, &Arc::new(schema().project(&[0]).unwrap())).await.unwrap();
    assert_eq!((ids.num_rows(), ids.num_columns()), (950, 1));
    assert!(unpacked > 950 * 16, "{unpacked} bytes");
    let nobody: Wanted = Arc::new(|_| false);
    assert_eq!(table.read_where(&add, &schema(), "id", &nobody).await.unwrap().num_rows(), 0);
}

#[tokio::test]
async fn columns_of_a_file_are_replaced_and_the_others_copied() {
    let table = table();
    let options = FileOptions { row_group: 100, bloom: vec!["id".into()], ..FileOptions::default() };
    let file = EncodedFile::of(&schema(), &[batch(0..950)], &options).unwrap().in_group(3);
    let add = table.upload(file).await.unwrap();
    let narrow = Arc::new(schema().project(&[2]).unwrap());
    let later = TimestampMicrosecondArray::from_iter_values((0..950).map(|id| id * 5 + 7)).with_timezone("UTC");
    let replaced = RecordBatch::try_new(narrow, vec![Arc::new(later.clone())]).unwrap();
    let new = table.with_columns(&add, &schema(), replaced.clone(), options.clone()).await.unwrap();
    assert_eq!(paths::file_group(&new.path), Some(3));
    let mut expected = batch(0..950).columns().to_vec();
    expected[2] = Arc::new(later);
    let expected = RecordBatch::try_new(schema(), expected).unwrap();
    assert_eq!(table.read(&new, &schema()).await.unwrap(), expected);
    // Statistics, filters and page indexes are those of a file that is written like that.
    let written = table.upload(EncodedFile::of(&schema(), &[expected], &options).unwrap()).await.unwrap();
    assert_eq!(new.stats, written.stats);
    let (mut new_reader, mut old) = (table.reader(&new).await.unwrap(), table.reader(&written).await.unwrap());
    assert_eq!(new_reader.metadata().num_row_groups(), 10);
    for group in 0..10 {
        let found = new_reader.get_row_group_column_bloom_filter(group, 0).await.unwrap().unwrap();
        let wanted = old.get_row_group_column_bloom_filter(group, 0).await.unwrap().unwrap();
        assert!(found.check(&(group as i64 * 100 + 1)) && wanted.check(&(group as i64 * 100 + 1)));
        assert!((group..1000).filter(|id| found.check(&(*id as i64 + 100_000))).count() < 100);
        let (found, wanted) = (new_reader.metadata().row_group(group), old.metadata().row_group(group));
        assert_eq!(found.num_rows(), wanted.num_rows());
        for column in 0..3 {
            assert_eq!(found.column(column).statistics(), wanted.column(column).statistics());
            assert!(found.column(column).offset_index_offset().is_some());
        }
    }
    // Too few values are refused.
    let wrong = table.with_columns(&add, &schema(), replaced.slice(0, 10), options).await;
    assert!(wrong.is_err());
}

/// What DataFusion finds in a table, by conditions that make it look at statistics and page indexes.
async fn queried(
    engine: &Engine,
    table: &Table,
    snapshot: &Arc<Snapshot>,
) -> datafusion::error::Result<Vec<RecordBatch>> {
    let session = engine.session();
    session.register_table("t", Arc::new(PinnedTable::new(table.store(), snapshot.clone())))?;
    let sql = "SELECT count(name) AS names, sum(id) AS ids, max(\"at\") AS last FROM t \
               WHERE id = 4242 OR id < 2000 OR id > 9000";
    session.sql(sql).await?.collect().await
}

/// A table with one file of several blocks, and that file.
async fn with_a_file() -> (Table, Arc<Snapshot>, Add) {
    let table = table();
    let base = table.open_or_create(&schema(), &[]).await.unwrap();
    let options = FileOptions { row_group: 2_500, hashed: vec!["name".into()], ..FileOptions::default() };
    let add = table.upload(EncodedFile::of(&schema(), &[batch(0..10_000)], &options).unwrap()).await.unwrap();
    let commit = Commit { adds: vec![add.clone()], operation: "WRITE", ..Commit::default() };
    let snapshot = table.commit(&base, commit).await.unwrap();
    (table, snapshot, add)
}

#[tokio::test]
async fn a_changed_bit_is_never_an_answer() {
    let (table, snapshot, add) = with_a_file().await;
    let path = table.path().file(&add.path);
    let whole = table.store().read(&path).await.unwrap().unwrap();
    assert!(whole.len() > 2 << 15, "{} bytes are too few blocks", whole.len());
    let known = Engine::new(table.store(), 64 << 20).unwrap();
    let answer = queried(&known, &table, &snapshot).await.unwrap();
    let hash = hash_rows(&[batch(7..8).column(1).clone()]).unwrap()[0];
    let replaced = batch(0..10_000).project(&[2]).unwrap();
    let (mut random, mut noticed, before) = (fastrand::Rng::with_seed(21), 0, damage::found());
    for _ in 0..150 {
        let mut changed = whole.to_vec();
        let place = random.usize(0..changed.len());
        changed[place] ^= 1 << random.u32(0..8);
        table.store().write(&path, changed.into()).await.unwrap();
        let mut is_told = |error: &dyn std::error::Error| {
            noticed += 1;
            let text = error.to_string();
            assert!(text.contains(path.as_ref()) && text.contains("is damaged"), "byte {place}: {text}");
        };
        match table.read(&add, &schema()).await {
            Ok(rows) => assert_eq!(rows, batch(0..10_000), "byte {place}"),
            Err(error) => is_told(&error),
        }
        match table.hashes(&add, &["name"]).await {
            Ok(hashes) => assert!(hashes.unwrap().may_hold(hash), "byte {place}"),
            Err(error) => is_told(&error),
        }
        match table.with_columns(&add, &schema(), replaced.clone(), FileOptions::default()).await {
            Ok(_) => panic!("byte {place} was copied"),
            Err(error) => is_told(&error),
        }
        // With the footer of before the damage, and without.
        let fresh = Engine::new(table.store(), 64 << 20).unwrap();
        for engine in [&known, &fresh] {
            match queried(engine, &table, &snapshot).await {
                Ok(rows) => assert_eq!(rows, answer, "byte {place}"),
                Err(error) => {
                    assert!(damage::among(&error).is_some(), "byte {place}: {error}");
                    is_told(&error);
                }
            }
        }
    }
    assert!(noticed >= 200 && damage::found() >= before + noticed, "{noticed} noticed");
}

/// Statistics in the log answer queries: a digit that was changed in them is no answer either.
#[tokio::test]
async fn a_changed_bit_of_a_commit_is_damage() {
    let (table, snapshot, _) = with_a_file().await;
    let path = table.path().commit(snapshot.version());
    let whole = table.store().read(&path).await.unwrap().unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut random = fastrand::Rng::with_seed(23);
    for _ in 0..300 {
        let mut changed = whole.to_vec();
        let place = random.usize(first..changed.len());
        changed[place] ^= 1 << random.u32(0..8);
        let error = actions::decode("x", &changed).unwrap_err();
        assert!(error.to_string().starts_with("`x` is damaged: "), "byte {place}: {error}");
    }
    assert_eq!(actions::decode("x", &whole).unwrap().len(), 2);
}

/// Positions in a checkpoint say what is read next, and its statistics answer queries.
#[tokio::test]
async fn a_changed_bit_of_a_checkpoint_is_damage() {
    let table = table();
    let mut snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
    for version in 0..CHECKPOINT_EVERY as i64 {
        snapshot = append(&table, &snapshot, version..version + 1).await.unwrap();
    }
    let all = |snapshot: &Snapshot| {
        let files = snapshot.files().map(|add| (add.path.clone(), add.size, add.stats.clone(), add.tags.clone()));
        (snapshot.version(), snapshot.txn("reader"), files.collect::<Vec<_>>())
    };
    let path = table.path().checkpoint(CHECKPOINT_EVERY);
    let whole = table.store().read(&path).await.unwrap().unwrap();
    let (mut random, mut noticed) = (fastrand::Rng::with_seed(27), 0);
    for _ in 0..500 {
        let mut changed = whole.to_vec();
        let place = random.usize(0..changed.len());
        changed[place] ^= 1 << random.u32(0..8);
        table.store().write(&path, changed.into()).await.unwrap();
        match fresh(&table).snapshot().await {
            Ok(read) => assert_eq!(all(&read.unwrap()), all(&snapshot), "byte {place}"),
            Err(error) => {
                noticed += 1;
                let text = error.to_string();
                assert!(text.contains(path.as_ref()) && text.contains("is damaged"), "byte {place}: {text}");
            }
        }
    }
    assert!(noticed > 480, "{noticed} noticed");
    // One of before, without a digest, is read; without any, the commits are.
    let digest = seal::footer_start(&whole).unwrap() - 16;
    let old = [&whole[..digest], &whole[digest + 16..]].concat();
    table.store().write(&path, old.into()).await.unwrap();
    assert_eq!(all(&fresh(&table).snapshot().await.unwrap().unwrap()), all(&snapshot));
    table.store().delete([path]).await.unwrap();
    assert_eq!(all(&fresh(&table).snapshot().await.unwrap().unwrap()), all(&snapshot));
}

/// A writer may sleep between its commit and its checkpoint, and an answer that was lost may arrive.
#[tokio::test]
async fn a_checkpoint_that_comes_late_leads_nobody_back() {
    let table = table();
    let mut snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
    for version in 1..=2 * CHECKPOINT_EVERY as i64 {
        snapshot = position(&table, &snapshot, version).await;
    }
    let (store, path) = (table.store(), table.path());
    let old = table.snapshot_at(CHECKPOINT_EVERY).await.unwrap();
    checkpoint::write(store, &old).await.unwrap();
    assert_eq!(checkpoint::hint(store, path).await.unwrap(), Some(2 * CHECKPOINT_EVERY));
    store.write(&path.last_checkpoint(), "{\"version\":50,\"size\":3}".into()).await.unwrap();
    checkpoint::announce_again(store, path, 50, 100).await.unwrap();
    assert_eq!(checkpoint::hint(store, path).await.unwrap(), Some(50), "it is one of those that stay");
    checkpoint::announce_again(store, path, 51, 100).await.unwrap();
    let hint = store.read(&path.last_checkpoint()).await.unwrap().unwrap();
    assert_eq!(hint, "{\"version\":100,\"size\":3}", "protocol, metadata, a position");
}

#[tokio::test]
async fn a_file_without_digests_is_read_and_a_tag_that_lies_is_damage() {
    let (table, _, add) = with_a_file().await;
    let old = Add { tags: None, ..add.clone() };
    assert_eq!(table.read(&old, &schema()).await.unwrap(), batch(0..10_000));
    for text in ["", "32768 10 zz", "32768 99999999 0", "32768 10 0"] {
        let mut wrong = add.clone();
        wrong.tags.as_mut().unwrap().insert("starmere.seal".into(), Some(text.into()));
        let error = table.read(&wrong, &schema()).await.unwrap_err();
        assert!(error.kind() == crate::Kind::Corrupt && error.to_string().contains(&add.path), "{text}: {error}");
    }
    // A file that was cut says so.
    let path = table.path().file(&add.path);
    let whole = table.store().read(&path).await.unwrap().unwrap();
    table.store().write(&path, whole.slice(..whole.len() / 2)).await.unwrap();
    let error = table.read(&add, &schema()).await.unwrap_err();
    assert!(error.to_string().contains("is damaged: it has"), "{error}");
}

/// Where a folder below the warehouse went away, the next commit would be told to be durable, and stand behind a hole.
#[tokio::test]
async fn nothing_is_committed_after_a_version_that_is_gone() {
    let table = table();
    let mut snapshot = table.open_or_create(&schema(), &[]).await.unwrap();
    for version in 0..3 {
        snapshot = append(&table, &snapshot, version * 10..version * 10 + 10).await.unwrap();
    }
    let path = table.path().commit(3);
    let taken = table.store().read(&path).await.unwrap().unwrap();
    table.store().delete([path.clone()]).await.unwrap();
    let error = append(&table, &snapshot, 30..40).await.unwrap_err();
    assert!(error.to_string().contains("commit 3 is not there any more, so 4 cannot follow it"), "{error}");
    assert!(!table.store().exists(&table.path().commit(4)).await.unwrap());
    table.store().write(&path, taken).await.unwrap();
    let next = append(&table, &snapshot, 30..40).await.unwrap();
    assert_eq!((next.version(), next.rows()), (4, Some(40)), "all goes on once it is back");
}
