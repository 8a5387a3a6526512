//! Runs queries: the one place that both protocols use.
//!
//! ```text
//!            start                                                  engine done          last batch taken, or dropped
//!   ────► registered ──► waiting for a slot ──► planned ──► running ──────────► unread ────────────► gone
//!            │                  │                  │           │                  │
//!            └──────────────────┴─── cancelled ────┴─ out of time, or of memory ──┘
//! ```
//!
//! * A query is in the registry from [`Queries::start`] until its [`Batches`] end or are dropped, and its threads are
//!   free; whoever drops them cancels it.
//! * It is planned and run on threads of its own ([`lanes`]), so one that computes for long holds up nobody else, and
//!   looks at its watch ([`starmere_lake::watch`]), so it stops soon after it was told to.
//! * It has a slot while its threads are busy ([`admission`]). A bounded number of queries waits for one, for a bounded
//!   time; others are refused as `Busy`. Planning needs a slot too, also where nothing is run.
//! * What it gives is kept until it is read ([`spool`]): a reader that is slow, or away, holds no slot.
//! * Its view is opened after it has a slot, so it sees the newest snapshot at the moment it begins.
//! * The process keeps within its memory ([`memory`]).
//!
//! A panic in a query ends that query as `Internal`. Dropping a `start` that has not returned yet also cancels.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arrow::{
    array::RecordBatch,
    datatypes::{Field, SchemaRef},
};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use starmere_lake::watch::Watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::{
    admission::{Admission, Room, Wants},
    lanes::{Lanes, Seat, Slot},
    pieces::{parts, pieces},
    registry::{Registered, Registry, Stop},
    spool::{Budget, Spool},
};
pub use self::{limits::Limits, registry::RunningQuery};
use crate::{
    access::Caller,
    error::{ErrorKind, QueryError},
    params::Params,
    plan::{self, Ready},
    view::{View, Views},
    wire::{schema_digest, wire_batch},
};

mod admission;
mod lanes;
mod limits;
mod memory;
mod pieces;
mod registry;
pub(crate) mod size;
mod spool;
#[cfg(test)]
mod tests;

/// So many lanes are kept for the next queries.
const KEPT_LANES: usize = 8;

/// A text that is longer may take long to plan.
const SHORT_TEXT: usize = 4 << 10;

