//! Casts that lose something, and integers that have no room: what the optimizer of DataFusion 55.2 would make of them is wrong.
//!
//! It takes every cast for one that can be undone. So `CAST(price AS INT) = 3` becomes `price = 3.00`, and after
//! `CAST(at AS DATE) = DATE '2024-01-05'` it holds `at` for the midnight of that day, and leaves out sorting by it. And integers wrap
//! around: 2,000,000,000 + 2,000,000,000 is -294,967,296.
//!
//! Here both become functions, into which it does not look, once types have been made to fit. It asks the function which times are on
//! a day, and compares times then, by which files are left out. So do divisions of integers: of `n / 2 = 3` it would make `n = 6`.
//!
//! A chain of operators becomes one function of all its operands, and types are carried up while an expression is walked. The engine
//! derives the type and the name of a function from those of its arguments, each time it asks: for functions within functions that
//! takes time in the third power of their depth.
//!
//! Calls of functions that may make large values are bounded in the same walk: see `bounds`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Datum};
use arrow::compute::CastOptions;
use arrow::compute::kernels::numeric::{add, div, mul, sub};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, TryCast, Volatility, lit,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercionRewriter;
use datafusion::physical_expr_common::datum::apply;

use crate::bounds;
use crate::literals::{compares, in_plan};

/// Makes functions of them, in a plan whose types fit.
#[derive(Debug)]
pub(crate) struct ExactlyComputed;

impl AnalyzerRule for ExactlyComputed {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let exact = in_plan(plan, exactly)?;
        if !exact.transformed {
            return Ok(exact.data);
        }
        // What may be null is seen through a cast, and not through a function.
        let same = exact.data.transform_up_with_subqueries(|node| {
            Ok(Transformed::yes(match node {
                LogicalPlan::Union(union) => TypeCoercionRewriter::coerce_union(union)?,
                node => node.recompute_schema()?,
            }))
        });
        same.map(|plan| plan.data)
    }

    fn name(&self) -> &str {
        "exactly_computed"
    }
}

/// An expression whose types fit, with functions in their place.
pub fn with_exact_arithmetic(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    exactly(expr, schema).map(|exact| exact.data)
}

fn exactly(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut walk = Walk { schema, types: Vec::new() };
    expr.transform_up(|expr| walk.exact(expr))
}

/// A walk through an expression, from the leaves up.
struct Walk<'a> {
    schema: &'a DFSchema,
    /// For each part whose parent has not been reached: its type, where it is not known at a glance.
    types: Vec<Option<DataType>>,
}

