//! Bounds of what functions of SQL make and of how long they take, checked before they are called.
//!
//! The memory pool of a session knows of what operators hold, and nothing of what a function allocates: `repeat('x',
//! 2000000000)` is six gigabytes before anybody is asked. Nor does anything stop a function within one call:
//! `levenshtein` of two texts of a megabyte takes an hour. Here each function of texts and lists is wrapped. The wrapper
//! derives from the arguments how many bytes each row may need ([`Growth`]) and how many steps ([`Work`]), and then
//!
//! - refuses a value of more than [`MOST_OF_VALUE`], or [`MOST_STEPS`],
//! - asks the query's [`Watch`] whether a constant is to be computed while the query is planned, whether there is room
//!   in memory, and whether the query goes on,
//! - calls the function once for all rows where they need little, which is nearly always,
//! - calls it for some rows after the other else, looks at the watch in between, and refuses what really takes more than
//!   [`MOST_OF_BATCH`].
//!
//! A wrapper has the name, the types and the answers of what it wraps. It is registered under its names, and takes
//! the place of calls that the planner makes without asking for a name (`[1] || [2]`). So constants that the planner
//! computes are bounded too.
//!
//! Aggregates that collect what they read are in [`aggregates`], constants that are repeated for each row in
//! [`constants`].

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::functions::{regex, string, unicode};
use datafusion::functions_nested::all_default_nested_functions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, StructFieldMapping, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};

use growth::{Growth, Sizes, size_of};
use like::is_quick_pattern;
use work::Work;

use crate::watch::Watch;
use crate::widths::TooWide;

mod aggregates;
mod constants;
mod distinct;
mod growth;
mod like;
#[cfg(test)]
mod tests;
mod work;

pub(crate) use aggregates::{counted_by_rows, counts_distinct};
pub(crate) use constants::BoundedConstants;
pub(crate) use growth::{ELEMENT, sizes_of};
pub(crate) use like::{alike, matched};

/// Bytes of one value.
pub(crate) const MOST_OF_VALUE: u64 = 64 << 20;
/// Bytes of the values of one batch of rows.
pub(crate) const MOST_OF_BATCH: u64 = 256 << 20;
/// Steps of a nanosecond, about, that one value may take.
const MOST_STEPS: u64 = 500_000_000;
/// Bytes of arguments, and steps, that a function is called for at a time: it is not stopped within a call.
const BYTES_OF_PIECE: u64 = 16 << 20;
const STEPS_OF_PIECE: u64 = 200_000_000;

/// Functions of texts and lists: their arguments may be large, and so may what they take beside their values.
static OF_LARGE_VALUES: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let functions = [string::functions(), unicode::functions(), regex::functions(), all_default_nested_functions()];
    functions.iter().flatten().map(|function| function.name().to_owned()).collect()
});

/// Bounds the functions of a session.
pub(crate) fn bound_functions(state: &mut SessionState) -> Result<()> {
    let scalars: Vec<ScalarUDF> =
        state.scalar_functions().values().filter_map(|function| Bounded::of(function.as_ref())).collect();
    for function in scalars {
        state.register_udf(Arc::new(function))?;
    }
    let collecting: Vec<_> =
        state.aggregate_functions().values().filter_map(|function| aggregates::bounded(function.as_ref())).collect();
    for function in collecting {
        state.register_udaf(Arc::new(function))?;
    }
    Ok(())
}

/// A call, bounded where its function is one of texts or lists.
pub(crate) fn bounded_call(call: ScalarFunction) -> Transformed<Expr> {
    match Bounded::of(&call.func) {
        Some(bounded) => {
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: Arc::new(bounded), args: call.args }))
        }
        None => Transformed::no(Expr::ScalarFunction(call)),
    }
}

/// A function that checks what it is asked for before it is called.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    of: ScalarUDF,
    needs: Needs,
}

impl Bounded {
    /// `None` for a function of small values, and for one that is bounded.
    fn of(function: &ScalarUDF) -> Option<ScalarUDF> {
        let name = function.name();
        if function.inner().is::<Self>() {
            return None;
        }
        let needs = Needs { growth: Growth::of(name), work: Work::of(name) };
        let is_bounded = needs.growth.is_some() || needs.work.is_some() || OF_LARGE_VALUES.contains(name);
        is_bounded.then(|| ScalarUDF::from(Self { of: function.clone(), needs }))
    }
}

