//! Functions of generated SQL, and what users' expressions within it may not have.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array, ListArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Field, TimestampMicrosecondType, i256};
use arrow::util::display::array_value_to_string;
use datafusion::common::plan_err;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, FunctionArguments, visit_expressions};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use starmere_lake::events::timestamp;

use crate::define::Period;
use crate::define::period::DAY;
use crate::keys::Keys;

/// All of them.
pub(super) fn all() -> [ScalarUDF; 7] {
    [
        ScalarUDF::from(Periods::new("period_of", 2)),
        ScalarUDF::from(Periods::new("period_end", 2)),
        ScalarUDF::from(Periods::new("periods", 4)),
        ScalarUDF::from(Allocated::new()),
        ScalarUDF::from(SurrogateKey::new()),
        ScalarUDF::from(SecondsBetween::new()),
        ScalarUDF::from(Agreed::new()),
    ]
}

/// Refuses an expression within generated SQL that is more than one, or that has what would not be followed.
pub(crate) fn check_fragment(text: &str) -> Result<(), String> {
    let of =
        |error: datafusion::sql::sqlparser::parser::ParserError| error.to_string().replace("sql parser error: ", "");
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(text).map_err(of)?;
    let expression = parser.parse_expr().map_err(of)?;
    if parser.peek_token().token != Token::EOF {
        return Err(format!("something follows the expression: `{}`", parser.peek_token()));
    }
    let found = visit_expressions(&expression, |part| {
        let why = match part {
            SqlExpr::Function(call) if call.over.is_some() => "a window function",
            SqlExpr::Function(call) if matches!(call.args, FunctionArguments::Subquery(_)) => "a query",
            SqlExpr::Subquery(_) | SqlExpr::InSubquery { .. } | SqlExpr::Exists { .. } => "a query",
            _ => return ControlFlow::Continue(()),
        };
        ControlFlow::Break(why)
    });
    match found {
        ControlFlow::Break(why) => Err(format!("{why} within an expression")),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The column of a fact that an expression is, but for its sign and its type.
pub(crate) fn only_column(text: &str) -> Option<String> {
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(text).ok()?;
    let mut expression = &parser.parse_expr().ok()?;
    loop {
        expression = match expression {
            SqlExpr::Nested(inner) | SqlExpr::Cast { expr: inner, .. } | SqlExpr::UnaryOp { expr: inner, .. } => inner,
            SqlExpr::Identifier(name) => return Some(name.value.clone()),
            SqlExpr::CompoundIdentifier(names) => return names.last().map(|name| name.value.clone()),
            _ => return None,
        };
    }
}

/// `allocated(amount, before, through, total)`: of an amount that is split by weights, the share of the weights after
/// the first `before` up to `through`, of `total` in all. Shares are differences of rounded running sums, so that they
/// add up to the amount, to the last digit.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Allocated {
    signature: Signature,
}

impl Allocated {
    fn new() -> Self {
        Self { signature: Signature::new(TypeSignature::Any(4), Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Allocated {
    fn name(&self) -> &str {
        "allocated"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> PlanResult<DataType> {
        match &arguments[0] {
            decimal @ DataType::Decimal128(..) => Ok(decimal.clone()),
            whole if whole.is_integer() => Ok(DataType::Int64),
            other => plan_err!("an amount of {other} is not split"),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let amount_type = columns[0].data_type().clone();
        let scale = columns[1..].iter().map(|weight| scale_of(weight.data_type())).max().unwrap_or_default();
        let wide = |column: &ArrayRef, scale: i8| -> PlanResult<Decimal128Array> {
            Ok(cast(column, &DataType::Decimal128(38, scale))?.as_primitive::<Decimal128Type>().clone())
        };
        let amount = wide(&columns[0], scale_of(&amount_type))?;
        let weights = columns[1..].iter().map(|weight| wide(weight, scale)).collect::<PlanResult<Vec<_>>>()?;
        let share = |row: usize| {
            if amount.is_null(row) || weights.iter().any(|weight| weight.is_null(row)) {
                return Ok(None);
            }
            let [before, through, total] = [0, 1, 2].map(|weight| weights[weight].value(row));
            let amount = amount.value(row);
            let whole = |share: &i128| !amount_type.is_integer() || i64::try_from(*share).is_ok();
            share(amount, before, through, total).filter(whole).map(Some).ok_or_else(|| {
                DataFusionError::Execution(format!("{amount} cannot be split by weights that add up to {total}"))
            })
        };
        let shares = (0..amount.len()).map(share).collect::<PlanResult<Vec<Option<i128>>>>()?;
        let shares: ArrayRef = match &amount_type {
            DataType::Decimal128(precision, scale) => {
                Arc::new(Decimal128Array::from_iter(shares).with_precision_and_scale(*precision, *scale)?)
            }
            _ => Arc::new(shares.into_iter().map(|share| share.map(|share| share as i64)).collect::<Int64Array>()),
        };
        Ok(ColumnarValue::Array(shares))
    }
}

fn scale_of(data_type: &DataType) -> i8 {
    match data_type {
        DataType::Decimal128(_, scale) => *scale,
        _ => 0,
    }
}

/// The share of an amount of weights from `before` to `through`, of `total`; none where the total is nothing, or the
/// share does not fit.
fn share(amount: i128, before: i128, through: i128, total: i128) -> Option<i128> {
    if total == 0 {
        return None;
    }
    let upto = |weight: i128| -> Option<i128> {
        let (amount, weight, total) = (i256::from_i128(amount), i256::from_i128(weight), i256::from_i128(total));
        let product = amount.checked_mul(weight)?;
        // Halves go away from nothing.
        let two = i256::from_i128(2);
        let twice = product.checked_mul(two)?;
        let half = if (twice < i256::ZERO) == (total < i256::ZERO) { total } else { total.checked_neg()? };
        twice.checked_add(half)?.checked_div(total.checked_mul(two)?)?.to_i128()
    };
    upto(through)?.checked_sub(upto(before)?)
}

/// `surrogate_key('domain.dimension', part, …)`: the durable key of a member, nulls among its parts included.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SurrogateKey {
    signature: Signature,
}

impl SurrogateKey {
    fn new() -> Self {
        Self { signature: Signature::new(TypeSignature::VariadicAny, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for SurrogateKey {
    fn name(&self) -> &str {
        "surrogate_key"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let (name, parts) =
            columns.split_first().ok_or_else(|| DataFusionError::Internal("no dimension".to_owned()))?;
        let name = cast(name, &DataType::Utf8)?;
        let dimension = match name.as_string::<i32>().iter().flatten().next() {
            Some(name) => name.to_owned(),
            None => return Ok(ColumnarValue::Array(Arc::new(Int64Array::from(Vec::<i64>::new())))),
        };
        let parts = parts.iter().map(|part| match crate::define::FieldType::of(part.data_type()) {
            Some(known) => Ok(cast(part, &known.arrow())?),
            None => plan_err!("{} is no part of a key", part.data_type()),
        });
        let parts: Vec<ArrayRef> = parts.collect::<PlanResult<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(Keys::new(&dimension).of_values(&parts))))
    }
}

/// `seconds_between(a, b)`: whole seconds from one time to another, towards nothing.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SecondsBetween {
    signature: Signature,
}

impl SecondsBetween {
    fn new() -> Self {
        Self { signature: Signature::new(TypeSignature::Any(2), Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for SecondsBetween {
    fn name(&self) -> &str {
        "seconds_between"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let times = |column: &ArrayRef| -> PlanResult<TimestampMicrosecondArray> {
            Ok(cast(column, &timestamp())?.as_primitive::<TimestampMicrosecondType>().clone())
        };
        let (a, b) = (times(&columns[0])?, times(&columns[1])?);
        let between = |(a, b): (Option<i64>, Option<i64>)| Some(b?.saturating_sub(a?) / 1_000_000);
        Ok(ColumnarValue::Array(Arc::new(a.iter().zip(b.iter()).map(between).collect::<Int64Array>())))
    }
}

/// `agreed(least, greatest, attribute, member)`: the one value that an attribute has; an error where there are two.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Agreed {
    signature: Signature,
}

impl Agreed {
    fn new() -> Self {
        Self { signature: Signature::new(TypeSignature::Any(4), Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Agreed {
    fn name(&self) -> &str {
        "agreed"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> PlanResult<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let differ = not_distinct(&columns[0], &columns[1])?;
        if let Some(row) = (0..differ.len()).find(|&row| !differ.value(row)) {
            let text = |column: usize| array_value_to_string(&columns[column], row).unwrap_or_default();
            let (least, greatest, attribute, member) = (text(0), text(1), text(2), text(3));
            let message =
                format!("`{attribute}` is not the same for all members with {member}: `{least}` and `{greatest}`");
            return Err(DataFusionError::Execution(message));
        }
        Ok(ColumnarValue::Array(columns[0].clone()))
    }
}

/// Between the length of a period and where the first one begins.
const FROM: &str = " from ";

/// As [`Periods`] are told of a period.
pub(crate) fn period_text(period: Period, first: i64) -> String {
    let text = period.to_string();
    if period.is_counted() { format!("{text}{FROM}{first}") } else { text }
}

/// `period_of(time, 'month')`: when its period begins; `period_end(begin, 'month')`: its last day, or where times are given when it
/// is over; `periods(begin, next, last, 'month')`: when periods begin, from `begin` to before `next`, or else up to `last`.
/// Times are days, or of microseconds. Periods that are counted are written with the first one: `3 months from 1704067200000000`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Periods {
    name: &'static str,
    signature: Signature,
}

impl Periods {
    fn new(name: &'static str, arguments: usize) -> Self {
        Self { name, signature: Signature::new(TypeSignature::Any(arguments), Volatility::Immutable) }
    }
}

/// The type of times that are like these.
fn times_like(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(..) => timestamp(),
        _ => DataType::Date32,
    }
}

/// Days or times as microseconds.
fn micros(times: &ArrayRef) -> PlanResult<Int64Array> {
    let to = times_like(times.data_type());
    let times = cast(times, &to)?;
    Ok(match times.as_primitive_opt::<Date32Type>() {
        Some(days) => days.unary(|day| i64::from(day) * DAY),
        None => times.as_primitive::<TimestampMicrosecondType>().reinterpret_cast(),
    })
}

/// Microseconds as days or times.
fn times(micros: &Int64Array, to: &DataType) -> ArrayRef {
    match to {
        DataType::Date32 => Arc::new(micros.unary::<_, Date32Type>(|time| time.div_euclid(DAY) as i32)),
        _ => Arc::new(micros.reinterpret_cast::<TimestampMicrosecondType>().with_data_type(to.clone())),
    }
}

impl ScalarUDFImpl for Periods {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> PlanResult<DataType> {
        let of = times_like(&arguments[0]);
        Ok(if arguments.len() == 4 { DataType::List(Arc::new(Field::new_list_field(of, true))) } else { of })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let Some((ColumnarValue::Scalar(text), of)) = arguments.args.split_last() else {
            return plan_err!("a period of what?");
        };
        let text = text.try_as_str().flatten().unwrap_or_default();
        let (period, first) = text.split_once(FROM).unwrap_or((text, "0"));
        let (Ok(period), Ok(first)) = (period.parse::<Period>(), first.parse()) else {
            return plan_err!("`{text}` is no period");
        };
        let around = |time: i64| period.around(time, first);
        let of = of.iter().map(|of| of.to_array(arguments.number_rows)).collect::<PlanResult<Vec<_>>>()?;
        let to = times_like(of[0].data_type());
        let of = of.iter().map(micros).collect::<PlanResult<Vec<_>>>()?;
        let [begin, next, last] = of.as_slice() else {
            // The last day is one before the next period, and times are over when that begins.
            let before = if to == DataType::Date32 { DAY } else { 0 };
            let one = |time: i64| {
                let (begin, next) = around(time)?;
                Some(if self.name == "period_end" { next - before } else { begin })
            };
            let found: Int64Array = of[0].iter().map(|time| one(time?)).collect();
            return Ok(ColumnarValue::Array(times(&found, &to)));
        };
        let (mut begins, mut lengths) = (Vec::new(), Vec::new());
        for ((begin, next), last) in begin.iter().zip(next).zip(last) {
            let (length, mut at) = (begins.len(), begin);
            while let Some(begin) = at.filter(|&begin| match (next, last) {
                (Some(next), _) => begin < next,
                (None, last) => last.is_some_and(|last| begin <= last),
            }) {
                begins.push(begin);
                at = around(begin).map(|(_, next)| next);
            }
            lengths.push(begins.len() - length);
        }
        let field = Arc::new(Field::new_list_field(to.clone(), true));
        let lists = ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), times(&begins.into(), &to), None)?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use datafusion::common::ScalarValue;

    use super::*;

    #[test]
    fn shares_add_up_to_the_last_digit() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let weights: Vec<i128> = (0..random.usize(1..9)).map(|_| i128::from(random.u32(0..1000))).collect();
            let total: i128 = weights.iter().sum();
            let amount = i128::from(random.i64(-1_000_000..1_000_000));
            if total == 0 {
                assert_eq!(share(amount, 0, 0, 0), None);
                continue;
            }
            let (mut before, mut sum) = (0, 0);
            for weight in weights {
                let of = share(amount, before, before + weight, total).unwrap();
                // No share is further than a digit from what it would be.
                assert!((of * total - amount * weight).abs() <= total, "{amount} {weight} {total} {of}");
                sum += of;
                before += weight;
            }
            assert_eq!(sum, amount);
        }
        let most = 10_i128.pow(37);
        assert_eq!(share(most, 0, most / 2, most), Some(most / 2));
        assert_eq!(share(1, 0, 1, 2), Some(1));
        assert_eq!(share(-1, 0, 1, 2), Some(-1));
    }

    #[test]
    fn periods_of_days_and_of_times() {
        let run = |name: &'static str, of: Vec<ArrayRef>, text: &str| {
            let function = Periods::new(name, of.len() + 1);
            let types: Vec<DataType> = of.iter().map(|of| of.data_type().clone()).chain([DataType::Utf8]).collect();
            let to = function.return_type(&types).unwrap();
            let number_rows = of[0].len();
            let text = ColumnarValue::Scalar(ScalarValue::Utf8(Some(text.to_owned())));
            let found = function.invoke_with_args(ScalarFunctionArgs {
                args: of.into_iter().map(ColumnarValue::Array).chain([text]).collect(),
                arg_fields: types.into_iter().map(|of| Arc::new(Field::new("a", of, true))).collect(),
                number_rows,
                return_field: Arc::new(Field::new("b", to.clone(), true)),
                config_options: Arc::default(),
            })?;
            let found = found.into_array(number_rows)?;
            assert_eq!(*found.data_type(), to);
            Ok::<_, DataFusionError>(
                (0..number_rows).map(|row| array_value_to_string(&found, row).unwrap()).collect::<Vec<_>>().join(" "),
            )
        };
        let typed = |to: &DataType, texts: &[Option<&str>]| -> ArrayRef {
            cast(&StringArray::from(texts.to_vec()), to).unwrap()
        };
        let days = |texts: &[Option<&str>]| typed(&DataType::Date32, texts);
        let times = |texts: &[Option<&str>]| typed(&timestamp(), texts);
        let (some, none) = ([Some("2024-02-29")], [None]);
        assert_eq!(run("period_of", vec![days(&some)], "month").unwrap(), "2024-02-01");
        assert_eq!(run("period_end", vec![days(&some)], "month").unwrap(), "2024-02-29");
        assert_eq!(run("period_of", vec![days(&none)], "month").unwrap(), "");
        assert_eq!(run("period_end", vec![times(&some)], "6 hours from 0").unwrap(), "2024-02-29T06:00:00Z");
        let begins = days(&[Some("2024-01-01"), Some("2024-01-01"), Some("2024-03-01"), Some("2024-01-01"), None]);
        let next = days(&[Some("2024-03-01"), None, None, None, None]);
        let last = days(&[Some("2030-01-01"), Some("2024-02-01"), Some("2024-02-01"), None, Some("2024-02-01")]);
        let lists = run("periods", vec![begins, next, last], "month").unwrap();
        assert_eq!(lists, "[2024-01-01, 2024-02-01] [2024-01-01, 2024-02-01] [] [] []");
        let begins = times(&[Some("2024-02-29T22:00:00Z")]);
        let lists = run("periods", vec![begins, times(&none), times(&[Some("2024-03-01")])], "1 hour from 0").unwrap();
        assert_eq!(lists, "[2024-02-29T22:00:00Z, 2024-02-29T23:00:00Z, 2024-03-01T00:00:00Z]");
        assert!(run("period_of", vec![days(&some)], "fortnight").is_err());
    }

    #[test]
    fn a_share_that_is_no_whole_number_of_its_type_fails() {
        let long = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let shares = |amount: i64, through: i64, total: i64| {
            let columns = [amount, 0, through, total].map(|value| ColumnarValue::Array(long(value)));
            let field = |_| Arc::new(Field::new("a", DataType::Int64, true));
            Allocated::new().invoke_with_args(ScalarFunctionArgs {
                args: columns.to_vec(),
                arg_fields: (0..4).map(field).collect(),
                number_rows: 1,
                return_field: field(0),
                config_options: Arc::default(),
            })
        };
        assert!(shares(i64::MAX, 1, 2).is_ok());
        // Weights of both signs: a share is more than the whole.
        assert!(shares(i64::MAX, 3, 1).is_err());
    }

    #[test]
    fn a_fragment_is_one_plain_expression() {
        for right in ["a > 1", "CASE WHEN a THEN 1 END", "upper(a) || 'x)'"] {
            assert_eq!(check_fragment(right), Ok(()), "{right}");
        }
        for wrong in [
            "a) FROM t --",
            "a, b",
            "",
            "sum(a) OVER ()",
            "a IN (SELECT 1)",
            "(SELECT 1)",
            "a; SELECT 1",
            "EXISTS (SELECT 1)",
        ] {
            assert!(check_fragment(wrong).is_err(), "{wrong}");
        }
    }
}
