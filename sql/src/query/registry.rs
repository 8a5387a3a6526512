//! Which queries run or wait now, and how to stop them. In memory only: a restart ends them all.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use chrono::{DateTime, Utc};
use starmere_lake::{
    meter::{self, Meter},
    watch::Watch,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::spool::Spool;
use crate::{
    access::Caller,
    error::{ErrorKind, QueryError},
};

/// A query that runs or waits for its slot.
#[derive(Clone, Debug)]
pub struct RunningQuery {
    /// To cancel it by.
    pub id: Uuid,
    /// The text as it was sent.
    pub sql: Arc<str>,
    /// Who asked.
    pub user: String,
    /// When it was asked.
    pub started_at: DateTime<Utc>,
    /// It was told to stop, and has not ended yet.
    pub is_stopping: bool,
}

/// A query that holds so many bytes at most is not what takes the memory of a process.
const LITTLE: u64 = 16 << 20;

#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    entries: Arc<Mutex<HashMap<Uuid, Entry>>>,
    /// Bytes that the process may have in use.
    resident: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    query: RunningQuery,
    stop: Arc<Stop>,
    /// Nobody reads it any more; it is listed for as long as it computes.
    is_left: bool,
}

/// How a query is told to stop: those that wait for it by a token, and what computes by its watch.
#[derive(Debug, Default)]
pub(super) struct Stop {
    token: CancellationToken,
    watch: Arc<Watch>,
    why: OnceLock<QueryError>,
    computes: AtomicBool,
    /// How often it holds threads: twice, while those of its plan are given back.
    engaged: AtomicUsize,
    /// What the threads that it holds have taken of memory.
    meters: Mutex<Vec<Arc<Meter>>>,
    /// What it gives, once it runs.
    answer: OnceLock<Weak<Spool>>,
}

impl Stop {
    fn within(resident: Option<u64>) -> Self {
        Self { watch: Arc::new(Watch::within(resident)), ..Self::default() }
    }

    /// Notes where the query's rows are until they are read.
    pub(super) fn answers(&self, answer: &Arc<Spool>) {
        let _once = self.answer.set(Arc::downgrade(answer));
    }

    /// Bytes of memory that the query's threads have taken, or its operators reserved, and that its unread rows take.
    pub(super) fn holds(&self) -> u64 {
        let unread = self.answer.get().and_then(Weak::upgrade).map_or(0, |answer| answer.in_memory());
        let taken = self.meters().iter().map(|meter| meter.held()).sum::<u64>();
        taken.max(self.watch.reserved() as u64).saturating_add(unread)
    }

    fn meters(&self) -> MutexGuard<'_, Vec<Arc<Meter>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the query computes: it does while it is planned and run, not while it waits or is read.
    pub(super) fn computes(&self, computes: bool) {
        self.computes.store(computes, Ordering::Relaxed);
    }

    /// Whether it has begun to compute, and its threads are not free.
    fn is_busy(&self) -> bool {
        self.computes.load(Ordering::Relaxed) && self.engaged.load(Ordering::Relaxed) > 0
    }

    /// Stops the query. Its reader is told the first reason that was given.
    pub(super) fn because(&self, why: QueryError) {
        let _later = self.why.set(why);
        self.watch.stop();
        self.token.cancel();
    }

    /// Waits until the query is told to stop, and gives the reason.
    pub(super) async fn told(&self) -> QueryError {
        self.token.cancelled().await;
        self.reason().unwrap_or_else(|| QueryError::internal("a query was stopped without a reason"))
    }

    /// Why the query was told to stop, if it was.
    pub(super) fn reason(&self) -> Option<QueryError> {
        self.why.get().cloned()
    }

    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }
}

fn cancelled(id: Uuid) -> QueryError {
    QueryError::new(ErrorKind::Cancelled, format!("query `{id}` was cancelled"))
}

impl Registry {
    /// Queries of a process that may have so many bytes in use.
    pub(super) fn within(resident: Option<u64>) -> Self {
        Self { resident, ..Self::default() }
    }

