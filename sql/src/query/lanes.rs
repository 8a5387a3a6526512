//! Threads for queries: each query has a lane, which is a runtime of its own.
//!
//! An operator that computes for long holds its thread, and no runtime can take it away. On threads of its own a query
//! holds up only itself: the system's scheduler divides processors among the threads of all lanes, and the runtime
//! that serves protocols never computes.
//!
//! ```text
//!   take ──► lane ──► query runs ──► seat is dropped ──► waits until nothing runs on it ──► idle, for the next query
//! ```
//!
//! A query that is told to stop may take a while to notice. Its slot is given back when its threads are free, not when
//! its reader was told: so there are never more busy threads than slots allow.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use starmere_lake::{meter::Meter, watch::Watch};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    admission::{Place, Room},
    registry::Engaged,
};
use crate::error::QueryError;

/// Statements are trees that the engine walks by recursion; what is too deep for this is refused before.
const STACK_BYTES: usize = 64 << 20;

/// Threads of a lane for calls that block: reads of files, mostly.
const BLOCKING_THREADS: usize = 16;

/// How often a lane is looked at until nothing runs on it: at first, and at most.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];

/// A runtime, and what its threads have taken of memory.
#[derive(Debug)]
struct Threads {
    runtime: Runtime,
    meter: Arc<Meter>,
}

/// The lanes that wait for a query.
#[derive(Debug)]
pub(super) struct Lanes {
    idle: Mutex<Vec<Threads>>,
    threads: usize,
    kept: usize,
}

impl Lanes {
    /// Keeps at most so many lanes for the next query.
    pub(super) fn new(kept: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { idle: Mutex::default(), threads, kept }
    }

    /// A lane that nothing runs on, for the query with this watch.
    pub(super) fn take(self: &Arc<Self>, watch: &Arc<Watch>) -> Result<Lane, QueryError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let threads = idle.map_or_else(|| self.start(), Ok)?;
        threads.meter.begin(watch);
        Ok(Lane { threads: Some(threads), lanes: Arc::clone(self) })
    }

    fn start(&self) -> Result<Threads, QueryError> {
        let meter = Arc::new(Meter::default());
        let counted = Arc::clone(&meter);
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.threads)
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(move || counted.count_this_thread())
            .build()
            .map_err(|error| QueryError::unavailable("could not start the threads of a query").caused_by(error))?;
        Ok(Threads { runtime, meter })
    }

    fn put(&self, threads: Threads) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.kept {
            idle.push(threads);
        } else {
            drop(idle);
            threads.runtime.shutdown_background();
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // A runtime that is just dropped waits for its threads, which is not allowed everywhere.
        for threads in self.idle.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            threads.runtime.shutdown_background();
        }
    }
}

/// Threads that belong to one query.
#[derive(Debug)]
pub(super) struct Lane {
    threads: Option<Threads>,
    lanes: Arc<Lanes>,
}

impl Lane {
    fn handle(&self) -> &Handle {
        self.threads().runtime.handle()
    }

    /// What its threads have taken of memory.
    pub(super) fn meter(&self) -> &Arc<Meter> {
        &self.threads().meter
    }

    fn threads(&self) -> &Threads {
        self.threads.as_ref().expect("a lane has its threads until it is dropped")
    }

    fn is_quiet(&self) -> bool {
        self.handle().metrics().num_alive_tasks() == 0
    }

    /// Waits until nothing runs here.
    async fn quiet(&self) {
        let [mut pause, most] = LOOKS;
        while !self.is_quiet() {
            sleep(pause).await;
            pause = (2 * pause).min(most);
        }
    }

    /// Ready for the next query.
    fn give_back(mut self) {
        if let Some(threads) = self.threads.take() {
            self.lanes.put(threads);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.runtime.shutdown_background();
        }
    }
}

/// A place that its query may leave while it waits for its reader.
#[derive(Debug)]
pub(super) struct Slot(Mutex<Option<Place>>);

impl Slot {
    pub(super) fn with(place: Place) -> Self {
        Self(Mutex::new(Some(place)))
    }

    pub(super) fn leave(&self) {
        let left = self.place().take();
        drop(left);
    }

    pub(super) fn enter(&self, place: Place) {
        let left = self.place().replace(place);
        drop(left);
    }

    pub(super) fn room(&self) -> Option<Room> {
        self.place().as_ref().map(Place::room)
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a query runs on: a slot and a lane. Dropped, both are given back once nothing runs on the lane.
#[derive(Debug)]
pub(super) struct Seat {
    taken: Option<(Lane, Engaged)>,
    slot: Arc<Slot>,
}

impl Seat {
    pub(super) fn new(lane: Lane, place: Place, engaged: Engaged) -> Self {
        Self { taken: Some((lane, engaged)), slot: Arc::new(Slot::with(place)) }
    }

    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Runs work on the lane; dropping the handle ends it when it next waits for something.
    pub(super) fn spawn<F>(&self, work: F) -> AbortOnDropHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (lane, _) = self.taken.as_ref().expect("a seat has its lane until it is dropped");
        AbortOnDropHandle::new(lane.handle().spawn(work))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((lane, engaged)) = self.taken.take() else { return };
        let slot = Arc::clone(&self.slot);
        if lane.is_quiet() {
            lane.give_back();
            slot.leave();
        } else if let Ok(protocols) = Handle::try_current() {
            protocols.spawn(async move {
                lane.quiet().await;
                lane.give_back();
                slot.leave();
                drop(engaged);
            });
        }
        // Outside of any runtime the process ends, or a test does: the lane is shut down.
    }
}