/// What a function needs, by its arguments: bytes for its values, where these may be much larger than the arguments;
/// and steps, where these may be many more than bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Needs {
    growth: Option<Growth>,
    work: Option<Work>,
}

/// It hands on everything but the call.
impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.of.name()
    }

    fn aliases(&self) -> &[String] {
        self.of.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.of.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.of.signature()
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        self.of.return_type(of)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.of.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.of.is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        within_bounds(self.name(), self.needs, args, |args| self.of.invoke_with_args(args))
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        // `concat` puts constants together while it is planned: too large ones are left to the call, which refuses
        // them.
        let constants = args.iter().map(|arg| match arg {
            Expr::Literal(value, _) => size_of(value).unwrap_or_default(),
            _ => 0,
        });
        if constants.sum::<u64>().saturating_mul(args.len() as u64) > MOST_OF_VALUE {
            return Ok(ExprSimplifyResult::Original(args));
        }
        // An operator takes its place, which is not bounded.
        if self.name() == "regexp_like" && !args.get(1).is_some_and(|pattern| is_quick_pattern(pattern, "")) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        Ok(match self.of.simplify(args, info)? {
            ExprSimplifyResult::Simplified(simpler) => {
                let bounded = simpler.transform_up(|part| {
                    Ok(match part {
                        Expr::ScalarFunction(call) => bounded_call(call),
                        other => Transformed::no(other),
                    })
                })?;
                ExprSimplifyResult::Simplified(bounded.data)
            }
            original => original,
        })
    }

    fn preimage(&self, args: &[Expr], is: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.of.preimage(args, is, info)
    }

    fn short_circuits(&self) -> bool {
        self.of.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.of.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        self.of.evaluate_bounds(inputs)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.of.propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.of.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.of.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.of.strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, of: &[DataType]) -> Result<Vec<DataType>> {
        self.of.coerce_types(of)
    }

    fn struct_field_mapping(&self, constants: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.of.struct_field_mapping(constants)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.of.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.of.placement(args)
    }
}

/// `left || right`, of texts of one type. Where `left` is such texts already, there are more of them.
pub(crate) fn joined(of: &DataType, left: Expr, right: Expr) -> Expr {
    let mut texts = match left {
        Expr::ScalarFunction(ScalarFunction { func, args })
            if func.inner().downcast_ref::<Joined>().is_some_and(|joined| joined.of == *of) =>
        {
            args
        }
        left => vec![left],
    };
    texts.push(right);
    let signature = Signature::any(texts.len(), Volatility::Immutable);
    ScalarUDF::from(Joined { of: of.clone(), signature }).call(texts)
}

/// Texts that are put together by `||`: null, where one of them is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined {
    of: DataType,
    signature: Signature,
}

impl Joined {
    fn join(args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let mut texts = args.args.into_iter();
        let Some(mut joined) = texts.next() else { return exec_err!("`||` takes texts") };
        for text in texts {
            let sides = [("left", joined.into_array(rows)?), ("right", text.into_array(rows)?)];
            let sides = RecordBatch::try_from_iter(sides)?;
            let (left, right) = (Arc::new(Column::new("left", 0)), Arc::new(Column::new("right", 1)));
            joined = BinaryExpr::new(left, Operator::StringConcat, right).evaluate(&sides)?;
        }
        Ok(joined)
    }
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &str {
        "text_of"
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
        let needs = Needs { growth: Some(Growth::Together), work: None };
        within_bounds("||", needs, args, Self::join)
    }
}

/// What `make` makes of arguments, where it is within bounds.
fn within_bounds(
    name: &str,
    needs: Needs,
    args: ScalarFunctionArgs,
    make: impl Fn(ScalarFunctionArgs) -> Result<ColumnarValue>,
) -> Result<ColumnarValue> {
    let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let rows = if is_constant { 1 } else { args.number_rows };
    let Some(needs) = Needed::of(name, needs, &args.args, rows)? else { return make(args) };
    let bytes = needs.bytes();
    // The engine repeats it, and counts nothing.
    if is_constant && needs.grows && bytes.saturating_mul(args.number_rows as u64) > MOST_OF_BATCH {
        return exec_err!(
            "`{name}` may make a constant of {} KiB, which would be repeated for {} rows and take more than {} MiB; make \
             it shorter, or give it in a row of its own",
            bytes >> 10,
            args.number_rows,
            MOST_OF_BATCH >> 20
        );
    }
    if let Some(watch) = Watch::of(&args.config_options) {
        // The planner keeps a call that fails.
        if is_constant && !watch.computes_constant(bytes.max(needs.steps())) {
            return exec_err!("`{name}` makes a value that is computed when the query runs");
        }
        watch.room_for(bytes.min(needs.room()))?;
    }
    let args = ScalarFunctionArgs { number_rows: rows, ..args };
    if !is_constant && needs.are_many() {
        return in_pieces(name, &needs, &args, make).map(ColumnarValue::Array);
    }
    match make(args)? {
        ColumnarValue::Array(one) if is_constant => ScalarValue::try_from_array(&one, 0).map(ColumnarValue::Scalar),
        made => Ok(made),
    }
}

