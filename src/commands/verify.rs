//! `starmere verify`: proves promises 1 and 2 on the data at hand.
//!
//! Promise 1: for every stream, the ranges in the commits abut per source partition, and the rows in the lake are
//! those that the commits count and digest. Promise 2: every published model equals a rebuild from the same lake,
//! made aside: the same rows, as multisets, keys included.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef};
use arrow::row::{Row, RowConverter, SortField};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::delta::{Add, Snapshot, Table};
use starmere_lake::landing::{Facts, Oversized, SourcePartition, Tallies, Tally, lost, row_digest};
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_lake::session::Engine;
use starmere_models::build::{Builder, Built, Progress, Watch};
use starmere_models::resolve::Model;

use crate::command_line::{Format, Verify};
use crate::failure::Mendable;
use crate::output::{Output, counted};
use crate::project::Opened;

/// Rows of a file that are unpacked at once: an event may be large.
const ROWS_AT_ONCE: usize = 1 << 10;

struct Quiet;

impl Watch for Quiet {
    fn begun(&self, _: &Model, _: &Arc<Progress>) {}
    fn done(&self, _: &Model, _: &Built) {}
}

pub(super) async fn run(opened: &Opened, arguments: &Verify, output: &Output) -> anyhow::Result<()> {
    let (mut rows, mut failed) = (Vec::new(), None);
    // Before the streams, which may only be ahead of it.
    let newest = match opened.catalog.newest().await {
        Ok(newest) => newest,
        Err(error) if error.is_of_the_store() => return Err(not_verified(error.into())),
        Err(error) => {
            rows.push(vec!["catalog".to_owned(), told(error)]);
            CatalogSnapshot::default()
        }
    };
    for parsed in &opened.project.streams {
        let file = &parsed.definition;
        let step = output.step(format!("stream {}", *file.stream));
        let name = format!("lake.{}.{}", *file.domain, *file.stream);
        let published = newest.tables.get(&name).map(|pin| pin.version);
        let found = stream(opened, &TablePath::stream(&file.domain, &file.stream), published).await;
        let found = match found {
            Ok(found) => found,
            Err(error) if proves_nothing(&error) => {
                step.done("not verified");
                failed = Some(error);
                continue;
            }
            Err(error) => vec![told(error)],
        };
        step.done(in_words(found.len(), "nothing lost, nothing doubled"));
        rows.extend(found.into_iter().map(|finding| vec![name.clone(), finding]));
    }
    let mut not_built = Vec::new();
    if !arguments.lake_only && newest.number == 0 {
        output.say("nothing is published here yet, so no tables are compared");
    }
    if !arguments.lake_only && newest.number > 0 {
        let step = output.step("rebuilding aside");
        let found = rebuild(opened, &newest).await;
        let none = match found.not_verified.is_empty() && found.failed.is_none() {
            true => "published tables equal the rebuild",
            false => "not rebuilt",
        };
        step.done(in_words(found.broken.len(), none));
        rows.extend(found.broken);
        for finding in found.not_verified {
            output.say(finding.join(": "));
        }
        (not_built, failed) = (found.not_built, failed.or(found.failed));
    }
    let (broken, waiting) = (rows.len() as u64, not_built.len() as u64);
    rows.extend(not_built);
    let is_right = rows.is_empty();
    // A program gets an empty list.
    if !is_right || output.format() != Format::Table {
        output.rows(&["table", "finding"], rows)?;
    }
    if broken > 0 {
        anyhow::bail!("{}: the data does not keep its promises", counted(broken, "finding", "findings"));
    }
    match failed {
        Some(error) if proves_nothing(&error) => return Err(not_verified(error)),
        Some(error) => return Err(error.context("published tables could not be verified")),
        None => {}
    }
    if is_right {
        return Ok(());
    }
    let message = format!("{} not built yet, and could not be verified", counted(waiting, "model is", "models are"));
    Err(Mendable::error(message, "run `starmere build`"))
}

fn in_words(findings: usize, none: &str) -> String {
    if findings == 0 { none.to_owned() } else { counted(findings as u64, "finding", "findings") }
}