impl Walk<'_> {
    fn exact(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        let mut parts = 0;
        expr.apply_children(|_| {
            parts += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let of = self.types.split_off(self.types.len().saturating_sub(parts));
        let (exact, data_type) = self.exact_of(expr, &of);
        self.types.push(data_type);
        Ok(exact)
    }

    /// The type of the part at `place`, which is `expr`.
    fn type_of(&self, expr: &Expr, of: &[Option<DataType>], place: usize) -> DataType {
        let known = of.get(place).cloned().flatten();
        known.or_else(|| expr.get_type(self.schema).ok()).unwrap_or(DataType::Null)
    }

    /// What takes the place of an expression whose parts have the types `of`, and its type where that is hard to derive again.
    fn exact_of(&self, expr: Expr, of: &[Option<DataType>]) -> (Transformed<Expr>, Option<DataType>) {
        // Of a constant some functions have another type, as `round` does, so that it stays one.
        if let Expr::Cast(Cast { expr: of, field }) = &expr
            && let (Expr::Literal(of, None), true) = (of.as_ref(), field.metadata().is_empty())
            && let Ok(constant) = of.cast_to(field.data_type())
        {
            return (Transformed::yes(lit(constant)), None);
        }
        match expr {
            Expr::Cast(Cast { expr, field })
                if field.metadata().is_empty() && loses(&self.type_of(&expr, of, 0), field.data_type()) =>
            {
                let to = field.data_type().clone();
                (Transformed::yes(Conversion::call(&to, false, *expr)), Some(to))
            }
            Expr::TryCast(TryCast { expr, field })
                if field.metadata().is_empty() && loses(&self.type_of(&expr, of, 0), field.data_type()) =>
            {
                let to = field.data_type().clone();
                (Transformed::yes(Conversion::call(&to, true, *expr)), Some(to))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if compares(op) || matches!(op, Operator::And | Operator::Or) =>
            {
                (Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })), Some(DataType::Boolean))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let (lefts, rights) = (self.type_of(&left, of, 0), self.type_of(&right, of, 1));
                if KERNELS.iter().any(|(of, ..)| *of == op) && lefts.is_integer() && lefts == rights {
                    return (Transformed::yes(Checked::call(op, &lefts, *left, *right)), Some(lefts));
                }
                if op == Operator::StringConcat && lefts.is_string() && lefts == rights {
                    return (Transformed::yes(bounds::joined(&lefts, *left, *right)), Some(lefts));
                }
                if let Some(matched) = bounds::matched(&left, op, &right) {
                    return (Transformed::yes(matched), Some(DataType::Boolean));
                }
                let result = BinaryTypeCoercer::new(&lefts, &op, &rights).get_result_type().ok();
                (Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })), result)
            }
            Expr::Negative(expr) => {
                let data_type = self.type_of(&expr, of, 0);
                if data_type.is_integer()
                    && !matches!(expr.as_ref(), Expr::Literal(..))
                    && let Ok(zero) = ScalarValue::new_zero(&data_type)
                {
                    let difference = Checked::call(Operator::Minus, &data_type, lit(zero), *expr);
                    return (Transformed::yes(difference), Some(data_type));
                }
                (Transformed::no(Expr::Negative(expr)), Some(data_type))
            }
            Expr::Like(like) => match bounds::alike(like) {
                Ok(call) => (Transformed::yes(call), Some(DataType::Boolean)),
                Err(like) => (Transformed::no(Expr::Like(like)), Some(DataType::Boolean)),
            },
            Expr::ScalarFunction(call) => (bounds::bounded_call(call), None),
            Expr::AggregateFunction(call) => {
                let counted = bounds::counts_distinct(&call).map(|counted| self.type_of(counted, of, 0));
                match counted.is_some_and(|counted| counted.is_nested()) {
                    true => (Transformed::yes(bounds::counted_by_rows(call)), None),
                    false => (Transformed::no(Expr::AggregateFunction(call)), None),
                }
            }
            other => (Transformed::no(other), None),
        }
    }
}

/// Whether two values of one type may become one of the other, or have none there.
pub fn loses(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Date32, Date64, Decimal128, Float32, Float64, Int32, Int64, Time32, Time64, Timestamp, UInt32, UInt64,
    };
    let whole = |digits: u8, scale: i8| i16::from(digits) - i16::from(scale);
    match (from, to) {
        _ if from == to => false,
        (Timestamp(..), Date32 | Date64 | Time32(_) | Time64(_)) | (Date64, Date32) => true,
        (Timestamp(old, old_zone), Timestamp(new, new_zone)) => {
            // A time of nowhere becomes another instant in every zone, and the other way round.
            let moves = old_zone.is_some() != new_zone.is_some() && !old_zone.iter().chain(new_zone).all(is_utc);
            moves || parts_of_a_second(*old) > parts_of_a_second(*new)
        }
        (Decimal128(digits, scale), Decimal128(new_digits, new_scale)) => {
            new_scale < scale || whole(*new_digits, *new_scale) < whole(*digits, *scale)
        }
        (Decimal128(..), to) => to.is_integer(),
        (from, Decimal128(digits, scale)) if from.is_integer() => whole(*digits, *scale) < digits_of(from),
        (Int64 | UInt64, Float64) | (Int32 | Int64 | UInt32 | UInt64, Float32) | (Float64, Float32) => true,
        (Float32 | Float64, to) => to.is_integer() || matches!(to, Decimal128(..)),
        (from, to) if from.is_integer() && to.is_integer() => {
            let (old, new) = (from.primitive_width(), to.primitive_width());
            match (from.is_signed_integer(), to.is_signed_integer()) {
                (true, false) => true,
                (false, true) => new <= old,
                _ => new < old,
            }
        }
        _ => false,
    }
}

/// Digits that every value of a type of integers has room in.
fn digits_of(integers: &DataType) -> i16 {
    match integers.primitive_width() {
        Some(1) => 3,
        Some(2) => 5,
        Some(4) => 10,
        _ => 20,
    }
}

pub(crate) fn is_utc(zone: &Arc<str>) -> bool {
    ["UTC", "+00:00"].contains(&zone.as_ref())
}

fn parts_of_a_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A cast that loses something.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Conversion {
    to: DataType,
    /// What cannot be cast becomes null.
    or_null: bool,
    /// It says the type: two keys of a join by one column are told apart by it.
    name: String,
    signature: Signature,
}

