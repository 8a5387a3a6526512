//! `starmere trace`: from a row to the events that made it, to their bytes; and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, min};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, Utc};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use indexmap::IndexSet;
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_models::define::{FieldType, ModelName, Place, suggestion};
use starmere_models::dimension::{CHANGES, Dimension};
use starmere_models::fact::EVENT_STREAM;
use starmere_models::resolve::{Model, check_name};
use starmere_models::sql_model::{Lineage, PERIODIC, SqlModel};
use starmere_sql::wire;

use super::rejects::readable;
use crate::command_line::Trace;
use crate::failure::Mendable;
use crate::output::{Output, counted};
use crate::project::Opened;

/// More rows than these are too many to trace.
const MOST_ROWS: usize = 1000;
/// So many tell that there are more.
const ENOUGH: usize = MOST_ROWS + 1;
/// The name of the grains that rows are looked for by, while they are.
const GRAINS: &str = "$grains";

pub(super) async fn run(opened: &Opened, arguments: &Trace, output: &Output) -> anyhow::Result<()> {
    let newest = opened.catalog.newest().await?;
    let tracing = Tracing { opened, newest, session: opened.engine.session() };
    match (&arguments.event, &arguments.model) {
        (Some(event), _) => tracing.forward(event, output).await,
        (None, Some(model)) => tracing.back(model, &arguments.key, output).await,
        (None, None) => Err(Mendable::error(
            "nothing to trace",
            "name a model and a key (`starmere trace sales.order_lines order_id=A`), or an event (`--event ID`)",
        )),
    }
}

/// The ids of events that these rows of a SQL model are made of, where these are its tables, published or not.
pub(crate) async fn events_of(
    opened: &Opened,
    tables: &BTreeMap<String, Pin>,
    model: &SqlModel,
    rows: &[RecordBatch],
) -> anyhow::Result<Vec<String>> {
    let newest = CatalogSnapshot { tables: tables.clone(), ..CatalogSnapshot::default() };
    let tracing = Tracing { opened, newest, session: opened.engine.session() };
    let mut below = Below { origins: Origins::new(), unknown: BTreeSet::new() };
    tracing.below(model, rows, &mut below).await?;
    let events: BTreeSet<String> = below.origins.into_iter().map(|(_, event, _)| event).collect();
    Ok(events.into_iter().collect())
}

struct Tracing<'a> {
    opened: &'a Opened,
    newest: CatalogSnapshot,
    session: SessionContext,
}

/// The events that made a row, and what each meant for it.
type Origins = BTreeSet<(String, String, String)>;

/// What rows of a SQL model are made of.
struct Below {
    origins: Origins,
    /// Inputs whose rows are not known, and why.
    unknown: BTreeSet<(String, &'static str)>,
}

/// The rows that an event made.
#[derive(Default)]
struct Made {
    rows: BTreeMap<ModelName, Vec<RecordBatch>>,
    /// When it happened, by what its copies say; versions of members begin then.
    instants: BTreeSet<String>,
    /// Models of which it is not known.
    unknown: BTreeSet<ModelName>,
}

impl Made {
    fn add(&mut self, model: &ModelName, rows: Vec<RecordBatch>) {
        let rows = rows.into_iter().filter(|batch| batch.num_rows() > 0);
        self.rows.entry(model.clone()).or_default().extend(rows);
    }
}

impl Tracing<'_> {
    /// Registers a table of the snapshot; its name in the session, none where it is not published.
    async fn table(&self, name: &str) -> anyhow::Result<Option<String>> {
        if self.session.table_exist(TableReference::bare(name))? {
            return Ok(Some(quoted(name)));
        }
        let snapshot =
            match (name.strip_prefix("lake.").and_then(|name| name.split_once('.')), self.newest.tables.get(name)) {
                // Of events, all that have landed.
                (Some((domain, stream)), _) => {
                    self.opened.warehouse.table(TablePath::stream(domain, stream)).snapshot().await?
                }
                (None, Some(pin)) => {
                    Some(self.opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?)
                }
                (None, None) => None,
            };
        let Some(snapshot) = snapshot else { return Ok(None) };
        let table = PinnedTable::new(self.opened.warehouse.store(), snapshot);
        self.session.register_table(TableReference::bare(name), Arc::new(table))?;
        Ok(Some(quoted(name)))
    }

