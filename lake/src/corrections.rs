//! Corrections of DataFusion 55.2, which otherwise gives wrong answers. Each says which query, and goes when a
//! version without the mistake is used.
//!
//! *Filters that go down by name.* A filter that is pushed through a node whose schema has two columns of one name may
//! reach the other one's table, and prune there: `FROM t a JOIN t b ON a.x = b.x ORDER BY a.k, b.k LIMIT 3`. Mended
//! upstream by apache/datafusion#25259. Here such nodes are screened while filters are pushed.
//!
//! *Columns that a filter shows.* A filter may show some of its input's columns, in another order. Where two have one
//! name, a projection above is pushed below it as if columns had the same numbers there. It then shows those of the
//! other table, or fails (`Input field name … does not match with the projection expression …`). So did
//! `SELECT CASE WHEN b.k > 0 THEN b.n END, b.l, a.k, a.n FROM t a JOIN t b ON a.n = b.n
//! WHERE a.l <= (SELECT …) OR b.k < 3` (`FilterExec::try_swapping_with_projection`). Here such a filter shows all its
//! columns before projections are pushed, and a projection of its own, above it, shows some.
//!
//! *Constants of a side that may be null.* After `LEFT JOIN d ON … AND d.x = 4` the optimizer holds `d.x` for constant,
//! though it is null in rows without a match: sorting by it is left out, and groups fall apart. Here the side that may
//! be null is screened from the join for good, and says nothing of constants and orders.
//!
//! *Text that is read otherwise than it is written* is refused while it is a tree ([`misread`]).
//!
//! *Nulls of `IN (SELECT …)`.* Anywhere but at the top of a WHERE it is true or false, where SQL has null: `NOT (a IN (…) AND b)`. Where that
//! makes a difference it is refused, and so are EXISTS and IN among columns, which cannot be run.
//!
//! *Keys of `USING`.* After a RIGHT or FULL JOIN they are those of the left side, null in rows that only the right one has. Refused.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinConstraint, JoinType, Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::{merge_schema, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};

pub use crate::misread::misread;

type Plan = Arc<dyn ExecutionPlan>;
type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

const NULLS: &str = "`IN (SELECT …)` takes null for false within NOT, CASE, IS or OR; write \
                     `EXISTS (SELECT … WHERE …)`, which is never null";

/// What a plan would answer otherwise than SQL has it, or could not: what is wrong, and how to write it.
pub fn unanswerable(plan: &LogicalPlan) -> Result<Option<&'static str>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        found = match node {
            LogicalPlan::Join(join) => {
                let is_of_the_right = matches!(join.join_type, JoinType::Right | JoinType::Full);
                let schema = merge_schema(&node.inputs());
                let keys = "`USING` gives keys of the left side, which rows of the right side alone do not have; \
                            write `ON`, and `coalesce` of both keys";
                match &join.filter {
                    _ if is_of_the_right && join.join_constraint == JoinConstraint::Using => Some(keys),
                    Some(filter) if nulls_are_lost(filter, true, &schema) => Some(NULLS),
                    _ => None,
                }
            }
            LogicalPlan::Filter(filter) => {
                let mut conditions = split_conjunction(&filter.predicate).into_iter();
                let loses_nulls = conditions.any(|condition| match condition {
                    Expr::InSubquery(_) => false,
                    Expr::Not(of) if matches!(of.as_ref(), Expr::InSubquery(_)) => false,
                    other => nulls_are_lost(other, true, filter.input.schema()),
                });
                loses_nulls.then_some(NULLS)
            }
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) => {
                let mut asks = false;
                node.apply_expressions(|expr| {
                    let asks_here =
                        |part: &Expr| matches!(part, Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_));
                    asks |= expr.exists(|part| Ok(asks_here(part)))?;
                    Ok(TreeNodeRecursion::Continue)
                })?;
                asks.then_some(
                    "EXISTS and `IN (SELECT …)` belong into WHERE; among columns, join \
                     (`LEFT JOIN (SELECT DISTINCT …) AS there ON …`) and ask whether `there.key IS NOT NULL`",
                )
            }
            _ => None,
        };
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether an `IN (SELECT …)` that can be null stands where null and false are not the same: anywhere but below AND and OR.
fn nulls_are_lost(condition: &Expr, is_same: bool, schema: &DFSchema) -> bool {
    match condition {
        Expr::InSubquery(among) => {
            let of = |fields: &Schema| fields.fields().first().is_none_or(|field| field.is_nullable());
            let can_be_null =
                among.expr.nullable(schema).unwrap_or(true) || of(among.subquery.subquery.schema().as_arrow());
            can_be_null && (among.negated || !is_same)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            nulls_are_lost(left, is_same, schema) || nulls_are_lost(right, is_same, schema)
        }
        other => {
            let mut lost = false;
            let walked = other.apply_children(|child| {
                lost |= nulls_are_lost(child, false, schema);
                Ok(TreeNodeRecursion::Continue)
            });
            lost || walked.is_err()
        }
    }
}

