//! A fact joined with all of its dimensions in one pass.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{BatchCoalescer, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, Statistics, exec_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, lit};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, CardinalityEffect, EmissionType};
use datafusion::physical_plan::filter_pushdown::{ChildFilterDescription, FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
    execute_stream,
};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};

use super::members::{Duplicate, Members, keys};

/// A dimension of a [`StarJoinExec`].
#[derive(Clone, Debug)]
pub(super) struct Dimension {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// The key's column, here and in the fact.
    pub(super) key: usize,
    pub(super) fact_key: usize,
    /// Members before any filter.
    pub(super) all: usize,
}

/// A column of the output: of the fact, or of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Fact(usize),
    Dimension(usize, usize),
}

/// The dimensions, once they are read, for all who wait for them.
type Read = Shared<BoxFuture<'static, Result<Arc<Star>, Arc<DataFusionError>>>>;

/// Inner joins of a fact with dimensions, each on a unique key of the dimension's.
///
/// The dimensions are read first; then the fact is read once. Of each batch, the rows that all dimensions have a
/// member for are found, the most selective dimension first, and only then columns are copied. The fact is never
/// repartitioned, and its scan is told the bounds of the keys that are wanted.
#[derive(Debug)]
pub(super) struct StarJoinExec {
    fact: Arc<dyn ExecutionPlan>,
    dimensions: Vec<Dimension>,
    output: Vec<Output>,
    bounds: Vec<Arc<DynamicFilterPhysicalExpr>>,
    /// The dimensions: read by whoever executes first, once, whatever comes of it.
    star: OnceLock<Read>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl StarJoinExec {
    /// The columns `output`, which have names and types by `schema`.
    pub(super) fn new(
        fact: Arc<dyn ExecutionPlan>,
        dimensions: Vec<Dimension>,
        output: Vec<Output>,
        schema: SchemaRef,
    ) -> Self {
        let column = |dimension: &Dimension| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(fact.schema().field(dimension.fact_key).name(), dimension.fact_key))
        };
        let bounds =
            dimensions.iter().map(|d| Arc::new(DynamicFilterPhysicalExpr::new(vec![column(d)], lit(true)))).collect();
        let partitioning = Partitioning::UnknownPartitioning(fact.output_partitioning().partition_count());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            partitioning,
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            fact,
            dimensions,
            output,
            bounds,
            star: OnceLock::new(),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What each partition needs to look members up.
    fn probe(&self, partition: usize, context: &Arc<TaskContext>) -> Probe {
        let fact = self.fact.schema();
        let fields = self.output.iter().filter_map(|output| match output {
            Output::Fact(column) => Some(fact.field(*column).clone()),
            Output::Dimension(..) => None,
        });
        let shown: Vec<usize> = (0..self.dimensions.len())
            .filter(|dimension| {
                self.output.iter().any(|output| matches!(output, Output::Dimension(of, _) if of == dimension))
            })
            .collect();
        let places = shown.iter().map(|_| Field::new("member", DataType::UInt32, false));
        let joined: SchemaRef = Arc::new(Schema::new(fields.chain(places).collect::<Vec<_>>()));
        Probe {
            fact_keys: self.dimensions.iter().map(|dimension| dimension.fact_key).collect(),
            output: self.output.clone(),
            shown,
            schema: self.schema(),
            coalescer: BatchCoalescer::new(joined.clone(), context.session_config().batch_size()),
            joined,
            rows: Vec::new(),
            places: vec![Vec::new(); self.dimensions.len()],
            baseline: BaselineMetrics::new(&self.metrics, partition),
        }
    }

