//! Building: what is out of date, and bringing it up to date.
//!
//! A build pins the newest version of every stream, then brings every model to exactly these versions: change logs
//! and versions of dimensions first, then facts. Each table's commit says what it has consumed, so a build that
//! died is run again and skips what is finished. What it returns is for the publisher to put into one catalog
//! snapshot; until then no reader sees any of it.
//!
//! A model whose streams were reread since it was published is filled from the lake again, see [`crate::reread`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use chrono::NaiveDate;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::delta::{FileOptions, Snapshot, Table, Warehouse};
use starmere_lake::events as lake_events;
use starmere_lake::paths::TablePath;
use starmere_lake::reread::reread_at;
use starmere_lake::session::Engine;
use starmere_lake::upkeep::cut_of;
use tokio::sync::{Mutex, OnceCell};

use crate::define::ModelName;
use crate::derived::{Change, Derived};
pub use crate::derived::{DEFINITION, consumed};
use crate::dimension::{self, Index};
use crate::events::{EventChanges, Limits, Payloads, changes};
use crate::fact::{self, Fact, Mentioned, Room, Staging};
use crate::reread::Rereads;
use crate::resolve::{GeneratedModel, Model, Models};
use crate::sql_model;
use crate::{Error, Result};

/// What building one model came to.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// Events that were read.
    pub rows_read: u64,
    /// Rows that were made.
    pub rows_written: u64,
    /// Rows of before that changed, by why.
    pub mended: BTreeMap<String, u64>,
    /// Rows that the model has now.
    pub rows: u64,
    /// Rows of rejects that it has now.
    pub rejects: u64,
    /// The tables of the model, by their names in the catalog.
    pub pins: BTreeMap<String, Pin>,
}

/// Told of what happens, for whoever shows it.
pub trait Watch: Send + Sync {
    /// A model is being built, and comes as far as that says.
    fn begun(&self, model: &Model, progress: &Arc<Progress>);
    /// A model is up to date.
    fn done(&self, model: &Model, built: &Built);
}

/// How far the building of a model has come.
#[derive(Debug, Default)]
pub struct Progress {
    doing: std::sync::Mutex<&'static str>,
    done: AtomicU64,
    of: AtomicU64,
}

impl Progress {
    /// Now it does something else, of so much.
    pub(crate) fn begin(&self, doing: &'static str, of: u64) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
    }

    /// So much more of it is done.
    pub(crate) fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    /// What it does, and how much of it is done, between 0 and 1.
    pub fn now(&self) -> (&'static str, f64) {
        let (done, of) = (self.done.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed));
        let share = if of == 0 { 0.0 } else { done as f64 / of as f64 };
        (*self.doing.lock().unwrap_or_else(PoisonError::into_inner), share.min(1.0))
    }
}

/// So many models are built side by side, while there is memory for them.
const SIDE_BY_SIDE: usize = 4;
/// What a row takes that is read and made into others, about.
const BYTES_OF_A_ROW: u64 = 1 << 10;
/// What a SELECT takes at most, beside the memory that queries share: columns on their way from the store, rows on their way
/// into files. Where all of its rows are made, there are more of these.
const BYTES_OF_A_SELECT: u64 = 128 << 20;
const BYTES_OF_A_FILL: u64 = 512 << 20;
/// So many bytes of events, unpacked, are read at once by each of those who read: a file of the lake as a rule.
const READ_AT_ONCE: usize = 96 << 20;
/// Files of the lake whose ids are read side by side.
const IDS_SIDE_BY_SIDE: usize = 4;
/// Memory of a build, unless it is told another number.
const MEMORY: u64 = 2 << 30;

/// A stream, and the version after which its events are new.
type Since = (String, Option<u64>);

/// A stream at a version.
#[derive(Debug)]
struct Input {
    /// As the catalog calls it.
    name: String,
    table: Table,
    version: u64,
    rows: u64,
    payloads: Arc<Payloads>,
    /// The last version by which rows that had landed were read anew.
    reread: Option<u64>,
    /// What landed before this day is forgotten, and nobody has accepted that.
    cut: Option<NaiveDate>,
    /// Models may be built from what is left of it.
    is_accepted: bool,
}

