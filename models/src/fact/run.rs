//! Bringing a fact up to date.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use starmere_lake::catalog::Pin;
use starmere_lake::delta::{Add, FileOptions};

use super::staged::{FILES_SIDE_BY_SIDE, Mentioned, STAGED_FIRST, StagedFile, Staging};
use super::{EVENT_STREAM, Fact, Staged};
use crate::build::{Builder, Built, Progress};
use crate::define::ModelName;
use crate::derived::{Change, DEFINITION, Derived, Writing};
use crate::dimension::{Affected, Index, Members, Target, changed_since};
use crate::resolve::Model;
use crate::{Error, Result, rejects};

/// The part of a fact that is its rows.
pub const ROWS: &str = "rows";

/// Rows of a file, about.
const FILE_ROWS: usize = 1 << 21;
/// Why a row is mended that does not count any more.
const TAKEN_BACK: &str = "taken back";

/// The dimensions that a fact is keyed by, as they are now.
struct Dimensions {
    /// For each role that is looked up.
    indexes: Vec<Option<Arc<Index>>>,
    /// For each role, whose keys may differ from those in the fact's rows.
    affected: Vec<Option<Arc<Affected>>>,
}

/// Appends what is new in the stream, keys again what the dimensions changed, takes back what does not count.
pub async fn build(builder: &Builder, fact: &Arc<Fact>, pins: &BTreeMap<String, Pin>) -> Result<Built> {
    let lake_inputs = builder.stream_inputs(fact.streams());
    let mut inputs = lake_inputs.clone();
    for name in fact.inputs() {
        let pin = pins
            .get(&name.to_string())
            .ok_or_else(|| Error::Task(format!("`{name}` is built before `{}`", fact.name)))?;
        inputs.insert(name.to_string(), pin.version);
    }
    let mut rows = builder.derived(&fact.name, &fact.fingerprint, ROWS).await?;
    let mut rejected = builder.derived(&fact.name, &fact.fingerprint, "rejects").await?;
    let mut built = Built::default();
    if !rows.is_current(&inputs)? {
        let events = Events::since(builder, fact, &rows).await?;
        built.rows_read = events.rows();
        let at_once = builder.scaled(FILES_SIDE_BY_SIDE);
        let (mut staged, mut first, mut is_all) = (events.staged(at_once), Vec::new(), false);
        // Where all new rows are there before they are keyed, only their members of the dimensions are read.
        while !is_all && first.iter().map(StagedFile::rows).sum::<usize>() <= builder.scaled(STAGED_FIRST) {
            match staged.try_next().await? {
                Some(file) => first.push(file),
                None => is_all = true,
            }
        }
        let mentioned = is_all.then(|| first.iter().flat_map(|file| members_of(fact, file)).collect());
        let staged = futures::stream::iter(first.into_iter().map(Ok)).chain(staged).boxed();
        let dimensions = Arc::new(Dimensions::load(builder, fact, &rows, pins, mentioned).await?);
        rows.create(&fact.schema(), &[(DEFINITION, Model::Fact(fact.clone()).made_by().to_string())]).await?;
        let file_rows = builder.scaled(FILE_ROWS) as u64;
        let work = Work { fact: fact.clone(), dimensions, at_once, file_rows };
        let mut rejects = rejects::Gathered::new(builder, &rejected);
        let taken_back = TakenBack::of(&events, &mut rejects).await?;
        let mut change = Change::default();
        built.mended = work.mend(&rows, &taken_back, &mut change).await?;
        let progress = builder.progress(&fact.name);
        progress.begin("keying", events.files());
        let appended = work.append(&rows, staged, &mut change, &mut rejects, &progress).await?;
        built.rows_written = appended;
        rows.put_together(&mut change, &fact.schema(), &work.options()).await?;
        change.facts = serde_json::json!({ "appended": appended, "mended": built.mended });
        rows.commit(change, &inputs).await?;
        // The usual case: both tables are equally far.
        if events.are_since(&rejected) {
            rejected.create(rejects::schema(), &[]).await?;
            let change = rejects.change(&rejected).await?;
            rejected.commit(change, &lake_inputs).await?;
        }
    }
    if !rejected.is_current(&lake_inputs)? {
        let events = Events::since(builder, fact, &rejected).await?;
        let mut rejects = rejects::Gathered::new(builder, &rejected);
        let mut staged = events.staged(builder.scaled(FILES_SIDE_BY_SIDE));
        while let Some(file) = staged.try_next().await? {
            rejects.add(file.rejects).await?;
        }
        TakenBack::of(&events, &mut rejects).await?;
        rejected.create(rejects::schema(), &[]).await?;
        let change = rejects.change(&rejected).await?;
        rejected.commit(change, &lake_inputs).await?;
    }
    let count = |derived: &Derived| derived.snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
    (built.rows, built.rejects) = (count(&rows), count(&rejected));
    built.pins.insert(fact.name.to_string(), rows.pin(&inputs)?);
    built.pins.insert(format!("{}/rejects", fact.name), rejected.pin(&lake_inputs)?);
    Ok(built)
}

