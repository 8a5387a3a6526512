//! The new events of a stream, staged for a fact once a build: for the dimensions that they mention, and for the fact.
//!
//! ```text
//! events ─► staged rows ─┬► mentions, of every dimension that accepts the fact's
//!                        └► kept: a few in memory, more in a file without a name ─► keyed by the fact, later
//! ```
//!
//! What could not be kept is staged again, so nothing depends on it. All facts of a build share a budget of memory and one of
//! the disk; the file goes with the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use futures::{StreamExt, TryStreamExt};

use super::{Fact, Stage, Staged};
use crate::define::ModelName;
use crate::dimension::{Mentions, Target};
use crate::events::EventChanges;
use crate::{Error, Result, rejects};

/// Files of the lake that are staged side by side.
pub(crate) const FILES_SIDE_BY_SIDE: usize = 2;
/// So few rows of new events are all staged before they are keyed.
pub(super) const STAGED_FIRST: usize = 500_000;

/// Rows of the events of a file of the lake.
#[derive(Debug, Default)]
pub(super) struct StagedFile {
    pub(super) rows: Vec<Staged>,
    pub(super) rejects: Vec<RecordBatch>,
}

impl StagedFile {
    pub(super) fn rows(&self) -> usize {
        self.rows.iter().map(|staged| staged.rows).sum()
    }

    /// What its rows take, about.
    fn bytes(&self) -> u64 {
        let of = |staged: &Staged| {
            let columns: usize = staged.columns.iter().map(|column| column.get_array_memory_size()).sum();
            columns + staged.durable.len() * staged.rows * size_of::<i64>()
        };
        self.rows.iter().map(of).sum::<usize>() as u64
    }
}

/// Stages the new events of one stream for a fact.
#[derive(Debug)]
pub(crate) struct Staging {
    fact: Arc<Fact>,
    stream: String,
    changes: Arc<EventChanges>,
    stages: Arc<Vec<Stage>>,
}

impl Staging {
    pub(crate) fn new(fact: &Arc<Fact>, stream: &str, changes: Arc<EventChanges>) -> Result<Self> {
        let stages = Arc::new(Stage::of(fact, stream)?);
        Ok(Self { fact: fact.clone(), stream: stream.to_owned(), changes, stages })
    }

    pub(super) fn changes(&self) -> &EventChanges {
        &self.changes
    }

    /// The rows of the events of a file of the lake.
    pub(super) async fn file(&self, file: usize) -> Result<StagedFile> {
        let (changes, stages, stream) = (self.changes.clone(), self.stages.clone(), self.stream.clone());
        // Reading takes the processor, too.
        let task = tokio::spawn(async move {
            let (batch, counts) = changes.read(file).await?;
            blocking(move || staged(&stages, &stream, &batch, &counts)).await
        });
        task.await.map_err(|error| Error::Task(error.to_string()))?
    }

    /// Whom all of the events mention, staged so many files side by side. Their rows are kept as far as there is room.
    pub(crate) async fn mentioned(&self, room: Option<&Arc<Room>>, at_once: usize) -> Result<Mentioned> {
        let kept = Mutex::new(Kept { room: room.cloned(), ..Kept::default() });
        let mentioned = Arc::new(Mentioned { by_dimension: Mutex::default(), kept });
        let mut counted = futures::stream::iter(0..self.changes.len())
            .map(|file| {
                let (mentioned, fact) = (mentioned.clone(), self.fact.clone());
                async move {
                    let mut staged = self.file(file).await?;
                    blocking(move || {
                        mentioned.count(&fact, &mut staged.rows, 1)?;
                        mentioned.keep(file, staged);
                        Ok(())
                    })
                    .await
                }
            })
            .buffer_unordered(at_once);
        while counted.try_next().await?.is_some() {}
        for file in 0..self.changes.superseded_files() {
            let (batch, rows) = self.changes.superseded(file).await?;
            let (stages, stream) = (self.stages.clone(), self.stream.clone());
            let (mentioned, fact) = (mentioned.clone(), self.fact.clone());
            blocking(move || {
                let mut staged = staged(&stages, &stream, &batch, &rows)?;
                mentioned.count(&fact, &mut staged.rows, -1)
            })
            .await?;
        }
        drop(counted);
        Arc::into_inner(mentioned).ok_or_else(|| Error::Task("rows are still being counted".to_owned()))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Task(error.to_string()))?
}

fn staged(stages: &[Stage], stream: &str, batch: &RecordBatch, counts: &BooleanArray) -> Result<StagedFile> {
    let mut all = StagedFile::default();
    for stage in stages {
        let staged = stage.stage(batch, counts)?;
        if !staged.rejects.is_empty() {
            all.rejects.push(rejects::rows(stream, batch, &staged.rejects)?);
        }
        all.rows.push(staged);
    }
    Ok(all)
}

/// Room for rows that wait for their facts, in bytes.
#[derive(Debug)]
pub(crate) struct Room {
    memory: AtomicU64,
    disk: AtomicU64,
}

