//! Reading the warehouse's tables in this process, without the query engine.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::delta::{Table, Warehouse};
use starmere_lake::events::file_schema;
use starmere_lake::landing::{SourcePartition, parts};
use starmere_lake::paths::TablePath;

use super::events::OrderLine;

/// The table of a stream.
pub(crate) fn stream(warehouse: &Warehouse, name: &str) -> Table {
    warehouse.table(TablePath::stream("sales", name))
}

/// The payloads in a stream, in order of text.
pub(crate) async fn landed(warehouse: &Warehouse, name: &str) -> Vec<String> {
    payloads(&stream(warehouse, name)).await
}

/// The payloads in a stream's table, in order of text.
pub(crate) async fn payloads(table: &Table) -> Vec<String> {
    let Some(snapshot) = table.snapshot().await.expect("the table can be read") else { return Vec::new() };
    let mut payloads = Vec::new();
    for add in snapshot.files() {
        let batch = table.read(add, file_schema()).await.expect("a file of the table can be read");
        let column = batch.column_by_name("payload").expect("events have payloads").as_binary::<i32>();
        payloads.extend(column.iter().flatten().map(|payload| String::from_utf8_lossy(payload).into_owned()));
    }
    payloads.sort();
    payloads
}

/// The payloads in a stream's table that were rejected, in order of text.
pub(crate) async fn rejected(table: &Table) -> Vec<String> {
    let Some(snapshot) = table.snapshot().await.expect("the table can be read") else { return Vec::new() };
    let mut rejected = Vec::new();
    for add in snapshot.files() {
        let batch = table.read(add, file_schema()).await.expect("a file of the table can be read");
        let column = |name: &str| batch.column_by_name(name).expect("events have their columns").clone();
        let (payloads, rejections) = (column("payload"), column("rejection"));
        let rows = (0..batch.num_rows()).filter(|&row| rejections.is_valid(row));
        let payload = |row| String::from_utf8_lossy(payloads.as_binary::<i32>().value(row)).into_owned();
        rejected.extend(rows.map(payload));
    }
    rejected.sort();
    rejected
}

/// Where the ranges of a stream's commits do not abut: what came twice, and what is missing.
pub(crate) async fn holes(table: &Table) -> Vec<String> {
    let Some(snapshot) = table.snapshot().await.expect("the table can be read") else { return Vec::new() };
    let mut positions: BTreeMap<SourcePartition, i64> = BTreeMap::new();
    let mut holes = Vec::new();
    for commit in table.commits(0, snapshot.version()).await.expect("the commits can be read") {
        for part in parts(&commit) {
            let before = positions.insert(part.partition.clone(), part.to);
            if before.is_some_and(|before| before != part.from) {
                holes.push(format!("version {}: {:?} goes on from {}", commit.version, part.partition, part.from));
            }
        }
    }
    holes
}

/// The rows of a pinned table, a batch a file.
async fn rows(warehouse: &Warehouse, pin: &Pin) -> Result<Vec<RecordBatch>> {
    let table = warehouse.table(pin.path.clone());
    let snapshot = table.snapshot_at(pin.version).await?;
    let mut batches = Vec::new();
    for add in snapshot.files() {
        batches.push(table.read(add, snapshot.schema()).await?);
    }
    Ok(batches)
}

/// How many rows a pinned table has.
pub(crate) async fn count(warehouse: &Warehouse, pin: &Pin) -> usize {
    let rows = rows(warehouse, pin).await.expect("what is pinned can be read");
    rows.iter().map(RecordBatch::num_rows).sum()
}

/// What is known of a customer from one moment to another.
struct Version {
    city: Option<String>,
    from: i64,
    to: i64,
}

/// The rows of the published fact, in order, with what the published dimension says of them. Whatever does not fit
/// together is a failure.
pub(crate) async fn published(warehouse: &Warehouse, snapshot: &CatalogSnapshot) -> Vec<OrderLine> {
    read(warehouse, snapshot).await.unwrap_or_else(|error| panic!("snapshot {}: {error:#}", snapshot.number))
}

/// The same; what cannot be read or does not fit is an error.
pub(crate) async fn read(warehouse: &Warehouse, snapshot: &CatalogSnapshot) -> Result<Vec<OrderLine>> {
    let (Some(customers), Some(fact)) =
        (snapshot.tables.get("sales.customer"), snapshot.tables.get("sales.order_lines"))
    else {
        return Ok(Vec::new());
    };
    let mut versions: HashMap<i64, Version> = HashMap::new();
    for batch in rows(warehouse, customers).await? {
        let column = |name: &str| Arc::clone(batch.column_by_name(name).expect("the dimension has its columns"));
        let (key, city) = (column("customer_key"), column("city"));
        let (from, to) = (column("valid_from"), column("valid_to"));
        for row in 0..batch.num_rows() {
            let key = key.as_primitive::<Int64Type>().value(row);
            let city = city.as_string::<i32>();
            let time = |column: &Arc<dyn Array>| column.as_primitive::<TimestampMicrosecondType>().value(row);
            let city = city.is_valid(row).then(|| city.value(row).to_owned());
            let version = Version { city, from: time(&from), to: time(&to) };
            ensure!(versions.insert(key, version).is_none(), "two versions have the key {key}");
        }
    }
    let mut lines = Vec::new();
    for batch in rows(warehouse, fact).await? {
        let column = |name: &str| Arc::clone(batch.column_by_name(name).expect("the fact has its columns"));
        let (order, number, quantity) = (column("order_id"), column("line_number"), column("quantity"));
        let (key, at) = (column("customer_key"), column("occurred_at"));
        for row in 0..batch.num_rows() {
            let key = key.as_primitive::<Int64Type>().value(row);
            let at = at.as_primitive::<TimestampMicrosecondType>().value(row);
            let order = order.as_string::<i32>().value(row).to_owned();
            let version = versions.get(&key).with_context(|| format!("{order} points to {key}, which is nobody"))?;
            ensure!(version.from <= at && at < version.to, "{order} points to {key}, which did not hold then");
            lines.push(OrderLine {
                order,
                number: number.as_primitive::<Int32Type>().value(row),
                quantity: quantity.as_primitive::<Int32Type>().value(row),
                city: version.city.clone(),
            });
        }
    }
    lines.sort();
    Ok(lines)
}
