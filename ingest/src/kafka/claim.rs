//! A partition that is ours, and what its records ask for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use starmere_lake::formats::{Header, Incoming, SchemaId};
use starmere_lake::landing::{Oversized, SourcePartition, Stream, row_digest};
use tokio::runtime::Handle;

use super::consumer::{ANSWER, Context};
use super::position::Seen;
use super::registry::Registry;
use super::stopped::{Stop, Why};
use crate::Result;
use crate::envelope::Reader;
use crate::files::Progress;
use crate::memory::{Memory, Waiting};
use crate::rows::Batch;

/// A partition that is ours.
pub(super) struct Claim {
    pub(super) queue: PartitionQueue<Context>,
    pub(super) state: State,
}

pub(super) struct State {
    pub(super) partition: SourcePartition,
    /// The position behind what has landed or was gathered; none where that is nothing.
    pub(super) next: Option<i64>,
    /// Must come first: it has landed.
    pub(super) expect: Option<Seen>,
    /// The last record gathered.
    pub(super) last: Option<Seen>,
    /// Its share of the batch.
    pub(super) part: Option<usize>,
    /// Where it ended when it was claimed, where that is known.
    pub(super) end: Option<i64>,
    pub(super) at_end: bool,
    pub(super) stopped: Option<Stop>,
}

/// What a record, or an error in its place, asks for.
pub(super) enum Asks {
    Nothing,
    /// The partition is read again from its position.
    Restart,
    /// Everything is read again from the table.
    Reset,
    Stop(Why),
}

/// Neither the record that must come first nor the position may be there any more.
pub(super) fn out_of_range(consumer: &BaseConsumer<Context>, state: &mut State) -> Asks {
    if state.expect.take().is_some() {
        // It has expired; the records after it may still be there.
        return Asks::Restart;
    }
    let SourcePartition { topic, partition, .. } = &state.partition;
    let Some(position) = state.next else {
        tracing::warn!(topic, partition, "there is no record where it should start; it is read from its earliest");
        return Asks::Restart;
    };
    match consumer.fetch_watermarks(topic, *partition, ANSWER) {
        Ok((earliest, _)) if earliest > position => Asks::Stop(Why::Expired { position, earliest }),
        Ok((_, end)) if end < position => Asks::Stop(Why::MadeAgain { position }),
        _ => Asks::Restart,
    }
}

/// Gathers records into a batch.
pub(super) struct Gather {
    pub(super) stream: Stream,
    pub(super) reader: Reader,
    pub(super) registry: Option<Registry>,
    pub(super) runtime: Handle,
    pub(super) progress: Arc<Progress>,
    pub(super) batch: Batch,
    /// When the first record of the batch came.
    pub(super) begun: Option<Instant>,
    pub(super) memory: Memory,
    /// There is no memory for a batch.
    pub(super) waiting: Option<Waiting>,
}

impl Gather {
    /// Whether there is memory to gather more in.
    pub(super) fn has_room(&mut self) -> bool {
        if !self.batch.has_memory() {
            match self.memory.try_share() {
                Some(share) => self.batch.give_memory(share),
                None => {
                    self.waiting.get_or_insert_with(|| self.memory.wait());
                    return false;
                }
            }
        }
        self.waiting = None;
        true
    }

    /// Drops what was gathered, and its memory.
    pub(super) fn drop_batch(&mut self) {
        self.batch = Batch::default();
        self.begun = None;
    }

    pub(super) fn record(&mut self, state: &mut State, message: &BorrowedMessage<'_>) -> Result<Asks> {
        if state.stopped.is_some() {
            return Ok(Asks::Nothing);
        }
        let offset = message.offset();
        // Where it is not the first, it was compacted away; what comes is behind it.
        if let Some(expect) = state.expect.take().filter(|expect| expect.offset == offset) {
            let position = state.next.unwrap_or(offset + 1);
            if Seen::of(message) != expect {
                return Ok(Asks::Stop(Why::MadeAgain { position }));
            }
            state.at_end = state.end == Some(position);
            return Ok(Asks::Nothing);
        }
        let from = state.next.unwrap_or(offset);
        if offset < from {
            return Ok(Asks::Reset);
        }
        match state.part {
            Some(part) => self.batch.go_on(part),
            None => state.part = Some(self.batch.begin(state.partition.clone(), from)),
        }
        self.begun.get_or_insert_with(Instant::now);
        let headers: Option<Vec<Header<'_>>> =
            message.headers().map(|headers| headers.iter().map(|header| (header.key, header.value)).collect());
        let event = Incoming {
            payload: message.payload(),
            key: message.key(),
            headers: headers.as_deref(),
            timestamp: message.timestamp().to_millis(),
        };
        while let Some(id) = self.reader.missing(&event) {
            self.learn(id)?;
        }
        let limit = self.reader.mapping().max_event_bytes;
        let digest = match event.payload.filter(|payload| payload.len() > limit) {
            None => self.batch.push(&mut self.reader, &event, offset, offset + 1, None)?.digest,
            Some(payload) => {
                let keeping = Oversized::keep(self.stream.table(), &state.partition, offset, payload);
                let kept = self.runtime.block_on(keeping)?;
                self.batch.push_oversized(&event, &kept, limit, offset, offset + 1)?;
                row_digest(offset, payload, event.key)
            }
        };
        state.next = Some(offset + 1);
        state.last = Some(Seen::with(message, digest));
        self.progress.bytes.fetch_add(message.payload_len() as u64, Ordering::Relaxed);
        self.progress.events.fetch_add(1, Ordering::Relaxed);
        Ok(Asks::Nothing)
    }

    /// Asks the registry for a schema and keeps it, or remembers that there is none.
    fn learn(&self, id: SchemaId) -> Result<()> {
        let schemas = self.reader.schemas();
        let (Some(registry), SchemaId::Registered(number)) = (&self.registry, id) else {
            schemas.refuse(id, format!("the schema {id} is not known, and the source names no `registry`"));
            return Ok(());
        };
        self.runtime.block_on(async {
            match registry.fetch(number).await? {
                Ok(schema) => schemas.keep(self.stream.table(), id, &schema).await?,
                Err(reason) => schemas.refuse(id, reason),
            }
            Ok(())
        })
    }
}
