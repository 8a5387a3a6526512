//! The metrics of a process: the name of every one, what it counts by itself, and Prometheus' text format.
//!
//! Every name that `/metrics` tells stands in this file, and in docs/operations.md for operators. Rooms count where the
//! thing happens, with the statics of this module. Gauges about the warehouse are made when somebody asks for them.
//!
//! Counters only ever grow while the process lives; after a restart they begin at 0, which Prometheus' `rate` knows.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were at most so large.
    Histogram,
}

impl Type {
    /// As Prometheus writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: its name, its type, and what it says.
#[derive(Debug)]
pub struct Metric {
    /// As Prometheus knows it; the unit is its end.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Type,
    /// One line for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal, $help:literal;)*) => {
        /// The names.
        pub mod names {
            use super::{Metric, Type};
            $(#[doc = $help] pub const $constant: Metric = Metric { name: $name, kind: Type::$kind, help: $help };)*
            /// All of them.
            pub const ALL: &[Metric] = &[$($constant),*];
        }
    };
}

metrics! {
    BUILDS_STARTED: Counter "starmere_builds_started_total", "Builds that `up` has begun";
    BUILDS_FAILED: Counter "starmere_builds_failed_total",
        "Builds of `up` that failed, or held products back; of those that failed nothing is published";
    BUILD_FAILING: Gauge "starmere_build_failing", "1 where the last build of `up` failed or held products back";
    BUILD_SECONDS: Histogram "starmere_build_seconds", "Seconds that builds of `up` took, failed ones included";
    BUILD_LAST_SECONDS: Gauge "starmere_build_last_seconds", "Seconds that the last build took";
    BUILD_RUNNING_SECONDS: Gauge "starmere_build_running_seconds",
        "Seconds that the build which runs now has taken; 0 where none runs";
    BUILD_LAST_SUCCESS: Gauge "starmere_build_last_success_timestamp_seconds",
        "When a build of this process last succeeded";
    PRODUCTS_HELD_BACK: Gauge "starmere_products_held_back",
        "Ports whose readers do not get newer rows, since the last build failed or held them back";

    LANDED_EVENTS: Counter "starmere_landed_events_total", "Events that this process has landed, rejects included";
    LANDED_REJECTS: Counter "starmere_landed_rejects_total",
        "Events that this process has landed and whose envelope could not be read";
    LANDED_BYTES: Counter "starmere_landed_bytes_total", "Payload bytes of the events that this process has landed";
    INGEST_MEMORY_USED: Gauge "starmere_ingest_memory_used_bytes", "Memory of events on their way into the lake";
    INGEST_MEMORY: Gauge "starmere_ingest_memory_bytes", "The most that it may be";
    INGEST_WAITING: Gauge "starmere_ingest_waiting", "Sources and requests that wait for memory";

    SOURCE_FAILING: Gauge "starmere_source_failing",
        "1 where this process cannot land what the source has, and tries again";
    SOURCE_LAST_ERROR: Gauge "starmere_source_last_error_timestamp_seconds",
        "When landing last failed, where it fails now";
    SOURCE_UNREACHABLE: Gauge "starmere_source_unreachable",
        "1 where the source's brokers do not answer; lag is then the last one known";
    SOURCE_POSITION: Gauge "starmere_source_position", "Position behind the last record that landed";
    SOURCE_LAG: Gauge "starmere_source_lag", "Records that the broker has and that have not landed";
    SOURCE_STALLED: Gauge "starmere_source_stalled_seconds", "Seconds that lag has been above 0 while nothing landed";
    SOURCE_STOPPED: Gauge "starmere_source_stopped", "1 where a partition is not read on";
    SOURCE_LAST_LANDED: Gauge "starmere_source_last_landed_timestamp_seconds", "When something of it was last landed";
    SOURCE_INPUTS: Gauge "starmere_source_inputs", "Files, or processes that took requests";
    SOURCE_REFUSED: Gauge "starmere_source_refused", "Files that the last run did not land";

    STREAM_ROWS: Gauge "starmere_stream_rows", "Rows in the stream's table, rejects included";
    STREAM_REJECTS: Gauge "starmere_stream_rejects", "Rows whose envelope could not be read";
    STREAM_FILES: Gauge "starmere_stream_files", "Files of the table";
    STREAM_BYTES: Gauge "starmere_stream_bytes", "Bytes of the table's files";
    STREAM_VERSION: Gauge "starmere_stream_version", "Version of the table";
    STREAM_LAST_COMMIT: Gauge "starmere_stream_last_commit_timestamp_seconds", "When the table was last committed to";
    CATALOG_SNAPSHOT: Gauge "starmere_catalog_snapshot", "Number of the newest catalog snapshot";
    CATALOG_PUBLISHED: Gauge "starmere_catalog_published_timestamp_seconds", "When it was published";
    DEFINITIONS: Gauge "starmere_definitions", "Number of the published definitions";
    DEFINITIONS_REFUSED: Gauge "starmere_definitions_refused", "1 where changed files are wrong, and the old go on";
    DEFINITIONS_SUPERSEDED: Gauge "starmere_definitions_superseded", "1 where others have published other definitions, and this process does not build";
    DAMAGE_FOUND: Counter "starmere_damage_found_total",
        "Reads of stored files that were found damaged; a catalog snapshot counts once";

    STORE_REQUESTS: Counter "starmere_store_requests_total", "Requests to the warehouse's store";
    STORE_FAILURES: Counter "starmere_store_failures_total", "Requests that the store refused or did not answer";
    STORE_CONFLICTS: Counter "starmere_store_conflicts_total",
        "Objects that somebody else had created first: races between writers";
    WAREHOUSE_REACHABLE: Gauge "starmere_warehouse_reachable",
        "0 where the warehouse could not be read when it was last tried";
    GATHERED: Gauge "starmere_gathered_timestamp_seconds",
        "When the gauges about streams, sources and the catalog were last read";

    QUERIES: Counter "starmere_queries_total", "Queries that have ended, by outcome";
    QUERIES_WAITING: Gauge "starmere_queries_waiting", "Queries that wait for a slot or are planned";
    QUERIES_RUNNING: Gauge "starmere_queries_running", "Queries that run, or whose answer is being read";
    QUERY_SECONDS: Histogram "starmere_query_seconds", "Seconds from a query's arrival to its last batch or its end";
    HTTP_REQUESTS: Counter "starmere_http_requests_total", "Requests over HTTP that were answered";

    CACHED_HASHES: Gauge "starmere_cached_hashes_bytes", "Memory of the hashes of files that are remembered";

    TROUBLE: Gauge "starmere_trouble", "1 for each trouble that lasts, with what it is about and which object";
    TROUBLE_SINCE: Gauge "starmere_trouble_since_timestamp_seconds", "When it began";
    TROUBLES: Counter "starmere_troubles_total", "Failures, those included that are over";

    PROCESS_MEMORY: Gauge "process_resident_memory_bytes", "Resident memory";
    PROCESS_FDS: Gauge "process_open_fds", "Open file descriptors";
    PROCESS_MAX_FDS: Gauge "process_max_fds", "The most that may be open";
    PROCESS_THREADS: Gauge "process_threads", "Threads";
    PROCESS_CPU: Counter "process_cpu_seconds_total", "Seconds of processors used, in user and system mode";
    PROCESS_START: Gauge "process_start_time_seconds", "When the process started";
}

/// Builds that `up` has begun.
pub static BUILDS_STARTED: Counter = Counter::new(names::BUILDS_STARTED);
/// Builds of `up` that failed.
pub static BUILDS_FAILED: Counter = Counter::new(names::BUILDS_FAILED);
/// How long builds took.
pub static BUILD_SECONDS: Histogram =
    Histogram::new(names::BUILD_SECONDS, &[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0]);
/// Events landed, by stream and source.
pub static LANDED_EVENTS: Family = Family::new(names::LANDED_EVENTS, &["stream", "source"]);
/// Rejects among them, by stream and source.
pub static LANDED_REJECTS: Family = Family::new(names::LANDED_REJECTS, &["stream", "source"]);
/// Bytes of their payloads, by stream and source.
pub static LANDED_BYTES: Family = Family::new(names::LANDED_BYTES, &["stream", "source"]);
/// Requests to the store, by operation.
pub static STORE_REQUESTS: Family = Family::new(names::STORE_REQUESTS, &["operation"]);
/// Requests that failed, by operation.
pub static STORE_FAILURES: Family = Family::new(names::STORE_FAILURES, &["operation"]);
/// Objects that were there already when they were to be created.
pub static STORE_CONFLICTS: Counter = Counter::new(names::STORE_CONFLICTS);
/// Queries that have ended, by outcome: `done`, or the word of their error's kind.
pub static QUERIES: Family = Family::new(names::QUERIES, &["outcome"]);
/// Queries that wait.
pub static QUERIES_WAITING: Gauge = Gauge::new(names::QUERIES_WAITING);
/// Queries that run.
pub static QUERIES_RUNNING: Gauge = Gauge::new(names::QUERIES_RUNNING);
/// How long queries took.
pub static QUERY_SECONDS: Histogram =
    Histogram::new(names::QUERY_SECONDS, &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0]);
