//! Stops a query that runs, wherever it is.
//!
//! Dropping a stream of DataFusion stops nothing that computes: an operator returns when it has rows, and a join that
//! yields none returns after hours. So each query has a [`Watch`], and looks at it
//!
//! | where | how |
//! | --- | --- |
//! | while it is planned | a rule between any two rules of the analyzer and of both optimizers |
//! | at each batch that is read, sorted, grouped or joined | [`WatchedExec`] around the operators that give them |
//! | at each step of a join, also where no row comes out | [`Checked`] around the join's condition |
//! | at each allocation that counts | [`WatchedPool`] around the pool of memory |
//! | before a function is called, and between the pieces that it is called for | [`Watch::of`] the options that it is called with |
//!
//! A step handles one batch, so a query that is told to stop does so within milliseconds. Not within a step: one
//! function over one batch, the values of one window, the concatenation of a side of a join are computed to their end.
//!
//! The watch also knows how much memory the query has reserved, how much the process may have in use, and whether the
//! query runs or is still being planned. What goes into operators that repeat rows is measured ([`widths`](crate::widths)),
//! and the memory that a thread has taken is noted ([`meter`]) wherever the watch is looked at.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Statistics, config_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{ColumnarValue, LogicalPlan};
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, replace_children_if_necessary};
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use datafusion::prelude::SessionContext;
use futures::{Stream, StreamExt, ready};

use crate::widths::Measured;
use crate::{machine, meter};

type Plan = Arc<dyn ExecutionPlan>;

/// What a query looks at to know whether it goes on.
#[derive(Debug, Default)]
pub struct Watch {
    stopped: AtomicBool,
    runs: AtomicBool,
    reserved: AtomicUsize,
    /// Bytes of constants that were computed while it was planned.
    constants: AtomicU64,
    /// Bytes of values that were made since room was looked for.
    made: AtomicU64,
    /// Bytes that the process may have in use.
    most: Option<u64>,
}

/// Bytes of all constants that are computed while a query is planned, and of one.
const MOST_OF_CONSTANTS: u64 = 16 << 20;
const MOST_OF_CONSTANT: u64 = 1 << 20;
/// Room is looked for each time that so many bytes are to be made.
const LOOK_EVERY: u64 = 1 << 20;

/// The query was told to stop; who told it knows why.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the query was stopped")]
pub struct Stopped;

impl Watch {
    /// A watch of a query in a process that may have so many bytes in use.
    pub fn within(most: Option<u64>) -> Self {
        Self { most, ..Self::default() }
    }

    /// The watch of the query that calls a function with these options, if it has one.
    pub(crate) fn of(options: &ConfigOptions) -> Option<&Self> {
        options.extensions.get::<WatchOption>().map(|option| option.0.as_ref())
    }

    /// Whether a constant of so many bytes is to be computed now. The planner copies, compares and writes constants
    /// over and over, so that large ones, or many, are left to when the query runs.
    pub(crate) fn computes_constant(&self, bytes: u64) -> bool {
        if self.runs.load(Ordering::Relaxed) {
            return true;
        }
        let all = self.constants.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        bytes <= MOST_OF_CONSTANT && all <= MOST_OF_CONSTANTS
    }

    /// Whether constants were left to when the query runs, which may take long.
    pub fn leaves_constants(&self) -> bool {
        self.constants.load(Ordering::Relaxed) > MOST_OF_CONSTANT
    }