/// What is new in a fact's streams.
struct Events {
    streams: Vec<OfStream>,
}

/// What is new in one of them.
struct OfStream {
    stream: String,
    /// As the catalog calls it, and after which of its versions.
    input: String,
    since: Option<u64>,
    staging: Arc<Staging>,
    /// Where dimensions have asked for mentions, rows are there.
    mentioned: Option<Arc<Mentioned>>,
}

impl Events {
    async fn since(builder: &Builder, fact: &Arc<Fact>, derived: &Derived) -> Result<Self> {
        let mut streams = Vec::new();
        for stream in fact.streams() {
            let input = builder.stream_input(stream);
            let since = derived.consumed(&input);
            let staging = Arc::new(Staging::new(fact, stream, builder.changes(stream, since).await?)?);
            let mentioned = builder.known_mentions(fact, stream, since).await;
            streams.push(OfStream { stream: stream.to_owned(), input, since, staging, mentioned });
        }
        Ok(Self { streams })
    }

    /// Rows of the new events, file by file, so many at once.
    fn staged(&self, at_once: usize) -> BoxStream<'static, Result<StagedFile>> {
        let mut files = Vec::new();
        for of in &self.streams {
            let of_file = |file| (of.staging.clone(), of.mentioned.clone(), file);
            files.extend((0..of.staging.changes().len()).map(of_file));
        }
        let staged = futures::stream::iter(files).map(|(staging, mentioned, file)| async move {
            let kept = tokio::task::spawn_blocking(move || mentioned?.take_rows(file)).await;
            match kept.map_err(|error| Error::Task(error.to_string()))? {
                Some(kept) => Ok(kept),
                None => staging.file(file).await,
            }
        });
        staged.buffered(at_once).boxed()
    }

    /// Files that have new events.
    fn files(&self) -> u64 {
        self.streams.iter().map(|of| of.staging.changes().len() as u64).sum()
    }

    fn rows(&self) -> u64 {
        self.streams.iter().map(|of| of.staging.changes().rows() as u64).sum()
    }

    fn are_since(&self, derived: &Derived) -> bool {
        self.streams.iter().all(|of| derived.consumed(&of.input) == of.since)
    }
}

/// The members that rows mention, whatever their dimension.
fn members_of(fact: &Fact, file: &StagedFile) -> impl Iterator<Item = i64> {
    let looked_up: Vec<bool> = fact.roles.iter().map(|role| role.target.is_looked_up()).collect();
    let of = move |staged: &Staged| {
        let durable = staged.durable.iter().zip(&looked_up).filter(|(_, looked_up)| **looked_up);
        durable.flat_map(|(durable, _)| durable.values().iter().copied()).collect::<Members>()
    };
    file.rows.iter().flat_map(of)
}

