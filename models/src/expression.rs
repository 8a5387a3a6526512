//! SQL of definitions, over the columns of a batch.
//!
//! Only immutable functions are allowed: the same events must give the same rows on any day. A row for which an
//! expression fails (a division by zero, an overflow) is told apart from the others, so that it can be rejected
//! without stopping them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, cast, cast_with_options, concat, nullif};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::{SessionContext, ident};
use datafusion::sql::sqlparser::ast::VisitMut;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use starmere_lake::arithmetic::with_exact_arithmetic;
use starmere_lake::corrections::misread;
use starmere_lake::literals::{planning_session, with_exact_comparisons};
use starmere_lake::sql_times::WithPrecision;

use crate::define::FieldType;
use crate::events::decimal;
use crate::resolve::beginning;

/// Each word or operator may be a level of the tree that an expression is, and the engine walks trees by recursion:
/// 2,000 levels are more than a stack of 2 MiB holds.
const MOST_WORDS: usize = 1000;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    compiled: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    columns: BTreeSet<String>,
    /// There may be rows that it fails for.
    may_fail: bool,
}

/// A row that an expression failed for.
pub type RowError = (usize, String);

/// Compiles expressions over the columns of one schema.
#[derive(Clone)]
pub struct Compiler {
    context: SessionContext,
    schema: DFSchema,
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Compiler {
    /// A compiler of expressions over `schema`.
    pub fn new(schema: &SchemaRef) -> Result<Self, String> {
        let schema = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| error.strip_backtrace())?;
        Ok(Self { context: planning_session(), schema })
    }

    /// Compiles `text`, or says what is wrong with it.
    pub fn compile(&self, text: &str) -> Result<Expression, String> {
        let words = words(text);
        if words > MOST_WORDS {
            return Err(format!("an expression has up to {MOST_WORDS} words and operators, and this one has {words}"));
        }
        let state = self.context.state();
        // A column may be called what is a word of SQL.
        let expression = match self.schema.has_column_with_unqualified_name(text) {
            true => ident(text),
            false => {
                let dialect = state.config().options().sql_parser.dialect;
                let mut tree = state.sql_to_expr_with_alias(text, &dialect).map_err(|error| reason(&error))?;
                if let Some(reason) = misread(&tree.expr) {
                    return Err(reason);
                }
                let _walked = tree.expr.visit(&mut WithPrecision);
                let planned = state.create_logical_expr_from_sql_expr(tree, &self.schema);
                planned.map_err(|error| reason(&error))?
            }
        };
        let expression = with_exact_comparisons(expression, &self.schema).map_err(|error| reason(&error))?;
        self.check(&expression)?;
        let columns = expression.column_refs().into_iter().map(|column| column.name.clone()).collect();
        // Some functions exist only as what the optimizer makes of them (`coalesce` becomes a CASE).
        let context = SimplifyContext::builder().with_schema(Arc::new(self.schema.clone())).build();
        let simplifier = ExprSimplifier::new(context);
        let typed = simplifier.coerce(expression.clone(), &self.schema);
        let exact = typed.and_then(|typed| with_exact_arithmetic(typed, &self.schema));
        let simplified = exact.and_then(|exact| simplifier.simplify(exact)).map_err(|error| reason(&error))?;
        let may_fail = may_fail(&simplified, &self.schema);
        let compiled = state.create_physical_expr(simplified, &self.schema).map_err(|error| reason(&error))?;
        let data_type = compiled.data_type(self.schema.as_arrow()).map_err(|error| reason(&error))?;
        let data_type = match data_type {
            DataType::Null => expression.get_type(&self.schema).map_err(|error| reason(&error))?,
            other => other,
        };
        Ok(Expression { text: text.to_owned(), compiled, data_type, columns, may_fail })
    }

    fn check(&self, expression: &Expr) -> Result<(), String> {
        let mut refused = None;
        let walked = expression.apply(|node| {
            match node {
                Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                    refused = Some(format!("`{}` does not give the same answer every day", call.func.name()));
                }
                Expr::AggregateFunction(call) => {
                    refused = Some(format!("`{}` is over many rows; an expression here is over one", call.func.name()))
                }
                Expr::WindowFunction(_) => {
                    refused = Some("a window function is over many rows; an expression here is over one".to_owned())
                }
                Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) => {
                    refused = Some("a subquery has no place in an expression over one row".to_owned());
                }
                Expr::Placeholder(_) => refused = Some("a parameter has no value here".to_owned()),
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        });
        match (walked, refused) {
            (_, Some(reason)) => Err(reason),
            (Err(error), None) => Err(error.strip_backtrace()),
            (Ok(_), None) => Ok(()),
        }
    }
}