    /// There is room for values of so many bytes, and the query was not told to stop.
    pub(crate) fn room_for(&self, bytes: u64) -> Result<()> {
        if self.made.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < LOOK_EVERY {
            return Ok(());
        }
        self.made.store(0, Ordering::Relaxed);
        self.check()?;
        let (Some(most), Some(in_use)) = (self.most, machine::resident()) else { return Ok(()) };
        if in_use.saturating_add(bytes) <= most {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(DataFusionError::ResourcesExhausted(format!(
            "{} MiB are needed for values of functions, and {} of {} MiB are in use",
            mib(bytes),
            mib(in_use),
            mib(most)
        )))
    }

    /// Tells the query to stop, for good.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the query was told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Bytes that the query's operators have reserved.
    pub fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// A session like the given one whose plans look at this watch.
    pub fn over(self: &Arc<Self>, session: &SessionContext) -> SessionContext {
        let state = session.state();
        let runtime = state.runtime_env().as_ref().clone();
        let pool = WatchedPool { pool: Arc::clone(&runtime.memory_pool), watch: Arc::clone(self) };
        let runtime = RuntimeEnv { memory_pool: Arc::new(pool), ..runtime };
        let checkpoint = Arc::new(Checkpoint(Arc::clone(self)));
        let mut config = state.config().clone();
        config.options_mut().extensions.insert(WatchOption(Arc::clone(self)));
        let mut builder =
            SessionStateBuilder::new_from_existing(state).with_config(config).with_runtime_env(Arc::new(runtime));
        if let Some(analyzer) = builder.analyzer() {
            let rules = std::mem::take(&mut analyzer.rules);
            analyzer.rules = between(rules, &(checkpoint.clone() as Arc<dyn AnalyzerRule + Send + Sync>));
        }
        if let Some(optimizer) = builder.optimizer() {
            let rules = std::mem::take(&mut optimizer.rules);
            optimizer.rules = between(rules, &(checkpoint.clone() as Arc<dyn OptimizerRule + Send + Sync>));
        }
        if let Some(optimizer) = builder.physical_optimizers() {
            let rules = std::mem::take(&mut optimizer.rules);
            optimizer.rules = between(rules, &(checkpoint as Arc<dyn PhysicalOptimizerRule + Send + Sync>));
            optimizer.rules.push(Arc::new(Watching(Arc::clone(self))));
        }
        SessionContext::new_with_state(builder.build())
    }

    /// The query was not told to stop.
    pub(crate) fn check(&self) -> Result<()> {
        meter::note();
        if self.is_stopped() { Err(stopped()) } else { Ok(()) }
    }
}

fn stopped() -> DataFusionError {
    DataFusionError::External(Box::new(Stopped))
}

/// The watch, among the options of a session: functions are called with them.
#[derive(Clone, Debug)]
struct WatchOption(Arc<Watch>);

impl ConfigExtension for WatchOption {
    const PREFIX: &'static str = "watch";
}

impl ExtensionOptions for WatchOption {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        config_err!("there is no option `{}.{key}`", Self::PREFIX)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// Each rule, and the check after it.
fn between<R: ?Sized>(rules: Vec<Arc<R>>, check: &Arc<R>) -> Vec<Arc<R>> {
    rules.into_iter().flat_map(|rule| [rule, Arc::clone(check)]).collect()
}

/// A rule that changes nothing, and fails when the query was told to stop.
#[derive(Debug)]
struct Checkpoint(Arc<Watch>);

const CHECKPOINT: &str = "checkpoint";

impl AnalyzerRule for Checkpoint {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        self.0.check().map(|()| plan)
    }

    fn name(&self) -> &str {
        CHECKPOINT
    }
}

impl OptimizerRule for Checkpoint {
    fn name(&self) -> &str {
        CHECKPOINT
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        self.0.check().map(|()| Transformed::no(plan))
    }
}

impl PhysicalOptimizerRule for Checkpoint {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        self.0.check().map(|()| plan)
    }

