//! Bounds of the values that functions of SQL make, checked before they are made.
//!
//! The memory pool of a session knows of what operators hold, and nothing of what a function allocates: `repeat('x',
//! 2000000000)` is six gigabytes before anybody is asked. Here each function whose values may be much larger than its
//! arguments is wrapped. The wrapper derives from the arguments how many bytes each row may need ([`Growth`]), and
//! then
//!
//! - refuses a value of more than [`MOST_OF_VALUE`],
//! - asks the query's [`Watch`] whether a constant is to be computed while the query is planned, whether there is room
//!   in memory, and whether the query goes on,
//! - makes all rows at once where they need at most [`MOST_OF_BATCH`],
//! - makes them in pieces else, since the bound may be far above what they take, and refuses what really takes more.
//!
//! A wrapper has the name, the types and the answers of what it wraps. It is registered under its names, and takes
//! the place of calls that the planner makes without asking for a name (`[1] || [2]`). So constants that the planner
//! computes are bounded too.
//!
//! Aggregates that collect what they read are in [`aggregates`], constants that are repeated for each row in
//! [`constants`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
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

use growth::{Growth, Sizes, size_of, sizes_of};

use crate::watch::Watch;

mod aggregates;
mod constants;
mod distinct;
mod growth;
#[cfg(test)]
mod tests;

pub(crate) use aggregates::{counted_by_rows, counts_distinct};
pub(crate) use constants::BoundedConstants;

/// Bytes of one value.
pub(crate) const MOST_OF_VALUE: u64 = 64 << 20;
/// Bytes of the values of one batch of rows.
pub(crate) const MOST_OF_BATCH: u64 = 256 << 20;

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

/// A call, bounded where its function may make large values.
pub(crate) fn bounded_call(call: ScalarFunction) -> Transformed<Expr> {
    match Bounded::of(&call.func) {
        Some(bounded) => {
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: Arc::new(bounded), args: call.args }))
        }
        None => Transformed::no(Expr::ScalarFunction(call)),
    }
}

/// A function that checks the size of its values before it makes them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    of: ScalarUDF,
    growth: Growth,
}

impl Bounded {
    /// `None` for a function whose values are not much larger than its arguments, and for one that is bounded.
    fn of(function: &ScalarUDF) -> Option<ScalarUDF> {
        if function.inner().is::<Self>() {
            return None;
        }
        let growth = Growth::of(function.name())?;
        Some(ScalarUDF::from(Self { of: function.clone(), growth }))
    }
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
        within_bounds(self.name(), self.growth, args, |args| self.of.invoke_with_args(args))
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
        within_bounds("||", Growth::Together, args, Self::join)
    }
}

/// What `make` makes of arguments, where it is within bounds.
fn within_bounds(
    name: &str,
    growth: Growth,
    args: ScalarFunctionArgs,
    make: impl Fn(ScalarFunctionArgs) -> Result<ColumnarValue>,
) -> Result<ColumnarValue> {
    let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let rows = if is_constant { 1 } else { args.number_rows };
    let sizes = growth.sizes(&args.args, rows)?;
    if let Some(size) = sizes.iter().copied().find(|size| *size > MOST_OF_VALUE) {
        return Err(too_large(name, size));
    }
    // An argument that is the same for all rows may be repeated for each of them.
    let mut repeated = 0;
    for arg in args.args.iter().filter(|arg| !is_constant && matches!(arg, ColumnarValue::Scalar(_))) {
        repeated += Sizes::of(arg)?.at(0);
    }
    let needed = sizes.iter().map(|size| size + repeated).sum::<u64>();
    // The engine repeats it, and counts nothing.
    if is_constant && needed.saturating_mul(args.number_rows as u64) > MOST_OF_BATCH {
        return exec_err!(
            "`{name}` may make a constant of {} KiB, which would be repeated for {} rows and take more than {} MiB; make \
             it shorter, or give it in a row of its own",
            needed >> 10,
            args.number_rows,
            MOST_OF_BATCH >> 20
        );
    }
    if let Some(watch) = Watch::of(&args.config_options) {
        // The planner keeps a call that fails.
        if is_constant && !watch.computes_constant(needed) {
            return exec_err!("`{name}` makes a value that is computed when the query runs");
        }
        watch.room_for(needed.min(MOST_OF_VALUE))?;
    }
    let args = ScalarFunctionArgs { number_rows: rows, ..args };
    if needed > MOST_OF_BATCH {
        let needs: Vec<u64> = sizes.iter().map(|size| size + repeated).collect();
        let least = if growth.is_exact() { sizes.iter().sum::<u64>() } else { 0 };
        return in_pieces(name, &needs, least, args, make).map(ColumnarValue::Array);
    }
    match make(args)? {
        ColumnarValue::Array(one) if is_constant => ScalarValue::try_from_array(&one, 0).map(ColumnarValue::Scalar),
        made => Ok(made),
    }
}

/// Makes some rows after the other, each time as many as certainly have room. All of them will take `least` bytes, or
/// more.
fn in_pieces(
    name: &str,
    needs: &[u64],
    least: u64,
    args: ScalarFunctionArgs,
    make: impl Fn(ScalarFunctionArgs) -> Result<ColumnarValue>,
) -> Result<ArrayRef> {
    let arrays = args.args.iter().filter_map(|arg| match arg {
        ColumnarValue::Array(array) => Some(sizes_of(array).iter().sum::<u64>()),
        ColumnarValue::Scalar(_) => None,
    });
    // What is as large as an argument is not the fault of the function.
    let largest = arrays.max().unwrap_or_default();
    let most = MOST_OF_BATCH.max(largest + largest / 4);
    let refused = || {
        exec_err!(
            "`{name}` would make values of more than {} MiB for {} rows; make shorter ones, or filter the rows before",
            most >> 20,
            args.number_rows
        )
    };
    if least > most {
        return refused();
    }
    let mut ends = Vec::new();
    let mut room = MOST_OF_VALUE;
    for (row, need) in needs.iter().enumerate() {
        if *need > room && row > 0 {
            ends.push(row);
            room = MOST_OF_VALUE;
        }
        room = room.saturating_sub(*need);
    }
    ends.push(args.number_rows);
    let (mut pieces, mut begin, mut made) = (Vec::new(), 0, 0);
    for end in ends {
        if let Some(watch) = Watch::of(&args.config_options) {
            watch.room_for(MOST_OF_VALUE)?;
        }
        let piece = make(slice(&args, begin, end - begin))?.into_array(end - begin)?;
        made += sizes_of(&piece).iter().sum::<u64>();
        if made > most {
            return refused();
        }
        pieces.push(piece);
        begin = end;
    }
    let pieces: Vec<&dyn Array> = pieces.iter().map(|piece| piece.as_ref()).collect();
    Ok(concat(&pieces)?)
}

/// The arguments of some rows.
fn slice(args: &ScalarFunctionArgs, first: usize, rows: usize) -> ScalarFunctionArgs {
    let of = |arg: &ColumnarValue| match arg {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(first, rows)),
        ColumnarValue::Scalar(value) => ColumnarValue::Scalar(value.clone()),
    };
    ScalarFunctionArgs {
        args: args.args.iter().map(of).collect(),
        arg_fields: args.arg_fields.clone(),
        number_rows: rows,
        return_field: args.return_field.clone(),
        config_options: args.config_options.clone(),
    }
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