    async fn ask(&self, query: &str) -> anyhow::Result<Vec<RecordBatch>> {
        Ok(self.session.sql(query).await?.collect().await?)
    }

    fn model(&self, name: &str) -> anyhow::Result<&Model> {
        let models = &self.opened.project.models.models;
        let port = self.opened.project.meaning.ports.iter().find(|port| port.full_name() == name);
        let name = port.map_or(name, |port| &port.table);
        let found = models.iter().find(|model| model.name().to_string() == name || model.name().name == name);
        found.ok_or_else(|| {
            let all: Vec<String> = models.iter().map(|model| model.name().to_string()).collect();
            Mendable::error(format!("there is no model `{name}`"), suggestion(name, all.iter().map(String::as_str)))
        })
    }

    /// From rows to the events that made them.
    async fn back(&self, name: &str, key: &[String], output: &Output) -> anyhow::Result<()> {
        let model = self.model(name)?;
        let full = model.name().to_string();
        let Some(table) = self.table(&full).await? else {
            return Err(Mendable::error(format!("`{full}` is not published"), "build it: `starmere build`"));
        };
        let condition = condition(model, key)?;
        let rows = self.ask(&format!("SELECT * FROM {table} WHERE {condition} LIMIT {ENOUGH}")).await?;
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        if count == 0 {
            let hint = format!("its rows are told apart by {}", model.told_apart_by().join(", "));
            return Err(Mendable::error(format!("`{full}` has no row with {}", key.join(", ")), hint));
        }
        if count > MOST_ROWS {
            let hint = format!("say more of {}", model.told_apart_by().join(", "));
            return Err(Mendable::error(format!("more than {MOST_ROWS} rows of `{full}` are meant"), hint));
        }
        output.say(format!("{} of {} {full}", counted(count as u64, "row", "rows"), model.kind()));
        for batch in &rows {
            for row in 0..batch.num_rows() {
                output.say(format!("  {}", cells(batch, row)));
            }
        }
        let origins = match model {
            Model::Fact(fact) => {
                let only = fact.sources.first().map(|source| source.stream.clone()).unwrap_or_default();
                by_event_id(&rows, &only, "row")
            }
            Model::Dimension(dimension) => {
                let mut origins = self.changes(&dimension.name.to_string(), &rows).await?;
                origins.extend(self.opened_by_parents(dimension, &rows, &whole_numbers(&rows, "valid_from")).await?);
                for fact in &dimension.mentions {
                    origins.extend(self.mentions(fact, dimension, &rows).await?);
                }
                origins
            }
            Model::Sql(sql) => {
                let inputs: Vec<String> = sql.inputs().into_iter().map(ToString::to_string).collect();
                output.say(format!("made of {}", inputs.join(", ")));
                let mut below = Below { origins: Origins::new(), unknown: BTreeSet::new() };
                self.below(sql, &rows, &mut below).await?;
                if below.origins.is_empty() && !below.unknown.is_empty() {
                    // They may say it themselves.
                    for stream in self.streams_below(model) {
                        below.origins.extend(by_event_id(&rows, stream, "row"));
                    }
                }
                for (name, why) in below.unknown {
                    output.say(format!("which rows of {name} they are made of is not known: {why}"));
                }
                if below.origins.len() > MOST_ROWS {
                    output.say(format!("they are made of more than {MOST_ROWS} events; so many of them:"));
                }
                below.origins.into_iter().take(MOST_ROWS).collect()
            }
            Model::Generated(_) => {
                output.say("its rows follow from its definition");
                Origins::new()
            }
        };
        self.events(&origins, output).await
    }

