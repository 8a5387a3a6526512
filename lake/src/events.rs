//! The columns of a stream's table: what is known of every event, whatever it says.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::delta::FileOptions;

/// The partition column: the day (UTC) on which an event landed.
pub const INGEST_DATE: &str = "ingest_date";

/// How a stream's files are encoded.
pub fn file_options() -> FileOptions {
    FileOptions {
        small: true,
        plain: vec!["payload".into(), "position".into(), "event_id".into()],
        hashed: vec!["event_id".into()],
        opaque: vec!["payload".into()],
        row_group: 1 << 16,
        ..FileOptions::default()
    }
}

/// Type of every timestamp.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// All columns of a stream's table.
pub fn table_schema() -> &'static SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let mut fields: Vec<Arc<Field>> = file_schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(INGEST_DATE, DataType::Date32, false)));
        Arc::new(Schema::new(fields))
    });
    &SCHEMA
}

/// The columns in the files: all but the partition's.
pub fn file_schema() -> &'static SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let header = DataType::Struct(
            vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, true)].into(),
        );
        Arc::new(Schema::new(vec![
            Field::new("event_id", DataType::Utf8, false),
            Field::new("event_type", DataType::Utf8, true),
            Field::new("event_version", DataType::Int32, true),
            Field::new("occurred_at", timestamp(), true),
            Field::new("ingested_at", timestamp(), false),
            Field::new("subject", DataType::Utf8, true),
            Field::new("source", DataType::Utf8, false),
            Field::new("topic", DataType::Utf8, false),
            Field::new("partition", DataType::Int32, false),
            Field::new("position", DataType::Int64, false),
            Field::new("key", DataType::Binary, true),
            Field::new("headers", DataType::List(Arc::new(Field::new("element", header, false))), true),
            Field::new("op", DataType::Utf8, true),
            Field::new("payload", DataType::Binary, false),
            Field::new("rejection", DataType::Utf8, true),
        ]))
    });
    &SCHEMA
}
