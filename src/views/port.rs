//! A port as queries find it: the contract's columns over the model's table.
//!
//! What it says of itself (`information_schema`, `DESCRIBE`) is the contract, with nullability and words. Plans are made of the
//! model's table below, whose columns may be null as far as the engine knows.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::{TableType, ViewTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::ident;
use starmere_marts::meaning::Port;
use starmere_sql::{TableInfo, TableKind};

#[derive(Debug)]
pub(super) struct PortTable {
    view: ViewTable,
    contract: SchemaRef,
    table_type: TableType,
}

impl PortTable {
    /// `plan` under the name that `info` has.
    pub(super) fn new(plan: LogicalPlan, info: &TableInfo) -> Self {
        let table_type = match info.kind {
            TableKind::View => TableType::View,
            TableKind::Table | TableKind::System => TableType::Base,
        };
        Self { view: ViewTable::new(plan, None), contract: info.arrow_schema.clone(), table_type }
    }
}

/// The contract's columns over the model's table.
pub(super) fn plan(port: &Port, table: Arc<dyn TableProvider>) -> Result<LogicalPlan, DataFusionError> {
    let columns = port.columns.iter().map(|column| ident(&column.from).alias(&column.name));
    LogicalPlanBuilder::scan(&port.name, provider_as_source(table), None)?.project(columns)?.build()
}

#[async_trait]
impl TableProvider for PortTable {
    fn schema(&self) -> SchemaRef {
        self.contract.clone()
    }

    fn table_type(&self) -> TableType {
        self.table_type
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        self.view.get_logical_plan()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        self.view.scan(state, projection, filters, limit).await
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        self.view.supports_filters_pushdown(filters)
    }
}
