//! Encodes a batch while it is gathered: a thread that writes one file.
//!
//! ```text
//! columns of a few MiB ─► chunk ─► (some may wait) ─► pages of the file ─► file, after the last chunk
//! ```
//!
//! So a batch takes the memory of some chunks and of the file, not of all its columns; chunks are small enough for the
//! allocator to use the same pages again; and while one batch is still being encoded, the next one is gathered and
//! encoded beside it. An encoder that is dropped drops its file.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use starmere_lake::delta::{EncodedFile, FileWriter};
use starmere_lake::events;

use crate::{Error, Result};

/// So many chunks may wait. Reading is quicker than encoding, so this is how far two batches overlap: with 12 chunks,
/// landing 1 GB of JSON took 2.9 s on two processors, with one 3.6 s.
const WAITING: usize = 12;

/// A file in the making.
#[derive(Debug)]
pub(super) struct Encoder {
    /// None is the end of the file.
    chunks: SyncSender<Option<Chunk>>,
    thread: JoinHandle<Result<Option<EncodedFile>>>,
    memory: Arc<Memory>,
}

/// Rows, and the memory that they take.
type Chunk = (RecordBatch, usize);

/// What an encoder takes.
#[derive(Debug, Default)]
struct Memory {
    /// Chunks that wait or are being encoded.
    chunks: AtomicUsize,
    /// The file so far.
    file: AtomicUsize,
}

impl Encoder {
    pub(super) fn new() -> Result<Self> {
        let (chunks, receiver) = sync_channel(WAITING);
        let memory = Arc::new(Memory::default());
        let thread = std::thread::Builder::new().name("encode".into()).spawn({
            let memory = memory.clone();
            move || write(&receiver, &memory)
        });
        let thread = thread.map_err(|error| Error::Task(error.to_string()))?;
        Ok(Self { chunks, thread, memory })
    }

    /// Bytes of memory that it takes now.
    pub(super) fn memory(&self) -> usize {
        self.memory.chunks.load(Ordering::Relaxed) + self.memory.file.load(Ordering::Relaxed)
    }

    /// Adds a chunk that takes so much memory; waits while too many do. What goes wrong is told at the end.
    pub(super) fn add(&self, chunk: RecordBatch, memory: usize) {
        self.memory.chunks.fetch_add(memory, Ordering::Relaxed);
        _ = self.chunks.send(Some((chunk, memory)));
    }

    /// Ends the file.
    pub(super) fn finish(self) -> Result<Option<EncodedFile>> {
        _ = self.chunks.send(None);
        self.thread.join().unwrap_or_else(|_| Err(Error::Task("encoding a batch of events panicked".into())))
    }
}

fn write(chunks: &Receiver<Option<Chunk>>, memory: &Memory) -> Result<Option<EncodedFile>> {
    let mut writer = FileWriter::new(events::file_schema().clone(), &events::file_options())?;
    loop {
        match chunks.recv() {
            Ok(Some((chunk, size))) => {
                writer.write(&chunk)?;
                memory.chunks.fetch_sub(size, Ordering::Relaxed);
                memory.file.store(writer.size(), Ordering::Relaxed);
            }
            Ok(None) => return Ok(Some(writer.finish()?)),
            // Nobody wants it any more.
            Err(_) => return Ok(None),
        }
    }
}
