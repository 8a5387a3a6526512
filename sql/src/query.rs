//! Runs queries: the one place that both protocols use.
//!
//! ```text
//!            start                                         last batch taken, or dropped
//!   ────► registered ──► waiting for a slot ──► planned ──► running ──► gone
//!            │                  │                  │           │
//!            └──────────────────┴─── cancelled ────┴─ out of time
//! ```
//!
//! * A query is in the registry from [`Queries::start`] until its [`Batches`] end or are dropped; whoever drops
//!   them cancels it.
//! * It runs in a task of its own, on the runtime that [`Queries::on`] names. Between task and reader lie at
//!   most two batches, so a slow reader slows the query and fills no memory.
//! * It has a slot while its task lives. A bounded number of queries waits for one, for a bounded time; others
//!   are refused as `Unavailable`.
//! * Its view is opened after it has a slot, so it sees the newest snapshot at the moment it begins.
//!
//! A panic in a query ends that query as `Internal`. Dropping a `start` that has not returned yet also cancels.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use arrow::{
    array::RecordBatch,
    datatypes::{Field, SchemaRef},
};
use futures::{Stream, StreamExt};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use self::registry::RunningQuery;
use self::registry::{Registered, Registry};
use crate::{
    access::Caller,
    error::{ErrorKind, QueryError},
    params::Params,
    plan::{self, EngineBatches},
    view::{View, Views},
    wire::{schema_digest, wire_batch},
};

mod registry;
#[cfg(test)]
mod tests;

/// How much is let in.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a query may run, from its slot to its last batch. Default: 10 minutes.
    pub time: Duration,
    /// How many queries run at once. Default: twice the number of cores.
    pub running: usize,
    /// How many wait for a slot beside those. Default: 100.
    pub waiting: usize,
    /// How long one of them waits. Default: 1 minute.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { time: Duration::from_secs(600), running: 2 * cores, waiting: 100, patience: Duration::from_secs(60) }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Query {
    sql: String,
    rows: Vec<Params>,
    caller: Caller,
    id: Option<Uuid>,
    promise: Option<Promise>,
}

/// What a client was told of a query before it runs.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) snapshot: u64,
    /// [`schema_digest`] of the promised schema.
    pub(crate) schema: String,
}

impl Query {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>, caller: Caller) -> Self {
        Self { sql: sql.into(), rows: Vec::new(), caller, id: None, promise: None }
    }

    /// Tells the statement its parameters.
    pub fn bind(mut self, params: Params) -> Self {
        self.rows = vec![params];
        self
    }

    /// Runs the statement once for each row of parameters and joins the answers; no rows: once, without.
    pub fn bind_rows(mut self, rows: Vec<Params>) -> Self {
        self.rows = rows;
        self
    }

    /// Runs under this id, unless a query that runs now has it.
    pub(crate) fn with_id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Holds the answer to what was said when it was planned.
    pub(crate) fn with_promise(mut self, promise: Promise) -> Self {
        self.promise = Some(promise);
        self
    }
}

/// What a statement would give, found out without running it.
#[derive(Clone, Debug)]
pub struct Description {
    /// Columns of the answer, as on the wire. Where types depend on parameters that are not known yet, this
    /// is a guess.
    pub schema: SchemaRef,
    /// Parameters in order, with the types that the plan expects.
    pub parameters: Vec<Field>,
    /// The snapshot it was planned against.
    pub snapshot: u64,
}

/// A query that runs.
#[derive(Debug)]
pub struct Answer {
    /// To cancel it by.
    pub id: Uuid,
    /// The snapshot it sees.
    pub snapshot: u64,
    /// Every batch has exactly this schema.
    pub schema: SchemaRef,
    /// The rows. Dropping them cancels the query.
    pub batches: Batches,
}

/// Runs queries; clones share everything.
#[derive(Clone)]
pub struct Queries {
    inner: Arc<Inner>,
    runtime: Option<Handle>,
}

struct Inner {
    views: Arc<dyn Views>,
    limits: Limits,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    registry: Registry,
}

impl Queries {
    /// Queries over these views.
    pub fn new(views: Arc<dyn Views>, limits: Limits) -> Self {
        let slots = Arc::new(Semaphore::new(limits.running.clamp(1, Semaphore::MAX_PERMITS)));
        let waiting = AtomicUsize::new(0);
        let inner = Inner { views, limits, slots, waiting, registry: Registry::default() };
        Self { inner: Arc::new(inner), runtime: None }
    }

    /// Plans and runs on this runtime, to keep heavy work away from the one that serves connections. It
    /// must have its I/O and time drivers enabled.
    pub fn on(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The newest view, for questions about metadata.
    ///
    /// # Errors
    /// What the opener of views says.
    pub async fn view(&self) -> Result<View, QueryError> {
        self.inner.views.newest().await
    }

    /// What a statement would give, for these rows of parameters or for unknown ones.
    ///
    /// # Errors
    /// Those of planning.
    pub async fn describe(&self, sql: &str, rows: &[Params], caller: &Caller) -> Result<Description, QueryError> {
        let (inner, sql, rows, caller) = (Arc::clone(&self.inner), sql.to_owned(), rows.to_vec(), caller.clone());
        self.spawn(async move {
            let view = inner.views.newest().await?.seen_by(&caller);
            let planned = plan::plan(&view, &sql).await?;
            let parameters = planned.parameters();
            let schema = if rows.is_empty() { planned.schema() } else { planned.bind(&rows)?.schema };
            Ok::<_, QueryError>(Description { schema, parameters, snapshot: view.snapshot })
        })
        .await
        .map_err(died)?
    }

    /// Starts a query: waits for a slot, plans, and returns when the first row can be asked for.
    ///
    /// # Errors
    /// `Unavailable` when too many wait, those of planning, `Cancelled`, `TimedOut`.
    pub async fn start(&self, query: Query) -> Result<Answer, QueryError> {
        let registered = self.inner.registry.enter(query.id, &query.sql, &query.caller);
        let (id, stop) = (registered.id(), registered.stop().clone());
        let slot = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(cancelled(id)),
            slot = self.inner.slot() => slot?,
        };
        let deadline = Instant::now() + self.inner.limits.time;
        let planning = self.spawn(begin(Arc::clone(&self.inner), query));
        let begun = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(cancelled(id)),
            () = sleep_until(deadline) => return Err(self.timed_out(id)),
            begun = planning => begun.map_err(died)??,
        };
        let Begun { snapshot, schema, batches } = begun;