/// Everything a build reads from: streams at a version each.
#[derive(Debug)]
pub struct Builder {
    warehouse: Warehouse,
    streams: BTreeMap<String, Input>,
    /// Instead of what is published: tables that are filled from the lake, aside.
    aside: Option<String>,
    /// What follows the fingerprint in the paths of a model's tables, and the name of what is filled aside: that of published
    /// tables that are gone on with, or of the rereads of its streams.
    generations: BTreeMap<ModelName, String>,
    rereads: Rereads,
    /// Versions that were published, by path.
    published: BTreeMap<TablePath, u64>,
    indexes: Mutex<Indexes>,
    /// What models that are built side by side may take, about; half of it is for their queries.
    memory: u64,
    /// Made when a model wants it.
    engine: OnceLock<datafusion::error::Result<Engine>>,
    /// What is new since a version, shared by the models that ask the same.
    events: Mutex<HashMap<Since, Arc<EventChanges>>>,
    /// For rows that wait for their facts.
    room: Arc<Room>,
    /// Whom the new events of facts mention, shared by the dimensions that ask.
    mentioned: Mutex<HashMap<(ModelName, Since), Once<Mentioned>>>,
    /// Of the models that are being built.
    progress: BTreeMap<ModelName, Arc<Progress>>,
}

/// Made once, by whoever asks first.
type Once<T> = Arc<OnceCell<Arc<T>>>;

/// Indexes of dimensions, shared by the models that want them at the same time.
#[derive(Debug, Default)]
struct Indexes {
    known: HashMap<(TablePath, u64), Weak<Index>>,
    /// Those that later models find as well: small ones, which take so many bytes together. Of the others, the last model
    /// that has one lets it go.
    kept: Vec<Arc<Index>>,
    bytes: usize,
}

impl Indexes {
    /// Keeps an index if all that are kept take no more than `most` bytes.
    fn learn(&mut self, key: (TablePath, u64), index: &Arc<Index>, most: usize) {
        let bytes = self.bytes.saturating_add(index.bytes());
        if bytes <= most {
            self.kept.push(index.clone());
            self.bytes = bytes;
        }
        self.known.insert(key, Arc::downgrade(index));
    }
}

impl Builder {
    /// Pins the newest versions of `models`' streams. With `full`, everything is built from the lake, aside.
    pub async fn new(warehouse: &Warehouse, models: &Models, full: bool) -> Result<Self> {
        let mut streams = BTreeMap::new();
        for stream in models.streams.values() {
            let table = warehouse.table(TablePath::stream(&stream.domain, &stream.name));
            let snapshot = table.open_or_create(lake_events::table_schema(), &[lake_events::INGEST_DATE]).await?;
            let name = format!("lake.{}.{}", stream.domain, stream.name);
            let audited = |model: &Model| matches!(model, Model::Fact(fact) if fact.audit);
            let is_audited =
                models.models.iter().any(|model| audited(model) && model.streams().contains(&*stream.name));
            let payloads = Arc::new(Payloads::of(stream, &table, is_audited).await?);
            let (version, rows, cut) = (snapshot.version(), snapshot.rows().unwrap_or_default(), cut_of(&snapshot));
            let reread = reread_at(&snapshot);
            let input = Input { name, table, version, rows, payloads, reread, cut, is_accepted: false };
            streams.insert(stream.name.clone(), input);
        }
        let aside = full.then(|| format!("-{}", name_aside()));
        let rereads: Rereads = streams.iter().filter_map(|(name, input)| Some((name.clone(), input.reread?))).collect();
        let generation = |model: &Model| (model.name().clone(), rereads.generation(models, model));
        let generations = models.models.iter().map(generation).collect();
        Ok(Self {
            warehouse: warehouse.clone(),
            streams,
            aside,
            generations,
            rereads,
            published: BTreeMap::new(),
            indexes: Mutex::default(),
            memory: MEMORY,
            engine: OnceLock::new(),
            events: Mutex::default(),
            room: room(MEMORY),
            mentioned: Mutex::default(),
            progress: models.models.iter().map(|model| (model.name().clone(), Arc::default())).collect(),
        })
    }

