//! What a query sees: the newest catalog snapshot as tables of a DataFusion session.
//!
//! Products are pinned by the snapshot and cached with it. Raw events (`lake.<domain>.<stream>`) are read at the
//! newest version when a query first reads them, once per query, so that what was acknowledged can be read at once.
//!
//! Whoever works on the project also sees the models behind ports, and those that are none: `work.<domain>.<model>`, as
//! the snapshot pins them. Nothing is promised of these.
//!
//! What lists tables reads no stream and writes nothing: the columns of raw events are known without. A port whose log
//! is damaged is listed by its contract (`lazy`), a model by its definition, and only queries that read it are told.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider, TableProvider,
};
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use starmere_lake::Kind;
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::delta::Snapshot;
use starmere_lake::events;
use starmere_lake::provider::PinnedTable;
use starmere_marts::meaning::{Meaning, Port};
use starmere_sql::{ForeignKey, Plans, QueryError, TableInfo, TableKind, View, Views};
use tokio::sync::{Mutex, watch};

use self::lazy::{Damaged, RawEvents};
use self::port::PortTable;
use crate::project::Opened;
use crate::publish;

mod lazy;
mod port;

/// Opens views of a project's warehouse.
pub(crate) struct ProjectViews {
    opened: Opened,
    /// The definitions as they are: they say which streams there are.
    definitions: watch::Receiver<Opened>,
    /// Set up once; sessions share its functions and rules.
    base: SessionContext,
    /// The tables of the newest snapshot, as far as somebody has asked.
    cached: std::sync::Mutex<Option<Arc<Pinned>>>,
    /// Held by who opens the tables of a newer one.
    opening: Mutex<()>,
    /// The snapshot of which damage was logged last.
    told: AtomicU64,
    /// Models are there, too.
    shows_work: bool,
}

/// The tables of one snapshot.
struct Pinned {
    number: u64,
    catalogs: BTreeMap<String, Arc<dyn CatalogProvider>>,
    tables: Arc<[TableInfo]>,
    /// Plans over these tables.
    plans: Arc<Plans>,
    /// Every log could be read.
    is_whole: bool,
    at: Instant,
}

/// A log that is damaged is looked at again after this time, for it may be restored: not by each query, which would
/// wait for each other.
const LOOKS_AGAIN: Duration = Duration::from_secs(1);

impl Pinned {
    /// Whether it may be handed out for this snapshot.
    fn is_of(&self, snapshot: &CatalogSnapshot) -> bool {
        self.number == snapshot.number && (self.is_whole || self.at.elapsed() < LOOKS_AGAIN)
    }
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("number", &self.number).finish_non_exhaustive()
    }
}

impl ProjectViews {
    pub(crate) fn new(opened: &Opened) -> Self {
        // Of a channel that nobody writes to, the first value stays.
        Self::following(watch::channel(opened.clone()).1)
    }

    /// Views by definitions that may change.
    pub(crate) fn following(definitions: watch::Receiver<Opened>) -> Self {
        let opened = definitions.borrow().clone();
        let base = opened.engine.user_session();
        let (cached, opening, told) = (std::sync::Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { opened, definitions, base, cached, opening, told, shows_work: false }
    }

    /// The same views, with models as `work.<domain>.<model>`.
    pub(crate) fn with_work(self) -> Self {
        Self { shows_work: true, ..self }
    }

    /// The tables of this snapshot, where they are open.
    fn cached(&self, snapshot: &CatalogSnapshot) -> Option<Arc<Pinned>> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.as_ref().filter(|pinned| pinned.is_of(snapshot)).cloned()
    }

    /// The newest snapshot's tables: opened by one of those who ask at once.
    async fn newest_pinned(&self, snapshot: &CatalogSnapshot) -> anyhow::Result<Arc<Pinned>> {
        if let Some(pinned) = self.cached(snapshot) {
            return Ok(pinned);
        }
        let _opening = self.opening.lock().await;
        if let Some(pinned) = self.cached(snapshot) {
            return Ok(pinned);
        }
        let pinned = Arc::new(self.pin(snapshot).await?);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(pinned.clone());
        Ok(pinned)
    }

    /// Any snapshot's tables. Clients choose its number: nobody waits for them to be opened, and they wait for nobody.
    async fn pinned(&self, snapshot: &CatalogSnapshot) -> anyhow::Result<Arc<Pinned>> {
        match self.cached(snapshot) {
            Some(pinned) => Ok(pinned),
            None => Ok(Arc::new(self.pin(snapshot).await?)),
        }
    }

