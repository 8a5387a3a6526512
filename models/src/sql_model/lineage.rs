//! From rows of a SQL model to the rows of its inputs that they are made of, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::prelude::SessionContext;

use super::query::{WATERMARK, key_name, only_scan, scanned};
use super::{PERIODIC, SqlModel, Strategy, over};
use crate::define::ModelName;
use crate::expression::cast_rows;

/// Rows of an input, in some of its columns.
#[derive(Clone, Debug)]
pub struct Lineage {
    pub input: ModelName,
    pub rows: Vec<RecordBatch>,
}

impl SqlModel {
    /// What `rows`, which have at least the model's grain, are made of: of each input, `columns` of the rows, each once; as
    /// far as the query passes these columns on to where it puts rows together, and `most` of an input. None where all rows
    /// are computed at once.
    pub async fn lineage(
        &self,
        session: &SessionContext,
        rows: &[RecordBatch],
        columns: impl Fn(&ModelName) -> Vec<String>,
        table: impl Fn(&ModelName) -> Arc<dyn TableProvider>,
        most: usize,
    ) -> PlanResult<Option<Vec<Lineage>>> {
        let Strategy::ByKey(by_key) = &self.query.strategy else { return Ok(None) };
        let names: Vec<&String> = by_key.parts.iter().map(|&part| &self.grain[part]).collect();
        let schema = self.schema();
        let fields = names.iter().enumerate().map(|(number, name)| {
            let field = schema.field_with_name(name)?;
            Ok(Field::new(key_name(number), field.data_type().clone(), true))
        });
        let keys = Arc::new(Schema::new(fields.collect::<PlanResult<Vec<_>>>()?));
        let mut batches = Vec::new();
        for batch in rows {
            let values = names.iter().zip(keys.fields()).filter_map(|(name, field)| {
                let values = batch.column_by_name(name)?;
                Some(cast_rows(values, field.data_type(), name, &mut Vec::new()))
            });
            batches.push(RecordBatch::try_new(keys.clone(), values.collect())?);
        }
        let keys = Arc::new(MemTable::try_new(keys, vec![batches])?);
        let mut lineage = Vec::new();
        for branch in by_key.branches() {
            let plan = branch.restricted(keys.clone(), |_, model| table(model))?;
            let mut plan = self.as_far_as_its_rows(session, plan, &table).await?;
            if let Some(is_within) = self.is_within(rows, &plan)? {
                plan = LogicalPlanBuilder::from(plan).filter(is_within)?.build()?;
            }
            for (reference, input) in self.named(&branch.plan)? {
                let wanted = columns(&input);
                let found = wanted.iter().map(|name| Column::new(Some(reference.clone()), name));
                let found: Vec<Expr> =
                    found.filter(|column| plan.schema().has_column(column)).map(Expr::Column).collect();
                if found.is_empty() || found.len() < wanted.len() {
                    continue;
                }
                let plan =
                    LogicalPlanBuilder::from(plan.clone()).project(found)?.distinct()?.limit(0, Some(most))?.build()?;
                let rows = session.execute_logical_plan(plan).await?.collect().await?;
                lineage.push(Lineage { input, rows });
            }
        }
        Ok(Some(lineage))
    }

    /// The grains of the model's rows that `rows` of `input` are part of, in those of its columns that rows are found by, and
    /// `most` for each time that the query reads the input. None where all rows are computed at once.
    pub async fn grains_made_of(
        &self,
        session: &SessionContext,
        (input, rows): (&ModelName, Arc<dyn TableProvider>),
        table: impl Fn(&ModelName) -> Arc<dyn TableProvider>,
        most: usize,
    ) -> PlanResult<Option<Vec<RecordBatch>>> {
        let Strategy::ByKey(by_key) = &self.query.strategy else { return Ok(None) };
        let names = by_key.parts.iter().map(|&part| self.grain[part].as_str());
        let schema = self.schema();
        let fields = names.map(|name| schema.field_with_name(name).cloned()).collect::<Result<Vec<_>, _>>()?;
        let grain = Arc::new(Schema::new(fields));
        let mut grains = Vec::new();
        for (place, _) in self.query.scans.iter().enumerate().filter(|(_, scanned)| *scanned == input) {
            let at = |of: usize, model: &ModelName| if of == place { rows.clone() } else { table(model) };
            let Some(plan) = by_key.touched(place, at)? else { return Ok(None) };
            let plan = self.as_far_as_its_rows(session, plan, &table).await?;
            let plan = LogicalPlanBuilder::from(plan).limit(0, Some(most))?.build()?;
            for batch in session.execute_logical_plan(plan).await?.collect().await? {
                let columns = batch.columns().iter().zip(grain.fields());
                let columns =
                    columns.map(|(values, to)| cast_rows(values, to.data_type(), to.name(), &mut Vec::new())).collect();
                grains.push(RecordBatch::try_new(grain.clone(), columns)?);
            }
        }
        Ok(Some(grains))
    }

    /// Whether what happened is within what these rows of a periodic snapshot are about.
    fn is_within(&self, rows: &[RecordBatch], plan: &LogicalPlan) -> PlanResult<Option<Expr>> {
        let ends = rows.iter().filter(|_| self.kind == PERIODIC).filter_map(|batch| batch.column_by_name("period_to"));
        let Some(over) = ends.filter_map(over).flatten().max() else { return Ok(None) };
        let (reference, at) = plan.schema().qualified_field_with_unqualified_name("occurred_at")?;
        let over = ScalarValue::TimestampMicrosecond(Some(over), Some("UTC".into()));
        Ok(Some(Expr::Column(Column::from((reference, at))).lt(lit(over))))
    }

    /// The plan, told how far the model's rows go in time, where its query asks that.
    async fn as_far_as_its_rows(
        &self,
        session: &SessionContext,
        plan: LogicalPlan,
        table: &impl Fn(&ModelName) -> Arc<dyn TableProvider>,
    ) -> PlanResult<LogicalPlan> {
        let Some(watermark) = self.query.watermark(|_, model| table(model))? else { return Ok(plan) };
        let found = session.execute_logical_plan(watermark).await?.collect().await?;
        let first = found.iter().find(|batch| batch.num_rows() > 0);
        let watermark = first.map(|batch| ScalarValue::try_from_array(batch.column(0), 0)).transpose()?;
        plan.with_param_values(vec![(WATERMARK, watermark.unwrap_or(ScalarValue::Null))])
    }

    /// By what name each input's columns are known in a plan.
    fn named(&self, core: &LogicalPlan) -> PlanResult<BTreeMap<TableReference, ModelName>> {
        let mut named = BTreeMap::new();
        core.apply(|node| {
            let (name, below) = match node {
                LogicalPlan::SubqueryAlias(alias) => (&alias.alias, alias.input.as_ref()),
                LogicalPlan::TableScan(scan) => (&scan.table_name, node),
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            if let Some(model) = only_scan(below).and_then(scanned) {
                named.insert(name.clone(), model);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(named)
    }
}