    /// The events of the facts that rows of a SQL model are made of, over any number of others.
    async fn below(&self, model: &SqlModel, rows: &[RecordBatch], below: &mut Below) -> anyhow::Result<()> {
        let models = &self.opened.project.models;
        let Some(tables) = self.inputs(model).await? else { return Ok(()) };
        let columns = |name: &ModelName| match models.get(name) {
            Some(Model::Fact(fact)) => {
                let stream = (fact.streams().len() > 1).then(|| EVENT_STREAM.to_owned());
                std::iter::once("event_id".to_owned()).chain(stream).collect()
            }
            // Of a period's rows it takes both ends to know what they are made of.
            Some(Model::Sql(sql)) if sql.kind == PERIODIC => {
                sql.grain.iter().cloned().chain(["period_to".to_owned()]).collect()
            }
            Some(Model::Sql(sql)) => sql.grain.clone(),
            // What is known of members is not what happened.
            _ => Vec::new(),
        };
        let lineage = model.lineage(&self.session, rows, columns, |name| tables[name].clone(), ENOUGH).await?;
        let is_below = |name: &&ModelName| matches!(models.get(name), Some(Model::Fact(_) | Model::Sql(_)));
        let mut missing: BTreeSet<&ModelName> = model.inputs().into_iter().filter(is_below).collect();
        let why = match &lineage {
            None => "all rows are computed at once",
            Some(_) => "the query does not pass on what tells them apart",
        };
        for Lineage { input, rows } in lineage.iter().flatten() {
            missing.remove(input);
            match models.get(input) {
                Some(Model::Fact(fact)) => {
                    let only = fact.sources.first().map(|source| source.stream.as_str()).unwrap_or_default();
                    below.origins.extend(by_event_id(rows, only, &format!("row of {input}")));
                }
                Some(Model::Sql(sql)) if rows.iter().any(|batch| batch.num_rows() > 0) => {
                    Box::pin(self.below(sql, rows, below)).await?;
                }
                _ => {}
            }
        }
        below.unknown.extend(missing.into_iter().map(|name| (name.to_string(), why)));
        Ok(())
    }

    /// The streams that a model is made of, over any number of others.
    fn streams_below<'b>(&'b self, model: &'b Model) -> BTreeSet<&'b str> {
        let mut streams: BTreeSet<&str> = BTreeSet::new();
        let mut waiting = vec![model];
        while let Some(model) = waiting.pop() {
            match model {
                Model::Sql(sql) => {
                    waiting.extend(sql.inputs().into_iter().filter_map(|name| self.opened.project.models.get(name)))
                }
                Model::Fact(fact) => streams.extend(fact.streams()),
                Model::Dimension(_) | Model::Generated(_) => {}
            }
        }
        streams
    }

    /// The events in a dimension's change log about the members of these rows.
    async fn changes(&self, name: &str, rows: &[RecordBatch]) -> anyhow::Result<Origins> {
        let Some(log) = self.table(&format!("{name}/{CHANGES}")).await? else { return Ok(Origins::new()) };
        let query = format!(
            "SELECT stream, event_id, CASE action WHEN 0 THEN 'state' WHEN 1 THEN 'patch' WHEN 2 THEN 'delete' \
             ELSE 'taken back' END FROM {log} WHERE durable_key IN ({}) AND event_id IS NOT NULL",
            listed(&durable_keys(rows))
        );
        Ok(origins(&self.ask(&query).await?))
    }

    /// The events of parents whose versions open these rows' versions, over any number of parents.
    async fn opened_by_parents(
        &self,
        dimension: &Dimension,
        rows: &[RecordBatch],
        instants: &BTreeSet<String>,
    ) -> anyhow::Result<Origins> {
        let mut found = Origins::new();
        for reference in dimension.references.iter().filter(|reference| reference.as_of_version) {
            let Some(Model::Dimension(parent)) = self.opened.project.models.get(&reference.target) else { continue };
            let name = parent.name.to_string();
            let log = self.table(&format!("{name}/{CHANGES}")).await?;
            let (Some(log), Some(table)) = (log, self.table(&name).await?) else { continue };
            let durable = listed(&whole_numbers(rows, &reference.durable_column()));
            let query = format!(
                "SELECT stream, event_id, {} FROM {log} WHERE durable_key IN ({durable}) AND action < 3 \
                 AND arrow_cast(occurred_at, 'Int64') IN ({})",
                text(&format!("version of {name}")),
                listed(instants),
            );
            found.extend(origins(&self.ask(&query).await?));
            let key = quoted(&format!("{}_key", parent.name.name));
            let keys = listed(&whole_numbers(rows, &reference.key_column()));
            let rows = self.ask(&format!("SELECT * FROM {table} WHERE {key} IN ({keys})")).await?;
            found.extend(Box::pin(self.opened_by_parents(parent, &rows, instants)).await?);
        }
        Ok(found)
    }

