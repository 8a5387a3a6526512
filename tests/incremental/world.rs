//! A warehouse in memory: events land, models are built, processes die, and tables are read as comparable rows.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use starmere_ingest::envelope::{Mapping, Reader};
use starmere_ingest::rows::Batch;
use starmere_lake::Kind;
use starmere_lake::catalog::Pin;
use starmere_lake::delta::Warehouse;
use starmere_lake::formats::Incoming;
use starmere_lake::landing::{Outcome, SourcePartition, Stream};
use starmere_lake::paths::TablePath;
use starmere_lake::store::Store;
use starmere_models::build::Builder;
use starmere_models::resolve::{Model, Models};

use super::definitions::{DIMENSIONS, DOMAIN, KEYS};
use super::history::{History, Landed};
use super::{derived, naive};
pub(crate) use crate::support::models::Quiet;
use crate::support::models::mapping;

/// A row: column and text. Two rows are equal where all values are.
pub(crate) type Row = BTreeMap<String, String>;
/// Tables by name, their rows in order.
pub(crate) type Tables = BTreeMap<String, Vec<Row>>;

/// How a missing value is shown.
pub(crate) const NULL: &str = "null";
/// What surrogate key 0 points to.
pub(crate) const UNKNOWN: &str = "unknown";
/// What the other keys point to that stand for no member.
pub(crate) const NOT_APPLICABLE: &str = "not applicable";
pub(crate) const ERROR: &str = "error";
/// A durable key whose member is not in the dimension.
pub(crate) const NOBODY: &str = "nobody";

/// Microseconds since 1970, for people.
pub(crate) fn moment(micros: i64) -> String {
    match chrono::DateTime::from_timestamp_micros(micros) {
        Some(at) => at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
        None => micros.to_string(),
    }
}

/// Runs `work` until its `pauses`-th pause; `None` where it had not ended by then. Who drops it then does to it
/// what a process does that dies.
pub(crate) async fn paused<F: Future>(work: F, mut pauses: u32) -> Option<F::Output> {
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if pauses == 0 => Poll::Ready(None),
        Poll::Pending => {
            pauses -= 1;
            Poll::Pending
        }
    })
    .await
}

/// The pins of a build, or none where another build was first.
pub(crate) fn unless_conflict(
    built: Result<BTreeMap<String, Pin>, starmere_models::Error>,
) -> Result<Option<BTreeMap<String, Pin>>> {
    match built {
        Ok(pins) => Ok(Some(pins)),
        Err(error) if error.kind() == Kind::Conflict => Ok(None),
        Err(error) => Err(error).context("a build failed"),
    }
}

/// A store, and one process that works on it.
pub(crate) struct World {
    models: &'static Models,
    store: Store,
    warehouse: Warehouse,
    batches: i64,
}

impl World {
    /// An empty warehouse for models, with as many buckets and as small files as the history says.
    pub(crate) async fn new(models: &'static Models, history: &History) -> Result<Self> {
        let store = Store::memory();
        let warehouse = Warehouse::new(store.clone());
        // A table takes its number of buckets from the rows of the first build, which are few here.
        let buckets = ("starmere.buckets", history.bucket_bits.to_string());
        let settings = [buckets, ("starmere.small_file", history.small_file.to_string())];
        for model in &models.models {
            if let Model::Dimension(dimension) = model {
                let name = &dimension.name;
                let path = TablePath::model(&name.domain, &name.name, &dimension.fingerprint, "changes");
                warehouse.table(path).open_or_create_with(&dimension.changes_schema(), &[], &settings).await?;
            }
            let schema = match model {
                Model::Dimension(dimension) => dimension.schema(),
                Model::Sql(model) => model.schema(),
                Model::Fact(_) | Model::Generated(_) => continue,
            };
            let path = TablePath::model(&model.name().domain, &model.name().name, model.fingerprint(), "rows");
            warehouse.table(path).open_or_create_with(&schema, &[], &settings).await?;
        }
        Ok(Self { models, store, warehouse, batches: 0 })
    }

    /// Another process over the same store.
    pub(crate) fn other(&self) -> Warehouse {
        Warehouse::new(self.store.clone())
    }

    /// The process ends and another one begins: nothing but the store is left.
    pub(crate) fn restart(&mut self) {
        self.warehouse = self.other();
    }

