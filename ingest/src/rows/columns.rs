//! Rows of a stream's table as columns, in the making.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, ListArray, NullBufferBuilder, RecordBatch, StringBuilder,
    StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;
use starmere_lake::formats::{Header, Incoming};
use starmere_lake::landing::SourcePartition;
use starmere_lake::{Error, Result, events};

use crate::envelope::Envelope;

/// What a row is made of.
pub(super) struct Row<'a> {
    pub(super) partition: &'a SourcePartition,
    pub(super) position: i64,
    pub(super) envelope: &'a Envelope<'a>,
    pub(super) event: &'a Incoming<'a>,
    /// Stands in where the producer gave no id.
    pub(super) id: Option<String>,
}

/// All columns but the time of landing, which all rows share.
#[derive(Debug)]
pub(super) struct Columns {
    event_id: StringBuilder,
    event_type: StringBuilder,
    event_version: Int32Builder,
    occurred_at: TimestampMicrosecondBuilder,
    subject: StringBuilder,
    source: StringBuilder,
    topic: StringBuilder,
    partition: Int32Builder,
    position: Int64Builder,
    key: BinaryBuilder,
    headers: Headers,
    op: StringBuilder,
    payload: BinaryBuilder,
    rejection: StringBuilder,
    rows: usize,
    bytes: usize,
}

/// The column of headers.
#[derive(Debug)]
struct Headers {
    name: StringBuilder,
    value: BinaryBuilder,
    lengths: Vec<usize>,
    present: NullBufferBuilder,
}

impl Headers {
    fn append(&mut self, headers: Option<&[Header<'_>]>) -> usize {
        self.present.append(headers.is_some());
        let headers = headers.unwrap_or_default();
        self.lengths.push(headers.len());
        let mut bytes = 0;
        for (name, value) in headers {
            self.name.append_value(name);
            self.value.append_option(*value);
            bytes += name.len() + value.map_or(0, <[u8]>::len);
        }
        bytes
    }

    fn finish(mut self, data_type: &DataType) -> Result<ArrayRef> {
        let failed = Error::columns("the headers of events");
        let DataType::List(element) = data_type else { unreachable!("headers are a list") };
        let DataType::Struct(fields) = element.data_type() else { unreachable!("headers have names and values") };
        let columns: Vec<ArrayRef> = vec![Arc::new(self.name.finish()), Arc::new(self.value.finish())];
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let list = StructArray::try_new(fields.clone(), columns, None)
            .and_then(|headers| ListArray::try_new(element.clone(), offsets, Arc::new(headers), self.present.finish()));
        Ok(Arc::new(list.map_err(failed)?))
    }
}

impl Default for Columns {
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
            key: BinaryBuilder::new(),
            headers: Headers {
                name: StringBuilder::new(),
                value: BinaryBuilder::new(),
                lengths: Vec::new(),
                present: NullBufferBuilder::new(0),
            },
            op: StringBuilder::new(),
            payload: BinaryBuilder::new(),
            rejection: StringBuilder::new(),
            rows: 0,
            bytes: 0,
        }
    }
}

impl Columns {
    /// Room for as much as `other` has.
    pub(super) fn like(other: &Self) -> Self {
        let payloads = other.payload.values_slice().len();
        Self { payload: BinaryBuilder::with_capacity(other.rows, payloads + payloads / 16), ..Self::default() }
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of their payloads, keys and headers.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: Row<'_>) {
        let Row { partition: SourcePartition { source, topic, incarnation, partition }, position, envelope, event, id } =
            row;
        match (&envelope.id, id) {
            (Some(id), _) => self.event_id.append_value(id),
            (None, Some(id)) => self.event_id.append_value(id),
            (None, None) => {
                self.event_id.append_value(format!("{source}/{topic}/{incarnation}/{partition}/{position}"));
            }
        }
        self.event_type.append_option(envelope.event_type.as_deref());
        self.event_version.append_option(envelope.version);
        // A reject keeps when its source got it: a mended mapping may ask for that.
        let got = || event.timestamp.filter(|_| envelope.rejection.is_some()).and_then(|got| got.checked_mul(1_000));
        self.occurred_at.append_option(envelope.occurred_at.or_else(got));
        self.subject.append_option(envelope.subject.as_deref());
        self.source.append_value(source);
        self.topic.append_value(topic);
        self.partition.append_value(*partition);
        self.position.append_value(position);
        self.key.append_option(event.key);
        self.op.append_option(envelope.op);
        let payload = event.payload.unwrap_or_default();
        self.payload.append_value(payload);
        self.rejection.append_option(envelope.rejection.as_deref());
        self.rows += 1;
        self.bytes += payload.len() + event.key.map_or(0, <[u8]>::len) + self.headers.append(event.headers);
    }

    /// The rows, of the schema of a stream's files. `landed_at` is in microseconds since 1970.
    pub(super) fn finish(mut self, landed_at: i64) -> Result<RecordBatch> {
        let schema = events::file_schema();
        let headers = schema.field_with_name("headers").map_err(Error::columns("a batch of events"))?;
        let headers = self.headers.finish(headers.data_type())?;
        let mut ingested_at = TimestampMicrosecondBuilder::with_capacity(self.rows);
        ingested_at.append_value_n(landed_at, self.rows);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.event_id.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.event_version.finish()),
            Arc::new(self.occurred_at.finish().with_timezone("UTC")),
            Arc::new(ingested_at.finish().with_timezone("UTC")),
            Arc::new(self.subject.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.key.finish()),
            headers,
            Arc::new(self.op.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.rejection.finish()),
        ];
        RecordBatch::try_new(schema.clone(), columns).map_err(Error::columns("a batch of events"))
    }
}