    /// The events of a fact or of a child dimension that mention the members of these rows.
    async fn mentions(&self, by: &Model, dimension: &Dimension, rows: &[RecordBatch]) -> anyhow::Result<Origins> {
        let keys = listed(&durable_keys(rows));
        let words = text(&format!("mention by {}", by.name()));
        let mut queries = Vec::new();
        match by {
            Model::Fact(fact) => {
                let Some(table) = self.table(&fact.name.to_string()).await? else { return Ok(Origins::new()) };
                let stream = fact.sources.first().map(|source| source.stream.as_str()).unwrap_or_default();
                let stream = if fact.streams().len() > 1 { EVENT_STREAM.to_owned() } else { text(stream) };
                for role in fact.roles.iter().filter(|role| *role.target.name() == dimension.name) {
                    let column = quoted(&role.durable_column().unwrap_or_else(|| role.key_column()));
                    queries.push(format!("{stream}, event_id, {words} FROM {table} WHERE {column} IN ({keys})"));
                }
            }
            Model::Dimension(child) => {
                let Some(log) = self.table(&format!("{}/{CHANGES}", child.name)).await? else {
                    return Ok(Origins::new());
                };
                for reference in child.references.iter().filter(|reference| reference.target == dimension.name) {
                    let column = quoted(&format!("reference_{}", reference.name));
                    queries.push(format!(
                        "stream, event_id, {words} FROM {log} WHERE action < 3 AND {column} IN ({keys})"
                    ));
                }
            }
            Model::Generated(_) | Model::Sql(_) => {}
        }
        let mut found = Origins::new();
        for query in queries {
            let query = format!("SELECT DISTINCT {query} AND event_id IS NOT NULL LIMIT {ENOUGH}");
            found.extend(origins(&self.ask(&query).await?));
        }
        Ok(found)
    }

    /// Prints events: all their copies, where each is in the lake, which one counts, and its bytes.
    async fn events(&self, origins: &Origins, output: &Output) -> anyhow::Result<()> {
        let mut selects = Vec::new();
        let streams: BTreeSet<&String> = origins.iter().map(|(stream, ..)| stream).collect();
        for stream in streams {
            let Some(definition) = self.opened.project.models.streams.get(stream) else { continue };
            let Some(table) = self.table(&format!("lake.{}.{stream}", definition.domain)).await? else { continue };
            let of_stream = origins.iter().filter(|(of, ..)| of == stream);
            let said: Vec<String> =
                of_stream.map(|(_, event, means)| format!("({}, {})", text(event), text(means))).collect();
            selects.push(format!(
                "SELECT said.means, {} AS stream, e.event_id, e.event_type, e.event_version, e.occurred_at, e.ingested_at, \
                 e.source, e.topic, e.partition, e.position, e.rejection IS NULL AND row_number() OVER (\
                 PARTITION BY e.event_id, said.means ORDER BY e.rejection IS NOT NULL, e.occurred_at, e.source, e.topic, \
                 e.partition, e.position) = 1 AS counts, e.rejection, arrow_cast(e.payload, 'Binary') AS payload \
                 FROM {table} AS e JOIN (VALUES {}) AS said (event_id, means) ON said.event_id = e.event_id",
                text(stream),
                said.join(", ")
            ));
        }
        if selects.is_empty() {
            return Ok(());
        }
        let query = format!(
            "SELECT * FROM ({}) ORDER BY occurred_at, stream, source, topic, partition, position, means",
            selects.join(" UNION ALL ")
        );
        let found = self.ask(&query).await?;
        if found.iter().all(|batch| batch.num_rows() == 0) {
            output.say("no stream has such an event");
            return Ok(());
        }
        print(&found, output)
    }