    /// Goes on from the tables that `snapshot` pins, where their definitions are still the same and none of their streams
    /// was reread since.
    #[must_use]
    pub fn going_on_from(mut self, snapshot: &CatalogSnapshot, models: &Models) -> Self {
        for model in &models.models {
            let name = model.name();
            let published = snapshot.tables.get(&name.to_string()).and_then(|pin| pin.path.fingerprint());
            let generation = published.and_then(|published| published.strip_prefix(model.fingerprint()));
            // What is filled aside goes on from nothing that is published.
            let begins = self.aside.is_some() || !self.rereads.since(snapshot, models, model).is_empty();
            if let Some(generation) = generation.filter(|_| !begins) {
                self.generations.insert(name.clone(), generation.to_owned());
            }
        }
        self.published = snapshot.tables.values().map(|pin| (pin.path.clone(), pin.version)).collect();
        self
    }

    /// The same, at given versions of the streams.
    pub fn at(mut self, versions: &BTreeMap<String, u64>) -> Self {
        for input in self.streams.values_mut() {
            if let Some(wanted) = versions.get(&input.name) {
                input.version = *wanted;
            }
        }
        self
    }

    /// Models may be built from what is left of these streams; of a stream that has lost versions which were published, only
    /// aside.
    #[must_use]
    pub fn accepting_losses(mut self, streams: &[String]) -> Self {
        for stream in streams {
            if let Some(input) = self.streams.get_mut(stream) {
                (input.cut, input.is_accepted) = (None, true);
            }
        }
        self
    }

    /// What follows the fingerprint in the paths of tables that are filled aside.
    pub fn aside(&self) -> Option<&str> {
        self.aside.as_deref()
    }

    /// Goes on with tables that an earlier attempt has filled aside, instead of beginning others; but for those of streams
    /// that were reread meanwhile.
    #[must_use]
    pub fn going_on_aside(mut self, aside: &str) -> Self {
        self.aside = Some(aside.to_owned());
        self
    }

    /// With so many bytes of memory: models wait for others where they would take more together, and queries go on on the disk.
    #[must_use]
    pub fn within(mut self, memory: u64) -> Self {
        (self.memory, self.room) = (memory, room(memory));
        self
    }

    /// What is right with [`MEMORY`], in proportion to the memory that there is; more memory is for more models at once.
    pub(crate) fn scaled(&self, usual: usize) -> usize {
        scaled(usual, self.memory)
    }

    /// One of so many equal parts of its memory, in bytes. More than [`MEMORY`] is for more models at once.
    pub(crate) fn share(&self, parts: u64) -> usize {
        usize::try_from(self.memory.min(MEMORY) / parts).unwrap_or(usize::MAX)
    }

    /// A session for queries over tables; what is beyond its memory goes to the disk.
    pub(crate) fn session(&self) -> Result<SessionContext> {
        let made = self.engine.get_or_init(|| Engine::new(self.warehouse.store(), (self.memory / 2) as usize));
        let engine = made.as_ref().map_err(|error| Error::Task(error.to_string()))?;
        Ok(engine.session())
    }

    /// How far a model has come.
    pub(crate) fn progress(&self, model: &ModelName) -> Arc<Progress> {
        self.progress.get(model).cloned().unwrap_or_default()
    }

    pub(crate) fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    /// The name of a stream in the catalog.
    pub(crate) fn stream_input(&self, stream: &str) -> String {
        self.streams.get(stream).map_or_else(|| stream.to_owned(), |input| input.name.clone())
    }

    /// The versions of these streams, by their names in the catalog.
    pub(crate) fn stream_inputs(&self, streams: BTreeSet<&str>) -> BTreeMap<String, u64> {
        let found = streams.into_iter().filter_map(|stream| self.streams.get(stream));
        found.map(|input| (input.name.clone(), input.version)).collect()
    }

