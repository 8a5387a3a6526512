//! `starmere rejects`: what could not be read. Taking it up again is a reread's kin, see [`super::reread`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::prelude::{SessionContext, ident, lit};
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::delta::Snapshot;
use starmere_lake::events;
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_models::reread::Rereads;
use starmere_models::resolve::Model;
use starmere_sql::wire;

use crate::command_line::{Format, Rejects};
use crate::failure::Mendable;
use crate::output::{Output, counted};
use crate::project::Opened;

/// Rejects of a reason that a sample has.
const SAMPLE: u32 = 3;
/// So much of a payload is shown.
const SHOWN: usize = 80;

pub(super) async fn run(opened: &Opened, arguments: &Rejects, output: &Output) -> anyhow::Result<()> {
    match &arguments.of {
        Some(stream) if arguments.repair => super::reread::take_up(opened, stream, arguments, output).await,
        _ => list(opened, arguments, output).await,
    }
}

async fn list(opened: &Opened, arguments: &Rejects, output: &Output) -> anyhow::Result<()> {
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
            "SELECT '{0}' AS rejected_by, rejection AS reason, '{0}' AS stream, source, topic, position, event_id, \
             event_type, arrow_cast(payload, 'Binary') AS payload FROM {name} WHERE rejection IS NOT NULL",
            text(&file.stream)
        ));
    }
    for (name, snapshot) in of_models(opened, &newest).await? {
        if !wanted(&name) {
            continue;
        }
        let table = register(PinnedTable::new(store, snapshot))?;
        selects.push(format!(
            "SELECT '{}' AS rejected_by, reason, stream, source, topic, position, event_id, \
             event_type, arrow_cast(NULL, 'Binary') AS payload FROM {table}",
            text(&name)
        ));
    }
    if selects.is_empty() {
        let Some(of) = arguments.of.as_deref() else {
            let hint = "describe one in `streams/`; see docs/definitions.md";
            return Err(Mendable::error("the project has no streams, so nothing could be rejected", hint));
        };
        let is_named = |model: &&Model| model.name().to_string() == of || model.name().name == of;
        if let Some(model) = opened.project.models.models.iter().find(is_named)
            && matches!(model, Model::Sql(_) | Model::Generated(_))
        {
            let message = format!("`{}` reads no events, so it rejects none", model.name());
            return Err(Mendable::error(message, "see the rejects of what it is made of: `starmere rejects`"));
        }
        return Err(Mendable::error(
            format!("there is no stream or built model `{of}`"),
            "see `starmere streams` and `starmere plan`",
        ));
    }
    let all = selects.join(" UNION ALL ");
    // Reasons that differ only in their numbers, or in what is not of a type, are one.
    let reason = "regexp_replace(regexp_replace(reason, '[0-9]+', '0', 'g'), ': `[^`]*` is not of type', ' is not of type', 'g')";
    let kind = format!("rejected_by, {reason}");
    let (rejects, order) = match arguments.sample {
        false => (format!("SELECT * FROM ({all})"), "rejected_by, source, topic, position"),
        true => (
            format!(
                "SELECT rejected_by, CASE WHEN number = 1 THEN total END AS count, reason, stream, source, topic, position, event_id, event_type, payload FROM (\
                 SELECT *, {reason} AS kind, count(*) OVER (PARTITION BY {kind}) AS total, \
                 row_number() OVER (PARTITION BY {kind} ORDER BY source, topic, position) AS number FROM ({all})) \
                 WHERE number <= {SAMPLE}"
            ),
            "rejected_by, total DESC, kind, number",
        ),
    };
    let query = format!("{rejects} ORDER BY {order} LIMIT {}", arguments.limit);
    let answer = session.sql(&query).await?;
    let mut batches = answer.collect().await?;
    let shown: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if shown == arguments.limit {
        let total = session.sql(&format!("SELECT count(*) FROM ({rejects})")).await?.collect().await?;
        let all = total.first().map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0));
        if let Some(words) = left_out(shown as u64, all.unsigned_abs(), arguments.sample) {
            output.say(words);
        }
    }
    for batch in &mut batches {
        *batch = with_payloads(opened, &session, batch).await?;
    }
    let most = if output.format() == Format::Table { SHOWN } else { usize::MAX };
    let batches = batches.iter().map(|batch| readable(batch, most)).collect::<anyhow::Result<Vec<_>>>()?;
    let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    let schema = wire::wire_schema(&schema);
    let batches = batches.iter().map(|batch| wire::wire_batch(batch, &schema)).collect::<Result<Vec<_>, _>>()?;
    output.data(&schema, &batches)
}

/// What is said where fewer rejects are shown than there are. Pure.
fn left_out(shown: u64, all: u64, is_sample: bool) -> Option<String> {
    let rest = all.checked_sub(shown).filter(|rest| *rest > 0)?;
    let sample = if is_sample { "" } else { ", or a few of each reason with `--sample`" };
    let (shown, rest) = (counted(shown, "reject is", "rejects are"), counted(rest, "more is", "more are"));
    Some(format!("{shown} shown, and {rest} not: list all with `--limit {all}`{sample}"))
}

/// Where an event is: source, topic, position; and its id.
type Coordinates = [String; 4];

