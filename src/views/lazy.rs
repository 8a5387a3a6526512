//! Tables whose columns are known before their logs are read.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use starmere_lake::events;
use starmere_lake::provider::{PinnedTable, pinned_schema};
use starmere_marts::meaning::Port;
use starmere_models::define::FieldType;
use starmere_sql::QueryError;
use tokio::sync::OnceCell;

use crate::project::Opened;

/// A stream's events at the newest version, which is looked up when a query first reads them. A stream into which
/// nothing has landed is empty.
#[derive(Debug)]
pub(super) struct RawEvents {
    opened: Opened,
    stream: String,
    schema: SchemaRef,
    table: OnceCell<Option<Arc<PinnedTable>>>,
}

impl RawEvents {
    pub(super) fn new(opened: &Opened, stream: &str) -> Self {
        let schema = pinned_schema(events::table_schema());
        Self { opened: opened.clone(), stream: stream.to_owned(), schema, table: OnceCell::new() }
    }

    async fn open(&self) -> Result<Option<Arc<PinnedTable>>, DataFusionError> {
        let (stream, _) = self.opened.stream(&self.stream).map_err(|error| DataFusionError::External(error.into()))?;
        let snapshot = stream.newest().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(snapshot.map(|snapshot| Arc::new(PinnedTable::new(self.opened.warehouse.store(), snapshot))))
    }
}

#[async_trait]
impl TableProvider for RawEvents {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
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
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        match self.table.get_or_try_init(|| self.open()).await? {
            Some(table) => table.scan(state, projection, filters, limit).await,
            None => {
                let columns = projection.map(|columns| self.schema.project(columns).map(Arc::new)).transpose()?;
                Ok(Arc::new(EmptyExec::new(columns.unwrap_or_else(|| self.schema.clone()))))
            }
        }
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        // As those of the pinned table.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// A table whose log cannot be read: its columns are known otherwise, and whoever reads it is told what is wrong.
#[derive(Debug)]
pub(super) struct Damaged {
    schema: SchemaRef,
    error: QueryError,
}

impl Damaged {
    /// The table `name`, with these columns.
    pub(super) fn new(name: &str, columns: &SchemaRef, error: starmere_lake::Error) -> Self {
        let error = QueryError::internal(format!("the table behind `{name}` is damaged"))
            .caused_by(error)
            .with_hint("restore its log from a copy, or fill it again with `starmere build --full`");
        Self { schema: pinned_schema(columns), error }
    }

    /// The table behind a port, with the columns of its contract.
    pub(super) fn of_port(port: &Port, error: starmere_lake::Error) -> anyhow::Result<Self> {
        let mut fields: Vec<Field> = Vec::new();
        for column in &port.columns {
            if fields.iter().all(|field| *field.name() != column.from) {
                let data_type: FieldType = column.data_type.parse().map_err(anyhow::Error::msg)?;
                fields.push(Field::new(&column.from, data_type.arrow(), true));
            }
        }
        Ok(Self::new(&port.full_name(), &Arc::new(Schema::new(fields)), error))
    }
}

#[async_trait]
impl TableProvider for Damaged {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        Err(DataFusionError::External(Box::new(self.error.clone())))
    }
}
