//! Numbers with a point in SQL. DataFusion reads `1.19` as a double, and what a decimal is multiplied with is a double then:
//! `amount * 1.19` would be right to some cents. And a double beside a decimal is compared as what it is nearly:
//! `amount = 999999.99` would be false of 999999.99.
//!
//! Here such a number is exact where a decimal is added to it, subtracted from it, multiplied or compared with it. Everywhere
//! else it is the double that the engine makes of it. A division is one of doubles, as it is in the engine, where such a number is
//! part of what is divided: one of decimals would cut the quotient to few digits.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast};
use datafusion::optimizer::AnalyzerRule;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::bounds::{BoundedConstants, bound_functions};
use crate::sql_times::{self, DateTrunc};

/// A double prints all digits that were written, up to so many.
const MOST_DIGITS: usize = 15;
/// Constants in deeper trees are left to the engine.
const DEEPEST: usize = 16;

/// A session that plans, with numbers as [`Engine`](crate::session::Engine) has them.
pub fn planning_session() -> SessionContext {
    SessionContext::new_with_state(with_exact_numbers(SessionContext::new().state()))
}

/// A session's state whose SQL has exact numbers, arithmetic as in [`arithmetic`](crate::arithmetic), and values within bounds.
pub(crate) fn with_exact_numbers(state: SessionState) -> SessionState {
    let mut rules = state.analyzer().rules.clone();
    let types_are_made_to_fit = rules.iter().position(|rule| rule.name() == "type_coercion").unwrap_or_default();
    rules.insert(types_are_made_to_fit, Arc::new(ExactComparisons));
    rules.push(Arc::new(crate::arithmetic::ExactlyComputed));
    let mut state = SessionStateBuilder::new_from_existing(state)
        .with_analyzer_rules(rules)
        .with_query_planner(Arc::new(BoundedConstants))
        .build();
    bound_functions(&mut state).expect("a session takes functions");
    state.register_udf(Arc::new(DateTrunc::default().into())).expect("a session takes functions");
    // Only states that know no planners of expressions refuse one, and DataFusion's knows them.
    state.register_expr_planner(Arc::new(ExactArithmetic)).expect("a session takes planners of expressions");
    state
}

/// While a query is planned, as it decides what types columns have.
#[derive(Debug)]
struct ExactArithmetic;

impl ExprPlanner for ExactArithmetic {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let operator = match op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide if has_exact_number(&left, DEEPEST) || has_exact_number(&right, DEEPEST) => {
                let left = cast(left, DataType::Float64);
                return Ok(PlannerResult::Planned(binary(left, Operator::Divide, right)));
            }
            _ => return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right })),
        };
        Ok(match beside(&left, &right, operator, schema) {
            Some((left, right)) => PlannerResult::Planned(binary(left, operator, right)),
            None => PlannerResult::Original(RawBinaryExpr { op, left, right }),
        })
    }
}

/// Once a query is planned: what is compared decides no types of columns.
#[derive(Debug)]
struct ExactComparisons;

impl AnalyzerRule for ExactComparisons {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        in_plan(plan, |expr, schema| expr.transform_up(|expr| Ok(comparison(expr, schema)))).map(|plan| plan.data)
    }

    fn name(&self) -> &str {
        "exact_comparisons"
    }
}

/// A plan with other expressions in the place of some, which keep their names.
pub(crate) fn in_plan(
    plan: LogicalPlan,
    exact: impl Fn(Expr, &DFSchema) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up_with_subqueries(|node| {
        let mut schema = merge_schema(&node.inputs());
        if let LogicalPlan::TableScan(scan) = &node {
            schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            // What is grouped by in several sets is known by the names that it has.
            if matches!(expr, Expr::GroupingSet(_)) {
                return Ok(Transformed::no(expr));
            }
            let name = names.save(&expr);
            Ok(exact(expr, &schema)?.update_data(|expr| name.restore(expr)))
        })
    })
}

