//! Times in SQL are of microseconds, as those of events are: so they reach from year 1 to 9999. DataFusion takes nanoseconds for what
//! is written without a precision, for what a time is compared with, and within `date_trunc`, and these end in 2262.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef, TimeUnit, TimestampMicrosecondType};
use chrono::{Datelike, NaiveDate, TimeDelta, Weekday};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Documentation, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDFImpl, Signature, cast,
};
use datafusion::sql::sqlparser::ast::{DataType as SqlType, Expr as SqlExpr, TypedString, VisitorMut};

use crate::arithmetic::is_utc;
use crate::literals::compares;

/// Microseconds, as SQL counts digits.
const DIGITS: u64 = 6;

/// Gives types of times their precision: `TIMESTAMP '9999-12-31'`, `CAST(day AS TIMESTAMP)`.
#[derive(Debug)]
pub struct WithPrecision;

impl VisitorMut for WithPrecision {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &mut SqlExpr) -> ControlFlow<()> {
        if let SqlExpr::Cast { data_type, .. } | SqlExpr::TypedString(TypedString { data_type, .. }) = expression
            && let SqlType::Timestamp(digits @ None, _) = data_type
        {
            *digits = Some(DIGITS);
        }
        ControlFlow::Continue(())
    }
}

/// DataFusion's `date_trunc`, and what it says of times that nanoseconds do not reach.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct DateTrunc(DateTruncFunc);

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        self.0.return_type(of)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.return_field_from_args(args)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.0.output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (part, times, rows) = (args.args.first().cloned(), args.args.get(1).cloned(), args.number_rows);
        let failed = match self.0.invoke_with_args(args) {
            Err(failed) => failed,
            truncated => return truncated,
        };
        let (Some(ColumnarValue::Scalar(part)), Some(times)) = (part, times) else { return Err(failed) };
        let DataType::Timestamp(TimeUnit::Microsecond, zone) = times.data_type() else { return Err(failed) };
        let part = part.try_as_str().flatten().unwrap_or_default().to_lowercase();
        if !zone.iter().all(is_utc) || beginning(&part, 0).is_none() {
            return Err(failed);
        }
        let is_scalar = matches!(times, ColumnarValue::Scalar(_));
        let times = times.into_array(rows)?;
        let begin = |time: i64| beginning(&part, time).ok_or(());
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let Ok(begun) = times.try_unary::<_, TimestampMicrosecondType, ()>(begin) else { return Err(failed) };
        let begun: ArrayRef = Arc::new(begun.with_timezone_opt(zone));
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&begun, 0)?),
            false => ColumnarValue::Array(begun),
        })
    }
}

/// When the hour, day, week, month, quarter or year of a time began.
fn beginning(part: &str, time: i64) -> Option<i64> {
    const HOUR: i64 = 3_600_000_000;
    const DAY: i64 = 24 * HOUR;
    let date = || NaiveDate::default().checked_add_signed(TimeDelta::days(time.div_euclid(DAY)));
    let first = |month: u32| NaiveDate::from_ymd_opt(date()?.year(), month, 1);
    let day = match part {
        "hour" => return Some(time - time.rem_euclid(HOUR)),
        "day" => date()?,
        "week" => date()?.week(Weekday::Mon).checked_first_day()?,
        "month" => first(date()?.month())?,
        "quarter" => first(date()?.month0() / 3 * 3 + 1)?,
        "year" => first(1)?,
        _ => return None,
    };
    day.signed_duration_since(NaiveDate::default()).num_days().checked_mul(DAY)
}

/// A time that is compared with a day or a text: that is a time of the same precision. And a time of a zone has that of the time.
pub(crate) fn exact(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let as_time = |of: &Expr, time: &Expr| {
        let to = time.get_type(schema).ok().filter(is_coarse)?;
        match (of, of.get_type(schema).ok()?) {
            (_, DataType::Date32) => Some(cast(of.clone(), to)),
            (Expr::Literal(text, _), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8) => {
                let text = text.try_as_str().flatten()?;
                let digits = text
                    .split_once('.')
                    .map_or(0, |(_, rest)| rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
                (digits <= DIGITS as usize).then(|| cast(of.clone(), to))
            }
            _ => None,
        }
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            match (as_time(&left, &right), as_time(&right, &left)) {
                (Some(left), _) => Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, right))),
                (_, Some(right)) => Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, op, Box::new(right)))),
                _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            }
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let (from, to) = (as_time(&low, &expr), as_time(&high, &expr));
            let is_changed = from.is_some() || to.is_some();
            let (low, high) = (from.map_or(low, Box::new), to.map_or(high, Box::new));
            let between = Expr::Between(Between { expr, negated, low, high });
            if is_changed { Transformed::yes(between) } else { Transformed::no(between) }
        }
        Expr::InList(InList { expr, mut list, negated }) => {
            let mut is_changed = false;
            for item in &mut list {
                if let Some(time) = as_time(item, &expr) {
                    (*item, is_changed) = (time, true);
                }
            }
            let among = Expr::InList(InList { expr, list, negated });
            if is_changed { Transformed::yes(among) } else { Transformed::no(among) }
        }
        Expr::Cast(Cast { expr, field }) => match (field.data_type(), expr.get_type(schema)) {
            (DataType::Timestamp(TimeUnit::Nanosecond, zone @ Some(_)), Ok(DataType::Timestamp(unit, _)))
                if unit != TimeUnit::Nanosecond =>
            {
                Transformed::yes(cast(*expr, DataType::Timestamp(unit, zone.clone())))
            }
            _ => Transformed::no(Expr::Cast(Cast { expr, field })),
        },
        other => Transformed::no(other),
    }
}

