//! Tests in a project: given events, expect rows; in memory.
//!
//! ```text
//! given ─► land, step by step, with a build after each ─► rows of the models expected ─► cells that differ
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::util::display::array_value_to_string;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::prelude::SessionContext;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use starmere_ingest::envelope::Reader;
use starmere_ingest::rows::Batch;
use starmere_lake::delta::Warehouse;
use starmere_lake::formats::Incoming;
use starmere_lake::landing::{Outcome, SourcePartition, Stream};
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_lake::store::Store;
use starmere_models::build::{Builder, Built, Progress, Watch};
use starmere_models::define::{ModelName, Parsed, Placed, Problem, suggestion};
use starmere_models::rejects;
use starmere_models::resolve::{Model, Models};

use crate::project::{Project, mapping};

/// `domains/<domain>/tests/*.yaml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestFile {
    /// What is tested, in words.
    pub(crate) test: Placed<String>,
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// Payloads by stream; what stands in one step lands together, and everything is built after it.
    pub(crate) given: Vec<Placed<IndexMap<String, Vec<Value>>>>,
    /// All rows of models, by the columns that matter. In a fact, a role stands for its dimension's row:
    /// `customer: { city: Bern }`.
    #[serde(default)]
    pub(crate) expect: IndexMap<String, Rows>,
    /// All events that models, or streams, reject, by what matters of `event_id`, `reason` and where they are in the lake.
    #[serde(default)]
    pub(crate) rejects: IndexMap<String, Rows>,
}

/// A row that is expected, by the columns that matter.
type Row = Placed<IndexMap<String, Value>>;

/// All rows of a model.
type Rows = Placed<Vec<Row>>;

/// A test and its domain.
pub(crate) type Test = (String, Parsed<TestFile>);

/// So many rejected events are told of where a model's rows are others than expected.
const MOST_TOLD: usize = 3;

/// So many rows of a model that differ are told.
const MOST_DIFFERENCES: usize = 20;

/// When the events of tests land: it decides nothing.
const LANDED_AT: i64 = 1_704_067_200_000_000;

/// Runs all tests of the project, some side by side; what is wrong, in order.
pub(crate) async fn run(project: &Arc<Project>, at_once: usize) -> anyhow::Result<Vec<Problem>> {
    use futures::{StreamExt, TryStreamExt};
    let tests = 0..project.tests.len();
    let running = futures::stream::iter(tests).map(|number| {
        let project = project.clone();
        tokio::spawn(async move { one(&project, &project.tests[number]).await })
    });
    let problems: Vec<Vec<Problem>> =
        running.buffered(at_once.max(1)).err_into::<anyhow::Error>().try_collect().await?;
    Ok(problems.into_iter().flatten().collect())
}

async fn one(project: &Project, (domain, parsed): &Test) -> Vec<Problem> {
    let place = parsed.definition.test.place(&parsed.file);
    match Running::new(project, domain, parsed) {
        Err(problems) => problems,
        Ok(running) => running
            .run()
            .await
            .unwrap_or_else(|error| vec![Problem::new(place, format!("`{}`: {error:#}", *parsed.definition.test))]),
    }
}

struct Quiet;

impl Watch for Quiet {
    fn begun(&self, _: &Model, _: &Arc<Progress>) {}
    fn done(&self, _: &Model, _: &Built) {}
}

