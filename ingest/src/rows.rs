//! Payloads in, columns of a stream's table out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondBuilder, new_null_array,
};
use starmere_lake::delta::{EncodedFile, FileOptions};
use starmere_lake::landing::{Part, SourcePartition, row_digest};
use starmere_lake::{Error, Result, events};

use crate::envelope::{Envelope, Reader};

/// The rows of one commit, in the making. All parts' rows are in one file.
#[derive(Debug)]
pub struct Batch {
    event_id: StringBuilder,
    event_type: StringBuilder,
    event_version: Int32Builder,
    occurred_at: TimestampMicrosecondBuilder,
    subject: StringBuilder,
    source: StringBuilder,
    topic: StringBuilder,
    partition: Int32Builder,
    position: Int64Builder,
    payload: BinaryBuilder,
    rejection: StringBuilder,
    rows: usize,
    bytes: usize,
    rejects: u64,
    parts: Vec<Part>,
}

/// What was found in an event that was added.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The producer gave it an id.
    pub has_id: bool,
    pub rejection: Option<String>,
}

/// A batch's columns and parts, ready to be encoded.
#[derive(Debug)]
pub struct Rows {
    pub columns: RecordBatch,
    pub parts: Vec<Part>,
    pub rejects: u64,
    /// How many events that were not rejected are of each type; of so many types at most.
    pub types: BTreeMap<String, u64>,
    /// Payload bytes.
    pub bytes: usize,
}

/// So many types are counted: more are a mistake in the mapping.
pub(crate) const MOST_TYPES: usize = 1000;

fn count_types(types: &StringArray, rejections: &StringArray) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (row, name) in types.iter().enumerate() {
        let Some(name) = name.filter(|_| rejections.is_null(row)) else { continue };
        if let Some(count) = counts.get_mut(name) {
            *count += 1;
        } else if counts.len() < MOST_TYPES {
            counts.insert(name, 1);
        }
    }
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            event_id: StringBuilder::new(),
            event_type: StringBuilder::new(),
            event_version: Int32Builder::new(),
            occurred_at: TimestampMicrosecondBuilder::new(),
            subject: StringBuilder::new(),
            source: StringBuilder::new(),
            topic: StringBuilder::new(),
            partition: Int32Builder::new(),
            position: Int64Builder::new(),
            payload: BinaryBuilder::new(),
            rejection: StringBuilder::new(),
            rows: 0,
            bytes: 0,
            rejects: 0,
            parts: Vec::new(),
        }
    }
}

impl Batch {
    /// Payload bytes so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Parts so far.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Nothing to land, not even a moved position.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Begins a partition's share, where the table's position is `from`.
    pub fn begin(&mut self, partition: SourcePartition, from: i64) {
        self.parts.push(Part { partition, from, to: from, rows: 0, digest: 0, mark: None });
    }

    /// Adds an event of the partition begun last, at `position`; `next` is the position after it. `id` stands in
    /// where the payload has no id of its own.
    pub fn push(
        &mut self,
        reader: &mut Reader,
        payload: &[u8],
        position: i64,
        next: i64,
        id: Option<String>,
    ) -> Pushed {
        let envelope = reader.read(payload);
        self.row(&envelope, payload, position, next, id);
        Pushed { has_id: envelope.id.is_some(), rejection: envelope.rejection }
    }

    /// Adds an event that is kept beside the table; `reference` says where.
    pub fn push_oversized(&mut self, reference: &[u8], reason: String, position: i64, next: i64) {
        let envelope = Envelope { rejection: Some(reason), ..Envelope::default() };
        self.row(&envelope, reference, position, next, None);
    }

    /// Ends the partition's share: what its source needs to know it again.
    pub fn mark(&mut self, to: i64, mark: Option<serde_json::Value>) {
        if let Some(part) = self.parts.last_mut() {
            part.to = to;
            part.mark = mark;
        }
    }

    /// Takes back the share begun last, which must be without rows.
    pub fn forget_last(&mut self) {
        if self.parts.last().is_some_and(|part| part.rows == 0) {
            self.parts.pop();
        }
    }

    fn row(&mut self, envelope: &Envelope<'_>, payload: &[u8], position: i64, next: i64, id: Option<String>) {
        let Some(part) = self.parts.last_mut() else {
            debug_assert!(false, "a part is begun before its rows");
            return;
        };
        let SourcePartition { source, topic, incarnation, partition } = &part.partition;
        match (&envelope.id, id) {
            (Some(id), _) => self.event_id.append_value(id),
            (None, Some(id)) => self.event_id.append_value(id),
            (None, None) => {
                self.event_id.append_value(format!("{source}/{topic}/{incarnation}/{partition}/{position}"));
            }
        }
        self.event_type.append_option(envelope.event_type.as_deref());
        self.event_version.append_option(envelope.version);
        self.occurred_at.append_option(envelope.occurred_at);
        self.subject.append_option(envelope.subject.as_deref());
        self.source.append_value(source);
        self.topic.append_value(topic);
        self.partition.append_value(*partition);
        self.position.append_value(position);
        self.payload.append_value(payload);
        self.rejection.append_option(envelope.rejection.as_deref());
        part.rows += 1;
        part.to = next;
        part.digest = part.digest.wrapping_add(row_digest(position, payload));
        self.rejects += u64::from(envelope.rejection.is_some());
        self.rows += 1;
        self.bytes += payload.len();
    }

    /// The columns. `landed_at` is in microseconds since 1970.
    pub fn finish(mut self, landed_at: i64) -> Result<Rows> {
        let schema = events::file_schema();
        let null = |name: &str| -> ArrayRef {
            let field = schema.field_with_name(name).expect("the schema has its own columns");
            new_null_array(field.data_type(), self.rows)
        };
        let (event_type, rejection) = (self.event_type.finish(), self.rejection.finish());
        let types = count_types(&event_type, &rejection);
        let (key, headers, op) = (null("key"), null("headers"), null("op"));
        let mut ingested_at = TimestampMicrosecondBuilder::with_capacity(self.rows);
        ingested_at.append_value_n(landed_at, self.rows);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.event_id.finish()),
            Arc::new(event_type),
            Arc::new(self.event_version.finish()),
            Arc::new(self.occurred_at.finish().with_timezone("UTC")),
            Arc::new(ingested_at.finish().with_timezone("UTC")),
            Arc::new(self.subject.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.position.finish()),
            key,
            headers,
            op,
            Arc::new(self.payload.finish()),
            Arc::new(rejection),
        ];
        let columns = RecordBatch::try_new(schema.clone(), columns).map_err(Error::columns("a batch of events"))?;
        Ok(Rows { columns, parts: self.parts, rejects: self.rejects, types, bytes: self.bytes })
    }
}

impl Rows {
    /// Encodes the rows as a file of the stream's table; none where only positions moved. CPU-heavy.
    pub fn encode(&self, landed_at: i64) -> Result<Option<EncodedFile>> {
        if self.columns.num_rows() == 0 {
            return Ok(None);
        }
        let options = FileOptions {
            small: true,
            plain: vec!["payload".into(), "position".into(), "event_id".into()],
            row_group: 1 << 16,
            ..FileOptions::default()
        };
        let file = EncodedFile::of(events::file_schema(), std::slice::from_ref(&self.columns), &options)?;
        let day = chrono::DateTime::from_timestamp_micros(landed_at).unwrap_or_default().date_naive();
        Ok(Some(file.in_partition(events::INGEST_DATE, day.to_string())))
    }
}