impl Conversion {
    fn call(to: &DataType, or_null: bool, of: Expr) -> Expr {
        let signature = Signature::any(1, Volatility::Immutable);
        let name = format!("{} to {to}", if or_null { "try_cast" } else { "cast" });
        ScalarUDF::from(Self { to: to.clone(), or_null, name, signature }).call(vec![of])
    }
}

impl ScalarUDFImpl for Conversion {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    /// The times of a day.
    fn preimage(&self, args: &[Expr], is: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        let (DataType::Date32, false, [time], Expr::Literal(ScalarValue::Date32(Some(day)), _)) =
            (&self.to, self.or_null, args, is)
        else {
            return Ok(PreimageResult::None);
        };
        let DataType::Timestamp(unit, zone) = info.get_data_type(time)? else { return Ok(PreimageResult::None) };
        let midnight = |day: i64| {
            let of = Some(day.checked_mul(86_400)?.checked_mul(parts_of_a_second(unit))?);
            let zone = zone.clone();
            Some(match unit {
                TimeUnit::Second => ScalarValue::TimestampSecond(of, zone),
                TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(of, zone),
                TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(of, zone),
                TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(of, zone),
            })
        };
        let day = i64::from(*day);
        Ok(match midnight(day).zip(midnight(day + 1)) {
            Some((begins, ends)) if zone.iter().all(is_utc) => {
                PreimageResult::Range { expr: time.clone(), interval: Box::new(Interval::try_new(begins, ends)?) }
            }
            _ => PreimageResult::None,
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let is_nullable = self.or_null || args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.to.clone(), is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [of] => of.cast_to(&self.to, Some(&CastOptions { safe: self.or_null, ..CastOptions::default() })),
            _ => exec_err!("a cast is of one value"),
        }
    }
}

/// A kernel of arrow's, which fails where there is no room.
type Kernel = fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError>;

/// What it is called, and how it is computed.
const KERNELS: [(Operator, &str, Kernel); 4] = [
    (Operator::Plus, "sum_of", add),
    (Operator::Minus, "difference_of", sub),
    (Operator::Multiply, "product_of", mul),
    (Operator::Divide, "quotient_of", div),
];

/// Sums, differences, products and quotients of integers of one type, from the left to the right, that fail where they have no room.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    /// One fewer than there are operands.
    ops: Vec<Operator>,
    of: DataType,
    /// It says the operators: two chains over the same operands are told apart by it.
    name: String,
    signature: Signature,
}