/// Whether an error says nothing of the data: the store, its disk or its rights failed.
fn proves_nothing(error: &anyhow::Error) -> bool {
    /// A file that may not be larger, no space, a read-only file system, a quota, as Linux numbers them. What passes
    /// through the query engine is text.
    const OF_THE_DISK: [&str; 4] = ["(os error 27)", "(os error 28)", "(os error 30)", "(os error 122)"];
    let of_the_store = |cause: &(dyn std::error::Error + 'static)| {
        let of_models = match cause.downcast_ref::<starmere_models::Error>() {
            Some(starmere_models::Error::Lake(error)) => Some(error),
            _ => None,
        };
        let error = of_models.or(cause.downcast_ref::<starmere_lake::Error>());
        error.is_some_and(starmere_lake::Error::is_of_the_store)
    };
    let words = format!("{error:#}");
    error.chain().any(of_the_store) || OF_THE_DISK.iter().any(|number| words.contains(number))
}

/// An error that says nothing of the data, for the user.
fn not_verified(error: anyhow::Error) -> anyhow::Error {
    let message = format!("the data could not be verified: {}", told(error));
    let hint = "nothing is known to be wrong with the data; tables are rebuilt aside, in the warehouse, so its store \
                has to answer and to have room: free space, then run `starmere verify` again";
    Mendable::error(message, hint)
}

/// An error with its causes, as a finding.
fn told(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// Why rows could not be read.
enum Unread {
    /// What is wrong with a file.
    Damaged(String),
    /// The store failed, which says nothing of the file.
    Failed(anyhow::Error),
}

impl Unread {
    fn of(error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        if proves_nothing(&error) { Self::Failed(error) } else { Self::Damaged(told(error)) }
    }
}

/// What is wrong with a stream's table.
async fn stream(opened: &Opened, path: &TablePath, published: Option<u64>) -> anyhow::Result<Vec<String>> {
    let table = opened.warehouse.table(path.clone());
    let snapshot = table.snapshot().await?;
    let lost = lost(snapshot.as_ref().map(|snapshot| snapshot.version()), published);
    let mut findings: Vec<String> = lost.map(|lost| format!("`{}`: {lost}", path.log())).into_iter().collect();
    let Some(snapshot) = snapshot else { return Ok(findings) };
    // What the commits say: position, rows and digest of each partition.
    let mut said = Tallies::default();
    let mut positions: BTreeMap<SourcePartition, i64> = BTreeMap::new();
    let mut history = std::pin::pin!(table.history(0, snapshot.version()));
    while let Some(commit) = history.try_next().await? {
        let Facts { landed, forgotten, repaired } = Facts::of(&commit);
        for part in landed {
            let position = positions.insert(part.partition.clone(), part.to);
            if let Some(position) = position.filter(|&position| position != part.from) {
                let SourcePartition { source, topic, .. } = &part.partition;
                let what = if position < part.from { "a hole" } else { "a double" };
                findings.push(format!(
                    "{what} in {source}/{topic}: version {} goes on from {}, not from {position}",
                    commit.version, part.from
                ));
            }
            said.add_part(&part);
        }
        forgotten.iter().for_each(|tally| said.take_away(tally));
        repaired.iter().for_each(|tally| said.add_all(tally));
    }
    // What is there.
    let mut there = Tallies::default();
    let all = starmere_lake::events::file_schema();
    let fields = ["source", "topic", "partition", "position", "payload", "rejection", "key"]
        .iter()
        .filter_map(|name| all.field_with_name(name).ok().cloned());
    let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    for add in snapshot.files() {
        match rows_there(&table, add, &columns, &mut findings).await {
            Ok(rows) => rows.into_vec().iter().for_each(|tally| there.add_all(tally)),
            Err(Unread::Damaged(finding)) => findings.push(format!("{finding}; restore it from a copy")),
            // What was found already is told.
            Err(Unread::Failed(error)) if findings.is_empty() => return Err(error),
            Err(Unread::Failed(_)) => return Ok(findings),
        }
    }
    let mut there: BTreeMap<(String, String, i32), Tally> =
        there.into_vec().into_iter().map(|tally| (place(&tally), tally)).collect();
    for tally in said.into_vec() {
        let found = there.remove(&place(&tally));
        let (rows, digest) = found.map_or((0, 0), |found| (found.rows, found.digest));
        let Tally { source, topic, .. } = &tally;
        if rows != tally.rows {
            let landed = counted(tally.rows, "row was", "rows were");
            findings.push(format!("{source}/{topic}: {landed} landed, and {} there", counted(rows, "is", "are")));
        } else if digest != tally.digest {
            findings.push(format!("{source}/{topic}: the rows are not those that were landed"));
        }
    }
    for Tally { source, topic, rows, .. } in there.values() {
        let rows = counted(*rows, "row is", "rows are");
        findings.push(format!("{source}/{topic}: {rows} there that no commit speaks of"));
    }
    Ok(findings)
}

fn place(tally: &Tally) -> (String, String, i32) {
    (tally.source.clone(), tally.topic.clone(), tally.partition)
}

/// The rows that a file of a stream has, or what is wrong with it. What is wrong with single events comes to `findings`.
async fn rows_there(
    table: &Table,
    add: &Add,
    columns: &SchemaRef,
    findings: &mut Vec<String>,
) -> Result<Tallies, Unread> {
    let mut there = Tallies::default();
    let mut batches = read(table, add, columns).await?;
    while let Some(batch) = batches.try_next().await.map_err(Unread::of)? {
        let text = |index: usize| batch.column(index).as_string::<i32>();
        let partition = batch.column(2).as_primitive::<Int32Type>();
        let position = batch.column(3).as_primitive::<Int64Type>();
        let payload = batch.column(4).as_binary::<i32>();
        let rejection = batch.column(5).as_string::<i32>();
        let keys = batch.column(6).as_binary::<i32>();
        for row in 0..batch.num_rows() {
            let key = keys.is_valid(row).then(|| keys.value(row));
            let digest = row_digest(position.value(row), payload.value(row), key);
            there.add(text(0).value(row), text(1).value(row), partition.value(row), 1, digest);
            if rejection.is_valid(row)
                && let Some(kept) = Oversized::of(payload.value(row), rejection.value(row))
            {
                match kept.damage(table.store()).await.map_err(Unread::of) {
                    Ok(damage) => findings.extend(damage),
                    Err(Unread::Damaged(damage)) => findings.push(damage),
                    Err(failed) => return Err(failed),
                }
            }
        }
    }
    Ok(there)
}

/// The rows of a file whose bytes are those that were written, a few at a time; or what is wrong with it.
async fn read(
    table: &Table,
    add: &Add,
    columns: &SchemaRef,
) -> Result<BoxStream<'static, starmere_lake::Result<RecordBatch>>, Unread> {
    match table.damage(add).await {
        Ok(None) => table.read_by(add, columns, ROWS_AT_ONCE).await.map_err(Unread::of),
        Ok(Some(damage)) => Err(Unread::Damaged(damage)),
        Err(error) => Err(Unread::of(error)),
    }
}