/// DataFusion's rules, corrected.
pub(crate) fn corrected(rules: Vec<Rule>) -> Vec<Rule> {
    let mut corrected: Vec<Rule> = Vec::with_capacity(rules.len() + 1);
    for rule in rules {
        let is_last_to_choose_sides = rule.name() == "join_selection";
        let (of_projections, of_filters) =
            (rule.name() == "ProjectionPushdown", rule.name().starts_with("FilterPushdown"));
        corrected.push(match (of_projections, of_filters) {
            (true, _) => Arc::new(AboveFilters(rule)),
            (_, true) => Arc::new(BesideNamesakes(rule)),
            _ => rule,
        });
        if is_last_to_choose_sides {
            corrected.push(Arc::new(ScreenNullableSides));
        }
    }
    corrected
}

/// Pushes filters down, but into no node that has two columns of one name.
#[derive(Debug)]
struct BesideNamesakes(Rule);

impl PhysicalOptimizerRule for BesideNamesakes {
    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        let screened = plan.transform_up(|node| {
            Ok(if has_namesakes(&node.schema()) {
                Transformed::yes(Arc::new(Screen::new(node, Hides::FromFilters)) as Plan)
            } else {
                Transformed::no(node)
            })
        })?;
        let pushed = self.0.optimize(screened.data, config)?;
        let open = pushed.transform_up(|node| {
            Ok(match node.downcast_ref::<Screen>() {
                Some(Screen { input, hides: Hides::FromFilters, .. }) => Transformed::yes(input.clone()),
                _ => Transformed::no(node),
            })
        });
        open.map(|plan| plan.data)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn has_namesakes(schema: &Schema) -> bool {
    let mut names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// Pushes projections down, where filters of columns with one name show all of them.
#[derive(Debug)]
struct AboveFilters(Rule);

impl PhysicalOptimizerRule for AboveFilters {
    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        let apart = plan.transform_up(|node| {
            Ok(match projection_apart(&node)? {
                Some(apart) => Transformed::yes(apart),
                None => Transformed::no(node),
            })
        })?;
        self.0.optimize(apart.data, config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// A filter that shows some of its input's columns, where two have one name, as a projection above a filter that shows
/// all.
fn projection_apart(plan: &Plan) -> Result<Option<Plan>> {
    let Some(filter) = plan.downcast_ref::<FilterExec>() else { return Ok(None) };
    let input = filter.input().schema();
    let Some(shown) = filter.projection().as_ref().filter(|_| has_namesakes(&input)) else { return Ok(None) };
    let column = |&index: &usize| {
        let name = input.field(index).name();
        ProjectionExpr { expr: Arc::new(Column::new(name, index)), alias: name.clone() }
    };
    let columns: Vec<ProjectionExpr> = shown.iter().map(column).collect();
    let whole = FilterExecBuilder::from(filter).apply_projection(None)?.build()?;
    Ok(Some(Arc::new(ProjectionExec::try_new(columns, Arc::new(whole))?)))
}

/// Screens the sides of outer joins that may be null.
#[derive(Debug)]
struct ScreenNullableSides;

impl PhysicalOptimizerRule for ScreenNullableSides {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let screened = plan.transform_up(|node| {
            let (left, right) = match join_type(&node) {
                Some(JoinType::Left) => (false, true),
                Some(JoinType::Right) => (true, false),
                Some(JoinType::Full) => (true, true),
                _ => return Ok(Transformed::no(node)),
            };
            let children =
                node.children().into_iter().zip([left, right]).map(|(child, is_nullable)| match is_nullable {
                    true => Arc::new(Screen::new(child.clone(), Hides::Properties)) as Plan,
                    false => child.clone(),
                });
            let children = children.collect();
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(children, options)?))
        });
        screened.map(|plan| plan.data)
    }

    fn name(&self) -> &str {
        "screen_nullable_sides"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn join_type(plan: &Plan) -> Option<JoinType> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return Some(*join.join_type());
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return Some(*join.join_type());
    }
    plan.downcast_ref::<SortMergeJoinExec>().map(|join| join.join_type())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hides {
    /// No filter is pushed through.
    FromFilters,
    /// Nothing is known of orders, constants and equal columns.
    Properties,
}

/// Hands on what its input gives, and hides something of it from the optimizer.
#[derive(Debug)]
struct Screen {
    input: Plan,
    hides: Hides,
    properties: Arc<PlanProperties>,
}

impl Screen {
    fn new(input: Plan, hides: Hides) -> Self {
        let properties = match hides {
            Hides::FromFilters => input.properties().clone(),
            Hides::Properties => Arc::new(PlanProperties::new(
                EquivalenceProperties::new(input.schema()),
                input.output_partitioning().clone(),
                input.pipeline_behavior(),
                input.boundedness(),
            )),
        };
        Self { input, hides, properties }
    }

    fn with_children(&self, mut children: Vec<Plan>) -> Result<Plan> {
        match (children.pop(), children.pop()) {
            (Some(input), None) => Ok(Arc::new(Self::new(input, self.hides))),
            _ => internal_err!("ScreenExec has one child"),
        }
    }
}

impl DisplayAs for Screen {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScreenExec")
    }
}

impl ExecutionPlan for Screen {
    fn name(&self) -> &'static str {
        "ScreenExec"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![self.hides == Hides::FromFilters]
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
        self.input.execute(partition, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(inputs[0].clone())
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        match self.hides {
            Hides::FromFilters => Ok(FilterDescription::all_unsupported(&filters, &self.children())),
            Hides::Properties => FilterDescription::from_children(filters, &self.children()),
        }
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Plan>> {
        Ok(match self.hides {
            Hides::FromFilters => FilterPushdownPropagation::all_unsupported(result),
            Hides::Properties => FilterPushdownPropagation::if_all(result),
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::util::display::array_value_to_string;
    use datafusion::datasource::MemTable;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::delta::{Commit, EncodedFile, FileOptions, Warehouse};
    use crate::paths::TablePath;
    use crate::provider::PinnedTable;
    use crate::session::Engine;
    use crate::store::Store;

    async fn rows(context: &SessionContext, sql: &str) -> Vec<String> {
        let mut rows = Vec::new();
        for batch in context.sql(sql).await.unwrap().collect().await.unwrap() {
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
                rows.push(values.collect::<Vec<_>>().join("|"));
            }
        }
        rows
    }

    fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
        let k: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
        let num: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone().map(|k| k % 7)));
        let lab: ArrayRef = Arc::new(StringArray::from_iter_values(rows.map(|k| format!("lab {}", k % 5))));
        RecordBatch::try_from_iter([("k", k), ("num", num), ("lab", lab)]).unwrap()
    }

