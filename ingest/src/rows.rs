//! Payloads in, columns of a stream's table out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, ListArray, NullBufferBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;
use starmere_lake::delta::EncodedFile;
use starmere_lake::formats::{Header, Incoming};
use starmere_lake::landing::{Oversized, Part, SourcePartition, row_digest};
use starmere_lake::{Error, Result, events};

use crate::envelope::{Envelope, Reader};

/// A batch is full with so many bytes of payloads, or so many rows.
const FULL_BYTES: usize = 48 << 20;
const FULL_ROWS: usize = 1 << 18;

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
    key: BinaryBuilder,
    headers: Headers,
    op: StringBuilder,
    payload: BinaryBuilder,
    rejection: StringBuilder,
    rows: usize,
    bytes: usize,
    rejects: u64,
    parts: Vec<Part>,
    /// The part that rows are added to.
    current: usize,
}

/// The column of headers, in the making.
#[derive(Debug)]
struct Headers {
    name: StringBuilder,
    value: BinaryBuilder,
    lengths: Vec<usize>,
    present: NullBufferBuilder,
}

impl Headers {
    fn append(&mut self, headers: Option<&[Header<'_>]>) {
        self.present.append(headers.is_some());
        let headers = headers.unwrap_or_default();
        self.lengths.push(headers.len());
        for (name, value) in headers {
            self.name.append_value(name);
            self.value.append_option(*value);
        }
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

/// What was found in an event that was added.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The producer gave it an id.
    pub has_id: bool,
    /// See [`row_digest`].
    pub digest: u128,
    pub rejection: Option<String>,
}

/// A batch's columns and parts, ready to be encoded.
#[derive(Debug)]
pub struct Rows {
    pub columns: RecordBatch,
    pub parts: Vec<Part>,
    pub counts: Counts,
}

/// What is in a batch, or in many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub rejects: u64,
    /// How many events that were not rejected are of each type.
    pub types: Types,
    /// Payload bytes.
    pub bytes: u64,
}

impl Counts {
    /// Adds what another batch had.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.rejects += other.rejects;
        self.types.add(&other.types);
        self.bytes += other.bytes;
    }
}

/// How many events are of each type, of a thousand types at most: more are a mistake in the mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(BTreeMap<String, u64>);

impl Types {
    const MOST: usize = 1000;

    fn of(types: &StringArray, rejections: &StringArray) -> Self {
        let mut counts = Self::default();
        for (row, name) in types.iter().enumerate() {
            if let Some(name) = name.filter(|_| rejections.is_null(row)) {
                counts.count(name, 1);
            }
        }
        counts
    }

    fn count(&mut self, name: &str, count: u64) {
        if let Some(sum) = self.0.get_mut(name) {
            *sum += count;
        } else if self.0.len() < Self::MOST {
            self.0.insert(name.to_owned(), count);
        }
    }

    fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, &count)| self.count(name, count));
    }

    /// Types and their counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, &count)| (name.as_str(), count))
    }
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
            rejects: 0,
            parts: Vec::new(),
            current: 0,
        }
    }
}

