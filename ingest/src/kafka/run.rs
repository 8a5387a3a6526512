//! Reading records and landing them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use starmere_lake::Kind;
use starmere_lake::landing::{Outcome, Stream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::{Asks, Claim, Gather, State, ends_at, out_of_range};
use super::client::{ANSWER, Client, Key, Queue as _, SHORT_ANSWER};
use super::consumer::{self, Change};
use super::stopped::{self, Stop, Why};
use super::{Membership, Source};
use crate::envelope::{Mapping, Reader};
use crate::files::Progress;
use crate::marks::marks;
use crate::memory::{Memory, Share};
use crate::rows::Counts;
use crate::{Error, Result};

/// A batch is landed when it is full or, unless the source is drained, this long after its first record.
const BATCH_AGE: Duration = Duration::from_millis(250);
/// Records that are read of one partition before the next one has its turn.
const TURN: usize = 512;
/// How long to wait when there is nothing to read.
const IDLE: Duration = Duration::from_millis(20);
/// The pauses between attempts at a store that does not answer.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A source that is drained is given up when the broker sends nothing for so long.
const SILENCE: Duration = Duration::from_secs(60);
/// Partitions that are stopped are looked at again this often: somebody may have said to go on.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The fold of marks is renewed after so many commits, so that the next start reads few of them.
const MARKS_EVERY: u64 = 100;
/// Of a partition whose first record does not come for so long, the broker is asked where it ends; of one at a time,
/// this often.
const SILENT: Duration = Duration::from_secs(3);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long that may hold up the others.
const END_ANSWER: Duration = Duration::from_millis(500);
/// A record that comes after nothing came for so long is read again together with the one before it, by which it is
/// known whether the topic was made again. To delete a topic, make it, and fill it takes longer.
const QUIET: Duration = Duration::from_millis(250);
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
    let source = Source { membership: in_group(&source.membership, stream).await?, ..source.clone() };
    if let Membership::Group(group) = &source.membership {
        tracing::info!(source = source.name, group, "a source of Kafka's");
    }
    let (stream, progress, memory) = (stream.clone(), progress.clone(), memory.clone());
    let (reader, runtime) = (Reader::of(mapping.clone(), &stream).await?, Handle::current());
    let running = move || -> Result<Report> {
        let once = matches!(until, Until::Drained(_));
        let ahead = memory.share_ahead(AHEAD);
        let consumer = consumer::consumer(&source, once, Some(of_partition(&source, ahead.as_ref())?));
        let consumer = consumer.map_err(|error| Error::kafka(&source.name, error))?;
        let gather = Gather::new(stream, reader, source.registry.clone(), runtime, progress, memory);
        Run::new(source, consumer, gather, until, dropped, ahead).run_to_the_end()
    };
    tokio::task::spawn_blocking(running).await.map_err(|error| Error::Task(error.to_string()))?
}

/// The same membership, in a group that is known by its whole name.
async fn in_group(membership: &Membership, stream: &Stream) -> Result<Membership> {
    /// So much of a table's id tells warehouses apart.
    const TELLING: usize = 8;
    let Membership::OfTable(name) = membership else { return Ok(membership.clone()) };
    let table = stream.open().await?;
    let id: String = table.id().chars().take(TELLING).collect();
    Ok(Membership::Group(format!("{name}.{id}")))
}

/// How much of that a partition may have: the client counts by partition.
fn of_partition(source: &Source, ahead: Option<&Share>) -> Result<usize> {
    /// Where the broker does not tell.
    const PARTITIONS: usize = 16;
    let failed = |error| Error::kafka(&source.name, error);
    let consumer = consumer::consumer(source, true, None).map_err(failed)?;
    // Whatever is wrong is told when the topics are read.
    let topics = partitions(&consumer, source, SHORT_ANSWER).unwrap_or_default();
    consumer.close();
    let partitions = match topics.values().map(Vec::len).sum() {
        0 => PARTITIONS,
        partitions => partitions,
    };
    Ok(ahead.map_or(0, Share::bytes).max(LEAST_AHEAD) / partitions)
}

/// Topics that a source names, as the brokers know them.
#[derive(Default)]
struct Topics {
    /// With their partitions.
    there: BTreeMap<String, Vec<i32>>,
    /// Names that no topic has. A pattern that matches nothing waits for a topic without a word.
    missing: Vec<String>,
}

fn topics(client: &impl Client, source: &Source, patience: Duration) -> Result<Topics> {
    let invalid = |message: String| Error::of_kafka(&source.name, message, Kind::Invalid);
    let there = client.topics(patience).map_err(|error| Error::kafka(&source.name, error))?;
    let mut topics = Topics::default();
    for wanted in &source.topics {
        let pattern = match wanted.starts_with('^') {
            true => Some(regex::Regex::new(wanted).map_err(|error| invalid(format!("`{wanted}`: {error}")))?),
            false => None,
        };
        let mut found = false;
        for (name, numbers) in &there {
            let is_wanted = pattern.as_ref().map_or(name == wanted, |pattern| pattern.is_match(name));
            if is_wanted && !numbers.is_empty() {
                found = true;
                topics.there.insert(name.clone(), numbers.clone());
            }
        }
        if !found && pattern.is_none() {
            topics.missing.push(wanted.clone());
        }
    }
    Ok(topics)
}

