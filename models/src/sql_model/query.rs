//! From SQL to a plan whose answer follows from its inputs alone, and how that answer is kept up to date.
//!
//! *By key.* Take a plan without its aggregate: a tree of joins, projections and filters. Replace the *i*-th of its
//! tables by the rows of it that have changed, those before it by what they are now, those after it by what they were.
//! Over all *i*, these plans give every row that came or went, since each node gives for a union of rows the union of
//! what it gives for each. So the grains of these rows are all grains that a change touches; only rows with them are
//! computed again. A table on the side of an outer join that may be missing is the exception: there the rows of the
//! other side that its changed rows meet are those that change, so the join is made an inner one to find them.
//!
//! Above that tree stand steps that each keep rows of different groups apart: aggregates, by what they group; window
//! functions, by what they partition; and what goes row by row. Of the grain, those columns find rows that every step
//! keeps apart; where several steps share only some of them, all rows with these are computed again.

use std::any::Any;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, NullEquality, TableReference};
use datafusion::datasource::{ViewTable, provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, TableType, Volatility,
    WindowFrameUnits, WindowFunctionDefinition,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionContext, ident};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Statement as SqlStatement, VisitMut};
use futures::FutureExt;
use starmere_lake::corrections::{misread, unanswerable};
use starmere_lake::literals::{planning_session, typed};
use starmere_lake::provider::pinned_schema;
use starmere_lake::sql_times::WithPrecision;

use super::functions;
use super::sums::are_sums;
use super::touched::{Side, met, only_of, spread};
use crate::define::{FieldType, ModelName};
use crate::expression::reason;

/// A table that a query names, and the model behind it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) reference: TableReference,
    pub(crate) model: ModelName,
    pub(crate) schema: SchemaRef,
    /// Of a port: its columns, and the model's that they show.
    pub(crate) columns: Option<Vec<(String, String)>>,
}

/// The parameter of a generated query that stands for how far its rows go in time.
pub(crate) const WATERMARK: &str = "watermark";

/// A query whose answer follows from its inputs.
#[derive(Clone, Debug)]
pub struct Query {
    plan: LogicalPlan,
    /// A query for the value of [`WATERMARK`], where it has one.
    watermark: Option<LogicalPlan>,
    /// The models of the tables that the plan scans, in its order.
    pub scans: Vec<ModelName>,
    pub strategy: Strategy,
}

/// What a query says.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    /// In a user's words.
    Users(String),
    /// In ours, which may have what a user could get wrong: window functions, and [`WATERMARK`] with a query for it.
    Generated { select: String, watermark: Option<String> },
}

/// How the answer is kept up to date.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// Rows with the grains that a change touches are computed again.
    ByKey(Box<ByKey>),
    /// All rows are computed again, for this reason.
    Whole(String),
}

/// What it takes to find the grains that a change touches, and the rows that have them.
#[derive(Clone, Debug)]
pub struct ByKey {
    /// The plan below the aggregate, and the columns of the grain by which rows are found.
    core: Keyed,
    /// So many nodes are above it.
    depth: usize,
    /// Columns of the grain by which rows are found, by their places in it.
    pub parts: Vec<usize>,
    /// For each scan, what finds the rows that its changes touch; or why nothing does.
    touched: Vec<Result<LogicalPlan, String>>,
    /// For each scan, whether it stands on no side of an outer join that may be missing.
    kept: Vec<bool>,
    /// Inner joins of columns of two scans.
    joins: Vec<(Scanned, Scanned)>,
    /// For each scan, whether rows that come into it meet none that were there: new versions of a dimension, joined by the
    /// key of a fact that is keyed by them.
    fresh: Vec<bool>,
    /// No two rows can have one grain.
    pub is_unique: bool,
    /// Whatever is no part of the grain is a sum, so that rows which come add to it.
    pub is_sum: bool,
}

/// A plan, and keys over its columns.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    pub(super) plan: LogicalPlan,
    keys: Vec<Expr>,
}

/// What stands for a model's table while there is none.
#[derive(Debug)]
struct Placeholder {
    model: ModelName,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for Placeholder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal(format!("`{}` has no table here", self.model)))
    }
}

