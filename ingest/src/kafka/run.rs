//! Reading records and landing them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use starmere_lake::Kind;
use starmere_lake::landing::{Outcome, Stream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::{Asks, Claim, Gather, State, out_of_range};
use super::consumer::{self, ANSWER, Change, Context};
use super::position::{Mark, Position, Positions};
use super::stopped::{self, Stop, Why};
use super::{Membership, Source, Start};
use crate::envelope::{Mapping, Reader};
use crate::files::Progress;
use crate::marks::marks;
use crate::memory::{Memory, Share};
use crate::rows::{Batch, Counts};
use crate::{Error, Result};

/// A batch is landed when it is full or, unless the source is drained, this long after its first record.
const BATCH_AGE: Duration = Duration::from_millis(250);
/// Records that are read of one partition before the next one has its turn.
const TURN: usize = 512;
/// How long to wait when there is nothing to read.
const IDLE: Duration = Duration::from_millis(20);
/// The pauses between attempts at a store that does not answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A source that is drained is given up when the broker sends nothing for so long.
const SILENCE: Duration = Duration::from_secs(60);
/// Partitions that are stopped are looked at again this often: somebody may have said to go on.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The fold of marks is renewed after so many commits, so that the next start reads few of them.
const MARKS_EVERY: u64 = 100;
/// How long a partition that is taken from us may wait for its last batch.
const HAND_OVER: Duration = Duration::from_secs(10);

/// How long to wait for an answer that can be done without.
const SHORT_ANSWER: Duration = Duration::from_secs(5);
/// What the client may read ahead of us, over all partitions, and the least of it where memory is short.
const AHEAD: usize = 64 << 20;
const LEAST_AHEAD: usize = 1 << 20;

/// How long to read.
#[derive(Clone, Debug)]
pub enum Until {
    /// Until all that is there has landed, or told to stop. No group is joined: all partitions are read.
    Drained(CancellationToken),
    /// Until told to stop; what was read is landed then.
    Stopped(CancellationToken),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What landed.
    pub counts: Counts,
    pub commits: u64,
    pub stops: Vec<Stop>,
    /// The table's version after the last commit.
    pub version: u64,
}

/// Lands what the source's topics have, until `until`. Safe to be run beside itself. In a run that goes on until it
/// is stopped, a store or a broker that does not answer is waited for.
pub async fn land(
    stream: &Stream,
    mapping: &Mapping,
    source: &Source,
    progress: &Arc<Progress>,
    memory: &Memory,
    until: Until,
) -> Result<Report> {
    // Whoever drops this future ends the thread.
    let dropped = CancellationToken::new();
    let _guard = dropped.clone().drop_guard();
    let (stream, source, progress, memory) = (stream.clone(), source.clone(), progress.clone(), memory.clone());
    let (reader, runtime) = (Reader::of(mapping.clone(), &stream).await?, Handle::current());
    let running = move || -> Result<Report> {
        let once = matches!(until, Until::Drained(_));
        let ahead = memory.share_ahead(AHEAD);
        let consumer = consumer::consumer(&source, once, Some(of_partition(&source, ahead.as_ref())?));
        let consumer = consumer.map_err(|error| Error::kafka(&source.name, error))?;
        let registry = source.registry.clone();
        let mut run = Run {
            source,
            consumer,
            gather: Gather {
                stream,
                reader,
                registry,
                runtime,
                progress,
                batch: Batch::default(),
                begun: None,
                memory,
                waiting: None,
            },
            _ahead: ahead,
            until,
            dropped,
            claims: BTreeMap::new(),
            unclaimed: VecDeque::new(),
            flight: None,
            again: None,
            failed: None,
            heard: Instant::now(),
            looked: Instant::now(),
            report: Report::default(),
        };
        let outcome = run.join().and_then(|()| run.run());
        run.consumer.context().close();
        outcome.map(|()| run.report)
    };
    tokio::task::spawn_blocking(running).await.map_err(|error| Error::Task(error.to_string()))?
}

/// How much of that a partition may have: the client counts by partition.
fn of_partition(source: &Source, ahead: Option<&Share>) -> Result<usize> {
    /// Where the broker does not tell.
    const PARTITIONS: usize = 16;
    let failed = |error| Error::kafka(&source.name, error);
    let consumer = consumer::consumer(source, true, None).map_err(failed)?;
    // Whatever is wrong is told when the topics are read.
    let topics = partitions(&consumer, source, SHORT_ANSWER).unwrap_or_default();
    consumer.context().close();
    let partitions = match topics.values().map(Vec::len).sum() {
        0 => PARTITIONS,
        partitions => partitions,
    };
    Ok(ahead.map_or(0, Share::bytes).max(LEAST_AHEAD) / partitions)
}

/// Topics and numbers of partitions.
fn keys_of(partitions: &TopicPartitionList) -> Vec<(String, i32)> {
    partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

/// The source's topics, with their partitions.
fn partitions(
    consumer: &BaseConsumer<Context>,
    source: &Source,
    patience: Duration,
) -> Result<BTreeMap<String, Vec<i32>>> {
    let invalid = |message: String| Error::of_kafka(&source.name, message, Kind::Invalid);
    let metadata = consumer.fetch_metadata(None, patience).map_err(|error| Error::kafka(&source.name, error))?;
    let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for wanted in &source.topics {
        let pattern = match wanted.starts_with('^') {
            true => Some(regex::Regex::new(wanted).map_err(|error| invalid(format!("`{wanted}`: {error}")))?),
            false => None,
        };
        let mut found = false;
        for topic in metadata.topics() {
            let name = topic.name();
            let is_wanted = pattern.as_ref().map_or(name == wanted, |pattern| pattern.is_match(name));
            if is_wanted && !topic.partitions().is_empty() {
                found = true;
                topics.insert(name.to_owned(), topic.partitions().iter().map(|partition| partition.id()).collect());
            }
        }
        if !found && pattern.is_none() {
            return Err(invalid(format!("there is no topic `{wanted}`")));
        }
    }
    Ok(topics)
}

/// Why a pattern of topics is none.
pub fn check_pattern(pattern: &str) -> std::result::Result<(), String> {
    regex::Regex::new(pattern).map(|_| ()).map_err(|error| error.to_string())
}

/// Where the partitions of a source's topics end: topic, number, and the position behind the last record.
pub async fn ends(source: &Source) -> Result<Vec<(String, i32, i64)>> {
    let source = source.clone();
    let asking = move || {
        let failed = |error| Error::kafka(&source.name, error);
        let consumer = consumer::consumer(&source, true, None).map_err(failed)?;
        let mut ends = Vec::new();
        for (topic, there) in partitions(&consumer, &source, SHORT_ANSWER)? {
            for number in there {
                let (_, end) = consumer.fetch_watermarks(&topic, number, SHORT_ANSWER).map_err(failed)?;
                ends.push((topic.clone(), number, end));
            }
        }
        consumer.context().close();
        Ok(ends)
    };
    tokio::task::spawn_blocking(asking).await.map_err(|error| Error::Task(error.to_string()))?
}

/// A batch that is being landed.
struct Flight {
    task: JoinHandle<Result<Outcome>>,
    counts: Counts,
    offsets: TopicPartitionList,
}

struct Run {
    source: Source,
    consumer: Arc<BaseConsumer<Context>>,
    gather: Gather,
    until: Until,
    dropped: CancellationToken,
    claims: BTreeMap<(String, i32), Claim>,
    /// Partitions that were assigned while the table could not be read.
    unclaimed: VecDeque<Vec<(String, i32)>>,
    flight: Option<Flight>,
    /// The table is to be read again: when, and the pause after that.
    again: Option<(Instant, Duration)>,
    /// Why landing failed last, and the pause after it.
    failed: Option<(String, Duration)>,
    /// When the broker sent something last.
    heard: Instant,
    looked: Instant,
    report: Report,
    /// The memory of what the client reads ahead.
    _ahead: Option<Share>,
}

impl Run {
    fn kafka(&self, error: KafkaError) -> Error {
        Error::kafka(&self.source.name, error)
    }

    fn is_once(&self) -> bool {
        matches!(self.until, Until::Drained(_))
    }

    fn join(&mut self) -> Result<()> {
        let fixed = match (&self.source.membership, &self.until) {
            (Membership::Group(_), Until::Stopped(_)) => {
                let topics: Vec<&str> = self.source.topics.iter().map(String::as_str).collect();
                return self.consumer.subscribe(&topics).map_err(|error| self.kafka(error));
            }
            (Membership::Group(_), Until::Drained(_)) => None,
            (Membership::Partitions(numbers), _) => Some(numbers.clone()),
        };
        let mut all = Vec::new();
        for (topic, there) in partitions(&self.consumer, &self.source, ANSWER)? {
            for number in fixed.as_ref().unwrap_or(&there) {
                if !there.contains(number) {
                    let message = format!("`{topic}` has no partition {number}");
                    return Err(Error::of_kafka(&self.source.name, message, Kind::Invalid));
                }
                all.push((topic.clone(), *number));
            }
        }
        self.unclaimed.push_back(all);
        self.again = Some((Instant::now(), PAUSES.0));
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        loop {
            if self.dropped.is_cancelled() {
                return Ok(());
            }
            self.landed(Duration::ZERO)?;
            for change in self.consumer.context().take_changes() {
                match change {
                    Change::Assigned(partitions) => {
                        self.unclaimed.push_back(keys_of(&partitions));
                        self.again.get_or_insert((Instant::now(), PAUSES.0));
                    }
                    Change::Revoked(partitions) => self.give_back(&partitions)?,
                }
            }
            self.read_the_table_again()?;
            let stopping = match &self.until {
                Until::Stopped(stop) => stop.is_cancelled(),
                Until::Drained(stop) => stop.is_cancelled() || self.is_drained(),
            };
            let full = self.gather.batch.is_full();
            let old = !self.is_once() && self.gather.begun.is_some_and(|begun| begun.elapsed() >= BATCH_AGE);
            if (full || old || stopping) && self.flight.is_none() && self.again.is_none() {
                self.flush()?;
            }
            if stopping && self.flight.is_none() && (self.gather.batch.is_empty() || self.again.is_some()) {
                return Ok(());
            }
            let waits = full || stopping || self.again.is_some() || !self.gather.has_room();
            let read = if waits { 0 } else { self.read()? };
            if self.gather.batch.is_empty() {
                // Whoever has nothing to read needs no memory.
                self.gather.drop_batch();
            }
            if read > 0 {
                self.heard = Instant::now();
            } else if self.is_once() && self.flight.is_none() && self.heard.elapsed() > SILENCE {
                let message = format!("the broker has sent nothing for {} s", SILENCE.as_secs());
                return Err(Error::of_kafka(&self.source.name, message, Kind::Unavailable));
            }
            self.poll(if read > 0 { Duration::ZERO } else { IDLE })?;
        }
    }

    /// Lets the client work, and takes what did not come by a partition's own queue.
    fn poll(&mut self, wait: Duration) -> Result<()> {
        let consumer = self.consumer.clone();
        let mut wait = wait;
        while let Some(polled) = consumer.poll(wait) {
            wait = Duration::ZERO;
            match polled {
                // It is read again.
                Ok(_) if self.again.is_some() => {}
                Ok(message) => {
                    let key = (message.topic().to_owned(), message.partition());
                    let Some(claim) = self.claims.get_mut(&key) else { continue };
                    let asks = self.gather.record(&mut claim.state, &message)?;
                    self.answer(&key, asks)?;
                }
                // It came before the partition had a queue of its own; its end is known from when it was claimed.
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => self.trouble(error)?,
            }
        }
        Ok(())
    }

    /// Reads some records of each partition; how many.
    fn read(&mut self) -> Result<usize> {
        let mut read = 0;
        let mut asked = Vec::new();
        for (key, claim) in &mut self.claims {
            let Claim { queue, state } = claim;
            if state.stopped.is_some() {
                continue;
            }
            for _ in 0..TURN {
                let asks = match queue.poll(Duration::ZERO) {
                    None => break,
                    Some(Ok(message)) => self.gather.record(state, &message)?,
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        state.at_end = true;
                        Asks::Nothing
                    }
                    Some(Err(KafkaError::MessageConsumption(
                        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                    ))) => out_of_range(&self.consumer, state),
                    Some(Err(error)) => {
                        asked.push((key.clone(), Err(error)));
                        break;
                    }
                };
                read += 1;
                if !matches!(asks, Asks::Nothing) {
                    asked.push((key.clone(), Ok(asks)));
                    break;
                }
                if self.gather.batch.is_full() {
                    break;
                }
            }
        }
        for (key, asks) in asked {
            match asks {
                Ok(asks) => self.answer(&key, asks)?,
                Err(error) => self.trouble(error)?,
            }
        }
        Ok(read)
    }

    fn answer(&mut self, key: &(String, i32), asks: Asks) -> Result<()> {
        match asks {
            Asks::Nothing => Ok(()),
            Asks::Restart => self.restart(key),
            Asks::Reset => {
                self.reset(Duration::ZERO);
                Ok(())
            }
            Asks::Stop(why) => self.stop(key, why),
        }
    }

    fn stop(&mut self, key: &(String, i32), why: Why) -> Result<()> {
        let Some(claim) = self.claims.get_mut(key) else { return Ok(()) };
        let at = chrono::Utc::now().timestamp_micros();
        let stop = Stop { partition: claim.state.partition.clone(), why, at };
        tracing::warn!(source = self.source.name, "{stop}; `starmere ingest --go-on` accepts the loss");
        claim.state.stopped = Some(stop.clone());
        self.report.stops.push(stop.clone());
        self.gather.runtime.block_on(stopped::record(&self.gather.stream, &stop))
    }

    /// Whether everything that was there has been gathered.
    fn is_drained(&self) -> bool {
        let done = |state: &State| {
            let is_behind_end = state.end.is_some_and(|end| state.next.unwrap_or(0) >= end);
            state.stopped.is_some() || state.at_end || (state.expect.is_none() && is_behind_end)
        };
        self.again.is_none() && self.unclaimed.is_empty() && self.claims.values().all(|claim| done(&claim.state))
    }

    /// An error of the client's: those that it does not mend itself end the run.
    fn trouble(&mut self, error: KafkaError) -> Result<()> {
        let is_final = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let error = self.kafka(error);
        if is_final || (self.is_once() && error.kind() == Kind::Invalid) {
            return Err(error);
        }
        let words = error.to_string();
        if self.consumer.context().is_news(&words) {
            tracing::warn!(source = self.source.name, error = words, "kafka; trying again");
        }
        Ok(())
    }

    /// Drops what was gathered; all is read again from the table, after a pause.
    fn reset(&mut self, pause: Duration) {
        self.gather.drop_batch();
        for claim in self.claims.values_mut() {
            claim.state.part = None;
        }
        self.again.get_or_insert((Instant::now() + pause, PAUSES.0));
    }

    /// Claims what waits to be claimed, and begins anew what was reset.
    fn read_the_table_again(&mut self) -> Result<()> {
        let stopped = self.claims.values().any(|claim| claim.state.stopped.is_some());
        if stopped && self.looked.elapsed() > LOOK_AGAIN && !self.is_once() {
            self.looked = Instant::now();
            self.reset(Duration::ZERO);
        }
        let Some((at, pause)) = self.again else { return Ok(()) };
        // A batch that is being landed decides where the table is.
        if Instant::now() < at || self.flight.is_some() {
            return Ok(());
        }
        let positions = self.gather.runtime.block_on(Positions::read(&self.gather.stream, &self.source.name));
        let claimed = positions.and_then(|positions| self.claim_all(&positions));
        match claimed {
            Ok(()) => {
                self.again = None;
                Ok(())
            }
            Err(error) if self.is_once() || error.kind() == Kind::Invalid => Err(error),
            Err(error) => {
                tracing::warn!(source = self.source.name, error = %error, "positions could not be read; trying again");
                self.again = Some((Instant::now() + pause, (pause * 2).min(PAUSES.1)));
                Ok(())
            }
        }
    }

    fn claim_all(&mut self, positions: &Positions) -> Result<()> {
        let mut keys: Vec<(String, i32)> = Vec::new();
        for (key, claim) in &self.claims {
            let stop = claim.state.stopped.as_ref();
            let Some(stop) = stop else {
                keys.push(key.clone());
                continue;
            };
            let position = positions.of(&key.0, key.1);
            if position.partition != stop.partition || position.next != Some(stop.why.position()) {
                keys.push(key.clone());
            }
        }
        let mut old = TopicPartitionList::new();
        for (topic, number) in &keys {
            old.add_partition(topic, *number);
        }
        keys.extend(self.unclaimed.iter().flatten().cloned());
        if keys.is_empty() {
            // An assignment of nothing is to be answered, too.
            if self.unclaimed.pop_front().is_some() {
                self.consumer.incremental_assign(&TopicPartitionList::new()).map_err(|error| self.kafka(error))?;
            }
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        let mut states = Vec::new();
        for (topic, number) in &keys {
            let position = positions.of(topic, *number);
            let (offset, state) = self.begin(position)?;
            list.add_partition_offset(topic, *number, offset).map_err(|error| self.kafka(error))?;
            states.push(state);
        }
        if old.count() > 0 {
            self.consumer.incremental_unassign(&old).map_err(|error| self.kafka(error))?;
        }
        self.consumer.incremental_assign(&list).map_err(|error| self.kafka(error))?;
        self.unclaimed.clear();
        for (key, state) in keys.into_iter().zip(states) {
            let Some(queue) = self.consumer.split_partition_queue(&key.0, key.1) else { continue };
            self.claims.insert(key, Claim { queue, state });
        }
        Ok(())
    }

    /// Where to read a partition on, and what is to come first.
    fn begin(&self, position: Position) -> Result<(Offset, State)> {
        let Position { partition, next, mark } = position;
        let (topic, number) = (partition.topic.as_str(), partition.partition);
        let mut end = None;
        if self.is_once() {
            let (_, last) = self.consumer.fetch_watermarks(topic, number, ANSWER).map_err(|error| self.kafka(error))?;
            // An end before the position is none: the topic was made again, or the broker does not know better.
            end = (last >= next.unwrap_or(0)).then_some(last);
        }
        let (offset, expect) = match (next, mark) {
            (Some(_), Some(Mark::Last(seen))) => (Offset::Offset(seen.offset), Some(seen)),
            (Some(_), Some(Mark::WentOn(Why::MadeAgain { .. }))) => (Offset::Beginning, None),
            (Some(next), _) => (Offset::Offset(next), None),
            (None, _) => (self.start(topic, number)?, None),
        };
        let state =
            State { partition, next, expect, last: None, part: None, end, at_end: end == Some(0), stopped: None };
        Ok((offset, state))
    }

    fn start(&self, topic: &str, number: i32) -> Result<Offset> {
        match &self.source.start {
            Start::Earliest => Ok(Offset::Beginning),
            Start::Latest => Ok(Offset::End),
            Start::Offsets(offsets) => {
                let offset = offsets.get(topic).and_then(|offsets| offsets.get(&number));
                Ok(offset.map_or(Offset::Beginning, |&offset| Offset::Offset(offset)))
            }
            Start::Time(time) => {
                let mut list = TopicPartitionList::new();
                let failed = |error| self.kafka(error);
                list.add_partition_offset(topic, number, Offset::Offset(*time)).map_err(failed)?;
                let found = self.consumer.offsets_for_times(list, ANSWER).map_err(failed)?;
                let found = found.find_partition(topic, number).map(|element| element.offset());
                Ok(found.filter(|offset| matches!(offset, Offset::Offset(_))).unwrap_or(Offset::End))
            }
        }
    }

    /// Reads a partition from its position on, without what was to come first.
    fn restart(&mut self, key: &(String, i32)) -> Result<()> {
        let Some(claim) = self.claims.remove(key) else { return Ok(()) };
        let mut state = claim.state;
        state.expect = None;
        let offset = state.next.map_or(Offset::Beginning, Offset::Offset);
        let mut list = TopicPartitionList::new();
        list.add_partition(&key.0, key.1);
        self.consumer.incremental_unassign(&list).map_err(|error| self.kafka(error))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&key.0, key.1, offset).map_err(|error| self.kafka(error))?;
        self.consumer.incremental_assign(&list).map_err(|error| self.kafka(error))?;
        if let Some(queue) = self.consumer.split_partition_queue(&key.0, key.1) {
            self.claims.insert(key.clone(), Claim { queue, state });
        }
        Ok(())
    }

    /// Lands what was gathered of them, for as long as that may take, and gives partitions back.
    fn give_back(&mut self, partitions: &TopicPartitionList) -> Result<()> {
        let lost = self.consumer.assignment_lost();
        let until = Instant::now() + HAND_OVER;
        while !lost && self.again.is_none() && Instant::now() < until {
            if self.flight.is_none() {
                if self.gather.batch.is_empty() {
                    break;
                }
                self.flush()?;
            }
            self.landed(until.saturating_duration_since(Instant::now()))?;
        }
        let keys = keys_of(partitions);
        let gathered = keys.iter().any(|key| self.claims.get(key).is_some_and(|claim| claim.state.part.is_some()));
        for key in &keys {
            self.claims.remove(key);
            for waiting in &mut self.unclaimed {
                waiting.retain(|waiting| waiting != key);
            }
        }
        if gathered {
            self.reset(Duration::ZERO);
        }
        self.consumer.incremental_unassign(partitions).map_err(|error| self.kafka(error))
    }

    /// Sends the batch to the table.
    fn flush(&mut self) -> Result<()> {
        if self.gather.batch.is_empty() {
            return Ok(());
        }
        let mut offsets = TopicPartitionList::new();
        for ((topic, number), claim) in &mut self.claims {
            let state = &mut claim.state;
            let (Some(part), Some(next)) = (state.part.take(), state.next) else { continue };
            let mark = state.last.clone().and_then(|last| serde_json::to_value(Mark::Last(last)).ok());
            self.gather.batch.go_on(part);
            self.gather.batch.mark(next, mark);
            offsets
                .add_partition_offset(topic, *number, Offset::Offset(next))
                .map_err(|error| Error::kafka(&self.source.name, error))?;
        }
        let batch = std::mem::take(&mut self.gather.batch);
        self.gather.begun = None;
        let mut rows = batch.finish()?;
        let counts = std::mem::take(&mut rows.counts);
        let stream = self.gather.stream.clone();
        let source = self.source.name.clone();
        let renews_marks = self.report.commits % MARKS_EVERY == MARKS_EVERY - 1;
        let task = self.gather.runtime.spawn(async move {
            let outcome = rows.land(&stream).await?;
            if let (Outcome::Landed(snapshot), true) = (&outcome, renews_marks) {
                // For the next start; what was landed does not depend on it.
                _ = marks(&stream, snapshot, &source).await;
            }
            Ok(outcome)
        });
        self.flight = Some(Flight { task, counts, offsets });
        Ok(())
    }

    /// Takes the outcome of the batch that was sent, if there is one within `wait`.
    fn landed(&mut self, wait: Duration) -> Result<()> {
        let Some(flight) = &mut self.flight else { return Ok(()) };
        if wait.is_zero() && !flight.task.is_finished() {
            return Ok(());
        }
        let ended = async { tokio::time::timeout(wait, &mut flight.task).await };
        let Ok(outcome) = self.gather.runtime.block_on(ended) else { return Ok(()) };
        let outcome = outcome.map_err(|error| Error::Task(error.to_string()))?;
        let Some(flight) = self.flight.take() else { return Ok(()) };
        match outcome {
            Ok(Outcome::Landed(snapshot)) => {
                self.report.counts.add(&flight.counts);
                self.report.commits += 1;
                self.report.version = snapshot.version();
                self.failed = None;
                if matches!((&self.source.membership, &self.until), (Membership::Group(_), Until::Stopped(_)))
                    && let Err(error) = self.consumer.commit(&flight.offsets, CommitMode::Async)
                {
                    tracing::debug!(source = self.source.name, %error, "the group's offsets could not be committed");
                }
            }
            Ok(Outcome::Behind(_)) => {
                tracing::info!(source = self.source.name, "another writer was first; reading again");
                self.reset(Duration::ZERO);
            }
            Err(error) if self.is_once() => return Err(error),
            Err(error) => {
                let words = error.to_string();
                let pause = match self.failed.take() {
                    Some((said, pause)) if said == words => (pause * 2).min(PAUSES.1),
                    _ => {
                        tracing::warn!(source = self.source.name, error = words, "could not land; reading again");
                        PAUSES.0
                    }
                };
                self.reset(pause);
                self.failed = Some((words, pause));
            }
        }
        Ok(())
    }
}