/// Whether there may be rows that an expression fails for. Of what is not known never to fail, it is said that it may.
fn may_fail(expression: &Expr, schema: &DFSchema) -> bool {
    let mut may_fail = false;
    let walked = expression.apply(|node| {
        may_fail |= match node {
            Expr::Column(_) | Expr::Literal(..) | Expr::Not(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => false,
            Expr::Case(_) | Expr::Between(_) | Expr::InList(_) => false,
            Expr::BinaryExpr(BinaryExpr { op, .. }) => !matches!(
                op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
                    | Operator::And
                    | Operator::Or
                    | Operator::IsDistinctFrom
                    | Operator::IsNotDistinctFrom
            ),
            Expr::Cast(cast) => {
                let from = cast.expr.get_type(schema);
                !from.is_ok_and(|from| !cast_may_fail(&from, cast.field.data_type()))
            }
            _ => true,
        };
        Ok(if may_fail { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.is_err() || may_fail
}

/// Whether there may be values of `from` that do not fit into `to`.
fn cast_may_fail(from: &DataType, to: &DataType) -> bool {
    let whole_digits = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
    let all_fit = match (from, to) {
        (DataType::Int32, DataType::Int64) => true,
        (DataType::Int32 | DataType::Int64, DataType::Float64) => true,
        (DataType::Decimal128(precision, scale), DataType::Decimal128(wider, longer)) => {
            longer >= scale && whole_digits(*wider, *longer) >= whole_digits(*precision, *scale)
        }
        _ => from == to || *from == DataType::Null,
    };
    !all_fit
}

/// What the engine finds wrong with a text, in one line.
pub(crate) fn reason(error: &DataFusionError) -> String {
    let root = error.find_root();
    if let DataFusionError::SchemaError(inner, _) = root
        && let SchemaError::FieldNotFound { field, valid_fields } = inner.as_ref()
    {
        let known: Vec<&str> = valid_fields.iter().map(|field| field.name()).collect();
        return format!(
            "there is no column `{}`; {}",
            field.flat_name(),
            crate::define::suggestion(field.name(), known)
        );
    }
    let text = match root {
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => "nested too deeply".to_owned(),
        },
        DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) => text.clone(),
        other => other.strip_backtrace(),
    };
    let text = text.split("\n\nbacktrace: ").next().unwrap_or_default();
    with_our_types(&text.lines().collect::<Vec<_>>().join(" "))
}

/// A text of the engine's, with types as definitions name them.
pub(crate) fn with_our_types(text: &str) -> String {
    const NAMES: [(&str, &str); 13] = [
        ("Timestamp(Microsecond, Some(\"UTC\"))", "timestamp"),
        ("Timestamp(µs, \"UTC\")", "timestamp"),
        ("Timestamp(µs)", "timestamp"),
        ("Timestamp(ns)", "timestamp"),
        ("LargeUtf8", "string"),
        ("Utf8View", "string"),
        ("Utf8", "string"),
        ("Boolean", "bool"),
        ("Int32", "int"),
        ("Int64", "bigint"),
        ("Float64", "double"),
        ("Date32", "date"),
        ("Decimal128(", "decimal("),
    ];
    let (mut told, mut rest, mut in_word, mut is_quoted) = (String::with_capacity(text.len()), text, false, false);
    while let Some(next) = rest.chars().next() {
        is_quoted ^= next == '\'';
        // `UInt64` is no `Int64`, and what is quoted is somebody's own word.
        let name = NAMES.iter().filter(|_| !in_word && !is_quoted).find(|(theirs, _)| {
            let after = rest.strip_prefix(theirs).map(|after| after.chars().next());
            let ends = |next: Option<char>| theirs.ends_with('(') || !next.is_some_and(char::is_alphanumeric);
            after.is_some_and(ends)
        });
        let (shown, length) = match name {
            Some((theirs, ours)) => (*ours, theirs.len()),
            None => (&rest[..next.len_utf8()], next.len_utf8()),
        };
        told.push_str(shown);
        in_word = name.is_none() && next.is_alphanumeric();
        rest = &rest[length..];
    }
    told
}

/// How many words and operators there are, lists of literals aside.
fn words(text: &str) -> usize {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize().unwrap_or_default();
    let is_word = |token: &&Token| {
        !matches!(token, Token::Whitespace(_) | Token::Comma | Token::Number(..) | Token::SingleQuotedString(_))
    };
    tokens.iter().filter(is_word).count()
}

impl Expression {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The type of its values.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// The columns it reads.
    pub fn columns(&self) -> &BTreeSet<String> {
        &self.columns
    }

    /// Whether there may be rows that it fails for, or whose value does not fit into `to`.
    pub(crate) fn may_fail_as(&self, to: &DataType) -> bool {
        self.may_fail || cast_may_fail(&self.data_type, to)
    }

    /// The value for each row; where that failed, null and the reason.
    pub fn evaluate(&self, batch: &RecordBatch) -> (ArrayRef, Vec<RowError>) {
        match self.whole(batch) {
            Ok(values) => (values, Vec::new()),
            // Some row fails: find out which.
            Err(_) => self.row_by_row(batch),
        }
    }

    fn whole(&self, batch: &RecordBatch) -> Result<ArrayRef, String> {
        let values = self.compiled.evaluate(batch).and_then(|values| values.into_array(batch.num_rows()));
        values.map_err(|error| with_our_types(error.find_root().strip_backtrace().lines().next().unwrap_or_default()))
    }

    fn row_by_row(&self, batch: &RecordBatch) -> (ArrayRef, Vec<RowError>) {
        let mut errors = Vec::new();
        let values: Vec<ArrayRef> = (0..batch.num_rows())
            .map(|row| match self.whole(&batch.slice(row, 1)) {
                Ok(value) => value,
                Err(reason) => {
                    errors.push((row, format!("`{}`: {reason}", self.text)));
                    new_null_array(&self.data_type, 1)
                }
            })
            .collect();
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        let values = concat(&values).unwrap_or_else(|_| new_null_array(&self.data_type, batch.num_rows()));
        (values, errors)
    }
}

/// Something that is so of every row.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub holds: Expression,
}

impl Rule {
    /// Tells of rows of which it is false. Of what is not known it is not.
    pub fn check(&self, rows: &RecordBatch, errors: &mut Vec<RowError>) {
        let (holds, failed) = self.holds.evaluate(rows);
        errors.extend(failed.into_iter().map(|(row, why)| (row, format!("rule `{}`: {why}", self.name))));
        let holds = holds.as_boolean();
        let broken = (0..holds.len()).filter(|&row| holds.is_valid(row) && !holds.value(row));
        errors.extend(broken.map(|row| (row, format!("rule `{}`: `{}` is false", self.name, self.holds.text()))));
    }
}

/// Casts `values`; rows that do not fit, or only without digits that they have, become null and are told with a reason that
/// names `what`.
pub fn cast_rows(values: &ArrayRef, to: &DataType, what: &str, errors: &mut Vec<RowError>) -> ArrayRef {
    let from = values.data_type();
    if from == to {
        return values.clone();
    }
    // Its rows do not say themselves that they are null.
    if *from == DataType::Null {
        return new_null_array(to, values.len());
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = match (texts(values), to) {
        // Arrow would round.
        (Some(texts), DataType::Decimal128(precision, scale)) => {
            let values = texts.iter().map(|text| decimal(text?, *precision, *scale)).collect::<Decimal128Array>();
            values.with_precision_and_scale(*precision, *scale).map(|values| Arc::new(values) as ArrayRef)
        }
        _ => cast_with_options(values, to, &options),
    };
    let Ok(cast) = cast else {
        let rows = (0..values.len()).filter(|&row| values.is_valid(row));
        errors.extend(rows.map(|row| (row, format!("`{what}` cannot be made {}", FieldType::name_of(to)))));
        return new_null_array(to, values.len());
    };
    let shown = |row| beginning(&array_value_to_string(values, row).unwrap_or_default(), 80);
    if cast.null_count() != values.null_count() {
        let failed = (0..values.len()).filter(|&row| cast.is_null(row) && values.is_valid(row));
        let told = |row| (row, format!("`{what}`: `{}` is not of type {}", shown(row), FieldType::name_of(to)));
        errors.extend(failed.map(told));
    }
    if !loses_digits(from, to) {
        return cast;
    }
    let Ok(back) = cast_with_options(&cast, from, &options) else { return cast };
    // A zero may have had a sign, which is no digit.
    let unsigned = |of: &ArrayRef| -> ArrayRef {
        match of.as_primitive_opt::<Float64Type>() {
            Some(of) => Arc::new(of.unary::<_, Float64Type>(|of| of + 0.0)),
            None => of.clone(),
        }
    };
    let Ok(same) = not_distinct(&unsigned(&back), &unsigned(values)) else { return cast };
    let is_cut = |row: usize| cast.is_valid(row) && !same.value(row);
    for row in (0..values.len()).filter(|&row| is_cut(row)) {
        let type_name = FieldType::name_of(to);
        errors.push((row, format!("`{what}` is {}, which {type_name} cannot hold unless it is rounded", shown(row))));
    }
    let cut: BooleanArray = (0..values.len()).map(|row| Some(is_cut(row))).collect();
    nullif(&cast, &cut).unwrap_or_else(|_| new_null_array(to, values.len()))
}

/// The values, where they are texts.
fn texts(values: &ArrayRef) -> Option<StringArray> {
    let is_text = matches!(values.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    is_text.then(|| cast(values, &DataType::Utf8).ok()?.as_string_opt::<i32>().cloned()).flatten()
}

/// Whether a cast may cut digits off: some of a fraction, or all of it. (Doubles are no exact numbers: as decimals they are
/// rounded.)
pub(crate) fn loses_digits(from: &DataType, to: &DataType) -> bool {
    match (scale(from), scale(to)) {
        (Some(from), Some(to)) => to < from,
        (Some(scale), None) => to.is_integer() && scale > 0,
        _ => from.is_floating() && to.is_integer(),
    }
}

/// Of a decimal.
fn scale(of: &DataType) -> Option<i8> {
    match of {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some(*scale),
        _ => None,
    }
}

/// Whether such values are keys of type `to`, or can become them without a loss.
pub fn is_key_of(from: &DataType, to: &DataType) -> bool {
    let is_text = |of: &DataType| matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    from == to || *from == DataType::Null || (from.is_integer() && to.is_integer()) || (is_text(from) && is_text(to))
}

/// Whether such values can be cast at all.
pub fn castable(from: &DataType, to: &DataType) -> bool {
    arrow::compute::can_cast_types(from, to)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    fn compiler() -> Compiler {
        let fields = vec![Field::new("quantity", DataType::Int64, true), Field::new("price", DataType::Int64, true)];
        Compiler::new(&Arc::new(Schema::new(fields))).unwrap()
    }

    #[test]
    fn a_row_that_fails_does_not_stop_the_others() {
        let column = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
        let batch = RecordBatch::try_from_iter([("quantity", column(vec![6, 1, 8])), ("price", column(vec![2, 0, 4]))])
            .unwrap();
        let (values, errors) = compiler().compile("quantity / price").unwrap().evaluate(&batch);
        assert_eq!(values.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(3), None, Some(2)]);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].0, 1);
    }

    #[test]
    fn what_never_fails_is_known() {
        let may_fail = |text: &str, to: DataType| compiler().compile(text).unwrap().may_fail_as(&to);
        for (text, to) in [
            ("quantity", DataType::Int64),
            ("quantity", DataType::Float64),
            ("7", DataType::Int64),
            ("quantity > 3 AND price IS NOT NULL", DataType::Boolean),
            ("CASE WHEN quantity > price THEN quantity ELSE price END", DataType::Int64),
            ("CAST(NULL AS BIGINT)", DataType::Int64),
        ] {
            assert!(!may_fail(text, to), "{text}");
        }
        for (text, to) in [
            ("quantity", DataType::Int32),
            ("quantity", DataType::Utf8),
            ("quantity * price", DataType::Int64),
            ("quantity / price > 1", DataType::Boolean),
            ("CASE WHEN quantity > 1 THEN quantity / price END", DataType::Int64),
            ("CAST(quantity AS INT)", DataType::Int32),
            ("abs(quantity)", DataType::Int64),
        ] {
            assert!(may_fail(text, to), "{text}");
        }
        let decimal = DataType::Decimal128;
        assert!(!cast_may_fail(&decimal(9, 2), &decimal(18, 2)) && !cast_may_fail(&decimal(9, 2), &decimal(11, 4)));
        assert!(cast_may_fail(&decimal(9, 2), &decimal(9, 4)) && cast_may_fail(&decimal(9, 2), &decimal(18, 1)));
    }

    #[test]
    fn a_cast_never_rounds_in_silence() {
        let decimals = |values: &[i128], scale| -> ArrayRef {
            let values = Decimal128Array::from_iter_values(values.iter().copied());
            Arc::new(values.with_precision_and_scale(12, scale).unwrap())
        };
        let doubles = vec![Some(2.0), Some(2.5), None, Some(f64::NAN), Some(-0.0)];
        let doubles: ArrayRef = Arc::new(Float64Array::from(doubles));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("1.2300"), Some("1.2345"), None, Some("x")]));
        for (values, to, fits) in [
            (decimals(&[1_2300, 1_2345, 0], 4), DataType::Decimal128(9, 2), vec![true, false, true]),
            (decimals(&[1_2300, 1_0000], 4), DataType::Int32, vec![false, true]),
            (decimals(&[123], 2), DataType::Decimal128(9, 4), vec![true]),
            (decimals(&[123], 2), DataType::Float64, vec![true]),
            (doubles, DataType::Int64, vec![true, false, true, false, true]),
            (texts, DataType::Decimal128(9, 2), vec![true, false, true, false]),
        ] {
            let mut errors = Vec::new();
            let cast = cast_rows(&values, &to, "amount", &mut errors);
            let told: Vec<bool> = (0..values.len()).map(|row| errors.iter().all(|(of, _)| *of != row)).collect();
            assert_eq!(told, fits, "{to}: {errors:?}");
            assert!((0..values.len()).all(|row| cast.is_valid(row) == (fits[row] && values.is_valid(row))), "{to}");
        }
        let mut errors = Vec::new();
        cast_rows(&decimals(&[1_2345], 4), &DataType::Decimal128(9, 2), "amount", &mut errors);
        assert_eq!(errors[0].1, "`amount` is 1.2345, which decimal(9,2) cannot hold unless it is rounded");
    }

    #[test]
    fn reasons_have_the_names_of_types_that_definitions_have() {
        let reason = compiler().compile("quantity * 'a' * (price = 1)").unwrap_err();
        assert!(!reason.contains("Int64") && !reason.contains("Utf8"), "{reason}");
        let told = with_our_types("Int64 * Utf8View, UInt64: Decimal128(9, 2), not 'Int32'");
        assert_eq!(told, "bigint * string, UInt64: decimal(9, 2), not 'Int32'");
    }

    #[test]
    fn a_column_may_be_called_what_is_a_word_of_sql() {
        for name in ["interval", "current_date", "exists"] {
            let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)]));
            let compiled = Compiler::new(&schema).unwrap().compile(name).unwrap();
            assert_eq!(compiled.columns().iter().collect::<Vec<_>>(), [name]);
        }
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        for (first, rest) in [("1", "+1"), ("quantity", " IS NULL"), ("quantity", "::bigint"), ("true", " AND true")] {
            let chain = |count: usize| compiler().compile(&(first.to_owned() + &rest.repeat(count)));
            assert!(chain(400).is_ok(), "{rest}");
            let reason = chain(50_000).unwrap_err();
            assert!(reason.starts_with("an expression has up to 1000 words and operators"), "{rest}: {reason}");
        }
        assert!(compiler().compile(&format!("quantity IN (1{})", ",2".repeat(20_000))).is_ok());
        for right in ["(quantity IS DISTINCT FROM price) AND price > 1", "quantity IS DISTINCT FROM price + 1"] {
            assert!(compiler().compile(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn what_has_no_place_is_refused_with_a_reason() {
        for (text, part) in [
            ("quantty", "did you mean `quantity`?"),
            ("now()", "does not give the same answer every day"),
            ("random()", "does not give the same answer every day"),
            ("sum(quantity)", "over many rows"),
            ("(select 1)", ""),
            ("quantity +", ""),
            ("$1", "no value here"),
            (
                "quantity IS NOT DISTINCT FROM price AND price > 1",
                "`AND` after DISTINCT FROM could belong to its right side",
            ),
            ("price > 1 OR quantity IS DISTINCT FROM price OR price > 1", "write parentheses"),
        ] {
            let reason = compiler().compile(text).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }
}
