//! Tables in memory for this crate's tests.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{
        ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringViewArray,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Int32Type, Schema, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{
        CatalogProvider, MemTable, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider,
        streaming::StreamingTable,
    },
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
    prelude::{SessionConfig, SessionContext},
};
use futures::{StreamExt, stream};

use crate::{
    access::Caller,
    error::QueryError,
    plans::Plans,
    query::{Limits, Queries},
    view::{ForeignKey, TableInfo, TableKind, View, Views},
};

/// A view over tables in memory; its snapshot number is what the test sets.
pub(crate) struct Memory {
    context: SessionContext,
    tables: Arc<[TableInfo]>,
    pub(crate) plans: Arc<Plans>,
    pub(crate) snapshot: AtomicU64,
}

impl Memory {
    pub(crate) fn context(&self) -> &SessionContext {
        &self.context
    }

    /// The schemas of all tables.
    pub(crate) fn schemas(&self) -> Vec<Schema> {
        self.tables.iter().map(|table| table.arrow_schema.as_ref().clone()).collect()
    }
}

#[async_trait]
impl Views for Memory {
    async fn newest(&self) -> Result<View, QueryError> {
        Ok(View {
            context: self.context.clone(),
            snapshot: self.snapshot.load(Ordering::SeqCst),
            tables: Arc::clone(&self.tables),
            plans: Arc::clone(&self.plans),
        })
    }
}

pub(crate) fn queries(limits: Limits) -> Queries {
    Queries::new(Arc::new(memory()), limits)
}

pub(crate) fn ana() -> Caller {
    Caller::named("ana")
}

/// `sales.orders_v1.order_lines`, `sales.customers_v1.customer`, `lake.test.endless`.
pub(crate) fn memory() -> Memory {
    let config = SessionConfig::new().with_information_schema(true);
    let context = SessionContext::new_with_config(config);
    let lines = order_lines();
    let customers = customers();
    let sales = MemoryCatalogProvider::new();
    add(&sales, "orders_v1", "order_lines", in_memory(&lines));
    add(&sales, "customers_v1", "customer", in_memory(&customers));
    context.register_catalog("sales", Arc::new(sales));
    let lake = MemoryCatalogProvider::new();
    let endless = Arc::new(Endless::default());
    let schema = Arc::clone(endless.schema());
    let partitions = vec![endless as Arc<dyn PartitionStream>];
    let table = StreamingTable::try_new(Arc::clone(&schema), partitions).unwrap();
    add(&lake, "test", "endless", Arc::new(table));
    context.register_catalog("lake", Arc::new(lake));

    let info = |catalog: &str, schema: &str, name: &str, arrow_schema: SchemaRef| TableInfo {
        catalog: catalog.to_owned(),
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: TableKind::Table,
        arrow_schema,
        description: Some(format!("All {name}")),
        primary_key: Vec::new(),
        foreign_keys: Vec::new(),
    };
    let tables = vec![
        TableInfo {
            primary_key: vec!["order_id".to_owned(), "line_number".to_owned()],
            foreign_keys: vec![ForeignKey {
                columns: vec!["customer_key".to_owned()],
                to: ["sales", "customers_v1", "customer"].map(str::to_owned),
                to_columns: vec!["customer_key".to_owned()],
            }],
            ..info("sales", "orders_v1", "order_lines", lines.schema())
        },
        TableInfo {
            primary_key: vec!["customer_key".to_owned()],
            ..info("sales", "customers_v1", "customer", customers.schema())
        },
        TableInfo { kind: TableKind::System, ..info("lake", "test", "endless", schema) },
    ];
    Memory { context, tables: tables.into(), plans: Arc::default(), snapshot: AtomicU64::new(7) }
}

fn add(catalog: &MemoryCatalogProvider, schema: &str, name: &str, table: Arc<dyn TableProvider>) {
    let provider = Arc::new(MemorySchemaProvider::new());
    provider.register_table(name.to_owned(), table).unwrap();
    catalog.register_schema(schema, provider).unwrap();
}

fn in_memory(batch: &RecordBatch) -> Arc<dyn TableProvider> {
    Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap())
}

/// Three lines, with every type that the wire changes.
fn order_lines() -> RecordBatch {
    let currency: DictionaryArray<Int32Type> = vec![Some("EUR"), Some("EUR"), None].into_iter().collect();
    let amount = Decimal128Array::from(vec![Some(1050), None, Some(-1)]).with_precision_and_scale(18, 2).unwrap();
    let ordered_at = TimestampMicrosecondArray::from(vec![0, 1_700_000_000_000_000, 1]).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("order_id", Arc::new(StringViewArray::from(vec!["a", "a", "b"])), false),
        ("line_number", Arc::new(Int64Array::from(vec![1, 2, 1])), false),
        ("customer_key", Arc::new(Int64Array::from(vec![i64::MAX, 10, 11])), false),
        ("currency", Arc::new(currency), true),
        ("amount", Arc::new(amount), true),
        ("weight", Arc::new(Float64Array::from(vec![1.5, f64::NAN, 3.0])), true),
        ("ordered_at", Arc::new(ordered_at), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn customers() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("customer_key", Arc::new(Int64Array::from(vec![10, 11])), false),
        ("name", Arc::new(StringViewArray::from(vec!["Ada", "Bob, \"the\" second"])), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// One row, and then nothing for ever.
#[derive(Debug)]
struct Endless(SchemaRef);

impl Default for Endless {
    fn default() -> Self {
        Self(Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])))
    }
}

impl PartitionStream for Endless {
    fn schema(&self) -> &SchemaRef {
        &self.0
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let batch = RecordBatch::try_new(Arc::clone(&self.0), vec![rows]).unwrap();
        let batches = stream::iter([Ok(batch)]).chain(stream::pending());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.0), batches))
    }
}
