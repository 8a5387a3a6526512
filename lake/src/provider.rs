//! A pinned Delta version as a table of DataFusion: plain Parquet scans with statistics.
//!
//! The scan is a `DataSourceExec` over the snapshot's files, so that everything DataFusion knows about Parquet
//! works: pruning by statistics and bloom filters, filters pushed into the scan, run-time filters of joins,
//! splitting by byte ranges, and distribution. What is read is checked (see the `scan` module). Text is read as views,
//! which is what the engine is quickest with. Statistics are bounds, except counts, integers and dates (see the
//! `statistics` module of [`crate::delta`]).

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use crate::delta::{Add, Seal, Snapshot, statistics};
use crate::scan::CheckedReaders;
use crate::store::Store;

/// A table at a version.
pub struct PinnedTable {
    store: Store,
    snapshot: Arc<Snapshot>,
    files: Vec<Arc<Add>>,
    /// The columns of the files that are read, then those of the partitioning.
    table_schema: TableSchema,
    schema: SchemaRef,
    statistics: Statistics,
}

impl fmt::Debug for PinnedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedTable({}@{})", self.snapshot.path(), self.snapshot.version())
    }
}

impl PinnedTable {
    /// All columns and rows of the snapshot.
    pub fn new(store: &Store, snapshot: Arc<Snapshot>) -> Self {
        let files = snapshot.files().cloned().collect();
        Self::of(store, snapshot, files)
    }

    /// The rows of some of the snapshot's files.
    pub fn of(store: &Store, snapshot: Arc<Snapshot>, files: Vec<Arc<Add>>) -> Self {
        let (partition, file): (Vec<FieldRef>, Vec<FieldRef>) = snapshot
            .schema()
            .fields()
            .iter()
            .cloned()
            .partition(|field| snapshot.partition_columns().contains(field.name()));
        let file = file.iter().map(|field| Arc::new(with_views(field))).collect::<Vec<_>>();
        let table_schema =
            TableSchema::builder(Arc::new(Schema::new(file))).with_table_partition_cols(partition).build();
        let schema = table_schema.table_schema().clone();
        let statistics = statistics::merged(&schema, files.iter().map(|add| parsed(&schema, add)));
        Self { store: store.clone(), snapshot, files, table_schema, schema, statistics }
    }

    /// Says that no two rows have the same value in `column`, and none has none: star joins rely on it, so it must be
    /// known. The statistics say it: there are as many values as rows.
    #[must_use]
    pub fn with_unique(mut self, column: &str) -> Self {
        if let Ok(place) = self.schema.index_of(column) {
            self.statistics.column_statistics[place].distinct_count = self.statistics.num_rows;
        }
        self
    }

    fn partitioned_file(&self, add: &Add, statistics: &Arc<Statistics>) -> crate::Result<PartitionedFile> {
        let path = self.snapshot.path().file(&add.path);
        let seal = Seal::of(add, &path)?;
        let meta = object_store::ObjectMeta {
            location: path,
            last_modified: chrono::DateTime::from_timestamp_millis(add.modification_time).unwrap_or_default(),
            size: add.size as u64,
            e_tag: None,
            version: None,
        };
        let values = self.table_schema.table_partition_cols().iter().map(|field| {
            let value = add.partition_values.get(field.name()).and_then(|value| value.as_deref());
            statistics::partition_value(field.data_type(), value).unwrap_or(datafusion::common::ScalarValue::Null)
        });
        let file = PartitionedFile::new_from_meta(meta)
            .with_partition_values(values.collect())
            .with_statistics(statistics.clone());
        Ok(match seal {
            Some(seal) => file.with_extension(seal),
            None => file,
        })
    }
}

/// The statistics of a file, parsed once.
fn parsed<'a>(schema: &SchemaRef, add: &'a Add) -> &'a Arc<Statistics> {
    add.parsed.get_or_init(|| Arc::new(statistics::to_datafusion(schema, add.stats.as_deref())))
}

/// The columns as scans of a pinned table give them.
pub fn pinned_schema(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| with_views(field)).collect::<Vec<_>>()))
}

/// The column with text and bytes as views.
fn with_views(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        other => other.clone(),
    };
    field.clone().with_data_type(data_type)
}

#[async_trait]
impl TableProvider for PinnedTable {
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
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            // A scan of no files has no partitions, which sorting does not expect.
            let schema =
                projection.map_or(Ok(self.schema.clone()), |columns| self.schema.project(columns).map(Arc::new))?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let files = self.files.iter().map(|add| self.partitioned_file(add, parsed(&self.schema, add)));
        let files = files.collect::<crate::Result<Vec<_>>>();
        let files = files.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let options = state.config().options().execution.parquet.clone();
        let options = datafusion::config::TableParquetOptions { global: options, ..Default::default() };
        let metadata = state.runtime_env().cache_manager.get_file_metadata_cache();
        let reader = CheckedReaders::new(self.store.objects().clone(), metadata);
        let source = ParquetSource::new(self.table_schema.clone())
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(reader));
        let url = ObjectStoreUrl::parse(self.store.url())?;
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.statistics.clone())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // The physical optimizer pushes the filter into the scan; the logical plan keeps it.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(self.statistics.clone())
    }
}