/// What each row needs.
struct Needed {
    /// Bytes of values, or of arguments where values do not grow.
    sizes: Vec<u64>,
    /// Bytes of arguments that are the same for all rows, and may be repeated for each of them.
    repeated: u64,
    /// Empty where they are no more than bytes.
    steps: Vec<u64>,
    grows: bool,
    /// Bytes that values take at least, all together.
    least: u64,
}

impl Needed {
    /// `None` where all rows together need little.
    fn of(name: &str, needs: Needs, args: &[ColumnarValue], rows: usize) -> Result<Option<Self>> {
        let grows = needs.growth.is_some();
        let steps = needs.work.map_or(Ok(Vec::new()), |work| work.steps(args, rows))?;
        if let Some(steps) = steps.iter().copied().find(|steps| *steps > MOST_STEPS) {
            return Err(too_long(name, steps));
        }
        if !grows && steps.is_empty() && bytes_of(args)? <= BYTES_OF_PIECE {
            return Ok(None);
        }
        let sizes = match needs.growth {
            Some(growth) => growth.sizes(args, rows)?,
            None => sizes_of_args(args, rows)?,
        };
        if let Some(size) = sizes.iter().copied().find(|size| grows && *size > MOST_OF_VALUE) {
            return Err(too_large(name, size));
        }
        let is_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let mut repeated = 0;
        for arg in args.iter().filter(|arg| grows && !is_constant && matches!(arg, ColumnarValue::Scalar(_))) {
            repeated += Sizes::of(arg)?.at(0);
        }
        let least = if needs.growth.is_some_and(Growth::is_exact) { sizes.iter().sum() } else { 0 };
        Ok(Some(Self { sizes, repeated, steps, grows, least }))
    }

    fn bytes(&self) -> u64 {
        self.sizes.iter().map(|size| size + self.repeated).sum()
    }

    fn steps(&self) -> u64 {
        self.steps.iter().fold(0, |all, steps| all.saturating_add(*steps))
    }

    /// Bytes that the function is called for at a time.
    fn room(&self) -> u64 {
        if self.grows { MOST_OF_VALUE } else { BYTES_OF_PIECE }
    }

    /// Whether all rows at once need too much.
    fn are_many(&self) -> bool {
        let most = if self.grows { MOST_OF_BATCH } else { BYTES_OF_PIECE };
        self.bytes() > most || self.steps() > STEPS_OF_PIECE
    }

    /// Where each piece of the rows ends.
    fn ends(&self) -> Vec<usize> {
        let (mut ends, mut room, mut left) = (Vec::new(), self.room(), STEPS_OF_PIECE);
        for (row, size) in self.sizes.iter().enumerate() {
            let (size, steps) = (size + self.repeated, self.steps.get(row).copied().unwrap_or_default());
            if row > 0 && (size > room || steps > left) {
                ends.push(row);
                (room, left) = (self.room(), STEPS_OF_PIECE);
            }
            (room, left) = (room.saturating_sub(size), left.saturating_sub(steps));
        }
        ends.push(self.sizes.len());
        ends
    }
}

/// Bytes of all arguments, each text counted as often as it stands there.
fn bytes_of(args: &[ColumnarValue]) -> Result<u64> {
    let mut bytes = 0;
    for arg in args {
        bytes += match arg {
            // Those that rows share count for each of them.
            ColumnarValue::Array(array) if has_views(array.data_type()) => sizes_of(array).iter().sum(),
            ColumnarValue::Array(array) => array.get_array_memory_size() as u64,
            ColumnarValue::Scalar(value) => size_of(value)?,
        };
    }
    Ok(bytes)
}