struct Running<'a> {
    project: &'a Project,
    parsed: &'a Parsed<TestFile>,
    models: Models,
    expected: Vec<(ModelName, &'a Rows)>,
    rejects: Vec<(Rejects, &'a Rows)>,
}

/// Who rejects events.
enum Rejects {
    Model(ModelName),
    /// Of a domain.
    Stream(String, String),
}

impl Rejects {
    /// The name of the table of what is rejected.
    fn table(&self) -> String {
        match self {
            Self::Model(name) => format!("test.\"{}\".\"{}/rejects\"", name.domain, name.name),
            Self::Stream(domain, stream) => format!(
                "(SELECT '{stream}' AS stream, rejection AS reason, * FROM test.lake.\"{domain}.{stream}\" \
                 WHERE rejection IS NOT NULL)"
            ),
        }
    }
}

/// A column that is compared: of the model's rows, or of the dimension in a role.
struct Compared {
    name: String,
    sql: String,
}

impl<'a> Running<'a> {
    fn new(project: &'a Project, domain: &str, parsed: &'a Parsed<TestFile>) -> Result<Self, Vec<Problem>> {
        let (file, file_name) = (&parsed.definition, parsed.file.as_str());
        let mut problems = Vec::new();
        for step in &file.given {
            for stream in step.keys().filter(|stream| !project.models.streams.contains_key(*stream)) {
                let hint = suggestion(stream, project.models.streams.keys().map(String::as_str));
                problems.push(Problem::new(step.place(file_name), format!("there is no stream `{stream}`")).hint(hint));
            }
        }
        if file.expect.is_empty() && file.rejects.is_empty() {
            let hint = "say under `expect` which rows models have, or under `rejects` which events they reject";
            problems.push(Problem::new(file.test.place(file_name), "the test expects nothing").hint(hint));
        }
        let named = |name: &str| match name.split_once('.') {
            Some((domain, name)) => ModelName::new(domain, name),
            None => ModelName::new(domain, name),
        };
        let models = &project.models.models;
        let known = |model: &Model| match model.name() {
            own if own.domain == domain => own.name.clone(),
            other => other.to_string(),
        };
        let mut expected = Vec::new();
        for (name, rows) in &file.expect {
            let full = named(name);
            if project.models.get(&full).is_none() {
                let known: Vec<String> = models.iter().map(known).collect();
                let hint = suggestion(name, known.iter().map(String::as_str));
                problems.push(Problem::new(rows.place(file_name), format!("there is no model `{full}`")).hint(hint));
            }
            expected.push((full, rows));
        }
        let mut rejects = Vec::new();
        for (name, rows) in &file.rejects {
            let full = named(name);
            let reads_events = |model: &&Model| matches!(model, Model::Fact(_) | Model::Dimension(_));
            match (project.models.get(&full).filter(reads_events), project.models.streams.get(name)) {
                (Some(_), _) => rejects.push((Rejects::Model(full), rows)),
                (None, Some(stream)) => rejects.push((Rejects::Stream(stream.domain.clone(), name.clone()), rows)),
                (None, None) => {
                    let known: Vec<String> = models.iter().filter(reads_events).map(known).collect();
                    let streams = project.models.streams.keys().map(String::as_str);
                    let hint = suggestion(name, known.iter().map(String::as_str).chain(streams));
                    let message = format!("no fact, dimension or stream `{name}` reads events");
                    problems.push(Problem::new(rows.place(file_name), message).hint(hint));
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let (mut names, mut streams) = (BTreeSet::new(), BTreeSet::new());
        names.extend(expected.iter().map(|(name, _)| name.clone()));
        for (of, _) in &rejects {
            match of {
                Rejects::Model(name) => _ = names.insert(name.clone()),
                Rejects::Stream(_, stream) => _ = streams.insert(stream.as_str()),
            }
        }
        let models = needed(&project.models, names, streams);
        Ok(Self { project, parsed, models, expected, rejects })
    }

    async fn run(&self) -> anyhow::Result<Vec<Problem>> {
        let warehouse = Warehouse::new(Store::memory());
        let (file, file_name) = (&self.parsed.definition, self.parsed.file.as_str());
        for step in &file.given {
            for (stream, payloads) in &step.value {
                self.land(&warehouse, stream, payloads).await?;
            }
            Builder::new(&warehouse, &self.models, false).await?.build(&self.models, &Quiet).await?;
        }
        let session = self.session(&warehouse).await?;
        let mut problems = Vec::new();
        let told = |name: &str, rows: &Rows, wrong: Result<Vec<Difference>, (usize, String)>| {
            let wrong = wrong.unwrap_or_else(|(row, message)| vec![(Some(row), message)]);
            let place = |row: Option<usize>| match row {
                Some(row) => rows[row].place(file_name),
                None => rows.place(file_name),
            };
            let message = |message: String| format!("`{}`: {name}: {message}", *file.test);
            let more = wrong.len().saturating_sub(MOST_DIFFERENCES);
            let told = wrong.into_iter().take(MOST_DIFFERENCES);
            let mut told: Vec<_> = told.map(|(row, words)| Problem::new(place(row), message(words))).collect();
            if more > 0 {
                told.push(Problem::new(rows.place(file_name), message(format!("and {more} more rows differ"))));
            }
            told
        };
        for (name, rows) in &self.expected {
            let columns = match self.compared(name, rows, file_name) {
                Ok(columns) => columns,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let found = self.found(&session, name, &columns).await?;
            let mut wrong = told(&name.name, rows, differences(&columns, rows, &found));
            if let Some(problem) = wrong.pop() {
                problems.extend(wrong);
                problems.push(self.with_rejects(&session, name, problem).await?);
            }
        }
        for (of, rows) in &self.rejects {
            let name = match of {
                Rejects::Model(name) => format!("rejects of {}", name.name),
                Rejects::Stream(_, stream) => format!("rejects of {stream}"),
            };
            match of_rejects(rows, file_name) {
                Ok(columns) => {
                    let listed: Vec<&str> = columns.iter().map(|column| column.sql.as_str()).collect();
                    let query = format!("SELECT {} FROM {} AS rows", listed.join(", "), of.table());
                    let found = session.sql(&query).await?.collect().await?;
                    problems.extend(told(&name, rows, differences(&columns, rows, &found)));
                }
                Err(problem) => problems.push(problem),
            }
        }
        Ok(problems)
    }

    /// What is wrong with a model's rows, and what it rejected, which may be why.
    async fn with_rejects(
        &self,
        session: &SessionContext,
        name: &ModelName,
        problem: Problem,
    ) -> anyhow::Result<Problem> {
        if self.rejects.iter().any(|(of, _)| matches!(of, Rejects::Model(rejecting) if rejecting == name)) {
            return Ok(problem);
        }
        let Some(Model::Fact(_) | Model::Dimension(_)) = self.models.get(name) else { return Ok(problem) };
        let query = format!(
            "SELECT event_id, reason FROM {} ORDER BY 1 NULLS FIRST, 2 LIMIT {MOST_TOLD}",
            Rejects::Model(name.clone()).table()
        );
        let mut words = Vec::new();
        for batch in session.sql(&query).await?.collect().await? {
            for row in 0..batch.num_rows() {
                let [event, reason] = [0, 1].map(|column| array_value_to_string(batch.column(column), row));
                words.push(format!("event `{}` was rejected: {}", event?, reason?));
            }
        }
        Ok(if words.is_empty() { problem } else { problem.hint(words.join("; ")) })
    }

    async fn land(&self, warehouse: &Warehouse, stream: &str, payloads: &[Value]) -> anyhow::Result<()> {
        let parsed = self.project.streams.iter().find(|parsed| *parsed.definition.stream == stream);
        let Some(parsed) = parsed else { anyhow::bail!("there is no stream `{stream}`") };
        let file = &parsed.definition;
        let table = warehouse.table(TablePath::stream(&file.domain, &file.stream));
        let stream = Stream::new(&file.stream, table);
        let snapshot = stream.open().await?;
        let mut reader = Reader::new(mapping(file), &Arc::default());
        let mut batch = Batch::landed_at(LANDED_AT);
        let partition = SourcePartition { source: "test".into(), topic: "given".into(), incarnation: 0, partition: 0 };
        let from = stream.position(&snapshot, &partition).unwrap_or_default();
        batch.begin(partition, from);
        for (position, payload) in (from..).zip(payloads) {
            // A text is a payload as it stands.
            let text = payload.as_str().map_or_else(|| payload.to_string(), str::to_owned);
            batch.push(&mut reader, &Incoming::of(text.as_bytes()), position, position + 1, None)?;
        }
        let batch = batch.finish()?;
        match batch.land(&stream).await? {
            Outcome::Landed(_) => Ok(()),
            Outcome::Behind(_) => anyhow::bail!("events of `{}` could not be landed", stream.name()),
        }
    }

    /// A session with the tables of all models.
    async fn session(&self, warehouse: &Warehouse) -> anyhow::Result<SessionContext> {
        let pins = Builder::new(warehouse, &self.models, false).await?.build(&self.models, &Quiet).await?;
        let session = SessionContext::new();
        let catalog = Arc::new(MemoryCatalogProvider::new());
        let register = |domain: &str, name: &str, snapshot| -> anyhow::Result<()> {
            if catalog.schema(domain).is_none() {
                catalog.register_schema(domain, Arc::new(MemorySchemaProvider::new()))?;
            }
            if let Some(schema) = catalog.schema(domain) {
                schema.register_table(name.to_owned(), Arc::new(PinnedTable::new(warehouse.store(), snapshot)))?;
            }
            Ok(())
        };
        for (name, pin) in &pins {
            let Some((domain, name)) = name.split_once('.') else { continue };
            register(domain, name, warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?)?;
        }
        session.runtime_env().register_object_store(warehouse.store().url(), warehouse.store().objects().clone());
        session.register_catalog("test", catalog);
        Ok(session)
    }

    /// The columns that the rows speak of.
    fn compared(&self, name: &ModelName, rows: &[Row], file_name: &str) -> Result<Vec<Compared>, Problem> {
        let mut columns: Vec<Compared> = Vec::new();
        let Some(model) = self.models.get(name) else { return Ok(columns) };
        let schema = model.schema();
        let shape = model.shape();
        if rows.is_empty() {
            // Whatever is there is shown by what tells it apart.
            let own = |name: &str| Compared { name: name.to_owned(), sql: format!("rows.\"{name}\"") };
            return Ok(model.told_apart_by().iter().map(|name| own(name)).collect());
        }
        for row in rows {
            for (column, value) in &row.value {
                let role = shape.iter().flat_map(|shape| &shape.roles).find(|(role, _)| role == column);
                match (role, value) {
                    (Some((role, dimension)), Value::Object(attributes)) => {
                        let schema = self.models.get(dimension).map(Model::schema);
                        for attribute in attributes.keys() {
                            let fields = schema.iter().flat_map(|schema| schema.fields()).map(|field| field.name());
                            if !fields.clone().any(|field| field == attribute) {
                                let hint = suggestion(attribute, fields.map(String::as_str));
                                let message = format!("`{dimension}` has no column `{attribute}`");
                                return Err(Problem::new(row.place(file_name), message).hint(hint));
                            }
                            let full = format!("{role}.{attribute}");
                            if !columns.iter().any(|known| known.name == full) {
                                columns.push(Compared { name: full, sql: format!("\"{role}\".\"{attribute}\"") });
                            }
                        }
                    }
                    _ if schema.field_with_name(column).is_ok() => {
                        if !columns.iter().any(|known| known.name == *column) {
                            columns.push(Compared { name: column.clone(), sql: format!("rows.\"{column}\"") });
                        }
                    }
                    (Some(_), _) => {
                        let message = format!("`{column}` is the role of a dimension, whose row is expected");
                        let hint = format!("write `{column}: {{ … }}` with its attributes, or `{column}_key: …`");
                        return Err(Problem::new(row.place(file_name), message).hint(hint));
                    }
                    _ => {
                        let roles = shape.iter().flat_map(|shape| &shape.roles).map(|(role, _)| role.as_str());
                        let known = schema.fields().iter().map(|field| field.name().as_str()).chain(roles);
                        let message = format!("`{name}` has no column `{column}`");
                        return Err(Problem::new(row.place(file_name), message).hint(suggestion(column, known)));
                    }
                }
            }
        }
        Ok(columns)
    }

    /// The model's rows, by these columns; members that stand for none are left out.
    async fn found(
        &self,
        session: &SessionContext,
        name: &ModelName,
        columns: &[Compared],
    ) -> anyhow::Result<Vec<RecordBatch>> {
        let quoted = |name: &ModelName| format!("test.\"{}\".\"{}\"", name.domain, name.name);
        let Some(model) = self.models.get(name) else { return Ok(Vec::new()) };
        let listed: Vec<&str> = columns.iter().map(|column| column.sql.as_str()).collect();
        let listed = if listed.is_empty() { "1".to_owned() } else { listed.join(", ") };
        let mut text = format!("SELECT {listed} FROM {} AS rows", quoted(name));
        for (role, dimension) in model.shape().iter().flat_map(|shape| &shape.roles) {
            if columns.iter().any(|column| column.name.starts_with(&format!("{role}."))) {
                text += &format!(
                    " JOIN {} AS \"{role}\" ON \"{role}\".\"{}_key\" = rows.\"{role}_key\"",
                    quoted(dimension),
                    dimension.name
                );
            }
        }
        let key = format!("{}_key", name.name);
        if model.shape().is_none() && model.schema().field_with_name(&key).is_ok() {
            text += &format!(" WHERE rows.\"{key}\" > 0");
        }
        Ok(session.sql(&text).await?.collect().await?)
    }
}

/// The columns of rejects that the rows speak of; what tells them apart, where they speak of none.
fn of_rejects(rows: &[Row], file_name: &str) -> Result<Vec<Compared>, Problem> {
    let schema = rejects::schema();
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        for name in row.keys() {
            if schema.field_with_name(name).is_err() {
                let hint = suggestion(name, schema.fields().iter().map(|field| field.name().as_str()));
                return Err(Problem::new(row.place(file_name), format!("rejects have no `{name}`")).hint(hint));
            }
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    if names.is_empty() {
        names.extend(["event_id", "reason"]);
    }
    let column = |name: &str| Compared { name: name.to_owned(), sql: format!("rows.\"{name}\"") };
    Ok(names.into_iter().map(column).collect())
}

/// The models and streams named, and all that the models are made of.
fn needed(models: &Models, mut wanted: BTreeSet<ModelName>, named: BTreeSet<&str>) -> Models {
    loop {
        let inputs = models.models.iter().filter(|model| wanted.contains(model.name())).flat_map(|model| {
            let roles = model.shape().into_iter().flat_map(|shape| shape.roles).map(|(_, dimension)| dimension);
            model.inputs().into_iter().cloned().chain(roles).collect::<Vec<_>>()
        });
        let more: BTreeSet<ModelName> = inputs.filter(|input| !wanted.contains(input)).collect();
        if more.is_empty() {
            break;
        }
        wanted.extend(more);
    }
    let mut needed = models.clone();
    needed.models.retain(|model| wanted.contains(model.name()));
    let streams: BTreeSet<String> = needed.models.iter().flat_map(Model::streams).map(str::to_owned).collect();
    needed.streams.retain(|name, _| streams.contains(name) || named.contains(name.as_str()));
    needed
}

/// The row expected, and how the one found differs.
type Difference = (Option<usize>, String);

/// Cells of a row, as texts; none where there is no value.
type Cells = Vec<Option<String>>;

/// How the rows found differ from those expected, each with the row expected; or the cell that cannot be.
fn differences(
    columns: &[Compared],
    expected: &[Row],
    found: &[RecordBatch],
) -> Result<Vec<Difference>, (usize, String)> {
    let mut left: Vec<Cells> = Vec::new();
    for batch in found {
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayRef| match column.is_null(row) {
                true => None,
                false => array_value_to_string(column, row).ok(),
            };
            left.push(batch.columns().iter().take(columns.len()).map(cell).collect());
        }
    }
    let types: Vec<Option<arrow::datatypes::DataType>> =
        (0..columns.len()).map(|column| found.first().map(|batch| batch.column(column).data_type().clone())).collect();
    // None: the row does not speak of the column.
    let mut wanted: Vec<(usize, Vec<Option<Option<String>>>)> = Vec::new();
    for (number, row) in expected.iter().enumerate() {
        let mut cells = Vec::new();
        for (column, data_type) in columns.iter().zip(&types) {
            let value = match column.name.split_once('.') {
                Some((role, attribute)) => row.get(role).and_then(|of| of.get(attribute)),
                None => row.get(&column.name),
            };
            let text = value.map(|value| shown(value, data_type.as_ref())).transpose();
            cells.push(text.map_err(|message| (number, format!("`{}`: {message}", column.name)))?);
        }
        wanted.push((number, cells));
    }
    let misfit = |wanted: &[Option<Option<String>>], found: &Cells| {
        wanted
            .iter()
            .zip(found)
            .filter(|(wanted, found)| wanted.as_ref().is_some_and(|wanted| wanted != *found))
            .count()
    };
    // Rows that are as expected first, those that speak of most before others.
    wanted.sort_by_key(|(number, cells)| (std::cmp::Reverse(cells.iter().flatten().count()), *number));
    wanted.retain(|(_, cells)| match left.iter().position(|found| misfit(cells, found) == 0) {
        Some(place) => {
            left.swap_remove(place);
            false
        }
        None => true,
    });
    wanted.sort_by_key(|(number, _)| *number);
    let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "null".to_owned());
    let mut wrong = Vec::new();
    for (number, cells) in wanted {
        let nearest = (0..left.len()).min_by_key(|&place| misfit(&cells, &left[place]));
        let Some(nearest) =
            nearest.filter(|&place| misfit(&cells, &left[place]) < cells.iter().flatten().count().max(1))
        else {
            wrong.push((Some(number), "there is no such row".to_owned()));
            continue;
        };
        let found = left.swap_remove(nearest);
        let words = columns.iter().zip(cells.iter().zip(&found)).filter_map(|(column, (wanted, found))| {
            let wanted = wanted.as_ref().filter(|wanted| *wanted != found)?;
            Some(format!("`{}` is {}, not {}", column.name, cell(found), cell(wanted)))
        });
        wrong.push((Some(number), words.collect::<Vec<_>>().join("; ")));
    }
    for row in left {
        let words = columns.iter().zip(&row).map(|(column, found)| format!("{}: {}", column.name, cell(found)));
        wrong.push((None, format!("there is another row: {}", words.collect::<Vec<_>>().join(", "))));
    }
    Ok(wrong)
}

/// A value as the column would show it.
fn shown(value: &Value, data_type: Option<&arrow::datatypes::DataType>) -> Result<Option<String>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let Some(data_type) = data_type else { return Ok(Some(text)) };
    let array: ArrayRef = Arc::new(StringArray::from(vec![text.clone()]));
    let array = cast(&array, data_type).unwrap_or_else(|_| new_null_array(data_type, 1));
    if array.is_null(0) {
        return Err(format!("`{text}` is not of type {}", starmere_models::define::FieldType::name_of(data_type)));
    }
    array_value_to_string(&array, 0).map(Some).map_err(|error| error.to_string())
}