    /// The view over tables that are open. Only raw events are looked up anew for each query.
    fn over(&self, pinned: &Pinned) -> View {
        let list = MemoryCatalogProviderList::new();
        for (name, catalog) in &pinned.catalogs {
            list.register_catalog(name.clone(), catalog.clone());
        }
        let lake = Lake::new(&self.definitions.borrow());
        list.register_catalog("lake".into(), Arc::new(lake));
        let mut state = self.base.state();
        state.register_catalog_list(Arc::new(list));
        View {
            context: SessionContext::new_with_state(state),
            snapshot: pinned.number,
            tables: pinned.tables.clone(),
            plans: pinned.plans.clone(),
        }
    }

    async fn pin(&self, snapshot: &CatalogSnapshot) -> anyhow::Result<Pinned> {
        let meaning = Meaning::of(snapshot)?;
        let mut schemas: BTreeMap<(String, String), Arc<MemorySchemaProvider>> = BTreeMap::new();
        let (mut infos, mut damaged) = (Vec::new(), Vec::new());
        let mut newest: HashMap<(&str, &str), u32> = HashMap::new();
        for port in &meaning.ports {
            let version = newest.entry((&port.domain, &port.product)).or_default();
            *version = (*version).max(port.version);
        }
        for port in &meaning.ports {
            let Some(pin) = snapshot.tables.get(&port.table) else { continue };
            let table: Arc<dyn TableProvider> = match self.log(pin).await? {
                Ok(delta) => Arc::new(with_key(port, PinnedTable::new(self.opened.warehouse.store(), delta))),
                Err(error) => {
                    damaged.push(port.full_name());
                    Arc::new(Damaged::of_port(port, error)?)
                }
            };
            let plan = port::plan(port, table)?;
            let mut names = vec![(port.schema(), TableKind::Table)];
            if newest.get(&(port.domain.as_str(), port.product.as_str())) == Some(&port.version) {
                names.push((port.product.clone(), TableKind::View));
            }
            for (schema, kind) in names {
                let key = (port.domain.clone(), schema.clone());
                let tables = schemas.entry(key).or_insert_with(|| Arc::new(MemorySchemaProvider::new()));
                let info = info(port, schema, kind, plan.schema().inner());
                tables.register_table(port.name.clone(), Arc::new(PortTable::new(plan.clone(), &info)))?;
                infos.push(info);
            }
        }
        let models: Vec<_> = if self.shows_work { models_of(snapshot).collect() } else { Vec::new() };
        for (domain, name, pin) in models {
            let model = format!("{domain}.{name}");
            let table: Arc<dyn TableProvider> = match self.log(pin).await? {
                Ok(delta) => Arc::new(PinnedTable::new(self.opened.warehouse.store(), delta)),
                Err(error) => {
                    let full = format!("{WORK}.{model}");
                    let damage = Damaged::new(&full, &self.defined_columns(&model), error);
                    damaged.push(full);
                    Arc::new(damage)
                }
            };
            infos.push(TableInfo {
                catalog: WORK.into(),
                schema: domain.to_owned(),
                name: name.to_owned(),
                kind: TableKind::Table,
                arrow_schema: table.schema(),
                description: meaning.models.iter().find(|of| of.name == model).and_then(|of| of.description.clone()),
                primary_key: Vec::new(),
                foreign_keys: Vec::new(),
            });
            let tables = schemas.entry((WORK.into(), domain.to_owned()));
            tables.or_insert_with(|| Arc::new(MemorySchemaProvider::new())).register_table(name.to_owned(), table)?;
        }
        for stream in &meaning.streams {
            if let [_, domain, name] = stream.name.split('.').collect::<Vec<_>>().as_slice() {
                infos.push(TableInfo {
                    catalog: "lake".into(),
                    schema: (*domain).to_owned(),
                    name: (*name).to_owned(),
                    kind: TableKind::Table,
                    arrow_schema: events::table_schema().clone(),
                    description: stream.description.clone(),
                    primary_key: Vec::new(),
                    foreign_keys: Vec::new(),
                });
            }
        }
        let system = Arc::new(MemorySchemaProvider::new());
        let about: [(&str, RecordBatch); 2] =
            [("tables", tables_table(snapshot, &meaning)?), ("columns", columns_table(&meaning)?)];
        for (name, batch) in about {
            let schema = batch.schema();
            system.register_table(name.into(), Arc::new(MemTable::try_new(schema.clone(), vec![vec![batch]])?))?;
            infos.push(TableInfo {
                catalog: "system".into(),
                schema: "catalog".into(),
                name: name.into(),
                kind: TableKind::System,
                arrow_schema: schema,
                description: None,
                primary_key: Vec::new(),
                foreign_keys: Vec::new(),
            });
        }
        schemas.insert(("system".into(), "catalog".into()), system);
        let mut catalogs: BTreeMap<String, Arc<dyn CatalogProvider>> = BTreeMap::new();
        for ((domain, schema), tables) in schemas {
            let catalog = catalogs.entry(domain).or_insert_with(|| Arc::new(MemoryCatalogProvider::new()));
            catalog.register_schema(&schema, tables)?;
        }
        if !damaged.is_empty() && self.told.swap(snapshot.number, Ordering::Relaxed) != snapshot.number {
            let ports = damaged.join(", ");
            tracing::error!(snapshot = snapshot.number, %ports, "the logs of published tables are damaged");
        }
        let (number, is_whole) = (snapshot.number, damaged.is_empty());
        Ok(Pinned { number, catalogs, tables: infos.into(), plans: Arc::default(), is_whole, at: Instant::now() })
    }

