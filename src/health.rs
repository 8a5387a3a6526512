//! How the lake is: what `status` shows and `/metrics` tells.
//!
//! A scrape waits for no broker and hardly for the warehouse: where brokers' logs end is asked in the background, and
//! what was read of the warehouse last is told where reading it takes long. What the process counts by itself is always
//! told as it is now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use starmere_ingest::files::{self, Refused};
use starmere_ingest::kafka::{self, Stop};
use starmere_lake::delta::{Snapshot, Table};
use starmere_lake::landing::{Part, SourcePartition, parts};
use starmere_lake::metrics::{self, Text, names};
use starmere_lake::paths::TablePath;
use starmere_lake::troubles::{self, About};
use starmere_lake::upkeep::cut_of;
use starmere_models::define::{Parsed, StreamFile};
use tokio_util::sync::CancellationToken;

use crate::project::Opened;
use crate::sources::KafkaFile;
use crate::{builds, process};

/// The rate is that of the last minutes.
const RATE_OVER: Duration = Duration::from_secs(5 * 60);
/// ... as far as so many commits tell.
const RATE_COMMITS: u64 = 200;
/// A scrape looks at fewer: it wants to know when something landed last.
const SCRAPED_COMMITS: u64 = 50;
/// Brokers are asked this often where their logs end.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// Partitions are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// A partition that has lag and lands nothing for so long is told of.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(60);
/// A scrape waits so long for the warehouse.
const SCRAPE_WAITS: Duration = Duration::from_secs(2);
/// A warehouse that takes longer does not answer.
const STORE_WAITS: Duration = Duration::from_secs(60);
/// What was read of the warehouse is told for so long without reading it again.
const FRESH: Duration = Duration::from_secs(1);
/// The object of troubles about all of the warehouse.
pub(crate) const WAREHOUSE: &str = "warehouse";

/// What this process knows of its sources.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// The definitions' files are wrong, and older ones go on.
    pub(crate) is_refused: AtomicBool,
    /// Somebody else has published other definitions, and nothing is built here.
    pub(crate) is_superseded: AtomicBool,
    /// What the newest commits of a table have landed, by version; a commit does not change.
    landed: Mutex<HashMap<TablePath, Landed>>,
    /// When something of a partition landed last: stream and key.
    last_landed: Mutex<HashMap<(String, Key), i64>>,
    /// Where brokers' logs end, by source.
    ends: Mutex<BTreeMap<String, Ends>>,
    /// The position of partitions that have lag, and since when they are there.
    standing: Mutex<HashMap<Key, (Option<i64>, Instant)>>,
    /// The gauges that were read of the warehouse last.
    gauges: Mutex<Text>,
    /// When that was; one reads at a time.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

/// When each commit was made, and what it has landed.
type Landed = BTreeMap<u64, (i64, Arc<Vec<Part>>)>;

/// A source, and of Kafka's a topic and a partition.
type Key = (String, Option<(String, i32)>);

/// Where the log of a source's topics ended when its brokers answered last.
#[derive(Clone, Debug, Default)]
struct Ends {
    ends: Vec<(String, i32, i64)>,
    unreachable: bool,
    /// Topics that are not there.
    missing: BTreeSet<String>,
    /// Those, and the ones that were not there once and that nothing has landed of yet.
    awaited: BTreeSet<String>,
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    /// The commits after `after`, up to `to`.
    async fn landed(&self, table: &Table, after: u64, to: u64) -> anyhow::Result<Landed> {
        let known = locked(&self.landed).get(table.path()).and_then(|landed| landed.keys().next_back().copied());
        let mut found = Landed::new();
        for commit in table.commits(known.map_or(after, |known| known.clamp(after, to)), to).await? {
            let at = commit.info().map_or(0, |info| info.timestamp);
            found.insert(commit.version, (at, Arc::new(parts(&commit))));
        }
        let mut all = locked(&self.landed);
        let landed = all.entry(table.path().clone()).or_default();
        landed.extend(found);
        landed.retain(|version, _| *version > after);
        Ok(landed.range(..=to).map(|(version, landed)| (*version, landed.clone())).collect())
    }