    /// Enters a query under the wanted id, or a new one where that is taken. It leaves when the guard drops.
    pub(super) fn enter(&self, wanted: Option<Uuid>, sql: &str, caller: &Caller) -> Registered {
        let mut entries = self.entries();
        let id = wanted.filter(|id| !entries.contains_key(id)).unwrap_or_else(Uuid::new_v4);
        let stop = Arc::new(Stop::within(self.resident));
        let (user, started_at) = (caller.user.clone(), Utc::now());
        let query = RunningQuery { id, sql: sql.into(), user, started_at, is_stopping: false };
        entries.insert(id, Entry { query, stop: Arc::clone(&stop), is_left: false });
        Registered { id, stop, registry: self.clone() }
    }

    pub(super) fn list(&self) -> Vec<RunningQuery> {
        let listed = |entry: &Entry| RunningQuery { is_stopping: entry.stop.reason().is_some(), ..entry.query.clone() };
        let mut queries: Vec<_> = self.entries().values().map(listed).collect();
        queries.sort_by_key(|query| (query.started_at, query.id));
        queries
    }

    pub(super) fn cancel(&self, id: Uuid) -> bool {
        let entries = self.entries();
        let entry = entries.get(&id);
        if let Some(entry) = entry {
            entry.stop.because(cancelled(id));
        }
        entry.is_some()
    }

    pub(super) fn cancel_all(&self) {
        for (id, entry) in self.entries().iter() {
            entry.stop.because(cancelled(*id));
        }
    }

    /// How many queries there are, and how many of this user.
    pub(super) fn count(&self, user: &str) -> (usize, usize) {
        let entries = self.entries();
        (entries.len(), entries.values().filter(|entry| entry.query.user == user).count())
    }

    /// How to stop the query that takes most memory, and that query: one that computes, or whose unread rows take much.
    /// Where no query holds a tenth of `in_use`, it is the one that computes and holds most, or began last; none, while
    /// one that was told to stop computes still: it will give back most. A query that holds little is never stopped,
    /// where what queries hold is counted.
    pub(super) fn largest(&self, in_use: u64) -> Option<(RunningQuery, Arc<Stop>)> {
        let much = (in_use / 10).max(1);
        let little = if meter::counts() { LITTLE } else { 0 };
        let entries = self.entries();
        let (stopped, goes_on): (Vec<_>, Vec<_>) = entries.values().partition(|entry| entry.stop.reason().is_some());
        let one_ends = stopped.iter().any(|entry| entry.stop.is_busy());
        let sized = goes_on.into_iter().map(|entry| (entry.stop.holds(), entry));
        let can_give =
            sized.filter(|(held, entry)| *held >= much || (*held >= little && entry.stop.is_busy() && !one_ends));
        let (_, largest) = can_give.max_by_key(|(held, entry)| (*held, entry.query.started_at))?;
        Some((largest.query.clone(), Arc::clone(&largest.stop)))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A query's place in the registry. Dropping it stops the query and takes it off the list, once it has ended.
#[derive(Debug)]
pub(super) struct Registered {
    id: Uuid,
    stop: Arc<Stop>,
    registry: Registry,
}

impl Registered {
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// How it is stopped.
    pub(super) fn stop(&self) -> &Arc<Stop> {
        &self.stop
    }

    /// The query gets threads, whose memory is counted there.
    pub(super) fn engage(&self, meter: Arc<Meter>) -> Engaged {
        self.stop.engaged.fetch_add(1, Ordering::Relaxed);
        self.stop.meters().push(Arc::clone(&meter));
        Engaged { id: self.id, stop: Arc::clone(&self.stop), meter, registry: self.registry.clone() }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.stop.because(cancelled(self.id));
        let mut entries = self.registry.entries();
        match entries.get_mut(&self.id) {
            Some(entry) if self.stop.is_busy() => entry.is_left = true,
            _ => _ = entries.remove(&self.id),
        }
    }
}

/// Held until threads of a query are free.
#[derive(Debug)]
pub(super) struct Engaged {
    id: Uuid,
    stop: Arc<Stop>,
    meter: Arc<Meter>,
    registry: Registry,
}

impl Drop for Engaged {
    fn drop(&mut self) {
        let mut entries = self.registry.entries();
        self.stop.engaged.fetch_sub(1, Ordering::Relaxed);
        self.stop.meters().retain(|meter| !Arc::ptr_eq(meter, &self.meter));
        if entries.get(&self.id).is_some_and(|entry| entry.is_left && !entry.stop.is_busy()) {
            entries.remove(&self.id);
        }
    }
}