/// The source's topics, with their partitions. All of its names must be there.
fn partitions(client: &impl Client, source: &Source, patience: Duration) -> Result<BTreeMap<String, Vec<i32>>> {
    let Topics { there, missing } = topics(client, source, patience)?;
    match missing.first() {
        None => Ok(there),
        Some(wanted) => Err(Error::of_kafka(&source.name, format!("there is no topic `{wanted}`"), Kind::Invalid)),
    }
}

/// Why a pattern of topics is none.
pub fn check_pattern(pattern: &str) -> std::result::Result<(), String> {
    regex::Regex::new(pattern).map(|_| ()).map_err(|error| error.to_string())
}

/// Whether a pattern of topics, which begins with `^`, matches a name; one that is no pattern matches nothing.
pub fn matches(pattern: &str, topic: &str) -> bool {
    regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(topic))
}

/// What the brokers of a source say of its topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Topic, number of the partition, and the position behind its last record.
    pub ends: Vec<(String, i32, i64)>,
    /// Topics that the source names and that are not there.
    pub missing: Vec<String>,
}

/// Where the partitions of a source's topics end.
pub async fn ends(source: &Source) -> Result<Ends> {
    let source = source.clone();
    let asking = move || {
        let failed = |error| Error::kafka(&source.name, error);
        let consumer = consumer::consumer(&source, true, None).map_err(failed)?;
        let mut ends = Vec::new();
        let Topics { there, missing } = topics(&consumer, &source, SHORT_ANSWER)?;
        for (topic, numbers) in there {
            for number in numbers {
                let key = (topic.clone(), number);
                let (_, end) = consumer.watermarks(&key, SHORT_ANSWER).map_err(failed)?;
                ends.push((key.0, number, end));
            }
        }
        consumer.close();
        Ok(Ends { ends, missing })
    };
    tokio::task::spawn_blocking(asking).await.map_err(|error| Error::Task(error.to_string()))?
}

/// A batch that is being landed.
pub(super) struct Flight {
    task: JoinHandle<Result<Outcome>>,
    counts: Counts,
    positions: Vec<(Key, i64)>,
}

/// When the table is read again, and for which partitions.
#[derive(Clone, Copy)]
pub(super) struct Again {
    pub(super) at: Instant,
    /// The pause after that.
    pub(super) pause: Duration,
    /// All partitions begin anew where the table is; else only those that were assigned.
    pub(super) all: bool,
}

pub(super) struct Run<C: Client> {
    pub(super) source: Source,
    pub(super) client: C,
    pub(super) gather: Gather,
    until: Until,
    dropped: CancellationToken,
    /// A batch is landed this long after its first record.
    pub(super) batch_age: Duration,
    /// What comes after such a silence is checked.
    pub(super) quiet: Duration,
    pub(super) claims: BTreeMap<Key, Claim<C::Queue>>,
    /// Partitions that were assigned, and are not claimed yet.
    pub(super) unclaimed: VecDeque<Vec<Key>>,
    pub(super) flight: Option<Flight>,
    pub(super) again: Option<Again>,
    /// Why landing failed last, and the pause after it.
    failed: Option<(String, Duration)>,
    /// Whether it was asked if the group is new to the broker.
    pub(super) knows_group: bool,
    /// When the broker sent something last.
    heard: Instant,
    looked: Instant,
    /// When the broker was asked for an end last.
    asked: Instant,
    report: Report,
    /// The memory of what the client reads ahead.
    _ahead: Option<Share>,
}

impl<C: Client> Run<C> {
    pub(super) fn new(
        source: Source,
        client: C,
        gather: Gather,
        until: Until,
        dropped: CancellationToken,
        ahead: Option<Share>,
    ) -> Self {
        Self {
            source,
            client,
            gather,
            until,
            dropped,
            batch_age: BATCH_AGE,
            quiet: QUIET,
            claims: BTreeMap::new(),
            unclaimed: VecDeque::new(),
            flight: None,
            again: None,
            failed: None,
            knows_group: false,
            heard: Instant::now(),
            looked: Instant::now(),
            asked: Instant::now(),
            report: Report::default(),
            _ahead: ahead,
        }
    }

    /// Reads until `until`. Blocks its thread.
    pub(super) fn run_to_the_end(mut self) -> Result<Report> {
        let outcome = self.join().and_then(|()| self.run());
        self.client.close();
        outcome.map(|()| self.report)
    }

    pub(super) fn kafka(&self, error: KafkaError) -> Error {
        Error::kafka(&self.source.name, error)
    }

    pub(super) fn is_once(&self) -> bool {
        matches!(self.until, Until::Drained(_))
    }

