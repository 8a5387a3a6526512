//! Numbers with a point in SQL. DataFusion reads `1.19` as a double, and what a decimal is multiplied by a double is a
//! double: `amount * 1.19` would be right to some cents. Here such a number is exact where what it is added to,
//! subtracted from or multiplied with is a decimal. Everywhere else it is the double that the engine makes of it: it has no
//! functions of decimals for all that takes doubles, and compares doubles with decimals by cutting the doubles.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL128_MAX_SCALE, DataType};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// A double prints all digits that were written, up to so many.
const MOST_DIGITS: usize = 15;
/// Constants in deeper trees are left to the engine.
const DEEPEST: usize = 16;

/// A session that plans, with numbers as [`Engine`](crate::session::Engine) has them.
pub fn planning_session() -> SessionContext {
    SessionContext::new_with_state(with_exact_literals(SessionContext::new().state()))
}

/// A session's state whose SQL has exact numbers.
pub(crate) fn with_exact_literals(mut state: SessionState) -> SessionState {
    // Only states that know no planners of expressions refuse one, and DataFusion's knows them.
    state.register_expr_planner(Arc::new(ExactLiterals)).expect("a session takes planners of expressions");
    state
}

#[derive(Debug)]
struct ExactLiterals;

impl ExprPlanner for ExactLiterals {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let operator = match op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            _ => return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right })),
        };
        let planned = |left: Expr, right: Expr| {
            Ok(PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), operator, Box::new(right)))))
        };
        match (exact(&left, DEEPEST), exact(&right, DEEPEST)) {
            (None, Some(number)) if fits_beside(&number, &left, operator, schema) => planned(left, number.expr),
            (Some(number), None) if fits_beside(&number, &right, operator, schema) => planned(number.expr, right),
            _ => Ok(PlannerResult::Original(RawBinaryExpr { op, left, right })),
        }
    }
}

/// A constant as an expression of decimals.
struct Number {
    expr: Expr,
    scale: i8,
    has_point: bool,
}

/// `expr` of decimals, where it is one of numbers only.
fn exact(expr: &Expr, depth: usize) -> Option<Number> {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), None) => decimal(*value),
        Expr::Literal(ScalarValue::Int64(Some(value)), None) => {
            let digits = value.unsigned_abs().checked_ilog10().unwrap_or_default() as u8 + 1;
            let value = ScalarValue::Decimal128(Some(i128::from(*value)), digits, 0);
            Some(Number { expr: Expr::Literal(value, None), scale: 0, has_point: false })
        }
        Expr::Negative(of) => {
            let of = exact(of, depth.checked_sub(1)?)?;
            Some(Number { expr: Expr::Negative(Box::new(of.expr)), ..of })
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let depth = depth.checked_sub(1)?;
            let (left, right) = (exact(left, depth)?, exact(right, depth)?);
            let scale = match op {
                Operator::Plus | Operator::Minus => left.scale.max(right.scale),
                Operator::Multiply => left.scale.checked_add(right.scale)?,
                _ => return None,
            };
            let expr = Expr::BinaryExpr(BinaryExpr::new(Box::new(left.expr), *op, Box::new(right.expr)));
            Some(Number { expr, scale, has_point: left.has_point || right.has_point })
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
    let value = ScalarValue::Decimal128(Some(unscaled), count.max(fraction.len()).max(1) as u8, fraction.len() as i8);
    Some(Number { expr: Expr::Literal(value, None), scale: fraction.len() as i8, has_point: true })
}

/// Whether `number` has a point and `beside` is a decimal that it can be put together with.
fn fits_beside(number: &Number, beside: &Expr, operator: Operator, schema: &DFSchema) -> bool {
    let Some(DataType::Decimal128(_, scale)) = beside.get_type(schema).ok().filter(|_| number.has_point) else {
        return false;
    };
    let scale = match operator {
        Operator::Multiply => i16::from(scale) + i16::from(number.scale),
        _ => i16::from(scale.max(number.scale)),
    };
    scale <= i16::from(DECIMAL128_MAX_SCALE.min(DECIMAL128_MAX_PRECISION as i8))
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

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
            format!("SELECT {expression} FROM (SELECT CAST('10.50' AS DECIMAL(18,2)) AS amount, 3 AS n, 0.1 AS double)")
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
            // A double already, and none of our business.
            ("amount * (1 / 3.0)", "3.5"),
            ("amount * double", "1.05"),
            ("n * 0.1", "0.30000000000000004"),
            ("amount * CAST(1.19 AS DOUBLE)", "12.495"),
            ("amount / 0.5", "21.0"),
            ("amount > 10.4", "true"),
        ] {
            assert_eq!(answer(&with(expression)).await, expected, "{expression}");
        }
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
