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
    common::DataFusionError,
    dataframe::DataFrame,
    execution::{SessionState, context::SQLOptions},
    logical_expr::LogicalPlan,
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use starmere_lake::{corrections::unanswerable, literals::typed};

use crate::{
    error::QueryError,
    params::{self, Params},
    statement::{self, Parameters},
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

/// A statement that can run: one plan per row of parameters, all of one result type.
pub(crate) struct Runnable {
    state: SessionState,
    plans: Vec<LogicalPlan>,
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
    let plan = state.statement_to_plan(statement.tree).await?;
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    if let Some(why) = unanswerable(&plan)? {
        return Err(QueryError::invalid(why));
    }
    // A parameter that is used as two types has none in particular: the engine coerces it at each place.
    let types = plan.get_parameter_types().unwrap_or_default();
    Ok(Planned { state, plan, parameters: statement.parameters, types })
}

impl Planned {
    /// The promised schema, as far as it is known without parameters.
    pub(crate) fn schema(&self) -> SchemaRef {
        promised(&self.state, &self.plan).unwrap_or_else(|_| wire_schema(self.plan.schema().as_arrow()))
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

    /// The statement told its parameters: once for each row, once without any where there are no rows.
    ///
    /// # Errors
    /// `Invalid` where values do not fit the placeholders, or rows give different result types.
    pub(crate) fn bind(self, rows: &[Params]) -> Result<Runnable, QueryError> {
        let none = [Params::default()];
        let rows = if rows.is_empty() { &none[..] } else { rows };
        let mut plans = Vec::with_capacity(rows.len());
        for row in rows {
            let values = params::bind(&self.parameters, &self.types, row)?;
            let plan = self.plan.clone();
            plans.push(if self.parameters.len() == 0 { plan } else { plan.with_param_values(values)? });
        }
        let schemas = plans.iter().map(|plan| promised(&self.state, plan)).collect::<Result<Vec<_>, _>>()?;
        let schema = schemas.first().cloned().ok_or_else(|| QueryError::internal("a statement without plans"))?;
        if schemas.iter().any(|other| *other != schema) {
            return Err(QueryError::invalid("the rows of parameters give results of different types")
                .with_hint("cast the parameters in the statement, as in `CAST($1 AS INT)`"));
        }
        Ok(Runnable { state: self.state, plans, schema })
    }
}

/// What clients are promised of a plan: its types as they are when it is run.
fn promised(state: &SessionState, plan: &LogicalPlan) -> Result<SchemaRef, DataFusionError> {
    Ok(wire_schema(typed(state, plan.clone())?.schema().as_arrow()))
}

/// Batches of a run, as the engine gives them.
pub(crate) type EngineBatches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

impl Runnable {
    /// Begins to run. The first plan is made executable at once, so that its mistakes show before the answer
    /// begins; the plans of further rows of parameters run after it, one by one.
    pub(crate) async fn run(self) -> Result<(SchemaRef, EngineBatches), QueryError> {
        let Self { state, plans, schema } = self;
        let mut plans = plans.into_iter();
        let first = plans.next().ok_or_else(|| QueryError::internal("a statement without plans"))?;
        let state = Arc::new(state);
        let first = DataFrame::new(state.as_ref().clone(), first).execute_stream().await?;
        let rest = stream::iter(plans)
            .then(move |plan| {
                let state = Arc::clone(&state);
                async move { DataFrame::new(state.as_ref().clone(), plan).execute_stream().await }
            })
            .try_flatten();
        Ok((schema, first.chain(rest).boxed()))
    }
}
