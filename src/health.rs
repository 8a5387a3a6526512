//! How the lake is: what `status` shows and `/metrics` counts.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use starmere_ingest::files::{self, Refused};
use starmere_ingest::kafka::{self, Stop};
use starmere_lake::delta::{Snapshot, Table};
use starmere_lake::landing::{Part, SourcePartition, parts};
use starmere_lake::paths::TablePath;
use starmere_lake::upkeep::cut_of;

use crate::project::Opened;

/// The rate is that of the last minutes.
const RATE_OVER: Duration = Duration::from_secs(5 * 60);
/// ... as far as so many commits tell.
const RATE_COMMITS: u64 = 200;

/// What this process knows of its sources.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Sources that it could not land, and why.
    troubles: Mutex<BTreeMap<String, String>>,
    /// The definitions' files are wrong, and older ones go on.
    pub(crate) is_refused: AtomicBool,
    /// Somebody else has published other definitions, and nothing is built here.
    pub(crate) is_superseded: AtomicBool,
    /// What the newest commits of a table have landed, by version; a commit does not change.
    landed: Mutex<HashMap<TablePath, Landed>>,
}

/// When each commit was made, and what it has landed.
type Landed = BTreeMap<u64, (i64, Arc<Vec<Part>>)>;

impl Watched {
    /// A source has this trouble now, or none; whether that is new.
    pub(crate) fn trouble(&self, source: &str, trouble: Option<String>) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(trouble) => troubles.insert(source.to_owned(), trouble.clone()) != Some(trouble),
            None => troubles.remove(source).is_some(),
        }
    }

    fn has_trouble(&self, source: &str) -> bool {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).contains_key(source)
    }

    /// The commits after `after`, up to `to`.
    async fn landed(&self, table: &Table, after: u64, to: u64) -> anyhow::Result<Landed> {
        let locked = || self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = locked().get(table.path()).and_then(|landed| landed.keys().next_back().copied());
        let mut found = Landed::new();
        for commit in table.commits(known.map_or(after, |known| known.clamp(after, to)), to).await? {
            let at = commit.info().map_or(0, |info| info.timestamp);
            found.insert(commit.version, (at, Arc::new(parts(&commit))));
        }
        let mut all = locked();
        let landed = all.entry(table.path().clone()).or_default();
        landed.extend(found);
        landed.retain(|version, _| *version > after);
        Ok(landed.range(..=to).map(|(version, landed)| (*version, landed.clone())).collect())
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
        let name = parsed.definition.stream.as_str();
        let (stream, _) = opened.stream(name)?;
        let Some(snapshot) = stream.table().snapshot().await? else { continue };
        let rejects = snapshot.rows().zip(snapshot.nulls("rejection")).map(|(rows, read)| rows - read.min(rows));
        found.push(StreamHealth { name: name.to_owned(), rejects, cut: cut_of(&snapshot), snapshot });
    }
    Ok(found)
}