impl Dimensions {
    /// With the versions of the members `mentioned` by new rows, and of those that may have changed; of all, where nobody
    /// says who is mentioned.
    async fn load(
        builder: &Builder,
        fact: &Fact,
        rows: &Derived,
        pins: &BTreeMap<String, Pin>,
        mentioned: Option<Members>,
    ) -> Result<Self> {
        let mut loaded: HashMap<&ModelName, (Arc<Index>, Option<Arc<Affected>>)> = HashMap::new();
        for name in fact.inputs() {
            let pin = &pins[&name.to_string()];
            let table = builder.warehouse().table(pin.path.clone());
            let now = table.snapshot_at(pin.version).await?;
            let affected = match rows.consumed(&name.to_string()) {
                Some(before) if before < pin.version => {
                    let before = table.snapshot_at(before).await?;
                    let changed = changed_since(builder, name, &before, pins).await?;
                    Some(Arc::new(Index::affected(&table, &before, &now, &name.name, changed.as_ref()).await?))
                }
                _ => None,
            };
            let index = match &mentioned {
                None => builder.index(&table, &now, &name.name).await?,
                Some(mentioned) => {
                    let affected = affected.iter().flat_map(|affected| affected.members());
                    let members = Arc::new(mentioned.iter().copied().chain(affected).collect());
                    Arc::new(Index::load(&table, &now, &name.name, Some(&members)).await?)
                }
            };
            loaded.insert(name, (index, affected.filter(|affected| !affected.is_empty())));
        }
        let of = |role: &super::Role| if role.target.is_looked_up() { loaded.get(role.target.name()) } else { None };
        Ok(Self {
            indexes: fact.roles.iter().map(|role| of(role).map(|(index, _)| index.clone())).collect(),
            affected: fact.roles.iter().map(|role| of(role).and_then(|(_, affected)| affected.clone())).collect(),
        })
    }
}

/// Events that do not count any more.
#[derive(Default)]
struct TakenBack {
    /// By stream and id, since a fact's rows carry these; an id is superseded together with all rows of its old copy.
    events: HashMap<String, HashSet<String>>,
    /// First and last `occurred_at`.
    span: Option<(i64, i64)>,
}

impl TakenBack {
    /// Those of `events`, whose rejects do not count any more either.
    async fn of(events: &Events, rejects: &mut rejects::Gathered) -> Result<Self> {
        let mut taken = Self::default();
        for of in &events.streams {
            taken.add(of, rejects).await?;
        }
        Ok(taken)
    }

    /// Which rows of a fact are of these events.
    fn holds(&self, batch: &RecordBatch) -> Option<BooleanArray> {
        if self.events.is_empty() {
            return None;
        }
        let ids = batch.column_by_name("event_id")?.as_string_opt::<i32>()?;
        let streams = batch.column_by_name(EVENT_STREAM).and_then(|streams| streams.as_string_opt::<i32>());
        let only = self.events.values().next();
        let row = |row: usize| {
            let of = streams.map_or(only, |streams| self.events.get(streams.value(row)));
            Some(of.is_some_and(|of| of.contains(ids.value(row))))
        };
        Some((0..batch.num_rows()).map(row).collect())
    }

    async fn add(&mut self, of: &OfStream, rejects: &mut rejects::Gathered) -> Result<()> {
        let taken = self;
        let changes = of.staging.changes();
        for file in 0..changes.superseded_files() {
            let (batch, which) = changes.superseded(file).await?;
            rejects.take_back(rejects::coordinates(&of.stream, &batch, &which));
            let only = filter_record_batch(&batch, &which).map_err(Error::columns("events taken back"))?;
            let ids = only.column_by_name("event_id").and_then(|ids| ids.as_string_opt::<i32>());
            let known = taken.events.entry(of.stream.clone()).or_default();
            known.extend(ids.into_iter().flatten().flatten().map(str::to_owned));
            let times =
                only.column_by_name("occurred_at").and_then(|at| at.as_primitive_opt::<TimestampMicrosecondType>());
            for &at in times.into_iter().flat_map(|times| times.values()) {
                let (first, last) = taken.span.unwrap_or((at, at));
                taken.span = Some((first.min(at), last.max(at)));
            }
        }
        Ok(())
    }
}

struct Work {
    fact: Arc<Fact>,
    dimensions: Arc<Dimensions>,
    /// Files of the lake that are keyed side by side.
    at_once: usize,
    file_rows: u64,
}

