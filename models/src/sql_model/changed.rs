//! The rows of an input that came or went, in the columns that a query reads.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{DataFrame, ident, lit};

/// Names a column that no model has: how often a row came, less how often it went.
pub(super) const SIGN: &str = "$sign";

/// The rows that came or went.
pub(super) struct Changed {
    pub(super) table: Arc<dyn TableProvider>,
    /// None of them went; then each is there as often as it came.
    pub(super) only_came: bool,
    pub(super) is_empty: bool,
}

/// The multiset difference of two tables, which have `columns` of the schema `whole`: a file that was rewritten has most of
/// its rows still.
pub(super) async fn difference(
    whole: &SchemaRef,
    columns: &[String],
    added: DataFrame,
    removed: DataFrame,
) -> PlanResult<Changed> {
    let named = || columns.iter().map(ident).collect::<Vec<_>>();
    let signed = |rows: DataFrame, sign: i64| rows.select(named().into_iter().chain([lit(sign).alias(SIGN)]));
    let both = signed(added, 1)?.union(signed(removed, -1)?)?;
    let summed = both.aggregate(named(), vec![sum(ident(SIGN)).alias(SIGN)])?;
    let rows = summed.filter(ident(SIGN).not_eq(lit(0_i64)))?.collect().await?;
    let fields = columns.iter().map(|name| whole.field_with_name(name).cloned()).collect::<Result<Vec<_>, _>>()?;
    let schema = Arc::new(Schema::new(fields));
    let signs = |batch: &RecordBatch| batch.column(columns.len()).as_primitive::<Int64Type>().clone();
    let only_came = rows.iter().all(|batch| signs(batch).values().iter().all(|&sign| sign > 0));
    let repeated = rows.iter().map(|batch| {
        let often = |signs: &Int64Array| -> UInt32Array {
            let rows = signs.values().iter().enumerate();
            rows.flat_map(|(row, &sign)| std::iter::repeat_n(row as u32, sign.unsigned_abs() as usize)).collect()
        };
        let batch = take_record_batch(batch, &often(&signs(batch)))?;
        RecordBatch::try_new(schema.clone(), batch.columns()[..columns.len()].to_vec())
    });
    let repeated = repeated.collect::<Result<Vec<_>, _>>()?;
    let is_empty = repeated.iter().all(|batch| batch.num_rows() == 0);
    let inner = MemTable::try_new(schema, vec![repeated])?;
    Ok(Changed { table: Arc::new(Narrow { whole: whole.clone(), inner }), only_came, is_empty })
}

/// A table of which only some columns are there: those that are read.
#[derive(Debug)]
struct Narrow {
    whole: SchemaRef,
    inner: MemTable,
}

#[async_trait]
impl TableProvider for Narrow {
    fn schema(&self) -> SchemaRef {
        self.whole.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.whole.fields().len()).collect();
        let narrow = self.inner.schema();
        let place = |&place: &usize| {
            let name = self.whole.field(place).name();
            narrow
                .index_of(name)
                .map_err(|_| DataFusionError::Internal(format!("`{name}` is read and was not said to be")))
        };
        let projection = projection.unwrap_or(&all).iter().map(place).collect::<PlanResult<Vec<_>>>()?;
        self.inner.scan(state, Some(&projection), filters, limit).await
    }
}