    /// How a catalog snapshot pins the streams.
    pub fn stream_pins(&self) -> BTreeMap<String, Pin> {
        let pin =
            |input: &Input| Pin { path: input.table.path().clone(), version: input.version, consumed: BTreeMap::new() };
        self.streams.values().map(|input| (input.name.clone(), pin(input))).collect()
    }

    pub(crate) async fn changes(&self, stream: &str, from: Option<u64>) -> Result<Arc<EventChanges>> {
        let input =
            self.streams.get(stream).ok_or_else(|| Error::Task(format!("the stream `{stream}` is not pinned")))?;
        let mut known = self.events.lock().await;
        if let Some(found) = known.get(&(stream.to_owned(), from)) {
            return Ok(found.clone());
        }
        // Its name would be another one.
        if input.reread.is_some_and(|reread| from.is_some_and(|from| from < reread && reread <= input.version)) {
            return Err(Error::Task(format!("a table of before a reread of `{stream}` is gone on with")));
        }
        if let (Some(day), None) = (input.cut, from) {
            return Err(Error::CutOff { stream: stream.to_owned(), day });
        }
        let limits = Limits {
            part: self.scaled(READ_AT_ONCE) as u64,
            hashes: self.share(4),
            side_by_side: self.scaled(IDS_SIDE_BY_SIDE),
        };
        let found = Arc::new(changes(&input.table, &input.payloads, from, input.version, limits).await?);
        known.insert((stream.to_owned(), from), found.clone());
        Ok(found)
    }

    /// Whom the events of a stream mention that are new since a version, and that `fact` is made of.
    pub(crate) async fn mentions(&self, fact: &Arc<Fact>, stream: &str, from: Option<u64>) -> Result<Arc<Mentioned>> {
        let key = (fact.name.clone(), (stream.to_owned(), from));
        let known = self.mentioned.lock().await.entry(key).or_default().clone();
        let found = known.get_or_try_init(|| async {
            let staging = Staging::new(fact, stream, self.changes(stream, from).await?)?;
            // The fact will want the same rows, unless it is further already.
            let rows = self.derived(&fact.name, &fact.fingerprint, fact::ROWS).await?;
            let is_wanted = rows.consumed(&self.stream_input(stream)) == from;
            staging
                .mentioned(Some(&self.room).filter(|_| is_wanted), self.scaled(fact::FILES_SIDE_BY_SIDE))
                .await
                .map(Arc::new)
        });
        found.await.cloned()
    }

    /// The same, where somebody has asked before.
    pub(crate) async fn known_mentions(&self, fact: &Fact, stream: &str, from: Option<u64>) -> Option<Arc<Mentioned>> {
        let known = self.mentioned.lock().await;
        known.get(&(fact.name.clone(), (stream.to_owned(), from)))?.get().cloned()
    }

    pub(crate) async fn index(&self, table: &Table, snapshot: &Snapshot, name: &str) -> Result<Arc<Index>> {
        let mut known = self.indexes.lock().await;
        let key = (table.path().clone(), snapshot.version());
        if let Some(found) = known.known.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        let loaded = Arc::new(Index::load(table, snapshot, name, None).await?);
        known.learn(key, &loaded, self.share(16));
        Ok(loaded)
    }

    /// Where a part of a model lies.
    fn path(&self, model: &ModelName, fingerprint: &str, part: &str) -> TablePath {
        let aside = self.aside.as_deref().unwrap_or_default();
        let generation = self.generations.get(model).map(String::as_str).unwrap_or_default();
        TablePath::model(&model.domain, &model.name, &format!("{fingerprint}{aside}{generation}"), part)
    }

    pub(crate) async fn derived(&self, model: &ModelName, fingerprint: &str, part: &str) -> Result<Derived> {
        let derived = Derived::open(&self.warehouse, self.path(model, fingerprint, part)).await?;
        self.check_whole(derived.table.path(), derived.snapshot.as_ref().map(|snapshot| snapshot.version()))?;
        Ok(derived)
    }

