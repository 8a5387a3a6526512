//! Star joins: a fact and its dimensions, found in a plan of binary joins and joined in one pass.
//!
//! ```text
//!      ⋈                      ⋈ (by any other key)
//!    ⋈   date               ╱   ╲
//!  ⋈   part          ►   other   StarJoin
//! fact customer                 ╱  │  │  ╲
//!                            fact date part customer
//! ```
//!
//! The fact is the table with most rows; a dimension is joined with it on one unique key, alone or together with
//! tables that it refers to by unique keys of theirs (a snowflake). Whatever else is joined stays a hash join of
//! DataFusion's, above. Which keys are unique is told by the statistics of a scan: see
//! [`PinnedTable::with_unique`](crate::provider::PinnedTable::with_unique).

mod join;
mod members;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, NullEquality, Statistics};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use join::{Dimension, Output, StarJoinExec};

/// Finds stars. Runs before DataFusion chooses sides for its joins.
#[derive(Debug)]
pub(crate) struct StarJoins {
    /// A dimension has at most so many rows.
    pub(crate) most_members: usize,
}

impl PhysicalOptimizerRule for StarJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let found = plan.transform_down(|node| {
            if !is_join(&node) {
                return Ok(Transformed::no(node));
            }
            let mut tables = Tables::default();
            let wanted = tables.gather(&node);
            Ok(match tables.star(self.most_members) {
                Some(star) => Transformed::yes(tables.join(&star, &wanted, &node)?),
                None => Transformed::no(node),
            })
        });
        found.map(|plan| plan.data)
    }

    fn name(&self) -> &str {
        "star_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A column: of which table, and which of its columns.
type Place = (usize, usize);

/// What a tree of inner joins joins.
#[derive(Debug, Default)]
struct Tables {
    plans: Vec<Arc<dyn ExecutionPlan>>,
    equal: Vec<(Place, Place)>,
}

/// A fact and the dimensions that are joined with it in one pass.
#[derive(Debug)]
struct Star {
    fact: usize,
    dimensions: Vec<Branch>,
    /// Tables that are joined afterwards.
    others: Vec<usize>,
}

/// A dimension and the tables that it refers to.
#[derive(Debug)]
struct Branch {
    fact_key: usize,
    /// The dimension's own table and its key.
    root: usize,
    key: usize,
    /// Further tables, each with its unique key and what refers to that.
    referred: Vec<(Place, Place)>,
}

/// Whether the node is an inner join of columns, maybe under a projection to columns.
fn is_join(node: &Arc<dyn ExecutionPlan>) -> bool {
    match (node.downcast_ref::<ProjectionExec>(), node.downcast_ref::<HashJoinExec>()) {
        (Some(projection), _) => projection.expr().iter().all(|e| e.expr.is::<Column>()) && is_join(projection.input()),
        (_, Some(join)) => {
            *join.join_type() == JoinType::Inner
                && join.filter().is_none()
                && join.null_equality() == NullEquality::NullEqualsNothing
                && join.fetch().is_none()
                && join.on().iter().all(|(left, right)| left.is::<Column>() && right.is::<Column>())
        }
        _ => false,
    }
}

fn index(expression: &Arc<dyn PhysicalExpr>) -> usize {
    expression.downcast_ref::<Column>().map_or(usize::MAX, Column::index)
}

/// The scan below filters and projections, and the place of a column in it.
fn scan(plan: &Arc<dyn ExecutionPlan>, column: Option<usize>) -> Option<(&Arc<dyn ExecutionPlan>, Option<usize>)> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let column = match column {
            Some(column) => Some(projection.expr()[column].expr.downcast_ref::<Column>()?.index()),
            None => None,
        };
        return scan(projection.input(), column);
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let column = column.map(|column| filter.projection().as_ref().map_or(column, |projection| projection[column]));
        return scan(filter.input(), column);
    }
    plan.children().is_empty().then_some((plan, column))
}

fn statistics(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<Statistics>> {
    StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new()).ok()
}

/// Rows before any filter.
fn rows(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    statistics(scan(plan, None)?.0)?.num_rows.get_value().copied()
}