    /// What the log of a pinned table says, or how it is damaged.
    async fn log(&self, pin: &Pin) -> anyhow::Result<Result<Arc<Snapshot>, starmere_lake::Error>> {
        match self.opened.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await {
            Err(error) if !matches!(error.kind(), Kind::Corrupt | Kind::Invalid) => Err(error.into()),
            log => Ok(log),
        }
    }

    /// The columns of a model as the definitions have them; none where it is gone.
    fn defined_columns(&self, model: &str) -> SchemaRef {
        let opened = self.definitions.borrow();
        let mut models = opened.project.models.models.iter();
        let found = models.find(|defined| defined.name().to_string() == model);
        found.map_or_else(|| Arc::new(Schema::empty()), |defined| defined.schema())
    }
}

/// The catalog of models.
const WORK: &str = "work";

/// The models of a snapshot: domain, name, and the table of their rows.
fn models_of(snapshot: &CatalogSnapshot) -> impl Iterator<Item = (&str, &str, &Pin)> {
    snapshot.tables.iter().filter_map(|(table, pin)| {
        let (domain, name) = table.split_once('.')?;
        // Streams have three names, and other tables of a model stand below it.
        (!name.contains(['.', '/'])).then_some((domain, name, pin))
    })
}

#[async_trait]
impl Views for ProjectViews {
    async fn newest(&self) -> Result<View, QueryError> {
        let snapshot = self.opened.catalog.newest_shared().await.map_err(lake)?;
        let pinned = self.newest_pinned(&snapshot).await.map_err(failed)?;
        Ok(self.over(&pinned))
    }

    async fn at(&self, number: u64) -> Result<View, QueryError> {
        // Before the first one was published, there was an empty one.
        let snapshot = match number {
            0 => Arc::default(),
            _ => match self.opened.catalog.at_shared(number).await {
                Err(missing @ starmere_lake::Error::Missing { .. }) => {
                    let there = self.opened.catalog.numbers().await.map_err(lake)?;
                    return Err(lake(missing).with_hint(publish::instead_of(number, &there)));
                }
                snapshot => snapshot.map_err(lake)?,
            },
        };
        let pinned = self.pinned(&snapshot).await.map_err(failed)?;
        Ok(self.over(&pinned))
    }
}

fn failed(error: anyhow::Error) -> QueryError {
    QueryError::internal(format!("{error:#}"))
}

fn lake(error: starmere_lake::Error) -> QueryError {
    let message = error.to_string();
    let told = match error.kind() {
        Kind::Invalid => QueryError::not_found(message),
        Kind::Unavailable | Kind::Conflict => QueryError::unavailable(message),
        _ => QueryError::internal(message),
    };
    let told = match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    };
    told.caused_by(error)
}

/// The model's table with what the contract says of keys, which was checked before publishing.
fn with_key(port: &Port, table: PinnedTable) -> PinnedTable {
    match port.primary_key.as_slice() {
        [key] => match port.columns.iter().find(|column| column.name == *key && !column.nullable) {
            Some(column) => table.with_unique(&column.from),
            None => table,
        },
        _ => table,
    }
}