    /// Refuses a table that has lost versions which were published: made again, they would hold something else.
    fn check_whole(&self, path: &TablePath, version: Option<u64>) -> Result<()> {
        let lost = self.published.get(path).filter(|published| version.is_none_or(|version| version < **published));
        let Some(published) = lost else { return Ok(()) };
        let found = version.map_or("it has none".to_owned(), |version| format!("its newest one is {version}"));
        let stream = self.streams.iter().find(|(_, input)| input.table.path() == path);
        let way_out = match stream {
            Some((name, _)) => format!("accept what is lost with `starmere build --full --accept-loss {name}`"),
            None => "fill it again with `starmere build --full`".to_owned(),
        };
        let reason = format!("its version {published} is published, and {found}; restore its log, or {way_out}");
        Err(starmere_lake::Error::Corrupt { path: path.to_string(), reason }.into())
    }

    /// Brings all `models` up to date; returns their tables by name.
    pub async fn build(&self, models: &Models, watch: &dyn Watch) -> Result<BTreeMap<String, Pin>> {
        for Input { table, version, is_accepted, .. } in self.streams.values() {
            // Tables that are filled aside have consumed nothing of what is lost.
            if !(*is_accepted && self.aside.is_some()) {
                self.check_whole(table.path(), Some(*version))?;
            }
        }
        let mut pins: BTreeMap<String, Pin> = self.stream_pins();
        let mut waiting: Vec<&Model> = models.models.iter().collect();
        let mut running = FuturesUnordered::new();
        // Rows that those that run have before them, and rows that those have which are built.
        let (mut load, mut rows) = (0, BTreeMap::new());
        loop {
            while running.len() < SIDE_BY_SIDE {
                let is_ready =
                    |model: &&Model| model.inputs().iter().all(|input| pins.contains_key(&input.to_string()));
                let Some(place) = waiting.iter().position(is_ready) else { break };
                let weight = self.weight(waiting[place], &rows);
                if !running.is_empty() && load + weight > self.memory / BYTES_OF_A_ROW {
                    break;
                }
                let model = waiting.remove(place);
                load += weight;
                watch.begun(model, &self.progress(model.name()));
                let inputs = pins.clone();
                running.push(async move { (model, weight, self.one(model, &inputs).await) });
            }
            let Some((model, weight, built)) = running.next().await else { break };
            let built = built?;
            load -= weight;
            watch.done(model, &built);
            rows.insert(model.name(), built.rows);
            pins.extend(built.pins);
        }
        match waiting.first() {
            None => Ok(pins),
            Some(model) => Err(Error::Task(format!("what `{}` is made of is not built", model.name()))),
        }
    }

    async fn one(&self, model: &Model, pins: &BTreeMap<String, Pin>) -> Result<Built> {
        match model {
            Model::Generated(model) => self.generated(model).await,
            Model::Dimension(dimension) => {
                let changes = dimension::build_changes(self, dimension).await?;
                let pin = &changes.pins[&format!("{}/{}", dimension.name, dimension::CHANGES)];
                let mut built = dimension::build_versions(self, dimension, pin, pins).await?;
                (built.rows_read, built.rejects) = (changes.rows_read, changes.rejects);
                built.pins.extend(changes.pins);
                Ok(built)
            }
            Model::Fact(fact) => fact::build(self, fact, pins).await,
            Model::Sql(model) => sql_model::build(self, model, pins).await,
        }
    }

    /// How much a model has before it, in rows: those of its streams, where no table of it is published to go on from; of a
    /// SELECT, those of its inputs.
    fn weight(&self, model: &Model, built: &BTreeMap<&ModelName, u64>) -> u64 {
        let is_published = self.published.contains_key(&self.path(model.name(), model.fingerprint(), "rows"));
        match model {
            Model::Sql(_) => {
                let inputs = model.inputs().into_iter().filter_map(|input| built.get(input)).sum();
                weight_of_select(inputs, is_published)
            }
            _ if is_published => 0,
            _ => {
                let streams = model.streams().into_iter().filter_map(|stream| self.streams.get(stream));
                streams.map(|input| input.rows).sum()
            }
        }
    }