    /// A session of ours over files, and one of DataFusion's over memory in one piece, where nothing is pruned.
    async fn sessions() -> (SessionContext, SessionContext) {
        let store = Store::memory();
        let ours = Engine::new(&store, 1 << 30).unwrap().session();
        let table = Warehouse::new(store.clone()).table(TablePath::stream("test", "t"));
        let mut snapshot = table.open_or_create(&batch(0..1).schema(), &[]).await.unwrap();
        for first in (0..1000).step_by(200) {
            let batch = batch(first..first + 200);
            let file = EncodedFile::of(&batch.schema(), std::slice::from_ref(&batch), &FileOptions::default()).unwrap();
            let adds = vec![table.upload(file).await.unwrap()];
            snapshot = table.commit(&snapshot, Commit { adds, operation: "WRITE", ..Commit::default() }).await.unwrap();
        }
        ours.register_table("t", Arc::new(PinnedTable::new(&store, snapshot))).unwrap();
        let plain =
            SessionContext::new_with_config(datafusion::prelude::SessionConfig::new().with_target_partitions(1));
        let all = batch(0..1000);
        plain.register_table("t", Arc::new(MemTable::try_new(all.schema(), vec![vec![all]]).unwrap())).unwrap();
        (ours, plain)
    }

    #[tokio::test]
    async fn filters_reach_the_table_that_they_are_about() {
        let (ours, plain) = sessions().await;
        for sql in [
            "SELECT a.k, b.k, a.num + 1 FROM t a JOIN t b ON a.num = b.num ORDER BY a.k, b.k DESC LIMIT 3",
            "SELECT a.k, b.k FROM t a JOIN t b ON a.num = b.num ORDER BY b.k DESC, a.k LIMIT 3",
            "SELECT count(*) FROM t a JOIN t b ON a.num = b.num
             WHERE a.k = (SELECT min(k) + 3 FROM t) OR b.k = 900",
            "SELECT count(*) FROM t a JOIN t b ON a.num = b.num JOIN t c ON c.k = a.k
             WHERE a.k > (SELECT max(k) - 50 FROM t) OR b.k < 5",
        ] {
            assert_eq!(rows(&ours, sql).await, rows(&plain, sql).await, "{sql}");
        }
    }