/// Reads all rows of a file, and tells what is wrong with it.
async fn read_through(table: &Table, add: &Add, columns: &SchemaRef) -> Result<(), Unread> {
    let mut batches = read(table, add, columns).await?;
    while batches.try_next().await.map_err(Unread::of)?.is_some() {}
    Ok(())
}

/// What is wrong with published tables.
#[derive(Default)]
struct Found {
    broken: Vec<Vec<String>>,
    /// Streams have forgotten what they were made of.
    not_verified: Vec<Vec<String>>,
    /// Their definitions have changed since.
    not_built: Vec<Vec<String>>,
    /// They could not be rebuilt, for want of memory or of a store: nothing of them is known to be wrong.
    failed: Option<anyhow::Error>,
}

/// Compares every published model with a rebuild at the same versions of the streams.
async fn rebuild(opened: &Opened, newest: &CatalogSnapshot) -> Found {
    let models = &opened.project.models;
    let mut found = Found::default();
    let mut damaged = BTreeSet::new();
    for (name, pin) in newest.tables.iter().filter(|(name, _)| !name.starts_with("lake.")) {
        let findings = match damage(opened, pin).await {
            Ok(findings) => findings,
            Err(error) if proves_nothing(&error) => {
                found.failed = Some(error);
                return found;
            }
            Err(error) => vec![told(error)],
        };
        for finding in findings {
            damaged.insert(name.clone());
            found.broken.push(vec![name.clone(), format!("{finding}; `starmere build --full` makes it anew")]);
        }
    }
    let mut sound = Vec::new();
    for model in &models.models {
        let name = model.name().to_string();
        let Some(published) = newest.tables.get(&name) else { continue };
        if !published.path.fingerprint().is_some_and(|print| print.starts_with(model.fingerprint())) {
            let finding = "its definition has changed and is not built yet; run `starmere build`";
            found.not_built.push(vec![name, finding.into()]);
        } else if !damaged.contains(&name) {
            sound.push((model, published));
        }
    }
    if sound.is_empty() {
        return found;
    }
    let rebuilt = match aside(opened, newest).await {
        Ok(rebuilt) => rebuilt,
        Err(error) if error.downcast_ref::<starmere_models::Error>().is_some_and(is_cut_off) => {
            found.not_verified.push(vec!["models".into(), told(error)]);
            return found;
        }
        // Nothing of it is known to be wrong.
        Err(error)
            if error.downcast_ref::<starmere_models::Error>().is_some_and(lacks_memory) || proves_nothing(&error) =>
        {
            found.failed = Some(error);
            return found;
        }
        Err(error) => {
            found.broken.push(vec!["models".into(), format!("could not be rebuilt: {}", told(error))]);
            return found;
        }
    };
    let engine = match opened.build_engine() {
        Ok(engine) => engine,
        Err(error) => {
            found.broken.push(vec!["models".into(), format!("could not be compared: {}", told(error))]);
            return found;
        }
    };
    for (model, published) in sound {
        let name = model.name().to_string();
        let Some(again) = rebuilt.get(&name) else { continue };
        let findings = match compare(opened, &engine, model, published, again).await {
            Ok(findings) => findings,
            Err(error) if proves_nothing(&error) => {
                found.failed = Some(error);
                return found;
            }
            Err(error) => unreadable(opened, published).await.unwrap_or_else(|| vec![told(error)]),
        };
        found.broken.extend(findings.into_iter().map(|finding| vec![name.clone(), finding]));
    }
    found
}

