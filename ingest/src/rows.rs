//! Payloads in, a file of a stream's table out.
//!
//! ```text
//! push ─► columns ─► a chunk, when they are large enough ─► encoder ─► file ─► landed, with its parts, in one commit
//! ```

mod columns;
mod encoder;

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use starmere_lake::delta::EncodedFile;
use starmere_lake::events;
use starmere_lake::formats::Incoming;
use starmere_lake::landing::{Outcome, Oversized, Part, SourcePartition, Stream, row_digest};
use starmere_lake::metrics;
use starmere_lake::troubles::{self, About};

use crate::envelope::{Envelope, Reader};
use crate::landings;
use crate::memory::{PER_BYTE, Share};
use crate::{Error, Result};
use columns::{Columns, Row};
use encoder::Encoder;

/// A batch is full with so many bytes of payloads, or so many rows.
const FULL_BYTES: usize = 48 << 20;
const FULL_ROWS: usize = 1 << 18;
/// So many bytes, or rows, are encoded at once.
const CHUNK_BYTES: usize = 2 << 20;
const CHUNK_ROWS: usize = 1 << 14;
/// Memory for a row beside its bytes: numbers, offsets, the ends of a name.
const ROW_BYTES: usize = 128;
/// A store that takes longer for a landing is told of.
const SLOW: Duration = Duration::from_secs(20);
/// The source of requests.
pub(crate) const HTTP: &str = "http";

/// What columns of so many rows take, whose payloads, keys and headers have so many bytes.
pub(crate) fn memory(rows: usize, bytes: usize) -> usize {
    PER_BYTE * (rows * ROW_BYTES + bytes)
}

/// Events as the rows that they would be; or which of them has an envelope that cannot be read, from 0, and why.
pub(crate) fn rows_of<'a>(
    reader: &mut Reader,
    events: impl Iterator<Item = Incoming<'a>>,
) -> Result<Result<RecordBatch, (usize, String)>> {
    let (source, topic) = (HTTP.to_owned(), String::new());
    let partition = SourcePartition { source, topic, incarnation: 0, partition: 0 };
    let mut columns = Columns::default();
    for (place, event) in events.enumerate() {
        let envelope = reader.read(&event);
        if let Some(reason) = &envelope.rejection {
            return Ok(Err((place, reason.clone())));
        }
        let position = place as i64;
        columns.push(Row { partition: &partition, position, envelope: &envelope, event: &event, id: None });
    }
    Ok(Ok(columns.finish(0)?))
}

/// The rows of one commit, in the making. All parts' rows are in one file.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows that are not given to the encoder yet.
    columns: Columns,
    encoder: Option<Encoder>,
    /// In microseconds since 1970; all rows have it.
    landed_at: Option<i64>,
    rows: usize,
    bytes: usize,
    rejects: u64,
    without_id: u64,
    types: Types,
    parts: Vec<Part>,
    /// Parts that are not to land without a mark.
    marked: Vec<usize>,
    /// The part that rows are added to.
    current: usize,
    /// What it may take, where that is bounded.
    share: Option<Share>,
    /// There is no memory for more.
    starved: bool,
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

/// A batch that takes no more rows: ready to be landed.
#[derive(Debug)]
pub struct Rows {
    pub parts: Vec<Part>,
    pub counts: Counts,
    last: RecordBatch,
    encoder: Option<Encoder>,
    landed_at: i64,
    share: Option<Share>,
    /// As in `counts`, which callers take away.
    rejects: u64,
    bytes: u64,
}

/// What is in a batch, or in many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub rejects: u64,
    /// Events that have none where the stream's envelope says that their id is.
    pub without_id: u64,
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
        self.without_id += other.without_id;
        self.types.add(&other.types);
        self.bytes += other.bytes;
    }
}

/// How many events are of each type, of a thousand types at most: more are a mistake in the mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(BTreeMap<String, u64>);

impl Types {
    const MOST: usize = 1000;

