//! Answers that are sums: rows that are only added add to them.
//!
//! Where a query only sums and counts, and no row of its inputs went, what the new rows give by themselves is added to the rows
//! that are there; the history is not looked at. Where a row went, a group may have nobody left, or nothing but missing
//! values, which sums do not tell: its rows are computed again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

/// Whether the answer of `plan` over some rows, and that over others, add up to that over all: there is one aggregate, every
/// column but the `grain` is a sum or a count, and what lies below gives for each row by itself what it gives.
pub(super) fn are_sums(plan: &LogicalPlan, grain: &[String]) -> bool {
    let mut node = plan;
    while let LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Sort(_) = node {
        let mut inputs = node.inputs();
        let Some(input) = inputs.pop() else { return false };
        node = input;
    }
    let LogicalPlan::Aggregate(aggregate) = node else { return false };
    if !is_linear(&aggregate.input) {
        return false;
    }
    let fields = plan.schema().iter();
    fields.enumerate().all(|(place, (_, field))| grain.contains(field.name()) || is_sum(plan, place))
}

/// Whether a plan gives for rows of one scan that come just the rows that come. A union is not: its other branches would give
/// all of theirs again.
fn is_linear(node: &LogicalPlan) -> bool {
    let is_such = matches!(
        node,
        LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Unnest(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::TableScan(_)
    );
    is_such && node.inputs().into_iter().all(is_linear)
}

fn is_sum(node: &LogicalPlan, place: usize) -> bool {
    match node {
        LogicalPlan::SubqueryAlias(alias) => is_sum(&alias.input, place),
        LogicalPlan::Sort(sort) => is_sum(&sort.input, place),
        LogicalPlan::Projection(projection) => {
            projection.expr.get(place).is_some_and(|expr| is_sum_of(expr, &projection.input))
        }
        LogicalPlan::Aggregate(aggregate) => {
            let call = place.checked_sub(aggregate.group_expr.len()).and_then(|place| aggregate.aggr_expr.get(place));
            match call.map(|call| call.clone().unalias()) {
                Some(Expr::AggregateFunction(call)) => {
                    ["sum", "count"].contains(&call.func.name()) && !call.params.distinct
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether an expression over `input` gives a sum, at most with more digits.
fn is_sum_of(expr: &Expr, input: &LogicalPlan) -> bool {
    let widens = |inner: &Expr, to: &DataType| match (inner.get_type(input.schema()), to) {
        (Ok(from), DataType::Int64) => from.is_integer() || matches!(from, DataType::Decimal128(_, 0)),
        (Ok(from), DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale)) => match from {
            DataType::Decimal128(_, old) | DataType::Decimal256(_, old) => old <= *scale,
            other => other.is_integer(),
        },
        _ => false,
    };
    match expr {
        Expr::Alias(alias) => is_sum_of(&alias.expr, input),
        Expr::Column(column) => input.schema().index_of_column(column).is_ok_and(|place| is_sum(input, place)),
        Expr::Cast(cast) => widens(&cast.expr, cast.field.data_type()) && is_sum_of(&cast.expr, input),
        Expr::ScalarFunction(call) if call.func.name() == "arrow_cast" => {
            let to = expr.get_type(input.schema());
            call.args.first().is_some_and(|of| to.is_ok_and(|to| widens(of, &to)) && is_sum_of(of, input))
        }
        _ => false,
    }
}

/// The sums of a row's measures; none where nothing was summed.
type Sums = Vec<Option<i128>>;

/// Rows of a model that are to be added to those it has.
pub(super) struct Sum {
    schema: SchemaRef,
    /// Places of the columns of the grain, and of the others.
    grain: Vec<usize>,
    measures: Vec<usize>,
    converter: RowConverter,
    sums: HashMap<OwnedRow, (Sums, u32)>,
    batch: RecordBatch,
}

impl Sum {
    /// The rows of `batches`, those of one grain put together. None where they cannot be added up in their types.
    pub(super) fn of(
        schema: &SchemaRef,
        grain: &[String],
        batches: &[RecordBatch],
    ) -> Result<Option<Self>, ArrowError> {
        let is_grain = |&place: &usize| grain.contains(schema.field(place).name());
        let (grain, measures): (Vec<usize>, Vec<usize>) = (0..schema.fields().len()).partition(is_grain);
        let is_summed =
            |&place: &usize| matches!(schema.field(place).data_type(), DataType::Int64 | DataType::Decimal128(..));
        if !measures.iter().all(is_summed) {
            return Ok(None);
        }
        let fields = grain.iter().map(|&place| SortField::new(schema.field(place).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let batch = concat_batches(schema, batches)?;
        let mut sum = Self { schema: schema.clone(), grain, measures, converter, sums: HashMap::new(), batch };
        let batch = sum.batch.clone();
        let values = sum.values(&batch);
        let keys = sum.keys(&batch)?;
        for (row, key) in keys.into_iter().enumerate() {
            let of_row = values.iter().map(|values| values[row]).collect::<Sums>();
            match sum.sums.entry(key) {
                Entry::Vacant(entry) => _ = entry.insert((of_row, row as u32)),
                Entry::Occupied(mut entry) => {
                    let Some(added) = added(&entry.get().0, &of_row) else { return Ok(None) };
                    entry.get_mut().0 = added;
                }
            }
        }
        Ok(Some(sum))
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// Rows with all of their grains.
    pub(super) fn rows(&self) -> &RecordBatch {
        &self.batch
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Vec<OwnedRow>, ArrowError> {
        let columns: Vec<ArrayRef> = self.grain.iter().map(|&place| batch.column(place).clone()).collect();
        Ok(self.converter.convert_columns(&columns)?.iter().map(|key| key.owned()).collect())
    }

    /// The measures of all rows.
    fn values(&self, batch: &RecordBatch) -> Vec<Sums> {
        let of = |column: &ArrayRef| -> Sums {
            match column.data_type() {
                DataType::Int64 => column.as_primitive::<Int64Type>().iter().map(|v| v.map(i128::from)).collect(),
                _ => column.as_primitive::<Decimal128Type>().iter().collect(),
            }
        };
        self.measures.iter().map(|&place| of(batch.column(place))).collect()
    }

    /// Adds what is there for the rows of a file, and forgets it: the file's rows as they are then, and how many changed.
    /// None where a sum is beyond its type.
    pub(super) fn add_to(&mut self, file: &RecordBatch) -> Result<Option<(RecordBatch, u64)>, ArrowError> {
        let keys = self.keys(file)?;
        let mut values = self.values(file);
        let mut changed = 0;
        for (row, key) in keys.iter().enumerate() {
            let Some((more, _)) = self.sums.remove(key) else { continue };
            let old: Sums = values.iter().map(|values| values[row]).collect();
            let Some(new) = added(&old, &more) else { return Ok(None) };
            for (values, new) in values.iter_mut().zip(new) {
                values[row] = new;
            }
            changed += 1;
        }
        let columns = self.with(file, values)?;
        Ok(columns.map(|batch| (batch, changed)))
    }

    /// What nobody has taken yet. None where a sum is beyond its type.
    pub(super) fn rest(self) -> Result<Option<RecordBatch>, ArrowError> {
        let mut rows: BTreeMap<u32, Sums> = BTreeMap::new();
        for (sums, row) in self.sums.values() {
            rows.insert(*row, sums.clone());
        }
        let places = UInt32Array::from_iter_values(rows.keys().copied());
        let batch = take_record_batch(&self.batch, &places)?;
        let values = (0..self.measures.len()).map(|measure| rows.values().map(|sums| sums[measure]).collect());
        self.with(&batch, values.collect())
    }

    fn with(&self, batch: &RecordBatch, values: Vec<Sums>) -> Result<Option<RecordBatch>, ArrowError> {
        let mut columns = batch.columns().to_vec();
        for (&place, values) in self.measures.iter().zip(values) {
            columns[place] = match self.schema.field(place).data_type() {
                DataType::Decimal128(precision, scale) => {
                    let most = 10_i128.checked_pow(u32::from(*precision)).unwrap_or(i128::MAX);
                    if values.iter().flatten().any(|value| value.unsigned_abs() >= most.unsigned_abs()) {
                        return Ok(None);
                    }
                    let values = values.into_iter().collect::<Decimal128Array>();
                    Arc::new(values.with_precision_and_scale(*precision, *scale)?)
                }
                _ => {
                    let values = values.into_iter().map(|value| value.map(i64::try_from).transpose());
                    let Ok(values) = values.collect::<Result<Int64Array, _>>() else { return Ok(None) };
                    Arc::new(values)
                }
            };
        }
        RecordBatch::try_new(self.schema.clone(), columns).map(Some)
    }
}

/// The sums of two rows; none where one is beyond its type.
fn added(one: &Sums, other: &Sums) -> Option<Sums> {
    let add = |(one, other): (&Option<i128>, &Option<i128>)| match (one, other) {
        (Some(one), Some(other)) => one.checked_add(*other).map(Some),
        (one, other) => Some(one.or(*other)),
    };
    one.iter().zip(other).map(add).collect()
}