/// Requests over HTTP, by route and class of status.
pub static HTTP_REQUESTS: Family = Family::new(names::HTTP_REQUESTS, &["route", "status"]);
/// Memory of remembered hashes of files.
pub static CACHED_HASHES: Gauge = Gauge::new(names::CACHED_HASHES);
/// Failures, by what they are about and their object.
pub static TROUBLES: Family = Family::new(names::TROUBLES, &["about", "object"]);

/// Adds what this process has counted to `text`.
pub fn counted(text: &mut Text) {
    for counter in [&BUILDS_STARTED, &BUILDS_FAILED, &STORE_CONFLICTS] {
        text.line(&counter.metric, "", "", counter.value.load(Ordering::Relaxed));
    }
    let families = [
        &LANDED_EVENTS,
        &LANDED_REJECTS,
        &LANDED_BYTES,
        &STORE_REQUESTS,
        &STORE_FAILURES,
        &QUERIES,
        &HTTP_REQUESTS,
        &TROUBLES,
    ];
    for family in families {
        for (labels, value) in locked(&family.values).iter() {
            text.line(&family.metric, "", labels, value);
        }
    }
    for gauge in [&QUERIES_WAITING, &QUERIES_RUNNING, &CACHED_HASHES] {
        text.line(&gauge.metric, "", "", gauge.value.load(Ordering::Relaxed));
    }
    for histogram in [&BUILD_SECONDS, &QUERY_SECONDS] {
        histogram.write(text);
    }
}