impl Room {
    pub(crate) fn new(memory: u64, disk: u64) -> Self {
        Self { memory: memory.into(), disk: disk.into() }
    }

    /// Takes so much of it, if there is as much.
    fn take(of: &AtomicU64, bytes: u64) -> bool {
        of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// Whom the new events of a stream mention, and their staged rows.
#[derive(Debug, Default)]
pub(crate) struct Mentioned {
    /// None: its dimension has taken them.
    by_dimension: Mutex<BTreeMap<ModelName, Option<Mentions>>>,
    kept: Mutex<Kept>,
}

/// Rows that wait for their fact.
#[derive(Debug, Default)]
struct Kept {
    /// None where nobody will take them.
    room: Option<Arc<Room>>,
    files: BTreeMap<usize, KeptFile>,
    spill: Option<Spill>,
    /// Writing the file has failed.
    is_broken: bool,
}

#[derive(Debug)]
enum KeptFile {
    InMemory { staged: StagedFile, bytes: u64 },
    Spilled { rows: Vec<SpilledRows>, rejects: Vec<RecordBatch>, bytes: u64 },
}

/// A file without a name, and where it ends.
#[derive(Debug)]
struct Spill {
    file: File,
    end: u64,
}

/// Where rows of one stage are in the file, and how many of their columns are no durable keys.
#[derive(Debug)]
struct SpilledRows {
    bytes: Range<u64>,
    columns: usize,
}

impl Mentioned {
    /// The mentions of a dimension, which are kept no longer.
    ///
    /// # Errors
    ///
    /// If somebody has taken them before: to say that there are none would lose them.
    pub(crate) fn take(&self, dimension: &ModelName) -> Result<Mentions> {
        let mut by_dimension = self.by_dimension.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mentions) = by_dimension.get_mut(dimension) else { return Ok(Mentions::default()) };
        mentions
            .take()
            .ok_or_else(|| Error::Task(format!("the mentions of `{dimension}` are taken twice in one build")))
    }

    /// Counts the mentions of rows; their natural keys are not needed any more.
    fn count(&self, fact: &Fact, rows: &mut [Staged], sign: i64) -> Result<()> {
        let mut by_dimension = self.by_dimension.lock().unwrap_or_else(PoisonError::into_inner);
        for staged in rows {
            let keys = staged.durable.iter().zip(std::mem::take(&mut staged.natural));
            for (role, (durable, natural)) in fact.roles.iter().zip(keys) {
                if let Target::Dimension { name, accepts: true, .. } = &role.target {
                    let mentions = by_dimension.entry(name.clone()).or_default().get_or_insert_default();
                    mentions.add(durable, &natural, sign).map_err(Error::columns("mentions"))?;
                }
            }
        }
        Ok(())
    }

    fn keep(&self, file: usize, staged: StagedFile) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(room) = kept.room.clone() else { return };
        let bytes = staged.bytes();
        if Room::take(&room.memory, bytes) {
            kept.files.insert(file, KeptFile::InMemory { staged, bytes });
            return;
        }
        if kept.is_broken || !Room::take(&room.disk, bytes) {
            return;
        }
        match kept.spill(&staged.rows) {
            Ok(rows) => _ = kept.files.insert(file, KeptFile::Spilled { rows, rejects: staged.rejects, bytes }),
            Err(error) => {
                tracing::warn!(%error, "rows could not be kept in the folder for temporary files; events are read twice");
                // Whoever else wants the disk shall have it.
                kept.is_broken = true;
                kept.spill = None;
                kept.files.retain(|_, file| matches!(file, KeptFile::InMemory { .. }));
            }
        }
    }

    /// The rows of a file, where they were kept; they are not any more.
    pub(super) fn take_rows(&self, file: usize) -> Option<StagedFile> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = match kept.files.remove(&file)? {
            KeptFile::InMemory { staged, bytes } => {
                kept.room.iter().for_each(|room| _ = room.memory.fetch_add(bytes, Ordering::Relaxed));
                Some(staged)
            }
            KeptFile::Spilled { rows, rejects, bytes } => {
                kept.room.iter().for_each(|room| _ = room.disk.fetch_add(bytes, Ordering::Relaxed));
                let rows = rows.into_iter().map(|spilled| kept.unspill(spilled)).collect::<io::Result<Vec<_>>>();
                rows.map(|rows| StagedFile { rows, rejects }).ok()
            }
        };
        if kept.files.is_empty() {
            kept.spill = None;
        }
        taken
    }
}