fn is_coarse(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(unit, _) if *unit != TimeUnit::Nanosecond)
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;
    use datafusion::sql::parser::Statement;
    use datafusion::sql::sqlparser::ast::VisitMut;

    use super::*;
    use crate::literals::planning_session;

    #[tokio::test]
    async fn times_reach_from_year_1_to_9999() {
        const TIMES: &str = "WITH t AS (SELECT n, arrow_cast(t, 'Timestamp(Microsecond, Some(\"UTC\"))') AS at FROM (VALUES \
                             (1, '0001-01-01T00:00:00Z'), (2, '2024-01-05T18:00:00Z'), (3, '9999-12-31T00:00:00Z')) AS v(n, t)), \
                             d AS (SELECT n, CAST(d AS DATE) AS day FROM (VALUES (7, '2024-01-05'), (8, '9999-12-31')) AS v(n, d)) ";
        for (query, expected) in [
            ("SELECT n FROM t WHERE at = TIMESTAMP '9999-12-31T00:00:00Z'", "3"),
            ("SELECT n FROM t WHERE at >= '2024-01-05' ORDER BY n", "2 3"),
            ("SELECT n FROM t WHERE DATE '2024-01-06' > at ORDER BY n", "1 2"),
            ("SELECT n FROM t WHERE at BETWEEN '0001-01-01' AND DATE '2024-01-06' ORDER BY n", "1 2"),
            ("SELECT n FROM t WHERE at IN ('9999-12-31', '2024-01-05T18:00:00Z') ORDER BY n", "2 3"),
            ("SELECT d.n FROM t JOIN d ON day <= at ORDER BY d.n", "7 7 8"),
            (
                "SELECT date_trunc('month', at) FROM t ORDER BY n",
                "0001-01-01T00:00:00Z 2024-01-01T00:00:00Z 9999-12-01T00:00:00Z",
            ),
            (
                "SELECT date_trunc('week', at) FROM t ORDER BY n DESC",
                "9999-12-27T00:00:00Z 2024-01-01T00:00:00Z 0001-01-01T00:00:00Z",
            ),
            ("SELECT date_trunc('quarter', at) FROM t ORDER BY n DESC LIMIT 1", "9999-10-01T00:00:00Z"),
            ("SELECT date_trunc('year', TIMESTAMP '9999-12-31T10:00:00')", "9999-01-01T00:00:00"),
            (
                "SELECT to_local_time(at AT TIME ZONE 'Europe/Zurich') FROM t WHERE n > 1 ORDER BY n",
                "2024-01-05T19:00:00 9999-12-31T01:00:00",
            ),
            (
                "SELECT n FROM t WHERE coalesce(at, TIMESTAMP '9999-12-31') < CAST('2300-01-01' AS TIMESTAMP) ORDER BY n",
                "1 2",
            ),
        ] {
            let mut tree =
                planning_session().state().sql_to_statement(&format!("{TIMES}{query}"), &Default::default()).unwrap();
            if let Statement::Statement(inner) = &mut tree {
                let _walked = VisitMut::visit(inner.as_mut(), &mut WithPrecision);
            }
            let session = planning_session();
            let plan = session.state().statement_to_plan(tree).await.unwrap();
            let batches = session.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
            let rows = batches.iter().flat_map(|batch| {
                (0..batch.num_rows())
                    .map(|row| array_value_to_string(batch.column(0), row).unwrap())
                    .collect::<Vec<_>>()
            });
            assert_eq!(rows.collect::<Vec<_>>().join(" "), expected, "{query}");
        }
    }
}