    fn name(&self) -> &str {
        CHECKPOINT
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Operators that give many rows for one.
const REPEATING: [&str; 8] = [
    "BoundedWindowAggExec",
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "SortMergeJoinExec",
    "StarJoinExec",
    "UnnestExec",
    "WindowAggExec",
];

/// Operators whose batches are watched, beside those that read: what computes for long before it gives one, or
/// gives many for one.
const WATCHED: [&str; 11] = [
    "AggregateExec",
    "BoundedWindowAggExec",
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "RecursiveQueryExec",
    "SortExec",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "UnnestExec",
    "WindowAggExec",
];

/// Puts the watch into a plan. The last rule: no other one sees what it puts in.
#[derive(Debug)]
struct Watching(Arc<Watch>);

impl PhysicalOptimizerRule for Watching {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let watched = plan.transform_up(|node| {
            if node.is::<ScalarSubqueryExec>() {
                return self.with_measured_answers(node).map(Transformed::yes);
            }
            if !node.children().is_empty() && !WATCHED.contains(&node.name()) {
                return Ok(Transformed::no(node));
            }
            let input = self.with_checked_steps(&node)?.unwrap_or(node);
            let (input, measured) = self.with_measured_rows(input)?;
            Ok(Transformed::yes(self.watched(input, measured)))
        });
        watched.map(|plan| plan.data)
    }

    fn name(&self) -> &str {
        "watching"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl Watching {
    fn watched(&self, input: Plan, measured: Option<Measured>) -> Plan {
        Arc::new(WatchedExec { input, measured, watch: Arc::clone(&self.0) })
    }

    /// An operator, the rows that go into it measured where it repeats them; and how those that it gives are.
    fn with_measured_rows(&self, node: Plan) -> Result<(Plan, Option<Measured>)> {
        if !REPEATING.contains(&node.name()) {
            return Ok((node, None));
        }
        let measured = Measured::shared(&node.schema());
        let children = node.children().into_iter().map(|child| {
            let wide = match node.downcast_ref::<UnnestExec>() {
                Some(unnest) => Measured::unnested(&child.schema(), unnest.list_column_indices()),
                None => Measured::copied(&child.schema()),
            };
            wide.map_or(Arc::clone(child), |wide| self.watched(Arc::clone(child), Some(wide)))
        });
        let children = children.collect();
        Ok((replace_children_if_necessary(node, children)?, measured))
    }

    /// What a subquery of one row gives is repeated for each row that asks for it.
    fn with_measured_answers(&self, node: Plan) -> Result<Plan> {
        let answers = |(place, child): (usize, &Plan)| match Measured::copied(&child.schema()) {
            Some(wide) if place > 0 => self.watched(Arc::clone(child), Some(wide)),
            _ => Arc::clone(child),
        };
        let children = node.children().into_iter().enumerate().map(answers).collect();
        replace_children_if_necessary(node, children)
    }

    /// The join, checking at each step. A join that has no condition checks where rows come out, but one that only
    /// asks whether there are rows may take many steps for a batch: it gets a condition that is always true.
    fn with_checked_steps(&self, node: &Plan) -> Result<Option<Plan>> {
        if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            let Some(filter) = self.checked(join.filter(), *join.join_type()) else { return Ok(None) };
            let join = NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter)).build()?;
            return Ok(Some(Arc::new(join)));
        }
        if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            let Some(filter) = self.checked(join.filter(), *join.join_type()) else { return Ok(None) };
            return Ok(Some(Arc::new(join.builder().with_filter(Some(filter)).build()?)));
        }
        Ok(None)
    }

    fn checked(&self, filter: Option<&JoinFilter>, kind: JoinType) -> Option<JoinFilter> {
        let checked = |inner| Arc::new(Checked { inner, watch: Arc::clone(&self.0) }) as Arc<dyn PhysicalExpr>;
        match filter {
            Some(filter) => Some(JoinFilter::new(
                checked(Arc::clone(filter.expression())),
                filter.column_indices().to_vec(),
                Arc::clone(filter.schema()),
            )),
            None if matches!(kind, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) => None,
            None => Some(JoinFilter::new(checked(lit(true)), Vec::new(), Arc::new(Schema::empty()))),
        }
    }
}

/// A condition that fails when the query was told to stop.
#[derive(Debug)]
struct Checked {
    inner: Arc<dyn PhysicalExpr>,
    watch: Arc<Watch>,
}