/// A column of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) place: usize,
    pub(crate) model: ModelName,
    pub(crate) column: String,
}

/// By what names scans are known in a core, with their places and models; none where a name stands for anything else, too.
/// What is below a name is known by that alone.
fn names(
    node: &LogicalPlan,
    is_below_a_name: bool,
    place: &mut usize,
    named: &mut HashMap<TableReference, Option<(usize, ModelName)>>,
) {
    let mut name = |reference: &TableReference, scan: Option<(usize, ModelName)>| {
        named.entry(reference.clone()).and_modify(|known| *known = None).or_insert(scan);
    };
    match node {
        LogicalPlan::SubqueryAlias(alias) => {
            name(&alias.alias, scanned(&alias.input).map(|model| (*place, model)));
            names(&alias.input, true, place, named);
        }
        LogicalPlan::TableScan(scan) => {
            if !is_below_a_name {
                name(&scan.table_name, scanned(node).map(|model| (*place, model)));
            }
            *place += 1;
        }
        _ => node.inputs().into_iter().for_each(|input| names(input, is_below_a_name, place, named)),
    }
}

/// The columns of scans that inner joins of a core hold equal.
fn joins(core: &LogicalPlan) -> Vec<(Scanned, Scanned)> {
    let (mut named, mut equal) = (HashMap::new(), Vec::new());
    names(core, false, &mut 0, &mut named);
    let walked = core.apply(|node| {
        if let LogicalPlan::Join(join) = node
            && join.join_type == JoinType::Inner
        {
            equal.extend(join.on.iter().cloned());
            for part in join.filter.iter().flat_map(|filter| split_conjunction(filter)) {
                if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part {
                    equal.push((left.as_ref().clone(), right.as_ref().clone()));
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let column = |expr: &Expr| {
        let Expr::Column(Column { relation: Some(relation), name, .. }) = expr else { return None };
        let (place, model) = named.get(relation)?.clone()?;
        Some(Scanned { place, model, column: name.clone() })
    };
    let found = equal.iter().filter_map(|(one, other)| Some((column(one)?, column(other)?)));
    if walked.is_ok() { found.collect() } else { Vec::new() }
}

/// The model that a node scans.
pub(super) fn scanned(node: &LogicalPlan) -> Option<ModelName> {
    let LogicalPlan::TableScan(scan) = node else { return None };
    let provider = source_as_provider(&scan.source).ok()?;
    let placeholder = (provider.as_ref() as &dyn Any).downcast_ref::<Placeholder>()?;
    Some(placeholder.model.clone())
}

fn parsed(sql: &str) -> Result<Statement, String> {
    let state = SessionContext::new().state();
    let dialect = state.config().options().sql_parser.dialect;
    match state.sql_to_statement(sql, &dialect).map_err(|error| reason(&error))? {
        Statement::Statement(mut inner) if matches!(inner.as_ref(), SqlStatement::Query(_)) => {
            let _walked = VisitMut::visit(inner.as_mut(), &mut WithPrecision);
            misread(inner.as_ref()).map_or(Ok(Statement::Statement(inner)), Err)
        }
        _ => Err("not a SELECT".to_owned()),
    }
}

/// The tables that a query names.
pub(crate) fn table_names(sql: &str) -> Result<Vec<TableReference>, String> {
    let statement = parsed(sql)?;
    SessionContext::new().state().resolve_table_references(&statement).map_err(|error| reason(&error))
}

impl Query {
    /// Plans `text` over `sources`; `grain` tells its rows apart.
    pub(crate) fn new(text: &Text, sources: &[Source], grain: &[String]) -> Result<Self, String> {
        let context = planning_session();
        let (sql, watermark, generated) = match text {
            Text::Users(sql) => (sql, None, false),
            Text::Generated { select, watermark } => (select, watermark.as_ref(), true),
        };
        if generated {
            functions::all().into_iter().for_each(|function| context.register_udf(function));
        }
        for source in sources {
            register(&context, source).map_err(|error| reason(&error))?;
        }
        let state = context.state();
        let planned = |sql: &str| {
            // All tables are in memory, so nothing is waited for.
            let planned = state.statement_to_plan(parsed(sql)?).now_or_never();
            planned.ok_or("it cannot be planned")?.map_err(|error| reason(&error))
        };
        let plan = planned(sql)?;
        let watermark = watermark.map(|sql| planned(sql)).transpose()?;
        check(&plan, generated)?;
        let plan = typed(&state, plan).map_err(|error| reason(&error))?;
        check(&plan, generated)?;
        let mut scans = Vec::new();
        plan.apply_with_subqueries(|node| {
            scans.extend(scanned(node));
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(|error| reason(&error))?;
        let has_grain = grain.iter().all(|name| plan.schema().index_of_column_by_name(None, name).is_some());
        let strategy = match has_grain.then(|| by_key(&plan, grain)) {
            Some(Ok(by_key)) => Strategy::ByKey(Box::new(by_key)),
            Some(Err(why)) => Strategy::Whole(why),
            None => Strategy::Whole("its grain is not among its columns".to_owned()),
        };
        Ok(Self { plan, watermark, scans, strategy })
    }

    /// Whether it puts rows together.
    pub(crate) fn aggregates(&self) -> bool {
        let mut found = false;
        let walked = self.plan.apply(|node| {
            found |= matches!(node, LogicalPlan::Aggregate(_));
            Ok(TreeNodeRecursion::Continue)
        });
        found || walked.is_err()
    }

    /// Names and types of the answer's columns.
    pub fn columns(&self) -> Vec<(String, DataType)> {
        self.plan.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    }

    /// The plan over the tables that `table` gives for each scan, by its place and model.
    pub(crate) fn over(&self, table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>) -> PlanResult<LogicalPlan> {
        over(&self.plan, table)
    }

    /// The columns of each model that the answer depends on.
    pub(crate) fn reads(&self, state: &SessionState) -> PlanResult<HashMap<ModelName, BTreeSet<String>>> {
        let mut reads: HashMap<ModelName, BTreeSet<String>> = HashMap::new();
        state.optimize(&self.plan)?.apply_with_subqueries(|node| {
            if let (LogicalPlan::TableScan(scan), Some(model)) = (node, scanned(node)) {
                let names = scan.projected_schema.fields().iter().map(|field| field.name().clone());
                reads.entry(model).or_default().extend(names);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(reads)
    }

    /// The plan of the watermark, where there is one, over the tables that `table` gives.
    pub(crate) fn watermark(
        &self,
        table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>,
    ) -> PlanResult<Option<LogicalPlan>> {
        self.watermark.as_ref().map(|plan| over(plan, table)).transpose()
    }
}

impl Keyed {
    /// The plan, of the rows whose keys are in `keys` only.
    pub(super) fn restricted(
        &self,
        keys: Arc<dyn TableProvider>,
        table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>,
    ) -> PlanResult<LogicalPlan> {
        let core = over(&self.plan, &table)?;
        let columns: Vec<Expr> = core.schema().columns().into_iter().map(Expr::Column).collect();
        let named = self.keys.iter().enumerate().map(|(number, key)| key.clone().alias(wanted(number)));
        let with_keys = LogicalPlanBuilder::from(core).project(columns.iter().cloned().chain(named))?;
        let right = LogicalPlanBuilder::scan(KEYS, provider_as_source(keys), None)?.build()?;
        let numbers = 0..self.keys.len();
        let join_keys: (Vec<Column>, Vec<Column>) = (
            numbers.clone().map(|number| Column::new_unqualified(wanted(number))).collect(),
            numbers.map(|number| Column::new(Some(TableReference::bare(KEYS)), key_name(number))).collect(),
        );
        let joined =
            with_keys.join_detailed(right, JoinType::LeftSemi, join_keys, None, NullEquality::NullEqualsNull)?;
        joined.project(columns)?.build()
    }
}

/// The only table that a plan is over, in its rows as they are or some of them.
pub(super) fn only_scan(plan: &LogicalPlan) -> Option<&LogicalPlan> {
    let mut below = plan;
    while let ([only], false) = (below.inputs().as_slice(), matches!(below, LogicalPlan::TableScan(_))) {
        below = only;
    }
    matches!(below, LogicalPlan::TableScan(_)).then_some(below)
}

/// The branches of a union, over the columns that they have below what they give to it. None where the keys are lost.
fn branches_of(plan: &LogicalPlan, keys: &[Expr], branches: &mut Vec<Keyed>) -> Option<()> {
    let below = |input: &LogicalPlan, of: &dyn Fn(usize) -> Option<Expr>, branches: &mut Vec<Keyed>| {
        let keys: Option<Vec<Expr>> = keys.iter().map(|key| substituted(key, plan, &of)).collect();
        branches_of(input, &keys?, branches)
    };
    match plan {
        LogicalPlan::Union(union) => {
            union.inputs.iter().try_for_each(|input| below(input, &|place| Some(output(input, place)), branches))
        }
        LogicalPlan::Projection(projection) => {
            below(&projection.input, &|place| Some(projection.expr.get(place)?.clone().unalias()), branches)
        }
        LogicalPlan::SubqueryAlias(alias) if only_scan(&alias.input).is_none() => {
            below(&alias.input, &|place| Some(output(&alias.input, place)), branches)
        }
        _ => {
            branches.push(Keyed { plan: plan.clone(), keys: keys.to_vec() });
            Some(())
        }
    }
}

impl ByKey {
    /// A plan of the grains that changes of the scan at `place` touch; none where they cannot be found.
    pub(crate) fn touched(
        &self,
        place: usize,
        table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>,
    ) -> PlanResult<Option<LogicalPlan>> {
        let Ok(plan) = &self.touched[place] else { return Ok(None) };
        let keys = self.core.keys.iter().enumerate().map(|(number, key)| key.clone().alias(key_name(number)));
        LogicalPlanBuilder::from(over(plan, table)?).project(keys)?.distinct()?.build().map(Some)
    }

    /// The plan of `query`, of the rows whose grain is in `keys` (columns named by [`key_name`]) only.
    pub(crate) fn restricted(
        &self,
        query: &Query,
        keys: Arc<dyn TableProvider>,
        table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>,
    ) -> PlanResult<LogicalPlan> {
        let core = self.core.restricted(keys, table)?;
        fn above(plan: &LogicalPlan, depth: usize, core: LogicalPlan) -> PlanResult<LogicalPlan> {
            match (depth, plan.inputs().as_slice()) {
                (0, _) => Ok(core),
                (_, [input]) => plan.with_new_exprs(plan.expressions(), vec![above(input, depth - 1, core)?]),
                _ => Err(DataFusionError::Internal("a plan above its core has one input".to_owned())),
            }
        }
        above(&query.plan, self.depth, core)
    }

    /// The core, or of a core that is a union its branches.
    pub(super) fn branches(&self) -> Vec<Keyed> {
        let mut branches = Vec::new();
        match branches_of(&self.core.plan, &self.core.keys, &mut branches) {
            Some(()) => branches,
            None => vec![self.core.clone()],
        }
    }

    /// Whether rows that come into the scan at `place` take nothing from the answer's.
    pub(crate) fn is_kept(&self, place: usize) -> bool {
        self.kept[place]
    }

    /// Whether rows that come into the scan at `place` meet none of those that were there.
    pub(crate) fn is_fresh(&self, place: usize) -> bool {
        self.fresh[place]
    }

    /// Told of inner joins of two scans' columns, says whether the first is a dimension's key and the second a fact's that is
    /// keyed by it.
    pub(crate) fn know_keys(&mut self, is_key_of: impl Fn(&Scanned, &Scanned) -> bool) {
        for (one, other) in &self.joins {
            for (dimension, fact) in [(one, other), (other, one)] {
                self.fresh[dimension.place] |= is_key_of(dimension, fact);
            }
        }
    }

    /// Why changes of the scan at `place` have all rows computed again; none where they do not.
    pub fn why_whole(&self, place: usize) -> Option<&str> {
        self.touched[place].as_ref().err().map(String::as_str)
    }
}

/// The table of grains that are wanted; names that no model has.
const KEYS: &str = "$keys";

/// The name of a part of the grain in a plan of touched grains.
pub(crate) fn key_name(number: usize) -> String {
    format!("$key_{number}")
}

/// The same, beside the columns of a core.
fn wanted(number: usize) -> String {
    format!("$wanted_{number}")
}

fn over(plan: &LogicalPlan, table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>) -> PlanResult<LogicalPlan> {
    let mut place = 0;
    let replaced = plan.clone().transform_down_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        let Some(model) = scanned(&node) else { return Ok(Transformed::no(node)) };
        let source = provider_as_source(table(place, &model));
        place += 1;
        let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.build()?;
        Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump))
    });
    replaced.map(|replaced| replaced.data)
}

fn register(context: &SessionContext, source: &Source) -> PlanResult<()> {
    let schema = pinned_schema(&source.schema);
    let table: Arc<dyn TableProvider> = Arc::new(Placeholder { model: source.model.clone(), schema });
    let table = match &source.columns {
        None => table,
        Some(columns) => {
            let columns = columns.iter().map(|(name, from)| ident(from).alias(name));
            let name = source.reference.table().to_owned();
            let plan = LogicalPlanBuilder::scan(name, provider_as_source(table), None)?.project(columns)?.build()?;
            Arc::new(ViewTable::new(plan, None))
        }
    };
    let list = context.state().catalog_list().clone();
    let options = context.state().config().options().catalog.clone();
    let catalog = source.reference.catalog().unwrap_or(&options.default_catalog);
    let schema = source.reference.schema().unwrap_or(&options.default_schema);
    let catalog = match list.catalog(catalog) {
        Some(catalog) => catalog,
        None => {
            list.register_catalog(catalog.to_owned(), Arc::new(MemoryCatalogProvider::new()));
            list.catalog(catalog).ok_or_else(|| DataFusionError::Internal(format!("no catalog `{catalog}`")))?
        }
    };
    let tables: Arc<dyn SchemaProvider> = match catalog.schema(schema) {
        Some(tables) => tables,
        None => {
            let tables = Arc::new(MemorySchemaProvider::new());
            catalog.register_schema(schema, tables.clone())?;
            tables
        }
    };
    tables.register_table(source.reference.table().to_owned(), table).map(drop)
}

/// Refuses what does not follow from the rows of the inputs alone.
fn check(plan: &LogicalPlan, generated: bool) -> Result<(), String> {
    let mut refused = unanswerable(plan).map_err(|error| reason(&error))?.map(str::to_owned);
    let walked = plan.apply_with_subqueries(|node| {
        let of_node = match node {
            LogicalPlan::Limit(_) => {
                Some("LIMIT and OFFSET keep rows by their order, which rows of a table do not have")
            }
            LogicalPlan::Distinct(Distinct::On(_)) => Some("DISTINCT ON keeps one row of several by their order"),
            LogicalPlan::RecursiveQuery(_) => Some("a recursive query may never end"),
            LogicalPlan::TableScan(_) if scanned(node).is_none() => {
                Some("a function that gives a table has no place here; a column of lists does, with `unnest`")
            }
            _ => None,
        };
        refused = refused.take().or(of_node.map(str::to_owned));
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                refused = refused.take().or_else(|| unstable(part, node, generated));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    match (refused, walked) {
        (Some(refused), _) => Err(refused),
        (None, Err(error)) => Err(reason(&error)),
        (None, Ok(_)) => Ok(()),
    }
}

/// Aggregates whose answer does not depend on the order of rows, whatever they are over.
const ANY_ORDER: [&str; 9] = ["count", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor", "grouping"];
/// The same, over integers and decimals.
const EXACT: [&str; 2] = ["sum", "avg"];

/// Window functions that give rows of equal order the same.
const RANKS: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];

/// Why a window function of a user would not give the same answer every day.
fn unstable_window(call: &WindowFunction, node: &LogicalPlan) -> Option<String> {
    match &call.fun {
        WindowFunctionDefinition::AggregateUDF(function) => {
            let is_framed = call.params.window_frame.units == WindowFrameUnits::Rows;
            let has_order = !call.params.order_by.is_empty();
            if is_framed && has_order {
                return Some("ROWS of a window depend on the order of rows that may be equal; write RANGE".to_owned());
            }
            unstable_aggregate(function.name(), call.params.args.first(), node)
        }
        WindowFunctionDefinition::WindowUDF(function) => (!RANKS.contains(&function.name())).then(|| {
            let name = function.name();
            format!("`{name}` depends on the order of rows that may be equal; use `rank`, join the table with itself, or aggregate it")
        }),
    }
}

/// Why an aggregate would depend on the order of rows.
fn unstable_aggregate(name: &str, of: Option<&Expr>, node: &LogicalPlan) -> Option<String> {
    if ANY_ORDER.contains(&name) {
        return None;
    }
    if !EXACT.contains(&name) {
        return Some(format!("`{name}` may depend on the order of rows"));
    }
    let inputs = node.inputs();
    let of = of?.get_type(inputs.first()?.schema()).ok()?;
    let is_exact = match name {
        "avg" => matches!(of, DataType::Decimal128(..)),
        _ => of.is_integer() || matches!(of, DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Null),
    };
    let hint = if name == "avg" && of.is_integer() { "; divide sums as decimals" } else { "" };
    (!is_exact).then(|| {
        format!("`{name}` of {} depends on the order of rows; cast to a decimal{hint}", FieldType::name_of(&of))
    })
}

/// Why an expression would not give the same answer every day.
fn unstable(expression: &Expr, node: &LogicalPlan, generated: bool) -> Option<String> {
    match expression {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            Some(format!("`{}` does not give the same answer every day", call.func.name()))
        }
        Expr::Placeholder(_) if !generated => Some("a parameter has no value here".to_owned()),
        Expr::WindowFunction(call) if !generated => unstable_window(call, node),
        Expr::AggregateFunction(call) => {
            let is_ordered = generated && !call.params.order_by.is_empty();
            if is_ordered { None } else { unstable_aggregate(call.func.name(), call.params.args.first(), node) }
        }
        _ => None,
    }
}

/// The column at a place of a plan's output.
fn output(plan: &LogicalPlan, place: usize) -> Expr {
    Expr::Column(Column::from(plan.schema().qualified_field(place)))
}

/// A column of the grain, by its place in it, as an expression over a node's output.
type Key = (usize, Expr);

/// `key` with each column replaced by what `of` gives for its place in the output of `node`; none where it gives none.
fn substituted(key: &Expr, node: &LogicalPlan, of: &impl Fn(usize) -> Option<Expr>) -> Option<Expr> {
    let mut is_there = true;
    let replaced = key.clone().transform(|part| match &part {
        Expr::Column(column) => {
            let found = node.schema().index_of_column(column).ok().and_then(of);
            is_there &= found.is_some();
            Ok(found.map_or(Transformed::no(part), Transformed::yes))
        }
        _ => Ok(Transformed::no(part)),
    });
    replaced.ok().filter(|_| is_there).map(|replaced| replaced.data)
}

/// How the rows of `plan` are found by their grain, or by columns of it; or why they are not.
fn by_key(plan: &LogicalPlan, grain: &[String]) -> Result<ByKey, String> {
    let place = |name: &String| plan.schema().index_of_column_by_name(None, name).unwrap_or_default();
    let mut keys: Vec<Key> = grain.iter().enumerate().map(|(part, name)| (part, output(plan, place(name)))).collect();
    let (mut node, mut depth) = (plan, 0);
    // Whether the grain is all that is grouped by, once there is a grouping.
    let mut is_unique: Option<bool> = None;
    // Where a WHERE stands right above the core, the core begins there.
    let mut last_filter = None;
    loop {
        let mut filter = None;
        // What keeps no rows with different values of a column apart, in words.
        let mut mixes = "";
        let (input, kept): (&LogicalPlan, Vec<Option<Expr>>) = match node {
            LogicalPlan::Projection(projection) => {
                let of = |place: usize| projection.expr.get(place).map(|expr| expr.clone().unalias());
                (projection.input.as_ref(), keys.iter().map(|(_, key)| substituted(key, node, &of)).collect())
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let of = |place| Some(output(&alias.input, place));
                (alias.input.as_ref(), keys.iter().map(|(_, key)| substituted(key, node, &of)).collect())
            }
            LogicalPlan::Sort(sort) => (sort.input.as_ref(), keys.iter().map(|(_, key)| Some(key.clone())).collect()),
            LogicalPlan::Filter(having) => {
                filter = Some((node, depth));
                (having.input.as_ref(), keys.iter().map(|(_, key)| Some(key.clone())).collect())
            }
            LogicalPlan::Unnest(unnest) => {
                is_unique = is_unique.or(Some(false));
                mixes = "its grain comes from lists that are unnested";
                let lists: Vec<usize> = unnest.list_type_columns.iter().map(|(place, _)| *place).collect();
                let of = |place: usize| {
                    let from = *unnest.dependency_indices.get(place)?;
                    let is_plain = !lists.contains(&from) && !unnest.struct_type_columns.contains(&from);
                    is_plain.then(|| output(&unnest.input, from))
                };
                (unnest.input.as_ref(), keys.iter().map(|(_, key)| substituted(key, node, &of)).collect())
            }
            LogicalPlan::Window(window) => {
                mixes = "its grain is not among what a window function is partitioned by";
                let inputs = window.input.schema().fields().len();
                let of = |place: usize| (place < inputs).then(|| output(&window.input, place));
                let partitions = |key: &Expr| {
                    window.window_expr.iter().all(|call| match call.clone().unalias() {
                        Expr::WindowFunction(call) => call.params.partition_by.contains(key),
                        _ => false,
                    })
                };
                let kept = keys.iter().map(|(_, key)| substituted(key, node, &of).filter(&partitions));
                (window.input.as_ref(), kept.collect())
            }
            LogicalPlan::Aggregate(aggregate) => {
                mixes = "its grain is computed by an aggregate";
                if aggregate.group_expr.iter().any(|group| matches!(group, Expr::GroupingSet(_))) {
                    return Err("it groups by several sets".to_owned());
                }
                is_unique = is_unique.or(Some(are_all(&keys, grain.len(), aggregate.group_expr.len())));
                let of = |place: usize| aggregate.group_expr.get(place).map(|group| group.clone().unalias());
                (aggregate.input.as_ref(), keys.iter().map(|(_, key)| substituted(key, node, &of)).collect())
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                is_unique = is_unique.or(Some(are_all(&keys, grain.len(), input.schema().fields().len())));
                (input.as_ref(), keys.iter().map(|(_, key)| Some(key.clone())).collect())
            }
            _ => break,
        };
        keys = keys.iter().zip(kept).filter_map(|(&(part, _), key)| Some((part, key?))).collect();
        if keys.is_empty() {
            return Err(mixes.to_owned());
        }
        last_filter = filter;
        (node, depth) = (input, depth + 1);
    }
    let bare = node;
    let (core, depth) = last_filter.unwrap_or((bare, depth));
    let mut scans = Vec::new();
    spread(bare, &mut scans)?;
    no_subqueries(plan)?;
    let (parts, keys): (Vec<usize>, Vec<Expr>) = keys.into_iter().unzip();
    let touched = scans.iter().enumerate().map(|side| match side {
        (place, Side::Kept) => {
            let mut seen = 0;
            only_of(core, place, &mut seen).map_err(|error| reason(&error))
        }
        (_, Side::MayBeMissing(join, scans)) => met(bare, join, scans, &keys),
        (_, Side::Deep) => Err("outer joins stand within each other's missing side".to_owned()),
    });
    let touched = touched.collect();
    let kept = scans.iter().map(|side| matches!(side, Side::Kept)).collect();
    let is_unique = is_unique.unwrap_or_default();
    let (joins, fresh) = (joins(core), vec![false; scans.len()]);
    let is_sum = is_unique && parts.len() == grain.len() && are_sums(plan, grain);
    let core = Keyed { plan: core.clone(), keys };
    Ok(ByKey { core, depth, parts, touched, kept, joins, fresh, is_unique, is_sum })
}

/// Whether the keys are all of the grain, and so many columns as they stand: what is made of a column may be the same
/// for several.
fn are_all(keys: &[Key], grain: usize, columns: usize) -> bool {
    let plain: HashSet<&Expr> = keys.iter().map(|(_, key)| key).filter(|key| matches!(key, Expr::Column(_))).collect();
    keys.len() == grain && plain.len() == columns
}

fn no_subqueries(plan: &LogicalPlan) -> Result<(), String> {
    let mut found = false;
    plan.apply(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                found |= matches!(
                    part,
                    Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
                );
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })
    .map_err(|error| reason(&error))?;
    if found { Err("it has a query within its expressions".to_owned()) } else { Ok(()) }
}