    /// Reads the dimensions.
    fn read(&self, context: &Arc<TaskContext>) -> impl Future<Output = Result<Star>> + Send + 'static {
        let dimensions = self.dimensions.clone();
        let bounds = self.bounds.clone();
        let fact = self.fact.schema();
        let context = context.clone();
        let time = MetricBuilder::new(&self.metrics).subset_time("build_time", 0);
        async move {
            let timer = time.timer();
            let reads = dimensions.iter().map(|dimension| {
                let (dimension, context) = (dimension.clone(), context.clone());
                SpawnedTask::spawn(async move {
                    let schema = dimension.plan.schema();
                    let memory = MemoryConsumer::new("StarJoin").register(context.memory_pool());
                    let mut stream = execute_stream(dimension.plan, context)?;
                    let mut batches = Vec::new();
                    while let Some(batch) = stream.try_next().await? {
                        // Once as it is read, once more as it is put together with the others.
                        memory.try_grow(2 * batch.get_array_memory_size())?;
                        batches.push(batch);
                    }
                    match Members::new(&schema, &batches, dimension.key)? {
                        Ok(members) => {
                            memory.try_resize(members.size())?;
                            Ok((members, memory))
                        }
                        Err(Duplicate(key)) => exec_err!(
                            "`{}` is declared to tell rows apart, and two rows have {key}",
                            schema.field(dimension.key).name()
                        ),
                    }
                })
            });
            let (mut members, mut memory) = (Vec::with_capacity(dimensions.len()), Vec::new());
            for read in reads.collect::<Vec<_>>() {
                let read: Result<(Members, MemoryReservation)> =
                    read.join_unwind().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
                let (read, reserved) = read?;
                members.push(read);
                memory.push(reserved);
            }
            for ((dimension, members), filter) in dimensions.iter().zip(&members).zip(&bounds) {
                filter.update(within(&fact, dimension.fact_key, members.bounds)?)?;
                filter.mark_complete();
            }
            let share = |place: &usize| members[*place].rows.num_rows() as f64 / dimensions[*place].all.max(1) as f64;
            let mut order: Vec<usize> = (0..dimensions.len()).collect();
            order.sort_by(|left, right| share(left).total_cmp(&share(right)));
            timer.done();
            Ok(Star { members, order, _memory: memory })
        }
    }

    fn with_children(&self, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Self> {
        let mut children = children.into_iter();
        let (Some(fact), true) = (children.next(), children.len() == self.dimensions.len()) else {
            return internal_err!("StarJoinExec has {} children", self.dimensions.len() + 1);
        };
        let dimensions =
            self.dimensions.iter().zip(children).map(|(dimension, plan)| Dimension { plan, ..dimension.clone() });
        let mut join = Self::new(fact, dimensions.collect(), self.output.clone(), self.schema());
        // The scan may hold them already.
        join.bounds.clone_from(&self.bounds);
        Ok(join)
    }
}

/// `column >= least AND column <= greatest`, in the column's type.
fn within(schema: &SchemaRef, column: usize, bounds: Option<(i64, i64)>) -> Result<Arc<dyn PhysicalExpr>> {
    let Some((least, greatest)) = bounds else { return Ok(lit(false)) };
    let field = schema.field(column);
    let place: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), column));
    let side = |operator, bound: i64| -> Result<Arc<dyn PhysicalExpr>> {
        let bound = ScalarValue::Int64(Some(bound));
        let bound = match field.data_type() {
            DataType::Date32 => bound.cast_to(&DataType::Int32)?.cast_to(&DataType::Date32)?,
            other => bound.cast_to(other)?,
        };
        Ok(Arc::new(BinaryExpr::new(place.clone(), operator, lit(bound))))
    };
    Ok(Arc::new(BinaryExpr::new(side(Operator::GtEq, least)?, Operator::And, side(Operator::LtEq, greatest)?)))
}

/// The dimensions, read.
#[derive(Debug)]
struct Star {
    members: Vec<Members>,
    /// The most selective one first.
    order: Vec<usize>,
    _memory: Vec<MemoryReservation>,
}

/// Joins the batches of a partition.
struct Probe {
    fact_keys: Vec<usize>,
    output: Vec<Output>,
    /// Dimensions of which the output has columns.
    shown: Vec<usize>,
    schema: SchemaRef,
    /// The fact's columns of the output, then the place of the member in each dimension that is shown.
    joined: SchemaRef,
    coalescer: BatchCoalescer,
    rows: Vec<u32>,
    places: Vec<Vec<u32>>,
    baseline: BaselineMetrics,
}

impl Probe {
    fn push(&mut self, star: &Star, batch: &RecordBatch) -> Result<()> {
        self.rows.clear();
        self.rows.extend(0..batch.num_rows() as u32);
        for &dimension in &star.order {
            let places = &mut self.places[dimension];
            places.resize(batch.num_rows(), 0);
            star.members[dimension].keep(&keys(batch.column(self.fact_keys[dimension]))?, &mut self.rows, places);
            if self.rows.is_empty() {
                return Ok(());
            }
        }
        let all = self.rows.len() == batch.num_rows();
        let rows = UInt32Array::from(self.rows.clone());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.joined.fields().len());
        for output in &self.output {
            if let Output::Fact(column) = output {
                let column = batch.column(*column);
                columns.push(if all { column.clone() } else { take(column, &rows, None)? });
            }
        }
        for &dimension in &self.shown {
            let places = &self.places[dimension];
            columns.push(Arc::new(UInt32Array::from_iter_values(self.rows.iter().map(|&row| places[row as usize]))));
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        let joined = RecordBatch::try_new_with_options(self.joined.clone(), columns, &options)?;
        Ok(self.coalescer.push_batch(joined)?)
    }