impl PartialEq for Checked {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Checked {}

impl Hash for Checked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl PhysicalExpr for Checked {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.watch.check()?;
        self.inner.evaluate(batch)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.pop()) {
            (Some(inner), None) => Ok(Arc::new(Self { inner, watch: Arc::clone(&self.watch) })),
            _ => internal_err!("a checked condition has one child"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

/// An operator whose batches are watched. Its properties are its input's, so that nodes above it keep theirs.
#[derive(Debug)]
struct WatchedExec {
    input: Plan,
    measured: Option<Measured>,
    watch: Arc<Watch>,
}

impl WatchedExec {
    fn with_children(&self, mut children: Vec<Plan>) -> Result<Plan> {
        match (children.pop(), children.pop()) {
            (Some(input), None) => {
                Ok(Arc::new(Self { input, measured: self.measured.clone(), watch: Arc::clone(&self.watch) }))
            }
            _ => internal_err!("WatchedExec has one child"),
        }
    }
}

impl DisplayAs for WatchedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedExec")
    }
}

impl ExecutionPlan for WatchedExec {
    fn name(&self) -> &'static str {
        "WatchedExec"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, children: Vec<Plan>, _: ReplaceChildrenOptions) -> Result<Plan> {
        self.with_children(children)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        self.with_children(children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.watch.check()?;
        self.watch.runs.store(true, Ordering::Relaxed);
        let rows = context.session_config().batch_size();
        let input = self.input.execute(partition, context)?;
        Ok(Box::pin(Watched {
            schema: input.schema(),
            input: Some(input),
            measured: self.measured.clone(),
            rows,
            watch: Arc::clone(&self.watch),
        }))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
}

/// A stream that ends with an error when the query was told to stop.
struct Watched {
    schema: SchemaRef,
    input: Option<SendableRecordBatchStream>,
    measured: Option<Measured>,
    /// So many rows a batch may have.
    rows: usize,
    watch: Arc<Watch>,
}

impl Stream for Watched {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Err(stopped) = this.watch.check() {
            return Poll::Ready(this.input.take().map(|_| Err(stopped)));
        }
        let Some(input) = &mut this.input else { return Poll::Ready(None) };
        let batch = ready!(input.poll_next_unpin(context));
        meter::note();
        Poll::Ready(batch.map(|batch| {
            let batch = batch?;
            this.measured.as_ref().map_or(Ok(()), |measured| measured.check(&batch, this.rows))?;
            Ok(batch)
        }))
    }
}

impl RecordBatchStream for Watched {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// A pool of memory that counts what one query reserves, and gives nothing more when it was told to stop.
#[derive(Debug)]
struct WatchedPool {
    pool: Arc<dyn MemoryPool>,
    watch: Arc<Watch>,
}

impl fmt::Display for WatchedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.pool, f)
    }
}

impl MemoryPool for WatchedPool {
    fn name(&self) -> &str {
        self.pool.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
        self.watch.reserved.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
        self.watch.reserved.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.watch.check()?;
        self.pool.try_grow(reservation, additional)?;
        self.watch.reserved.fetch_add(additional, Ordering::Relaxed);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;
    use crate::session::Engine;
    use crate::store::Store;

    /// Runs for hours, if it is not stopped.
    const ENDLESS: [&str; 6] = [
        "SELECT count(*) FROM generate_series(1,1000000) a CROSS JOIN generate_series(1,1000000) b
         WHERE a.value + b.value < 0",
        "SELECT count(*) FROM generate_series(1,2000000) a JOIN generate_series(1,2000000) b
         ON a.value % 2 = b.value % 2 AND a.value + b.value < 0",
        "SELECT count(*) FROM generate_series(1,2000000) a WHERE EXISTS
         (SELECT 1 FROM generate_series(1,2000000) b WHERE a.value % 2 = b.value % 2)",
        "SELECT a.value % 1000, count(*) FROM generate_series(1,100000000000) a GROUP BY 1",
        "SELECT a.value FROM generate_series(1,100000000000) a ORDER BY a.value % 1000, a.value LIMIT 3",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n > 0) SELECT count(*) FROM r",
    ];