    fn join(&mut self) -> Result<()> {
        let fixed = match (&self.source.membership, &self.until) {
            (Membership::Group(_) | Membership::OfTable(_), Until::Stopped(_)) => {
                return self.client.subscribe(&self.source.topics).map_err(|error| self.kafka(error));
            }
            (Membership::Group(_) | Membership::OfTable(_), Until::Drained(_)) => None,
            (Membership::Partitions(numbers), _) => Some(numbers.clone()),
        };
        let mut all = Vec::new();
        for (topic, there) in partitions(&self.client, &self.source, ANSWER)? {
            for number in fixed.as_ref().unwrap_or(&there) {
                if !there.contains(number) {
                    let message = format!("`{topic}` has no partition {number}");
                    return Err(Error::of_kafka(&self.source.name, message, Kind::Invalid));
                }
                all.push((topic.clone(), *number));
            }
        }
        self.assigned(all);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        loop {
            if self.dropped.is_cancelled() {
                return Ok(());
            }
            self.landed(Duration::ZERO)?;
            for change in self.client.take_changes() {
                match change {
                    Change::Assigned(partitions) => self.assigned(partitions),
                    Change::Revoked(partitions) => self.give_back(&partitions)?,
                }
            }
            self.look_at_stopped();
            self.read_the_table_again()?;
            let stopping = match &self.until {
                Until::Stopped(stop) => stop.is_cancelled(),
                Until::Drained(stop) => stop.is_cancelled() || self.is_drained(),
            };
            let full = self.gather.batch.is_full();
            let old = !self.is_once() && self.gather.begun.is_some_and(|begun| begun.elapsed() >= self.batch_age);
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
            if read == 0 {
                self.ask_for_an_end()?;
            }
        }
    }

    /// Lets the client work, and takes what did not come by a partition's own queue.
    fn poll(&mut self, wait: Duration) -> Result<()> {
        let client = self.client.clone();
        let mut wait = wait;
        while let Some(polled) = client.poll(wait) {
            wait = Duration::ZERO;
            match polled {
                // It is read again.
                Ok(_) if self.again.is_some_and(|again| again.all) => {}
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

    /// Asks the broker where a partition ends that does not send the record before our position: it may be shorter.
    fn ask_for_an_end(&mut self) -> Result<()> {
        if self.asked.elapsed() < ASK_EVERY {
            return Ok(());
        }
        self.asked = Instant::now();
        let is_silent =
            |state: &State| state.stopped.is_none() && state.expect.is_some() && state.heard.elapsed() >= SILENT;
        let silent = self.claims.iter_mut().filter(|(_, claim)| is_silent(&claim.state));
        let Some((key, claim)) = silent.min_by_key(|(_, claim)| claim.state.heard) else { return Ok(()) };
        claim.state.heard = Instant::now();
        // A broker that is away has told nothing; it is asked again.
        let Ok((_, end)) = self.client.watermarks(key, END_ANSWER) else { return Ok(()) };
        let (key, asks) = (key.clone(), ends_at(&mut claim.state, end));
        self.answer(&key, asks)
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
                let asks = match queue.poll() {
                    None => {
                        state.quiet.get_or_insert_with(Instant::now);
                        break;
                    }
                    Some(Ok(_)) if state.is_to_be_checked(self.quiet) => Asks::Check,
                    Some(Ok(message)) => self.gather.record(state, &message)?,
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        state.at_end = true;
                        Asks::Nothing
                    }
                    Some(Err(KafkaError::MessageConsumption(
                        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                    ))) => out_of_range(&self.client, state),
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

    fn answer(&mut self, key: &Key, asks: Asks) -> Result<()> {
        match asks {
            Asks::Nothing => Ok(()),
            Asks::Restart => self.restart(key),
            Asks::Check => self.check(key),
            Asks::Reset => {
                self.reset(Duration::ZERO);
                Ok(())
            }
            Asks::Stop(why) => self.stop(key, why),
        }
    }

    fn stop(&mut self, key: &Key, why: Why) -> Result<()> {
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
        if self.client.is_news(&words) {
            tracing::warn!(source = self.source.name, error = words, "kafka; trying again");
        }
        Ok(())
    }

    /// Looks again whether partitions that are stopped may go on.
    fn look_at_stopped(&mut self) {
        let stopped = self.claims.values().any(|claim| claim.state.stopped.is_some());
        if stopped && self.looked.elapsed() > LOOK_AGAIN && !self.is_once() {
            self.looked = Instant::now();
            self.reset(Duration::ZERO);
        }
    }

    /// Sends the batch to the table.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.gather.batch.is_empty() {
            return Ok(());
        }
        let (mut rows, positions) = self.gather.take()?;
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
        self.flight = Some(Flight { task, counts, positions });
        Ok(())
    }

    /// Takes the outcome of the batch that was sent, if there is one within `wait`.
    pub(super) fn landed(&mut self, wait: Duration) -> Result<()> {
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
                    && let Err(error) = self.client.commit(&flight.positions)
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