    async fn generated(&self, model: &GeneratedModel) -> Result<Built> {
        let mut derived = self.derived(&model.name, &model.fingerprint, "rows").await?;
        if derived.snapshot.as_ref().is_none_or(|snapshot| snapshot.version() == 0) {
            let name = &model.name.name;
            let definition = (DEFINITION, Model::Generated(model.clone()).made_by().to_string());
            derived.create(&model.generated.schema(name), &[definition]).await?;
            let rows = model.generated.rows(name, &model.members)?;
            let add = derived.write(vec![rows], FileOptions::default(), None).await?;
            derived.commit(Change { adds: add.into_iter().collect(), ..Change::default() }, &BTreeMap::new()).await?;
        }
        let rows = derived.snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
        let pins = [(model.name.to_string(), derived.pin(&BTreeMap::new())?)].into();
        Ok(Built { rows, pins, ..Built::default() })
    }
}

/// In rows, what a SELECT takes over so many rows of its inputs; it goes on from a table that is published, or not. Pure.
fn weight_of_select(inputs: u64, is_published: bool) -> u64 {
    inputs.min(if is_published { BYTES_OF_A_SELECT } else { BYTES_OF_A_FILL } / BYTES_OF_A_ROW)
}

fn scaled(usual: usize, memory: u64) -> usize {
    // Below the least that a project may say, it would only be more files.
    let share = usual as u128 * u128::from(memory.clamp(MEMORY / 32, MEMORY)) / u128::from(MEMORY);
    usize::try_from(share).unwrap_or(usual).max(1)
}

/// An eighth of the memory, and of the disk much more.
fn room(memory: u64) -> Arc<Room> {
    Arc::new(Room::new(memory / 8, memory.saturating_mul(16)))
}

/// What no other build has: follows the fingerprint in the paths of a full build.
fn name_aside() -> String {
    let now = chrono::Utc::now().timestamp_micros();
    format!("{now:x}{:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_over_many_rows_share_the_memory() {
        let at_once = |memory: u64, rows, is_published| {
            let most = memory / BYTES_OF_A_ROW;
            (1..=SIDE_BY_SIDE as u64).rev().find(|count| count * weight_of_select(rows, is_published) <= most)
        };
        assert_eq!([true, false].map(|is_published| at_once(MEMORY, 1 << 30, is_published)), [Some(4), Some(4)]);
        // One model is always built.
        assert_eq!([true, false].map(|is_published| at_once(MEMORY / 8, 1 << 30, is_published)), [Some(2), None]);
        assert_eq!([true, false].map(|is_published| at_once(MEMORY / 8, 1_000, is_published)), [Some(4), Some(4)]);
    }

    #[test]
    fn small_indexes_are_kept_for_later_models() {
        let path = |name: &str| (TablePath::model("sales", name, "f", "rows"), 1);
        let mut indexes = Indexes::default();
        let (small, large) = (Arc::new(Index::default()), Arc::new(Index::with_capacity(1_000)));
        indexes.learn(path("small"), &small, 1_000);
        indexes.learn(path("large"), &large, 1_000);
        let found = |indexes: &Indexes, name: &str| indexes.known[&path(name)].upgrade().is_some();
        assert!(found(&indexes, "small") && found(&indexes, "large"), "both while somebody has them");
        drop((small, large));
        assert!(found(&indexes, "small") && !found(&indexes, "large"));
    }

    #[test]
    fn less_memory_means_less_at_once() {
        assert_eq!([MEMORY / 8, MEMORY, MEMORY * 4].map(|memory| scaled(400_000, memory)), [50_000, 400_000, 400_000]);
        assert_eq!([MEMORY / 2 - 1, MEMORY / 2, MEMORY].map(|memory| scaled(4, memory)), [1, 2, 4]);
        assert_eq!((scaled(2, 0), scaled(400_000, 0)), (1, 12_500), "something is always done");
        assert_eq!(scaled(usize::MAX, u64::MAX), usize::MAX);
    }
}