    fn session(watch: &Arc<Watch>) -> SessionContext {
        watch.over(&Engine::new(&Store::memory(), 1 << 28).unwrap().session())
    }

    async fn collect(session: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
        session.sql(sql).await?.collect().await
    }

    fn was_stopped(error: &DataFusionError) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if error.is::<Stopped>() {
                return true;
            }
            next = error.source();
        }
        false
    }

    /// Stops the query once it computes: it has reserved memory, and gone on. A query that is stopped earlier is
    /// stopped all the same, so this need not be exact.
    fn stop_when_it_runs(watch: &Arc<Watch>) -> std::thread::JoinHandle<()> {
        let watch = Arc::clone(watch);
        std::thread::spawn(move || {
            let mut turns = 0..2_000_000;
            while turns.next().is_some() && watch.reserved() == 0 {
                std::thread::yield_now();
            }
            for _ in 0..100_000 {
                std::thread::yield_now();
            }
            watch.stop();
        })
    }

    /// Each runs on a runtime of its own, whose threads must all end: dropping it waits for them.
    #[test]
    fn whatever_runs_stops_when_it_is_told() {
        for sql in ENDLESS {
            let watch = Arc::new(Watch::default());
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
            let session = session(&watch);
            let query = runtime.spawn(async move { collect(&session, sql).await });
            let stopping = stop_when_it_runs(&watch);
            let error = runtime.block_on(query).unwrap().unwrap_err();
            assert!(was_stopped(&error), "{sql}: {error}");
            stopping.join().unwrap();
            drop(runtime);
            assert_eq!(watch.reserved(), 0, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_query_that_was_told_to_stop_is_not_planned() {
        let watch = Arc::new(Watch::default());
        let session = session(&watch);
        let sql = "SELECT 1 + value FROM generate_series(1, 3)";
        let plan = session.sql(sql).await.unwrap().into_unoptimized_plan();
        watch.stop();
        let error = session.state().optimize(&plan).unwrap_err();
        assert!(was_stopped(&error), "{error}");
    }

    #[tokio::test]
    async fn a_watched_query_answers_as_any_other() {
        let series = "(SELECT value % 10 AS v FROM generate_series(1, 1000)) AS";
        let watch = Arc::new(Watch::default());
        let (watched, plain) = (session(&watch), Engine::new(&Store::memory(), 1 << 28).unwrap().session());
        for sql in [
            format!("SELECT count(*) FROM {series} a JOIN {series} b ON a.v = b.v AND a.v + b.v > 4"),
            format!("SELECT count(*), min(v) FROM {series} a WHERE v IN (SELECT v + 3 FROM {series} b)"),
            format!("SELECT count(*), min(v) FROM {series} a WHERE v NOT IN (SELECT v + 3 FROM {series} b)"),
            format!("SELECT count(*) FROM {series} a WHERE EXISTS (SELECT 1 FROM {series} b WHERE b.v > a.v + 5)"),
            format!("SELECT v, sum(v) OVER (ORDER BY v) AS s FROM {series} a ORDER BY s DESC, v LIMIT 5"),
            format!("SELECT a.v, b.v FROM {series} a LEFT JOIN {series} b ON a.v = b.v + 9 ORDER BY 1, 2 LIMIT 9"),
            "SELECT 1".to_owned(),
        ] {
            let (ours, theirs) = (collect(&watched, &sql).await.unwrap(), collect(&plain, &sql).await.unwrap());
            let show = |batches: &[RecordBatch]| pretty_format_batches(batches).unwrap().to_string();
            assert_eq!(show(&ours), show(&theirs), "{sql}");
        }
    }
}