impl Batch {
    /// It is large enough for a commit.
    pub fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES || self.rows >= FULL_ROWS
    }

    /// Parts so far.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Nothing to land, not even a moved position.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Begins a partition's share, where the table's position is `from`; rows are added to it. Its number.
    pub fn begin(&mut self, partition: SourcePartition, from: i64) -> usize {
        self.current = self.parts.len();
        self.parts.push(Part { partition, from, to: from, rows: 0, digest: 0, mark: None });
        self.current
    }

    /// Goes on with a share that was begun before.
    pub fn go_on(&mut self, part: usize) {
        self.current = part;
    }

    /// Adds an event to the share that is open, at `position`; `next` is the position after it. `id` stands in
    /// where the payload has no id of its own.
    pub fn push(
        &mut self,
        reader: &mut Reader,
        event: &Incoming<'_>,
        position: i64,
        next: i64,
        id: Option<String>,
    ) -> Pushed {
        let envelope = reader.read(event);
        let digest = self.row(&envelope, event, position, next, id);
        Pushed { has_id: envelope.id.is_some(), digest, rejection: envelope.rejection }
    }

    /// Adds an event of more than `limit` bytes; its payload is `kept` beside the table. The row's digest.
    pub fn push_oversized(
        &mut self,
        event: &Incoming<'_>,
        kept: &Oversized,
        limit: usize,
        position: i64,
        next: i64,
    ) -> Result<u128> {
        let envelope = Envelope { rejection: Some(kept.rejection(limit)), ..Envelope::default() };
        let reference = kept.reference()?;
        Ok(self.row(&envelope, &Incoming { payload: Some(&reference), ..*event }, position, next, None))
    }

    /// Ends the open share: what its source needs to know it again.
    pub fn mark(&mut self, to: i64, mark: Option<serde_json::Value>) {
        if let Some(part) = self.parts.get_mut(self.current) {
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

    /// Adds a row; its digest.
    fn row(
        &mut self,
        envelope: &Envelope<'_>,
        event: &Incoming<'_>,
        position: i64,
        next: i64,
        id: Option<String>,
    ) -> u128 {
        let payload = event.payload.unwrap_or_default();
        let part = self.parts.get_mut(self.current).expect("a part is begun before its rows");
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
        // A reject keeps when its source got it: a mended mapping may ask for that.
        let got = || event.timestamp.filter(|_| envelope.rejection.is_some()).and_then(|got| got.checked_mul(1_000));
        self.occurred_at.append_option(envelope.occurred_at.or_else(got));
        self.subject.append_option(envelope.subject.as_deref());
        self.source.append_value(source);
        self.topic.append_value(topic);
        self.partition.append_value(*partition);
        self.position.append_value(position);
        self.key.append_option(event.key);
        self.headers.append(event.headers);
        self.op.append_option(envelope.op);
        self.payload.append_value(payload);
        self.rejection.append_option(envelope.rejection.as_deref());
        part.rows += 1;
        part.to = next;
        let digest = row_digest(position, payload, event.key);
        part.digest = part.digest.wrapping_add(digest);
        self.rejects += u64::from(envelope.rejection.is_some());
        self.rows += 1;
        self.bytes += payload.len();
        digest
    }

    /// The columns. `landed_at` is in microseconds since 1970.
    pub fn finish(mut self, landed_at: i64) -> Result<Rows> {
        let schema = events::file_schema();
        let headers = schema.field_with_name("headers").map_err(Error::columns("a batch of events"))?;
        let headers = self.headers.finish(headers.data_type())?;
        let (event_type, rejection) = (self.event_type.finish(), self.rejection.finish());
        let types = Types::of(&event_type, &rejection);
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
            Arc::new(self.key.finish()),
            headers,
            Arc::new(self.op.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(rejection),
        ];
        let columns = RecordBatch::try_new(schema.clone(), columns).map_err(Error::columns("a batch of events"))?;
        let (events, bytes) = (self.rows as u64, self.bytes as u64);
        let counts = Counts { events, rejects: self.rejects, types, bytes };
        Ok(Rows { columns, parts: self.parts, counts })
    }
}

impl Rows {
    /// Encodes the rows as a file of the stream's table; none where only positions moved. CPU-heavy.
    pub fn encode(&self, landed_at: i64) -> Result<Option<EncodedFile>> {
        if self.columns.num_rows() == 0 {
            return Ok(None);
        }
        let file =
            EncodedFile::of(events::file_schema(), std::slice::from_ref(&self.columns), &events::file_options())?;
        let day = chrono::DateTime::from_timestamp_micros(landed_at).unwrap_or_default().date_naive();
        Ok(Some(file.in_partition(events::INGEST_DATE, day.to_string())))
    }
}