fn info(port: &Port, schema: String, kind: TableKind, columns: &SchemaRef) -> TableInfo {
    let fields: Vec<Field> = columns
        .fields()
        .iter()
        .zip(&port.columns)
        .map(|(field, column)| {
            let words = [("description", &column.description), ("means", &column.means)];
            let words = words.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.clone()?)));
            Field::new(&column.name, field.data_type().clone(), column.nullable).with_metadata(words.collect())
        })
        .collect();
    TableInfo {
        catalog: port.domain.clone(),
        schema,
        name: port.name.clone(),
        kind,
        arrow_schema: Arc::new(Schema::new(fields)),
        description: port.description.clone(),
        primary_key: port.primary_key.clone(),
        foreign_keys: port
            .foreign_keys
            .iter()
            .map(|key| ForeignKey {
                columns: key.columns.clone(),
                to: key.to.clone(),
                to_columns: key.to_columns.clone(),
            })
            .collect(),
    }
}

fn text(values: Vec<Option<String>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

fn tables_table(snapshot: &CatalogSnapshot, meaning: &Meaning) -> Result<RecordBatch, arrow::error::ArrowError> {
    let described = |name: &str| meaning.models.iter().chain(&meaning.streams).find(|described| described.name == name);
    let tables: Vec<_> = snapshot.tables.iter().collect();
    let versions: Int64Array = tables.iter().map(|(_, pin)| Some(pin.version as i64)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("name", text(tables.iter().map(|(name, _)| Some((*name).clone())).collect())),
        (
            "kind",
            text(tables.iter().map(|(name, _)| described(name).map(|described| described.kind.clone())).collect()),
        ),
        ("path", text(tables.iter().map(|(_, pin)| Some(pin.path.to_string())).collect())),
        ("version", Arc::new(versions)),
        ("description", text(tables.iter().map(|(name, _)| described(name)?.description.clone()).collect())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
}

fn columns_table(meaning: &Meaning) -> Result<RecordBatch, arrow::error::ArrowError> {
    let all: Vec<_> =
        meaning.ports.iter().flat_map(|port| port.columns.iter().map(move |column| (port, column))).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("port", text(all.iter().map(|(port, _)| Some(port.full_name())).collect())),
        ("name", text(all.iter().map(|(_, column)| Some(column.name.clone())).collect())),
        ("type", text(all.iter().map(|(_, column)| Some(column.data_type.clone())).collect())),
        ("nullable", text(all.iter().map(|(_, column)| Some(column.nullable.to_string())).collect())),
        ("means", text(all.iter().map(|(_, column)| column.means.clone()).collect())),
        ("description", text(all.iter().map(|(_, column)| column.description.clone()).collect())),
        ("key", text(all.iter().map(|(port, column)| port.key_of(&column.name)).collect())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
}

/// Raw events: one schema a domain, one table a stream.
#[derive(Debug)]
struct Lake {
    schemas: BTreeMap<String, Arc<LakeSchema>>,
}

impl Lake {
    fn new(opened: &Opened) -> Self {
        let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for parsed in &opened.project.streams {
            streams.entry(parsed.definition.domain.to_string()).or_default().push(parsed.definition.stream.to_string());
        }
        let of = |(domain, streams): (String, Vec<String>)| {
            (domain, Arc::new(LakeSchema { opened: opened.clone(), streams, named: Mutex::default() }))
        };
        Self { schemas: streams.into_iter().map(of).collect() }
    }
}

impl CatalogProvider for Lake {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schemas.get(name).map(|schema| schema.clone() as Arc<dyn SchemaProvider>)
    }
}

#[derive(Debug)]
struct LakeSchema {
    opened: Opened,
    streams: Vec<String>,
    /// Streams that the query has named: each is read at one version.
    named: Mutex<HashMap<String, Arc<RawEvents>>>,
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        self.streams.clone()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if !self.table_exist(name) {
            return Ok(None);
        }
        let mut named = self.named.lock().await;
        let table = named.entry(name.to_owned()).or_insert_with(|| Arc::new(RawEvents::new(&self.opened, name)));
        Ok(Some(table.clone()))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.streams.iter().any(|stream| stream == name)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::project::Project;

    #[tokio::test]
    async fn who_asks_for_an_earlier_snapshot_waits_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("starmere.yaml"), "project: p\nwarehouse: memory://\n").unwrap();
        let views = ProjectViews::new(&Project::load(folder.path()).unwrap().open(None).unwrap());
        // Somebody opens the tables of the newest one.
        let opening = views.opening.lock().await;
        let earlier = views.at(0).now_or_never().expect("it waits for somebody").unwrap();
        assert_eq!(earlier.snapshot, 0);
        drop(opening);
        assert_eq!(views.newest().await.unwrap().snapshot, 0);
        let none = views.at(999).await.expect_err("there is no such snapshot");
        assert_eq!(none.hint(), Some("nothing was published yet"));
    }
}