/// The plan as it is run, where a step of it has other types than it was planned with: DataFusion takes the first branch's for those of
/// a CASE or a UNION, until it makes them fit.
pub fn typed(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    let (analyzed, fits) = analyzed(state, &plan)?;
    Ok(if fits { plan } else { analyzed })
}

/// The plan whose types were made to fit, to be optimized; and whether all its steps have the types that they had.
pub fn analyzed(state: &SessionState, plan: &LogicalPlan) -> Result<(LogicalPlan, bool)> {
    let analyzed = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {})?;
    let fits = types(&analyzed)? == types(plan)?;
    Ok((analyzed, fits))
}

/// The types of all that a plan's steps give.
fn types(plan: &LogicalPlan) -> Result<Vec<DataType>> {
    let mut types = Vec::new();
    plan.apply_with_subqueries(|node| {
        types.extend(node.schema().fields().iter().map(|field| field.data_type().clone()));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(types)
}

/// An expression that was planned, its comparisons exact.
pub fn with_exact_comparisons(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(expr.transform_up(|expr| Ok(comparison(expr, schema)))?.data)
}

/// A comparison of numbers or of times.
fn comparison(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let of_numbers = exact_comparison(expr, schema);
    if of_numbers.transformed { of_numbers } else { sql_times::exact(of_numbers.data, schema) }
}

fn exact_comparison(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let exact = |number: &Expr, of: &Expr| {
        let number = exact(number, DEEPEST).filter(|number| number.has_point)?;
        fits(&number, of, Operator::Eq, schema).then_some(number.expr)
    };
    // Where all others are decimals that it can be compared with, or nothing.
    let exact_beside = |number: &Expr, all: &mut dyn Iterator<Item = &Expr>| {
        let known = all.filter(|of| !matches!(of, Expr::Literal(ScalarValue::Null, _)));
        known.map(|of| exact(number, of)).collect::<Option<Vec<Expr>>>().and_then(|mut same| same.pop())
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => match beside(&left, &right, op, schema) {
            Some((left, right)) => Transformed::yes(binary(left, op, right)),
            None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
        },
        Expr::Between(Between { expr, negated, low, high }) => {
            let (exact_low, exact_high) = (exact(&low, &expr), exact(&high, &expr));
            let exact_expr = exact_beside(&expr, &mut [low.as_ref(), high.as_ref()].into_iter());
            let is_exact = exact_low.is_some() || exact_high.is_some() || exact_expr.is_some();
            let (low, high) = (exact_low.map_or(low, Box::new), exact_high.map_or(high, Box::new));
            let expr = exact_expr.map_or(expr, Box::new);
            let between = Expr::Between(Between { expr, negated, low, high });
            if is_exact { Transformed::yes(between) } else { Transformed::no(between) }
        }
        Expr::InList(InList { expr, mut list, negated }) => {
            let exact_expr = exact_beside(&expr, &mut list.iter());
            let mut is_exact = exact_expr.is_some();
            for item in &mut list {
                if let Some(number) = exact(item, &expr) {
                    (*item, is_exact) = (number, true);
                }
            }
            let expr = exact_expr.map_or(expr, Box::new);
            let among = Expr::InList(InList { expr, list, negated });
            if is_exact { Transformed::yes(among) } else { Transformed::no(among) }
        }
        Expr::Case(mut case) => {
            let mut whens = case.when_then_expr.iter().map(|(when, _)| when.as_ref());
            let exact_expr = case.expr.as_ref().and_then(|of| exact_beside(of, &mut whens));
            let mut is_exact = exact_expr.is_some();
            case.expr = exact_expr.map(Box::new).or(case.expr);
            for (when, _) in case.when_then_expr.iter_mut() {
                if let Some(number) = case.expr.as_ref().and_then(|of| exact(when, of)) {
                    (**when, is_exact) = (number, true);
                }
            }
            if is_exact { Transformed::yes(Expr::Case(case)) } else { Transformed::no(Expr::Case(case)) }
        }
        other => Transformed::no(other),
    }
}

/// Whether an operator compares two values.
pub(crate) fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// A constant as an expression of decimals.
struct Number {
    expr: Expr,
    precision: u8,
    scale: i8,
    has_point: bool,
}

/// Both sides, where one is a number with a point and the other one a decimal that it can be put together with.
fn beside(left: &Expr, right: &Expr, operator: Operator, schema: &DFSchema) -> Option<(Expr, Expr)> {
    let number = |expr: &Expr| exact(expr, DEEPEST).filter(|number| number.has_point);
    match (number(left), number(right)) {
        (None, Some(number)) if fits(&number, left, operator, schema) => Some((left.clone(), number.expr)),
        (Some(number), None) if fits(&number, right, operator, schema) => Some((number.expr, right.clone())),
        _ => None,
    }
}

/// Whether the values of `of` are decimals, and all digits of what comes of them and `number` have room.
fn fits(number: &Number, of: &Expr, operator: Operator, schema: &DFSchema) -> bool {
    // What a double was added to is one: of a chain, the type is not derived anew at each operator.
    if let Expr::BinaryExpr(BinaryExpr { op: Operator::Plus | Operator::Minus | Operator::Multiply, right, .. }) = of
        && matches!(right.as_ref(), Expr::Literal(ScalarValue::Float64(_), _))
    {
        return false;
    }
    match of.get_type(schema) {
        Ok(DataType::Decimal128(precision, scale)) => together((precision, scale), number, operator).is_some(),
        _ => false,
    }
}

/// The digits of what comes of decimals, as the engine counts them.
fn together((precision, scale): (u8, i8), number: &Number, operator: Operator) -> Option<(u8, i8)> {
    let whole = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
    let widest = || whole(precision, scale).max(whole(number.precision, number.scale));
    let (digits, scale) = match operator {
        Operator::Multiply => {
            (i16::from(precision) + i16::from(number.precision) + 1, scale.checked_add(number.scale)?)
        }
        Operator::Plus | Operator::Minus => {
            (widest() + 1 + i16::from(scale.max(number.scale)), scale.max(number.scale))
        }
        _ => (widest() + i16::from(scale.max(number.scale)), scale.max(number.scale)),
    };
    let digits = u8::try_from(digits).ok().filter(|digits| *digits <= DECIMAL128_MAX_PRECISION)?;
    Some((digits, scale))
}

/// `expr` of decimals, where it is one of numbers only.
fn exact(expr: &Expr, depth: usize) -> Option<Number> {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), None) => decimal(*value),
        Expr::Literal(ScalarValue::Int64(Some(value)), None) => {
            let precision = value.unsigned_abs().checked_ilog10().unwrap_or_default() as u8 + 1;
            let value = ScalarValue::Decimal128(Some(i128::from(*value)), precision, 0);
            Some(Number { expr: Expr::Literal(value, None), precision, scale: 0, has_point: false })
        }
        Expr::Negative(of) => {
            let of = exact(of, depth.checked_sub(1)?)?;
            Some(Number { expr: Expr::Negative(Box::new(of.expr)), ..of })
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: op @ (Operator::Plus | Operator::Minus | Operator::Multiply),
            right,
        }) => {
            let depth = depth.checked_sub(1)?;
            let (left, right) = (exact(left, depth)?, exact(right, depth)?);
            let (precision, scale) = together((left.precision, left.scale), &right, *op)?;
            let has_point = left.has_point || right.has_point;
            Some(Number { expr: binary(left.expr, *op, right.expr), precision, scale, has_point })
        }
        _ => None,
    }
}

