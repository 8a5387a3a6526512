//! Files that are not lines of JSON.

use std::sync::Arc;

use apache_avro::types::Record;
use apache_avro::{Codec, Writer};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use starmere_lake::formats::Encoding;

use super::{World, texts};

const AT: &str = "2024-01-01T00:00:00Z";

fn csv_world() -> World {
    World::of(Encoding::Csv { delimiter: b';' })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_csv_land_with_their_header() {
    let world = csv_world();
    let header = "\u{feff}type;at;text\r\n";
    world.write("a.csv", format!("{header}t;{AT};\"one\ntwo\"\r\n\r\nt;{AT};three\r\nt;{AT};op"));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.counts.rejects, report.files_waiting.len()), (2, 0, 1));
    world.write("a.csv", format!("{header}t;{AT};\"one\ntwo\"\r\n\r\nt;{AT};three\r\nt;{AT};open\r\nt;{AT}\r\n"));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.counts.rejects, report.files_continued), (2, 1, 1));
    assert_eq!(world.land().await.files_unchanged, 1);
    let found = texts(&world.stream, &["payload", "headers", "rejection"]).await;
    let headers = format!("[{{name: csv-header, value: {}}}]", hex::encode("type;at;text"));
    assert_eq!(found[0], [hex::encode(format!("t;{AT};\"one\ntwo\"\r")), headers.clone(), String::new()]);
    assert_eq!(found[2], [hex::encode(format!("t;{AT};open\r")), headers.clone(), String::new()]);
    assert_eq!(found[3][2], "the record has 2 fields, and the header 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_csv_needs_its_header() {
    let world = csv_world();
    world.write("empty.csv", "");
    world.write("header.csv", "type;at\n");
    world.write("waits.csv", "type;at");
    world.write("long.csv", format!("type;{}\n", "x".repeat(3000)));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_waiting.len(), report.refused.len()), (0, 1, 1));
    assert!(report.refused[0].reason.contains("its header has more than"), "{:?}", report.refused);
    let version = report.version;
    world.write("none.csv", format!("t;{AT}\nt;{AT}\n"));
    world.write("twice.csv", format!("type;at;at\nt;{AT};{AT}\n"));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.version), (0, version), "{:?}", report.refused);
    assert!(report.refused[1].reason.contains("its header has no `type`"), "{:?}", report.refused);
    assert!(report.refused[2].reason.contains("its header has `at` twice"), "{:?}", report.refused);
}

pub(super) fn parquet(numbers: std::ops::Range<i64>) -> Vec<u8> {
    let rows = numbers.clone().count();
    let columns: [(&str, ArrayRef); 3] = [
        ("type", Arc::new(StringArray::from(vec!["t"; rows]))),
        ("at", Arc::new(StringArray::from(vec![AT; rows]))),
        ("n", Arc::new(Int64Array::from_iter_values(numbers))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(50_000)).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_parquet_land_as_json() {
    let world = World::new();
    world.write("a.parquet", parquet(0..3));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.counts.rejects), (3, 0));
    assert_eq!(world.land().await.files_unchanged, 1);
    world.rename("a.parquet", "b.parquet");
    assert_eq!(world.land().await.counts.events, 0, "it is known again");
    let found = texts(&world.stream, &["payload", "position"]).await;
    assert_eq!(found[2], [hex::encode(format!("{{\"type\":\"t\",\"at\":\"{AT}\",\"n\":2}}")), "2".into()]);
    world.write("b.parquet", parquet(0..4));
    assert!(world.land().await.refused[0].reason.contains("no longer"), "another file under its name");
    world.write("cut.parquet", &parquet(0..4)[..200]);
    let refused = world.land().await.refused;
    assert!(refused.iter().any(|refused| refused.reason.contains("not Parquet")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_parquet_that_landed_in_part_is_continued() {
    let world = World::new();
    // More rows than a batch takes.
    world.write("a.parquet", parquet(0..300_000));
    let (first, second) = tokio::join!(world.land(), world.land());
    assert_eq!(first.counts.events + second.counts.events, 300_000);
    assert_eq!(world.rows().await, 300_000);
    assert_eq!(world.land().await.files_unchanged, 1);
}

const SCHEMA: &str = r#"{"type":"record","name":"e","fields":[
    {"name":"type","type":"string"},{"name":"at","type":"string"},{"name":"n","type":"long"}]}"#;

/// A file whose blocks end before these numbers.
pub(super) fn avro(codec: Codec, ends: &[i64]) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
    let mut writer = Writer::builder().schema(&schema).writer(Vec::new()).codec(codec).marker([7; 16]).build().unwrap();
    let mut start = 0;
    for &end in ends {
        for number in std::mem::replace(&mut start, end)..end {
            let mut record = Record::new(&schema).unwrap();
            record.put("type", "t");
            record.put("at", AT);
            record.put("n", number);
            writer.append_value(record).unwrap();
        }
        writer.flush().unwrap();
    }
    writer.into_inner().unwrap()
}

fn avro_world() -> World {
    World::of(Encoding::Avro { schema: None })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_avro_land_with_their_schema() {
    for codec in [Codec::Null, Codec::Deflate(Default::default()), Codec::Snappy, Codec::Zstandard(Default::default())]
    {
        let world = avro_world();
        let long = avro(codec, &[3, 5]);
        // The second block has no end yet.
        world.write("a.avro", &long[..long.len() - 1]);
        let report = world.land().await;
        assert_eq!((report.counts.events, report.counts.rejects, report.files_waiting.len()), (3, 0, 1), "{codec:?}");
        assert_eq!(world.land().await.version, report.version, "waiting makes no commits");
        world.write("a.avro", &long);
        let report = world.land().await;
        assert_eq!((report.counts.events, report.files_continued, report.refused), (2, 1, vec![]), "{codec:?}");
        assert_eq!(world.land().await.files_unchanged, 1);
        let found = texts(&world.stream, &["payload", "position", "occurred_at"]).await;
        assert_eq!(found.len(), 5);
        assert!(found[4][0].starts_with("c301") && found[4][1] == "4" && found[4][2].starts_with("2024-01-01"));
        // Another process knows the schema from beside the table.
        world.write("b.avro", avro(codec, &[1]));
        assert_eq!(world.land().await.counts.rejects, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_another_kind_are_refused() {
    let world = avro_world();
    world.write("a.json", "{}\n");
    world.write("b.parquet", parquet(0..1));
    let mut damaged = avro(Codec::Null, &[3]);
    let place = damaged.len() - 20;
    damaged[place] ^= 0xff;
    world.write("c.avro", damaged);
    let report = world.land().await;
    let reasons: Vec<&str> = report.refused.iter().map(|refused| refused.reason.as_str()).collect();
    assert_eq!((report.counts.events, reasons.len()), (0, 3), "{reasons:?}");
    assert!(reasons[0].contains("not a file of Avro") && reasons[1].contains("Parquet"), "{reasons:?}");
    let world = World::new();
    world.write("a.avro", avro(Codec::Null, &[1]));
    assert!(world.land().await.refused[0].reason.contains("a file of Avro"));
}