/// The rejects, with the payloads of those that models have, which say only where their events are.
async fn with_payloads(
    opened: &Opened,
    session: &SessionContext,
    rejects: &RecordBatch,
) -> anyhow::Result<RecordBatch> {
    let place = rejects.schema().index_of("payload")?;
    let payloads = rejects.column(place).as_binary::<i32>();
    let streams = cast(rejects.column_by_name("stream").context("no stream")?, &DataType::Utf8)?;
    let streams = streams.as_string::<i32>();
    let of_rejects = coordinates(rejects)?;
    let mut wanted: BTreeMap<&str, BTreeSet<&Coordinates>> = BTreeMap::new();
    for (row, of) in of_rejects.iter().enumerate().filter(|(row, _)| payloads.is_null(*row)) {
        wanted.entry(streams.value(row)).or_default().insert(of);
    }
    let mut found: BTreeMap<(&str, Coordinates), Vec<u8>> = BTreeMap::new();
    for (stream, places) in wanted {
        let Some(definition) = opened.project.models.streams.get(stream) else { continue };
        let table = opened.warehouse.table(TablePath::stream(&definition.domain, stream));
        let Some(snapshot) = table.snapshot().await? else { continue };
        let positions: BTreeSet<i64> = places.iter().filter_map(|of| of[2].parse().ok()).collect();
        let sources: BTreeSet<&str> = places.iter().map(|of| of[0].as_str()).collect();
        // Bounds leave files out; a list of many does not.
        let bounds =
            positions.first().zip(positions.last()).map(|(from, to)| ident("position").between(lit(*from), lit(*to)));
        let is_there = bounds.unwrap_or_else(|| lit(false));
        let is_there = is_there.and(ident("position").in_list(positions.into_iter().map(lit).collect(), false));
        let is_there = is_there.and(ident("source").in_list(sources.into_iter().map(lit).collect(), false));
        let events = session.read_table(Arc::new(PinnedTable::new(opened.warehouse.store(), snapshot)))?;
        let columns = ["source", "topic", "position", "event_id", "payload"].map(ident);
        for batch in events.filter(is_there)?.select(columns)?.collect().await? {
            let payloads = cast(batch.column(4), &DataType::Binary)?;
            for (row, of) in coordinates(&batch)?.into_iter().enumerate().filter(|(_, of)| places.contains(of)) {
                found.insert((stream, of), payloads.as_binary::<i32>().value(row).to_owned());
            }
        }
    }
    let filled = of_rejects.into_iter().enumerate().map(|(row, of)| match payloads.is_null(row) {
        true => found.get(&(streams.value(row), of)).map(Vec::as_slice),
        false => Some(payloads.value(row)),
    });
    let mut columns = rejects.columns().to_vec();
    columns[place] = Arc::new(filled.collect::<BinaryArray>());
    Ok(RecordBatch::try_new(rejects.schema(), columns)?)
}

fn coordinates(rows: &RecordBatch) -> anyhow::Result<Vec<Coordinates>> {
    let column = |name: &str| rows.column_by_name(name).with_context(|| format!("rejects have no `{name}`"));
    let columns = [column("source")?, column("topic")?, column("position")?, column("event_id")?];
    let of = |row| columns.map(|column| array_value_to_string(column, row).unwrap_or_default());
    Ok((0..rows.num_rows()).map(of).collect())
}

/// The rejects of models, by their names: as the last build left them, whether it was published or its contract stopped it.
async fn of_models(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<BTreeMap<String, Arc<Snapshot>>> {
    let mut found = BTreeMap::new();
    let published = newest.tables.iter().filter_map(|(name, pin)| Some((name.strip_suffix("/rejects")?, pin)));
    for (name, pin) in published.clone() {
        let snapshot = opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?;
        found.insert(name.to_owned(), snapshot);
    }
    let published: BTreeMap<&str, &Pin> = published.collect();
    let models = &opened.project.models;
    let rereads = Rereads::of(&opened.warehouse, models).await?;
    for model in &models.models {
        let name = model.name();
        let is_whole = rereads.since(newest, models, model).is_empty();
        let same = |pin: &&&Pin| pin.path.fingerprint().is_some_and(|print| print.starts_with(model.fingerprint()));
        let path = match published.get(name.to_string().as_str()).filter(same).filter(|_| is_whole) {
            Some(pin) => pin.path.clone(),
            None => TablePath::model(&name.domain, &name.name, &rereads.fingerprint(models, model), "rejects"),
        };
        if let Some(built) = opened.warehouse.table(path).snapshot().await? {
            found.insert(name.to_string(), built);
        }
    }
    Ok(found)
}

/// The batch, with payloads as people read them, as far as the first `most` characters.
pub(super) fn readable(batch: &RecordBatch, most: usize) -> anyhow::Result<RecordBatch> {
    let schema: SchemaRef = batch.schema();
    let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        match column.as_binary_opt::<i32>() {
            Some(payloads) => {
                fields.push(Field::new(field.name(), DataType::Utf8, true));
                columns.push(Arc::new(
                    payloads.iter().map(|payload| payload.map(|payload| shown(payload, most))).collect::<StringArray>(),
                ));
            }
            None => {
                fields.push(field.as_ref().clone());
                columns.push(column.clone());
            }
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).context("could not show the rejects")
}

/// A character as a terminal may have it: one that steers the terminal is written as Rust writes it.
fn visible(character: char) -> impl Iterator<Item = char> {
    let (plain, escaped) = match character.is_control() {
        false => (Some(character), None),
        true => (None, Some(character.escape_default())),
    };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

/// The beginning of a payload: as text, or in hexadecimal digits.
fn shown(payload: &[u8], most: usize) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => text.chars().take(most).flat_map(visible).collect(),
        Err(_) => format!("x'{}'", hex::encode(&payload[..payload.len().min(most / 2)])),
    }
}