/// The number that was written as `value`.
fn decimal(value: f64) -> Option<Number> {
    let text = value.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let digits = format!("{whole}{fraction}");
    let count = digits.trim_start_matches(['-', '0']).len();
    // Infinite and long ones are no such numbers.
    let unscaled = digits.parse::<i128>().ok().filter(|_| count <= MOST_DIGITS && fraction.len() <= MOST_DIGITS)?;
    let (precision, scale) = (count.max(fraction.len()).max(1) as u8, fraction.len() as i8);
    let value = ScalarValue::Decimal128(Some(unscaled), precision, scale);
    Some(Number { expr: Expr::Literal(value, None), precision, scale, has_point: true })
}

/// Whether a number was made exact in a sum, a difference or a product. (A decimal as it is written is always ours.)
fn has_exact_number(expr: &Expr, depth: usize) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Decimal128(..), None) => true,
        Expr::Negative(of) => depth > 0 && has_exact_number(of, depth - 1),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus | Operator::Multiply, right }) => {
            depth > 0 && (has_exact_number(left, depth - 1) || has_exact_number(right, depth - 1))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    /// What a query promises is what it gives, whatever type a branch or a constant has.
    #[tokio::test]
    async fn types_are_those_of_the_plan_that_is_run() {
        const T: &str =
            "WITH t AS (SELECT CAST('10.50' AS DECIMAL(9,2)) AS price, 3 AS n, TIMESTAMP '2024-01-01' AS at)";
        for (query, expected) in [
            ("SELECT round(price * price, 2) FROM t", "Decimal128(19, 2)"),
            ("SELECT CASE WHEN n = 3 THEN 0 ELSE price END FROM t", "Decimal128(22, 2)"),
            ("SELECT sum(CASE WHEN n = 3 THEN 0 ELSE price END) FROM t", "Decimal128(32, 2)"),
            ("SELECT n FROM t UNION ALL SELECT price FROM t", "Decimal128(22, 2)"),
            ("SELECT CAST(price AS INT) + n FROM t", "Int64"),
            ("SELECT CASE WHEN n = 3 THEN NULL ELSE at END FROM t", "Timestamp(ns)"),
        ] {
            let session = planning_session();
            let state = session.state();
            let plan = state.create_logical_plan(&format!("{T} {query}")).await.unwrap();
            let promised = typed(&state, plan.clone()).unwrap().schema().field(0).data_type().clone();
            let given = session.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
            assert_eq!(
                (promised.to_string().as_str(), given[0].schema().field(0).data_type()),
                (expected, &promised),
                "{query}"
            );
        }
    }

    async fn answer(sql: &str) -> String {
        let session = planning_session();
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        let table = pretty_format_batches(&batches).unwrap().to_string();
        let rows: Vec<&str> = table.lines().skip(3).filter(|line| line.starts_with('|')).collect();
        rows.iter().map(|row| row.trim_matches(['|', ' '])).collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn numbers_beside_decimals_are_exact() {
        let with = |expression: &str| {
            format!(
                "WITH t AS (SELECT CAST('10.50' AS DECIMAL(18,2)) AS amount, CAST('999999.99' AS DECIMAL(18,2)) AS large, \
                 3 AS n, 0.1 AS double) SELECT {expression} FROM t"
            )
        };
        for (expression, expected) in [
            ("round(amount * 1.19, 2)", "12.50"),
            ("amount * 1.19", "12.4950"),
            ("1.19 * amount", "12.4950"),
            ("amount * (1 + 0.19)", "12.4950"),
            ("amount - -0.005", "10.505"),
            ("amount * -(0.5 * 0.5)", "-2.6250"),
            ("amount + 1e3", "1010.50"),
            ("sum(amount) * 0.001", "0.01050"),
            // Nothing is cut off a quotient.
            ("amount * 100.0 / (amount * 3)", "33.333333333333336"),
            ("1.0 * sum(amount) / count(*)", "10.5"),
            ("-(amount * 0.5) / 3", "-1.75"),
            ("amount * 1.5 / 0", "inf"),
            // A double already, and none of our business.
            ("amount * (1 / 3.0)", "3.5"),
            ("amount * double", "1.05"),
            ("n * 0.1", "0.30000000000000004"),
            ("amount * CAST(1.19 AS DOUBLE)", "12.495"),
            ("amount / 0.5", "21.0"),
            ("amount > 10.4", "true"),
            ("amount * 0.5 = 5.25", "true"),
            ("large = 999999.99", "true"),
            ("999999.98 + 0.01 <= large", "true"),
            ("large IS DISTINCT FROM 999999.99", "false"),
            ("large BETWEEN 999999.99 AND 1e6", "true"),
            ("large IN (1, 2.5, 999999.99)", "true"),
            ("large NOT IN (999999.99)", "false"),
            ("999999.99 BETWEEN large AND large", "true"),
            ("999999.99 IN (large)", "true"),
            ("CASE large WHEN 999999.99 THEN 1 ELSE 2 END", "1"),
            ("999999.99 IN (large, NULL)", "true"),
            ("CASE 999999.99 WHEN NULL THEN 1 WHEN large THEN 2 END", "2"),
            ("CASE WHEN large < 999999.99 THEN 1 ELSE 2 END", "2"),
            ("(SELECT max(large) FROM t AS u WHERE u.large = 999999.99)", "999999.99"),
            ("(SELECT count(*) FROM t AS u WHERE u.large = t.large * 1.0)", "1"),
            // Without room for all digits it is a double.
            ("CAST(200000 AS DECIMAL(38,18)) * 1.000000000000001", "200000.0000000002"),
        ] {
            assert_eq!(answer(&with(expression)).await, expected, "{expression}");
        }
    }

    #[tokio::test]
    async fn groups_keep_their_names() {
        let t = "(SELECT CAST('10.50' AS DECIMAL(18,2)) AS amount)";
        let set = format!("SELECT amount > 0.5 AS much, count(*) AS n FROM {t} GROUP BY ROLLUP(amount > 0.5)");
        let mut rows: Vec<String> = answer(&set).await.split("; ").map(|row| row.replace(' ', "")).collect();
        rows.sort();
        assert_eq!(rows, ["1", "true|1"]);
        let plain = format!("SELECT amount > 0.5 AS much, grouping(amount > 0.5) AS g FROM {t} GROUP BY amount > 0.5");
        assert_eq!(answer(&plain).await.replace(' ', ""), "true|0");
    }

    #[test]
    fn comparisons_of_single_expressions_are_exact() {
        let amount = Field::new("amount", DataType::Decimal128(18, 2), true);
        let schema = DFSchema::try_from(Schema::new(vec![amount])).unwrap();
        let planned = planning_session().state().create_logical_expr("amount = 999999.99", &schema).unwrap();
        let shown = with_exact_comparisons(planned, &schema).unwrap().to_string();
        assert_eq!(shown, "amount = Decimal128(999999.99,8,2)");
    }

    #[test]
    fn what_was_written_is_what_is_meant() {
        for (value, expected) in [
            (1.005, Some((1005, 4, 3))),
            (0.005, Some((5, 3, 3))),
            (-1.5, Some((-15, 2, 1))),
            (0.0, Some((0, 1, 0))),
            (100.0, Some((100, 3, 0))),
            (123_456_789_012.345, Some((123_456_789_012_345, 15, 3))),
            (0.1 + 0.2, None),
            (1e15, None),
            (1e-16, None),
            (f64::INFINITY, None),
            (f64::NAN, None),
        ] {
            let found = decimal(value).map(|number| match number.expr {
                Expr::Literal(ScalarValue::Decimal128(Some(unscaled), precision, scale), None) => {
                    (unscaled, precision, scale)
                }
                other => panic!("{other}"),
            });
            assert_eq!(found, expected, "{value}");
        }
    }
}
