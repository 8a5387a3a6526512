//! A pinned Delta version as a table of DataFusion: plain Parquet scans with statistics.
//!
//! The scan is a `DataSourceExec` over the snapshot's files, so that everything DataFusion knows about Parquet works:
//! pruning by statistics and bloom filters, filters pushed into the scan, run-time filters of joins, splitting by
//! byte ranges, and distribution. Large files are passed in pieces: a partition that is done takes the next piece
//! that no other one has begun, so a query that skips most of a table still has work for all of them. What is read is
//! checked (see the `scan` module). Text is read as views, which is what the engine is quickest with. Statistics are
//! bounds, except counts, integers and dates (see the `statistics` module of [`crate::delta`]).

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

/// A piece of a file has about so many rows: two row groups of most tables.
const PIECE_ROWS: usize = 1 << 18;

/// Of a table with more rows than so many pieces have, pieces are larger: rules that change a plan copy it.
const MOST_PIECES: usize = 1 << 10;

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

/// A file of so many rows in pieces of `of` rows or fewer, if they are spread evenly over its bytes. A row group is of
/// the piece in which it begins, so each is of one; a piece may have none.
fn pieces(file: PartitionedFile, rows: usize, of: usize) -> impl Iterator<Item = PartitionedFile> {
    let count = rows.div_ceil(of).max(1) as u64;
    let size = file.object_meta.size;
    let end = move |piece: u64| (u128::from(size) * u128::from(piece) / u128::from(count)) as i64;
    (0..count).map(move |piece| match count {
        1 => file.clone(),
        _ => file.clone().with_range(end(piece), end(piece + 1)),
    })
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
        let rows = |add: &Arc<Add>| parsed(&self.schema, add).num_rows.get_value().copied().unwrap_or_default();
        let all_rows = self.files.iter().map(rows).fold(0, usize::saturating_add);
        let of = PIECE_ROWS.max(all_rows / MOST_PIECES);
        let mut files = Vec::with_capacity(self.files.len());
        for add in &self.files {
            let file = self.partitioned_file(add, parsed(&self.schema, add));
            files.extend(pieces(file.map_err(|error| DataFusionError::External(Box::new(error)))?, rows(add), of));
        }
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;
    use datafusion::datasource::physical_plan::FileScanConfig;

    use super::*;
    use crate::delta::{Commit, EncodedFile, FileOptions, Table, Warehouse};
    use crate::paths::TablePath;
    use crate::session::Engine;

    fn numbers(rows: std::ops::Range<i64>) -> RecordBatch {
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
        let tens: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.map(|n| n / 10)));
        RecordBatch::try_from_iter([("n", n), ("tens", tens)]).unwrap()
    }

    /// A table with files of these rows.
    async fn of_files(files: &[std::ops::Range<i64>], options: &FileOptions) -> (Table, Arc<Snapshot>) {
        let table = Warehouse::new(Store::memory()).table(TablePath::stream("test", "t"));
        let base = table.open_or_create(&numbers(0..1).schema(), &[]).await.unwrap();
        let mut adds = Vec::new();
        for rows in files {
            let batch = numbers(rows.clone());
            adds.push(table.upload(EncodedFile::of(&batch.schema(), &[batch], options).unwrap()).await.unwrap());
        }
        let commit = Commit { adds, operation: "WRITE", ..Commit::default() };
        let snapshot = table.commit(&base, commit).await.unwrap();
        (table, snapshot)
    }

    fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Vec<PartitionedFile> {
        let scan = plan.downcast_ref::<DataSourceExec>().unwrap();
        let config = scan.data_source().downcast_ref::<FileScanConfig>().unwrap();
        config.file_groups.iter().flat_map(FileGroup::iter).cloned().collect()
    }

    #[test]
    fn pieces_abut_and_make_up_the_file() {
        for (size, rows, of, count) in [
            (1_000, 0, 10, 1),
            (1_000, 10, 10, 1),
            (1_000, 11, 10, 2),
            (1_001, 100, 10, 10),
            (3, 100, 10, 10),
            (0, 100, 10, 10),
            (u64::MAX / 2, 1 << 40, 1 << 30, 1 << 10),
        ] {
            let made: Vec<_> = pieces(PartitionedFile::new("f", size), rows, of).collect();
            assert_eq!(made.len(), count, "{size} bytes, {rows} rows");
            let mut end = 0;
            for piece in &made {
                let (from, to) = piece.range();
                assert!(from == end && to >= from, "{size} bytes, {rows} rows: {from} after {end}");
                end = to;
            }
            assert_eq!(end, size);
        }
    }

    #[tokio::test]
    async fn large_files_are_read_in_pieces_and_small_ones_are_not() {
        let large = 5 * PIECE_ROWS as i64 / 2;
        let (table, snapshot) = of_files(&[0..large, large..large + 10], &FileOptions::default()).await;
        let session = Engine::new(table.store(), 1 << 28).unwrap().session();
        let pinned = Arc::new(PinnedTable::new(table.store(), snapshot));
        let files = scanned(&pinned.scan(&session.state(), None, &[], None).await.unwrap());
        assert_eq!((files.len(), files.iter().filter(|file| file.range.is_none()).count()), (4, 1));
        session.register_table("t", pinned).unwrap();
        for (condition, expected) in [
            ("true", [large + 10, large + 10, (large + 9) * (large + 10) / 2]),
            ("n >= 200000 AND n < 200010", [10, 10, 2_000_045]),
            ("n = -1", [0, 0, 0]),
        ] {
            let sql = format!(
                "SELECT count(*), count(DISTINCT n), CAST(coalesce(sum(n), 0) AS BIGINT) FROM t WHERE {condition}"
            );
            let found = session.sql(&sql).await.unwrap().collect().await.unwrap();
            let value = |column: usize| found[0].column(column).as_primitive::<Int64Type>().value(0);
            assert_eq!([0, 1, 2].map(value), expected, "{condition}");
        }
    }

    /// However pieces lie to row groups: some have none, some many. Also in a file whose columns were replaced.
    #[tokio::test]
    async fn each_row_is_in_one_piece() {
        let options = FileOptions { row_group: 100, ..FileOptions::default() };
        let (table, snapshot) = of_files(std::slice::from_ref(&(0..950)), &options).await;
        let add = snapshot.files().next().unwrap().as_ref().clone();
        let tens = Int64Array::from_iter_values((0..950).map(|n| n * n));
        let replaced = RecordBatch::try_from_iter([("tens", Arc::new(tens) as ArrayRef)]).unwrap();
        let spliced = table.with_columns(&add, &numbers(0..1).schema(), replaced, options).await.unwrap();
        let session = Engine::new(table.store(), 1 << 28).unwrap().session();
        let pinned = PinnedTable::new(table.store(), snapshot);
        let whole = pinned.scan(&session.state(), None, &[], None).await.unwrap();
        let config = whole.downcast_ref::<DataSourceExec>().unwrap().data_source().downcast_ref::<FileScanConfig>();
        for add in [&add, &spliced] {
            let file = pinned.partitioned_file(add, &Arc::new(Statistics::new_unknown(&pinned.schema))).unwrap();
            for of in [950, 400, 100, 99, 7, 1] {
                let groups = FileGroup::new(pieces(file.clone(), 950, of).collect()).split_files(2);
                let scan = FileScanConfigBuilder::from(config.unwrap().clone()).with_file_groups(groups).build();
                let scan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
                let read = datafusion::physical_plan::collect(scan, session.task_ctx()).await.unwrap();
                let mut found: Vec<i64> = read
                    .iter()
                    .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
                    .collect();
                found.sort_unstable();
                assert_eq!(found, (0..950).collect::<Vec<i64>>(), "pieces of {of} rows");
            }
        }
    }
}