/// A number that only grows.
#[derive(Debug)]
pub struct Counter {
    metric: Metric,
    value: AtomicU64,
}

impl Counter {
    const fn new(metric: Metric) -> Self {
        Self { metric, value: AtomicU64::new(0) }
    }

    /// Counts so many more.
    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge {
    metric: Metric,
    value: AtomicI64,
}

impl Gauge {
    const fn new(metric: Metric) -> Self {
        Self { metric, value: AtomicI64::new(0) }
    }

    /// Adds to it, or takes away.
    pub fn add(&self, change: i64) {
        self.value.fetch_add(change, Ordering::Relaxed);
    }

    /// It is so much now.
    pub fn set(&self, value: usize) {
        self.value.store(i64::try_from(value).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// Counters of one name, told apart by labels. Labels come from definitions and routes, never from what clients send.
#[derive(Debug)]
pub struct Family {
    metric: Metric,
    labels: &'static [&'static str],
    /// By the text of their labels.
    values: Mutex<BTreeMap<String, u64>>,
}

impl Family {
    const fn new(metric: Metric, labels: &'static [&'static str]) -> Self {
        Self { metric, labels, values: Mutex::new(BTreeMap::new()) }
    }

    /// Counts so many more under the values of the labels; 0 begins a counter that has not counted yet.
    pub fn add(&self, values: &[&str], count: u64) {
        let labels = labels_of(self.labels.iter().copied().zip(values.iter().copied()));
        *locked(&self.values).entry(labels).or_default() += count;
    }

    /// How many were counted under these values.
    pub fn value(&self, values: &[&str]) -> u64 {
        let labels = labels_of(self.labels.iter().copied().zip(values.iter().copied()));
        locked(&self.values).get(&labels).copied().unwrap_or_default()
    }
}

/// How many durations were at most so long.
#[derive(Debug)]
pub struct Histogram {
    metric: Metric,
    /// In seconds, ascending.
    bounds: &'static [f64],
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// How many were within each bound and above the one before.
    within: Vec<u64>,
    count: u64,
    seconds: f64,
}

impl Histogram {
    const fn new(metric: Metric, bounds: &'static [f64]) -> Self {
        Self { metric, bounds, seen: Mutex::new(Seen { within: Vec::new(), count: 0, seconds: 0.0 }) }
    }