    /// Of a random query (seed 1678), and of one whose answer had the columns of the other table.
    #[tokio::test]
    async fn columns_are_those_of_the_table_that_they_are_of() {
        let (ours, plain) = sessions().await;
        for columns in [
            "CASE WHEN b.num > 3 THEN b.lab END, a.lab, a.k, a.num",
            "CASE WHEN b.k > 0 THEN b.num END, b.lab, a.k, a.num",
            "b.lab, b.k + b.num, a.lab, a.k, a.num",
        ] {
            let sql = |least: &str| {
                format!(
                    "SELECT {columns} FROM t a JOIN t b ON a.num = b.num
                     WHERE a.k < 20 AND b.k < 40 AND (a.lab <= {least} OR b.k < 3)"
                )
            };
            // What is compared with a constant is a part of the join.
            let (mut found, mut expected) =
                (rows(&ours, &sql("(SELECT min(lab) FROM t)")).await, rows(&plain, &sql("'lab 0'")).await);
            found.sort_unstable();
            expected.sort_unstable();
            assert!(expected.len() > 10, "{columns}");
            assert_eq!(found, expected, "{columns}");
        }
    }

    #[tokio::test]
    async fn a_table_without_files_has_no_rows() {
        let store = Store::memory();
        let ours = Engine::new(&store, 1 << 30).unwrap().session();
        let table = Warehouse::new(store.clone()).table(TablePath::stream("test", "t"));
        let snapshot = table.open_or_create(&batch(0..1).schema(), &[]).await.unwrap();
        ours.register_table("t", Arc::new(PinnedTable::new(&store, snapshot))).unwrap();
        for sql in [
            "SELECT k, lab FROM t ORDER BY lab LIMIT 2",
            "SELECT row_number() OVER (ORDER BY k) FROM t",
            "SELECT k FROM t UNION ALL SELECT num FROM t ORDER BY 1",
            "SELECT a.k FROM t a JOIN t b ON a.k = b.num ORDER BY 1",
        ] {
            assert!(rows(&ours, sql).await.is_empty(), "{sql}");
        }
    }

    #[tokio::test]
    async fn rows_without_a_match_are_no_constants() {
        let (ours, _) = sessions().await;
        let sql = "SELECT d.lab, f.k FROM t f LEFT JOIN t d ON f.num = d.k AND d.lab = 'lab 4'
                   WHERE f.k > 17 ORDER BY d.lab NULLS FIRST, f.k LIMIT 2";
        assert_eq!(rows(&ours, sql).await, ["|19", "|20"]);
        let sql = "SELECT d.lab, f.k FROM t d RIGHT JOIN t f ON f.num = d.k AND d.lab = 'lab 4'
                   WHERE f.k > 17 ORDER BY d.lab NULLS FIRST, f.k LIMIT 2";
        assert_eq!(rows(&ours, sql).await, ["|19", "|20"]);
        let sql = "SELECT lab, max(n) FROM (
                       SELECT d.lab AS lab, row_number() OVER (PARTITION BY d.lab ORDER BY f.k) AS n
                       FROM t f LEFT JOIN t d ON f.num = d.k AND d.lab = 'lab 4') x
                   GROUP BY lab ORDER BY lab";
        assert_eq!(rows(&ours, sql).await, ["lab 4|143", "|857"]);
    }
}
