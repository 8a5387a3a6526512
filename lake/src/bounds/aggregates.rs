//! Aggregates that keep all that they read: lists and texts of a group.
//!
//! The engine counts what they hold after each batch, which is too late for a text that doubles its room: one of four
//! gigabytes asks for eight, and the process ends. Nothing counts the copy that is made of it at the end. Here what a
//! group holds is counted before a batch is taken up, and is at most [`MOST_OF_VALUE`]; and the copy is counted with
//! what is held.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};

use super::distinct::DistinctRows;
use super::growth::sizes_of;
use super::{MOST_OF_BATCH, MOST_OF_VALUE, too_large};
use crate::meter;
use crate::watch::Watch;

/// Rows of a batch.
const ROWS: u32 = 8192;

/// The aggregate, bounded, where it keeps all that it reads.
pub(super) fn bounded(function: &AggregateUDF) -> Option<AggregateUDF> {
    let keeps = match function.name() {
        "array_agg" | "string_agg" => Keeps::Values,
        "median" | "percentile_cont" => Keeps::Numbers,
        _ => return None,
    };
    (!function.inner().is::<Collecting>()).then(|| Collecting { of: function.clone(), keeps }.into())
}

/// What a call counts, where it counts different values.
pub(crate) fn counts_distinct(call: &AggregateFunction) -> Option<&Expr> {
    match call.params.args.as_slice() {
        [counted] if call.func.name() == "count" && call.params.distinct && !call.func.inner().is::<Collecting>() => {
            Some(counted)
        }
        _ => None,
    }
}

/// A count of different values that have parts. The engine keeps each of them as a part of the batch that it was read
/// in, and counts that batch for each: 30,000 pairs of numbers take 20 TB. Here the bytes of each are kept.
pub(crate) fn counted_by_rows(call: AggregateFunction) -> Expr {
    let func = Collecting { of: call.func.as_ref().clone(), keeps: Keeps::DistinctRows };
    Expr::AggregateFunction(AggregateFunction { func: Arc::new(func.into()), params: call.params })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Keeps {
    Values,
    DistinctRows,
    /// They are counted, and looked through for each row of a window.
    Numbers,
}

/// An aggregate that counts what it keeps.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Collecting {
    of: AggregateUDF,
    keeps: Keeps,
}

impl Collecting {
    fn within_bounds(&self, of: Box<dyn Accumulator>, is_distinct: bool) -> Box<dyn Accumulator> {
        match self.keeps {
            Keeps::Values => {
                Box::new(BoundedState { of, name: self.of.name().to_owned(), is_distinct, held: 0, given: 0, times: 0 })
            }
            Keeps::DistinctRows => of,
            Keeps::Numbers => Box::new(WatchedState { of, watch: meter::watch_of_this_thread() }),
        }
    }
}

/// It hands on everything but what keeps values.
impl AggregateUDFImpl for Collecting {
    fn name(&self) -> &str {
        self.of.name()
    }

    fn aliases(&self) -> &[String] {
        self.of.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.of.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.of.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.of.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.of.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.of.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.of.signature()
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        self.of.return_type(of)
    }

    fn return_field(&self, of: &[FieldRef]) -> Result<FieldRef> {
        self.of.return_field(of)
    }

    fn is_nullable(&self) -> bool {
        self.of.is_nullable()
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.of.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let is_distinct = args.is_distinct;
        if self.keeps == Keeps::DistinctRows
            && is_distinct
            && let [counted] = args.expr_fields
            && let Some(rows) = DistinctRows::of(counted.data_type())?
        {
            return Ok(Box::new(rows));
        }
        Ok(self.within_bounds(self.of.accumulator(args)?, is_distinct))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let is_distinct = args.is_distinct;
        Ok(self.within_bounds(self.of.create_sliding_accumulator(args)?, is_distinct))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.of.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let of = self.of.create_groups_accumulator(args)?;
        Ok(match self.keeps {
            Keeps::Values => Box::new(BoundedGroups { of, name: self.of.name().to_owned(), held: Vec::new() }),
            Keeps::DistinctRows | Keeps::Numbers => of,
        })
    }

    fn with_beneficial_ordering(self: Arc<Self>, is_ordered: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let keeps = self.keeps;
        let ordered = self.of.clone().with_beneficial_ordering(is_ordered)?;
        Ok(ordered.map(|of| Arc::new(Self { of, keeps }) as Arc<dyn AggregateUDFImpl>))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.of.order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.of.simplify()
    }

    fn simplify_expr_op_literal(
        &self,
        call: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        constant: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.of.simplify_expr_op_literal(call, arg, op, constant, arg_is_left)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.of.reverse_udf() {
            ReversedUDAF::Reversed(of) => {
                let reversed = Self { of: of.as_ref().clone(), keeps: self.keeps };
                ReversedUDAF::Reversed(Arc::new(reversed.into()))
            }
            other => other,
        }
    }