fn has_views(of: &DataType) -> bool {
    matches!(of, DataType::Utf8View | DataType::BinaryView)
}

fn sizes_of_args(args: &[ColumnarValue], rows: usize) -> Result<Vec<u64>> {
    let mut sizes = vec![0; rows];
    for arg in args {
        let of = Sizes::of(arg)?;
        for (row, size) in sizes.iter_mut().enumerate() {
            *size += of.at(row);
        }
    }
    Ok(sizes)
}

/// Bytes that an array takes, texts that rows share counted once.
fn held_by(array: &ArrayRef) -> u64 {
    let buffers = match array.data_type() {
        DataType::Utf8View => array.as_string_view().data_buffers(),
        DataType::BinaryView => array.as_binary_view().data_buffers(),
        _ => return sizes_of(array).iter().sum(),
    };
    buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>() + 16 * array.len() as u64
}

/// Makes some rows after the other, each time as many as certainly have room.
fn in_pieces(
    name: &str,
    needs: &Needed,
    args: &ScalarFunctionArgs,
    make: impl Fn(ScalarFunctionArgs) -> Result<ColumnarValue>,
) -> Result<ArrayRef> {
    // What is as large as an argument is not the fault of the function.
    let arrays = args.args.iter().filter_map(|arg| match arg {
        ColumnarValue::Array(array) => Some(held_by(array)),
        ColumnarValue::Scalar(_) => None,
    });
    let largest = arrays.max().unwrap_or_default();
    let most = MOST_OF_BATCH.max(largest + largest / 4);
    let refused = |made: u64| {
        if !needs.grows {
            return Err(TooWide::of(made / args.number_rows.max(1) as u64));
        }
        exec_err!(
            "`{name}` would make values of more than {} MiB for {} rows; make shorter ones, or filter the rows before",
            most >> 20,
            args.number_rows
        )
    };
    if needs.least > most {
        return refused(needs.least);
    }
    let (mut pieces, mut begin, mut made) = (Vec::new(), 0, 0);
    for end in needs.ends() {
        if let Some(watch) = Watch::of(&args.config_options) {
            watch.check()?;
            watch.room_for(needs.room())?;
        }
        let piece = make(slice(args, begin, end - begin)?)?.into_array(end - begin)?;
        made += sizes_of(&piece).iter().sum::<u64>();
        if made > most {
            return refused(made.saturating_mul(args.number_rows as u64) / end as u64);
        }
        pieces.push(piece);
        begin = end;
    }
    let pieces: Vec<&dyn Array> = pieces.iter().map(|piece| piece.as_ref()).collect();
    Ok(concat(&pieces)?)
}

/// The arguments of some rows. Lists are copied: some functions read the elements of all rows, of a slice as well.
fn slice(args: &ScalarFunctionArgs, first: usize, rows: usize) -> Result<ScalarFunctionArgs> {
    let of = |arg: &ColumnarValue| {
        Ok(match arg {
            ColumnarValue::Array(array) if array.data_type().is_nested() => {
                let places = UInt32Array::from_iter_values((first..first + rows).map(|row| row as u32));
                ColumnarValue::Array(take(array, &places, None)?)
            }
            ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(first, rows)),
            ColumnarValue::Scalar(value) => ColumnarValue::Scalar(value.clone()),
        })
    };
    Ok(ScalarFunctionArgs {
        args: args.args.iter().map(of).collect::<Result<_>>()?,
        arg_fields: args.arg_fields.clone(),
        number_rows: rows,
        return_field: args.return_field.clone(),
        config_options: args.config_options.clone(),
    })
}

fn too_large(name: &str, size: u64) -> DataFusionError {
    let instead = match name {
        "range" | "generate_series" => "write it in FROM, where it gives rows",
        "array_agg" | "string_agg" => "aggregate fewer rows in each group",
        _ => "make shorter values",
    };
    let (size, most) = (size.div_ceil(1 << 20), MOST_OF_VALUE >> 20);
    DataFusionError::Execution(format!(
        "`{name}` may make a value of {size} MiB, and one may have {most} MiB; {instead}"
    ))
}

fn too_long(name: &str, steps: u64) -> DataFusionError {
    DataFusionError::Execution(format!(
        "`{name}` may take {} s for one value, and one may take {} s; give it shorter texts or lists",
        steps.div_ceil(1_000_000_000),
        MOST_STEPS as f64 / 1e9
    ))
}