    /// From an event to the rows that it made.
    async fn forward(&self, event: &str, output: &Output) -> anyhow::Result<()> {
        let mut made = Made::default();
        for model in &self.opened.project.models.models {
            match model {
                Model::Dimension(dimension) => self.members_of(event, dimension, &mut made).await?,
                Model::Fact(fact) => made.add(&fact.name, self.with_event(event, model).await?),
                Model::Sql(sql) => {
                    self.made_of(model, sql, &mut made).await?;
                    // They may say it themselves.
                    if made.unknown.contains(&sql.name) && sql.schema().field_with_name("event_id").is_ok() {
                        made.add(&sql.name, self.with_event(event, model).await?);
                    }
                }
                Model::Generated(_) => {}
            }
        }
        let mut found: IndexSet<Vec<String>> = IndexSet::new();
        for model in &self.opened.project.models.models {
            let names = model.told_apart_by();
            let opens = [names.clone(), vec!["valid_from".to_owned()]].concat();
            for batch in made.rows.get(model.name()).into_iter().flatten() {
                for row in 0..batch.num_rows() {
                    let row = batch.slice(row, 1);
                    let instant = whole_numbers(std::slice::from_ref(&row), "valid_from");
                    let is_opened = matches!(model, Model::Dimension(_)) && !made.instants.is_disjoint(&instant);
                    let named = if is_opened { &opens } else { &names };
                    let places: Vec<usize> = named.iter().filter_map(|name| row.schema().index_of(name).ok()).collect();
                    let line = cells(&row.project(&places)?, 0);
                    let line = vec![model.kind().to_owned(), model.name().to_string(), line];
                    found.insert(line);
                }
            }
        }
        if found.len() > MOST_ROWS {
            output.say(format!("it is part of more than {MOST_ROWS} rows; so many of them:"));
            found.truncate(MOST_ROWS);
        }
        for (name, _) in self.newest.tables.iter().filter(|(name, _)| name.ends_with("/rejects")) {
            let Some(table) = self.table(name).await? else { continue };
            let query = format!("SELECT reason FROM {table} WHERE event_id = {}", text(event));
            for batch in self.ask(&query).await? {
                for row in 0..batch.num_rows() {
                    let name = name.trim_end_matches("/rejects").to_owned();
                    found.insert(vec!["reject".to_owned(), name, cells(&batch, row)]);
                }
            }
        }
        for name in made.unknown {
            output.say(format!("which rows of {name} are made of it is not known"));
        }
        if found.is_empty() {
            output.say("no published row is of this event");
        } else {
            output.rows(&["kind", "model", "row"], found.into_iter().collect())?;
        }
        let streams = self.opened.project.models.streams.keys();
        let all = streams.map(|stream| (stream.clone(), event.to_owned(), "event".to_owned())).collect();
        self.events(&all, output).await
    }

    /// The rows of a model that say that they are of an event.
    async fn with_event(&self, event: &str, model: &Model) -> anyhow::Result<Vec<RecordBatch>> {
        let Some(table) = self.table(&model.name().to_string()).await? else { return Ok(Vec::new()) };
        self.ask(&format!("SELECT * FROM {table} WHERE event_id = {} LIMIT {ENOUGH}", text(event))).await
    }

    /// The versions of members that an event says something about, and those of children that they open.
    async fn members_of(&self, event: &str, dimension: &Dimension, made: &mut Made) -> anyhow::Result<()> {
        let name = dimension.name.to_string();
        let (log, table) = (self.table(&format!("{name}/{CHANGES}")).await?, self.table(&name).await?);
        let (Some(log), Some(table)) = (log, table) else { return Ok(()) };
        let said = format!("FROM {log} WHERE event_id = {} AND action < 3", text(event));
        let durable = quoted(&format!("{}_durable_key", dimension.name.name));
        let query = format!("SELECT * FROM {table} WHERE {durable} IN (SELECT durable_key {said}) LIMIT {ENOUGH}");
        let rows = self.ask(&query).await?;
        let instants = self.ask(&format!("SELECT DISTINCT occurred_at {said}")).await?;
        let instants = whole_numbers(&instants, "occurred_at");
        made.instants.extend(instants.iter().cloned());
        let mut waiting = vec![(&dimension.name, durable_keys(&rows))];
        made.add(&dimension.name, rows);
        while let Some((parent, members)) = waiting.pop() {
            for model in &self.opened.project.models.models {
                let Model::Dimension(child) = model else { continue };
                let references = child.references.iter();
                for reference in references.filter(|reference| reference.as_of_version && reference.target == *parent) {
                    let Some(table) = self.table(&child.name.to_string()).await? else { continue };
                    let query = format!(
                        "SELECT * FROM {table} WHERE {} IN ({}) AND arrow_cast(valid_from, 'Int64') IN ({}) LIMIT {ENOUGH}",
                        quoted(&reference.durable_column()),
                        listed(&members),
                        listed(&instants),
                    );
                    let rows = self.ask(&query).await?;
                    waiting.push((&child.name, durable_keys(&rows)));
                    made.add(&child.name, rows);
                }
            }
        }
        Ok(())
    }

