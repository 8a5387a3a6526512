//! Landing what is new in a source's files.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::ObjectStoreExt as _;
use starmere_lake::landing::{Outcome, Oversized, SourcePartition, Stream};
use tokio::sync::mpsc;

use super::identity::{self, Decision, Known, Mark};
use super::read::{self, Digest, Found, Index};
use crate::envelope::{Mapping, Reader};
use crate::lines::{Line, Lines};
use crate::marks::marks;
use crate::rows::{Batch, Counts, Incoming, Rows};
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

/// A file that was not landed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub path: String,
    pub reason: String,
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
    pub files_waiting: u64,
    pub refused: Vec<Refused>,
    /// The table's version afterwards.
    pub version: u64,
}

/// Lands everything that is new, and ends. Safe to be dropped and to be run beside itself.
pub async fn land(stream: &Stream, mapping: &Mapping, source: &Source, progress: &Arc<Progress>) -> Result<Report> {
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
            reader: Reader::new(mapping.clone()),
            batch: Batch::default(),
            sender,
            progress: progress.clone(),
            runtime: tokio::runtime::Handle::current(),
            report: Report::default(),
        };
        let reader = tokio::task::spawn_blocking(move || reading.run());
        let mut behind = false;
        while let Some(mut rows) = receiver.recv().await {
            let counts = std::mem::take(&mut rows.counts);
            let (parts, files) = encode(rows).await?;
            match stream.land(&parts, files).await? {
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

/// Encodes where it does not hold up the runtime.
pub(crate) async fn encode(
    rows: Rows,
) -> Result<(Vec<starmere_lake::landing::Part>, Vec<starmere_lake::delta::EncodedFile>)> {
    let landed_at = chrono::Utc::now().timestamp_micros();
    tokio::task::spawn_blocking(move || {
        let file = rows.encode(landed_at)?;
        Ok((rows.parts, file.into_iter().collect()))
    })
    .await
    .map_err(|error| Error::Task(error.to_string()))?
}

/// The reading side: runs on a thread of its own, ends early when nobody takes its batches.
struct Reading {
    stream: Stream,
    source: Source,
    known: Vec<Known>,
    reader: Reader,
    batch: Batch,
    sender: mpsc::Sender<Rows>,
    progress: Arc<Progress>,
    runtime: tokio::runtime::Handle,
    report: Report,
}

/// Nobody takes batches any more.
struct Stopped;

/// A file that is being read.
struct Open<'a> {
    file: &'a Found,
    partition: SourcePartition,
    /// Of its content up to `position`, which is behind the last whole line.
    digest: Digest,
    from: i64,
    position: i64,
    /// What landed before ends within a line.
    continues_line: bool,
}

impl Open<'_> {
    fn mark(&self, complete: bool) -> Option<serde_json::Value> {
        mark(self.file, &self.digest, complete)
    }
}