    /// Notes where a source's topics end; where its brokers do not answer, that, and the ends stay the last known ones.
    fn learn(&self, source: &str, answer: anyhow::Result<kafka::Ends>) {
        let mut all = locked(&self.ends);
        let known = all.entry(source.to_owned()).or_default();
        known.unreachable = answer.is_err();
        match answer {
            Ok(kafka::Ends { ends, missing }) => {
                known.ends = ends;
                known.missing = missing.into_iter().collect();
                known.awaited.extend(known.missing.iter().cloned());
                troubles::well(About::Broker, source);
                for topic in &known.missing {
                    let cause = "the brokers have no such topic; it is read within seconds once it is made";
                    troubles::failed(About::Topic, &format!("{source}/{topic}"), cause);
                }
            }
            Err(error) => troubles::failed(About::Broker, source, &troubles::causes(&*error)),
        }
    }

    /// Ends the trouble of topics that are read now, by what these partitions of a stream tell.
    fn welcome(&self, partitions: &[PartitionHealth]) {
        let mut all = locked(&self.ends);
        for (source, known) in all.iter_mut() {
            let Ends { missing, awaited, .. } = known;
            awaited.retain(|topic| {
                let is_of = |partition: &&PartitionHealth| {
                    partition.source == *source && partition.topic.as_ref().is_some_and(|(of, _)| of == topic)
                };
                let mut of_topic = partitions.iter().filter(is_of).peekable();
                if missing.contains(topic) || of_topic.peek().is_none() {
                    return true;
                }
                let object = format!("{source}/{topic}");
                // One without a record has nothing to land.
                let (mut has_landed, mut is_empty) = (false, true);
                for partition in of_topic {
                    has_landed |= partition.position.is_some();
                    is_empty &= partition.end == Some(0);
                }
                if has_landed || is_empty {
                    troubles::well(About::Topic, &object);
                } else {
                    troubles::because(About::Topic, &object, "the topic is there, and nothing of it has landed yet");
                }
                !(has_landed || is_empty)
            });
        }
    }

    /// How long a partition has had lag while its position stayed where it is.
    fn stalled(&self, partition: &PartitionHealth, now: Instant) -> Option<Duration> {
        let lag = partition.lag()?;
        let mut standing = locked(&self.standing);
        let key = (partition.source.clone(), partition.topic.clone());
        let known = standing.entry(key).or_insert((partition.position, now));
        if lag == 0 || known.0 != partition.position {
            *known = (partition.position, now);
        }
        Some(now.saturating_duration_since(known.1))
    }
}

/// A stream's table.
pub(crate) struct StreamHealth {
    pub(crate) name: String,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) rejects: Option<u64>,
    pub(crate) cut: Option<chrono::NaiveDate>,
}

/// A partition of a source, or all of a source that has no partitions to speak of.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionHealth {
    pub(crate) stream: String,
    pub(crate) source: String,
    /// None: files, or requests over HTTP.
    pub(crate) topic: Option<(String, i32)>,
    /// How many files or processes there were.
    pub(crate) inputs: u64,
    pub(crate) position: Option<i64>,
    /// Where the broker's log ends, as far as it can be asked.
    pub(crate) end: Option<i64>,
    pub(crate) events_per_second: Option<f64>,
    /// Milliseconds since 1970.
    pub(crate) last_landed: Option<i64>,
    pub(crate) stopped: Option<Stop>,
    /// Files that the last run did not land.
    pub(crate) refused: Vec<Refused>,
}

impl PartitionHealth {
    /// Records that have not landed. A log that ends before our position has none: its end may be told late.
    pub(crate) fn lag(&self) -> Option<u64> {
        Some(u64::try_from(self.end? - self.position.unwrap_or_default()).unwrap_or_default())
    }
}

/// The project's streams that have a table.
pub(crate) async fn streams(opened: &Opened) -> anyhow::Result<Vec<StreamHealth>> {
    let mut found = Vec::new();
    for parsed in &opened.project.streams {
        found.extend(stream(opened, parsed).await?);
    }
    Ok(found)
}

async fn stream(opened: &Opened, parsed: &Parsed<StreamFile>) -> anyhow::Result<Option<StreamHealth>> {
    let name = parsed.definition.stream.as_str();
    let (stream, _) = opened.stream(name)?;
    let Some(snapshot) = stream.table().snapshot().await? else { return Ok(None) };
    let rejects = snapshot.rows().zip(snapshot.nulls("rejection")).map(|(rows, read)| rows - read.min(rows));
    Ok(Some(StreamHealth { name: name.to_owned(), rejects, cut: cut_of(&snapshot), snapshot }))
}