    /// Counts a duration.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut seen = locked(&self.seen);
        seen.within.resize(self.bounds.len(), 0);
        if let Some(place) = self.bounds.iter().position(|bound| seconds <= *bound) {
            seen.within[place] += 1;
        }
        seen.count += 1;
        seen.seconds += seconds;
    }

    fn write(&self, text: &mut Text) {
        let seen = locked(&self.seen);
        let mut so_far = 0;
        for (place, bound) in self.bounds.iter().enumerate() {
            so_far += seen.within.get(place).copied().unwrap_or_default();
            text.line(&self.metric, "_bucket", &format!("le=\"{bound}\""), so_far);
        }
        text.line(&self.metric, "_bucket", "le=\"+Inf\"", seen.count);
        text.line(&self.metric, "_sum", "", seen.seconds);
        text.line(&self.metric, "_count", "", seen.count);
    }
}

/// Metrics in Prometheus' text format, in the making: all samples of a name stand together.
#[derive(Clone, Debug, Default)]
pub struct Text {
    by_name: BTreeMap<&'static str, String>,
}

impl Text {
    /// Adds a sample. Labels without a value are left out; without a number there is no sample.
    pub fn add(&mut self, metric: &Metric, labels: &[(&str, &str)], value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(metric, "", &labels_of(labels.iter().copied()), value);
        }
    }

    fn line(&mut self, metric: &Metric, suffix: &str, labels: &str, value: impl Display) {
        let &Metric { name, kind, help } = metric;
        let begin = || format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
        let text = self.by_name.entry(name).or_insert_with(begin);
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}{suffix}{braced} {value}");
    }

    /// As it is sent.
    pub fn finish(self) -> String {
        self.by_name.into_values().collect()
    }
}

fn labels_of<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels = labels.filter(|(_, value)| !value.is_empty());
    labels.map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect::<Vec<_>>().join(",")
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUGE: Metric = Metric { name: "b", kind: Type::Gauge, help: "B" };
    const OTHER: Metric = Metric { name: "a", kind: Type::Gauge, help: "A" };

    #[test]
    fn samples_of_a_metric_stand_together() {
        let mut text = Text::default();
        text.add(&GAUGE, &[("x", "a\"b\\c\nd")], Some(1));
        text.add(&OTHER, &[], Some(2));
        text.add(&GAUGE, &[("x", ""), ("y", "z")], Some(3));
        text.add(&names::SOURCE_LAG, &[], None::<u64>);
        let expected =
            "# HELP a A\n# TYPE a gauge\na 2\n# HELP b B\n# TYPE b gauge\nb{x=\"a\\\"b\\\\c\\nd\"} 1\nb{y=\"z\"} 3\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn histograms_add_up() {
        let metric = Metric { name: "h", kind: Type::Histogram, help: "H" };
        let histogram = Histogram::new(metric, &[0.5, 1.0]);
        for millis in [250, 500, 750, 4500] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = Text::default();
        histogram.write(&mut text);
        let expected = "# HELP h H\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 2\nh_bucket{le=\"1\"} 3\n\
                        h_bucket{le=\"+Inf\"} 4\nh_sum 6\nh_count 4\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn counters_say_so_by_name_and_names_are_told_once() {
        let mut seen = std::collections::BTreeSet::new();
        for Metric { name, kind, .. } in names::ALL {
            assert_eq!(name.ends_with("_total"), *kind == Type::Counter, "{name}");
            assert!(seen.insert(*name), "{name} is there twice");
        }
    }

    #[test]
    fn a_family_counts_by_labels() {
        let family = Family::new(names::QUERIES, &["outcome"]);
        family.add(&["done"], 2);
        family.add(&["done"], 3);
        family.add(&["cancelled"], 0);
        assert_eq!((family.value(&["done"]), family.value(&["cancelled"]), family.value(&["invalid"])), (5, 0, 0));
    }
}
