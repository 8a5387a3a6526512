//! From SQL to a plan whose answer follows from its inputs alone, and how that answer is kept up to date.
//!
//! *By key.* Take a plan without its aggregate: a tree of joins, projections and filters. Replace the *i*-th of its
//! tables by the rows of it that have changed, those before it by what they are now, those after it by what they were.
//! Over all *i*, these plans give every row that came or went, since each node gives for a union of rows the union of
//! what it gives for each. So the grains of these rows are all grains that a change touches; only rows with them are
//! computed again. A table on the side of an outer join that may be missing is the exception: there the rows of the
//! other side that its changed rows meet are those that change, so the join is made an inner one to find them.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, NullEquality, TableReference};
use datafusion::datasource::{ViewTable, provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, TableType, Volatility,
    build_join_schema,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionContext, ident};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use futures::FutureExt;
use starmere_lake::provider::pinned_schema;

use crate::define::ModelName;
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

/// A query whose answer follows from its inputs.
#[derive(Clone, Debug)]
pub struct Query {
    plan: LogicalPlan,
    /// The models of the tables that the plan scans, in its order.
    pub scans: Vec<ModelName>,
    pub strategy: Strategy,
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
    /// The plan below the aggregate.
    core: LogicalPlan,
    /// So many nodes are above it.
    depth: usize,
    /// The grain, over the core's columns.
    keys: Vec<Expr>,
    /// For each scan, what finds the rows that its changes touch; or why nothing does.
    touched: Vec<Result<LogicalPlan, String>>,
    /// No two rows can have one grain.
    pub is_unique: bool,
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

/// The model that a node scans.
fn scanned(node: &LogicalPlan) -> Option<ModelName> {
    let LogicalPlan::TableScan(scan) = node else { return None };
    let provider = source_as_provider(&scan.source).ok()?;
    let placeholder = (provider.as_ref() as &dyn Any).downcast_ref::<Placeholder>()?;
    Some(placeholder.model.clone())
}

fn parsed(sql: &str) -> Result<Statement, String> {
    let state = SessionContext::new().state();
    let dialect = state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect).map_err(|error| reason(&error))?;
    match &statement {
        Statement::Statement(inner) if matches!(inner.as_ref(), SqlStatement::Query(_)) => Ok(statement),
        _ => Err("not a SELECT".to_owned()),
    }
}

/// The tables that a query names.
pub(crate) fn table_names(sql: &str) -> Result<Vec<TableReference>, String> {
    let statement = parsed(sql)?;
    SessionContext::new().state().resolve_table_references(&statement).map_err(|error| reason(&error))
}

impl Query {
    /// Plans `sql` over `sources`; `grain` tells its rows apart.
    pub(crate) fn new(sql: &str, sources: &[Source], grain: &[String]) -> Result<Self, String> {
        let context = SessionContext::new();
        for source in sources {
            register(&context, source).map_err(|error| reason(&error))?;
        }
        let state = context.state();
        // All tables are in memory, so nothing is waited for.
        let planned = state.statement_to_plan(parsed(sql)?).now_or_never();
        let plan = planned.ok_or("it cannot be planned")?.map_err(|error| reason(&error))?;
        check(&plan)?;
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
        Ok(Self { plan, scans, strategy })
    }

    /// Names and types of the answer's columns.
    pub fn columns(&self) -> Vec<(String, DataType)> {
        self.plan.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    }

    /// The plan over the tables that `table` gives for each scan, by its place and model.
    pub(crate) fn over(&self, table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>) -> PlanResult<LogicalPlan> {
        over(&self.plan, table)
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
        let keys = self.keys.iter().enumerate().map(|(number, key)| key.clone().alias(key_name(number)));
        LogicalPlanBuilder::from(over(plan, table)?).project(keys)?.distinct()?.build().map(Some)
    }