    fn coerce_types(&self, of: &[DataType]) -> Result<Vec<DataType>> {
        self.of.coerce_types(of)
    }

    fn is_descending(&self) -> Option<bool> {
        self.of.is_descending()
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.of.value_from_stats(args)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.of.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.of.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.of.supports_within_group_clause()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.of.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.of.documentation()
    }
}

/// How many bytes the values of all columns have, row by row.
fn bytes_of(columns: &[ArrayRef]) -> u64 {
    columns.iter().map(|column| sizes_of(column).iter().sum::<u64>()).sum()
}

/// What one group holds.
#[derive(Debug)]
struct BoundedState {
    of: Box<dyn Accumulator>,
    name: String,
    /// What is there already takes no room: it is counted after a batch.
    is_distinct: bool,
    held: u64,
    /// Bytes of the values that were given as a window went on, since a batch of them began, and how many they are.
    given: u64,
    times: u32,
}

impl BoundedState {
    fn take_up(
        &mut self,
        columns: &[ArrayRef],
        take_up: fn(&mut dyn Accumulator, &[ArrayRef]) -> Result<()>,
    ) -> Result<()> {
        if !self.is_distinct {
            self.held += bytes_of(columns);
            if self.held > MOST_OF_VALUE {
                return Err(too_large(&self.name, self.held));
            }
            return take_up(self.of.as_mut(), columns);
        }
        take_up(self.of.as_mut(), columns)?;
        self.held = self.of.size() as u64;
        if self.held > MOST_OF_BATCH { Err(too_large(&self.name, self.held)) } else { Ok(()) }
    }
}

impl Accumulator for BoundedState {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.take_up(values, |of, values| of.update_batch(values))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.take_up(states, |of, states| of.merge_batch(states))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.times == ROWS {
            (self.given, self.times) = (0, 0);
        }
        self.times += 1;
        self.given += self.held;
        if self.given > MOST_OF_BATCH {
            return exec_err!(
                "`{}` would make values of more than {} MiB for {} rows; give the window a shorter frame, as in \
                 `ROWS BETWEEN 10 PRECEDING AND CURRENT ROW`",
                self.name,
                MOST_OF_BATCH >> 20,
                self.times
            );
        }
        self.of.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.of.state()
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.held = self.held.saturating_sub(bytes_of(values));
        self.of.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.of.supports_retract_batch()
    }

    fn size(&self) -> usize {
        self.of.size().saturating_mul(2)
    }
}

/// A state of which much is computed at each row of a window: it is not, once the query was told to stop.
#[derive(Debug)]
struct WatchedState {
    of: Box<dyn Accumulator>,
    watch: Option<Arc<Watch>>,
}

impl Accumulator for WatchedState {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.of.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.of.merge_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.check())?;
        self.of.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.of.state()
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.of.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.of.supports_retract_batch()
    }

    fn size(&self) -> usize {
        self.of.size()
    }
}

/// What groups hold.
struct BoundedGroups {
    of: Box<dyn GroupsAccumulator>,
    name: String,
    /// Bytes of each group.
    held: Vec<u64>,
}

impl BoundedGroups {
    fn count(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        number_of_groups: usize,
    ) -> Result<()> {
        self.held.resize(number_of_groups.max(self.held.len()), 0);
        let sizes: Vec<Vec<u64>> = columns.iter().map(sizes_of).collect();
        for (row, group) in groups.iter().enumerate() {
            if filter.is_some_and(|filter| filter.is_null(row) || !filter.value(row)) {
                continue;
            }
            let held = &mut self.held[*group];
            *held += sizes.iter().map(|sizes| sizes[row]).sum::<u64>();
            if *held > MOST_OF_VALUE {
                return Err(too_large(&self.name, *held));
            }
        }
        Ok(())
    }

    fn forget(&mut self, emitted: EmitTo) {
        match emitted {
            EmitTo::All => self.held = Vec::new(),
            EmitTo::First(groups) => drop(self.held.drain(..groups.min(self.held.len()))),
        }
    }
}

impl GroupsAccumulator for BoundedGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        number_of_groups: usize,
    ) -> Result<()> {
        self.count(values, groups, filter, number_of_groups)?;
        self.of.update_batch(values, groups, filter, number_of_groups)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], number_of_groups: usize) -> Result<()> {
        self.count(states, groups, None, number_of_groups)?;
        self.of.merge_batch(states, groups, number_of_groups)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        self.forget(emit);
        self.of.evaluate(emit)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.forget(emit);
        self.of.state(emit)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.of.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.of.size().saturating_mul(2) + self.held.capacity() * size_of::<u64>()
    }
}
