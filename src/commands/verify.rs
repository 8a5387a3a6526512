//! `starmere verify`: proves promises 1 and 2 on the data at hand.
//!
//! Promise 1: for every stream, the ranges in the commits abut per source partition, and the rows in the lake are
//! those that the commits count and digest. Promise 2: every published model equals a rebuild from the same lake,
//! made aside: the same rows, as multisets, keys included.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::delta::Snapshot;
use starmere_lake::landing::{SourcePartition, parts, row_digest};
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_models::build::{Builder, Built, Watch};
use starmere_models::events::read_file;
use starmere_models::resolve::Model;

use crate::command_line::Verify;
use crate::output::{Output, count};
use crate::project::Opened;

struct Quiet;

impl Watch for Quiet {
    fn begun(&self, _: &Model) {}
    fn done(&self, _: &Model, _: &Built) {}
}

pub(super) async fn run(opened: &Opened, arguments: &Verify, output: &Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut damage = 0;
    for parsed in &opened.project.streams {
        let file = &parsed.definition;
        let step = output.step(format!("stream {}", *file.stream));
        let found = stream(opened, &TablePath::stream(&file.domain, &file.stream)).await?;
        step.done(if found.is_empty() {
            "nothing lost, nothing doubled".to_owned()
        } else {
            format!("{} findings", found.len())
        });
        damage += found.len();
        rows.extend(found.into_iter().map(|finding| vec![format!("lake.{}.{}", *file.domain, *file.stream), finding]));
    }
    let newest = opened.catalog.newest().await?;
    if !arguments.lake_only && newest.number > 0 {
        let step = output.step("rebuilding aside");
        let found = rebuild(opened, &newest).await?;
        step.done(if found.is_empty() {
            "published tables equal the rebuild".to_owned()
        } else {
            format!("{} findings", found.len())
        });
        damage += found.len();
        rows.extend(found);
    }
    if damage > 0 {
        output.rows(&["table", "finding"], rows)?;
        anyhow::bail!("{} findings: the data does not keep its promises", count(damage as u64));
    }
    Ok(())
}

/// What is wrong with a stream's table.
async fn stream(opened: &Opened, path: &TablePath) -> anyhow::Result<Vec<String>> {
    let table = opened.warehouse.table(path.clone());
    let Some(snapshot) = table.snapshot().await? else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    // What the commits say: position, rows and digest of each partition.
    let mut said: BTreeMap<(String, String, i32), (u64, u128)> = BTreeMap::new();
    let mut positions: BTreeMap<SourcePartition, i64> = BTreeMap::new();
    for commit in table.commits(0, snapshot.version()).await? {
        for part in parts(&commit) {
            let position = positions.insert(part.partition.clone(), part.to);
            if let Some(position) = position.filter(|&position| position != part.from) {
                let SourcePartition { source, topic, .. } = &part.partition;
                let what = if position < part.from { "a hole" } else { "a double" };
                findings.push(format!(
                    "{what} in {source}/{topic}: version {} goes on from {}, not from {position}",
                    commit.version, part.from
                ));
            }
            let SourcePartition { source, topic, partition, .. } = part.partition;
            let sum = said.entry((source, topic, partition)).or_default();
            *sum = (sum.0 + part.rows, sum.1.wrapping_add(part.digest));
        }
    }
    // What is there.
    let mut there: BTreeMap<(String, String, i32), (u64, u128)> = BTreeMap::new();
    let all = starmere_lake::events::file_schema();
    let fields = ["source", "topic", "partition", "position", "payload"]
        .iter()
        .filter_map(|name| all.field_with_name(name).ok().cloned());
    let columns = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
    for add in snapshot.files() {
        let batch = match read_file(&table, add, &columns).await {
            Ok(batch) => batch,
            Err(error) => {
                findings.push(format!("`{}` cannot be read: {error}", add.path));
                continue;
            }
        };
        let text = |index: usize| batch.column(index).as_string::<i32>();
        let partition = batch.column(2).as_primitive::<Int32Type>();
        let position = batch.column(3).as_primitive::<Int64Type>();
        let payload = batch.column(4).as_binary::<i32>();
        for row in 0..batch.num_rows() {
            let key = (text(0).value(row).to_owned(), text(1).value(row).to_owned(), partition.value(row));
            let sum = there.entry(key).or_default();
            *sum = (sum.0 + 1, sum.1.wrapping_add(row_digest(position.value(row), payload.value(row))));
        }
    }
    for (key, (rows, digest)) in &said {
        let (found, found_digest) = there.remove(key).unwrap_or_default();
        let (source, topic, _) = key;
        if found != *rows {
            findings.push(format!("{source}/{topic}: {} rows were landed, {} are there", count(*rows), count(found)));
        } else if found_digest != *digest {
            findings.push(format!("{source}/{topic}: the rows are not those that were landed"));
        }
    }
    for ((source, topic, _), (rows, _)) in there {
        findings.push(format!("{source}/{topic}: {} rows are there that no commit speaks of", count(rows)));
    }
    Ok(findings)
}

/// Compares every published model with a rebuild at the same versions of the streams.
async fn rebuild(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<Vec<Vec<String>>> {
    let models = &opened.project.models;
    let versions: BTreeMap<String, u64> = newest.tables.iter().map(|(name, pin)| (name.clone(), pin.version)).collect();
    let builder = Builder::new(&opened.warehouse, models, true).await?.at(&versions);
    let rebuilt = builder.build(models, &Quiet).await?;
    let mut findings = Vec::new();
    for model in &models.models {
        let name = model.name().to_string();
        let (Some(published), Some(again)) = (newest.tables.get(&name), rebuilt.get(&name)) else { continue };
        if !published.path.fingerprint().is_some_and(|print| print.starts_with(model.fingerprint())) {
            findings.push(vec![name, "its definition has changed since it was published; build it first".into()]);
            continue;
        }
        for (missing, what) in [
            (differ(opened, published, again).await?, "is published, not in the rebuild"),
            (differ(opened, again, published).await?, "is in the rebuild, not published"),
        ] {
            if let Some(row) = missing {
                findings.push(vec![name.clone(), format!("{row} {what}")]);
            }
        }
    }
    Ok(findings)
}

/// A row that `left` has more often than `right`.
async fn differ(opened: &Opened, left: &Pin, right: &Pin) -> anyhow::Result<Option<String>> {
    let session = opened.engine.session();
    for (name, pin) in [("l", left), ("r", right)] {
        let snapshot: Arc<Snapshot> = opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?;
        let table = PinnedTable::new(opened.warehouse.store(), snapshot);
        session.register_table(datafusion::common::TableReference::bare(name), Arc::new(table))?;
    }
    let difference = session.sql("SELECT * FROM l EXCEPT ALL SELECT * FROM r LIMIT 1").await?.collect().await?;
    let Some(batch) = difference.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
    let schema = batch.schema();
    let cells = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let value = arrow::util::display::array_value_to_string(column, 0)?;
        Ok(format!("{}={value}", field.name()))
    });
    let cells: Result<Vec<String>, arrow::error::ArrowError> = cells.collect();
    Ok(Some(format!("({})", cells?.join(", "))))
}