impl Tables {
    /// Takes a tree of joins apart. Returns where the columns of its output come from.
    fn gather(&mut self, node: &Arc<dyn ExecutionPlan>) -> Vec<Place> {
        if !is_join(node) {
            self.plans.push(node.clone());
            return (0..node.schema().fields().len()).map(|column| (self.plans.len() - 1, column)).collect();
        }
        if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            let places = self.gather(projection.input());
            return projection.expr().iter().map(|e| places[index(&e.expr)]).collect();
        }
        let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Vec::new() };
        let mut places = self.gather(join.left());
        let right = self.gather(join.right());
        self.equal.extend(join.on().iter().map(|(l, r)| (places[index(l)], right[index(r)])));
        places.extend(right);
        match join.projection.as_deref() {
            Some(projection) => projection.iter().map(|&column| places[column]).collect(),
            None => places,
        }
    }

    /// What `equal` says of a table: its column, and the column of another table.
    fn links(&self, table: usize) -> Vec<(usize, Place)> {
        let turned = self.equal.iter().flat_map(|&(left, right)| [(left, right), (right, left)]);
        turned.filter(|(left, _)| left.0 == table).map(|(left, right)| (left.1, right)).collect()
    }

    /// Whether each row of the table has a value of its own in the column.
    fn is_unique(&self, (table, column): Place) -> bool {
        let Some((scan, Some(column))) = scan(&self.plans[table], Some(column)) else { return false };
        statistics(scan).is_some_and(|found| match (found.num_rows, found.column_statistics[column].distinct_count) {
            (Precision::Exact(rows), Precision::Exact(values)) => rows == values,
            _ => false,
        })
    }

    fn star(&self, most_members: usize) -> Option<Star> {
        let counts: Vec<usize> = self.plans.iter().map(rows).collect::<Option<_>>()?;
        let fact = (0..counts.len()).max_by_key(|&table| counts[table])?;
        let mut dimensions = Vec::new();
        for (fact_key, (root, key)) in self.links(fact) {
            let types = [(fact, fact_key), (root, key)]
                .map(|(table, column)| self.plans[table].schema().field(column).data_type().clone());
            if types[0] != types[1] || !members::is_key(&types[0]) {
                continue;
            }
            let branch = self.branch(fact, Branch { fact_key, root, key, referred: Vec::new() });
            let is_small = |branch: &Branch| branch.tables().all(|table| counts[table] <= most_members);
            dimensions.extend(branch.filter(is_small));
        }
        let in_dimensions: Vec<usize> = dimensions.iter().flat_map(Branch::tables).collect();
        let others = (0..self.plans.len()).filter(|table| *table != fact && !in_dimensions.contains(table)).collect();
        (!dimensions.is_empty()).then_some(Star { fact, dimensions, others })
    }

    /// Follows what the dimension refers to; none if that is no tree of unique keys.
    fn branch(&self, fact: usize, mut branch: Branch) -> Option<Branch> {
        if !self.is_unique((branch.root, branch.key)) {
            return None;
        }
        let mut reached = vec![branch.root];
        let mut next = 0;
        while let Some(&table) = reached.get(next) {
            next += 1;
            for (column, other) in self.links(table) {
                let known = branch.referred.iter().any(|(to, from)| *to == (table, column) && *from == other);
                if known || (table == branch.root && other == (fact, branch.fact_key) && column == branch.key) {
                    continue;
                }
                if other.0 == fact || reached.contains(&other.0) || !self.is_unique(other) {
                    return None;
                }
                reached.push(other.0);
                branch.referred.push((other, (table, column)));
            }
        }
        Some(branch)
    }

    fn join(&self, star: &Star, wanted: &[Place], node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let mut needed = wanted.to_vec();
        needed.extend(star.others.iter().flat_map(|&other| self.links(other)).map(|(_, place)| place));
        let mut built = Vec::new();
        let mut sides: Vec<Vec<Place>> = Vec::new();
        for branch in &star.dimensions {
            let (plan, places) = self.snowflake(branch)?;
            let key = places.iter().position(|place| *place == (branch.root, branch.key)).unwrap_or_default();
            let all = rows(&self.plans[branch.root]).unwrap_or_default();
            built.push(Dimension { plan, key, fact_key: branch.fact_key, all });
            sides.push(places);
        }
        let output = |place: Place| match place.0 == star.fact {
            true => Some(Output::Fact(place.1)),
            false => sides.iter().enumerate().find_map(|(dimension, places)| {
                Some(Output::Dimension(dimension, places.iter().position(|of| *of == place)?))
            }),
        };
        let fact = self.plans[star.fact].clone();
        if star.others.is_empty() {
            let output = wanted.iter().filter_map(|place| output(*place)).collect();
            return Ok(Arc::new(StarJoinExec::new(fact, built, output, node.schema())));
        }
        needed.retain(|place| output(*place).is_some());
        needed.sort_unstable();
        needed.dedup();
        let fields: Vec<_> =
            needed.iter().map(|&(table, column)| self.plans[table].schema().field(column).clone()).collect();
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let outputs = needed.iter().filter_map(|place| output(*place)).collect();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(StarJoinExec::new(fact, built, outputs, schema));
        let (plan, places) = self.join_others(plan, needed, star.others.clone())?;
        let names = node.schema();
        let columns = wanted.iter().zip(names.fields()).map(|(place, field)| {
            let column = places.iter().position(|of| of == place).unwrap_or_default();
            ProjectionExpr {
                expr: Arc::new(Column::new(plan.schema().field(column).name(), column)),
                alias: field.name().clone(),
            }
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), plan.clone())?))
    }

    /// A dimension with what it refers to.
    fn snowflake(&self, branch: &Branch) -> Result<(Arc<dyn ExecutionPlan>, Vec<Place>)> {
        let of = |table: usize| (0..self.plans[table].schema().fields().len()).map(move |column| (table, column));
        let mut plan = self.plans[branch.root].clone();
        let mut places: Vec<Place> = of(branch.root).collect();
        for (to, from) in &branch.referred {
            plan = self.hash_join(to.0, plan, &places, &[(to.1, *from)])?;
            places = of(to.0).chain(places).collect();
        }
        Ok((plan, places))
    }

    /// Joins what is no dimension, one by one, each with all that it has in common with those before.
    fn join_others(
        &self,
        mut plan: Arc<dyn ExecutionPlan>,
        mut places: Vec<Place>,
        mut others: Vec<usize>,
    ) -> Result<(Arc<dyn ExecutionPlan>, Vec<Place>)> {
        while !others.is_empty() {
            let linked = |table: &usize| self.links(*table).iter().any(|(_, place)| places.contains(place));
            let next = others.remove(others.iter().position(linked).unwrap_or_default());
            let common: Vec<(usize, Place)> =
                self.links(next).into_iter().filter(|(_, place)| places.contains(place)).collect();
            plan = self.hash_join(next, plan, &places, &common)?;
            places = (0..self.plans[next].schema().fields().len()).map(|column| (next, column)).chain(places).collect();
        }
        Ok((plan, places))
    }

    /// A table on the build side of a plan whose columns come from `places`.
    fn hash_join(
        &self,
        table: usize,
        plan: Arc<dyn ExecutionPlan>,
        places: &[Place],
        common: &[(usize, Place)],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let build = self.plans[table].clone();
        let column = |of: &Arc<dyn ExecutionPlan>, index: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(of.schema().field(index).name(), index))
        };
        let on = common.iter().filter_map(|(own, other)| {
            let place = places.iter().position(|place| place == other)?;
            Some((column(&build, *own), column(&plan, place)))
        });
        let on: Vec<_> = on.collect();
        let join = HashJoinExec::try_new(
            build,
            plan,
            on,
            None,
            &JoinType::Inner,
            None,
            PartitionMode::Auto,
            NullEquality::NullEqualsNothing,
            false,
        );
        Ok(Arc::new(join?))
    }
}

impl Branch {
    fn tables(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.root).chain(self.referred.iter().map(|(to, _)| to.0))
    }
}
