//! The rows of an answer, between the engine that makes them and the reader that takes them.
//!
//! A slow reader must not hold an engine. So rows are kept in memory, beyond that on disk, and only when the disk's
//! share is used up does the engine wait, without its slot:
//!
//! ```text
//!   engine ──► memory, up to a share ──► disk, up to a share ──► two batches ──► waits until half has been read
//!                  └──────────────────────────┴──────────────────────┴──► reader, in order
//! ```
//!
//! All answers together have a [`Budget`], and each may take a quarter of it; two batches, which are small
//! (`pieces`), it may have always. On disk the rows are in segments: files that have no name, so a
//! crash leaves nothing behind, and that go as soon as all of a segment has been read.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Cursor, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use starmere_lake::meter;
use tokio::{sync::Notify, time::Instant};

use super::{
    admission::{Admission, Wants},
    lanes::Slot,
    limits::{Limits, SHARE},
};
use crate::error::QueryError;

/// A segment of this size is left for a new one.
const SEGMENT_BYTES: u64 = 32 << 20;

/// So many batches an answer may have, whatever the budget says.
const ALWAYS: usize = 2;

/// What unread answers may take together.
#[derive(Debug)]
pub(super) struct Budget {
    memory: Pool,
    disk: Pool,
    folder: PathBuf,
}

/// Bytes in use, and the most there may be.
#[derive(Debug)]
struct Pool {
    used: AtomicU64,
    most: u64,
}

impl Pool {
    fn try_take(&self, bytes: u64) -> bool {
        let take = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.most);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        let pool = |most| Pool { used: AtomicU64::new(0), most };
        Self {
            memory: pool(limits.result_memory as u64),
            disk: pool(limits.result_disk),
            folder: limits.folder.clone(),
        }
    }

    /// Bytes of unread answers, in memory and on disk.
    #[cfg(test)]
    pub(super) fn used(&self) -> (u64, u64) {
        (self.memory.used.load(Ordering::Acquire), self.disk.used.load(Ordering::Acquire))
    }
}

/// Rows of one answer that nobody has read yet.
#[derive(Debug)]
pub(super) struct Spool {
    budget: Arc<Budget>,
    state: Mutex<State>,
    /// There is something to read.
    filled: Notify,
    /// Something has been read.
    drained: Notify,
}

#[derive(Debug)]
struct State {
    items: VecDeque<Item>,
    memory: u64,
    disk: u64,
    segment: Option<Arc<Segment>>,
    outcome: Option<Result<(), QueryError>>,
    read_at: Instant,
}

#[derive(Debug)]
enum Item {
    Memory(RecordBatch, u64),
    Disk { segment: Arc<Segment>, at: u64, bytes: u64 },
}

/// A file without a name.
#[derive(Debug)]
struct Segment {
    file: Mutex<File>,
    end: AtomicU64,
    budget: Arc<Budget>,
}

/// What came of a batch that was to be kept.
#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Yes,
    /// There is no room.
    Full,
    /// Nobody wants it.
    Ended,
}