impl Work {
    /// Replaces the files whose rows are keyed otherwise now or do not count any more; returns how many rows changed, by
    /// why.
    async fn mend(&self, rows: &Derived, taken_back: &TakenBack, change: &mut Change) -> Result<BTreeMap<String, u64>> {
        let Some(snapshot) = &rows.snapshot else { return Ok(BTreeMap::new()) };
        let spans = self.dimensions.affected.iter().flatten().map(|affected| affected.span());
        let spans: Vec<(i64, i64)> =
            spans.chain(taken_back.span.map(|(first, last)| (first, last.saturating_add(1)))).collect();
        if spans.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut mended: BTreeMap<String, u64> = BTreeMap::new();
        let schema = self.fact.schema();
        let narrow = self.narrow(taken_back);
        for add in snapshot.files() {
            if !may_hold(add, &spans) {
                continue;
            }
            let batch = rows.table.read(add, &narrow).await?;
            let needs = self.needs_mending(&batch, taken_back);
            if needs.is_empty() {
                continue;
            }
            change.removes.push(add.remove());
            if needs.contains_key(TAKEN_BACK) {
                let batch = self.mended(&rows.table.read(add, &schema).await?, taken_back)?;
                change.adds.extend(rows.write(vec![batch], self.options(), None).await?);
            } else {
                // The same rows with other keys: the other columns are not even looked at.
                let keys = self.rekeyed(&batch).into_iter().filter(|(_, old, new)| old != new);
                let keys = keys.map(|(name, _, new)| (name, Arc::new(new) as ArrayRef, false));
                let keys = RecordBatch::try_from_iter_with_nullable(keys)
                    .map_err(Error::columns(self.fact.name.to_string()))?;
                change.adds.push(rows.table.with_columns(add, &schema, keys, self.options()).await?);
            }
            for (why, count) in needs {
                *mended.entry(why).or_default() += count;
            }
        }
        Ok(mended)
    }

    /// The columns that tell whether a row has to be mended.
    fn narrow(&self, taken_back: &TakenBack) -> SchemaRef {
        let schema = self.fact.schema();
        let looked_up = self.fact.roles.iter().filter(|role| role.target.is_looked_up());
        let mut names: Vec<String> =
            looked_up.flat_map(|role| [Some(role.key_column()), role.durable_column()]).flatten().collect();
        names.push("occurred_at".to_owned());
        if !taken_back.events.is_empty() {
            names.extend(["event_id", EVENT_STREAM].map(str::to_owned));
        }
        let fields = names.iter().filter_map(|name| schema.field_with_name(name).ok().cloned());
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// How many rows have to be mended, by why.
    fn needs_mending(&self, batch: &RecordBatch, taken_back: &TakenBack) -> BTreeMap<String, u64> {
        let mut needs = BTreeMap::new();
        if let Some(back) = taken_back.holds(batch) {
            needs.insert(TAKEN_BACK.to_owned(), back.true_count() as u64);
        }
        for (key, old, new) in self.rekeyed(batch) {
            let count = (0..batch.num_rows()).filter(|&row| old.value(row) != new.value(row)).count() as u64;
            needs.insert(format!("keyed again by {}", key.trim_end_matches("_key")), count);
        }
        needs.retain(|_, count| *count > 0);
        needs
    }

    /// For each role that may have changed: its key column, the keys as they are, the keys as they should be.
    fn rekeyed(&self, batch: &RecordBatch) -> Vec<(String, Int64Array, Int64Array)> {
        let long = |name: &str| batch.column_by_name(name).map(|column| column.as_primitive::<Int64Type>().clone());
        let times = batch.column_by_name("occurred_at").map(|at| at.as_primitive::<TimestampMicrosecondType>());
        let mut rekeyed = Vec::new();
        for ((role, index), affected) in
            self.fact.roles.iter().zip(&self.dimensions.indexes).zip(&self.dimensions.affected)
        {
            let (Some(index), Some(affected), Some(times)) = (index, affected, times) else { continue };
            let durable = role.durable_column().and_then(|name| long(&name));
            let (Some(durable), Some(old)) = (durable, long(&role.key_column())) else { continue };
            let new = (0..batch.num_rows()).map(|row| match affected.touches(durable.value(row), times.value(row)) {
                true => index.key(durable.value(row), times.value(row)),
                false => old.value(row),
            });
            rekeyed.push((role.key_column(), old.clone(), Int64Array::from_iter_values(new)));
        }
        rekeyed
    }

    fn mended(&self, batch: &RecordBatch, taken_back: &TakenBack) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        for (name, _, new) in self.rekeyed(batch) {
            if let Ok(index) = batch.schema().index_of(&name) {
                columns[index] = Arc::new(new);
            }
        }
        let object = || Error::columns(self.fact.name.to_string());
        let batch = RecordBatch::try_new(batch.schema(), columns).map_err(object())?;
        match taken_back.holds(&batch) {
            None => Ok(batch),
            Some(back) => filter_record_batch(&batch, &not(&back).map_err(object())?).map_err(object()),
        }
    }

