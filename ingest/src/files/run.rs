//! Landing what is new in a source's files.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use starmere_lake::formats::{Encoding, Incoming};
use starmere_lake::landing::{Outcome, Oversized, SourcePartition, Stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::containers::{self, Container};
use super::identity::{self, Decision, Known, Mark};
use super::read::{self, Found, Index};
use super::refused::Refused;
use crate::envelope::{Mapping, Reader};
use crate::marks::marks;
use crate::memory::Memory;
use crate::rows::{Batch, Counts, Rows};
use crate::{Error, Result};

/// A batch is also landed when its parts reach this number.
const BATCH_PARTS: usize = 4096;
/// Another writer may be first so often in a row.
const MOST_TIMES_BEHIND: usize = 100;

/// Files that feed a stream.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    /// A file, a folder or a glob.
    pub pattern: PathBuf,
    /// Names the one file of the pattern, where its own name says nothing (standard input).
    pub topic: Option<String>,
    /// A last line without newline is an event too.
    pub end_of_input: bool,
}

/// What was done so far, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    pub events: AtomicU64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What landed.
    pub counts: Counts,
    pub commits: u64,
    pub files_new: u64,
    pub files_continued: u64,
    pub files_unchanged: u64,
    pub files_copied: u64,
    /// Files whose last line waits for its newline.
    pub files_waiting: Vec<String>,
    pub refused: Vec<Refused>,
    /// The table's version afterwards.
    pub version: u64,
}

/// Lands everything that is new, and ends; what was read by then, where it is told to `stop`. Safe to be dropped and
/// to be run beside itself.
pub async fn land(
    stream: &Stream,
    mapping: &Mapping,
    source: &Source,
    progress: &Arc<Progress>,
    memory: &Memory,
    stop: &CancellationToken,
) -> Result<Report> {
    let mut report = Report::default();
    let mut times_behind = 0;
    loop {
        let snapshot = stream.open().await?;
        report.version = snapshot.version();
        let marks = marks(stream, &snapshot, &source.name).await?;
        let known = marks.into_iter().filter_map(|(partition, mark)| Known::of(partition, mark)).collect();
        let (sender, mut receiver) = mpsc::channel::<Rows>(1);
        let reading = Reading {
            stream: stream.clone(),
            source: source.clone(),
            known,
            reader: Reader::of(mapping.clone(), stream).await?,
            batch: Batch::default(),
            memory: memory.clone(),
            sender,
            progress: progress.clone(),
            stop: stop.clone(),
            runtime: tokio::runtime::Handle::current(),
            report: Report::default(),
        };
        let reader = tokio::task::spawn_blocking(move || reading.run());
        let mut behind = false;
        while let Some(mut rows) = receiver.recv().await {
            let counts = std::mem::take(&mut rows.counts);
            match rows.land(stream).await? {
                Outcome::Landed(snapshot) => {
                    report.counts.add(&counts);
                    report.commits += 1;
                    report.version = snapshot.version();
                    times_behind = 0;
                }
                Outcome::Behind(_) if times_behind == MOST_TIMES_BEHIND => {
                    let (table, version) = (stream.table().path().to_string(), report.version + 1);
                    return Err(starmere_lake::Error::Conflict { table, version }.into());
                }
                Outcome::Behind(_) => {
                    times_behind += 1;
                    behind = true;
                    break;
                }
            }
        }
        drop(receiver);
        let read = reader.await.map_err(|error| Error::Task(error.to_string()))??;
        if behind {
            tracing::info!(stream = stream.name(), source = source.name, "another writer was first; reading again");
            continue;
        }
        return Ok(Report { counts: report.counts, commits: report.commits, version: report.version, ..read });
    }
}

/// The reading side: runs on a thread of its own, ends early when nobody takes its batches.
pub(super) struct Reading {
    pub(super) stream: Stream,
    pub(super) source: Source,
    known: Vec<Known>,
    pub(super) reader: Reader,
    pub(super) batch: Batch,
    memory: Memory,
    sender: mpsc::Sender<Rows>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) report: Report,
}

/// Nobody takes batches any more.
pub(super) struct Stopped;

impl Reading {
    fn run(mut self) -> Result<Report> {
        let (mut found, unreadable) = read::find(&self.source.pattern)?;
        for (path, error) in unreadable {
            self.refuse(&path, &error);
        }
        if let (Some(topic), [only]) = (&self.source.topic, found.as_mut_slice()) {
            only.name.clone_from(topic);
        }
        let observed = {
            let index = Index::new(&self.known);
            found.iter().map(|file| index.observe(file)).collect::<Vec<_>>()
        };
        let mut files = Vec::with_capacity(found.len());
        let mut seen = Vec::with_capacity(found.len());
        for (file, observed) in found.into_iter().zip(observed) {
            match observed {
                Ok(observed) => {
                    files.push(file);
                    seen.push(observed);
                }
                Err(error) => self.refuse(&file.name, &error),
            }
        }
        let mut decisions = identity::decide(&self.known, &seen);
        let lands = |place: usize| matches!(decisions[place], Decision::New { .. } | Decision::Continue { .. });
        let contents = read::contents(&files, lands, self.source.end_of_input);
        identity::find_twins(&mut decisions, &contents);
        for (file, decision) in files.iter().zip(decisions) {
            match self.file(file, &decision) {
                Ok(Ok(())) => {}
                Ok(Err(Stopped)) => return Ok(self.report),
                Err(error) => self.refuse(&file.name, &error),
            }
            self.progress.files.fetch_add(1, Ordering::Relaxed);
        }
        let _ = self.flush()?;
        Ok(self.report)
    }