impl Reading {
    fn run(mut self) -> Result<Report> {
        let mut found = read::find(&self.source.pattern)?;
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
            Decision::Copy { .. } | Decision::Twin { .. } => self.report.files_copied += 1,
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
                let landed = self.lines(file, partition, mark.length)?;
                self.report.files_continued += 1;
                return Ok(landed);
            }
            Decision::New { incarnation } => {
                let topic = file.name.clone();
                let partition = SourcePartition { source: self.source.name.clone(), topic, incarnation, partition: 0 };
                let landed = self.lines(file, partition, 0)?;
                self.report.files_new += 1;
                return Ok(landed);
            }
        }
        Ok(Ok(()))
    }

    /// Lands the lines of `file` from byte `from` on.
    fn lines(&mut self, file: &Found, partition: SourcePartition, from: u64) -> Result<Result<(), Stopped>> {
        let failed = |source| Error::Read { path: file.path.display().to_string(), source };
        let mut content = read::open(&file.path).map_err(failed)?;
        let mut digest = Digest::default();
        let mut block = vec![0; 1 << 16];
        let mut last = b'\n';
        while digest.length() < from {
            let wanted = (from - digest.length()).min(block.len() as u64) as usize;
            match content.read(&mut block[..wanted]).map_err(failed)? {
                0 => return Err(failed(std::io::Error::other("the file became shorter while it was read"))),
                read => {
                    digest.update(&block[..read]);
                    last = block[read - 1];
                }
            }
        }
        let continues_line = last != b'\n';
        let mut reading = Open { file, partition, digest, from: from as i64, position: from as i64, continues_line };
        self.batch.begin(reading.partition.clone(), reading.position);
        let mut lines = Lines::new(content, self.reader.mapping().max_event_bytes);
        let read = self.read_lines(&mut lines, &mut reading);
        let complete = match read {
            Ok(Ok(complete)) => complete,
            Ok(Err(Stopped)) => return Ok(Err(Stopped)),
            // The lines before the place that cannot be read are landed.
            Err(_) => false,
        };
        if !complete && read.is_ok() {
            self.report.files_waiting += 1;
        }
        if reading.position == 0 {
            // Not one whole line: there is nothing to know the file by.
            self.batch.forget_last();
        } else {
            self.batch.mark(reading.position, reading.mark(complete));
        }
        if self.batch.parts() >= BATCH_PARTS && self.flush()?.is_err() {
            return Ok(Err(Stopped));
        }
        read.map(|_| Ok(()))
    }

    /// Reads lines until the end, or until one that has no end yet; whether it was the end.
    fn read_lines(
        &mut self,
        lines: &mut Lines<Box<dyn Read + Send>>,
        open: &mut Open<'_>,
    ) -> Result<Result<bool, Stopped>> {
        let failed = |source| Error::Read { path: open.file.path.display().to_string(), source };
        loop {
            let position = open.position;
            let next = match lines.next_line().map_err(failed)? {
                Line::Whole(b"") if position == open.from && open.continues_line => {
                    // The newline of a line that had landed without it, when the end of input was declared.
                    open.digest.update(b"\n");
                    position + 1
                }
                Line::Whole(line) => {
                    let next = position + line.len() as i64 + 1;
                    open.digest.update(line);
                    open.digest.update(b"\n");
                    self.batch.push(&mut self.reader, &Incoming::of(line), position, next, None);
                    next
                }
                Line::Unterminated(line) if self.source.end_of_input => {
                    let next = position + line.len() as i64;
                    open.digest.update(line);
                    self.batch.push(&mut self.reader, &Incoming::of(line), position, next, None);
                    next
                }
                Line::Unterminated(_) => return Ok(Ok(false)),
                Line::End => return Ok(Ok(true)),
                Line::Piece(piece) => {
                    let first = piece.to_vec();
                    match self.oversized(lines, &mut open.digest, &open.partition, position, first)? {
                        Some(next) => next,
                        None => return Ok(Ok(false)),
                    }
                }
                Line::LastPiece(piece) => {
                    let piece = piece.to_vec();
                    let (next, length) = (position + piece.len() as i64 + 1, piece.len() as u64);
                    let sha256 = hex::encode(sha2_of(&piece));
                    let (SourcePartition { source, topic, incarnation, .. }, table) =
                        (&open.partition, self.stream.table());
                    let path = table.path().oversized(source, topic, *incarnation, 0, position);
                    let content = bytes::Bytes::from(piece);
                    self.runtime.block_on(table.store().write(&path, content.clone()))?;
                    open.digest.update(&content);
                    open.digest.update(b"\n");
                    self.push_oversized(path.as_ref(), length, &sha256, position, next)?;
                    next
                }
            };
            self.progress.bytes.fetch_add((next - position) as u64, Ordering::Relaxed);
            self.progress.events.fetch_add(1, Ordering::Relaxed);
            open.position = next;
            if self.batch.is_full() {
                self.batch.mark(next, open.mark(false));
                if self.flush()?.is_err() {
                    return Ok(Err(Stopped));
                }
                self.batch.begin(open.partition.clone(), next);
            }
        }
    }

    /// Streams a line that is too long for a row to an object beside the table. `None`: it has no end yet.
    fn oversized(
        &mut self,
        lines: &mut Lines<Box<dyn Read + Send>>,
        digest: &mut Digest,
        partition: &SourcePartition,
        position: i64,
        first: Vec<u8>,
    ) -> Result<Option<i64>> {
        use sha2::Digest as _;
        let path = self.stream.table().path().oversized(
            &partition.source,
            &partition.topic,
            partition.incarnation,
            0,
            position,
        );
        let failed =
            |source| Error::Lake(starmere_lake::Error::Store { action: "write", path: path.to_string(), source });
        let store = self.stream.table().store().objects().clone();
        let mut upload = self.runtime.block_on(store.put_multipart(&path)).map_err(failed)?;
        let mut sha256 = sha2::Sha256::new();
        let mut ahead = digest.clone();
        let (mut length, mut piece) = (0_u64, first);
        let mut part = Vec::with_capacity(PART_BYTES);
        loop {
            sha256.update(&piece);
            ahead.update(&piece);
            length += piece.len() as u64;
            part.extend_from_slice(&piece);
            if part.len() >= PART_BYTES {
                let full = std::mem::replace(&mut part, Vec::with_capacity(PART_BYTES));
                self.runtime.block_on(upload.put_part(full.into())).map_err(failed)?;
            }
            let read = lines.next_line().map_err(|source| Error::Read { path: partition.topic.clone(), source })?;
            let (more, last) = match read {
                Line::Piece(more) => (more.to_vec(), false),
                Line::LastPiece(more) => (more.to_vec(), true),
                Line::Unterminated(more) if self.source.end_of_input => (more.to_vec(), true),
                Line::End if self.source.end_of_input => (Vec::new(), true),
                Line::Whole(_) | Line::Unterminated(_) | Line::End => {
                    let _ = self.runtime.block_on(upload.abort());
                    return Ok(None);
                }
            };
            piece = more;
            if last {
                sha256.update(&piece);
                ahead.update(&piece);
                ahead.update(b"\n");
                length += piece.len() as u64;
                part.extend_from_slice(&piece);
                self.runtime.block_on(upload.put_part(part.into())).map_err(failed)?;
                self.runtime.block_on(upload.complete()).map_err(failed)?;
                *digest = ahead;
                let next = position + length as i64 + 1;
                self.push_oversized(path.as_ref(), length, &hex::encode(sha256.finalize()), position, next)?;
                return Ok(Some(next));
            }
        }
    }

    fn push_oversized(&mut self, path: &str, length: u64, sha256: &str, position: i64, next: i64) -> Result<()> {
        let kept = Oversized { path: path.to_owned(), bytes: length, sha256: sha256.to_owned() };
        let limit = self.reader.mapping().max_event_bytes;
        self.batch.push_oversized(&Incoming::default(), &kept, limit, position, next)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<Result<(), Stopped>> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(Ok(()));
        }
        let rows = batch.finish(chrono::Utc::now().timestamp_micros())?;
        Ok(self.sender.blocking_send(rows).map_err(|_| Stopped))
    }
}

/// Parts of an upload: S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

fn sha2_of(bytes: &[u8]) -> impl AsRef<[u8]> {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes)
}

fn mark(file: &Found, digest: &Digest, complete: bool) -> Option<serde_json::Value> {
    let mark = Mark {
        path: file.name.clone(),
        length: digest.length(),
        digest: digest.digest(),
        head: digest.head(),
        seen: complete.then(|| file.seen.clone()),
    };
    serde_json::to_value(mark).ok()
}