        let (sender, receiver) = mpsc::channel(2);
        let (end, ended) = oneshot::channel();
        let (promised, late) = (Arc::clone(&schema), self.timed_out(id));
        let task = self.spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => Err(cancelled(id)),
                () = sleep_until(deadline) => Err(late),
                outcome = forward(batches, promised, sender) => outcome,
            };
            drop(slot);
            // Nobody listens when the reader has gone.
            let _gone = end.send(outcome);
        });
        let batches = Batches { receiver, ended: Some(ended), registered: Some(registered), _task: task };
        Ok(Answer { id, snapshot, schema, batches })
    }

    /// What runs or waits now, oldest first.
    pub fn running(&self) -> Vec<RunningQuery> {
        self.inner.registry.list()
    }

    /// Stops a query; its reader gets `Cancelled`. False when no such query runs.
    pub fn cancel(&self, id: Uuid) -> bool {
        self.inner.registry.cancel(id)
    }

    /// Stops all that run or wait.
    pub fn cancel_all(&self) {
        self.inner.registry.cancel_all();
    }

    fn timed_out(&self, id: Uuid) -> QueryError {
        let seconds = self.inner.limits.time.as_secs_f64();
        QueryError::new(ErrorKind::TimedOut, format!("query `{id}` was stopped after {seconds} s"))
            .with_hint("ask for less at once, such as a shorter span of time")
    }

    fn spawn<F>(&self, work: F) -> AbortOnDropHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        AbortOnDropHandle::new(match &self.runtime {
            Some(runtime) => runtime.spawn(work),
            None => tokio::spawn(work),
        })
    }
}

impl Inner {
    /// A place among those that run.
    async fn slot(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let _place = Waiting::enter(&self.waiting, self.limits.waiting).ok_or_else(|| {
            QueryError::unavailable(format!(
                "{} queries run and {} wait already",
                self.limits.running, self.limits.waiting
            ))
            .with_hint("try again in a while")
        })?;
        match timeout(self.limits.patience, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(slot) => slot.map_err(|error| QueryError::internal("the slots of queries are closed").caused_by(error)),
            Err(_) => {
                Err(QueryError::unavailable(format!("no query ended within {} s", self.limits.patience.as_secs_f64()))
                    .with_hint("try again in a while; `GET /v1/queries` lists what runs"))
            }
        }
    }
}

/// One place in the bounded queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let enter = |waiting: usize| (waiting < limit).then(|| waiting + 1);
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).ok().map(|_| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Begun {
    snapshot: u64,
    schema: SchemaRef,
    batches: EngineBatches,
}

async fn begin(inner: Arc<Inner>, query: Query) -> Result<Begun, QueryError> {
    let view = match &query.promise {
        Some(promise) => inner.views.at(promise.snapshot).await?,
        None => inner.views.newest().await?,
    };
    let view = view.seen_by(&query.caller);
    let runnable = plan::plan(&view, &query.sql).await?.bind(&query.rows)?;
    if let Some(promise) = &query.promise
        && promise.snapshot != view.snapshot
        && promise.schema != schema_digest(&runnable.schema)
    {
        return Err(QueryError::unavailable(format!(
            "the tables have changed between snapshot {} and {}",
            promise.snapshot, view.snapshot
        ))
        .with_hint("run the query again"));
    }
    let (schema, batches) = runnable.run().await?;
    Ok(Begun { snapshot: view.snapshot, schema, batches })
}

/// Hands batches to the reader, each with the promised schema, until the end or until the reader has gone.
async fn forward(
    mut batches: EngineBatches,
    promised: SchemaRef,
    sender: mpsc::Sender<RecordBatch>,
) -> Result<(), QueryError> {
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if batch.num_rows() > 0 && sender.send(wire_batch(&batch, &promised)?).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn cancelled(id: Uuid) -> QueryError {
    QueryError::new(ErrorKind::Cancelled, format!("query `{id}` was cancelled"))
}

fn died(error: tokio::task::JoinError) -> QueryError {
    QueryError::internal("the query's task died").caused_by(error)
}

/// The rows of a query. Ends after the last batch or the first error. Dropping it cancels the query and takes
/// it off the list at once.
#[derive(Debug)]
pub struct Batches {
    receiver: mpsc::Receiver<RecordBatch>,
    ended: Option<oneshot::Receiver<Result<(), QueryError>>>,
    registered: Option<Registered>,
    _task: AbortOnDropHandle<()>,
}

impl Stream for Batches {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = ready!(self.receiver.poll_recv(context)) {
            return Poll::Ready(Some(Ok(batch)));
        }
        let Some(ended) = &mut self.ended else {
            return Poll::Ready(None);
        };
        let outcome = ready!(Pin::new(ended).poll(context));
        self.ended = None;
        self.registered = None;
        Poll::Ready(match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(error)),
            Err(_) => Some(Err(QueryError::internal("the query's task died"))),
        })
    }
}