    /// The plan of `query`, of the rows whose grain is in `keys` (columns named by [`key_name`]) only.
    pub(crate) fn restricted(
        &self,
        query: &Query,
        keys: Arc<dyn TableProvider>,
        table: impl Fn(usize, &ModelName) -> Arc<dyn TableProvider>,
    ) -> PlanResult<LogicalPlan> {
        let core = over(&self.core, &table)?;
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
        let core = joined.project(columns)?.build()?;
        fn above(plan: &LogicalPlan, depth: usize, core: LogicalPlan) -> PlanResult<LogicalPlan> {
            match (depth, plan.inputs().as_slice()) {
                (0, _) => Ok(core),
                (_, [input]) => plan.with_new_exprs(plan.expressions(), vec![above(input, depth - 1, core)?]),
                _ => Err(DataFusionError::Internal("a plan above its core has one input".to_owned())),
            }
        }
        above(&query.plan, self.depth, core)
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
fn check(plan: &LogicalPlan) -> Result<(), String> {
    let mut refused: Option<String> = None;
    let walked = plan.apply_with_subqueries(|node| {
        let of_node = match node {
            LogicalPlan::Limit(_) => Some("LIMIT and OFFSET keep rows by their order, which rows of a table do not have"),
            LogicalPlan::Window(_) => {
                Some("a window function depends on the order of rows that may be equal; join the table with itself, or aggregate it")
            }
            LogicalPlan::Distinct(Distinct::On(_)) => Some("DISTINCT ON keeps one row of several by their order"),
            LogicalPlan::RecursiveQuery(_) => Some("a recursive query may never end"),
            _ => None,
        };
        refused = refused.take().or(of_node.map(str::to_owned));
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                refused = refused.take().or_else(|| unstable(part, node));
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

/// Why an expression would not give the same answer every day.
fn unstable(expression: &Expr, node: &LogicalPlan) -> Option<String> {
    match expression {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            Some(format!("`{}` does not give the same answer every day", call.func.name()))
        }
        Expr::Placeholder(_) => Some("a parameter has no value here".to_owned()),
        Expr::AggregateFunction(call) => {
            let name = call.func.name();
            if ANY_ORDER.contains(&name) {
                return None;
            }
            if !EXACT.contains(&name) {
                return Some(format!("`{name}` may depend on the order of rows"));
            }
            let inputs = node.inputs();
            let of = call.params.args.first()?.get_type(inputs.first()?.schema()).ok()?;
            let is_exact = match name {
                "avg" => matches!(of, DataType::Decimal128(..)),
                _ => of.is_integer() || matches!(of, DataType::Decimal128(..) | DataType::Null),
            };
            let hint = if name == "avg" && of.is_integer() { "; divide sums as decimals" } else { "" };
            (!is_exact).then(|| format!("`{name}` of {of} depends on the order of rows; cast to a decimal{hint}"))
        }
        _ => None,
    }
}

/// The column at a place of a plan's output.
fn output(plan: &LogicalPlan, place: usize) -> Expr {
    Expr::Column(Column::from(plan.schema().qualified_field(place)))
}

/// `keys` with each column replaced by what `of` gives for its place in the output of `node`.
fn substituted(
    keys: Vec<Expr>,
    node: &LogicalPlan,
    of: impl Fn(usize) -> Result<Expr, String>,
) -> Result<Vec<Expr>, String> {
    let replaced = keys.into_iter().map(|key| {
        let replaced = key.transform(|part| match &part {
            Expr::Column(column) => {
                let place = node.schema().index_of_column(column)?;
                of(place).map(Transformed::yes).map_err(DataFusionError::Plan)
            }
            _ => Ok(Transformed::no(part)),
        });
        replaced.map(|replaced| replaced.data).map_err(|error| reason(&error))
    });
    replaced.collect()
}

/// How the rows of `plan` are found by their grain; or why they are not.
fn by_key(plan: &LogicalPlan, grain: &[String]) -> Result<ByKey, String> {
    let place = |name: &String| plan.schema().index_of_column_by_name(None, name).unwrap_or_default();
    let mut keys: Vec<Expr> = grain.iter().map(|name| output(plan, place(name))).collect();
    let (mut node, mut depth) = (plan, 0);
    // Whether the grain is all that is grouped by, once there is a grouping.
    let mut is_unique: Option<bool> = None;
    // Where a WHERE stands right above the core, the core begins there.
    let mut last_filter = None;
    loop {
        let mut filter = None;
        let input = match node {
            LogicalPlan::Projection(projection) => {
                keys = substituted(keys, node, |place| Ok(projection.expr[place].clone().unalias()))?;
                &projection.input
            }
            LogicalPlan::SubqueryAlias(alias) => {
                keys = substituted(keys, node, |place| Ok(output(&alias.input, place)))?;
                &alias.input
            }
            LogicalPlan::Sort(sort) => &sort.input,
            LogicalPlan::Filter(having) => {
                filter = Some((node, depth));
                &having.input
            }
            LogicalPlan::Aggregate(aggregate) if is_unique.is_none() => {
                is_unique = Some(are_all(&keys, aggregate.group_expr.len()));
                keys = substituted(keys, node, |place| group(aggregate, place))?;
                &aggregate.input
            }
            LogicalPlan::Distinct(Distinct::All(input)) if is_unique.is_none() => {
                is_unique = Some(are_all(&keys, input.schema().fields().len()));
                input
            }
            _ => break,
        };
        last_filter = filter;
        (node, depth) = (input.as_ref(), depth + 1);
    }
    let bare = node;
    let (core, depth) = last_filter.unwrap_or((bare, depth));
    let mut scans = Vec::new();
    spread(bare, &mut scans)?;
    no_subqueries(plan)?;
    let touched = scans.iter().map(|side| match side {
        Side::Kept => Ok(core.clone()),
        Side::MayBeMissing(join) => met(bare, join, &keys),
        Side::Deep => Err("outer joins stand within each other's missing side".to_owned()),
    });
    let touched = touched.collect();
    Ok(ByKey { core: core.clone(), depth, keys, touched, is_unique: is_unique.unwrap_or_default() })
}

/// Whether the keys are so many columns as they stand: what is made of a column may be the same for several.
fn are_all(keys: &[Expr], columns: usize) -> bool {
    let plain: HashSet<&Expr> = keys.iter().filter(|key| matches!(key, Expr::Column(_))).collect();
    plain.len() == columns
}

/// The expression of a group, by its place in the aggregate's output.
fn group(aggregate: &Aggregate, place: usize) -> Result<Expr, String> {
    if aggregate.group_expr.iter().any(|group| matches!(group, Expr::GroupingSet(_))) {
        return Err("it groups by several sets".to_owned());
    }
    let group = aggregate.group_expr.get(place);
    group.map(|group| group.clone().unalias()).ok_or_else(|| "its grain is computed by the aggregate".to_owned())
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

/// Where a scan stands among outer joins.
#[derive(Clone)]
enum Side {
    Kept,
    /// On the side of this join whose rows may be missing.
    MayBeMissing(Join),
    /// On such sides of several joins.
    Deep,
}

/// The sides of the scans of a core, in order; or why it is none.
fn spread(node: &LogicalPlan, sides: &mut Vec<Side>) -> Result<(), String> {
    match node {
        LogicalPlan::TableScan(_) => sides.push(Side::Kept),
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {}
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_) => node.inputs().into_iter().try_for_each(|input| spread(input, sides))?,
        LogicalPlan::Join(join) => {
            let before = sides.len();
            spread(&join.left, sides)?;
            let middle = sides.len();
            spread(&join.right, sides)?;
            let missing = match join.join_type {
                JoinType::Inner => 0..0,
                JoinType::Left => middle..sides.len(),
                JoinType::Right => before..middle,
                other => return Err(format!("it has a {other} join")),
            };
            for side in &mut sides[missing] {
                *side = match side {
                    Side::Kept => Side::MayBeMissing(join.clone()),
                    _ => Side::Deep,
                };
            }
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => return Err("it aggregates more than once".to_owned()),
        other => return Err(format!("it has a step that is not followed: {}", other.display())),
    }
    Ok(())
}

/// The core with `outer` as an inner join, and without filters above it: its rows are those that changes of the side
/// that may be missing meet. `None` where what stands above looks at that side.
fn met(bare: &LogicalPlan, outer: &Join, keys: &[Expr]) -> Result<LogicalPlan, String> {
    let missing = if outer.join_type == JoinType::Left { &outer.right } else { &outer.left };
    let looks =
        |expression: &Expr| expression.column_refs().into_iter().any(|column| missing.schema().has_column(column));
    let wrong = || "its grain, or another join, looks at the side of an outer join that may be missing".to_owned();
    if keys.iter().any(looks) {
        return Err(wrong());
    }
    fn inner(node: &LogicalPlan, outer: &Join, looks: &dyn Fn(&Expr) -> bool) -> Result<Option<LogicalPlan>, ()> {
        let LogicalPlan::Join(join) = node else { return Ok(None) };
        let rebuilt = |join: Join| {
            let schema = build_join_schema(join.left.schema(), join.right.schema(), &join.join_type).map_err(|_| ())?;
            Ok(Some(LogicalPlan::Join(Join { schema: Arc::new(schema), ..join })))
        };
        if join == outer {
            return rebuilt(Join { join_type: JoinType::Inner, ..join.clone() });
        }
        let (left, right) = (inner(&join.left, outer, looks)?, inner(&join.right, outer, looks)?);
        if left.is_none() && right.is_none() {
            return Ok(None);
        }
        if join.on.iter().any(|(a, b)| looks(a) || looks(b)) || join.filter.iter().any(looks) {
            return Err(());
        }
        let left = left.map_or_else(|| join.left.clone(), Arc::new);
        let right = right.map_or_else(|| join.right.clone(), Arc::new);
        rebuilt(Join { left, right, ..join.clone() })
    }
    inner(bare, outer, &looks).ok().flatten().ok_or_else(wrong)
}