    /// The rows of a SQL model that are made of those found.
    async fn made_of(&self, model: &Model, sql: &SqlModel, made: &mut Made) -> anyhow::Result<()> {
        let name = sql.name.to_string();
        let (Some(table), Some(tables)) = (self.table(&name).await?, self.inputs(sql).await?) else { return Ok(()) };
        let is_of_facts = !self.streams_below(model).is_empty();
        for input in sql.inputs() {
            if made.unknown.contains(input) {
                made.unknown.insert(sql.name.clone());
            }
            // A member's rows are in all that happened to it; that is not what one event about it made.
            let is_member = matches!(self.opened.project.models.get(input), Some(Model::Dimension(_)));
            let Some(rows) = made.rows.get(input).filter(|_| !(is_member && is_of_facts)) else { continue };
            let Some(first) = rows.first() else { continue };
            let rows = Arc::new(MemTable::try_new(first.schema(), vec![rows.clone()])?);
            let of = |name: &ModelName| tables[name].clone();
            let Some(grains) = sql.grains_made_of(&self.session, (input, rows), of, ENOUGH).await? else {
                made.unknown.insert(sql.name.clone());
                continue;
            };
            let Some(first) = grains.first() else { continue };
            let columns = first.schema().fields().iter().map(|field| quoted(field.name())).collect::<Vec<_>>();
            let same = columns.iter().map(|column| format!("(rows.{column} IS NOT DISTINCT FROM grains.{column})"));
            let mut same = same.collect::<Vec<_>>().join(" AND ");
            if let (PERIODIC, Some(first)) = (sql.kind, first_time(&made.rows[input])) {
                let ends = sql.columns.iter().find(|column| column.name == "period_to");
                same += &match ends.map(|ends| ends.field_type) {
                    // Without digits it were of nanoseconds, which end in 2262.
                    Some(FieldType::Timestamp) => format!(" AND rows.period_to > TIMESTAMP(6) '{}'", first.naive_utc()),
                    _ => format!(" AND rows.period_to >= DATE '{}'", first.date_naive()),
                };
            }
            let grains = MemTable::try_new(first.schema(), vec![grains.clone()])?;
            self.session.register_table(TableReference::bare(GRAINS), Arc::new(grains))?;
            let query = format!(
                "SELECT rows.* FROM {table} AS rows JOIN (SELECT DISTINCT * FROM \"{GRAINS}\") AS grains ON {same} \
                 LIMIT {ENOUGH}"
            );
            let rows = self.ask(&query).await;
            self.session.deregister_table(TableReference::bare(GRAINS))?;
            made.add(&sql.name, rows?);
        }
        Ok(())
    }

    /// The tables that a SQL model reads; none where one is not published.
    async fn inputs(&self, model: &SqlModel) -> anyhow::Result<Option<BTreeMap<ModelName, Arc<dyn TableProvider>>>> {
        let mut tables: BTreeMap<ModelName, Arc<dyn TableProvider>> = BTreeMap::new();
        for input in model.inputs() {
            let Some(pin) = self.newest.tables.get(&input.to_string()) else { return Ok(None) };
            let snapshot = self.opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?;
            tables.insert(input.clone(), Arc::new(PinnedTable::new(self.opened.warehouse.store(), snapshot)));
        }
        Ok(Some(tables))
    }
}

/// When the first of these happened.
fn first_time(rows: &[RecordBatch]) -> Option<DateTime<Utc>> {
    let times = rows.iter().filter_map(|batch| batch.column_by_name("occurred_at"));
    let first = times.filter_map(|times| min(times.as_primitive_opt::<TimestampMicrosecondType>()?)).min()?;
    DateTime::from_timestamp_micros(first)
}

