//! A statement planned against one view: what it will give, and its run.
//!
//! The promised schema is that of the plan that is run, passed through `wire_schema`. It is known before anything is
//! read, so a client can be told of it, and every batch is later made to keep it.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Instant,
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, SchemaRef},
};
use datafusion::{
    common::{
        DataFusionError, TableReference,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::{SendableRecordBatchStream, SessionState, context::SQLOptions},
    logical_expr::{Expr, LogicalPlan},
    physical_plan::{ExecutionPlan, execute_stream},
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use starmere_lake::{corrections::unanswerable, literals, watch::Watch, widths::too_wide};

use crate::{
    access::Caller,
    error::QueryError,
    params::{self, Params},
    query::size,
    statement::{self, Parameters, Statement},
    versions,
    view::{View, is_pinned},
    wire::wire_schema,
};

/// A plan with more operators is not kept: it may be deep, and what is kept is dropped by any thread.
const SHALLOW: usize = 250;

/// Bytes for a column of a step of a plan, or for an expression; about.
const BYTES_OF_PART: usize = 200;

/// A statement that is planned over the tables of a snapshot, for any run: [`Plans`](crate::Plans) keep it.
#[derive(Debug)]
pub(crate) struct Understood {
    plan: LogicalPlan,
    parameters: Parameters,
    types: HashMap<String, Option<DataType>>,
    /// The plan as it is, analyzed, and what is promised of it: once somebody has asked.
    analyzed: OnceLock<(SchemaRef, LogicalPlan)>,
}

/// A statement that is understood but not yet told its parameters, with the session that it will run in.
pub(crate) struct Planned {
    state: SessionState,
    statement: Arc<Understood>,
}

/// A statement that can run, once for each row of parameters.
pub(crate) struct Runnable {
    planned: Planned,
    rows: Arc<[Params]>,
    /// The plan for the first row, analyzed.
    first: LogicalPlan,
    /// What clients are promised.
    pub(crate) schema: SchemaRef,
}

/// Plans a statement against what the caller sees of a view, unless a plan of it is kept. Stops when the watch says so.
///
/// # Errors
/// `Invalid` or `NotFound`, with the place in the text where the planner knows it.
pub(crate) async fn plan(view: &View, sql: &str, caller: &Caller, watch: &Arc<Watch>) -> Result<Planned, QueryError> {
    if let Some(statement) = view.plans.find(sql, caller.rights, Instant::now()) {
        return Ok(Planned { state: watch.over(&view.context).state(), statement });
    }
    let seen = view.clone().seen_by(caller);
    let mut state = watch.over(&seen.context).state();
    // Without it the planner forgets where in the text names stood.
    state.config_mut().options_mut().sql_parser.collect_spans = true;
    let statement = statement::parse(&state, sql)?;
    let can_be_kept = statement.is_query() && statement.operators <= SHALLOW && names_only_pinned(&state, &statement);
    let plan = match state.statement_to_plan(statement.tree).await {
        Ok(plan) => plan,
        Err(error) => {
            let hint = versions::hint(&seen.tables, &error, || named(&state, sql));
            let error = QueryError::from(error);
            return Err(match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            });
        }
    };
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    if let Some(why) = unanswerable(&plan)? {
        return Err(QueryError::invalid(why));
    }
    // A parameter that is used as two types has none in particular: the engine coerces it at each place.
    let types = plan.get_parameter_types().unwrap_or_default();
    let understood = Understood { plan, parameters: statement.parameters, types, analyzed: OnceLock::new() };
    let statement = Arc::new(understood);
    if can_be_kept {
        view.plans.keep(sql, caller.rights, &statement, Instant::now());
    }
    Ok(Planned { state, statement })
}

/// Whether a statement names only tables that are the same for all queries of the snapshot.
fn names_only_pinned(state: &SessionState, statement: &Statement) -> bool {
    state.resolve_table_references(&statement.tree).is_ok_and(|tables| tables.iter().all(is_pinned))
}

/// The tables that a statement names.
fn named(state: &SessionState, sql: &str) -> Vec<TableReference> {
    let statement = statement::parse(state, sql).ok();
    statement.and_then(|statement| state.resolve_table_references(&statement.tree).ok()).unwrap_or_default()
}

impl Understood {
    /// Bytes in use, about; the plan analyzed is about as large as the plan.
    pub(crate) fn size(&self, sql: &str) -> usize {
        let mut bytes = 0_usize;
        let counted = self.plan.apply_with_subqueries(|step| {
            bytes += (1 + step.schema().fields().len()) * BYTES_OF_PART;
            step.apply_expressions(|expression| {
                expression.apply(|part| {
                    bytes += match part {
                        Expr::Literal(value, _) => BYTES_OF_PART + value.size(),
                        _ => BYTES_OF_PART,
                    };
                    Ok(TreeNodeRecursion::Continue)
                })
            })?;
            Ok(TreeNodeRecursion::Continue)
        });
        counted.map_or(usize::MAX, |_| sql.len() + 2 * bytes)
    }
}

impl Planned {
    /// The promised schema, as far as it is known without parameters.
    pub(crate) fn schema(&self) -> SchemaRef {
        match self.as_it_is() {
            Ok((schema, _)) => schema,
            Err(_) => wire_schema(self.statement.plan.schema().as_arrow()),
        }
    }

    /// The parameters as columns: their names and the types that the plan expects. Where it expects nothing
    /// in particular, text; drivers must be told something.
    pub(crate) fn parameters(&self) -> Vec<Field> {
        let field = |id: String| {
            let wanted = self.statement.types.get(&id).cloned().flatten().unwrap_or(DataType::Utf8);
            Field::new(id, crate::wire::wire_type(&wanted), true)
        };
        self.statement.parameters.ids().into_iter().map(field).collect()
    }

    /// The statement told its parameters: once for each row, once without any where there are no rows. Only the first
    /// plan is made now. Further ones are made when they are run: thousands of large ones would not fit into memory.
    ///
    /// # Errors
    /// `Invalid` where the values of the first row do not fit the placeholders.
    pub(crate) fn bind(self, rows: Arc<[Params]>) -> Result<Runnable, QueryError> {
        let (schema, first) = self.told(rows.first().unwrap_or(&Params::default()))?;
        Ok(Runnable { planned: self, rows, first, schema })
    }

    /// What is promised of the plan without parameters, and the plan, analyzed.
    fn as_it_is(&self) -> Result<(SchemaRef, LogicalPlan), DataFusionError> {
        if let Some(known) = self.statement.analyzed.get() {
            return Ok(known.clone());
        }
        let found = analyzed(&self.state, self.statement.plan.clone())?;
        Ok(self.statement.analyzed.get_or_init(|| found).clone())
    }

    /// What is promised of the plan for a row of parameters, and the plan, analyzed.
    fn told(&self, row: &Params) -> Result<(SchemaRef, LogicalPlan), QueryError> {
        let Understood { plan, parameters, types, .. } = self.statement.as_ref();
        let values = params::bind(parameters, types, row)?;
        if parameters.len() == 0 {
            return Ok(self.as_it_is()?);
        }
        Ok(analyzed(&self.state, plan.clone().with_param_values(values)?)?)
    }

    /// The rows of the statement told a row of parameters, which may have `begun` to run. Where its rows turn out to be
    /// too wide before any was given out, it begins anew with batches of fewer.
    async fn run_row(
        &self,
        row: Option<&Params>,
        schema: &SchemaRef,
        mut begun: Option<SendableRecordBatchStream>,
    ) -> Result<EngineBatches, DataFusionError> {
        let mut state = self.state.clone();
        loop {
            let mut batches = match begun.take() {
                Some(begun) => begun,
                None => {
                    let plan = self.told_alike(row.unwrap_or(&Params::default()), schema);
                    let plan = plan.map_err(|error| DataFusionError::External(Box::new(error)))?;
                    execute_stream(executable(&state, &plan).await?, state.task_ctx())?
                }
            };
            let mut first = batches.next().await;
            while matches!(&first, Some(Ok(batch)) if batch.num_rows() == 0) {
                first = batches.next().await;
            }
            let fewer = match &first {
                Some(Err(error)) => too_wide(error).filter(|wide| wide.rows() < state.config().batch_size()),
                _ => None,
            };
            let Some(wide) = fewer else { return Ok(stream::iter(first).chain(batches).boxed()) };
            *state.config_mut() = state.config().clone().with_batch_size(wide.rows());
        }
    }

    /// The plan for a further row, analyzed, which must give what the first one gives.
    fn told_alike(&self, row: &Params, schema: &SchemaRef) -> Result<LogicalPlan, QueryError> {
        let (promised, plan) = self.told(row)?;
        if promised != *schema {
            return Err(QueryError::invalid("the rows of parameters give results of different types")
                .with_hint("cast the parameters in the statement, as in `CAST($1 AS INT)`"));
        }
        Ok(plan)
    }
}

/// What clients are promised of a plan, its types as they are when it is run; and the plan as it is optimized. One that
/// is explained stays as it was, since that shows how it is analyzed.
fn analyzed(state: &SessionState, plan: LogicalPlan) -> Result<(SchemaRef, LogicalPlan), DataFusionError> {
    let (analyzed, fits) = literals::analyzed(state, &plan)?;
    let schema = if fits { plan.schema() } else { analyzed.schema() };
    let schema = wire_schema(schema.as_arrow());
    Ok((schema, if matches!(plan, LogicalPlan::Explain(_)) { plan } else { analyzed }))
}

/// Makes a plan executable that was analyzed: the engine would analyze it once more.
async fn executable(state: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    if matches!(plan, LogicalPlan::Explain(_)) {
        return state.create_physical_plan(plan).await;
    }
    let optimized = state.optimizer().optimize(plan.clone(), state, |_, _| {})?;
    state.query_planner().create_physical_plan(&optimized, state).await
}

/// Batches of a run, as the engine gives them.
pub(crate) type EngineBatches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

/// A statement whose first plan can be executed: its mistakes have shown, and nothing has been read.
pub(crate) struct Ready {
    planned: Arc<Planned>,
    rows: Arc<[Params]>,
    first: Arc<dyn ExecutionPlan>,
    /// What clients are promised.
    pub(crate) schema: SchemaRef,
}

impl Runnable {
    /// Makes the first plan executable.
    pub(crate) async fn ready(self) -> Result<Ready, QueryError> {
        let Self { planned, rows, first, schema } = self;
        let first = executable(&planned.state, &first).await?;
        Ok(Ready { planned: Arc::new(planned), rows, first, schema })
    }
}

impl Ready {
    /// Whether it reads and makes few rows, as far as that is known.
    pub(crate) fn is_small(&self) -> bool {
        self.rows.len() < 2 && size::is_small(self.first.as_ref())
    }

    /// Begins to run. The plans of further rows of parameters run after the first one, one by one.
    pub(crate) fn run(self) -> Result<EngineBatches, QueryError> {
        let Self { planned, rows, first, schema } = self;
        let mut first = Some(execute_stream(first, planned.state.task_ctx())?);
        let batches = stream::iter(0..rows.len().max(1)).then(move |row| {
            let (planned, rows, schema) = (Arc::clone(&planned), Arc::clone(&rows), Arc::clone(&schema));
            let begun = first.take();
            async move { planned.run_row(rows.get(row), &schema, begun).await }
        });
        Ok(batches.try_flatten().boxed())
    }
}