    /// A whole batch of the output, if there is one.
    fn next(&mut self, star: &Star) -> Result<Option<RecordBatch>> {
        let Some(joined) = self.coalescer.next_completed_batch() else { return Ok(None) };
        let (shown, fact) = (self.shown.len(), joined.num_columns() - self.shown.len());
        let places: Vec<&UInt32Array> =
            (0..shown).map(|place| joined.column(fact + place).as_primitive::<UInt32Type>()).collect();
        let mut facts = joined.columns()[..fact].iter();
        let mut columns = Vec::with_capacity(self.output.len());
        for output in &self.output {
            columns.push(match output {
                Output::Fact(_) => facts
                    .next()
                    .cloned()
                    .ok_or_else(|| arrow::error::ArrowError::ComputeError("a column is gone".into()))?,
                Output::Dimension(dimension, column) => {
                    let place = self.shown.iter().position(|shown| shown == dimension).unwrap_or_default();
                    take(star.members[*dimension].rows.column(*column), places[place], None)?
                }
            });
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(joined.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(Some(batch.record_output(&self.baseline)))
    }
}

impl DisplayAs for StarJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fact = self.fact.schema();
        let on = self.dimensions.iter().map(|dimension| {
            let key = dimension.plan.schema();
            format!("({}, {})", fact.field(dimension.fact_key).name(), key.field(dimension.key).name())
        });
        write!(f, "StarJoinExec: on=[{}]", on.collect::<Vec<_>>().join(", "))
    }
}

impl ExecutionPlan for StarJoinExec {
    fn name(&self) -> &'static str {
        "StarJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        let dimensions = self.dimensions.iter().map(|_| Distribution::SinglePartition);
        std::iter::once(Distribution::UnspecifiedDistribution).chain(dimensions).collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        std::iter::once(true).chain(self.dimensions.iter().map(|_| false)).collect()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        std::iter::once(&self.fact).chain(self.dimensions.iter().map(|dimension| &dimension.plan)).collect()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for filter in &self.bounds {
            let filter: Arc<dyn PhysicalExpr> = filter.clone();
            if f(&filter)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn dynamic_expressions_produced(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.bounds.iter().map(|filter| filter.clone() as Arc<dyn PhysicalExpr>).collect()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.with_children(children)?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.with_children(children)?))
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let (fact, dimensions) = (self.fact.clone(), self.dimensions.clone());
        Ok(Arc::new(Self::new(fact, dimensions, self.output.clone(), self.schema())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let read = || self.read(&context).map_ok(Arc::new).map_err(Arc::new).boxed().shared();
        let star = self.star.get_or_init(read).clone();
        let fact = self.fact.clone();
        let probe = self.probe(partition, &context);
        // The fact is opened when the bounds of the keys are known.
        let joined = async move {
            let star = star.await.map_err(DataFusionError::Shared)?;
            let facts = fact.execute(partition, context)?;
            let state = (facts, probe, star, false);
            let batches = futures::stream::try_unfold(state, |(mut facts, mut probe, star, mut ended)| async move {
                loop {
                    let time = probe.baseline.elapsed_compute().clone();
                    let timer = time.timer();
                    if let Some(batch) = probe.next(&star)? {
                        timer.done();
                        return Ok(Some((batch, (facts, probe, star, ended))));
                    }
                    if ended {
                        return Ok(None);
                    }
                    timer.done();
                    match facts.next().await {
                        Some(batch) => {
                            let _timer = time.timer();
                            probe.push(&star, &batch?)?;
                        }
                        None => {
                            probe.coalescer.finish_buffered_batch()?;
                            ended = true;
                        }
                    }
                }
            });
            Ok::<_, DataFusionError>(batches)
        };
        let stream = futures::stream::once(joined).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let num_rows = inputs.first().map_or(Precision::Absent, |fact| fact.num_rows.to_inexact());
        Ok(Arc::new(Statistics { num_rows, ..Statistics::new_unknown(&self.schema()) }))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        std::iter::once(ChildStats::At(partition)).chain(self.dimensions.iter().map(|_| ChildStats::Skip)).collect()
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::LowerEqual
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let columns: Option<Vec<Output>> =
            projection.expr().iter().map(|e| Some(self.output[e.expr.downcast_ref::<Column>()?.index()])).collect();
        let Some(output) = columns else { return Ok(None) };
        let mut join = Self::new(self.fact.clone(), self.dimensions.clone(), output, projection.schema());
        join.bounds.clone_from(&self.bounds);
        Ok(Some(Arc::new(join)))
    }

    fn gather_filters_for_pushdown(
        &self,
        phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let mut fact = ChildFilterDescription::all_unsupported(&parent_filters);
        if phase == FilterPushdownPhase::Post {
            fact = fact.with_self_filters(self.dynamic_expressions_produced());
        }
        let dimensions = self.dimensions.iter().map(|_| ChildFilterDescription::all_unsupported(&parent_filters));
        Ok(dimensions.fold(FilterDescription::new().with_child(fact), FilterDescription::with_child))
    }
}