/// What the sources have brought. Brokers are asked how far their topics go.
pub(crate) async fn partitions(opened: &Opened) -> anyhow::Result<Vec<PartitionHealth>> {
    let asking = kafka_sources(opened).map(|(name, _, topics)| ask(opened, name, topics));
    let asking: Vec<_> = asking.collect();
    futures::future::join_all(asking).await;
    let mut found = Vec::new();
    for parsed in &opened.project.streams {
        found.extend(partitions_of(opened, parsed, RATE_COMMITS).await?);
    }
    Ok(found)
}

/// Sources of Kafka's, with their streams.
fn kafka_sources(opened: &Opened) -> impl Iterator<Item = (&str, &str, &KafkaFile)> {
    let sources = opened.project.file.sources.iter();
    sources.filter_map(|(name, file)| Some((name.as_str(), file.stream.as_str(), file.kafka.as_ref()?)))
}

/// Asks a source's brokers where its topics end.
async fn ask(opened: &Opened, name: &str, topics: &KafkaFile) {
    let answer = match topics.source(&opened.project.file.project, name, &opened.project.root) {
        Ok(source) => kafka::ends(&source).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    opened.watched.learn(name, answer);
}

/// What the sources of a stream have brought, as far as its table and what is known of brokers tell; rates by so many
/// commits.
async fn partitions_of(
    opened: &Opened,
    parsed: &Parsed<StreamFile>,
    commits: u64,
) -> anyhow::Result<Vec<PartitionHealth>> {
    let name = parsed.definition.stream.as_str();
    let (stream, _) = opened.stream(name)?;
    let snapshot = stream.table().snapshot().await?;
    let mut of_stream: BTreeMap<Key, PartitionHealth> = BTreeMap::new();
    let of_kafka: Vec<&str> =
        kafka_sources(opened).filter(|(_, stream, _)| *stream == name).map(|(source, ..)| source).collect();
    let key = |partition: &SourcePartition| -> Key {
        let topic = (partition.topic.clone(), partition.partition);
        (partition.source.clone(), of_kafka.contains(&partition.source.as_str()).then_some(topic))
    };
    let begin = |(source, topic): &Key| PartitionHealth {
        stream: name.to_owned(),
        source: source.clone(),
        topic: topic.clone(),
        ..PartitionHealth::default()
    };
    let known = locked(&opened.watched.ends).clone();
    for (source, Ends { ends, .. }) in known.iter().filter(|(source, _)| of_kafka.contains(&source.as_str())) {
        for (topic, partition, end) in ends {
            let key = (source.clone(), Some((topic.clone(), *partition)));
            of_stream.entry(key.clone()).or_insert_with(|| begin(&key)).end = Some(*end);
        }
    }
    if let Some(snapshot) = &snapshot {
        let mut newest: BTreeMap<_, u32> = BTreeMap::new();
        for (partition, position) in stream.positions(snapshot) {
            let key = key(&partition);
            let health = of_stream.entry(key.clone()).or_insert_with(|| begin(&key));
            health.inputs += 1;
            match key.1 {
                // A topic that was made again counts from its beginning.
                Some(_) if newest.get(&key).is_some_and(|&newest| newest > partition.incarnation) => {}
                Some(_) => {
                    newest.insert(key, partition.incarnation);
                    health.position = Some(position);
                }
                None => {}
            }
        }
        add_rates(&opened.watched, name, stream.table(), snapshot, commits, &key, &mut of_stream).await;
    }
    if !of_kafka.is_empty() {
        for stop in kafka::stops(&stream).await? {
            if let Some(health) = of_stream.get_mut(&key(&stop.partition)) {
                health.stopped = Some(stop);
            }
        }
    }
    let of_files = opened.project.file.sources.iter().filter(|(_, file)| file.stream == name && file.kafka.is_none());
    for (source, _) in of_files {
        // What has never landed anything is there too.
        let key = (source.clone(), None);
        let health = of_stream.entry(key.clone()).or_insert_with(|| begin(&key));
        health.refused = files::refused(&stream, source).await?;
    }
    Ok(of_stream.into_values().collect())
}

/// Adds rates and the times of the last landings, as far as the newest commits tell; a log that cannot be read that far
/// back says nothing.
async fn add_rates(
    watched: &Watched,
    stream: &str,
    table: &Table,
    snapshot: &Snapshot,
    commits: u64,
    key: &impl Fn(&SourcePartition) -> Key,
    found: &mut BTreeMap<Key, PartitionHealth>,
) {
    let after = snapshot.version().saturating_sub(commits);
    let landed = match watched.landed(table, after, snapshot.version()).await {
        Ok(landed) => landed,
        Err(error) => {
            tracing::debug!(stream, error = format!("{error:#}"), "rates are not known");
            Landed::new()
        }
    };
    let window = Window::of(landed.values().map(|(at, _)| *at), after == 0, chrono::Utc::now().timestamp_millis());
    let mut rows: BTreeMap<Key, u64> = BTreeMap::new();
    let mut last = locked(&watched.last_landed);
    for (at, parts) in landed.values() {
        for part in parts.iter() {
            let key = key(&part.partition);
            let newest = last.entry((stream.to_owned(), key.clone())).or_default();
            *newest = (*newest).max(*at);
            if window.as_ref().is_some_and(|window| window.has(*at)) {
                *rows.entry(key).or_default() += part.rows;
            }
        }
    }
    for (key, health) in found {
        health.last_landed = last.get(&(stream.to_owned(), key.clone())).copied();
        let rows = rows.get(key).copied().unwrap_or_default();
        health.events_per_second = window.as_ref().map(|window| window.rate(rows));
    }
}

/// The time over which a rate is told: the last minutes, or less where the commits that were looked at span less.
#[derive(Debug, PartialEq)]
struct Window {
    /// In milliseconds since 1970; what landed at this very moment is counted where `whole`.
    since: i64,
    whole: bool,
    seconds: f64,
}

impl Window {
    /// The window at `now` of commits at these times, ascending; `whole` where they are all that there are. Milliseconds
    /// since 1970. None without commits.
    fn of(mut commits: impl Iterator<Item = i64>, whole: bool, now: i64) -> Option<Self> {
        let first = commits.next()?;
        let earliest = now - RATE_OVER.as_millis() as i64;
        // What the first commit brought took time before it, so it counts only where that time is looked at, or where
        // nothing was before.
        let (since, whole) = if first < earliest { (earliest, true) } else { (first, whole) };
        Some(Self { since, whole, seconds: ((now - since) as f64 / 1000.0).max(1.0) })
    }

    fn has(&self, at: i64) -> bool {
        at > self.since || (self.whole && at == self.since)
    }

    fn rate(&self, rows: u64) -> f64 {
        rows as f64 / self.seconds
    }
}

/// Asks brokers how far their topics go, and tells of partitions that stand still, until told to stop.
pub(crate) async fn watch(opened: &Opened, stop: &CancellationToken) {
    let asking: Vec<_> = kafka_sources(opened).map(|(name, _, topics)| keep_asking(opened, name, topics)).collect();
    let work = async {
        tokio::join!(futures::future::join_all(asking), keep_looking(opened));
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn keep_asking(opened: &Opened, name: &str, topics: &KafkaFile) {
    loop {
        ask(opened, name, topics).await;
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn keep_looking(opened: &Opened) {
    let has_kafka = |stream: &str| kafka_sources(opened).any(|(_, of, _)| of == stream);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for parsed in opened.project.streams.iter().filter(|parsed| has_kafka(&parsed.definition.stream)) {
            // That a table cannot be read is told by whoever lands into it.
            let partitions = partitions_of(opened, parsed, SCRAPED_COMMITS).await.unwrap_or_default();
            opened.watched.welcome(&partitions);
            partitions.iter().for_each(|partition| tell(opened, partition));
        }
    }
}

/// Tells of a partition that is stopped, or that stands still.
fn tell(opened: &Opened, partition: &PartitionHealth) {
    let Some((topic, number)) = &partition.topic else { return };
    let object = format!("{}/{topic}/{number}", partition.source);
    match &partition.stopped {
        Some(stop) => troubles::failed(About::Stopped, &object, &stop.to_string()),
        None => troubles::well(About::Stopped, &object),
    }
    let source = opened.project.file.sources.get(&partition.source);
    let is_scheduled = source.is_some_and(|source| source.schedule.is_some());
    let stalled = opened.watched.stalled(partition, Instant::now()).unwrap_or_default();
    if stalled >= STALLED_AFTER && !is_scheduled && partition.stopped.is_none() {
        let (lag, seconds) = (partition.lag().unwrap_or_default(), stalled.as_secs());
        troubles::failed(About::Stall, &object, &format!("lag is {lag}, and nothing has landed for {seconds} s"));
    } else {
        troubles::well(About::Stall, &object);
    }
}

/// All metrics, in Prometheus' text format.
pub(crate) async fn metrics(opened: &Opened) -> String {
    let gathering = {
        let opened = opened.clone();
        tokio::spawn(async move { gather(&opened).await })
    };
    // One that takes longer goes on by itself, for the next scrape.
    _ = tokio::time::timeout(SCRAPE_WAITS, gathering).await;
    let mut text = locked(&opened.watched.gauges).clone();
    metrics::counted(&mut text);
    process::describe(&mut text);
    builds::describe(&mut text);
    describe_sources(opened, &mut text);
    for trouble in troubles::all() {
        let of = [("about", trouble.about.as_str()), ("object", &trouble.object)];
        text.add(&names::TROUBLE, &of, Some(1));
        text.add(&names::TROUBLE_SINCE, &of, Some(trouble.since / 1000));
    }
    text.add(&names::DAMAGE_FOUND, &[], Some(starmere_lake::damage::found()));
    let refused = u8::from(opened.watched.is_refused.load(Ordering::Relaxed));
    text.add(&names::DEFINITIONS_REFUSED, &[], Some(refused));
    let superseded = u8::from(opened.watched.is_superseded.load(Ordering::Relaxed));
    text.add(&names::DEFINITIONS_SUPERSEDED, &[], Some(superseded));
    let reachable = troubles::of(About::Warehouse, WAREHOUSE).is_none();
    text.add(&names::WAREHOUSE_REACHABLE, &[], Some(u8::from(reachable)));
    let memory = &opened.memory;
    text.add(&names::INGEST_MEMORY_USED, &[], Some(memory.used()));
    text.add(&names::INGEST_MEMORY, &[], Some(memory.bytes()));
    text.add(&names::INGEST_WAITING, &[], Some(memory.waiting()));
    text.finish()
}

/// What is known of sources without reading anything.
fn describe_sources(opened: &Opened, text: &mut Text) {
    let sources = opened.project.file.sources.iter();
    let declared = sources.map(|(source, file)| (file.stream.as_str(), source.as_str(), true));
    let over_http = opened.project.streams.iter().map(|parsed| (parsed.definition.stream.as_str(), "http", false));
    for (stream, source, is_declared) in declared.chain(over_http) {
        let of = [("stream", stream), ("source", source)];
        let reading = troubles::of(About::Source, source).filter(|_| is_declared);
        let landing = troubles::of(About::Landing, &format!("{stream}/{source}"));
        let last = [&reading, &landing].into_iter().flatten().map(|trouble| trouble.last / 1000).max();
        text.add(&names::SOURCE_FAILING, &of, Some(u8::from(last.is_some())));
        text.add(&names::SOURCE_LAST_ERROR, &of, last);
        let ends = locked(&opened.watched.ends).get(source).map(|known| u8::from(known.unreachable));
        text.add(&names::SOURCE_UNREACHABLE, &of, ends.filter(|_| is_declared));
    }
}

/// Reads the gauges of the warehouse, unless they were read just now.
async fn gather(opened: &Opened) {
    let mut last = opened.watched.turn.lock().await;
    if last.is_some_and(|last| last.elapsed() < FRESH) {
        return;
    }
    match tokio::time::timeout(STORE_WAITS, gauges(opened)).await {
        Ok(Ok(text)) => {
            *locked(&opened.watched.gauges) = text;
            troubles::well(About::Warehouse, WAREHOUSE);
        }
        Ok(Err(error)) => troubles::failed(About::Warehouse, WAREHOUSE, &troubles::causes(&*error)),
        Err(_) => troubles::failed(About::Warehouse, WAREHOUSE, "it does not answer"),
    }
    *last = Some(Instant::now());
}

async fn gauges(opened: &Opened) -> anyhow::Result<Text> {
    let mut text = Text::default();
    let newest = opened.catalog.newest().await?;
    text.add(&names::CATALOG_SNAPSHOT, &[], Some(newest.number));
    let at = Some(newest.published_at / 1000).filter(|&at| at > 0);
    text.add(&names::CATALOG_PUBLISHED, &[], at);
    text.add(&names::DEFINITIONS, &[], newest.definitions.as_ref().map(|definitions| definitions.number));
    for parsed in &opened.project.streams {
        let name = parsed.definition.stream.as_str();
        // A stream that cannot be read takes nothing away from the others.
        match gauges_of(opened, parsed, &mut text).await {
            Ok(()) => troubles::well(About::Warehouse, name),
            Err(error) => troubles::failed(About::Warehouse, name, &troubles::causes(&*error)),
        }
    }
    text.add(&names::GATHERED, &[], Some(chrono::Utc::now().timestamp()));
    Ok(text)
}

async fn gauges_of(opened: &Opened, parsed: &Parsed<StreamFile>, text: &mut Text) -> anyhow::Result<()> {
    if let Some(stream) = stream(opened, parsed).await? {
        let of = [("stream", stream.name.as_str())];
        let snapshot = &stream.snapshot;
        let bytes: i64 = snapshot.files().map(|add| add.size).sum();
        text.add(&names::STREAM_ROWS, &of, snapshot.rows());
        text.add(&names::STREAM_REJECTS, &of, stream.rejects);
        text.add(&names::STREAM_FILES, &of, Some(snapshot.files().len()));
        text.add(&names::STREAM_BYTES, &of, u64::try_from(bytes).ok());
        text.add(&names::STREAM_VERSION, &of, Some(snapshot.version()));
        let at = Some(snapshot.timestamp()).filter(|&at| at > 0).map(|at| at / 1000);
        text.add(&names::STREAM_LAST_COMMIT, &of, at);
    }
    for partition in partitions_of(opened, parsed, SCRAPED_COMMITS).await? {
        let number = partition.topic.as_ref().map(|(_, number)| number.to_string()).unwrap_or_default();
        let topic = partition.topic.as_ref().map(|(topic, _)| topic.as_str()).unwrap_or_default();
        let of = [
            ("stream", partition.stream.as_str()),
            ("source", &partition.source),
            ("topic", topic),
            ("partition", &number),
        ];
        text.add(&names::SOURCE_LAST_LANDED, &of, partition.last_landed.map(|at| at / 1000));
        if partition.topic.is_some() {
            text.add(&names::SOURCE_POSITION, &of, partition.position);
            text.add(&names::SOURCE_LAG, &of, partition.lag());
            let stalled = opened.watched.stalled(&partition, Instant::now());
            text.add(&names::SOURCE_STALLED, &of, stalled.map(|stalled| stalled.as_secs()));
            text.add(&names::SOURCE_STOPPED, &of, Some(u8::from(partition.stopped.is_some())));
        } else {
            text.add(&names::SOURCE_INPUTS, &of, Some(partition.inputs));
            text.add(&names::SOURCE_REFUSED, &of, Some(partition.refused.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000;

    /// The rate of 500 events a second that land in a commit every 90 ms, where so many commits are looked at.
    fn rate(commits: i64, whole: bool) -> f64 {
        let times: Vec<i64> = (0..commits).rev().map(|ago| NOW - ago * 90).collect();
        let window = Window::of(times.iter().copied(), whole, NOW).unwrap();
        window.rate(45 * times.iter().filter(|&&at| window.has(at)).count() as u64)
    }

    #[test]
    fn a_rate_is_that_of_the_time_that_the_commits_span() {
        // 200 commits span 18 s, and none of them is the first one of the table.
        assert!((rate(200, false) - 500.0).abs() < 1.0, "{}", rate(200, false));
        // A table that began 90 s ago.
        assert!((rate(1000, true) - 500.0).abs() < 1.0, "{}", rate(1000, true));
        // More than five minutes of it.
        assert!((rate(5000, true) - 500.0).abs() < 1.0, "{}", rate(5000, true));
    }

    #[test]
    fn a_rate_falls_when_nothing_lands_any_more() {
        let minute = 60_000;
        let window = Window::of([NOW - minute].into_iter(), true, NOW).unwrap();
        assert!(window.has(NOW - minute));
        assert_eq!(window.rate(600), 10.0);
        let later = Window::of([NOW - minute].into_iter(), true, NOW + 10 * minute).unwrap();
        assert!(!later.has(NOW - minute));
        assert_eq!(Window::of(std::iter::empty(), true, NOW), None);
    }

    fn partition(position: i64, end: i64) -> PartitionHealth {
        let topic = Some(("t".to_owned(), 0));
        PartitionHealth { source: "s".into(), topic, position: Some(position), end: Some(end), ..Default::default() }
    }

    #[test]
    fn a_partition_stands_still_while_it_has_lag_and_its_position_stays() {
        let watched = Watched::default();
        let begun = Instant::now();
        let stalled = |position, end, second| {
            let stalled = watched.stalled(&partition(position, end), begun + Duration::from_secs(second));
            stalled.unwrap().as_secs()
        };
        // Without lag, and moving, and then not any more.
        assert_eq!([stalled(5, 5, 0), stalled(5, 5, 90), stalled(5, 9, 100)], [0, 0, 10]);
        assert_eq!([stalled(7, 9, 110), stalled(7, 20, 170), stalled(7, 90, 210)], [0, 60, 100]);
        assert_eq!([stalled(90, 90, 220), stalled(90, 91, 230)], [0, 10]);
        let unknown = PartitionHealth { end: None, ..partition(1, 2) };
        assert_eq!(watched.stalled(&unknown, begun), None);
    }

    #[test]
    fn brokers_that_are_away_leave_the_last_known_ends() {
        let watched = Watched::default();
        watched.learn("away", Ok(kafka::Ends { ends: vec![("t".to_owned(), 0, 7)], missing: Vec::new() }));
        watched.learn("away", Err(anyhow::anyhow!("no answer")));
        let known = locked(&watched.ends).get("away").cloned().unwrap();
        assert_eq!((known.ends.as_slice(), known.unreachable), (&[("t".to_owned(), 0, 7)][..], true));
        assert_eq!(troubles::of(About::Broker, "away").unwrap().cause, "no answer");
        watched.learn("away", Ok(kafka::Ends::default()));
        assert_eq!(troubles::of(About::Broker, "away"), None);
    }

    #[test]
    fn a_topic_that_is_missing_is_a_trouble_until_it_is_read() {
        let watched = Watched::default();
        let ends = |end: Option<i64>| kafka::Ends {
            ends: end.into_iter().map(|end| ("late".to_owned(), 0, end)).collect(),
            missing: if end.is_none() { vec!["late".to_owned()] } else { Vec::new() },
        };
        let partition = |position, end| PartitionHealth {
            source: "waits".into(),
            topic: Some(("late".to_owned(), 0)),
            position,
            end: Some(end),
            ..PartitionHealth::default()
        };
        let cause = || troubles::of(About::Topic, "waits/late").map(|trouble| trouble.cause);
        watched.learn("waits", Ok(ends(None)));
        watched.welcome(&[]);
        assert!(cause().is_some_and(|cause| cause.contains("no such topic")), "{:?}", cause());
        assert_eq!(troubles::of(About::Broker, "waits"), None, "the brokers answer");
        assert!(!locked(&watched.ends)["waits"].unreachable);
        watched.learn("waits", Ok(ends(Some(5))));
        watched.welcome(&[partition(None, 5)]);
        assert!(cause().is_some_and(|cause| cause.contains("nothing of it has landed")), "{:?}", cause());
        watched.welcome(&[partition(Some(2), 5)]);
        assert_eq!(cause(), None);
        // One that is made without records is read as soon as it is there.
        watched.learn("waits", Ok(ends(None)));
        watched.learn("waits", Ok(ends(Some(0))));
        watched.welcome(&[partition(None, 0)]);
        assert_eq!(cause(), None);
    }

    #[test]
    fn every_metric_is_documented_with_its_type() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
        for metric in names::ALL {
            let begin = format!("| `{}` | {} |", metric.name, metric.kind.word());
            assert!(page.contains(&begin), "docs/operations.md has no line that begins with {begin}");
        }
        let told = page.lines().filter(|line| line.starts_with("| `starmere_") || line.starts_with("| `process_"));
        assert_eq!(told.count(), names::ALL.len(), "docs/operations.md tells of metrics that are not there");
    }
}
