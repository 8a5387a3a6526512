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
        // Of what is another one for nearly each event, and of times, a dictionary is as long as the column.
        plain: ["payload", "position", "event_id", "occurred_at", "subject"].map(str::to_owned).into(),
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::delta::EncodedFile;

    #[test]
    fn only_what_repeats_has_a_dictionary() {
        let texts = |name: &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values((0..1000).map(|number| format!("{name} {number}"))))
        };
        let times = TimestampMicrosecondArray::from_iter_values(1_700_000_000_000_000..1_700_000_000_001_000);
        let columns: [(&str, ArrayRef); 4] = [
            ("event_id", texts("event")),
            ("event_type", Arc::new(StringArray::from(vec!["order.placed"; 1000]))),
            ("occurred_at", Arc::new(times.with_timezone("UTC"))),
            ("subject", texts("subject")),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let file = EncodedFile::of(&rows.schema(), &[rows], &file_options()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file.bytes)).unwrap();
        let columns = reader.metadata().row_group(0).columns();
        let with_dictionary: Vec<&str> = columns
            .iter()
            .filter(|column| column.dictionary_page_offset().is_some())
            .map(|column| column.column_descr().name())
            .collect();
        assert_eq!(with_dictionary, ["event_type"]);
    }
}