/// Where a text may be planned: a long one not in the room for small queries.
fn wants(sql: &str) -> Wants {
    if sql.len() <= SHORT_TEXT { Wants::Either } else { Wants::General }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Query {
    sql: String,
    rows: Arc<[Params]>,
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
        Self { sql: sql.into(), rows: Arc::default(), caller, id: None, promise: None }
    }

    /// Tells the statement its parameters.
    pub fn bind(mut self, params: Params) -> Self {
        self.rows = Arc::new([params]);
        self
    }

    /// Runs the statement once for each row of parameters and joins the answers; no rows: once, without.
    pub fn bind_rows(mut self, rows: impl Into<Arc<[Params]>>) -> Self {
        self.rows = rows.into();
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
}

struct Inner {
    views: Arc<dyn Views>,
    limits: Limits,
    admission: Arc<Admission>,
    lanes: Arc<Lanes>,
    budget: Arc<Budget>,
    registry: Registry,
}

impl Queries {
    /// Queries over these views.
    pub fn new(views: Arc<dyn Views>, limits: Limits) -> Self {
        let inner = Arc::new(Inner {
            views,
            admission: Arc::new(Admission::new(&limits)),
            lanes: Arc::new(Lanes::new(KEPT_LANES)),
            budget: Arc::new(Budget::new(&limits)),
            registry: Registry::within(limits.resident),
            limits,
        });
        memory::keep_within(&inner);
        Self { inner }
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
    /// `Busy` when too many wait or are unread, those of planning, `Cancelled`, `TimedOut`.
    pub async fn describe(&self, sql: &str, rows: Arc<[Params]>, caller: &Caller) -> Result<Description, QueryError> {
        let registered = self.inner.enter(None, sql, caller)?;
        let (id, stop) = (registered.id(), Arc::clone(registered.stop()));
        let seat = self.inner.seat(&caller.user, wants(sql), &registered).await?;
        let deadline = Instant::now() + self.inner.limits.time;
        let (inner, watch) = (Arc::clone(&self.inner), Arc::clone(stop.watch()));
        let (sql, caller) = (sql.to_owned(), caller.clone());
        let described = seat.spawn(async move {
            let view = inner.views.newest().await?;
            let planned = plan::plan(&view, &sql, &caller, &watch).await?;
            let parameters = planned.parameters();
            let schema = if rows.is_empty() { planned.schema() } else { planned.bind(rows)?.schema };
            Ok::<_, QueryError>(Description { schema, parameters, snapshot: view.snapshot })
        });
        self.inner.until(&stop, id, deadline, described).await
    }

    /// Starts a query: waits for a slot, plans, and returns when the first row can be asked for.
    ///
    /// # Errors
    /// `Busy` when too many wait or are unread, those of planning, `Cancelled`, `TimedOut`.
    pub async fn start(&self, query: Query) -> Result<Answer, QueryError> {
        let inner = &self.inner;
        let registered = inner.enter(query.id, &query.sql, &query.caller)?;
        let (id, stop) = (registered.id(), Arc::clone(registered.stop()));
        let query = Arc::new(query);
        let mut wants = wants(&query.sql);
        let (seat, deadline, begun) = loop {
            let seat = inner.seat(&query.caller.user, wants, &registered).await?;
            let deadline = Instant::now() + inner.limits.time;
            let begun = seat.spawn(begin(Arc::clone(inner), Arc::clone(&query), Arc::clone(stop.watch())));
            let begun = inner.until(&stop, id, deadline, begun).await?;
            if begun.is_small || inner.has_slot(&seat, &query.caller.user) {
                break (seat, deadline, begun);
            }
            // It is large and was planned in the room for small ones. Once it has a slot it is planned anew, and
            // sees what is newest then.
            wants = Wants::General;
        };
        let Begun { snapshot, ready, .. } = begun;
        let schema = Arc::clone(&ready.schema);
        let spool = Arc::new(Spool::new(&inner.budget));
        stop.answers(&spool);
        let (admission, user) = (Arc::clone(&inner.admission), query.caller.user.clone());
        let engine = seat.spawn(forward(ready, Arc::clone(&spool), Arc::clone(seat.slot()), admission, user));
        let attended = Attended { id, stop, deadline, seat, spool: Arc::clone(&spool) };
        // Ends soon after the answer was dropped.
        tokio::spawn(attend(Arc::clone(inner), attended, engine));
        Ok(Answer { id, snapshot, schema, batches: Batches::new(spool, registered) })
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
}

impl Inner {
    /// Enters a query, unless there are too many, or too many of this user.
    fn enter(&self, wanted: Option<Uuid>, sql: &str, caller: &Caller) -> Result<Registered, QueryError> {
        let most = self.limits.queries();
        let (all, own) = self.registry.count(&caller.user);
        if all >= most || own >= Limits::share_of_slots(most) {
            let message = format!("{all} queries run, wait or are being read, {own} of them by `{}`", caller.user);
            return Err(QueryError::busy(message).with_hint("read answers to their end, or close them, and try again"));
        }
        Ok(self.registry.enter(wanted, sql, caller))
    }

    /// A slot, and threads.
    async fn seat(&self, user: &str, wants: Wants, registered: &Registered) -> Result<Seat, QueryError> {
        let place = tokio::select! {
            biased;
            why = registered.stop().told() => return Err(why),
            place = self.admission.place(user, wants) => place?,
        };
        let lane = self.lanes.take(registered.stop().watch())?;
        let engaged = registered.engage(Arc::clone(lane.meter()));
        Ok(Seat::new(lane, place, engaged))
    }

    /// Whether the seat is in a slot for all queries; moves it into one, if one is free.
    fn has_slot(&self, seat: &Seat, user: &str) -> bool {
        if seat.slot().room() == Some(Room::General) {
            return true;
        }
        match self.admission.general_now(user) {
            Some(place) => {
                seat.slot().enter(place);
                true
            }
            None => false,
        }
    }

    /// What comes of work on a seat. Where the query was told to stop, or is out of time, that is the reason,
    /// whatever the engine says of it.
    async fn until<T>(
        &self,
        stop: &Stop,
        id: Uuid,
        deadline: Instant,
        work: AbortOnDropHandle<Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        stop.computes(true);
        let outcome = tokio::select! {
            biased;
            why = stop.told() => Err(why),
            () = sleep_until(deadline) => {
                stop.because(self.timed_out(id));
                Err(self.timed_out(id))
            }
            done = work => {
                stop.computes(false);
                done.unwrap_or_else(|error| Err(died(error)))
            }
        };
        outcome.map_err(|error| stop.reason().unwrap_or(error))
    }

    fn timed_out(&self, id: Uuid) -> QueryError {
        let seconds = self.limits.time.as_secs_f64();
        QueryError::new(ErrorKind::TimedOut, format!("query `{id}` was stopped after {seconds} s"))
            .with_hint("ask for less at once, such as a shorter span of time")
    }

    fn unread(&self, id: Uuid) -> QueryError {
        let seconds = self.limits.time.as_secs_f64();
        let message = format!("the answer of query `{id}` was dropped: nothing of it was read for {seconds} s");
        QueryError::new(ErrorKind::TimedOut, message).with_hint("run the query again, and read its answer")
    }
}

struct Begun {
    snapshot: u64,
    ready: Ready,
    is_small: bool,
}

async fn begin(inner: Arc<Inner>, query: Arc<Query>, watch: Arc<Watch>) -> Result<Begun, QueryError> {
    let view = match &query.promise {
        Some(promise) => inner.views.at(promise.snapshot).await?,
        None => inner.views.newest().await?,
    };
    let planned = plan::plan(&view, &query.sql, &query.caller, &watch).await?;
    let runnable = planned.bind(Arc::clone(&query.rows))?;
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
    let ready = runnable.ready().await?;
    let is_small = ready.is_small() && !watch.leaves_constants();
    Ok(Begun { snapshot: view.snapshot, is_small, ready })
}

/// Keeps batches for the reader, each with the promised schema, until the end or until nobody wants them.
async fn forward(
    ready: Ready,
    spool: Arc<Spool>,
    slot: Arc<Slot>,
    admission: Arc<Admission>,
    user: String,
) -> Result<(), QueryError> {
    let promised = Arc::clone(&ready.schema);
    let mut batches = ready.run()?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        // Texts that rows share are copied for each of them.
        for part in parts(&batch) {
            for piece in pieces(wire_batch(&part, &promised)?) {
                if !spool.push(piece?, (slot.as_ref(), &admission, user.as_str())).await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// A query that runs, as it is seen from outside of its threads.
struct Attended {
    id: Uuid,
    stop: Arc<Stop>,
    deadline: Instant,
    seat: Seat,
    spool: Arc<Spool>,
}

/// Ends a query: when its engine is done, when it is told to stop, or when its time is over. Then waits until its
/// answer was read, which is dropped where nobody reads it.
async fn attend(inner: Arc<Inner>, attended: Attended, engine: AbortOnDropHandle<Result<(), QueryError>>) {
    let Attended { id, stop, deadline, seat, spool } = attended;
    let outcome = inner.until(&stop, id, deadline, engine).await;
    match stop.reason() {
        Some(why) => spool.fail(why),
        None => spool.finish(outcome),
    }
    drop(seat);
    loop {
        tokio::select! {
            biased;
            why = stop.told() => return spool.fail(why),
            () = sleep_until(spool.read_at() + inner.limits.time) => {
                if spool.read_at() + inner.limits.time <= Instant::now() {
                    stop.because(inner.unread(id));
                }
            }
        }
    }
}

fn died(error: tokio::task::JoinError) -> QueryError {
    QueryError::internal("the query's task died").caused_by(error)
}

/// The rows of a query. Ends after the last batch or the first error. Dropping it cancels the query.
pub struct Batches(BoxStream<'static, Result<RecordBatch, QueryError>>);

impl Batches {
    fn new(spool: Arc<Spool>, registered: Registered) -> Self {
        let rows = stream::unfold((spool, Some(registered)), |(spool, registered)| async move {
            let next = spool.next().await?;
            let registered = registered.filter(|_| next.is_ok());
            Some((next, (spool, registered)))
        });
        // Readers may ask once more after the end.
        Self(rows.fuse().boxed())
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Batches").finish_non_exhaustive()
    }
}

impl Stream for Batches {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}