    fn refuse(&mut self, path: &str, error: &Error) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        self.report.refused.push(Refused { path: path.to_owned(), reason: format!("{error}{cause}") });
    }

    fn file(&mut self, file: &Found, decision: &Decision) -> Result<Result<(), Stopped>> {
        match *decision {
            Decision::Unchanged { .. } => self.report.files_unchanged += 1,
            Decision::Copy { known, incarnation } => {
                self.report.files_copied += 1;
                return self.copy(file, self.partition(file, incarnation), known);
            }
            // The next run knows what it is a copy of.
            Decision::Twin { .. } => self.report.files_copied += 1,
            Decision::Replaced { known } => {
                let mark = &self.known[known].mark;
                let reason = format!(
                    "its beginning is no longer the {} bytes that landed from it (digest {}); give the new content \
                     another name, or put the old one back",
                    mark.length, mark.digest
                );
                self.report.refused.push(Refused { path: file.name.clone(), reason });
            }
            Decision::Continue { known } => {
                let Known { partition, mark } = self.known[known].clone();
                let landed = self.content(file, partition, Some(&mark))?;
                self.report.files_continued += 1;
                return Ok(landed);
            }
            // Nothing to know it by.
            Decision::New { .. } if file.seen.size == 0 => self.report.files_unchanged += 1,
            Decision::New { incarnation } => {
                let landed = self.content(file, self.partition(file, incarnation), None)?;
                self.report.files_new += 1;
                return Ok(landed);
            }
        }
        Ok(Ok(()))
    }

    fn partition(&self, file: &Found, incarnation: u32) -> SourcePartition {
        let (source, topic) = (self.source.name.clone(), file.name.clone());
        SourcePartition { source, topic, incarnation, partition: 0 }
    }

    /// Lands no rows, but the knowledge that a file's content has landed from another: either may grow from here.
    fn copy(&mut self, file: &Found, partition: SourcePartition, original: usize) -> Result<Result<(), Stopped>> {
        let original = &self.known[original].mark;
        if original.is_partial {
            return Ok(Ok(()));
        }
        let mark = Mark { path: file.name.clone(), seen: Some(file.seen.clone()), ..original.clone() };
        let position = mark.position.unwrap_or(mark.length as i64);
        self.begin(partition, 0);
        self.batch.mark(position, serde_json::to_value(mark).ok());
        self.flush_parts()
    }

    /// Lands what a file has behind what `landed` says.
    fn content(
        &mut self,
        file: &Found,
        partition: SourcePartition,
        landed: Option<&Mark>,
    ) -> Result<Result<(), Stopped>> {
        let refused = |reason: &str| Err(Error::Content { path: file.name.clone(), reason: reason.to_owned() });
        let kind = containers::kind(&file.path).map_err(|source| Error::read(&file.path, source))?;
        match (kind, &self.reader.mapping().format.encoding) {
            (Container::Parquet, Encoding::Json) => self.parquet(file, partition, landed),
            (Container::Parquet, _) => refused("a file of Parquet, and the stream's payloads are not `format: json`"),
            (Container::Avro, Encoding::Avro { .. }) => self.avro(file, partition, landed),
            (Container::Avro, _) => refused("a file of Avro, and the stream's payloads are not `format: avro`"),
            (Container::None, Encoding::Avro { .. }) => refused("not a file of Avro, and the stream's payloads are"),
            (Container::None, Encoding::Confluent) => refused("payloads of `format: confluent` come by Kafka"),
            (Container::None, Encoding::Json | Encoding::Csv { .. }) => self.records(file, partition, landed),
        }
    }

    /// Adds an event, or keeps it beside the table where it is too long for a row.
    pub(super) fn push(
        &mut self,
        event: &Incoming<'_>,
        partition: &SourcePartition,
        position: i64,
        next: i64,
    ) -> Result<()> {
        let (payload, limit) = (event.payload.unwrap_or_default(), self.reader.mapping().max_event_bytes);
        if payload.len() <= limit {
            self.batch.push(&mut self.reader, event, position, next, None)?;
            return Ok(());
        }
        let kept = self.runtime.block_on(Oversized::keep(self.stream.table(), partition, position, payload))?;
        self.batch.push_oversized(event, &kept, limit, position, next)?;
        Ok(())
    }

    /// Begins a partition's share of the batch; a batch begins when there is memory for one.
    pub(super) fn begin(&mut self, partition: SourcePartition, from: i64) {
        if !self.batch.has_memory() {
            self.batch.give_memory(self.runtime.block_on(self.memory.share()));
        }
        self.batch.begin_marked(partition, from);
    }

    /// Counts an event that was read, of so many bytes.
    pub(super) fn count(&self, bytes: u64) {
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Lands what was gathered, where that are many files.
    pub(super) fn flush_parts(&mut self) -> Result<Result<(), Stopped>> {
        if self.batch.parts() >= BATCH_PARTS || self.stop.is_cancelled() { self.flush() } else { Ok(Ok(())) }
    }

    pub(super) fn flush(&mut self) -> Result<Result<(), Stopped>> {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            if self.sender.blocking_send(batch.finish()?).is_err() {
                return Ok(Err(Stopped));
            }
        }
        Ok(if self.stop.is_cancelled() { Err(Stopped) } else { Ok(()) })
    }

    /// What was gathered is to be landed now.
    pub(super) fn is_full(&self) -> bool {
        self.batch.is_full() || self.stop.is_cancelled()
    }
}
