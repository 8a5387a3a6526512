//! A partition that is ours, and what its records ask for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::message::{Headers as _, Message};
use starmere_lake::formats::{Header, Incoming, SchemaId};
use starmere_lake::landing::{Oversized, SourcePartition, Stream, row_digest};
use tokio::runtime::Handle;

use super::client::{ANSWER, Client, Key};
use super::position::{Mark, Seen};
use super::registry::Registry;
use super::stopped::{Stop, Why};
use crate::envelope::Reader;
use crate::files::Progress;
use crate::memory::{Memory, Waiting};
use crate::rows::{Batch, Rows};
use crate::{Error, Result};

/// A partition that is ours.
pub(super) struct Claim<Q> {
    pub(super) queue: Q,
    pub(super) state: State,
}

pub(super) struct State {
    pub(super) partition: SourcePartition,
    /// The position behind what has landed or was gathered; none where that is nothing.
    pub(super) next: Option<i64>,
    /// Must come first: it has landed.
    pub(super) expect: Option<Seen>,
    /// Where it ended when it was claimed, where that is known.
    pub(super) end: Option<i64>,
    pub(super) at_end: bool,
    pub(super) stopped: Option<Stop>,
    /// When a record came last, or the broker was asked for the end of the partition.
    pub(super) heard: Instant,
    /// How often in a row the broker said that the partition ends before our position.
    pub(super) short: u32,
    /// The last record that was gathered.
    pub(super) last: Option<Seen>,
    /// Since when there has been nothing to read.
    pub(super) quiet: Option<Instant>,
    /// When it was read again from the last record on, where nothing has been gathered since.
    pub(super) checked: Option<Instant>,
}

impl State {
    /// A partition at a position, whose records are to come.
    pub(super) fn at(partition: SourcePartition, next: Option<i64>, expect: Option<Seen>, end: Option<i64>) -> Self {
        Self {
            partition,
            next,
            expect,
            end,
            at_end: end == Some(0),
            stopped: None,
            heard: Instant::now(),
            short: 0,
            last: None,
            quiet: None,
            checked: None,
        }
    }

    /// Whether a record that is here came after a silence of `quiet` or more: the topic may have been made again
    /// meanwhile, and be read on in the middle.
    pub(super) fn is_to_be_checked(&mut self, quiet: Duration) -> bool {
        let was_quiet = self.quiet.take().is_some_and(|since| since.elapsed() >= quiet);
        was_quiet
            && self.expect.is_none()
            && self.last.is_some()
            && self.checked.is_none_or(|at| at.elapsed() >= CHECKED)
    }

    pub(super) fn key(&self) -> Key {
        (self.partition.topic.clone(), self.partition.partition)
    }
}

/// What a record, or an error in its place, asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asks {
    Nothing,
    /// The partition is read again from its position.
    Restart,
    /// The partition is read again from the last record that was gathered, which must come first.
    Check,
    /// Everything is read again from the table.
    Reset,
    Stop(Why),
}

/// What was checked is not checked again for so long, however slowly the next record comes.
const CHECKED: Duration = Duration::from_secs(60);

/// A partition is shorter than our position when the broker has said so this often in a row: just after a new leader
/// was elected, the end that it tells may be too low.
const SHORT: u32 = 3;

/// Neither the record that must come first nor the position may be there any more.
pub(super) fn out_of_range(client: &impl Client, state: &mut State) -> Asks {
    if state.expect.take().is_some() {
        // It has expired; the records after it may still be there.
        return Asks::Restart;
    }
    let SourcePartition { topic, partition, .. } = &state.partition;
    let Some(position) = state.next else {
        tracing::warn!(topic, partition, "there is no record where it should start; it is read from its earliest");
        return Asks::Restart;
    };
    match client.watermarks(&state.key(), ANSWER) {
        Ok((earliest, _)) if earliest > position => Asks::Stop(Why::Expired { position, earliest }),
        Ok((_, end)) if end < position => Asks::Stop(Why::MadeAgain { position, end: Some(end) }),
        _ => Asks::Restart,
    }
}