impl Kept {
    fn spill(&mut self, rows: &[Staged]) -> io::Result<Vec<SpilledRows>> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill { file: tempfile::tempfile()?, end: 0 }),
        };
        let mut spilled = Vec::with_capacity(rows.len());
        for staged in rows {
            let durable = staged.durable.iter().map(|keys| Arc::new(keys.clone()) as ArrayRef);
            let columns = staged.columns.iter().cloned().chain(durable).enumerate();
            let columns = columns.map(|(place, column)| (place.to_string(), column, true));
            let batch = RecordBatch::try_from_iter_with_nullable(columns).map_err(io::Error::other)?;
            let mut bytes = Vec::with_capacity(batch.get_array_memory_size());
            let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).map_err(io::Error::other)?;
            writer.write(&batch).and_then(|()| writer.finish()).map_err(io::Error::other)?;
            drop(writer);
            let start = spill.end;
            spill.file.seek(SeekFrom::Start(start))?;
            spill.file.write_all(&bytes)?;
            spill.end += bytes.len() as u64;
            spilled.push(SpilledRows { bytes: start..spill.end, columns: staged.columns.len() });
        }
        Ok(spilled)
    }

    fn unspill(&mut self, SpilledRows { bytes, columns }: SpilledRows) -> io::Result<Staged> {
        let spill = self.spill.as_mut().ok_or_else(|| io::Error::other("nothing was spilled"))?;
        let mut read = vec![0; (bytes.end - bytes.start) as usize];
        spill.file.seek(SeekFrom::Start(bytes.start))?;
        spill.file.read_exact(&mut read)?;
        let mut buffer = Buffer::from_vec(read);
        let batch = StreamDecoder::new().decode(&mut buffer).map_err(io::Error::other)?;
        let batch = batch.ok_or_else(|| io::Error::other("no rows were spilled"))?;
        let (own, durable) = batch.columns().split_at(columns);
        Ok(Staged {
            columns: own.to_vec(),
            durable: durable.iter().map(|keys| keys.as_primitive().clone()).collect(),
            natural: Vec::new(),
            rows: batch.num_rows(),
            rejects: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn staged(first: i64, rows: i64) -> StagedFile {
        let keys = Int64Array::from_iter_values(first..first + rows);
        let texts = (first..first + rows).map(|row| (row % 3 > 0).then(|| format!("row {row}")));
        let columns: Vec<ArrayRef> = vec![Arc::new(texts.collect::<StringArray>())];
        let staged = Staged { columns, durable: vec![keys], natural: vec![], rows: rows as usize, rejects: vec![] };
        StagedFile { rows: vec![staged], rejects: vec![] }
    }

    fn mentioned(memory: u64, disk: u64) -> Mentioned {
        let kept = Mutex::new(Kept { room: Some(Arc::new(Room::new(memory, disk))), ..Kept::default() });
        Mentioned { by_dimension: Mutex::default(), kept }
    }

    #[test]
    fn rows_are_kept_as_they_are_in_memory_and_in_the_file() {
        let room = staged(0, 1_000).bytes();
        let mentioned = mentioned(room, 100 * room);
        for (file, first, rows) in [(2, 0, 10), (0, 10, 1_000), (1, 7, 0), (5, 1, 2_000)] {
            mentioned.keep(file, staged(first, rows));
        }
        assert!(mentioned.kept.lock().unwrap().spill.is_some(), "not all fit into memory");
        for (file, first, rows) in [(0, 10, 1_000), (1, 7, 0), (5, 1, 2_000), (2, 0, 10)] {
            let (found, expected) = (mentioned.take_rows(file).unwrap(), staged(first, rows));
            assert_eq!(found.rows[0].columns, expected.rows[0].columns, "file {file}");
            assert_eq!(found.rows[0].durable, expected.rows[0].durable, "file {file}");
            assert_eq!(found.rows(), rows as usize);
            assert!(mentioned.take_rows(file).is_none(), "file {file} is taken once");
        }
        assert!(mentioned.take_rows(3).is_none());
        let kept = mentioned.kept.lock().unwrap();
        assert_eq!(kept.room.as_ref().unwrap().memory.load(Ordering::Relaxed), room, "memory is given back");
        assert!(kept.spill.is_none(), "the file is gone");
    }

    #[test]
    fn mentions_are_taken_once() {
        let mentioned = Mentioned::default();
        let [customer, product] = ["customer", "product"].map(|name| ModelName::new("sales", name));
        mentioned.by_dimension.lock().unwrap().insert(customer.clone(), Some(Mentions::default()));
        assert!(mentioned.take(&customer).is_ok());
        assert!(mentioned.take(&customer).is_err(), "they are gone, which is not that there are none");
        assert!(mentioned.take(&product).is_ok() && mentioned.take(&product).is_ok(), "nobody mentions it");
    }

    #[test]
    fn what_there_is_no_room_for_is_not_kept() {
        let some = staged(0, 1_000);
        let mentioned = mentioned(0, some.bytes());
        mentioned.keep(0, some);
        mentioned.keep(1, staged(0, 1_000));
        assert!(mentioned.take_rows(0).is_some() && mentioned.take_rows(1).is_none());
        let nobody_takes = Mentioned::default();
        nobody_takes.keep(0, staged(0, 1));
        assert!(nobody_takes.take_rows(0).is_none());
    }
}