impl Checked {
    /// `left op right`, of integers of type `of`. Where `left` is a chain already, it becomes longer.
    fn call(op: Operator, of: &DataType, left: Expr, right: Expr) -> Expr {
        let (mut ops, mut operands) = match left {
            Expr::ScalarFunction(ScalarFunction { func, args }) => {
                let chain = func.inner().downcast_ref::<Self>().filter(|chain| chain.of == *of);
                match chain.map(|chain| chain.ops.clone()) {
                    Some(ops) => (ops, args),
                    None => (Vec::new(), vec![Expr::ScalarFunction(ScalarFunction { func, args })]),
                }
            }
            left => (Vec::new(), vec![left]),
        };
        ops.push(op);
        operands.push(right);
        let name = match KERNELS.iter().find(|(of, ..)| ops.iter().all(|op| op == of)) {
            Some((_, name, _)) => (*name).to_owned(),
            None => format!("number_of {}", ops.iter().map(Operator::to_string).collect::<String>()),
        };
        let signature = Signature::any(operands.len(), Volatility::Immutable);
        ScalarUDF::from(Self { ops, of: of.clone(), name, signature }).call(operands)
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.of.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let is_nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.of.clone(), is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut operands = args.args.into_iter();
        let Some(mut number) = operands.next() else { return exec_err!("{} takes numbers", self.name) };
        for (op, operand) in self.ops.iter().zip(operands) {
            let Some((_, _, kernel)) = KERNELS.iter().find(|(of, ..)| of == op) else {
                return exec_err!("no kernel for {op}");
            };
            number = apply(&number, &operand, kernel)?;
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::RecordBatch;
    use arrow::datatypes::{Field, Schema};
    use arrow::util::display::array_value_to_string;

    use crate::literals::planning_session;

    /// The first columns of an answer, or what went wrong.
    async fn answer(sql: &str) -> String {
        let session = planning_session();
        let batches = match session.sql(sql).await {
            Ok(frame) => frame.collect().await,
            Err(error) => Err(error),
        };
        let batches = match batches {
            Ok(batches) => batches,
            Err(error) => return error.find_root().strip_backtrace(),
        };
        let rows = batches.iter().flat_map(|batch| {
            (0..batch.num_rows()).map(|row| array_value_to_string(batch.column(0), row).unwrap()).collect::<Vec<_>>()
        });
        rows.collect::<Vec<_>>().join(" ")
    }

    const PRICES: &str = "WITH t AS (SELECT n, CAST(p AS DECIMAL(9,2)) AS price, CAST(p AS DOUBLE) AS double FROM \
                          (VALUES (1, '3.30'), (2, '3.99'), (3, '7.00'), (4, NULL)) AS v(n, p))";

    #[tokio::test]
    async fn casts_are_not_undone() {
        for (query, expected) in [
            ("SELECT n FROM t WHERE CAST(price AS INT) = 3 ORDER BY n", "1 2"),
            ("SELECT n FROM t WHERE 3 >= CAST(price AS BIGINT) ORDER BY n", "1 2"),
            ("SELECT n FROM t WHERE CAST(price AS INT) IN (3, 8) ORDER BY n", "1 2"),
            ("SELECT n FROM t WHERE CAST(price AS INT) BETWEEN 3 AND 3 ORDER BY n", "1 2"),
            ("SELECT n FROM t WHERE TRY_CAST(price AS INT) <> 3 ORDER BY n", "3"),
            ("SELECT n FROM t WHERE CAST(price AS DECIMAL(9,1)) = 4.0", "2"),
            ("SELECT n FROM (SELECT n, CAST(price AS INT) AS whole FROM t) WHERE whole = 3 ORDER BY n", "1 2"),
            ("SELECT count(*) FROM t GROUP BY CAST(price AS INT) HAVING CAST(price AS INT) = 3", "2"),
            ("SELECT n FROM t WHERE CAST(double AS INT) = 3 ORDER BY double DESC", "2 1"),
            ("SELECT n FROM t WHERE CAST(price AS INT) + 0 = 3 ORDER BY n", "1 2"),
            ("SELECT n FROM t WHERE n / 2 = 1 ORDER BY n DESC", "3 2"),
            // What may be null is known alike to all who ask.
            (
                "SELECT CASE WHEN price IS NOT NULL THEN CAST(price AS INT) ELSE 0 END AS w FROM t UNION SELECT 1 ORDER BY w",
                "0 1 3 7",
            ),
            (
                "SELECT a.n FROM t a JOIN t b ON CAST(a.price AS INT) = b.n AND CAST(a.price AS SMALLINT) = b.n ORDER BY a.n",
                "1 2",
            ),
            ("SELECT count(*) FROM t LIMIT 3 - 2", "4"),
            ("SELECT n FROM t WHERE CAST(price AS DECIMAL(12,2)) = 3.30", "1"),
        ] {
            assert_eq!(answer(&format!("{PRICES} {query}")).await, expected, "{query}");
        }
    }

    #[tokio::test]
    async fn days_of_times_are_spans() {
        const TIMES: &str = "WITH t AS (SELECT n, arrow_cast(t, 'Timestamp(Microsecond, Some(\"UTC\"))') AS at FROM (VALUES \
                             (1, '2024-01-04T23:59:59.999999Z'), (2, '2024-01-05T00:00:00Z'), (3, '2024-01-05T18:00:00Z'), \
                             (4, '2024-01-06T00:00:00Z'), (5, '1969-12-31T12:00:00Z'), (6, NULL)) AS v(n, t))";
        for (condition, expected) in [
            ("CAST(at AS DATE) = DATE '2024-01-05'", "3 2"),
            ("CAST(at AS DATE) = '2024-01-05'", "3 2"),
            ("DATE '2024-01-05' <> CAST(at AS DATE)", "4 1 5"),
            ("CAST(at AS DATE) < DATE '2024-01-05'", "1 5"),
            ("CAST(at AS DATE) <= DATE '2024-01-05'", "3 2 1 5"),
            ("CAST(at AS DATE) > DATE '2024-01-05'", "4"),
            ("DATE '2024-01-05' <= CAST(at AS DATE)", "4 3 2"),
            ("CAST(at AS DATE) BETWEEN DATE '1969-12-31' AND DATE '2024-01-04'", "1 5"),
            ("CAST(at AS DATE) NOT BETWEEN DATE '2024-01-04' AND DATE '2024-01-05'", "4 5"),
            ("CAST(at AS DATE) IN (DATE '2024-01-05')", "3 2"),
            ("CAST(at AS DATE) = DATE '1969-12-31'", "5"),
            ("CAST(at AS DATE) IS NOT DISTINCT FROM DATE '2024-01-06'", "4"),
            ("CAST(at AS DATE) = CAST(n + 19724 AS DATE)", "4 3"),
        ] {
            let query = format!("{TIMES} SELECT n FROM t WHERE {condition} ORDER BY at DESC");
            assert_eq!(answer(&query).await, expected, "{condition}");
        }
    }

    /// Of a span, files tell whether they have any of it.
    #[tokio::test]
    async fn days_of_times_are_planned_as_spans() {
        let session = planning_session();
        let schema = Arc::new(Schema::new(vec![Field::new("at", crate::events::timestamp(), true)]));
        session.register_batch("t", RecordBatch::new_empty(schema)).unwrap();
        let query = "SELECT at FROM t WHERE CAST(at AS DATE) = DATE '2024-01-05'";
        let plan = session.sql(query).await.unwrap().into_optimized_plan().unwrap().display_indent().to_string();
        for bound in ["t.at >= TimestampMicrosecond(1704412800000000", "t.at < TimestampMicrosecond(1704499200000000"] {
            assert!(plan.contains(bound), "{plan}");
        }
    }

    #[tokio::test]
    async fn integers_without_room_are_told() {
        const NUMBERS: &str = "WITH t AS (SELECT arrow_cast(n, 'Int32') AS n FROM (VALUES (2000000000), (5)) AS v(n))";
        for (expression, expected) in [
            ("n + n", "Arrow error: Arithmetic overflow: Overflow happened on: 2000000000 + 2000000000"),
            ("n * n", "Arrow error: Arithmetic overflow: Overflow happened on: 2000000000 * 2000000000"),
            ("-n - n", "Arrow error: Arithmetic overflow: Overflow happened on: -2000000000 - 2000000000"),
            ("CAST(n AS BIGINT) * n", "4000000000000000000 25"),
            ("n / 2", "1000000000 2"),
            (
                "-(n - n - arrow_cast(2147483647, 'Int32') - arrow_cast(1, 'Int32'))",
                "Arrow error: Arithmetic overflow: Overflow happened on: 0 - -2147483648",
            ),
        ] {
            let got = answer(&format!("{NUMBERS} SELECT {expression} FROM t")).await;
            assert_eq!(got, expected, "{expression}");
        }
        let sum = answer(&format!("{NUMBERS} SELECT sum(n * n) FROM t WHERE n < 10")).await;
        assert_eq!(sum, "25");
    }

    /// A chain is one function of all its operands, whatever is added, subtracted, multiplied and divided in it.
    #[tokio::test]
    async fn chains_are_computed_from_the_left() {
        const NUMBERS: &str = "WITH t AS (SELECT n, arrow_cast(n, 'Int32') AS small FROM (VALUES (7), (NULL)) AS v(n))";
        for (expression, expected) in [
            ("n - 1 - 2", "4 "),
            ("n - (1 - 2)", "8 "),
            ("n * 3 / 2 + 1 - n", "4 "),
            ("n + 2 * n - 4 / 2", "19 "),
            ("small + small + n - small", "14 "),
            ("small * arrow_cast(2, 'Int32') - small / arrow_cast(2, 'Int32')", "11 "),
        ] {
            let got = answer(&format!("{NUMBERS} SELECT {expression} FROM t")).await;
            assert_eq!(got, expected, "{expression}");
        }
        let session = planning_session();
        let plan = session.sql(&format!("{NUMBERS} SELECT n + 1 - 2 AS a, n - 1 + 2 AS b FROM t")).await.unwrap();
        let plan = plan.into_optimized_plan().unwrap().display_indent().to_string();
        assert!(plan.contains("number_of +-") && plan.contains("number_of -+"), "{plan}");
    }

    /// As functions within functions this takes minutes: their names and types are derived anew at each of them.
    #[tokio::test]
    async fn long_chains_are_planned() {
        for (link, times, expected) in [(" + n", 1000, "1001"), (" + n - n", 500, "1"), (" * n", 1000, "1")] {
            let chain = link.repeat(times);
            let sql = format!("SELECT n{chain} FROM (VALUES (1)) AS v(n) WHERE n{chain} > 0");
            let plan = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(answer(&sql))
            };
            let planned = std::thread::Builder::new().stack_size(64 << 20).spawn(plan).unwrap().join().unwrap();
            assert_eq!(planned, expected, "{link}");
        }
    }
}
