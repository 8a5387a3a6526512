//! Which rows of a plan a change of one of its tables touches: where each scan stands among unions and outer joins, and the plan that
//! finds the rows.

use std::ops::Range;
use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, build_join_schema};
use datafusion::prelude::lit;

/// Where a scan stands among outer joins.
#[derive(Clone)]
pub(super) enum Side {
    Kept,
    /// On the side whose rows may be missing of this join, which is over scans of these places.
    MayBeMissing(Join, Range<usize>),
    /// On such sides of several joins.
    Deep,
}

/// The sides of the scans of a core, in order; or why it is none.
pub(super) fn spread(node: &LogicalPlan, sides: &mut Vec<Side>) -> Result<(), String> {
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
            let scans = before..sides.len();
            for side in &mut sides[missing] {
                *side = match side {
                    Side::Kept => Side::MayBeMissing(join.clone(), scans.clone()),
                    _ => Side::Deep,
                };
            }
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => {
            return Err("it aggregates below a join or a union".to_owned());
        }
        LogicalPlan::Window(_) => return Err("it has a window function below a join or a union".to_owned()),
        other => return Err(format!("it has a step that is not followed: {}", other.display())),
    }
    Ok(())
}

/// The core, in whose unions that read the scan at `place` other branches than its own give nothing; all scans keep their places.
pub(super) fn only_of(node: &LogicalPlan, place: usize, seen: &mut usize) -> PlanResult<LogicalPlan> {
    if matches!(node, LogicalPlan::TableScan(_)) {
        *seen += 1;
    }
    let mut inputs = Vec::new();
    let mut has_it = Vec::new();
    for input in node.inputs() {
        let first = *seen;
        inputs.push(only_of(input, place, seen)?);
        has_it.push((first..*seen).contains(&place));
    }
    if inputs.is_empty() {
        return Ok(node.clone());
    }
    // A union that does not read it gives all of its rows to what it is joined with.
    if let LogicalPlan::Union(union) = node
        && has_it.contains(&true)
    {
        for (input, has_it) in inputs.iter_mut().zip(has_it) {
            // Once the others are gone, the branch that is left has to have the names of the union.
            let names = union.schema.fields().iter().map(|field| field.name());
            let columns = input.schema().columns().into_iter().map(Expr::Column);
            let named: Vec<Expr> = columns.zip(names).map(|(column, name)| column.alias(name)).collect();
            let plan = LogicalPlanBuilder::from(input.clone()).project(named)?;
            *input = if has_it { plan.build()? } else { plan.filter(lit(false))?.build()? };
        }
    }
    node.with_new_exprs(node.expressions(), inputs)
}

/// How many scans there are below a node.
fn scans_of(node: &LogicalPlan) -> usize {
    match node {
        LogicalPlan::TableScan(_) => 1,
        _ => node.inputs().into_iter().map(scans_of).sum(),
    }
}

/// The core with `outer`, which is over `scans`, as an inner join, and without filters above it: its rows are those that changes of the side
/// that may be missing meet. `None` where what stands above looks at that side.
pub(super) fn met(
    bare: &LogicalPlan,
    outer: &Join,
    scans: &Range<usize>,
    keys: &[Expr],
) -> Result<LogicalPlan, String> {
    let missing = if outer.join_type == JoinType::Left { &outer.right } else { &outer.left };
    let looks =
        |expression: &Expr| expression.column_refs().into_iter().any(|column| missing.schema().has_column(column));
    let wrong = || "its grain, or another join, looks at the side of an outer join that may be missing".to_owned();
    if keys.iter().any(looks) {
        return Err(wrong());
    }
    fn inner(
        node: &LogicalPlan,
        first: usize,
        (outer, scans): (&Join, &Range<usize>),
        looks: &dyn Fn(&Expr) -> bool,
    ) -> Result<Option<LogicalPlan>, ()> {
        let LogicalPlan::Join(join) = node else { return Ok(None) };
        let middle = first + scans_of(&join.left);
        let rebuilt = |join: Join| {
            let schema = build_join_schema(join.left.schema(), join.right.schema(), &join.join_type).map_err(|_| ())?;
            Ok(Some(LogicalPlan::Join(Join { schema: Arc::new(schema), ..join })))
        };
        // There may be others that are equal, over other scans of the same tables.
        if join == outer && *scans == (first..middle + scans_of(&join.right)) {
            return rebuilt(Join { join_type: JoinType::Inner, ..join.clone() });
        }
        let left = inner(&join.left, first, (outer, scans), looks)?;
        let right = inner(&join.right, middle, (outer, scans), looks)?;
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
    inner(bare, 0, (outer, scans), &looks).ok().flatten().ok_or_else(wrong)
}