    /// Keys and writes the rows of new events. Returns how many; `rejects` get what was rejected.
    async fn append(
        &self,
        rows: &Derived,
        staged: BoxStream<'_, Result<StagedFile>>,
        change: &mut Change,
        rejects: &mut rejects::Gathered,
        progress: &Progress,
    ) -> Result<u64> {
        let mut keyed = staged
            .map(|file| {
                let (fact, dimensions) = (self.fact.clone(), self.dimensions.clone());
                async move {
                    let StagedFile { rows, rejects } = file?;
                    let task = tokio::task::spawn_blocking(move || {
                        rows.into_iter().map(|staged| keyed(&fact, &dimensions, staged)).collect::<Result<Vec<_>>>()
                    });
                    Ok::<_, Error>((task.await.map_err(|error| Error::Task(error.to_string()))??, rejects))
                }
            })
            .buffered(self.at_once);
        let mut files = Writing::begin(&rows.table, self.fact.schema(), self.options(), self.file_rows);
        let mut appended = 0;
        while let Some((batches, rejected)) = keyed.try_next().await? {
            for batch in batches.into_iter().filter(|batch| batch.num_rows() > 0) {
                appended += batch.num_rows() as u64;
                files.write(batch).await?;
            }
            rejects.add(rejected).await?;
            progress.add(1);
        }
        change.adds.extend(files.finish().await?);
        Ok(appended)
    }

    fn options(&self) -> FileOptions {
        let roles = &self.fact.roles;
        let keys = roles.iter().flat_map(|role| [Some(role.key_column()), role.durable_column()]).flatten();
        // Whether a key is there already is asked of every file.
        let hashed = self.fact.grain.clone();
        let plain = vec!["event_id".into()];
        FileOptions { plain, hashed, uncompressed: keys.collect(), ..FileOptions::default() }
    }
}

/// The rows with their keys.
fn keyed(fact: &Fact, dimensions: &Dimensions, staged: Staged) -> Result<RecordBatch> {
    let times = staged.columns[fact.columns.len()].as_primitive::<TimestampMicrosecondType>().clone();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for ((role, index), durable) in fact.roles.iter().zip(&dimensions.indexes).zip(staged.durable) {
        match (&role.target, index) {
            (Target::Dimension { .. }, Some(index)) => {
                let keys = (0..staged.rows).map(|row| index.key(durable.value(row), times.value(row)));
                columns.push(Arc::new(Int64Array::from_iter_values(keys)));
                columns.push(Arc::new(durable));
            }
            // The durable key of a member that is always there is its key.
            _ => columns.push(Arc::new(durable)),
        }
    }
    columns.extend(staged.columns);
    RecordBatch::try_new(fact.schema(), columns).map_err(Error::columns(fact.name.to_string()))
}

/// Whether a file may hold rows of any of these half-open spans of `occurred_at`.
fn may_hold(add: &Add, spans: &[(i64, i64)]) -> bool {
    let bounds = add.stats.as_deref().and_then(|stats| serde_json::from_str::<serde_json::Value>(stats).ok());
    let bound = |which: &str| {
        let text = bounds.as_ref()?.get(which)?.get("occurred_at")?.as_str()?;
        starmere_lake::time::micros(text)
    };
    match (bound("minValues"), bound("maxValues")) {
        // Bounds have milliseconds; both ways.
        (Some(first), Some(last)) => {
            spans.iter().any(|&(from, to)| from <= last.saturating_add(1000) && first.saturating_sub(1000) < to)
        }
        _ => true,
    }
}
