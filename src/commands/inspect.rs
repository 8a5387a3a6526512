//! `starmere streams`, `status`, `rejects`: what there is.

use starmere_lake::events;
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_sql::wire;
use std::sync::Arc;

use crate::command_line::Rejects;
use crate::failure::Mendable;
use crate::output::{Output, bytes, count};
use crate::project::Opened;

pub(super) async fn streams(opened: &Opened, output: &Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for parsed in &opened.project.streams {
        let file = &parsed.definition;
        let table = opened.warehouse.table(TablePath::stream(&file.domain, &file.stream));
        let snapshot = table.snapshot().await?;
        let fed_by = opened.project.file.sources.iter().filter(|(_, source)| source.stream == *file.stream);
        let fed_by = fed_by.map(|(name, _)| name.as_str()).chain(["http"]).collect::<Vec<_>>().join(", ");
        let landed = snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
        rows.push(vec![
            file.stream.to_string(),
            file.domain.to_string(),
            file.events.len().to_string(),
            fed_by,
            count(landed),
            snapshot.map_or_else(|| "-".to_owned(), |snapshot| snapshot.version().to_string()),
            file.description.clone().unwrap_or_default(),
        ]);
    }
    output.rows(&["stream", "domain", "event types", "sources", "landed", "version", "description"], rows)
}

pub(super) async fn status(opened: &Opened, output: &Output) -> anyhow::Result<()> {
    let newest = opened.catalog.newest().await?;
    let mut rows = Vec::new();
    let mut names: Vec<(String, TablePath, Option<u64>)> = Vec::new();
    for parsed in &opened.project.streams {
        let file = &parsed.definition;
        let name = format!("lake.{}.{}", *file.domain, *file.stream);
        let published = newest.tables.get(&name).map(|pin| pin.version);
        names.push((name, TablePath::stream(&file.domain, &file.stream), published));
    }
    for (name, pin) in newest.tables.iter().filter(|(name, _)| !name.starts_with("lake.")) {
        names.push((name.clone(), pin.path.clone(), Some(pin.version)));
    }
    for (name, path, published) in names {
        let Some(snapshot) = opened.warehouse.table(path).snapshot().await? else { continue };
        let size: i64 = snapshot.files().map(|add| add.size).sum();
        let at = chrono::DateTime::from_timestamp_millis(snapshot.timestamp()).filter(|_| snapshot.timestamp() > 0);
        rows.push(vec![
            name,
            snapshot.version().to_string(),
            published.map_or_else(|| "-".to_owned(), |version| version.to_string()),
            count(snapshot.rows().unwrap_or_default()),
            snapshot.files().len().to_string(),
            bytes(size as u64),
            at.map_or_else(|| "-".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S").to_string()),
        ]);
    }
    output.say(format!("catalog snapshot {}", newest.number));
    output.rows(&["table", "version", "published", "rows", "files", "size", "last commit (UTC)"], rows)
}

pub(super) async fn rejects(opened: &Opened, arguments: &Rejects, output: &Output) -> anyhow::Result<()> {
    let newest = opened.catalog.newest().await?;
    let session = opened.engine.session();
    let mut selects = Vec::new();
    let store = opened.warehouse.store();
    let wanted =
        |name: &str| arguments.of.as_deref().is_none_or(|of| of == name || name.rsplit('.').next() == Some(of));
    let mut number = 0;
    let mut register = |table: PinnedTable| -> anyhow::Result<String> {
        number += 1;
        let name = format!("rejects_{number}");
        session.register_table(datafusion::common::TableReference::bare(name.clone()), Arc::new(table))?;
        Ok(name)
    };
    let text = |of: &str| of.replace('\'', "''");
    for parsed in &opened.project.streams {
        let file = &parsed.definition;
        if !wanted(&file.stream) {
            continue;
        }
        let table = opened.warehouse.table(TablePath::stream(&file.domain, &file.stream));
        let snapshot = table.open_or_create(events::table_schema(), &[events::INGEST_DATE]).await?;
        let name = register(PinnedTable::new(store, snapshot))?;
        selects.push(format!(
            "SELECT '{}' AS rejected_by, rejection AS reason, source, topic, position, event_id, \
             substr(arrow_cast(arrow_cast(payload, 'Binary'), 'Utf8'), 1, 80) AS payload FROM {name} WHERE rejection IS NOT NULL \
             AND rejection NOT LIKE 'not UTF-8%' \
             UNION ALL SELECT '{}', rejection, source, topic, position, event_id, NULL FROM {name} \
             WHERE rejection LIKE 'not UTF-8%'",
            text(&file.stream),
            text(&file.stream)
        ));
    }
    for (name, pin) in newest.tables.iter().filter_map(|(name, pin)| Some((name.strip_suffix("/rejects")?, pin))) {
        if !wanted(name) {
            continue;
        }
        let snapshot = opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?;
        let table = register(PinnedTable::new(store, snapshot))?;
        selects.push(format!(
            "SELECT '{}', reason, source, topic, position, event_id, event_type FROM {table}",
            text(name)
        ));
    }
    if selects.is_empty() {
        let of = arguments.of.as_deref().unwrap_or_default();
        return Err(Mendable::error(
            format!("there is no stream or published model `{of}`"),
            "see `starmere streams` and `starmere plan`",
        ));
    }
    let query =
        format!("SELECT * FROM ({}) ORDER BY 1, 3, 4, 5 LIMIT {}", selects.join(" UNION ALL "), arguments.limit);
    let answer = session.sql(&query).await?;
    let schema = wire::wire_schema(answer.schema().as_arrow());
    let batches = answer.collect().await?;
    let batches = batches.iter().map(|batch| wire::wire_batch(batch, &schema)).collect::<Result<Vec<_>, _>>()?;
    output.data(&schema, &batches)
}