impl Spool {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        let state =
            State { items: VecDeque::new(), memory: 0, disk: 0, segment: None, outcome: None, read_at: Instant::now() };
        Self { budget: Arc::clone(budget), state: Mutex::new(state), filled: Notify::new(), drained: Notify::new() }
    }

    /// Keeps a batch; where there is no room, leaves the slot and waits for the reader. False when nobody wants more.
    pub(super) async fn push(
        &self,
        batch: RecordBatch,
        (slot, admission, user): (&Slot, &Arc<Admission>, &str),
    ) -> Result<bool, QueryError> {
        loop {
            match self.keep(&batch)? {
                Kept::Yes => return Ok(true),
                Kept::Ended => return Ok(false),
                Kept::Full => {}
            }
            slot.leave();
            // Something has to be read first, whatever this answer has: others may take all the room.
            loop {
                self.drained.notified().await;
                if !self.is_more_than_half_full() {
                    break;
                }
            }
            slot.enter(admission.place(user, Wants::Again).await?);
        }
    }

    fn keep(&self, batch: &RecordBatch) -> Result<Kept, QueryError> {
        if let Some(kept) = self.keep_in_memory(batch, false) {
            return Ok(kept);
        }
        match self.keep_on_disk(batch) {
            Ok(Kept::Full) => Ok(self.keep_in_memory(batch, true).unwrap_or(Kept::Full)),
            Ok(kept) => Ok(kept),
            Err(error) => self.keep_in_memory(batch, true).ok_or(error),
        }
    }

    /// None where memory has no room; beyond its room few batches are kept, if `always`.
    fn keep_in_memory(&self, batch: &RecordBatch, always: bool) -> Option<Kept> {
        let bytes = batch.get_array_memory_size() as u64;
        let mut state = self.state();
        if state.outcome.is_some() {
            return Some(Kept::Ended);
        }
        let fits = state.memory + bytes <= self.budget.memory.most / SHARE && self.budget.memory.try_take(bytes);
        if !fits {
            if !always || state.items.len() >= ALWAYS {
                return None;
            }
            self.budget.memory.take(bytes);
        }
        state.memory += bytes;
        // Its reader gives it back.
        meter::hand_over(bytes);
        state.items.push_back(Item::Memory(batch.clone(), bytes));
        drop(state);
        self.filled.notify_one();
        Some(Kept::Yes)
    }

    /// Written without the lock: the reader does not wait for the disk.
    fn keep_on_disk(&self, batch: &RecordBatch) -> Result<Kept, QueryError> {
        let written = encoded(batch)
            .map_err(|error| QueryError::internal("could not write rows of an answer for later").caused_by(error))?;
        let bytes = written.len() as u64;
        if self.state().disk + bytes > self.budget.disk.most / SHARE || !self.budget.disk.try_take(bytes) {
            return Ok(Kept::Full);
        }
        // From here on the segment answers for what was taken of the budget.
        let segment = self.state().segment.take().filter(|segment| segment.size() < SEGMENT_BYTES);
        let segment = match segment.map_or_else(|| Segment::new(&self.budget).map(Arc::new), Ok) {
            Ok(segment) => segment,
            Err(error) => {
                self.budget.disk.give(bytes);
                return Err(no_disk(error));
            }
        };
        let at = segment.append(&written).map_err(no_disk)?;
        let mut state = self.state();
        if state.outcome.is_some() {
            return Ok(Kept::Ended);
        }
        state.disk += bytes;
        state.items.push_back(Item::Disk { segment: Arc::clone(&segment), at, bytes });
        state.segment = Some(segment);
        drop(state);
        self.filled.notify_one();
        Ok(Kept::Yes)
    }

    fn is_more_than_half_full(&self) -> bool {
        let state = self.state();
        let (memory, disk) = (self.budget.memory.most / SHARE, self.budget.disk.most / SHARE);
        let is_full = state.memory > memory / 2 || state.disk > disk / 2;
        state.outcome.is_none() && state.items.len() >= ALWAYS && is_full
    }

    /// No more rows come, for this reason; the reader gets those that there are first.
    pub(super) fn finish(&self, outcome: Result<(), QueryError>) {
        self.state().outcome.get_or_insert(outcome);
        self.filled.notify_one();
        self.drained.notify_one();
    }

    /// The answer was stopped: the reader is told at once, and what it has not read is gone.
    pub(super) fn fail(&self, error: QueryError) {
        let mut state = self.state();
        state.outcome = Some(Err(error));
        state.segment = None;
        let (memory, items) = (std::mem::take(&mut state.memory), std::mem::take(&mut state.items));
        state.disk = 0;
        drop(state);
        self.budget.memory.give(memory);
        drop(items);
        self.filled.notify_one();
        self.drained.notify_one();
    }

    /// Bytes of memory that the rows take.
    pub(super) fn in_memory(&self) -> u64 {
        self.state().memory
    }

    /// When the reader took something, or the answer began.
    pub(super) fn read_at(&self) -> Instant {
        self.state().read_at
    }

    /// The next rows, in order. None at the end, and after an error.
    pub(super) async fn next(&self) -> Option<Result<RecordBatch, QueryError>> {
        loop {
            let filled = self.filled.notified();
            let item = {
                let mut state = self.state();
                match state.items.pop_front() {
                    Some(item) => {
                        state.read_at = Instant::now();
                        match &item {
                            Item::Memory(_, bytes) => state.memory -= bytes,
                            Item::Disk { bytes, .. } => state.disk -= bytes,
                        }
                        Some(item)
                    }
                    None => match state.outcome.clone() {
                        None => None,
                        Some(outcome) => {
                            // It is told once.
                            state.outcome = Some(Ok(()));
                            return outcome.err().map(Err);
                        }
                    },
                }
            };
            match item {
                None => filled.await,
                Some(Item::Memory(batch, bytes)) => {
                    self.budget.memory.give(bytes);
                    self.drained.notify_one();
                    return Some(Ok(batch));
                }
                Some(Item::Disk { segment, at, bytes }) => {
                    self.drained.notify_one();
                    return Some(read_again(segment, at, bytes).await);
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let memory = self.state().memory;
        self.budget.memory.give(memory);
    }
}

impl Segment {
    fn new(budget: &Arc<Budget>) -> std::io::Result<Self> {
        let file = tempfile::tempfile_in(&budget.folder)?;
        Ok(Self { file: Mutex::new(file), end: AtomicU64::new(0), budget: Arc::clone(budget) })
    }

    fn size(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Where it was put. What was written counts against the budget until the segment goes, also if this fails.
    fn append(&self, bytes: &[u8]) -> std::io::Result<u64> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.end.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        Ok(at)
    }

    fn read(&self, at: u64, bytes: u64) -> std::io::Result<Vec<u8>> {
        let mut read = vec![0; usize::try_from(bytes).map_err(std::io::Error::other)?];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut read)?;
        Ok(read)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.budget.disk.give(self.size());
    }
}

/// Says what went wrong, but not in which folder of the machine.
fn no_disk(error: std::io::Error) -> QueryError {
    tracing::warn!(%error, "rows of an answer could not be kept on disk");
    QueryError::unavailable("could not keep rows of an answer on disk until they are read")
        .caused_by(std::io::Error::from(error.kind()))
        .with_hint("read the answer sooner, or make room in the folder for temporary files")
}

async fn read_again(segment: Arc<Segment>, at: u64, bytes: u64) -> Result<RecordBatch, QueryError> {
    let read = move || decoded(segment.read(at, bytes)?);
    let read = tokio::task::spawn_blocking(read).await;
    let lost = "could not read rows of an answer that were kept on disk";
    match read {
        Ok(batch) => batch.map_err(|error| QueryError::unavailable(lost).caused_by(error)),
        Err(error) => Err(QueryError::internal(lost).caused_by(error)),
    }
}

fn encoded(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.into_inner()
}

fn decoded(bytes: Vec<u8>) -> Result<RecordBatch, ArrowError> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    reader.next().unwrap_or_else(|| Err(ArrowError::IpcError("a batch is missing".to_owned())))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use futures::FutureExt;

    use super::*;

    fn batch(number: i64) -> RecordBatch {
        let values = Int64Array::from_iter_values(number * 1000..(number + 1) * 1000);
        RecordBatch::try_from_iter([("n", Arc::new(values) as _)]).unwrap()
    }

    fn first(batch: &RecordBatch) -> i64 {
        batch.column(0).as_primitive::<Int64Type>().value(0) / 1000
    }

    /// A spool, and the budget behind it.
    fn spool(memory: usize, disk: u64) -> (Spool, Arc<Budget>) {
        let limits = Limits { result_memory: memory, result_disk: disk, ..Limits::default() };
        let budget = Arc::new(Budget::new(&limits));
        (Spool::new(&budget), budget)
    }

    #[tokio::test]
    async fn rows_come_back_in_order_from_memory_and_disk() {
        // Room for three in memory.
        let (spool, budget) = spool(4 * 30_000, 4 << 20);
        for number in 0..20 {
            assert_eq!(spool.keep(&batch(number)).unwrap(), Kept::Yes);
        }
        let (memory, disk) = budget.used();
        assert!((16_000..=30_000).contains(&memory), "{memory}");
        assert!(disk > 100_000, "{disk}");
        spool.finish(Ok(()));
        for number in 0..20 {
            let read = spool.next().await.unwrap().unwrap();
            assert_eq!((first(&read), read.num_rows()), (number, 1000));
            assert_eq!(read.schema(), batch(0).schema());
        }
        assert!(spool.next().await.is_none());
        drop(spool);
        assert_eq!(budget.used(), (0, 0));
    }

    #[tokio::test]
    async fn without_room_the_slot_is_left_until_half_is_read() {
        let (spool, budget) = spool(0, 0);
        let admission = Arc::new(Admission::new(&Limits { running: 1, small: 0, ..Limits::default() }));
        let place = admission.place("ana", Wants::General).await.unwrap();
        let slot = Slot::with(place);
        let at = || (&slot, &admission, "ana");
        for number in 0..2 {
            assert!(spool.push(batch(number), at()).await.unwrap());
        }
        let mut third = Box::pin(spool.push(batch(2), at()));
        assert!(third.as_mut().now_or_never().is_none());
        let other = admission.place("ben", Wants::General).await.unwrap();
        assert_eq!(first(&spool.next().await.unwrap().unwrap()), 0);
        assert!(third.as_mut().now_or_never().is_none(), "the slot is ben's");
        drop(other);
        assert!(third.await.unwrap());
        assert_eq!(first(&spool.next().await.unwrap().unwrap()), 1);
        assert_eq!(first(&spool.next().await.unwrap().unwrap()), 2);
        assert_eq!(budget.used(), (0, 0));
    }

    /// It does not try again and again, and keeps two batches beyond the room that there is.
    #[tokio::test]
    async fn where_others_take_all_the_room_the_reader_is_waited_for() {
        let (others, budget) = spool(40_000, 40_000);
        let all: Vec<Spool> = (0..4).map(|_| Spool::new(&budget)).collect();
        for spool in all.iter().chain([&others]) {
            while spool.keep(&batch(0)).unwrap() == Kept::Yes {}
        }
        let answer = Spool::new(&budget);
        let admission = Arc::new(Admission::new(&Limits { running: 1, small: 0, ..Limits::default() }));
        let slot = Slot::with(admission.place("ana", Wants::General).await.unwrap());
        let at = || (&slot, &admission, "ana");
        for number in 0..2 {
            assert!(answer.push(batch(number), at()).await.unwrap());
        }
        let mut third = Box::pin(answer.push(batch(2), at()));
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(admission.taken(), (0, 0), "the slot is left");
        assert_eq!(first(&answer.next().await.unwrap().unwrap()), 0);
        assert!(third.await.unwrap());
        for number in 1..3 {
            assert_eq!(first(&answer.next().await.unwrap().unwrap()), number);
        }
        drop((answer, all, others));
        assert_eq!(budget.used(), (0, 0));
    }

    #[tokio::test]
    async fn a_stop_is_told_at_once_and_an_error_after_the_rows() {
        let (stopped, budget) = spool(0, 4 << 20);
        for number in 0..5 {
            assert_eq!(stopped.keep(&batch(number)).unwrap(), Kept::Yes);
        }
        stopped.fail(QueryError::invalid("stopped"));
        assert_eq!(budget.used(), (0, 0), "what is unread is gone");
        assert_eq!(stopped.keep(&batch(5)).unwrap(), Kept::Ended);
        assert_eq!(stopped.next().await.unwrap().unwrap_err().to_string(), "stopped");
        assert!(stopped.next().await.is_none());

        let (failed, _) = spool(0, 4 << 20);
        assert_eq!(failed.keep(&batch(0)).unwrap(), Kept::Yes);
        failed.finish(Err(QueryError::invalid("division by zero")));
        assert!(failed.next().await.unwrap().is_ok());
        assert!(failed.next().await.unwrap().is_err());
        assert!(failed.next().await.is_none());
    }
}