/// What the sources have brought.
pub(crate) async fn partitions(opened: &Opened) -> anyhow::Result<Vec<PartitionHealth>> {
    let mut found = Vec::new();
    let all_topics = topics(opened).await;
    for parsed in &opened.project.streams {
        let name = parsed.definition.stream.as_str();
        let (stream, _) = opened.stream(name)?;
        let snapshot = stream.table().snapshot().await?;
        let mut of_stream: BTreeMap<(String, Option<(String, i32)>), PartitionHealth> = BTreeMap::new();
        let topics: Vec<&Topics> = all_topics.iter().filter(|topics| topics.stream == name).collect();
        let key = |partition: &SourcePartition| {
            let topic = (partition.topic.clone(), partition.partition);
            let is_topic = topics.iter().any(|topics| topics.source == partition.source);
            (partition.source.clone(), is_topic.then_some(topic))
        };
        let begin = |(source, topic): &(String, Option<(String, i32)>)| PartitionHealth {
            stream: name.to_owned(),
            source: source.clone(),
            topic: topic.clone(),
            ..PartitionHealth::default()
        };
        for topics in &topics {
            for (topic, partition, end) in &topics.ends {
                let key = (topics.source.clone(), Some((topic.clone(), *partition)));
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
            add_rates(&opened.watched, stream.table(), snapshot, &key, &mut of_stream).await?;
        }
        for stop in kafka::stops(&stream).await? {
            if let Some(health) = of_stream.get_mut(&key(&stop.partition)) {
                health.stopped = Some(stop);
            }
        }
        // What has never landed anything is there too.
        for (source, file) in opened.project.file.sources.iter().filter(|(_, file)| file.stream == name) {
            let is_there = of_stream.keys().any(|(of, _)| of == source);
            if !is_there && (file.kafka.is_none() || !topics.iter().any(|topics| topics.source == *source)) {
                let key = (source.clone(), None);
                of_stream.insert(key.clone(), begin(&key));
            }
        }
        let of_files =
            opened.project.file.sources.iter().filter(|(_, file)| file.stream == name && file.kafka.is_none());
        for (source, _) in of_files {
            let refused = files::refused(&stream, source).await?;
            if !refused.is_empty() {
                let key = (source.clone(), None);
                of_stream.entry(key.clone()).or_insert_with(|| begin(&key)).refused = refused;
            }
        }
        found.extend(of_stream.into_values());
    }
    Ok(found)
}

/// Topics of a source, and where their partitions end; nothing, where the broker cannot be asked.
struct Topics {
    stream: String,
    source: String,
    ends: Vec<(String, i32, i64)>,
}

/// Those of all sources; brokers are asked side by side.
async fn topics(opened: &Opened) -> Vec<Topics> {
    let project = &opened.project;
    let asking = project.file.sources.iter().filter_map(|(name, file)| {
        let topics = file.kafka.as_ref()?;
        Some(async move {
            let ends = match topics.source(&project.file.project, name, &project.root) {
                Ok(source) => kafka::ends(&source).await.map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            let ends = ends.unwrap_or_else(|error| {
                tracing::warn!(source = name, error = format!("{error:#}"), "how far its partitions go is not known");
                Vec::new()
            });
            Topics { stream: file.stream.clone(), source: name.clone(), ends }
        })
    });
    futures::future::join_all(asking).await
}

async fn add_rates<K: Ord + Clone>(
    watched: &Watched,
    table: &Table,
    snapshot: &Snapshot,
    key: &impl Fn(&SourcePartition) -> K,
    found: &mut BTreeMap<K, PartitionHealth>,
) -> anyhow::Result<()> {
    let after = snapshot.version().saturating_sub(RATE_COMMITS);
    let since = chrono::Utc::now().timestamp_millis() - RATE_OVER.as_millis() as i64;
    let mut rows: BTreeMap<K, u64> = BTreeMap::new();
    for (at, parts) in watched.landed(table, after, snapshot.version()).await?.into_values() {
        for part in parts.iter() {
            let key = key(&part.partition);
            if let Some(health) = found.get_mut(&key) {
                health.last_landed = Some(at);
            }
            if at >= since {
                *rows.entry(key).or_default() += part.rows;
            }
        }
    }
    for (key, health) in found {
        let rows = rows.get(key).copied().unwrap_or_default();
        health.events_per_second = Some(rows as f64 / RATE_OVER.as_secs_f64());
    }
    Ok(())
}

/// The same for Prometheus, in its text format.
pub(crate) async fn metrics(opened: &Opened) -> anyhow::Result<String> {
    let mut text = Metrics::default();
    for stream in streams(opened).await? {
        let of = [("stream", stream.name.as_str())];
        let snapshot = &stream.snapshot;
        let bytes: i64 = snapshot.files().map(|add| add.size).sum();
        text.add("starmere_stream_rows", "Rows in the stream's table, rejects included", &of, snapshot.rows());
        text.add("starmere_stream_rejects", "Rows whose envelope could not be read", &of, stream.rejects);
        text.add("starmere_stream_files", "Files of the table", &of, Some(snapshot.files().len() as u64));
        text.add("starmere_stream_bytes", "Bytes of the table's files", &of, u64::try_from(bytes).ok());
        text.add("starmere_stream_version", "Version of the table", &of, Some(snapshot.version()));
        let at = Some(snapshot.timestamp()).filter(|&at| at > 0).map(|at| at / 1000);
        text.add("starmere_stream_last_commit_timestamp_seconds", "When the table was last committed to", &of, at);
    }
    for partition in partitions(opened).await? {
        let number = partition.topic.as_ref().map(|(_, number)| number.to_string()).unwrap_or_default();
        let topic = partition.topic.as_ref().map(|(topic, _)| topic.as_str()).unwrap_or_default();
        let of = [
            ("stream", partition.stream.as_str()),
            ("source", &partition.source),
            ("topic", topic),
            ("partition", &number),
        ];
        let stopped = u64::from(partition.stopped.is_some());
        let at = partition.last_landed.map(|at| at / 1000);
        text.add("starmere_source_last_landed_timestamp_seconds", "When something of it was last landed", &of, at);
        let rate = partition.events_per_second;
        text.add("starmere_source_events_per_second", "Over the last five minutes", &of, rate);
        if partition.topic.is_some() {
            text.add(
                "starmere_source_position",
                "Position behind the last record that landed",
                &of,
                partition.position,
            );
            text.add(
                "starmere_source_lag",
                "Records that the broker has and that have not landed",
                &of,
                partition.lag(),
            );
            text.add("starmere_source_stopped", "1 where a partition is not read on", &of, Some(stopped));
        } else {
            text.add("starmere_source_inputs", "Files, or processes that took requests", &of, Some(partition.inputs));
            let refused = Some(partition.refused.len());
            text.add("starmere_source_refused", "Files that the last run did not land", &of, refused);
        }
    }
    for (source, file) in &opened.project.file.sources {
        let of = [("stream", file.stream.as_str()), ("source", source)];
        let failing = u64::from(opened.watched.has_trouble(source));
        text.add(
            "starmere_source_failing",
            "1 where this process could not land it, and tries again",
            &of,
            Some(failing),
        );
    }
    let memory = &opened.memory;
    let (used, bytes, waiting) = (memory.used() as u64, memory.bytes() as u64, memory.waiting() as u64);
    text.add("starmere_ingest_memory_used_bytes", "Memory of events on their way into the lake", &[], Some(used));
    text.add("starmere_ingest_memory_bytes", "The most that it may be", &[], Some(bytes));
    text.add("starmere_ingest_waiting", "Sources and requests that wait for memory", &[], Some(waiting));
    let damage = Some(starmere_lake::damage::found());
    text.add("starmere_damage_found", "Reads of stored files that this process found damaged", &[], damage);
    let newest = opened.catalog.newest().await?;
    let definitions = newest.definitions.as_ref().map(|definitions| definitions.number);
    text.add("starmere_definitions", "Number of the published definitions", &[], definitions);
    let refused = u64::from(opened.watched.is_refused.load(Ordering::Relaxed));
    text.add("starmere_definitions_refused", "1 where changed files are wrong, and the old go on", &[], Some(refused));
    let superseded = u64::from(opened.watched.is_superseded.load(Ordering::Relaxed));
    let help = "1 where others have published other definitions, and this process does not build";
    text.add("starmere_definitions_superseded", help, &[], Some(superseded));
    text.add("starmere_catalog_snapshot", "Number of the newest catalog snapshot", &[], Some(newest.number));
    let at = Some(newest.published_at / 1000).filter(|&at| at > 0);
    text.add("starmere_catalog_published_timestamp_seconds", "When it was published", &[], at);
    Ok(text.finish())
}

/// Metrics in the making: all samples of a name stand together.
#[derive(Default)]
struct Metrics {
    by_name: BTreeMap<&'static str, String>,
}

impl Metrics {
    fn add(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: Option<impl std::fmt::Display>) {
        let Some(value) = value else { return };
        let text = self.by_name.entry(name).or_insert_with(|| format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(text, "{name}{labels} {value}");
    }

    fn finish(self) -> String {
        self.by_name.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn samples_of_a_metric_stand_together() {
        let mut metrics = Metrics::default();
        metrics.add("b", "B", &[("x", "a\"b\\c\nd")], Some(1));
        metrics.add("a", "A", &[], Some(2));
        metrics.add("b", "B", &[("x", ""), ("y", "z")], Some(3));
        metrics.add("c", "C", &[], None::<u64>);
        let expected =
            "# HELP a A\n# TYPE a gauge\na 2\n# HELP b B\n# TYPE b gauge\nb{x=\"a\\\"b\\\\c\\nd\"} 1\nb{y=\"z\"} 3\n";
        assert_eq!(metrics.finish(), expected);
    }
}
