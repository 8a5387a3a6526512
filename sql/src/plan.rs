//! A statement planned against one view: what it will give, and its run.
//!
//! The promised schema is that of the plan that is run, passed through `wire_schema`. It is known before anything is
//! read, so a client can be told of it, and every batch is later made to keep it.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, SchemaRef},
};
use datafusion::{
    common::{DataFusionError, TableReference},
    execution::{SessionState, context::SQLOptions},
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, execute_stream},
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use starmere_lake::{corrections::unanswerable, literals};

use crate::{
    error::QueryError,
    params::{self, Params},
    query::size,
    statement::{self, Parameters},
    versions,
    view::View,
    wire::wire_schema,
};

/// A statement that is understood but not yet told its parameters.
pub(crate) struct Planned {
    state: SessionState,
    plan: LogicalPlan,
    parameters: Parameters,
    types: HashMap<String, Option<DataType>>,
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

/// Plans a statement against a view.
///
/// # Errors
/// `Invalid` or `NotFound`, with the place in the text where the planner knows it.
pub(crate) async fn plan(view: &View, sql: &str) -> Result<Planned, QueryError> {
    let mut state = view.context.state();
    // Without it the planner forgets where in the text names stood.
    state.config_mut().options_mut().sql_parser.collect_spans = true;
    let statement = statement::parse(&state, sql)?;
    let plan = match state.statement_to_plan(statement.tree).await {
        Ok(plan) => plan,
        Err(error) => {
            let hint = versions::hint(&view.tables, &error, || named(&state, sql));
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
    Ok(Planned { state, plan, parameters: statement.parameters, types })
}

/// The tables that a statement names.
fn named(state: &SessionState, sql: &str) -> Vec<TableReference> {
    let statement = statement::parse(state, sql).ok();
    statement.and_then(|statement| state.resolve_table_references(&statement.tree).ok()).unwrap_or_default()
}

impl Planned {
    /// The promised schema, as far as it is known without parameters.
    pub(crate) fn schema(&self) -> SchemaRef {
        match analyzed(&self.state, self.plan.clone()) {
            Ok((schema, _)) => schema,
            Err(_) => wire_schema(self.plan.schema().as_arrow()),
        }
    }

    /// The parameters as columns: their names and the types that the plan expects. Where it expects nothing
    /// in particular, text; drivers must be told something.
    pub(crate) fn parameters(&self) -> Vec<Field> {
        let field = |id: String| {
            let wanted = self.types.get(&id).cloned().flatten().unwrap_or(DataType::Utf8);
            Field::new(id, crate::wire::wire_type(&wanted), true)
        };
        self.parameters.ids().into_iter().map(field).collect()
    }

    /// The statement told its parameters: once for each row, once without any where there are no rows. Only the first
    /// plan is made now. Further ones are made when they are run: thousands of large ones would not fit into memory.
    ///
    /// # Errors
    /// `Invalid` where the values of the first row do not fit the placeholders.
    pub(crate) fn bind(self, rows: Arc<[Params]>) -> Result<Runnable, QueryError> {
        let first = self.told(rows.first().unwrap_or(&Params::default()))?;
        let (schema, first) = analyzed(&self.state, first)?;
        Ok(Runnable { planned: self, rows, first, schema })
    }

    /// The plan for a row of parameters.
    fn told(&self, row: &Params) -> Result<LogicalPlan, QueryError> {
        let values = params::bind(&self.parameters, &self.types, row)?;
        let plan = self.plan.clone();
        Ok(if self.parameters.len() == 0 { plan } else { plan.with_param_values(values)? })
    }

    /// The plan for a further row, analyzed, which must give what the first one gives.
    fn told_alike(&self, row: &Params, schema: &SchemaRef) -> Result<LogicalPlan, QueryError> {
        let (promised, plan) = analyzed(&self.state, self.told(row)?)?;
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
        let first = execute_stream(first, planned.state.task_ctx())?;
        let rest = stream::iter(1..rows.len())
            .then(move |row| {
                let (planned, rows, schema) = (Arc::clone(&planned), Arc::clone(&rows), Arc::clone(&schema));
                async move {
                    let plan = planned.told_alike(&rows[row], &schema);
                    let plan = plan.map_err(|error| DataFusionError::External(Box::new(error)))?;
                    execute_stream(executable(&planned.state, &plan).await?, planned.state.task_ctx())
                }
            })
            .try_flatten();
        Ok(first.chain(rest).boxed())
    }
}