    /// Lands `rows`, one commit a stream.
    pub(crate) async fn land(&mut self, rows: &[Landed]) -> Result<()> {
        let mut streams: BTreeMap<&str, BTreeMap<SourcePartition, Vec<&Landed>>> = BTreeMap::new();
        for row in rows {
            let partition = SourcePartition {
                source: row.source.to_owned(),
                topic: row.topic.to_owned(),
                incarnation: 0,
                partition: row.partition,
            };
            streams.entry(row.stream).or_default().entry(partition).or_default().push(row);
        }
        // Half a day from batch to batch, so that the lake has several partitions.
        self.batches += 1;
        let landed_at = 1_704_067_200_000_000 + self.batches * 43_200_000_000;
        for (name, parts) in streams {
            let stream = Stream::new(name, self.warehouse.table(TablePath::stream(DOMAIN, name)));
            let snapshot = stream.open().await?;
            let mapping = Mapping { version: Some("v".into()), max_event_bytes: 1 << 20, ..mapping() };
            let mut reader = Reader::new(mapping, &Arc::default());
            let mut batch = Batch::landed_at(landed_at);
            for (partition, rows) in parts {
                let from = stream.position(&snapshot, &partition).unwrap_or_default();
                batch.begin(partition, from);
                for row in rows {
                    batch.push(&mut reader, &Incoming::of(&row.payload), row.position, row.position + 1, None)?;
                }
            }
            match batch.finish()?.land(&stream).await? {
                Outcome::Landed(_) => {}
                Outcome::Behind(_) => bail!("a batch of `{name}` does not begin where the one before ended"),
            }
        }
        Ok(())
    }

    /// What the tables of its models should hold.
    pub(crate) fn answer(&self, landed: &[Landed]) -> Tables {
        let mut answer = naive::tables(landed);
        let names: BTreeSet<String> = self.models.models.iter().map(|model| model.name().to_string()).collect();
        answer.retain(|name, _| names.contains(name.trim_end_matches("/rejects")));
        answer
    }

    /// Brings everything up to date, or builds it aside; returns what would be published.
    pub(crate) async fn build(&self, full: bool) -> Result<Tables> {
        let builder = Builder::new(&self.warehouse, self.models, full).await?;
        let pins = builder.build(self.models, &Quiet).await?;
        self.read(&pins).await
    }

    /// The same with so many bytes of memory.
    pub(crate) async fn build_within(&self, memory: u64, full: bool) -> Result<Tables> {
        let builder = Builder::new(&self.warehouse, self.models, full).await?.within(memory);
        let pins = builder.build(self.models, &Quiet).await?;
        self.read(&pins).await
    }

    /// A build that dies at its `pauses`-th pause, if it takes as many.
    pub(crate) async fn build_and_die(&self, pauses: u32) -> Result<()> {
        let builder = Builder::new(&self.warehouse, self.models, false).await?;
        if let Some(built) = paused(builder.build(self.models, &Quiet), pauses).await {
            built.context("a build that was to die failed before")?;
        }
        Ok(())
    }