/// What follows from `end`, where the broker says that a partition ends whose first record does not come. Not every
/// broker answers a fetch behind the end with an error. Where the record before our position did come, the partition is
/// not shorter, whatever the broker says: some tell an end that is too low.
pub(super) fn ends_at(state: &mut State, end: i64) -> Asks {
    match state.next {
        Some(position) if end < position && state.expect.is_some() => {
            state.short += 1;
            match state.short >= SHORT {
                true => Asks::Stop(Why::MadeAgain { position, end: Some(end) }),
                false => Asks::Nothing,
            }
        }
        _ => {
            state.short = 0;
            Asks::Nothing
        }
    }
}

/// A partition's share of the batch.
struct Gathered {
    part: usize,
    last: Seen,
}

/// Gathers records into a batch.
pub(super) struct Gather {
    pub(super) stream: Stream,
    pub(super) reader: Reader,
    pub(super) registry: Option<Registry>,
    pub(super) runtime: Handle,
    pub(super) progress: Arc<Progress>,
    pub(super) batch: Batch,
    /// The last record of each partition in the batch. It is kept beside the batch and ends with it, so that rows
    /// never land without the mark by which the partition is known again.
    gathered: HashMap<SourcePartition, Gathered>,
    /// When the first record of the batch came.
    pub(super) begun: Option<Instant>,
    pub(super) memory: Memory,
    /// There is no memory for a batch.
    pub(super) waiting: Option<Waiting>,
}

impl Gather {
    pub(super) fn new(
        stream: Stream,
        reader: Reader,
        registry: Option<Registry>,
        runtime: Handle,
        progress: Arc<Progress>,
        memory: Memory,
    ) -> Self {
        Self {
            stream,
            reader,
            registry,
            runtime,
            progress,
            batch: Batch::default(),
            gathered: HashMap::new(),
            begun: None,
            memory,
            waiting: None,
        }
    }

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
        self.gathered.clear();
        self.begun = None;
    }

    /// Whether the batch has records of this partition.
    pub(super) fn has(&self, partition: &SourcePartition) -> bool {
        self.gathered.contains_key(partition)
    }

    /// Ends the batch: its rows, and the position of each of its partitions.
    pub(super) fn take(&mut self) -> Result<(Rows, Vec<(Key, i64)>)> {
        let mut positions = Vec::with_capacity(self.gathered.len());
        for (partition, Gathered { part, last }) in self.gathered.drain() {
            let position = last.offset + 1;
            let mark = serde_json::to_value(Mark::Last(last)).map_err(|error| Error::Task(error.to_string()))?;
            self.batch.go_on(part);
            self.batch.mark(position, Some(mark));
            positions.push(((partition.topic, partition.partition), position));
        }
        self.begun = None;
        Ok((std::mem::take(&mut self.batch).finish()?, positions))
    }

    pub(super) fn record(&mut self, state: &mut State, message: &impl Message) -> Result<Asks> {
        if state.stopped.is_some() {
            return Ok(Asks::Nothing);
        }
        state.heard = Instant::now();
        state.short = 0;
        let offset = message.offset();
        if let Some(expect) = state.expect.take() {
            let position = state.next.unwrap_or(offset + 1);
            if offset == expect.offset {
                if Seen::of(message) != expect {
                    return Ok(Asks::Stop(Why::MadeAgain { position, end: None }));
                }
                state.at_end = state.end == Some(position);
            }
            if offset < position {
                // The mark is older than the position, where a release before this one made a commit without a mark.
                // What lies between has landed.
                let is_last = offset + 1 == position;
                return Ok(if is_last { Asks::Nothing } else { Asks::Restart });
            }
            // Else the record was compacted away; what comes is behind it.
        }
        let from = state.next.unwrap_or(offset);
        let gathered = self.gathered.get(&state.partition);
        if offset < from || gathered.is_some_and(|gathered| gathered.last.offset + 1 != from) {
            return Ok(Asks::Reset);
        }
        let part = match gathered {
            Some(gathered) => gathered.part,
            None => self.batch.begin_marked(state.partition.clone(), from),
        };
        self.batch.go_on(part);
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
        let last = Seen::with(message, digest);
        state.last = Some(last.clone());
        state.checked = None;
        match self.gathered.get_mut(&state.partition) {
            Some(gathered) => gathered.last = last,
            None => _ = self.gathered.insert(state.partition.clone(), Gathered { part, last }),
        }
        self.progress.bytes.fetch_add(message.payload().map_or(0, <[u8]>::len) as u64, Ordering::Relaxed);
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