/// SQL for which rows are meant: `column=value`, or values in the order of the columns that tell rows apart.
fn condition(model: &Model, key: &[String]) -> anyhow::Result<String> {
    let (names, schema) = (model.told_apart_by(), model.schema());
    let mut parts = Vec::new();
    let mut unnamed = names.iter();
    for part in key {
        let named = part.split_once('=').filter(|(name, _)| schema.field_with_name(name).is_ok());
        let looks_named = part.split_once('=').filter(|(name, _)| check_name(name, &Place::default()).is_none());
        if let (None, Some((name, _))) = (named, looks_named) {
            let hint = suggestion(name, schema.fields().iter().map(|field| field.name().as_str()));
            return Err(Mendable::error(format!("`{}` has no column `{name}`", model.name()), hint));
        }
        let (name, value) = match named {
            Some((name, value)) => (name.to_owned(), value),
            None => match unnamed.next() {
                Some(name) => (name.clone(), part.as_str()),
                None => {
                    let hint = format!("rows of `{}` are told apart by {}", model.name(), names.join(", "));
                    return Err(Mendable::error(format!("`{part}` is one value too many"), hint));
                }
            },
        };
        let data_type = schema.field_with_name(&name).map(|field| field.data_type().clone());
        let data_type = data_type.unwrap_or(DataType::Utf8);
        if value.eq_ignore_ascii_case("null") {
            parts.push(format!("({0} IS NULL OR CAST({0} AS VARCHAR) = {1})", quoted(&name), text(value)));
            continue;
        }
        let typed = cast(&StringArray::from(vec![value]), &data_type);
        if typed.is_err() || typed.is_ok_and(|typed| typed.is_null(0)) {
            let message = format!("`{value}` is not of type {}, which `{name}` is", FieldType::name_of(&data_type));
            return Err(Mendable::error(message, "name another column: `column=value`"));
        }
        parts.push(format!("{} = arrow_cast({}, '{data_type}')", quoted(&name), text(value)));
    }
    if parts.is_empty() {
        let hint = format!("give values of {}, or of other columns as `column=value`", names.join(", "));
        return Err(Mendable::error(format!("which row of `{}`?", model.name()), hint));
    }
    Ok(parts.join(" AND "))
}

/// Events that rows name themselves.
fn by_event_id(rows: &[RecordBatch], stream: &str, means: &str) -> Origins {
    let mut found = Origins::new();
    for batch in rows {
        let texts = |name: &str| -> Option<Vec<String>> {
            let column = batch.column_by_name(name)?;
            Some((0..batch.num_rows()).map(|row| array_value_to_string(column, row).unwrap_or_default()).collect())
        };
        let (ids, streams) = (texts("event_id").unwrap_or_default(), texts(EVENT_STREAM));
        for (row, id) in ids.into_iter().enumerate().filter(|(_, id)| !id.is_empty()) {
            let stream = streams.as_ref().map_or_else(|| stream.to_owned(), |streams| streams[row].clone());
            found.insert((stream, id, means.to_owned()));
        }
    }
    found
}

/// The durable keys of members, of which a dimension's rows have theirs second.
fn durable_keys(rows: &[RecordBatch]) -> BTreeSet<String> {
    let column = rows.iter().find_map(|batch| batch.schema().fields().get(1).map(|field| field.name().clone()));
    column.map(|column| whole_numbers(rows, &column)).unwrap_or_default()
}

/// The values of a column of whole numbers or times, as numbers.
fn whole_numbers(rows: &[RecordBatch], column: &str) -> BTreeSet<String> {
    let mut values = BTreeSet::new();
    for column in rows.iter().filter_map(|batch| batch.column_by_name(column)) {
        let Ok(numbers) = cast(column, &DataType::Int64) else { continue };
        values.extend(numbers.as_primitive::<Int64Type>().iter().flatten().map(|number| number.to_string()));
    }
    values
}

/// The values for `IN (…)`, which has none where there are none.
fn listed(values: &BTreeSet<String>) -> String {
    match values.is_empty() {
        true => "NULL".to_owned(),
        false => values.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn origins(batches: &[RecordBatch]) -> Origins {
    let mut found = Origins::new();
    for batch in batches {
        let cell = |column: usize, row: usize| array_value_to_string(batch.column(column), row).unwrap_or_default();
        found.extend((0..batch.num_rows()).map(|row| (cell(0, row), cell(1, row), cell(2, row))));
    }
    found
}

fn cells(batch: &RecordBatch, row: usize) -> String {
    let schema = batch.schema();
    let cell = |(name, column): (&String, &arrow::array::ArrayRef)| match column.is_null(row) {
        true => format!("{name}: null"),
        false => format!("{name}: {}", array_value_to_string(column, row).unwrap_or_default()),
    };
    let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    names.into_iter().zip(batch.columns()).map(cell).collect::<Vec<_>>().join(", ")
}

fn print(batches: &[RecordBatch], output: &Output) -> anyhow::Result<()> {
    let batches = batches.iter().map(|batch| readable(batch, usize::MAX)).collect::<anyhow::Result<Vec<_>>>()?;
    let schema: SchemaRef = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    let schema = wire::wire_schema(&schema);
    let batches = batches.iter().map(|batch| wire::wire_batch(batch, &schema)).collect::<Result<Vec<_>, _>>();
    output.data(&schema, &batches.context("could not show the events")?)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