/// What is published was made of events that are forgotten; nobody can make it again.
fn is_cut_off(error: &starmere_models::Error) -> bool {
    matches!(error, starmere_models::Error::CutOff { .. })
}

fn lacks_memory(error: &starmere_models::Error) -> bool {
    matches!(error, starmere_models::Error::Memory { .. })
}

/// The models' tables, filled from the lake.
async fn aside(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<BTreeMap<String, Pin>> {
    // Whatever is made of a stream that has lost versions is in the way of restoring it.
    for (name, pin) in newest.tables.iter().filter(|(name, _)| name.starts_with("lake.")) {
        let snapshot = opened.warehouse.table(pin.path.clone()).snapshot().await?;
        if let Some(lost) = lost(snapshot.map(|snapshot| snapshot.version()), Some(pin.version)) {
            anyhow::bail!("`{name}`: {lost}");
        }
    }
    let models = &opened.project.models;
    let versions: BTreeMap<String, u64> = newest.tables.iter().map(|(name, pin)| (name.clone(), pin.version)).collect();
    let memory = opened.project.file.build_memory();
    let builder = Builder::new(&opened.warehouse, models, true).await?.within(memory).at(&versions);
    Ok(builder.build(models, &Quiet).await?)
}

/// How a published table of a model differs from the same, made again.
async fn compare(
    opened: &Opened,
    engine: &Engine,
    model: &Model,
    published: &Pin,
    again: &Pin,
) -> anyhow::Result<Vec<String>> {
    if digest(opened, engine, published).await? == digest(opened, engine, again).await? {
        return Ok(Vec::new());
    }
    let mut findings = Vec::new();
    for (missing, what) in [
        (differ(opened, engine, model, published, again).await?, "is published more often than in the rebuild"),
        (differ(opened, engine, model, again, published).await?, "is in the rebuild more often than published"),
    ] {
        findings.extend(missing.map(|row| format!("{row} {what}")));
    }
    if findings.is_empty() {
        findings.push("its rows are not those of the rebuild".to_owned());
    }
    Ok(findings)
}

/// How many rows a table has, and the sum of their digests, which does not depend on their order.
async fn digest(opened: &Opened, engine: &Engine, pin: &Pin) -> anyhow::Result<(u64, u128)> {
    let snapshot = opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?;
    let fields = snapshot.schema().fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let (converter, schema) = (RowConverter::new(fields.collect())?, snapshot.schema().clone());
    let session = engine.session();
    let table = Arc::new(PinnedTable::new(opened.warehouse.store(), snapshot));
    let mut batches = session.read_table(table)?.execute_stream().await?;
    let (mut count, mut sum) = (0, 0_u128);
    while let Some(batch) = batches.try_next().await? {
        let columns = batch.columns().iter().zip(schema.fields()).map(|(of, field)| cast(of, field.data_type()));
        let rows = converter.convert_columns(&columns.collect::<Result<Vec<_>, _>>()?)?;
        count += rows.num_rows() as u64;
        let of_row =
            |row: Row<'_>| Sha256::digest(row.as_ref()).iter().take(16).fold(0, |of, &byte| of << 8 | u128::from(byte));
        sum = rows.iter().map(of_row).fold(sum, u128::wrapping_add);
    }
    Ok((count, sum))
}

/// Files of a published table that are gone or cut.
async fn damage(opened: &Opened, pin: &Pin) -> anyhow::Result<Vec<String>> {
    let table = opened.warehouse.table(pin.path.clone());
    let mut findings = Vec::new();
    for add in table.snapshot_at(pin.version).await?.files() {
        findings.extend(table.damage(add).await?);
    }
    Ok(findings)
}

/// Files of a published table that nobody can read, if there are some.
async fn unreadable(opened: &Opened, pin: &Pin) -> Option<Vec<String>> {
    let table = opened.warehouse.table(pin.path.clone());
    let snapshot = table.snapshot_at(pin.version).await.ok()?;
    let partitions = snapshot.partition_columns();
    let fields = snapshot.schema().fields().iter().filter(|field| !partitions.contains(field.name())).cloned();
    let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut findings = Vec::new();
    for add in snapshot.files() {
        if let Err(Unread::Damaged(finding)) = read_through(&table, add, &columns).await {
            findings.push(format!("{finding}; `starmere build --full` makes it anew"));
        }
    }
    (!findings.is_empty()).then_some(findings)
}

/// The first row that `left` has more often than `right`, in the order of what tells rows apart.
async fn differ(
    opened: &Opened,
    engine: &Engine,
    model: &Model,
    left: &Pin,
    right: &Pin,
) -> anyhow::Result<Option<String>> {
    let session = engine.session();
    for (name, pin) in [("l", left), ("r", right)] {
        let snapshot: Arc<Snapshot> = opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?;
        let table = PinnedTable::new(opened.warehouse.store(), snapshot);
        session.register_table(datafusion::common::TableReference::bare(name), Arc::new(table))?;
    }
    let versions = matches!(model, Model::Dimension(_)).then(|| "valid_from".to_owned());
    let order = model.told_apart_by().into_iter().chain(versions).map(|name| format!("\"{name}\""));
    let order: Vec<String> = order.collect();
    let order = if order.is_empty() { String::new() } else { format!("ORDER BY {}", order.join(", ")) };
    let names: Vec<String> = model.schema().fields().iter().map(|field| format!("\"{}\"", field.name())).collect();
    let names = names.join(", ");
    let difference = format!(
        "SELECT {names} FROM (SELECT {names}, 1 AS \"$n\" FROM l UNION ALL SELECT {names}, -1 FROM r) \
         GROUP BY {names} HAVING sum(\"$n\") > 0 {order} LIMIT 1"
    );
    let difference = session.sql(&difference).await?.collect().await?;
    let Some(batch) = difference.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
    let schema = batch.schema();
    let cells = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let value = arrow::util::display::array_value_to_string(column, 0)?;
        Ok(format!("{}={value}", field.name()))
    });
    let cells: Result<Vec<String>, arrow::error::ArrowError> = cells.collect();
    Ok(Some(format!("({})", cells?.join(", "))))
}