    /// The tables that readers would see: all but streams and change logs.
    pub(crate) async fn read(&self, pins: &BTreeMap<String, Pin>) -> Result<Tables> {
        let mut tables = Tables::new();
        for (name, pin) in pins {
            if name.starts_with("lake.") || name.ends_with("/changes") {
                continue;
            }
            let table = self.warehouse.table(pin.path.clone());
            let snapshot = table.snapshot_at(pin.version).await?;
            let mut rows = Vec::new();
            for add in snapshot.files() {
                let batch = table.read(add, snapshot.schema()).await?;
                rows.extend(rows_of(&batch).with_context(|| format!("rows of `{name}`"))?);
            }
            rows.sort();
            tables.insert(name.clone(), rows);
        }
        Ok(tables)
    }
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<Row>> {
    let mut rows = vec![Row::new(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        for (row, text) in rows.iter_mut().zip(texts(column)?) {
            row.insert(field.name().clone(), text);
        }
    }
    Ok(rows)
}

fn texts(column: &ArrayRef) -> Result<Vec<String>> {
    if let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() {
        return Ok(times.iter().map(|at| at.map_or_else(|| NULL.to_owned(), moment)).collect());
    }
    let options = FormatOptions::default().with_null(NULL);
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    Ok((0..column.len()).map(|row| formatter.value(row).to_string()).collect())
}

/// The tables with surrogate keys replaced by what they stand for, `member@beginning of the version`, so that they
/// can be compared with an answer that knows nothing of how keys are made; of rejects, which events they are.
///
/// # Errors
///
/// If a key stands for two versions.
pub(crate) fn labelled(mut tables: Tables) -> Result<Tables> {
    tables.remove("sales.date");
    let mut labels: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for (dimension, key, natural) in DIMENSIONS {
        let Some(rows) = tables.get(dimension) else { continue };
        let of_dimension = labels.entry(dimension).or_default();
        for row in rows {
            let name: Vec<&str> = natural.split('+').map(|part| row[part].as_str()).collect();
            let name = name.join("/");
            let from = row.get("valid_from").filter(|_| dimension != "sales.flags");
            let label = match (row[key].as_str(), from) {
                ("0", _) => UNKNOWN.to_owned(),
                ("-1", _) => NOT_APPLICABLE.to_owned(),
                ("-2", _) => ERROR.to_owned(),
                (_, Some(from)) => format!("{name}@{from}"),
                (_, None) => name,
            };
            let other = of_dimension.insert(row[key].clone(), label);
            ensure!(other.is_none(), "two rows of `{dimension}` have the key {}: {other:?} and {row:?}", row[key]);
        }
    }
    for (table, column, dimension) in KEYS {
        for row in tables.get_mut(table).into_iter().flatten() {
            let key = row.get_mut(column).with_context(|| format!("`{table}` has no column `{column}`"))?;
            let label = labels[dimension].get(key.as_str()).map_or(NOBODY, String::as_str);
            *key = label.to_owned();
        }
    }
    for (_, rows) in tables.iter_mut().filter(|(name, _)| name.ends_with("/rejects")) {
        let mut events: BTreeSet<Row> = BTreeSet::new();
        for row in rows.iter() {
            let coordinates = ["stream", "source", "topic", "partition", "position"];
            events.insert(coordinates.map(|column| (column.to_owned(), row[column].clone())).into());
        }
        *rows = events.into_iter().collect();
    }
    derived::rounded(&mut tables);
    // Keys of who has which combination are only for mending.
    for (table, column) in [
        ("sales.storms", "weather_durable_key"),
        ("sales.zone_weather", "zone_weather_durable_key"),
        ("sales.zone", "zone_key"),
        ("sales.zone", "zone_durable_key"),
        ("sales.above", "ancestor_durable_key"),
        ("sales.above", "descendant_durable_key"),
    ] {
        tables.get_mut(table).into_iter().flatten().for_each(|row| _ = row.remove(column));
    }
    for table in ["sales.hour", "sales.size"] {
        tables.remove(table);
    }
    // When a batch lands is no part of a history.
    for table in ["sales.movements", "sales.movement_ledger"] {
        tables.get_mut(table).into_iter().flatten().for_each(|row| _ = row.remove("audit_ingested_at"));
    }
    tables.values_mut().for_each(|rows| rows.sort());
    Ok(tables)
}

/// Fails with the first table that differs, and with rows that only one side has.
pub(crate) fn same(left: &str, of_left: &Tables, right: &str, of_right: &Tables) -> Result<()> {
    let names: BTreeSet<&String> = of_left.keys().chain(of_right.keys()).collect();
    for name in names {
        let (Some(a), Some(b)) = (of_left.get(name), of_right.get(name)) else {
            bail!("`{name}` is only in one of {left} and {right}");
        };
        if a == b {
            continue;
        }
        let (only_left, only_right) = (without(a, b), without(b, a));
        let list =
            |rows: &[&Row]| -> String { rows.iter().take(4).map(|row| format!("\n    {}", shown(row))).collect() };
        bail!(
            "`{name}` differs: {left} has {} rows, {right} {}\n  only in {left} ({}):{}\n  only in {right} ({}):{}",
            a.len(),
            b.len(),
            only_left.len(),
            list(&only_left),
            only_right.len(),
            list(&only_right),
        );
    }
    Ok(())
}

/// The rows of `these` that `others` do not have, as often as they do not; both are in order.
fn without<'a>(these: &'a [Row], others: &[Row]) -> Vec<&'a Row> {
    let mut others = others.iter().peekable();
    let mut left = Vec::new();
    for row in these {
        while others.next_if(|other| *other < row).is_some() {}
        if others.next_if(|other| *other == row).is_none() {
            left.push(row);
        }
    }
    left
}

fn shown(row: &Row) -> String {
    row.iter().map(|(column, value)| format!("{column}={value}")).collect::<Vec<_>>().join(" ")
}