    fn of(chunk: &RecordBatch) -> Self {
        let text = |name: &str| chunk.column_by_name(name).map(|column| column.as_string::<i32>());
        let (Some(types), Some(rejections)) = (text("event_type"), text("rejection")) else { return Self::default() };
        let (types, rejections): (&StringArray, &StringArray) = (types, rejections);
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

impl Batch {
    /// A batch whose rows say that they landed at this time, in microseconds since 1970.
    pub fn landed_at(landed_at: i64) -> Self {
        Self { landed_at: Some(landed_at), ..Self::default() }
    }

    /// Bounds it: it is full where its share of memory cannot grow.
    pub fn give_memory(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// It is bounded by a share of memory.
    pub fn has_memory(&self) -> bool {
        self.share.is_some()
    }

    /// It is large enough for a commit, or there is no memory for more.
    pub fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES || self.rows >= FULL_ROWS || self.starved
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

    /// The same, where the source knows its partition again by a mark: without one, the batch cannot be ended.
    pub fn begin_marked(&mut self, partition: SourcePartition, from: i64) -> usize {
        let part = self.begin(partition, from);
        self.marked.push(part);
        part
    }

    /// Goes on with a share that was begun before.
    pub fn go_on(&mut self, part: usize) {
        self.current = part;
    }

    /// Adds an event to the share that is open, at `position`; `next` is the position after it. `id` stands in
    /// where the payload has no id of its own. May wait for the encoder.
    pub fn push(
        &mut self,
        reader: &mut Reader,
        event: &Incoming<'_>,
        position: i64,
        next: i64,
        id: Option<String>,
    ) -> Result<Pushed> {
        let asks_for_id = reader.mapping().id.is_some();
        let envelope = reader.read(event);
        let digest = self.row(&envelope, event, position, next, id)?;
        let is_missing = asks_for_id && envelope.id.is_none() && envelope.rejection.is_none();
        self.without_id += u64::from(is_missing);
        Ok(Pushed { has_id: envelope.id.is_some(), digest, rejection: envelope.rejection })
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
        self.row(&envelope, &Incoming { payload: Some(&reference), ..*event }, position, next, None)
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
            self.marked.retain(|&part| part < self.parts.len());
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
    ) -> Result<u128> {
        let payload = event.payload.unwrap_or_default();
        let part = self.parts.get_mut(self.current).expect("a part is begun before its rows");
        self.columns.push(Row { partition: &part.partition, position, envelope, event, id });
        part.rows += 1;
        part.to = next;
        let digest = row_digest(position, payload, event.key);
        part.digest = part.digest.wrapping_add(digest);
        self.rejects += u64::from(envelope.rejection.is_some());
        self.rows += 1;
        self.bytes += payload.len();
        if let Some(share) = &mut self.share {
            let encoding = self.encoder.as_ref().map_or(0, Encoder::memory);
            self.starved |= !share.cover(memory(self.columns.rows(), self.columns.bytes()) + encoding);
        }
        if self.columns.bytes() >= CHUNK_BYTES || self.columns.rows() >= CHUNK_ROWS {
            let size = memory(self.columns.rows(), self.columns.bytes());
            // The next chunk will be as large.
            let next = Columns::like(&self.columns);
            let chunk = self.chunk()?;
            self.columns = next;
            let encoder = match self.encoder.take() {
                Some(encoder) => encoder,
                None => Encoder::new()?,
            };
            encoder.add(chunk, size);
            self.encoder = Some(encoder);
        }
        Ok(digest)
    }

    /// Takes the rows that are not given to the encoder yet.
    fn chunk(&mut self) -> Result<RecordBatch> {
        let landed_at = *self.landed_at.get_or_insert_with(|| chrono::Utc::now().timestamp_micros());
        let chunk = std::mem::take(&mut self.columns).finish(landed_at)?;
        self.types.add(&Types::of(&chunk));
        Ok(chunk)
    }

    /// Ends the batch.
    pub fn finish(mut self) -> Result<Rows> {
        if let Some(part) = self.marked.iter().map(|&part| &self.parts[part]).find(|part| part.mark.is_none()) {
            let SourcePartition { source, topic, partition, .. } = &part.partition;
            let of = format!("partition {partition} of `{topic}` (source `{source}`)");
            return Err(Error::Task(format!("a batch has no mark for {of}; it is not landed")));
        }
        let last = self.chunk()?;
        let (events, bytes) = (self.rows as u64, self.bytes as u64);
        let rejects = self.rejects;
        let counts = Counts { events, rejects, without_id: self.without_id, types: self.types, bytes };
        let landed_at = self.landed_at.unwrap_or_default();
        let (parts, encoder, share) = (self.parts, self.encoder, self.share);
        Ok(Rows { parts, counts, last, encoder, landed_at, share, rejects, bytes })
    }
}

impl Rows {
    /// Encodes the rows, where that does not hold up the runtime, and lands them. Their memory is given back when they
    /// are encoded, that of the file when it has landed.
    pub async fn land(mut self, stream: &Stream) -> Result<Outcome> {
        let mut share = self.share.take();
        let parts = std::mem::take(&mut self.parts);
        let mut tally = Tally::of(stream, &parts, self.rejects, self.bytes);
        let encoding = tokio::task::spawn_blocking(move || self.encode());
        let file = encoding.await.map_err(|error| Error::Task(error.to_string()))??;
        if let Some(share) = &mut share {
            share.shrink(file.as_ref().map_or(0, |file| file.bytes.len()));
        }
        let outcome = tally.awaited(stream.land(&parts, file.into_iter().collect())).await;
        tally.told(&outcome);
        Ok(outcome?)
    }

    /// The rows as a file of the stream's table; none where only positions moved. CPU-heavy.
    pub fn encode(self) -> Result<Option<EncodedFile>> {
        let file = match self.encoder {
            Some(encoder) => {
                if self.last.num_rows() > 0 {
                    encoder.add(self.last, 0);
                }
                encoder.finish()?
            }
            None if self.last.num_rows() == 0 => None,
            None => Some(EncodedFile::of(events::file_schema(), &[self.last], &events::file_options())?),
        };
        let day = chrono::DateTime::from_timestamp_micros(self.landed_at).unwrap_or_default().date_naive();
        Ok(file.map(|file| file.in_partition(events::INGEST_DATE, day.to_string())))
    }
}

/// What the process says of a batch that is offered: metrics where it lands, trouble while it does not.
struct Tally {
    stream: String,
    source: String,
    events: u64,
    rejects: u64,
    bytes: u64,
    /// It was told that the store does not answer.
    is_late: bool,
}

impl Tally {
    fn of(stream: &Stream, parts: &[Part], rejects: u64, bytes: u64) -> Self {
        // All parts of a batch are of one source.
        let source = parts.first().map(|part| part.partition.source.clone()).unwrap_or_default();
        let events = parts.iter().map(|part| part.rows).sum();
        Self { stream: stream.name().to_owned(), source, events, rejects, bytes, is_late: false }
    }

    fn object(&self) -> String {
        format!("{}/{}", self.stream, self.source)
    }

    /// Waits for the store, and tells while it does not answer.
    async fn awaited<T>(&mut self, landing: impl Future<Output = T>) -> T {
        let mut landing = std::pin::pin!(landing);
        loop {
            tokio::select! {
                outcome = &mut landing => return outcome,
                () = tokio::time::sleep(SLOW) => self.unanswered(),
            }
        }
    }

    fn unanswered(&mut self) {
        let object = self.object();
        landings::refuse(&object);
        if !std::mem::replace(&mut self.is_late, true) {
            let cause = format!("the store has not answered for {} s", SLOW.as_secs());
            troubles::failed(About::Landing, &object, &cause);
        }
    }

    fn told(&self, outcome: &Result<Outcome, starmere_lake::Error>) {
        let Self { stream, source, events, rejects, bytes, is_late } = self;
        let object = self.object();
        match outcome {
            Err(error) => {
                if matches!(error, starmere_lake::Error::Store { .. }) {
                    landings::refuse(&object);
                }
                let cause = troubles::causes(error);
                // One attempt counts once.
                return match is_late {
                    true => troubles::because(About::Landing, &object, &cause),
                    false => troubles::failed(About::Landing, &object, &cause),
                };
            }
            // Another process reads the same source, and has landed these events.
            Ok(Outcome::Behind(_)) if source != HTTP => {}
            // Of requests, an earlier attempt has: nobody else has their partition.
            Ok(Outcome::Landed(_) | Outcome::Behind(_)) => {
                landings::land(&object);
                let labels = [stream.as_str(), source.as_str()];
                metrics::LANDED_EVENTS.add(&labels, *events);
                metrics::LANDED_REJECTS.add(&labels, *rejects);
                metrics::LANDED_BYTES.add(&labels, *bytes);
            }
        }
        troubles::well(About::Landing, &object);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use starmere_lake::delta::Warehouse;
    use starmere_lake::paths::TablePath;
    use starmere_lake::store::Store;

    use super::*;

    #[tokio::test]
    async fn landed_events_are_counted_once_and_what_cannot_land_is_a_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open("warehouse", folder.path()).unwrap();
        let name = "counted_stream";
        let stream = Stream::new(name, Warehouse::new(store).table(TablePath::stream("d", name)));
        let rows = || {
            let mut batch = Batch::default();
            let (source, topic) = ("s".to_owned(), "t".to_owned());
            batch.begin(SourcePartition { source, topic, incarnation: 0, partition: 0 }, 0);
            let mapping = crate::envelope::Mapping::new(crate::envelope::TypeOf::Constant("x".to_owned()), None);
            let mut reader = Reader::new(mapping, &Arc::default());
            let event = Incoming::of(b"nonsense");
            batch.push(&mut reader, &event, 0, 1, None).unwrap();
            batch.finish().unwrap()
        };
        let counted = || [&metrics::LANDED_EVENTS, &metrics::LANDED_REJECTS].map(|family| family.value(&[name, "s"]));

        // A file stands where the table belongs.
        let lake = folder.path().join("warehouse/lake");
        std::fs::write(&lake, "").unwrap();
        assert!(rows().land(&stream).await.is_err());
        let trouble = troubles::of(About::Landing, "counted_stream/s").unwrap();
        assert!(trouble.cause.contains(": ") && trouble.failures == 1, "{trouble:?}");
        assert_eq!(counted(), [0, 0]);

        std::fs::remove_file(&lake).unwrap();
        assert!(matches!(rows().land(&stream).await, Ok(Outcome::Landed(_))));
        assert_eq!((troubles::of(About::Landing, "counted_stream/s"), counted()), (None, [1, 1]));
        assert!(matches!(rows().land(&stream).await, Ok(Outcome::Behind(_))));
        assert_eq!(counted(), [1, 1]);
    }
}
