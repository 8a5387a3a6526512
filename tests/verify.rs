//! `starmere verify` over lakes and tables in which something was planted that landing and building never do: each is found, and
//! named.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use serde_json::json;
use starmere_ingest::envelope::Reader;
use starmere_ingest::rows::Batch;
use starmere_lake::delta::{Commit, EncodedFile, FileOptions, Remove, Table};
use starmere_lake::events::{INGEST_DATE, file_options, file_schema};
use starmere_lake::formats::Incoming;
use starmere_lake::landing::{Outcome, Oversized, SourcePartition, Stream};

use crate::support::events::STREAMS;
use crate::support::models::mapping;
use crate::support::process::Ended;
use crate::support::project::Project;
use crate::support::tables;

fn partition() -> SourcePartition {
    SourcePartition { source: "old".into(), topic: "t".into(), incarnation: 0, partition: 0 }
}

fn event(number: i64) -> String {
    format!(r#"{{"id":"{number}","type":"order_placed","at":"2024-01-01T00:00:00Z"}}"#)
}

/// A batch of these events, with one that is too long for a row in front where `kept` names it.
fn batch(numbers: std::ops::Range<i64>, kept: Option<&Oversized>) -> Batch {
    let mut reader = Reader::new(mapping(), &Default::default());
    let mut batch = Batch::default();
    let first = numbers.start - i64::from(kept.is_some());
    batch.begin(partition(), first);
    if let Some(kept) = kept {
        batch.push_oversized(&Incoming::default(), kept, 10, first, first + 1).unwrap();
    }
    for number in numbers {
        batch.push(&mut reader, &Incoming::of(event(number).as_bytes()), number, number + 1, None).unwrap();
    }
    batch
}

/// A project with two batches of orders, the first with an event that is kept beside the table; where that is.
async fn project() -> (Project, Table, ObjectPath) {
    let project = Project::new();
    let table = tables::stream(&project.warehouse(), STREAMS[1]);
    let stream = Stream::new(STREAMS[1], table.clone());
    stream.open().await.unwrap();
    let kept = Oversized::keep(&table, &partition(), 0, &[b'x'; 100]).await.unwrap();
    for batch in [batch(1..5, Some(&kept)), batch(5..9, None)] {
        assert!(matches!(batch.finish().unwrap().land(&stream).await.unwrap(), Outcome::Landed(_)));
    }
    (project, table, ObjectPath::from(kept.path))
}

/// Commits files by hand: those of these batches come, those with these rows go.
async fn commit(table: &Table, batches: Vec<Batch>, goes: Option<u64>, facts: serde_json::Value) {
    let snapshot = table.snapshot().await.unwrap().unwrap();
    let mut adds = Vec::new();
    for batch in batches {
        adds.push(table.upload(batch.finish().unwrap().encode().unwrap().unwrap()).await.unwrap());
    }
    let removes: Vec<Remove> =
        snapshot.files().filter(|add| goes.is_some() && add.rows() == goes).map(|add| add.remove()).collect();
    let commit = Commit { adds, removes, operation: "WRITE", facts, ..Commit::default() };
    table.commit(&snapshot, commit).await.unwrap();
}

fn landed(from: i64, to: i64) -> serde_json::Value {
    let rows = (from..to).map(|number| starmere_lake::landing::row_digest(number, event(number).as_bytes(), None));
    let digest = rows.fold(0_u128, u128::wrapping_add);
    json!({ "landed": [{ "source": "old", "topic": "t", "incarnation": 0, "partition": 0, "from": from, "to": to,
        "rows": to - from, "digest": format!("{digest:032x}") }] })
}

async fn finding(project: &Project) -> String {
    let Ended { status, output, errors, .. } = project.run(&["verify", "--lake-only"]).await;
    assert_eq!(status.code(), Some(2), "{output}\n{errors}");
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planted_in_a_lake_is_found() {
    let (whole, ..) = project().await;
    whole.succeed(&["verify", "--lake-only"]).await;
    let planted: [(&str, Vec<Batch>, Option<u64>, serde_json::Value); 6] = [
        ("a hole in old/t: version 3 goes on from 12, not from 9", vec![batch(12..14, None)], None, landed(12, 14)),
        ("a double in old/t: version 3 goes on from 7, not from 9", vec![batch(7..11, None)], None, landed(7, 11)),
        ("old/t: 9 rows were landed, and 11 are there", vec![batch(9..11, None)], None, json!({})),
        ("old/t: 9 rows were landed, and 5 are there", vec![], Some(4), json!({})),
        ("old/t: the rows are not those that were landed", vec![batch(15..19, None)], Some(4), json!({})),
        ("old/t: 11 rows were landed, and 9 are there", vec![], None, landed(9, 11)),
    ];
    for (expected, batches, goes, facts) in planted {
        let (project, table, _) = project().await;
        commit(&table, batches, goes, facts).await;
        let found = finding(&project).await;
        assert!(found.contains(expected), "{expected}\n{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_source_that_never_landed_are_found() {
    let (project, table, _) = project().await;
    let mut reader = Reader::new(mapping(), &Default::default());
    let mut batch = Batch::default();
    batch.begin(SourcePartition { source: "stranger".into(), ..partition() }, 0);
    batch.push(&mut reader, &Incoming::of(event(1).as_bytes()), 0, 1, None).unwrap();
    commit(&table, vec![batch], None, json!({})).await;
    let found = finding(&project).await;
    assert!(found.contains("stranger/t: 1 row is there that no commit speaks of"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_beside_the_table_that_is_gone_or_another_is_found() {
    for (left, expected) in [
        (None, "an event of 100 bytes, is gone"),
        (Some(vec![b'y'; 100]), "is not the event that landed"),
        (Some(vec![b'x'; 99]), "has 99 bytes, not 100"),
    ] {
        let (project, table, kept) = project().await;
        let objects = table.store().objects();
        match left {
            Some(bytes) => _ = objects.put(&kept, Bytes::from(bytes).into()).await.unwrap(),
            None => objects.delete(&kept).await.unwrap(),
        }
        let found = finding(&project).await;
        assert!(found.contains(expected) && found.contains(kept.as_ref()), "{expected}\n{found}");
    }
}

/// Tried as an operator, 9: it said that the data does not keep its promises. Files that may not grow are a full disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_no_broken_promise() {
    let project = Project::new();
    let moved = r#"{"id":1,"type":"customer_moved","at":"2024-01-01T00:00:00Z","customer":"c","city":"x"}"#;
    let placed = r#"{"id":1,"type":"order_placed","at":"2024-01-01T00:00:00Z","order":"a","lines":[{"quantity":1}]}"#;
    project.write("inbox/customers/a.jsonl", &format!("{moved}\n"));
    project.write("inbox/orders/a.jsonl", &format!("{placed}\n"));
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    project.succeed(&["verify"]).await;
    let full = r#"trap "" XFSZ; ulimit -f 0; exec "$0" "$@""#;
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", full, env!("CARGO_BIN_EXE_starmere"), "--project"]).arg(project.root()).arg("verify");
    let ended = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{errors}");
    let told = errors.contains("the data could not be verified: ") && errors.contains("(os error 27)");
    assert!(told && !errors.contains("does not keep its promises"), "{errors}");
}

/// A changed byte in a column that no digest of rows covers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_a_changed_byte_is_found() {
    let (project, table, _) = project().await;
    let snapshot = table.snapshot().await.unwrap().unwrap();
    let path = table.path().file(&snapshot.files().next().unwrap().path);
    let objects = table.store().objects();
    let whole = objects.get(&path).await.unwrap().bytes().await.unwrap();
    for place in [60, whole.len() / 2, whole.len() - 20] {
        let mut changed = whole.to_vec();
        changed[place] ^= 1;
        objects.put(&path, Bytes::from(changed).into()).await.unwrap();
        let found = finding(&project).await;
        assert!(found.contains(&format!("`{path}` has other bytes than were written")), "{found}");
    }
}

/// A file of other rows under the name of one that landed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_in_the_place_of_another_is_found() {
    let (project, table, _) = project().await;
    let snapshot = table.snapshot().await.unwrap().unwrap();
    let add = snapshot.files().find(|add| add.rows() == Some(4)).unwrap();
    let rows = table.read(add, file_schema()).await.unwrap().slice(0, 3);
    let other = EncodedFile::of(file_schema(), &[rows], &file_options()).unwrap();
    assert!(add.partition_values.contains_key(INGEST_DATE));
    let path = table.path().file(&add.path);
    table.store().objects().put(&path, Bytes::from(other.bytes).into()).await.unwrap();
    let found = finding(&project).await;
    assert!(found.contains(path.as_ref()) || found.contains("9 rows were landed, and 8 are there"), "{found}");
}

/// `rows` with other values in a column.
fn with(rows: &RecordBatch, column: &str, change: impl Fn(&ArrayRef) -> ArrayRef) -> RecordBatch {
    let place = rows.schema().index_of(column).unwrap();
    let mut columns = rows.columns().to_vec();
    columns[place] = change(&columns[place]);
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

/// These of the rows, each as often as it is named.
fn rows_at(rows: &RecordBatch, places: &[u32]) -> RecordBatch {
    take_record_batch(rows, &UInt32Array::from(places.to_vec())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planted_in_the_table_of_a_model_is_found() {
    let one_more = |values: &ArrayRef| -> ArrayRef {
        match values.as_primitive_opt::<Int64Type>() {
            Some(keys) => Arc::new(keys.iter().map(|key| key.map(|key| key + 1)).collect::<Int64Array>()),
            None => Arc::new(
                values.as_primitive::<Int32Type>().iter().map(|of| of.map(|of| of + 1)).collect::<Int32Array>(),
            ),
        }
    };
    let is_published = "is published more often than in the rebuild";
    let is_rebuilt = "is in the rebuild more often than published";
    let upper = |of: &StringArray| of.iter().map(|of| of.map(str::to_uppercase)).collect::<StringArray>();
    type Plant<'a> = &'a dyn Fn(&RecordBatch) -> RecordBatch;
    let cases: [(&str, &str, Plant<'_>, &[&str]); 8] = [
        ("nothing", "sales.order_lines", &RecordBatch::clone, &[]),
        // In another order they are the same.
        ("order", "sales.order_lines", &|rows| rows_at(rows, &[2, 0, 1]), &[]),
        (
            "a value",
            "sales.order_lines",
            &|rows| with(rows, "quantity", one_more),
            &[
                "order_id=A, line_number=1, quantity=3,",
                is_published,
                "order_id=A, line_number=1, quantity=2,",
                is_rebuilt,
            ],
        ),
        (
            "a key",
            "sales.order_lines",
            &|rows| with(rows, "customer_key", one_more),
            &["order_id=A, line_number=1,", is_published, is_rebuilt],
        ),
        (
            "a row less",
            "sales.order_lines",
            &|rows| rows_at(rows, &[0, 1]),
            &["order_id=B, line_number=1,", is_rebuilt],
        ),
        // Its port would tell of two rows with one key, but it has none.
        ("a row twice", "sales.by_order", &|rows| rows_at(rows, &[0, 0, 1]), &[is_published]),
        (
            "a row more",
            "sales.order_lines",
            &|rows| {
                let last = rows_at(rows, &[2]);
                let other = with(&last, "line_number", |of| one_more(&one_more(&one_more(of))));
                concat_batches(&rows.schema(), [rows, &other]).unwrap()
            },
            &["line_number=4,", is_published],
        ),
        (
            "a city",
            "sales.customer",
            &|rows| with(rows, "city", |of| Arc::new(upper(of.as_string::<i32>()))),
            &["city=ULM", is_published, "city=Ulm", is_rebuilt],
        ),
    ];
    for (what, model, plant, expected) in cases {
        let project = Project::new();
        let moved = r#"{"id":"m1","type":"customer_moved","at":"2024-01-01T00:00:00Z","customer":"c1","city":"Ulm"}"#;
        project.write("inbox/customers/a.jsonl", &format!("{moved}\n"));
        let by_order = "rollup: by_order\nof: order_lines\nby: { order: order_id }\n";
        project.write("domains/sales/models/by_order.yaml", by_order);
        let order = |id: &str, lines: &str| {
            format!(
                r#"{{"id":"{id}","type":"order_placed","at":"2024-02-01T00:00:00Z","order":"{id}","customer":"c{id}","lines":[{lines}]}}"#
            )
        };
        let orders = [order("A", r#"{"quantity":2},{"quantity":3}"#), order("B", r#"{"quantity":4}"#)];
        project.write("inbox/orders/a.jsonl", &(orders.join("\n") + "\n"));
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
        let pin = project.snapshot().await.tables[model].clone();
        let table = project.warehouse().table(pin.path);
        let snapshot = table.snapshot().await.unwrap().unwrap();
        let mut batches = Vec::new();
        for add in snapshot.files() {
            batches.push(table.read(add, snapshot.schema()).await.unwrap());
        }
        let rows = concat_batches(snapshot.schema(), &batches).unwrap();
        let planted = EncodedFile::of(snapshot.schema(), &[plant(&rows)], &FileOptions::default()).unwrap();
        let adds = vec![table.upload(planted).await.unwrap()];
        let removes = snapshot.files().map(|add| add.remove()).collect();
        let commit = Commit { adds, removes, operation: "WRITE", ..Commit::default() };
        table.commit(&snapshot, commit).await.unwrap();
        // A build takes the table as it is, and publishes it.
        project.succeed(&["build"]).await;
        let Ended { status, output, errors, .. } = project.run(&["verify"]).await;
        assert_eq!(status.code(), Some(if expected.is_empty() { 0 } else { 2 }), "{what}: {output}\n{errors}");
        for words in expected {
            assert!(output.contains(words) && output.contains(model), "{what}: {words}\n{output}");
        }
    }
}
